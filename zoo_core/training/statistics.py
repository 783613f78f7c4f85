"""Fitting by sums over the data, such as those of EM: the same on any number of processes."""

import math
from typing import cast

import torch
from torch import Tensor, nn

from zoo_core.components import StatisticalModel
from zoo_core.errors import TrainingError
from zoo_core.randomness import derived_seed
from zoo_core.ready_parts import is_ready
from zoo_core.training.checkpoints import State, load
from zoo_core.training.run import Run, Values

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

    def prepare(self, state: State | None) -> None:
        self.steps, self.examples_per_step = self.settings.iterations(), len(self.data)
        self.fitted = cast(StatisticalModel, self.model.to(self.processes.device))
        self.fit = Fit(self.model)
        if state:
            self.take(state)
        elif not is_ready(self.recipe.model):  # the fit of one that is goes on from where it was
            seed = self.settings.seed
            some = self.data.order(derived_seed(seed, 0))[:START]
            self.fitted.begin(self.batch(some, seed)["image"])

    @torch.no_grad()
    def step(self, step: int) -> Values:
        sums = self._sums()
        objective = sums["objective"] / sums["n"]
        (self.stopping,) = self.processes.any(self.interruption.heard)
        if not torch.isfinite(objective):  # in all processes, since they share the sums
            self.save(step)
            raise TrainingError(
                f"the objective is {float(objective)} at iteration {step}; the model is as it was before it,"
                f" and so is the checkpoint in {self.checkpoints}"
            )
        self.fit.last_two = torch.stack([self.fit.last_two[1], objective.double().cpu()])
        self.fitted.update(sums)
        return {"objective": objective}

    def done(self, step: int) -> bool:
        return super().done(step) or self._settled()

    def state(self, step: int) -> State:
        return State(step, {"objective": self.fit.state_dict()})

    def take(self, state: State) -> None:
        load(self.fit, state)

    def _settled(self) -> bool:
        before, now = self.fit.last_two.tolist()
        if math.isnan(before) or not self.settings.tolerance:
            return False
        return bool(abs(now - before) <= self.settings.tolerance * max(abs(now), math.ulp(1.0)))

    def _sums(self) -> dict[str, Tensor]:
        """The statistics of all data, over all processes."""
        rank, world = self.processes.rank, self.processes.world
        batches = torch.split(torch.arange(len(self.data)), self.settings.batch)
        sums: dict[str, Tensor] = {}
        own = range(rank, len(batches), world)
        for number in own:
            following = batches[number + world if number + world in own else rank]
            x = self.batch(batches[number], self.settings.seed, number, following=following)["image"]
            for name, value in self.fitted.statistics(x).items():
                sums[name] = sums[name] + value if name in sums else value
        if not sums:
            raise TrainingError(f"training.batch: {self.settings.batch} leaves some of {world} processes without data")
        return {name: self.processes.sum(value) for name, value in sorted(sums.items())}
