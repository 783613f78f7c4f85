"""Denoising of masked data."""

import torch
from torch import Tensor

from zoo_autoencoder.denoising import Denoising
from zoo_core import Probability


class MaskingDenoising(Denoising):
    """x~_i = 0 with probability nu, else x_i.

    Extracting and composing robust features with denoising autoencoders (Vincent et al., 2008)
    https://doi.org/10.1145/1390156.1390294

    Args:
        nu: the share of values destroyed.
    """

    def __init__(self, nu: Probability = 0.25) -> None:
        super().__init__()
        self.nu = nu

    def corrupt(self, x: Tensor) -> Tensor:
        return x.masked_fill(torch.rand_like(x) < self.nu, 0.0)
