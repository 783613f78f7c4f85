"""Finite scalar quantization."""

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor

from zoo_core import Bounds, ConfigError, Quantized, Quantizer, Shape
from zoo_vqvae.codebook import require_latents
from zoo_vqvae.gradients import straight_through
from zoo_vqvae.perplexity import perplexity
from zoo_vqvae.precision import widened

Levels = Annotated[int, Bounds("an integer of at least 2", low=2)]

# How far from the outermost levels the bound stays, as a share: beyond it no rounding could leave the range.
MARGIN = 1e-3


class FSQ(Quantizer):
    """z_q = round(f(z)) / (L div 2) channel by channel, f(z) = h tanh(z + s) - o: L_i levels of channel i, from -1 up.

    h = (L - 1)/2 less a margin; o is 1/2 for even L and 0 for odd; s = tan(o/h) brings f(0) near 0. The code is the
    number whose digits are the levels, that of the first channel the lowest: K = Π_i L_i, without a codebook or a loss.
    f is differentiated, and of the rounding the derivative is taken to be 1.
    Finite scalar quantization: VQ-VAE made simple (Mentzer et al., 2023) https://arxiv.org/abs/2309.15505

    Args:
        latent_shape: (D, *positions).
        levels: L_i for each of the D channels, or one L for all; the paper takes 5 or more.

    Raises:
        ConfigError: there are not as many levels as channels.
    """

    L: Tensor

    def __init__(self, latent_shape: Shape, levels: Levels | Sequence[Levels] = 5) -> None:
        super().__init__()
        L = tuple(levels) if isinstance(levels, Sequence) else (levels,) * latent_shape[0]
        if len(L) != latent_shape[0]:
            raise ConfigError(f"levels: must be one for each of the {latent_shape[0]} channels, got {list(L)}")
        self.latent_shape, self.codes_shape = tuple(latent_shape), tuple(latent_shape[1:])
        self.register_buffer("L", torch.tensor(L))
        self.codebook_size = 1
        for number in L:
            self.codebook_size *= number

    def encode(self, z: Tensor) -> Tensor:
        L = self.by_channel()
        digits = self.rounded(z).long() + L // 2
        return (digits * L.cumprod(0).div(L, rounding_mode="floor")).sum(1)

    def lookup(self, codes: Tensor) -> Tensor:
        L, place = self.by_channel(), -1 - len(self.codes_shape)
        digits = codes.unsqueeze(place) // (L.cumprod(0) // L) % L
        return (digits - L // 2).to(torch.get_default_dtype()) / (L // 2)

    def forward(self, z: Tensor) -> Quantized:
        codes, z_q = self.encode(z), self.rounded(z) / (self.by_channel() // 2)
        return Quantized(z_q, codes, z_q.new_zeros(len(z)), perplexity(self.counts(codes)).mean())

    def rounded(self, z: Tensor) -> Tensor:
        """round(f(z)), from -(L div 2) up, with the gradient of f."""
        require_latents(z, self.latent_shape)
        f = self.bounded(widened(z))
        return straight_through(f, f.detach().round())

    def bounded(self, z: Tensor) -> Tensor:
        L = self.by_channel()
        h, o = (L - 1) * (1 - MARGIN) / 2, (1 - L % 2) / 2
        return h * torch.tanh(z + torch.tan(o / h)) - o

    def by_channel(self) -> Tensor:
        """L, (D, 1, …), to broadcast with latents."""
        return self.L.view(-1, *[1] * len(self.codes_shape))
