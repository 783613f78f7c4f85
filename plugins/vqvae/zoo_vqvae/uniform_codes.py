"""Every code equally likely."""

from typing import Any

import torch
from torch import Tensor

from zoo_core import CodeGrid, PositiveInt, Prior, Shape
from zoo_vqvae.precision import widened


class UniformCodes(Prior):
    """P(k) = Π_j 1/K over all positions j: -log P(k) = n log K for n positions.

    The prior while a VQ-VAE is trained (van den Oord et al., 2017) https://arxiv.org/abs/1711.00937 . Its draws decode
    to noise: what codes of data have in common is known to a prior that is fitted to them.

    Args:
        latent_shape: the shape of the codes, (*positions), or (levels, *positions).
        codebook_size: K.
    """

    zero: Tensor

    def __init__(self, latent_shape: Shape, codebook_size: PositiveInt) -> None:
        super().__init__()
        self.latent_shape, self.codebook_size = tuple(latent_shape), codebook_size
        # Only tells device and dtype: a prior must follow its model wherever that is moved.
        self.register_buffer("zero", torch.zeros(()))

    def forward(self, condition: Any = None) -> CodeGrid:
        logits = widened(self.zero).expand(*self.latent_shape, self.codebook_size)
        return CodeGrid(logits, len(self.latent_shape))
