"""log p(x) by annealed importance sampling, without the help of q(z|x)."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution

from zoo_core import Batch, ConfigError, Measurement, PositiveInt
from zoo_metrics.averages import AverageMetric

LogDensity = Callable[[Tensor], Tensor]  # z (C, B, *latent_shape) → (C, B), in nats

SLOPE = 4.0  # the schedule is the sigmoid from -4 to 4
ACCEPTANCE = (
    0.65  # the best for leapfrog steps in many dimensions (Beskos et al., 2013) https://arxiv.org/abs/1001.4460
)
VARIATION = 0.2
PILOT_CHAINS = 4
ADAPTATION = 0.3  # by how much log eps follows acceptance - 0.65: a hundredfold step takes some thirty temperatures


class AIS(AverageMetric):
    """log 1/C Σ_c w_c of C chains from z ~ f_0 to p(z|x), each of weight w = Π_t f_t(z_t-1) / f_t-1(z_t-1).

    f_t(z) = f_0(z) (p(x|z) p(z) / f_0(z))^beta_t for 0 = beta_0 < … < beta_T = 1, and z_t from z_t-1 by a Hamiltonian
    Monte Carlo transition that leaves f_t as it is. With f_0 = p(z) this is p(z) p(x|z)^beta_t. E[w] = p(x) exactly, so
    that the value is a lower bound on log p(x) in expectation, and rises with C and T. One temperature is importance
    sampling: from the posterior ``iwae_C``.

    On the quantitative analysis of decoder-based generative models (Wu et al., 2017) https://arxiv.org/abs/1611.04273
    Annealed importance sampling (Neal, 2001) https://arxiv.org/abs/physics/9803008

    - beta_t is a sigmoid over t, as in Wu et al.: slow at both ends.
    - The step of the leapfrog is adapted toward an acceptance of 0.65 for each example and temperature, by a few chains
      that are then thrown away: adapted by a chain to its own past, it would no longer leave f_t as it is.

    Takes (C + 4) T ``leapfrog`` gradients of the decoder per example: few examples are measured. Reports ``ais``, in
    nats, and ``ais_acceptance``, how often a transition was taken.

    Args:
        chains: C.
        temperatures: T.
        leapfrog: steps of a transition.
        start: f_0, p(z) or q(z|x). A chain from q(z|x) is short where q is good, and misses what q misses.

    Raises:
        ConfigError: the model has no density, or no real latents.
    """

    def __init__(
        self,
        chains: PositiveInt = 16,
        temperatures: PositiveInt = 1000,
        leapfrog: PositiveInt = 10,
        start: Literal["prior", "posterior"] = "prior",
    ) -> None:
        super().__init__()
        self.chains, self.temperatures, self.leapfrog, self.start = chains, temperatures, leapfrog, start

    @torch.no_grad()
    def update(self, model: Any, batch: Batch) -> None:
        x = batch["image"]
        require_density(model, x)
        path, first = path_from(self.start, model, x)
        betas = sigmoidal(self.temperatures)
        pilot = annealed(path, drawn(first, PILOT_CHAINS, len(x)), betas, self.leapfrog)
        run = annealed(path, drawn(first, self.chains, len(x)), betas, self.leapfrog, pilot.steps)
        self.add(ais=torch.logsumexp(run.log_weights, 0) - math.log(self.chains))
        if self.temperatures > 1:
            self.add(ais_acceptance=run.acceptance)

    def compute(self) -> dict[str, Measurement]:
        values = super().compute()
        if not values:
            return {}
        about = {"chains": self.chains, "temperatures": self.temperatures, "leapfrog": self.leapfrog}
        values["ais"] = values["ais"]._replace(about={**about, "start": self.start})
        if "ais_acceptance" in values:
            values["ais_acceptance"] = values["ais_acceptance"]._replace(unit="1", better="neither")
        return values


class Path(NamedTuple):
    """log f_beta(z) = log f_0(z) + beta r(z) with r(z) = log p(x|z) p(z) / f_0(z), both (C, B)."""

    log_start: LogDensity
    log_ratio: LogDensity


def path_from(start: Literal["prior", "posterior"], model: Any, x: Tensor) -> tuple[Path, Distribution]:
    """The path from p(z), or from q(z|x), to p(x|z) p(z), and the distribution that it starts from.

    Raises:
        ConfigError: the latents are discrete.
    """
    p_z = model.prior()
    if is_discrete(p_z):
        raise ConfigError(
            f"metric 'ais' follows gradients in z, which the discrete latents of {type(model).__name__} do not have; "
            "measure 'elbo', 'iwae' or 'log_prob'"
        )
    if start == "prior":
        return Path(p_z.log_prob, lambda z: model.decoder(z).log_prob(x)), p_z
    q = model.encoder(x)
    return Path(q.log_prob, lambda z: model.decoder(z).log_prob(x) + p_z.log_prob(z) - q.log_prob(z)), q


def is_discrete(p: Distribution) -> bool:
    """Whether a draw of p is a code: an integer, or one of finitely many vectors."""
    try:
        support = p.support
    except NotImplementedError:  # a distribution need not say
        support = None
    return not p.sample().is_floating_point() if support is None else bool(support.is_discrete)


def require_density(model: Any, x: Tensor) -> None:
    """Refuses a model without p(z) and p(x|z), or one that says that it has no density.

    Raises:
        ConfigError: with the model's own words, where it has any.
    """
    name = type(model).__name__
    if not all(callable(getattr(model, part, None)) for part in ("decoder", "prior")):
        raise ConfigError(f"metric 'ais' needs a model with a prior p(z) and a decoder p(x|z); {name} has none")
    try:
        model.log_prob(x)
    except NotImplementedError as error:
        raise ConfigError(f"metric 'ais': {error}") from None


def drawn(p: Distribution, chains: int, examples: int) -> Tensor:
    """z ~ p for each chain and example, (C, B, *event), of a p that is one for all or has one for each example."""
    return p.sample(torch.Size([chains] if p.batch_shape else [chains, examples]))


def sigmoidal(temperatures: int) -> Tensor:
    """beta_t = (s(t) - s(0)) / (s(T) - s(0)) for s(t) = sigmoid(4 (2 t / T - 1)), t from 0 to T: float64 (T + 1,)."""
    s = torch.sigmoid(SLOPE * torch.linspace(-1, 1, temperatures + 1, dtype=torch.float64))
    return (s - s[0]) / (s[-1] - s[0])


class Point(NamedTuple):
    """A place z on a path (C, B, *latent_shape), both logarithms there (C, B), and their gradients."""

    z: Tensor
    log_start: Tensor
    log_ratio: Tensor
    d_start: Tensor
    d_ratio: Tensor

    def log_f(self, beta: float) -> Tensor:
        return self.log_start + beta * self.log_ratio

    def gradient(self, beta: float) -> Tensor:
        return self.d_start + beta * self.d_ratio


class Annealed(NamedTuple):
    """log w of each chain, float64 (C, B) on the CPU; how often each example's moved, (B,); eps of each transition."""

    log_weights: Tensor
    acceptance: Tensor
    steps: list[Tensor]


