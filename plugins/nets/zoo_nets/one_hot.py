"""Vectors made of one-hot vectors: discrete latents as numbers that any decoder takes."""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints, register_kl

from zoo_core import ConfigError


class _OneHots(constraints.Constraint):
    """Along ``dim``, groups of ``classes`` numbers, of which one is 1 and the others are 0."""

    is_discrete = True

    def __init__(self, classes: int, dim: int) -> None:
        self.classes, self.dim = classes, dim
        self.event_dim = -dim
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        grouped = torch.unflatten(value, self.dim, (-1, self.classes))
        good = ((grouped == 0) | (grouped == 1)).all(self.dim) & (grouped.sum(self.dim) == 1)
        all_good: Tensor = good.flatten(self.dim).all(-1)
        return all_good


class OneHot(Distribution):
    """P(z) = Π_v softmax(logits_v)[k_v] for z the one-hot vectors of k_1 … k_V, one after the other.

    For logits (*batch, L, *positions), L = variables x classes; the last ``event_dim`` dimensions, one or more, are
    an event, which has the shape of its logits. log_prob, entropy and KL are sums over variables and positions, in
    nats. The ``mean`` is the probabilities.

    A draw has no gradient: ``rsample`` draws while none is asked for, and otherwise refuses. A relaxed draw has one.

    Raises:
        ConfigError: L is no multiple of ``classes``; ``rsample`` would have to carry a gradient; log_prob is asked
            of what is not made of one-hot vectors.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(self, logits: Tensor, classes: int, event_dim: int = 1) -> None:
        require_multiple(logits.shape[-event_dim], classes)
        self.classes, self.dim = classes, -event_dim
        self.logits = self._joined(self._grouped(logits).log_softmax(self.dim))
        batch_dim = logits.dim() - event_dim
        super().__init__(logits.shape[:batch_dim], logits.shape[batch_dim:], validate_args=False)

    @property
    def support(self) -> _OneHots:
        return _OneHots(self.classes, self.dim)

    @property
    def mean(self) -> Tensor:
        return self.logits.exp()

    @property
    def variance(self) -> Tensor:
        return self.mean * (1 - self.mean)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        with torch.no_grad():
            return self.rounded(self._perturbed(sample_shape))

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        if self.logits.requires_grad and torch.is_grad_enabled():
            raise ConfigError(
                "a draw of one-hot latents has no gradient: train with a loss that needs none, such as "
                "vae/score_function, vae/gumbel_softmax or vae/straight_through, and measure under torch.no_grad()"
            )
        return self.sample(sample_shape)

    def relaxed(self, temperature: float, sample_shape: Sequence[int] = ()) -> Tensor:
        """softmax((logits + g) / temperature), g standard Gumbel, (*sample, *batch, *event): a draw with a gradient.

        ``rounded``, it is a draw of this distribution; the lower the temperature, the nearer it is to that.

        The concrete distribution (Maddison et al., 2017) https://arxiv.org/abs/1611.00712
        Categorical reparameterization with Gumbel-softmax (Jang et al., 2017) https://arxiv.org/abs/1611.01144
        """
        perturbed = self._grouped(self._perturbed(sample_shape))
        return self._joined((perturbed / temperature).softmax(self.dim))

    def rounded(self, z: Tensor) -> Tensor:
        """The one-hot vectors of the largest in each group of z (*, *event)."""
        grouped = self._grouped(z)
        one_hot = torch.zeros_like(grouped).scatter_(self.dim, grouped.argmax(self.dim, keepdim=True), 1.0)
        return self._joined(one_hot)

    def log_prob(self, value: Tensor) -> Tensor:
        # On the meta device there are no values to look at, and what is compiled cannot branch on them.
        if not (value.is_meta or torch.compiler.is_compiling() or self.support.check(value).all()):
            raise ConfigError(
                "log P(z) of one-hot latents is asked for a z that is not made of one-hot vectors: let the encoder's "
                "posterior be nets/one_hot and the prior nets/uniform_one_hot, of as many classes, or neither of them"
            )
        return (value * self.logits).flatten(self.dim).sum(-1)

    def entropy(self) -> Tensor:
        return -(self.mean * self.logits).flatten(self.dim).sum(-1)

    def expand(self, batch_shape: Sequence[int], _instance: Distribution | None = None) -> "OneHot":
        # A second normalisation in the constructor would round again.
        twin = OneHot.__new__(OneHot)
        twin.classes, twin.dim = self.classes, self.dim
        twin.logits = self.logits.expand(*batch_shape, *self.event_shape)
        Distribution.__init__(twin, torch.Size(batch_shape), self.event_shape, validate_args=False)
        return twin

    def _perturbed(self, sample_shape: Sequence[int]) -> Tensor:
        """logits + g: the largest in each group is a draw."""
        E = self.logits.new_empty(self._extended_shape(torch.Size(sample_shape))).exponential_()
        return self.logits - E.clamp(min=torch.finfo(E.dtype).tiny).log()

    def _grouped(self, z: Tensor) -> Tensor:
        """(*, L, *positions) → (*, variables, classes, *positions)."""
        return torch.unflatten(z, self.dim, (-1, self.classes))

    def _joined(self, z: Tensor) -> Tensor:
        return z.flatten(self.dim - 1, self.dim)


@register_kl(OneHot, OneHot)  # type: ignore[no-untyped-call, untyped-decorator]
def _kl(q: OneHot, p: OneHot) -> Tensor:
    """KL(q || p) = Σ_v Σ_c q_vc (log q_vc - log p_vc), (*batch,)."""
    if q.classes != p.classes:
        raise ConfigError(f"classes: the posterior has {q.classes} and the prior {p.classes}; give both as many")
    return (q.mean * (q.logits - p.logits)).flatten(q.dim).sum(-1)


def require_multiple(latents: int, classes: int) -> None:
    """Refuses latents that one-hot vectors of so many classes do not fill."""
    if latents % classes:
        near = classes * max(1, math.ceil(latents / classes))
        raise ConfigError(
            f"latents: must be a multiple of the {classes} classes of a one-hot vector, such as {near}; got {latents}"
        )
