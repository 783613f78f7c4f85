"""How far a run has come by what was measured on held-out data: the best so far, and whether to go on."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from zoo_core.errors import TrainingError


@dataclass
class Progress:
    """The evaluations of a run, the smallest value being the best.

    Attributes:
        evaluated: the step of the last one.
        best, best_step: the best value and its step; None before the first.
        waited: how many evaluations there were since.
    """

    evaluated: int = 0
    best: float | None = None
    best_step: int | None = None
    waited: int = 0

    def take(self, step: int, values: Mapping[str, float], monitor: str) -> bool:
        """Takes an evaluation into account; returns whether it is the best so far.

        Raises:
            TrainingError: nothing of the name ``monitor`` was measured.
        """
        self.evaluated = step
        if monitor not in values:
            raise TrainingError(
                f"training.monitor: no {monitor!r} is measured; there are: {', '.join(values) or 'none'}"
            )
        value = values[monitor]
        if math.isfinite(value) and (self.best is None or value < self.best):
            self.best, self.best_step, self.waited = value, step, 0
            return True
        self.waited += 1
        return False

    def exhausted(self, patience: int | None) -> bool:
        """Whether the last so many evaluations brought nothing better."""
        return patience is not None and self.waited >= patience

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)
