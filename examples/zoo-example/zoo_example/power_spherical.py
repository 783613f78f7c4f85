"""The power spherical distribution, and the posterior that an encoder's last layer makes of it."""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, Gamma, constraints, register_kl

from zoo_core import ConfigError, Posterior
from zoo_example.sphere import Sphere, unit, widened
from zoo_example.uniform_sphere import SphericalUniform

# Below these q is uniform, and above them a draw is mu, as far as float32 can tell.
LOG_KAPPA = (-14.0, 14.0)


class PowerSpherical(Distribution):
    """q(z) = (1 + mu·z)^kappa / N for |z| = 1, with respect to the sphere's area; kappa = 0 is uniform.

    N = 2^(alpha + beta) pi^beta Gamma(alpha) / Gamma(alpha + beta), alpha = beta + kappa, beta = (d - 1) / 2.
    Of z, t = mu·z is distributed as 2 Beta(alpha, beta) - 1, and the rest as the uniform on what is orthogonal to mu:
    a draw has a gradient, and needs no rejection.

    The power spherical distribution (De Cao & Aziz, 2020) https://arxiv.org/abs/2006.04437

    An event (d, *positions) is a point on the sphere at each position, independently; log_prob, entropy and KL are
    sums over them, in nats.

    Args:
        mu: unit vectors (*batch, d, *positions), d at least 2.
        kappa: the concentration, at least 0, (*batch, 1, *positions).
        event_dim: how many of the last dimensions are an event; 1 is a single sphere.

    Raises:
        ConfigError: d is 1; log_prob is asked for what is not on the sphere.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    has_rsample = True
    measure = "area on a sphere"

    def __init__(self, mu: Tensor, kappa: Tensor, event_dim: int = 1) -> None:
        self.dim, self.d = -event_dim, require_sphere(mu.shape[-event_dim])
        self.mu, self.kappa = mu, kappa
        super().__init__(mu.shape[: self.dim], mu.shape[self.dim :], validate_args=False)

    @property
    def beta(self) -> float:
        return (self.d - 1) / 2

    @property
    def alpha(self) -> Tensor:
        return self.beta + self.kappa

    @property
    def support(self) -> Sphere:
        return Sphere(self.dim)

    @property
    def mode(self) -> Tensor:
        return self.mu

    @property
    def mean(self) -> Tensor:
        """mu (alpha - beta) / (alpha + beta), inside the ball."""
        return self.mu * self.kappa / (self.alpha + self.beta)

    @property
    def variance(self) -> Tensor:
        """Var(t) mu^2 + E[1 - t^2] / (d - 1) (1 - mu^2), of each coordinate."""
        total = self.alpha + self.beta
        across = 2 * self.alpha / (total * (total + 1))
        along = 2 * self.beta * across / total
        return along * self.mu**2 + across * (1 - self.mu**2)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        shape = torch.Size(sample_shape)
        mu, alpha = self.mu.expand(self._extended_shape(shape)), self.alpha.expand(shape + self.alpha.shape)
        # Beta(alpha, beta) as two Gammas, which keeps the digits of 1 - t where t is nearly 1.
        g_a = Gamma(alpha, torch.ones_like(alpha), validate_args=False).rsample()
        g_b = Gamma(torch.full_like(alpha, self.beta), torch.ones_like(alpha), validate_args=False).rsample()
        t, sine = (g_a - g_b) / (g_a + g_b), 2 * (g_a * g_b).sqrt() / (g_a + g_b)
        return mu * t + orthogonal(mu, self.dim) * sine

    def log_prob(self, value: Tensor) -> Tensor:
        z = self.support.require(value)
        # (1 + mu·z) / 2 = 1 - |z - mu|^2 / 4 keeps its digits around mu, which kappa magnifies.
        square = (z - self.mu).square().sum(self.dim, keepdim=True)
        limit = 1 - torch.finfo(square.dtype).eps
        log_q = self.kappa * torch.log1p(-(square / 4).clamp(max=limit)) + self._log_peak().to(square.dtype)
        return log_q.flatten(self.dim).sum(-1)

    def entropy(self) -> Tensor:
        """log N - kappa (log 2 + psi(alpha) - psi(alpha + beta)), (*batch,)."""
        alpha, kappa = self.alpha.double(), self.kappa.double()
        h = kappa * (torch.digamma(alpha + self.beta) - torch.digamma(alpha)) - self._log_peak()
        return h.flatten(self.dim).sum(-1).to(self.kappa.dtype)

    def expand(self, batch_shape: Sequence[int], _instance: Distribution | None = None) -> "PowerSpherical":
        mu = self.mu.expand(*batch_shape, *self.event_shape)
        kappa = self.kappa.expand(*batch_shape, 1, *self.event_shape[1:])
        return PowerSpherical(mu, kappa, -self.dim)

    def _log_peak(self) -> Tensor:
        """log q(mu) = kappa log 2 - log N at each position, in float64: the difference of two large numbers."""
        alpha = self.alpha.double()
        return torch.lgamma(alpha + self.beta) - torch.lgamma(alpha) - self.beta * math.log(4 * math.pi)


def orthogonal(mu: Tensor, dim: int) -> Tensor:
    """Uniform draws from the unit vectors orthogonal to each mu, of the same shape: (0, v) reflected.

    v is uniform on S^(d-2). The Householder reflection along mu ± e_1 takes e_1 to ∓ mu; with the sign of mu_1 there
    it divides by at least 1, while with the other one it loses all digits as mu approaches e_1.
    """
    mu_1, rest = mu.tensor_split((1,), dim)
    v = unit(torch.randn_like(rest), dim)
    along = (rest * v).sum(dim, keepdim=True)
    return torch.cat([torch.where(mu_1 < 0, along, -along), v - rest * along / (1 + mu_1.abs())], dim)


def require_sphere(d: int) -> int:
    """d itself, refused where it is 1: two points are no sphere."""
    if d < 2:
        raise ConfigError(f"latents: a sphere takes at least 2 of them, got {d}")
    return d


@register_kl(PowerSpherical, SphericalUniform)  # type: ignore[no-untyped-call, untyped-decorator]
def _kl(q: PowerSpherical, p: SphericalUniform) -> Tensor:
    """KL(q || p) = log |S^(d-1)| - H(q), summed over positions, (*batch,)."""
    return p.entropy() - q.entropy()


class PowerSphericalPosterior(Posterior):
    """q(z|x) = PowerSpherical(mu, kappa), from h: mu = h_1..L / |h_1..L|, kappa = exp(h_L+1).

    Hyperspherical variational auto-encoders (Davidson et al., 2018) https://arxiv.org/abs/1804.00891
    The power spherical distribution (De Cao & Aziz, 2020) https://arxiv.org/abs/2006.04437

    L latents (L,) lie on S^(L-1); a grid of them (L, *positions) has a sphere at each position.

    Raises:
        ConfigError: L is 1.
    """

    def channels(self, latents: int) -> int:
        return require_sphere(latents) + 1

    def forward(self, h: Tensor, event_dim: int) -> Distribution:
        h_mu, log_kappa = widened(h).tensor_split((-1,), -event_dim)
        return PowerSpherical(unit(h_mu, -event_dim), log_kappa.clamp(*LOG_KAPPA).exp(), event_dim)
