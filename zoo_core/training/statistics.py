"""Fitting by sums over the data, such as those of EM: the same on any number of processes."""

import math
from typing import cast

import torch
from torch import Tensor, nn

from zoo_core.components import StatisticalModel
from zoo_core.errors import TrainingError
from zoo_core.training.checkpoints import newest_state, save_state
from zoo_core.training.order import step_indices
from zoo_core.training.run import Run

START = 10_000  # examples from which a fit begins


class Fit(nn.Module):
    """What a run goes on from: a model, and whether it was still gaining.

    Attributes:
        last_two: the objective before the last two updates, nan where there were none.
    """

    last_two: Tensor

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("last_two", torch.full((2,), math.nan, dtype=torch.float64))


class StatisticsRun(Run):
    """Iterations of ``StatisticalModel.update``; a step is a pass over all data.

    It ends after ``steps`` iterations, or before, when the objective has gained less than ``tolerance`` of
    itself. The noise of preprocessing is the same in every iteration: the objective cannot fall by chance.
    """

    def prepare(self) -> None:
        self.steps, self.examples_per_step = self.settings.iterations(), len(self.data)
        self.fitted = cast(StatisticalModel, self.model.to(self.accelerator.device))
        self.fit = Fit(self.model)
        state = newest_state(self.checkpoints)
        self.start = state.step if state else 0
        if state:
            self.fit.load_state_dict(state.objective)
        else:
            seed, n = self.settings.seed, len(self.data)
            self.fitted.begin(self.batch(step_indices(n, min(n, START), 0, seed), seed)["image"])

    @torch.no_grad()
    def step(self, step: int) -> dict[str, Tensor]:
        sums = self._sums()
        objective = sums["objective"] / sums["n"]
        if not torch.isfinite(objective):
            raise TrainingError(
                f"the objective is {float(objective)} at iteration {step}; the model is as it was before it,"
                f" and the last checkpoint is in {self.checkpoints}"
            )
        self.fit.last_two = torch.stack([self.fit.last_two[1], objective.double().cpu()])
        self.fitted.update(sums)
        return {"objective": objective}

    def done(self, step: int) -> bool:
        return step >= self.steps or self._settled()

    def save(self, step: int) -> None:
        if self.main:
            save_state(self.checkpoints, step, self.fit, {}, self.settings.keep)

    def _settled(self) -> bool:
        before, now = self.fit.last_two.tolist()
        if math.isnan(before) or not self.settings.tolerance:
            return False
        return bool(abs(now - before) <= self.settings.tolerance * max(abs(now), math.ulp(1.0)))

    def _sums(self) -> dict[str, Tensor]:
        """The statistics of all data, over all processes."""
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        batches = torch.split(torch.arange(len(self.data)), self.settings.batch)
        sums: dict[str, Tensor] = {}
        for number in range(rank, len(batches), world):
            x = self.batch(batches[number], self.settings.seed, number)["image"]
            for name, value in self.fitted.statistics(x).items():
                sums[name] = sums[name] + value if name in sums else value
        if not sums:
            raise TrainingError(f"training.batch: {self.settings.batch} leaves some of {world} processes without data")
        return {name: self.accelerator.reduce(value, "sum") for name, value in sorted(sums.items())}
