"""Every position by itself."""

from typing import Any

import torch
from torch import nn

from zoo_core import CodeGrid, PositiveInt, Prior, Shape
from zoo_vqvae.precision import widened


class IndependentCodes(Prior):
    """P(k) = Π_j softmax(l_j)[k_j] over positions j, with learned logits l: uniform at first.

    Fitted to codes, -log P(k) approaches Σ_j H(k_j), the sum of their entropies: what codes cost when none of them
    tells of another. What an autoregressive prior costs less is what they have in common.

    Args:
        latent_shape: the shape of the codes, (*positions), or (levels, *positions).
        codebook_size: K.
    """

    def __init__(self, latent_shape: Shape, codebook_size: PositiveInt) -> None:
        super().__init__()
        self.latent_shape, self.codebook_size = tuple(latent_shape), codebook_size
        self.logits = nn.Parameter(torch.zeros(*latent_shape, codebook_size))

    def forward(self, condition: Any = None) -> CodeGrid:
        return CodeGrid(widened(self.logits), len(self.latent_shape))
