"""Noise made into data by steps that can be taken back: what both flows share. D is the size of one datum."""

import abc
import math
from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn

from zoo_core import GenerativeModel, Shape

# exp(2) = 7 times wider or narrower in one layer; the next layer may go on from there.
LOG_SCALE_LIMIT = 2.0


class Bijection(nn.Module):
    """An invertible step x = f(u) on rows (B, D)."""

    @abc.abstractmethod
    def inverse(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """u = f^-1(x), (B, D), and log |det ∂u/∂x|, (B,)."""

    @abc.abstractmethod
    def forward(self, u: Tensor) -> Tensor:
        """x = f(u), (B, D)."""


class Flow(GenerativeModel):
    """x = f_L(… f_1(u)), u ~ N(0, I): log p(x) = log N(u; 0, I) + Σ_l log |det ∂f_l^-1/∂x_l|.

    Variational inference with normalizing flows (Rezende & Mohamed, 2015) https://arxiv.org/abs/1505.05770

    Values are real numbers: draws are not kept in [0, 1].
    """

    def __init__(self, data_shape: Shape, layers: Iterable[Bijection]) -> None:
        super().__init__()
        self.data_shape = self.latent_shape = tuple(data_shape)
        self.size = math.prod(self.data_shape)
        self.steps = nn.ModuleList(layers)

    def encode(self, x: Tensor) -> Tensor:
        """The one u that x is made of, (B, *data_shape)."""
        u, _ = self.inverse(x)
        return u.reshape(x.shape)

    def decode(self, u: Tensor) -> Tensor:
        """x, (B, *data_shape), for u (B, *data_shape)."""
        x = u.flatten(1)
        for step in self.steps:
            x = step(x)
        return x.reshape(u.shape)

    def reconstruct(self, x: Tensor) -> Tensor:
        """x again, but for rounding, (B, *data_shape)."""
        return self.decode(self.encode(x))

    def draw(self, n: int) -> Tensor:
        """u ~ N(0, I), then x = f(u), (n, *data_shape)."""
        # Only tells device and dtype.
        weight = next(self.parameters())
        return self.decode(torch.randn(n, *self.data_shape, device=weight.device, dtype=widened(weight).dtype))

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x), exact, in nats, (B,)."""
        u, log_det = self.inverse(x)
        return log_det - 0.5 * (u.square() + math.log(2 * math.pi)).sum(1)

    def inverse(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """u, (B, D), and log |det ∂u/∂x|, (B,), for x (B, *data_shape)."""
        u = widened(x).flatten(1)
        log_det = u.new_zeros(len(u))
        for step in reversed(self.steps):
            u, term = cast(Bijection, step).inverse(u)
            log_det = log_det + term
        return u, log_det


class Scale(Bijection):
    """x = exp(a) (u + b), with learned a and b for each value.

    What batch normalisation is for in both papers, without a dependence on the batch, as in
    Glow (Kingma & Dhariwal, 2018) https://arxiv.org/abs/1807.03039 . The shift is in units of the scale, so that a
    large one takes no more steps to learn than a small one.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.zeros(size))
        self.b = nn.Parameter(torch.zeros(size))

    def inverse(self, x: Tensor) -> tuple[Tensor, Tensor]:
        a = widened(self.a)
        return x * (-a).exp() - widened(self.b), -a.sum().expand(len(x))

    def forward(self, u: Tensor) -> Tensor:
        return (u + widened(self.b)) * widened(self.a).exp()


def bounded(h: Tensor) -> Tensor:
    """log s from a network's output: h where it is small, never beyond the limit."""
    return LOG_SCALE_LIMIT * torch.tanh(h / LOG_SCALE_LIMIT)


def widened(h: Tensor) -> Tensor:
    """h in float32 at least: sums of squares lose their digits in half precision. float64 stays."""
    return h.to(torch.promote_types(h.dtype, torch.float32))
