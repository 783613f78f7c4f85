"""A codebook that is trained by gradients."""

import torch
from torch import Tensor, nn

from zoo_core import NonNegativeFloat, PositiveInt, Shape
from zoo_vqvae.codebook import Codebook, squared_distance
from zoo_vqvae.gradients import Gradient


class Nearest(Codebook):
    """|| sg(z) - e ||^2 + beta || z - sg(e) ||^2: the first term moves the codes, the second the encoder.

    Neural discrete representation learning (van den Oord et al., 2017), equation 3 https://arxiv.org/abs/1711.00937

    Args:
        codes: K; they start uniform in ±1/K.
        beta: the paper found no difference from 0.1 to 2.
        gradient: of z_q in z; the paper's is ``straight_through``.
    """

    def __init__(
        self,
        latent_shape: Shape,
        codes: PositiveInt = 512,
        beta: NonNegativeFloat = 0.25,
        gradient: Gradient = "straight_through",
    ) -> None:
        super().__init__(tuple(latent_shape), codes, beta, gradient)
        self.e = nn.Parameter(torch.empty(codes, latent_shape[0]).uniform_(-1 / codes, 1 / codes))

    def vectors(self) -> Tensor:
        return self.e

    def loss(self, z: Tensor, e: Tensor) -> Tensor:
        return squared_distance(z.detach(), e) + super().loss(z, e)