def annealed(path: Path, z: Tensor, betas: Tensor, leapfrog: int, steps: Sequence[Tensor] | None = None) -> Annealed:
    """Chains along a path, from draws z (C, B, *latent_shape) of its start.

    Args:
        betas: (T + 1,), from 0 to 1.
        steps: eps (B,) of each of the T - 1 transitions; default: adapted on the way, so that E[w] is p(x) only nearly.
    """
    point, widths = evaluated(path, z), betas.diff().tolist()
    log_w = widths[0] * point.log_ratio.cpu().double()
    log_eps = z.new_full(z.shape[1:2], -0.25 * math.log(z[0, 0].numel()))  # for N(0, I) the order of the best
    accepted, used = [z.new_ones(z.shape[1])] if len(widths) == 1 else [], []
    for t, (beta, width) in enumerate(zip(betas[1:-1].tolist(), widths[1:], strict=True)):
        used.append(log_eps.exp() if steps is None else steps[t])
        point, moved = transition(path, point, beta, used[-1], leapfrog)
        log_w += width * point.log_ratio.cpu().double()
        log_eps = log_eps + ADAPTATION * (moved.mean(0) - ACCEPTANCE)
        accepted.append(moved.mean(0))
    return Annealed(log_w, torch.stack(accepted).mean(0), used)


def transition(path: Path, point: Point, beta: float, eps: Tensor, leapfrog: int) -> tuple[Point, Tensor]:
    """A Hamiltonian Monte Carlo transition that leaves f_beta as it is, and the probability of each move, (C, B).

    MCMC using Hamiltonian dynamics (Neal, 2011) https://arxiv.org/abs/1206.1901

    Args:
        eps: the step of each example, (B,); a fifth more or less is taken, for steps of one length can add up to a way
            back to where they began.
    """
    momentum = torch.randn_like(point.z)
    varied = eps * (1 + VARIATION * (2 * torch.rand_like(point.log_start) - 1))
    proposed, last = leaped(path, point, momentum, beta, like(varied.to(momentum), momentum), leapfrog)
    gain = proposed.log_f(beta) - kinetic(last) - point.log_f(beta) + kinetic(momentum)
    # A step that leads out of all numbers is not taken.
    probability = gain.exp().clamp(max=1).nan_to_num(0)
    taken = torch.rand_like(probability) < probability
    return Point(
        *(torch.where(like(taken, new), new, old) for new, old in zip(proposed, point, strict=True))
    ), probability


def leaped(path: Path, point: Point, momentum: Tensor, beta: float, eps: Tensor, leapfrog: int) -> tuple[Point, Tensor]:
    """Place and momentum after so many leapfrog steps of eps (C, B, 1, …) along log f_beta."""
    momentum = momentum + eps / 2 * point.gradient(beta)
    for step in range(1, leapfrog + 1):
        point = evaluated(path, point.z + eps * momentum)
        momentum = momentum + (eps if step < leapfrog else eps / 2) * point.gradient(beta)
    return point, momentum


def kinetic(momentum: Tensor) -> Tensor:
    return momentum.square().flatten(2).sum(2) / 2


def like(value: Tensor, z: Tensor) -> Tensor:
    """A value for each chain and example, (C, B), in the dimensions of z (C, B, *latent_shape)."""
    return value.view(*value.shape, *[1] * (z.dim() - 2))


def evaluated(path: Path, z: Tensor) -> Point:
    """The path at z, with gradients, whatever the caller has switched off."""
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        log_start, log_ratio = path.log_start(z), path.log_ratio(z)
        gradients = gradient(log_start, z), gradient(log_ratio, z)
    return Point(z.detach(), log_start.detach(), log_ratio.detach(), *gradients)


def gradient(value: Tensor, z: Tensor) -> Tensor:
    """Of each value (C, B) by its own z; 0 where it does not depend on z. Without one a chain moves, but blindly."""
    if not value.requires_grad:
        return torch.zeros_like(z)
    (d,) = torch.autograd.grad(value.sum(), z, materialize_grads=True)
    return d
