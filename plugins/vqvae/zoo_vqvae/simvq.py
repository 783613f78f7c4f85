"""A frozen codebook behind a learned linear map."""

import torch
from torch import Tensor

from zoo_core import NonNegativeFloat, PositiveInt, Shape
from zoo_vqvae.codebook import Codebook, squared_distance
from zoo_vqvae.gradients import Gradient
from zoo_vqvae.precision import unchanged, widened


class SimVQ(Codebook):
    """e = C W, for a frozen basis C (K, D) and a learned W (D, D): each gradient moves all codes, so that none dies.

    Addressing representation collapse in vector quantized models with one linear layer (Zhu et al., 2024)
    https://arxiv.org/abs/2411.02038

    Args:
        codes: K.
        beta: weight of || z - sg(e) ||^2, beside || sg(z) - e ||^2, which moves W.
        gradient: of z_q in z.
    """

    C: Tensor

    def __init__(
        self,
        latent_shape: Shape,
        codes: PositiveInt = 512,
        beta: NonNegativeFloat = 0.25,
        gradient: Gradient = "straight_through",
    ) -> None:
        super().__init__(tuple(latent_shape), codes, beta, gradient)
        D = latent_shape[0]
        self.register_buffer("C", torch.randn(codes, D) / D**0.5)
        self.W = torch.nn.Parameter(torch.eye(D))

    def vectors(self) -> Tensor:
        with unchanged(self.W.device):
            return widened(self.C) @ widened(self.W)

    def loss(self, z: Tensor, e: Tensor) -> Tensor:
        return squared_distance(z.detach(), e) + super().loss(z, e)
