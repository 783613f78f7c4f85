"""Probabilistic principal component analysis, in closed form."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.distributions import Independent, MultivariateNormal, Normal

from zoo_classical.started import StartedModel
from zoo_core import ConfigError, PositiveFloat, PositiveInt, Shape


class PPCA(StartedModel):
    """p(z) = N(0, I), p(x|z) = N(W z + mu, sigma^2 I), for x of D dimensions and z of L < D.

    The likelihood is largest at the mean mu, sigma^2 = mean of the D - L smallest eigenvalues of the
    covariance, and W = U (Lambda - sigma^2 I)^1/2 with its L largest eigenvalues Lambda and their vectors U.
    One update finds it; further ones stay there.

    Probabilistic principal component analysis (Tipping & Bishop, 1999) https://doi.org/10.1111/1467-9868.00196

    Args:
        latents: L.
        min_variance: sigma^2 is at least this; the fit is the most likely one under this condition.

    Raises:
        ConfigError: L is not smaller than D.
    """

    W: Tensor
    mu: Tensor
    variance: Tensor

    def __init__(self, data_shape: Shape, latents: PositiveInt, min_variance: PositiveFloat = 1e-6) -> None:
        super().__init__(data_shape)
        if latents >= self.size:
            raise ConfigError(f"latents: must be fewer than the {self.size} dimensions of the data, got {latents}")
        self.latent_shape = (latents,)
        self.min_variance = min_variance
        self.parameter("W", self.size, latents)
        self.parameter("mu", self.size)
        self.parameter("variance")

    # The model. These are named as the parts of a LatentVariableModel, so that bounds can be computed on it.

    def prior(self) -> MultivariateNormal:
        """p(z) = N(0, I), event shape (L,)."""
        zero = torch.zeros(self.latent_shape, dtype=torch.float64, device=self.mu.device)
        return MultivariateNormal(zero, scale_tril=torch.eye(len(zero)).to(zero), validate_args=False)

    def decoder(self, z: Tensor) -> Independent:
        """p(x|z) = N(W z + mu, sigma^2 I) for z (*, L): batch shape (*,), event shape ``data_shape``."""
        self.require_start()
        mean = z.double() @ self.W.double().T + self.mu.double()
        sigma = self.variance.double().sqrt()
        p = Normal(mean.unflatten(-1, self.data_shape), sigma, validate_args=False)
        return Independent(p, len(self.data_shape), validate_args=False)

    def encoder(self, x: Tensor) -> MultivariateNormal:
        """p(z|x) = N(M^-1 W'(x - mu), sigma^2 M^-1), M = W'W + sigma^2 I: batch shape (B,), event shape (L,)."""
        self.require_start()
        precision = self.precision()
        gain = torch.linalg.solve(precision, self.W.double().T / self.variance.double())
        mean = (self.rows(x) - self.mu.double()) @ gain.T
        return MultivariateNormal(mean, precision_matrix=precision, validate_args=False)

    def precision(self) -> Tensor:
        """M / sigma^2, the inverse covariance of p(z|x), (L, L)."""
        W = self.W.double()
        return W.T @ W / self.variance.double() + torch.eye(*self.latent_shape).to(W)

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x) = log p(x|z) + log p(z) - log p(z|x), the same at every z: exact, in nats, (B,)."""
        p_z_x = self.encoder(x)
        z = p_z_x.mean
        log_p_xz: Tensor = self.decoder(z).log_prob(x.double()) + self.prior().log_prob(z)
        return log_p_xz - p_z_x.log_prob(z)

    def encode(self, x: Tensor) -> Tensor:
        """The mean of p(z|x), (B, L)."""
        return self.encoder(x).mean

    def decode(self, z: Tensor) -> Tensor:
        """The mean of p(x|z), (*, *data_shape), kept in [0, 1]."""
        return self.decoder(z).mean.clamp(0, 1).float()

    def reconstruct(self, x: Tensor) -> Tensor:
        """The mean of p(x|z) at the mean of p(z|x), (B, *data_shape)."""
        return self.decode(self.encode(x))

    def draw(self, n: int, *, noise: bool = False) -> Tensor:
        """z ~ p(z), then the mean of p(x|z), as pictures are shown; with ``noise`` x ~ p(x|z) itself."""
        z = self.prior().sample((n,))
        return self.decoder(z).sample().float() if noise else self.decode(z)

    def simulate(self, n: int) -> Tensor:
        """x ~ p(x|z) itself, not its mean."""
        return self.draw(n, noise=True)

    # The fit.

    def begin(self, x: Tensor) -> None:
        """W = 0, with the mean and the mean variance of x.

        Raises:
            ConfigError: there are no more examples than latents.
        """
        (latents,) = self.latent_shape
        if len(x) <= latents:
            raise ConfigError(f"latents: must be fewer than the examples, got {latents} for {len(x)}")
        rows = self.rows(x)
        self.W = rows.new_zeros(self.size, latents)
        self.mu = rows.mean(0)
        self.variance = rows.var(0, correction=0).mean().clamp(min=self.min_variance)
        self.started.fill_(True)

    def statistics(self, x: Tensor) -> dict[str, Tensor]:
        """n, Σ log p(x), Σ d and Σ d d' for d = x - mu."""
        # Around the present mean: of raw squares the difference would lose digits.
        d = self.rows(x) - self.mu.double()
        return {"n": d.new_tensor(len(d)), "objective": self.log_prob(x).sum(), "d": d.sum(0), "dd": d.T @ d}

    def update(self, statistics: Mapping[str, Tensor]) -> None:
        n, d, dd = (statistics[name] for name in ("n", "d", "dd"))
        eigenvalues, U = torch.linalg.eigh(dd / n - torch.outer(d / n, d / n))
        # eigh sorts upwards.
        rest, Lambda = eigenvalues.tensor_split([self.size - self.W.shape[1]])
        self.variance = rest.mean().clamp(min=self.min_variance)
        W = U[:, len(rest) :] * (Lambda - self.variance).clamp(min=0).sqrt()
        # Contiguous as a file keeps it: products of another layout are rounded otherwise.
        self.W, self.mu = W.flip(1).contiguous(), self.mu.double() + d / n
