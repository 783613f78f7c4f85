"""A loss measured like a metric, on held-out data."""

from typing import Any

import torch

from zoo_core.components import Batch, Loss
from zoo_core.metrics import Measurement, Metric


class LossTerms(Metric):
    """The total and the terms of a loss, meaned over examples, with schedules ended."""

    def __init__(self, loss: Loss) -> None:
        super().__init__()
        self.loss = loss

    @torch.no_grad()
    def update(self, model: Any, batch: Batch) -> None:
        self.loss.step = None
        output = self.loss(model, batch)
        n = len(batch["image"])
        for name, value in {"loss": output.total, **output.terms}.items():
            sums = torch.tensor([n, n * float(value)], dtype=torch.float64)
            self.state[name] = self.state.get(name, torch.zeros(2, dtype=torch.float64)) + sums

    def compute(self) -> dict[str, Measurement]:
        return {k: Measurement(float(s / n), float("nan"), int(n)) for k, (n, s) in self.state.items()}
