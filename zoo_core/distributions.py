"""Distributions that torch.distributions lacks, and KL(q || p) for any pair.

Each one broadcasts like torch's own, computes in the dtype of its parameters (float32, float64),
does not validate unless asked to, and returns log-probabilities in nats.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import (
    Categorical,
    Distribution,
    Independent,
    constraints,
    kl_divergence,
    register_kl,
)

from zoo_core.errors import ConfigError

__all__ = [
    "CodeGrid",
    "Dirac",
    "DiscretizedLogisticMixture",
    "Levels",
    "LogitLaplace",
    "has_closed_form_kl",
    "kl",
    "kl_per_dimension",
]

# exp(30) = 1e13 is a point mass, or flat, for any data in float32, and the squared gradients of
# whole pictures (gradient clipping sums them) still fit in float32.
_LOG_SCALE_LIMIT = 30.0


_D = TypeVar("_D", bound=Distribution)


def _sum_event(x: Tensor, event_dim: int) -> Tensor:
    """Sum over the last `event_dim` dimensions; sum(dim=()) would sum over all of them."""
    return x.sum(dim=tuple(range(-event_dim, 0))) if event_dim else x


def _independent(one: constraints.Constraint, event_dim: int) -> constraints.Constraint:
    return constraints.independent(one, event_dim)  # type: ignore[no-untyped-call]


def _broadcast(*parameters: Tensor) -> tuple[Tensor, ...]:
    return tuple(torch.broadcast_tensors(*parameters))  # type: ignore[no-untyped-call]


def _with_batch(d: _D, batch_shape: Sequence[int], **parameters: Tensor) -> _D:
    """A copy of d with expanded parameters: views, neither computed nor validated again."""
    twin = copy.copy(d)
    vars(twin).update(parameters, _batch_shape=torch.Size(batch_shape))
    return twin


class Dirac(Distribution):
    """q(z) = delta(z - value), for a value of shape (*batch, *event): all mass at one point.

    The q(z|x) of an autoencoder. The last `event_dim` dimensions of the value are the event.
    log q(z) is 0 where z equals the value in the whole event and -inf elsewhere: a density with
    respect to the counting measure at the point, in nats, not comparable with a Lebesgue density.
    Samples are views of the value: the gradient flows to it; clone before writing in place.
    """

    has_rsample = True
    arg_constraints = {"value": constraints.real}

    def __init__(self, value: Tensor, event_dim: int, *, validate_args: bool = False) -> None:
        _check_event_dim(event_dim, value.dim(), "value")
        batch_dim = value.dim() - event_dim
        self.value = value
        super().__init__(value.shape[:batch_dim], value.shape[batch_dim:], validate_args)

    @property
    def support(self) -> constraints.Constraint:
        return _independent(constraints.real, len(self.event_shape))

    @property
    def mean(self) -> Tensor:
        return self.value

    @property
    def mode(self) -> Tensor:
        return self.value

    @property
    def variance(self) -> Tensor:
        return torch.zeros_like(self.value)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        # no_grad alone does not do: expanding to the same shape returns the value itself.
        return self.rsample(sample_shape).detach()

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return self.value.expand(self._extended_shape(torch.Size(sample_shape)))

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        misses = _sum_event((value != self.value).to(self._dtype), len(self.event_shape))
        return torch.zeros_like(misses).masked_fill(misses > 0, -math.inf)

    def entropy(self) -> Tensor:
        return torch.zeros(self.batch_shape, dtype=self._dtype, device=self.value.device)

    @property
    def _dtype(self) -> torch.dtype:
        # Codes are integers; a log-probability never is.
        floating = self.value.dtype.is_floating_point
        return self.value.dtype if floating else torch.get_default_dtype()

    def expand(self, batch_shape: Sequence[int], _instance: Distribution | None = None) -> Dirac:
        value = self.value.expand(*batch_shape, *self.event_shape)
        return _with_batch(self, batch_shape, value=value)


def _check_event_dim(event_dim: int, available: int, of: str) -> None:
    if not 0 <= event_dim <= available:
        raise ValueError(f"event_dim must be from 0 to {available} for this {of}, got {event_dim}")


def _tanh_sinh(nodes: int = 89, end: float = 3.2) -> list[tuple[float, float, float]]:
    """(log v, log(1-v), weight) with  sum weight f(v) = int_0^1 f(v) dv,  v = sigmoid(pi sinh t).

    Nodes crowd at both ends doubly exponentially, so an integrand may be as steep there as it
    likes. Double exponential formulas (Takahasi and Mori, 1974)
    https://doi.org/10.2977/prims/1195192451
    """
    step = 2 * end / (nodes - 1)
    rule = []
    for t in (step * k - end for k in range(nodes)):
        y = math.pi * math.sinh(t)
        log_v, log_1_v = -math.log1p(math.exp(-y)), -math.log1p(math.exp(y))
        rule.append((log_v, log_1_v, math.exp(log_v + log_1_v) * math.pi * math.cosh(t) * step))
    return rule


class LogitLaplace(Distribution):
    """f(x) = 1 / (2 b x (1-x)) exp(-|logit x - mu| / b), for x in (0, 1), mu and log_b (*batch).

    The law of sigmoid(y), y ~ Laplace(mu, b): the likelihood of DALL-E's discrete VAE
    (Ramesh et al., 2021) https://arxiv.org/abs/2102.12092 . Each element is one variable, as in
    torch's Normal: Independent(LogitLaplace(mu, log_b), 3) is a picture. The decoder gives log b,
    which is clamped to +-30. The `median` is sigmoid(mu), DALL-E's reconstruction; the `mean` is
    another number. There is no `mode`: for b > 1 the density is unbounded at 0 and 1.
    log_prob is in nats; the ends 0 and 1 count as the nearest number inside; beyond is -inf.
    """

    has_rsample = True
    arg_constraints = {"mu": constraints.real, "log_b": constraints.real}
    support = constraints.unit_interval

    def __init__(self, mu: Tensor, log_b: Tensor, *, validate_args: bool = False) -> None:
        log_b = log_b.clamp(-_LOG_SCALE_LIMIT, _LOG_SCALE_LIMIT)
        self.mu, self.log_b = _broadcast(mu, log_b)
        super().__init__(self.mu.shape, validate_args=validate_args)

    @property
    def b(self) -> Tensor:
        return self.log_b.exp()

    @property
    def median(self) -> Tensor:
        """sigmoid(mu): half of the mass lies on either side. Shape (*batch)."""
        return self._inside(self.mu.sigmoid())

    @property
    def mean(self) -> Tensor:
        """E[x] = m + (1-m) J(-mu) / 2 - m J(mu) / 2,  m = sigmoid(mu), by quadrature. (*batch)

        m J(mu) / 2 is the integral of the cdf from 0 to m, the other term that of 1 - cdf from m
        to 1. The error is below 1e-9 in float64 for every b; each element costs 178 exponentials.
        """
        m, one_m = self.mu.sigmoid(), (-self.mu).sigmoid()
        return m + (one_m * self._j(-self.mu) - m * self._j(self.mu)) / 2

    def _j(self, mu: Tensor) -> Tensor:
        """J(mu) = int_0^1 (v / (1 + e^mu (1-v)))^(1/b) dv, one node at a time to save memory."""
        J = torch.zeros_like(mu)
        for log_v, log_1_v, weight in _tanh_sinh():
            J = J + weight * ((log_v - F.softplus(mu + log_1_v)) / self.b).exp()
        return J

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        # Laplace(0, 1) is the difference of two unit exponentials.
        noise = self.mu.new_empty(2, *shape).exponential_()
        return self._inside((self.mu + self.b * (noise[0] - noise[1])).sigmoid())

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        x = self._inside(value)
        log_x, log_1_x = x.log(), (-x).log1p()
        distance = (log_x - log_1_x - self.mu).abs()
        log_f = -math.log(2) - self.log_b - log_x - log_1_x - distance / self.b
        return log_f.masked_fill((value < 0) | (value > 1), -math.inf)

    @staticmethod
    def _inside(x: Tensor) -> Tensor:
        finfo = torch.finfo(x.dtype)
        return x.clamp(finfo.tiny, 1 - finfo.eps / 2)

    def expand(self, batch_shape: Sequence[int], _instance: Distribution | None = None) -> LogitLaplace:
        mu, log_b = self.mu.expand(*batch_shape), self.log_b.expand(*batch_shape)
        return _with_batch(self, batch_shape, mu=mu, log_b=log_b)


class Levels(constraints.Constraint):
    """x in {0, 1/(L-1), ..., 1}, as far as float32 can tell."""

    is_discrete = True

    def __init__(self, levels: int = 256) -> None:
        self.levels = levels
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        i = value * (self.levels - 1)
        nearest = i.round()
        return ((i - nearest).abs() < 1e-3) & (nearest >= 0) & (nearest < self.levels)


class DiscretizedLogisticMixture(Distribution):
    """P(x) = sum_k pi_k [sigmoid((x+h - mu_k) / s_k) - sigmoid((x-h - mu_k) / s_k)], pi = softmax.

    For x in {0, 1/(L-1), ..., 1}, L levels, h = 1 / (2 (L-1)) half a bin; the bins of 0 and 1 take
    the tails, so the L probabilities sum to 1. logits, mu and log_s have shape (*batch, K, *event)
    with event_dim event dimensions; values have shape (*batch, *event), mu and s are in their
    unit, and log_s is clamped to +-30. log_prob is in nats, summed over the event.

    PixelCNN++ (Salimans et al., 2017) https://arxiv.org/abs/1701.05517 , without its coupling of
    the channels: each element of the event has a mixture of its own, on [0, 1] instead of [-1, 1].
    A value between two levels counts as the nearer one; beyond the outer bins log_prob is -inf.
    """

    arg_constraints = {
        "logits": constraints.real,
        "mu": constraints.real,
        "log_s": constraints.real,
    }

    def __init__(
        self,
        logits: Tensor,
        mu: Tensor,
        log_s: Tensor,
        levels: int = 256,
        event_dim: int = 0,
        *,
        validate_args: bool = False,
    ) -> None:
        if levels < 2:
            raise ValueError(f"levels must be at least 2, got {levels}")
        log_s = log_s.clamp(-_LOG_SCALE_LIMIT, _LOG_SCALE_LIMIT)
        self.logits, self.mu, self.log_s = _broadcast(logits, mu, log_s)
        _check_event_dim(event_dim, self.mu.dim() - 1, "mu with its K components")
        self.levels = levels
        shape, k = self.mu.shape, self.mu.dim() - event_dim - 1
        super().__init__(shape[:k], shape[k + 1 :], validate_args)

    @property
    def support(self) -> constraints.Constraint:
        return _independent(Levels(self.levels), len(self.event_shape))

    @property
    def _k(self) -> int:
        """The dimension of the components, from the right: values may have more on the left."""
        return -len(self.event_shape) - 1

    @property
    def mean(self) -> Tensor:
        """E[x] = sum_{i=1}^{L-1} P(x >= i/(L-1)) / (L-1), exact. Shape (*batch, *event).

        One level at a time: memory for one (*batch, K, *event), unless autograd keeps them all.
        """
        pi, s = self.logits.softmax(self._k), self.log_s.exp()
        tail = torch.zeros_like(self.mu)
        for i in range(1, self.levels):
            tail = tail + ((self.mu - (i - 0.5) / (self.levels - 1)) / s).sigmoid()
        return (pi * tail).sum(self._k) / (self.levels - 1)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        with torch.no_grad():
            mu, log_s = self._draw_components(torch.Size(sample_shape))
            x = mu + log_s.exp() * _logistic_noise(mu)
            return (x.clamp(0, 1) * (self.levels - 1)).round() / (self.levels - 1)

    def _draw_components(self, sample_shape: torch.Size) -> tuple[Tensor, Tensor]:
        """k ~ Categorical(pi), then mu_k and log_s_k, each (*sample, *batch, *event)."""
        logits = self.logits.movedim(self._k, -1)
        pi = Categorical(logits=logits, validate_args=False)
        k = pi.sample(sample_shape).unsqueeze(-1)  # type: ignore[no-untyped-call]
        mu, log_s = (
            parameter.movedim(self._k, -1).expand(*k.shape[:-1], -1).gather(-1, k).squeeze(-1)
            for parameter in (self.mu, self.log_s)
        )
        return mu, log_s

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        i = (value * (self.levels - 1)).round()
        log_pi = self.logits.log_softmax(self._k)
        log_P = (log_pi + self._log_bin(i.unsqueeze(self._k))).logsumexp(self._k)
        log_P = log_P.masked_fill((i < 0) | (i > self.levels - 1), -math.inf)
        return _sum_event(log_P, len(self.event_shape))

    def _log_bin(self, i: Tensor) -> Tensor:
        """log(sigmoid(u) - sigmoid(l)) for the bin of level i, between (i -+ 1/2) / (L-1).

        = log sigmoid(u) + log sigmoid(-l) + log(1 - e^(l-u)): exact for bins of any width at any
        distance, where the difference itself would round to 0.
        """
        L, s = self.levels, self.log_s.exp()
        log_cdf = F.logsigmoid(((i + 0.5) / (L - 1) - self.mu) / s)
        log_survival = F.logsigmoid((self.mu - (i - 0.5) / (L - 1)) / s)
        log_width = (-torch.expm1(-1 / ((L - 1) * s))).log()
        inner = torch.where(i < L - 1, log_cdf + log_survival + log_width, log_survival)
        return torch.where(i > 0, inner, log_cdf)

    def expand(self, batch_shape: Sequence[int], _instance: Distribution | None = None) -> DiscretizedLogisticMixture:
        shape = (*batch_shape, *self.mu.shape[self._k :])
        logits, mu, log_s = (x.expand(shape) for x in (self.logits, self.mu, self.log_s))
        return _with_batch(self, batch_shape, logits=logits, mu=mu, log_s=log_s)


def _logistic_noise(like: Tensor) -> Tensor:
    """log E1 - log E2 for unit exponentials E is Logistic(0, 1), with both tails in full."""
    E = like.new_empty(2, *like.shape).exponential_()
    return E[0].log() - E[1].log()


class _Code(Categorical):
    """A Categorical of a type of its own, to carry the KL below."""


@register_kl(_Code, _Code)  # type: ignore[no-untyped-call, untyped-decorator]
def _kl_code(q: _Code, p: _Code) -> Tensor:
    """KL(q || p) = sum_c q_c (log q_c - log p_c), in nats, of shape (*batch, *grid).

    torch's own is infinite as soon as p_c underflows (104 nats down in float32), and its gradient
    is NaN where a logit is -inf.
    """
    q_c = q.logits.exp()
    # 0 log 0 = 0, for the gradient too: inf - inf must not come into it.
    log_ratio = torch.where(q_c > 0, q.logits - p.logits, 0.0)
    return (q_c * log_ratio).sum(-1)


# Independent is generic in recent versions of torch only.
class CodeGrid(Independent):  # type: ignore[type-arg]
    """P(k) = prod_j softmax(logits_j)[k_j], for logits (*batch, *grid, codes).

    Independent categoricals over a grid of `event_dim` dimensions, such as the q(k|x) of DALL-E's
    discrete VAE (Ramesh et al., 2021) https://arxiv.org/abs/2102.12092 . Samples k are int64,
    from 0 to codes - 1, of shape (*batch, *grid); log_prob and entropy are sums over the grid in
    nats, of shape (*batch). CodeGrid(torch.zeros_like(logits)) is uniform, and kl() to it is
    closed: log codes - entropy at each position. A logit of -inf excludes a code.
    """

    base_dist: _Code

    def __init__(self, logits: Tensor, event_dim: int = 2, *, validate_args: bool = False) -> None:
        _check_event_dim(event_dim, logits.dim() - 1, "logits with its codes")
        code = _Code(logits=logits, validate_args=validate_args)
        super().__init__(code, event_dim, validate_args=validate_args)

    @property
    def logits(self) -> Tensor:
        """log P(k_j = c), normalised. Shape (*batch, *grid, codes)."""
        return self.base_dist.logits

    @property
    def probs(self) -> Tensor:
        """P(k_j = c). Shape (*batch, *grid, codes)."""
        return self.base_dist.probs

    @property
    def mean(self) -> Tensor:
        raise NotImplementedError("codes are labels without a mean: use mode, or average codebook vectors with probs")

    @property
    def variance(self) -> Tensor:
        raise NotImplementedError("codes are labels without a variance: use entropy()")

    def expand(self, batch_shape: Sequence[int], _instance: Distribution | None = None) -> CodeGrid:
        # A second normalisation in the constructor would round again.
        twin = CodeGrid.__new__(CodeGrid)
        super().expand(batch_shape, _instance=twin)  # type: ignore[no-untyped-call]
        return twin


def kl(q: Distribution, p: Distribution, z: Tensor | None = None) -> Tensor:
    """KL(q || p) = E_q[log q(z) - log p(z)] in nats, of the broadcast batch shape of q and p.

    In closed form where torch or this module has one (see has_closed_form_kl; z is not used),
    otherwise estimated as log q(z) - log p(z) at the z given, a sample of q of shape
    (*sample, *batch, *event): one unbiased estimate for each sample, negative at times.

    Raises ValueError where the event shapes differ or an estimate needs z, and for a Dirac q its
    subclass ConfigError.
    """
    _check_pair(q, p)
    closed = _closed_form(q, p)
    if closed is not None:
        return _sum_event(closed, _factors(q)[1])
    if z is None:
        raise ValueError(f"{_name(q, p)} has no closed form: pass z, a sample of q: q.rsample()")
    return q.log_prob(z) - p.log_prob(z)


def has_closed_form_kl(q: Distribution, p: Distribution) -> bool:
    """Whether kl(q, p) is exact, rather than estimated. Looks through Independent; computes it."""
    if isinstance(_factors(q)[0], Dirac) or q.event_shape != p.event_shape:
        return False
    return _closed_form(q, p) is not None


def kl_per_dimension(q: Distribution, p: Distribution) -> Tensor:
    """KL(q_j || p_j) in nats for each j of the event, of shape (*batch, *event): its sum is kl().

    For q = prod_j q_j and p = prod_j p_j: Independent of one-dimensional factors, or a CodeGrid.
    Raises ConfigError where a factor has several dimensions or no closed form, and as kl() does.
    """
    _check_pair(q, p)
    closed = _closed_form(q, p)
    if closed is None or _factors(q)[0].event_shape or _factors(p)[0].event_shape:
        raise ConfigError(
            f"{_name(q, p)} does not split into dimensions: it takes Independent factors "
            "of one dimension with a closed form, such as Independent(Normal(mu, sigma), 1)"
        )
    return closed


def _factors(d: Distribution) -> tuple[Distribution, int]:
    """The factors inside Independent, however nested, and how many batch dims they make events."""
    event_dim = 0
    while isinstance(d, Independent):
        event_dim += d.reinterpreted_batch_ndims
        d = d.base_dist
    return d, event_dim


def _closed_form(q: Distribution, p: Distribution) -> Tensor | None:
    """The KL of the factors, of shape (*batch, *reinterpreted dims), or None."""
    (q_j, q_event_dim), (p_j, p_event_dim) = _factors(q), _factors(p)
    if q_event_dim != p_event_dim:
        return None
    try:
        # torch writes infinities through masks, which do not broadcast a batch against none.
        shape = torch.broadcast_shapes(q_j.batch_shape, p_j.batch_shape)  # type: ignore[no-untyped-call]
        return kl_divergence(_expanded(q_j, shape), _expanded(p_j, shape))
    # A registered pair may still decline (two transforms that differ), so only trying tells.
    except NotImplementedError:
        return None


def _expanded(d: Distribution, batch_shape: torch.Size) -> Distribution:
    return d if d.batch_shape == batch_shape else d.expand(batch_shape)


def require_density(q: Distribution, what: str) -> None:
    """Refuses a Dirac, whose log q(z) cannot be set against a log p(z).

    Raises ConfigError: `what` does not exist, and what to use instead.
    """
    if isinstance(_factors(q)[0], Dirac):
        raise ConfigError(
            f"{what} does not exist: a Dirac has no density with respect to p. Use a loss "
            "without a KL term (plain, denoising, contractive or sparse reconstruction), "
            "or an encoder whose q(z|x) has a width, such as a Gaussian"
        )


def require_same_measure(q: Distribution, p: Distribution) -> None:
    """Refuses two densities with respect to different measures, which have no ratio: counted values, volume, area.

    A density of something else again, as on a sphere, says of what in an attribute ``measure``.
    """
    of_q, of_p = _measure(q), _measure(p)
    if of_q and of_p and of_q != of_p:
        raise ConfigError(
            f"{_name(q, p)} does not exist: the one is a density of {of_q}, the other of {of_p}; "
            "take a posterior and a prior that are made for each other"
        )


def _measure(d: Distribution) -> str:
    """Of what it is a density; empty if it does not tell, as a model in a prior's place."""
    factors = _factors(d)[0]
    if told := getattr(factors, "measure", ""):
        return str(told)
    try:
        support = factors.support
    except (NotImplementedError, AttributeError):
        return ""
    return "counted values" if getattr(support, "is_discrete", False) else "volume"


def _check_pair(q: Distribution, p: Distribution) -> None:
    require_density(q, _name(q, p))
    require_same_measure(q, p)
    if q.event_shape != p.event_shape:
        shapes = f"event shape {tuple(q.event_shape)} against {tuple(p.event_shape)}"
        raise ValueError(f"{_name(q, p)}: {shapes}; give both the same latent shape")


def _name(q: Distribution, p: Distribution) -> str:
    """KL(Normal || Normal), by the names of the factors."""
    return f"KL({type(_factors(q)[0]).__name__} || {type(_factors(p)[0]).__name__})"
