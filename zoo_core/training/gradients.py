"""Fitting by gradients. Everything random is a function of (seed, step, process), so a resumed run is exact."""

from typing import Any

import torch
from accelerate import DistributedDataParallelKwargs, DistributedType
from torch import Tensor, nn

from zoo_core.components import AdversarialLoss, Batch, GenerativeModel, Loss, LossOutput
from zoo_core.config import build, check
from zoo_core.errors import TrainingError
from zoo_core.training.checkpoints import newest_state, save_state
from zoo_core.training.held_out import LossTerms
from zoo_core.training.order import step_indices
from zoo_core.training.recipe import Training
from zoo_core.training.run import Run
from zoo_core.training.schedules import learning_rate

MODEL, ADVERSARY = "model", "adversary"  # the players, in the order of their steps
BY_TORCH_ALONE = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


class Objective(nn.Module):
    """A loss of a model as one module, so that what Accelerate wraps returns a tuple of tensors."""

    def __init__(self, model: GenerativeModel, loss: Loss, precision: str) -> None:
        super().__init__()
        self.model, self.loss, self.bf16 = model, loss, precision == "bf16"

    def forward(self, batch: Batch, step: int | None, player: str) -> LossOutput:
        self.loss.step = step
        made_small: Any = self.loss if player == MODEL else self.loss.oppose
        # Accelerate's own autocast is fixed for the whole process by the first run in it.
        with torch.autocast(batch["image"].device.type, torch.bfloat16, enabled=self.bf16):
            output: LossOutput = made_small(self.model.given(batch), batch)
        return output

    def parameters_of(self, player: str) -> list[nn.Parameter]:
        """What a player's steps move: the adversary's own, or all others."""
        opponent = list(self.loss.adversary.parameters()) if isinstance(self.loss, AdversarialLoss) else []
        own = {id(parameter) for parameter in opponent}
        return opponent if player == ADVERSARY else [p for p in self.parameters() if id(p) not in own]


