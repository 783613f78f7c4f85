"""Denoising of data with salt-and-pepper noise."""

import torch
from torch import Tensor

from zoo_autoencoder.denoising import Denoising
from zoo_core import Probability


class SaltAndPepperDenoising(Denoising):
    """x~_i = 0 or 1, by a fair coin, with probability nu, else x_i.

    Stacked denoising autoencoders (Vincent et al., 2010) https://jmlr.org/papers/v11/vincent10a.html

    Args:
        nu: the share of values destroyed.
    """

    def __init__(self, nu: Probability = 0.25) -> None:
        super().__init__()
        self.nu = nu

    def corrupt(self, x: Tensor) -> Tensor:
        coin = torch.rand_like(x).round()
        return torch.where(torch.rand_like(x) < self.nu, coin, x)
