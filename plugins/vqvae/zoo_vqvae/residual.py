"""Residual quantization."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from zoo_core import PositiveInt, Quantized, Quantizer
from zoo_vqvae.gradients import GRADIENTS, Gradient
from zoo_vqvae.precision import widened


class Residual(Quantizer):
    """z_q = Σ_l e_l, where level l quantizes r_l = z - Σ_{i<l} e_i: codes (levels, *positions).

    SoundStream (Zeghidour et al., 2021) https://arxiv.org/abs/2107.03312
    Autoregressive image generation using residual quantization (Lee et al., 2022) https://arxiv.org/abs/2203.01941

    The loss is the sum of those of the levels. Every level starts as a copy of one quantizer and learns by itself;
    one that learns nothing, such as FSQ, hardly follows the residuals as they shrink.

    Args:
        quantizer: of each level; how it passes a gradient does not matter here.
        depth: how many levels.
        gradient: of z_q in z, once for the whole stack.
    """

    def __init__(self, quantizer: Quantizer, depth: PositiveInt = 4, gradient: Gradient = "straight_through") -> None:
        super().__init__()
        self.quantizer, self.gradient = quantizer, gradient
        self.others = nn.ModuleList(copy.deepcopy(quantizer) for _ in range(depth - 1))
        self.latent_shape, self.codebook_size = quantizer.latent_shape, quantizer.codebook_size
        self.codes_shape = (depth, *quantizer.codes_shape)

    @property
    def levels(self) -> Sequence[Quantizer]:
        return [self.quantizer, *self.others]

    def encode(self, z: Tensor) -> Tensor:
        r, codes = widened(z), []
        for level in self.levels:
            codes.append(level.encode(r))
            r = r - level.lookup(codes[-1])
        return torch.stack(codes, 1)

    def lookup(self, codes: Tensor) -> Tensor:
        return torch.stack([level.lookup(k) for level, k in zip(self.levels, self.split(codes), strict=True)]).sum(0)

    def forward(self, z: Tensor) -> Quantized:
        z = r = widened(z)
        parts = []
        for level in self.levels:
            parts.append(level(r))
            # Constant, so that each level's loss reaches the encoder in full, and z_q only once.
            r = r - parts[-1].z_q.detach()
        e = torch.stack([part.z_q.detach() for part in parts]).sum(0)
        return Quantized(
            GRADIENTS[self.gradient](z, e),
            torch.stack([part.codes for part in parts], 1),
            torch.stack([part.loss for part in parts]).sum(0),
            torch.stack([part.perplexity for part in parts]).mean(),
        )

    def counts(self, codes: Tensor) -> Tensor:
        """How often each level has each of its codes, (levels, codebook_size)."""
        return torch.cat([level.counts(k) for level, k in zip(self.levels, self.split(codes), strict=True)])

    def split(self, codes: Tensor) -> tuple[Tensor, ...]:
        """The codes of each level."""
        return codes.unbind(-len(self.codes_shape))
