"""Codes in [0, 1]."""

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from zoo_core import Dirac, Posterior


class UnitDirac(Dirac):
    """q(z) = delta(z - value), for a value in [0, 1]."""

    @property
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.unit_interval, len(self.event_shape))  # type: ignore[no-untyped-call]


class Sigmoid(Posterior):
    """q(z|x) = delta(z - sigmoid(h)): each unit between off and on, as sparsity by frequency needs it."""

    def channels(self, latents: int) -> int:
        return latents

    def forward(self, h: Tensor, event_dim: int) -> Distribution:
        return UnitDirac(torch.sigmoid(widened(h)), event_dim)


def widened(h: Tensor) -> Tensor:
    """h in float32 at least: half precision cannot tell a rare unit from a dead one."""
    return h.to(torch.promote_types(h.dtype, torch.float32))
