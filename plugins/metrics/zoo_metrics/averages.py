"""Means over examples that can be gathered in any order and on any number of processes."""

import math

import torch
from torch import Tensor

from zoo_core import Measurement, Metric


class AverageMetric(Metric):
    """Named means of per-example values, in float64, with their standard errors.

    A subclass calls ``add`` from its ``update``.
    """

    def add(self, **values: Tensor) -> None:
        """Takes one value per example, (B,), under each name."""
        for name, value in values.items():
            v = value.detach().double().cpu()
            moments = torch.stack([torch.ones_like(v), v, v.square()]).sum(1)
            self.state[name] = self.state.get(name, torch.zeros(3, dtype=torch.float64)) + moments

    def compute(self) -> dict[str, Measurement]:
        return {name: _measurement(*moments.tolist()) for name, moments in self.state.items()}


def _measurement(n: float, total: float, squares: float) -> Measurement:
    mean = total / n
    if n < 2:
        return Measurement(mean, math.nan, int(n))
    variance = max(squares / n - mean**2, 0) * n / (n - 1)
    return Measurement(mean, math.sqrt(variance / n), int(n))
