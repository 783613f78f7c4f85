"""Probabilistic PCA, x = W z + b + sigma e, as a VAE of linear parts: log p(x) and p(z|x) are known exactly.

Probabilistic principal component analysis (Tipping & Bishop, 1999) https://doi.org/10.1111/1467-9868.00196
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Independent, MultivariateNormal, Normal

from zoo_core import LatentVariableModel, build

DATA = (1, 3, 2)


class PPCA:
    """W has orthogonal columns, so that p(z|x) is a diagonal Gaussian, which a linear encoder can be.

    Args:
        loading: any W (N, D); its columns are rotated, which changes no p(x).
    """

    def __init__(self, loading: Tensor, b: Tensor, sigma: float) -> None:
        U, S, _ = torch.linalg.svd(loading, full_matrices=False)
        self.W, self.b, self.sigma = U * S, b, sigma
        self.s = sigma / (S**2 + sigma**2).sqrt()  # standard deviation of p(z|x)

    @classmethod
    def random(cls, latents: int = 2, sigma: float = 0.4) -> "PPCA":
        n = math.prod(DATA)
        return cls(torch.randn(n, latents, dtype=torch.float64), torch.randn(n, dtype=torch.float64), sigma)

    def log_prob(self, x: Tensor) -> Tensor:
        """log N(x; b, W W' + sigma^2 I), (B,)."""
        covariance = self.W @ self.W.T + self.sigma**2 * torch.eye(len(self.b), dtype=torch.float64)
        return MultivariateNormal(self.b, covariance).log_prob(x.double().flatten(1))

    def posterior(self, x: Tensor) -> Independent:
        """p(z|x) = N(M^-1 W' (x - b), sigma^2 M^-1), M = W' W + sigma^2 I."""
        mu = (x.double().flatten(1) - self.b) @ self.W * (self.s / self.sigma) ** 2
        return Independent(Normal(mu, self.s.expand_as(mu)), 1)

    def elbo(self, x: Tensor, q: Any) -> Tensor:
        """E_q[log p(x|z)] - KL(q || p(z)) for a diagonal Gaussian q, by hand, (B,)."""
        error = (x.double().flatten(1) - self.b - q.mean @ self.W.T).square().sum(1) + q.variance @ self.W.square().sum(
            0
        )
        distortion = 0.5 * (len(self.b) * math.log(2 * math.pi * self.sigma**2) + error / self.sigma**2)
        rate = 0.5 * (q.mean.square() + q.variance - 1 - q.variance.log()).sum(1)
        return -distortion - rate

    def draw(self, n: int) -> Tensor:
        """x ~ p(x), (n, *DATA)."""
        z, e = torch.randn(n, self.W.shape[1]), torch.randn(n, len(self.b))
        return (z.double() @ self.W.T + self.b + self.sigma * e.double()).view(n, *DATA)

    def model(self, shift: float = 0.0, stretch: float = 1.0) -> LatentVariableModel:
        """The VAE with this p(x) in float64, with q(z|x) = p(z|x), its mean shifted and its width stretched."""
        model: LatentVariableModel = build(
            {
                "type": "vae/vae",
                "encoder": {"type": "nets/linear_encoder", "latents": self.W.shape[1]},
                "decoder": {
                    "type": "nets/linear_decoder",
                    "likelihood": {"type": "nets/gaussian", "sigma": self.sigma},
                },
                "prior": "nets/standard_normal",
            },
            data_shape=DATA,
        ).double()
        A = (self.W * (self.s / self.sigma) ** 2).T
        log_sigma = (self.s * stretch).log()
        with torch.no_grad():
            (encoder_weight, encoder_bias), (weight, bias) = model.encoder.parameters(), model.decoder.parameters()
            weight.copy_(self.W)
            bias.copy_(self.b)
            encoder_weight.copy_(torch.cat([A, torch.zeros_like(A)]))
            encoder_bias.copy_(torch.cat([shift - A @ self.b, log_sigma]))
        return model

    def gap(self, shift: float = 0.0, stretch: float = 1.0) -> float:
        """KL(q || p(z|x)) of that q, the same for every x."""
        return float(0.5 * (stretch**2 - 1 - 2 * math.log(stretch) + (shift / self.s) ** 2).sum())
