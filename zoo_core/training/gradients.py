"""Fitting by gradients. Everything random is a function of (seed, step, process), so a resumed run is exact."""

from typing import Any

import torch
from torch import Tensor, nn

from zoo_core.components import Batch, GenerativeModel, Loss, LossOutput
from zoo_core.config import build
from zoo_core.errors import TrainingError
from zoo_core.training.checkpoints import newest_state, save_state
from zoo_core.training.held_out import LossTerms
from zoo_core.training.order import step_indices
from zoo_core.training.recipe import Training
from zoo_core.training.run import Run
from zoo_core.training.schedules import learning_rate

OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


class Objective(nn.Module):
    """A loss of a model as one module, so that what Accelerate wraps returns a tuple of tensors."""

    def __init__(self, model: GenerativeModel, loss: Loss, precision: str) -> None:
        super().__init__()
        self.model, self.loss, self.bf16 = model, loss, precision == "bf16"

    def forward(self, batch: Batch, step: int | None) -> LossOutput:
        self.loss.step = step
        # Accelerate's own autocast is fixed for the whole process by the first run in it.
        with torch.autocast(batch["image"].device.type, torch.bfloat16, enabled=self.bf16):
            output: LossOutput = self.loss(self.model, batch)
        return output


class GradientRun(Run):
    """Steps of an optimiser on a loss; a step is a global batch, of which each process takes its share.

    Raises:
        TrainingError: the processes cannot share a batch evenly, or the data do not fill one.
    """

    def prepare(self) -> None:
        self.steps, self.examples_per_step = self.settings.steps_over(len(self.data)), self.settings.batch
        _require_shares(self.settings.batch, len(self.data), self.accelerator.num_processes)
        self.loss: Loss = build(self.recipe.loss, "loss", host=self.host)
        objective = Objective(self.model, self.loss, self.settings.precision)
        optimizer = _optimizer(self.settings, objective)
        self.start = self._take_up(objective, optimizer)
        self.objective, self.optimizer = self.accelerator.prepare(objective, optimizer)
        self.objective.train()

    def step(self, step: int) -> dict[str, Tensor]:
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        indices = step_indices(len(self.data), self.settings.batch, step, self.settings.seed)[rank::world]
        batch = self.batch(indices, self.settings.seed, step, rank)
        self._set_learning_rate(step)
        output: LossOutput = self.objective(batch, step)
        self._require_finite(output, step)
        self.optimizer.zero_grad()
        self.accelerator.backward(output.total)
        clipped = self._clip()
        self.optimizer.step()
        rate = torch.tensor(self.optimizer.param_groups[0]["lr"], device=output.total.device)
        return {"loss": output.total, **output.terms, **clipped, "learning_rate": rate}

    def held_out_values(self) -> dict[str, float]:
        """The loss and its terms, with schedules ended."""
        return {name: value.value for name, value in self.measure([LossTerms(self.loss)]).items()}

    def save(self, step: int) -> None:
        if self.main:
            objective = self.accelerator.unwrap_model(self.objective)
            save_state(self.checkpoints, step, objective, self.optimizer, self.settings.keep)

    def release(self) -> None:
        self.objective, self.optimizer = self.accelerator.free_memory(self.objective, self.optimizer)

    def _take_up(self, objective: nn.Module, optimizer: torch.optim.Optimizer) -> int:
        state = newest_state(self.checkpoints)
        if state is None:
            return 0
        objective.load_state_dict(state.objective)
        optimizer.load_state_dict(state.optimizer)
        return state.step

    def _clip(self) -> dict[str, Any]:
        if self.settings.clip is None:
            return {}
        return {"gradient_norm": self.accelerator.clip_grad_norm_(self.objective.parameters(), self.settings.clip)}

    def _set_learning_rate(self, step: int) -> None:
        s = self.settings
        rate = learning_rate(step, steps=self.steps, peak=s.lr, warmup=s.warmup, schedule=s.schedule)
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def _require_finite(self, output: LossOutput, step: int) -> None:
        if not torch.isfinite(output.total):
            terms = ", ".join(f"{name} {float(value):.4g}" for name, value in output.terms.items())
            total = float(output.total.detach())
            raise TrainingError(
                f"the loss is {total} at step {step} ({terms}); no weight was changed by this step,"
                f" and the last checkpoint is in {self.checkpoints}"
            )


def _optimizer(settings: Training, objective: nn.Module) -> torch.optim.Optimizer:
    kind: Any = OPTIMIZERS[settings.optimizer]
    optimizer: torch.optim.Optimizer = kind(
        objective.parameters(),
        lr=settings.lr,
        betas=tuple(settings.betas),
        eps=settings.eps,
        weight_decay=settings.weight_decay,
        fused=True,
    )
    return optimizer


def _require_shares(batch: int, examples: int, world: int) -> None:
    """Refuses a batch that the processes cannot share evenly, or that the data cannot fill."""
    if batch % world:
        raise TrainingError(f"training.batch: {batch} cannot be shared by {world} processes; use a multiple of {world}")
    if examples < batch:
        raise TrainingError(f"training.batch: {batch} is more than the {examples} examples there are")
