"""Masked autoregressive flows."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from zoo_core import PositiveInt, Shape
from zoo_flow.flow import Bijection, Flow, Scale, bounded, widened


class MAF(Flow):
    """x_i = u_i exp(alpha_i) + mu_i, with alpha_i and mu_i functions of the x before i, in each layer.

    Masked autoregressive flow for density estimation (Papamakarios, Pavlakou & Murray, 2017)
    https://arxiv.org/abs/1705.07057 . The order of the values turns round from layer to layer, and each layer ends
    in a scale and a shift of each value. A density takes one pass through each network, a draw D of them. A new
    flow is N(0, I).

    Args:
        layers: how many.
        hidden: widths of the hidden layers of each network.
    """

    def __init__(self, data_shape: Shape, layers: PositiveInt = 5, hidden: Sequence[PositiveInt] = (128, 128)) -> None:
        size = torch.Size(data_shape).numel()
        super().__init__(
            data_shape, (step for k in range(layers) for step in (Autoregression(size, k, hidden), Scale(size)))
        )


class Autoregression(Bijection):
    """Each value moves by what those before it are; ``place`` (D,), from 1, says which come before."""

    place: Tensor

    def __init__(self, size: int, number: int, hidden: Sequence[int]) -> None:
        super().__init__()
        place = torch.arange(1, size + 1)
        self.register_buffer("place", place.flip(0) if number % 2 else place)
        self.net = nn.Sequential(*made(self.place, hidden))

    def inverse(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mu, alpha = self.affine(x)
        return (x - mu) * (-alpha).exp(), -alpha.sum(1)

    def forward(self, u: Tensor) -> Tensor:
        x = torch.zeros_like(u)
        for i in range(1, len(self.place) + 1):
            mu, alpha = self.affine(x)
            # What comes later is not known yet; at 0 it cannot overflow meanwhile.
            x = (u * alpha.exp() + mu).masked_fill(self.place > i, 0)
        return x

    def affine(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """mu and alpha = log s, (B, D)."""
        mu, alpha = widened(self.net(x.to(next(self.parameters()).dtype))).chunk(2, 1)
        return mu, bounded(alpha)


class MaskedLinear(nn.Linear):
    """W x + b without the weights that the mask (out, in) leaves out."""

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__(mask.shape[1], mask.shape[0])
        self.register_buffer("mask", mask)

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight.masked_fill(~self.mask, 0), self.bias)


def made(place: Tensor, hidden: Sequence[int]) -> Iterator[nn.Module]:
    """x (B, D) → (B, 2 D), both outputs of i functions of the x before i; the last map starts at 0.

    MADE (Germain et al., 2015) https://arxiv.org/abs/1502.03509 , with the degrees m(k) of hidden units spread
    evenly over 1 … D - 1 instead of drawn.
    """
    size = len(place)
    degrees = [place, *(torch.arange(width) * (size - 1) // width + 1 for width in hidden)]
    for before, after in pairwise(degrees):
        yield from (MaskedLinear(after[:, None] >= before), nn.SiLU())
    final = MaskedLinear(place.repeat(2)[:, None] > degrees[-1])
    nn.init.zeros_(final.weight)
    nn.init.zeros_(final.bias)
    yield final