class GradientRun(Run):
    """Steps of an optimiser on a loss; a step is a global batch, of which each process takes its share.

    The adversary of an adversarial loss takes its step after the model's, on the same batch.

    Raises:
        TrainingError: the processes cannot share a batch evenly, or the data do not fill one.
    """

    def handlers(self) -> list[Any]:
        adversarial = issubclass(check(self.recipe.loss, "loss", host=self.host), AdversarialLoss)
        # Each player's loss reaches only some of the parameters.
        return [DistributedDataParallelKwargs(find_unused_parameters=True)] if adversarial else []

    def prepare(self) -> None:
        self.steps, self.examples_per_step = self.settings.steps_over(len(self.data)), self.settings.batch
        _require_shares(self.settings.batch, len(self.data), self.accelerator.num_processes)
        self.loss: Loss = build(self.recipe.loss, "loss", host=self.host, **_shapes(self.model))
        objective = Objective(self.model, self.loss, self.settings.precision)
        optimizers = _optimizers(self.settings, objective)
        # Before a checkpoint is taken up, for with it comes the rate of its step.
        self.peaks = {player: o.param_groups[0]["lr"] for player, o in optimizers.items()}
        self.start = self._take_up(objective, optimizers)
        self.objective, *prepared = self.accelerator.prepare(objective, *optimizers.values())
        self.optimizers = {player: self._unwrapped(o) for player, o in zip(optimizers, prepared, strict=True)}
        self.moved = {player: objective.parameters_of(player) for player in optimizers}
        self.objective.train()

    def step(self, step: int) -> dict[str, Tensor]:
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        indices = step_indices(len(self.data), self.settings.batch, step, self.settings.seed)[rank::world]
        batch = self.batch(indices, self.settings.seed, step, rank)
        values: dict[str, Tensor] = {}
        for player in self.optimizers:
            values |= self._move(player, batch, step)
        return values

    def _move(self, player: str, batch: Batch, step: int) -> dict[str, Tensor]:
        """One player's step; what to report of it."""
        rate = self._set_learning_rate(player, step)
        output: LossOutput = self.objective(batch, step, player)
        self._require_finite(output, step)
        self._forget_gradients(player)
        self.accelerator.backward(output.total)
        clipped = self._clip(player)
        self.optimizers[player].step()
        told = {"loss": output.total, **output.terms, **clipped, "learning_rate": output.total.new_tensor(rate)}
        return told if player == MODEL else {f"{player}_{name}": value for name, value in told.items()}

    def held_out_values(self) -> dict[str, float]:
        """The loss and its terms, with schedules ended."""
        return {name: value.value for name, value in self.measure([LossTerms(self.loss)]).items()}

    def save(self, step: int) -> None:
        if self.main:
            objective = self.accelerator.unwrap_model(self.objective)
            save_state(self.checkpoints, step, objective, self.optimizers, self.settings.keep)

    def release(self) -> None:
        self.objective, *_ = self.accelerator.free_memory(self.objective, *self.optimizers.values())
        self.optimizers = {}

    def _take_up(self, objective: nn.Module, optimizers: dict[str, torch.optim.Optimizer]) -> int:
        state = newest_state(self.checkpoints)
        if state is None:
            return 0
        objective.load_state_dict(state.objective)
        for player, optimizer in optimizers.items():
            optimizer.load_state_dict(state.optimizers[player])
        return state.step

    def _unwrapped(self, optimizer: Any) -> torch.optim.Optimizer:
        """Accelerate's wrapper searches the disk for a package at every step, mostly to do nothing else."""
        idle = optimizer.scaler is None and self.accelerator.distributed_type in BY_TORCH_ALONE
        unwrapped: torch.optim.Optimizer = optimizer.optimizer if idle else optimizer
        return unwrapped

    def _forget_gradients(self, player: str) -> None:
        for parameter in self.moved[player]:
            parameter.grad = None

    def _clip(self, player: str) -> dict[str, Any]:
        if self.settings.clip is None:
            return {}
        return {"gradient_norm": self.accelerator.clip_grad_norm_(self.moved[player], self.settings.clip)}

    def _set_learning_rate(self, player: str, step: int) -> float:
        s = self.settings
        rate = learning_rate(step, steps=self.steps, peak=self.peaks[player], warmup=s.warmup, schedule=s.schedule)
        for group in self.optimizers[player].param_groups:
            group["lr"] = rate
        return rate

    def _require_finite(self, output: LossOutput, step: int) -> None:
        if not torch.isfinite(output.total):
            terms = ", ".join(f"{name} {float(value):.4g}" for name, value in output.terms.items())
            total = float(output.total.detach())
            raise TrainingError(
                f"the loss is {total} at step {step} ({terms}); no weight was changed by this step,"
                f" and the last checkpoint is in {self.checkpoints}"
            )


def _shapes(model: GenerativeModel) -> dict[str, tuple[int, ...]]:
    """What a loss with parameters may need to know of the model."""
    return {name: getattr(model, name) for name in ("data_shape", "latent_shape") if hasattr(model, name)}


def _optimizers(settings: Training, objective: Objective) -> dict[str, torch.optim.Optimizer]:
    """The recipe's for the model, and Adam for the loss's adversary if it has one."""
    chosen: Any = OPTIMIZERS[settings.optimizer]
    rest = {"eps": settings.eps, "weight_decay": settings.weight_decay}
    parameters = objective.parameters_of
    optimizers = {MODEL: chosen(parameters(MODEL), lr=settings.lr, betas=tuple(settings.betas), fused=True, **rest)}
    loss = objective.loss
    if isinstance(loss, AdversarialLoss):
        optimizers[ADVERSARY] = torch.optim.Adam(
            parameters(ADVERSARY), lr=loss.adversary_lr, betas=loss.adversary_betas, fused=True
        )
    return optimizers


def _require_shares(batch: int, examples: int, world: int) -> None:
    """Refuses a batch that the processes cannot share evenly, or that the data cannot fill."""
    if batch % world:
        raise TrainingError(f"training.batch: {batch} cannot be shared by {world} processes; use a multiple of {world}")
    if examples < batch:
        raise TrainingError(f"training.batch: {batch} is more than the {examples} examples there are")
