"""Flows of affine coupling layers."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from zoo_core import PositiveInt, Shape
from zoo_flow.flow import Bijection, Flow, Scale, bounded, widened


class RealNVP(Flow):
    """x = b ⊙ u + (1 - b) ⊙ (u ⊙ exp(s(b ⊙ u)) + t(b ⊙ u)) in each layer, then a scale and a shift of each value.

    Density estimation using Real NVP (Dinh, Sohl-Dickstein & Bengio, 2017) https://arxiv.org/abs/1605.08803 ,
    for values without an order in space: s and t are fully connected. Layers 2j and 2j + 1 keep (b = 1) the
    values whose place has bit j set, and those that have not, so that any two values part in some layer. A new
    flow is N(0, I).

    Args:
        layers: how many.
        hidden: widths of the hidden layers of each network.
    """

    def __init__(self, data_shape: Shape, layers: PositiveInt = 8, hidden: Sequence[PositiveInt] = (128, 128)) -> None:
        size = torch.Size(data_shape).numel()
        super().__init__(data_shape, (step for k in range(layers) for step in (Coupling(size, k, hidden), Scale(size))))


class Coupling(Bijection):
    """Some values move by what the others are."""

    kept: Tensor

    def __init__(self, size: int, number: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.register_buffer("kept", kept(size, number))
        self.net = nn.Sequential(*dense([size, *hidden, 2 * size]))

    def inverse(self, x: Tensor) -> tuple[Tensor, Tensor]:
        log_s, t = self.affine(x)
        return (x - t) * (-log_s).exp(), -log_s.sum(1)

    def forward(self, u: Tensor) -> Tensor:
        log_s, t = self.affine(u)
        return u * log_s.exp() + t

    def affine(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """log s and t, (B, D), both 0 where b = 1, from b ⊙ u = b ⊙ x."""
        h = self.net(u.masked_fill(~self.kept, 0).to(next(self.parameters()).dtype))
        log_s, t = widened(h).masked_fill(self.kept.repeat(2), 0).chunk(2, 1)
        return bounded(log_s), t


def kept(size: int, number: int) -> Tensor:
    """b, (D,), of layer 2j + parity: the places whose bit j, counted round and round, is the parity."""
    bits = max(1, (size - 1).bit_length())
    return torch.arange(size) >> (number // 2 % bits) & 1 == number % 2


def dense(widths: Sequence[int]) -> Iterator[nn.Module]:
    """Affine maps with SiLU between them, the last of which starts at 0."""
    *inner, last = pairwise(widths)
    for a, b in inner:
        yield from (nn.Linear(a, b), nn.SiLU())
    final = nn.Linear(*last)
    nn.init.zeros_(final.weight)
    nn.init.zeros_(final.bias)
    yield final
