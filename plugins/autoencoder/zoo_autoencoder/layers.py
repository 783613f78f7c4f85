"""Encoders of one layer: their Jacobian has a closed form, and their transpose decodes."""

import math

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from zoo_autoencoder.sigmoid import UnitDirac, widened
from zoo_core import Dirac, Encoder, PositiveInt, Shape


class LinearLayer(Encoder):
    """z = W x + b, for W (L, D); q(z|x) = delta at z.

    Args:
        latents: L.
    """

    def __init__(self, data_shape: Shape, latents: PositiveInt) -> None:
        super().__init__()
        self.data_shape, self.latent_shape = tuple(data_shape), (latents,)
        self.affine = nn.Linear(math.prod(data_shape), latents)

    def weight(self) -> Tensor:
        """W (L, D), as it now is: a module that is moved to another device has a new one."""
        return self.affine.weight

    def forward(self, x: Tensor) -> Distribution:
        return Dirac(widened(self.features(x)), 1)

    def features(self, x: Tensor) -> Tensor:
        h: Tensor = self.affine(x.flatten(1).to(self.weight().dtype))
        return h

    def slope(self, z: Tensor) -> Tensor:
        """dz/dh at each unit, from z itself, (B, L)."""
        return torch.ones_like(z)

    def squared_jacobian(self, z: Tensor) -> Tensor:
        """||J_f(x)||_F^2 = Σ_k (dz_k/dh_k)^2 Σ_i W_ki^2 at the code z of x, (B,)."""
        return (self.slope(z).square() * widened(self.weight()).square().sum(1)).sum(1)


class SigmoidLayer(LinearLayer):
    """z = sigmoid(W x + b), for W (L, D); q(z|x) = delta at z, and dz/dh = z (1 - z)."""

    def forward(self, x: Tensor) -> Distribution:
        return UnitDirac(torch.sigmoid(widened(self.features(x))), 1)

    def slope(self, z: Tensor) -> Tensor:
        return z * (1 - z)
