"""Fitting by gradients. Everything random is a function of (seed, step, micro-batch), so a resumed run is exact."""

import logging
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from zoo_core import budget
from zoo_core.components import AdversarialLoss, Batch, Component, GenerativeModel, Loss, LossOutput
from zoo_core.config import build
from zoo_core.errors import TrainingError
from zoo_core.randomness import seed_everything
from zoo_core.training.averages import Average
from zoo_core.training.checkpoints import State, load
from zoo_core.training.guard import diagnosis
from zoo_core.training.held_out import LossTerms
from zoo_core.training.objective import ADVERSARY, MODEL, Objective, compile_networks, computes_in_bf16
from zoo_core.training.order import Order
from zoo_core.training.processes.placement import wrapping
from zoo_core.training.processes.wrapping import recompute
from zoo_core.training.recipe import Training
from zoo_core.training.run import Run, Values
from zoo_core.training.schedules import learning_rate
from zoo_core.training.tuning.fine_tuning import adapt
from zoo_core.training.tuning.lora import merged

log = logging.getLogger("zoo_core")

OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


class Part(NamedTuple):
    """A micro-batch: its number in the batch, its examples, and its weight in this process's mean."""

    number: int
    batch: Batch
    weight: float


class GradientRun(Run):
    """Steps of an optimiser on a loss; a step is a global batch, of which each process takes its share.

    The adversary of an adversarial loss takes its step after the model's, on the same batch.

    Raises:
        TrainingError: the processes cannot share a batch evenly, or the data do not fill one.
    """

    def prepare(self, state: State | None) -> None:
        settings = self.settings
        self.order = Order(self.data, settings, self.processes.world)
        self.steps, self.examples_per_step = self.order.steps(settings), settings.batch
        adapt(self.model, freeze=settings.freeze, lora=settings.lora)
        budget.require(self.recipe.loss, "loss", host=self.host, **_shapes(self.model))
        self.loss: Loss = build(self.recipe.loss, "loss", host=self.host, **_shapes(self.model))
        self.objective = Objective(self.model, self.loss, bf16=self._bf16())
        self._lay_out()
        if state:
            load(self.objective, state)
        self.wrapping = wrapping(self.processes.accelerator, settings.parallel)
        self.wrapped = self.wrapping.wrap(self.objective, unused=len(self.objective.players()) > 1)
        self.optimizers = _optimizers(settings, self.objective)
        self.peaks = {player: o.param_groups[0]["lr"] for player, o in self.optimizers.items()}
        self.moved = {player: self.objective.parameters_of(player) for player in self.optimizers}
        names = state.tensors.get("average") if state else None
        self.average = Average(self.model, settings.ema, names) if settings.ema is not None else None
        if state:
            self._take_optimizers(state)
        own = [module for module in self.objective.modules() if isinstance(module, Component)]
        self.learners = [module for module in own if type(module).after_step is not Component.after_step]
        self.objective.train()

    def step(self, step: int) -> Values:
        values: Values = {}
        parts: Iterable[Part] = self._parts(step)
        for player in self.optimizers:
            parts, told = self._move(player, parts, step)
            values |= told
        if self.learners:
            seed_everything(self.settings.seed, step)
            for learner in self.learners:
                if learner.training:  # what is frozen is not
                    learner.after_step()
        if self.average:
            self.average.update(step)
        return values

    def state(self, step: int) -> State:
        tensors = {"objective": self.wrapping.state_dict(self.objective)}
        if self.average:
            tensors["average"] = {name: self.wrapping.whole(value) for name, value in self.average.values.items()}
        return State(step, tensors, {player: self._whole(o) for player, o in self.optimizers.items()})

    def take(self, state: State) -> None:
        with torch.no_grad():
            for name, value in self.objective.state_dict().items():
                value.copy_(self.wrapping.like(state.tensors["objective"][name], value))
        self._take_average(state)

    def held_out_values(self, step: int) -> dict[str, float]:
        """The loss and its terms, with schedules ended."""
        return {name: value.value for name, value in self.measure([LossTerms(self.loss)]).items()}

    @contextmanager
    def published(self) -> Iterator[None]:
        averaged = self.average.in_place() if self.average else nullcontext()
        with averaged, self.wrapping.gathered(self.objective), merged(self.model):
            yield

    def _bf16(self) -> bool:
        chosen = self.settings.precision
        return chosen == "bf16" or (chosen == "auto" and computes_in_bf16(self.processes.device))

    def _lay_out(self) -> None:
        """How the model is computed, which changes none of its values."""
        if self.settings.channels_last:
            self.objective.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self.settings.recompute:
            recompute(self.objective)
        if self.settings.compile:
            compile_networks(self.model)

    def _parts(self, step: int) -> Iterator[Part]:
        """This process's micro-batches of a step, each made when it is asked for."""
        seed, world, rank = self.settings.seed, self.processes.world, self.processes.rank
        indices = self.order.step(step)
        for number in range(rank, self.order.parts, world):
            own, further = indices[number :: self.order.parts], number + world
            next_place = (step, further) if further < self.order.parts else (step + 1, rank)
            following = self.order.part(*next_place) if self.data.prefetch else None
            # Processes are meaned over, examples are not.
            weight = len(own) / len(indices) * world
            yield Part(number, self.batch(own, seed, step, number, following=following), weight)

    def _move(self, player: str, parts: Iterable[Part], step: int) -> tuple[list[Part], Values]:
        """One player's step; the micro-batches where another player follows, and what to report."""
        rate = self._set_learning_rate(player, step)
        kept, sums = list[Part](), dict[str, Tensor]()
        self._forget_gradients(player)
        count = -(-self.order.parts // self.processes.world)
        for i, part in enumerate(parts):
            if player != MODEL:
                seed_everything(self.settings.seed, step, part.number, 1)
            with self.wrapping.sync(self.wrapped, i == count - 1):
                output: LossOutput = self.wrapped(part.batch, step, player)
                _weighted(output.total, part.weight).backward()  # type: ignore[no-untyped-call]
            for name, value in {"loss": output.total, **output.terms}.items():
                own = _weighted(value.detach(), part.weight)
                sums[name] = sums[name] + own if name in sums else own
            if len(self.optimizers) > 1 or i == count - 1:
                kept.append(part)
        norm = self.wrapping.norm(self.moved[player])
        self._require_finite(sums, norm, kept[-1], player, step)
        if self.settings.clip is not None:
            self.wrapping.clip(self.moved[player], norm, self.settings.clip)
        self.optimizers[player].step()
        told: Values = {**sums, "gradient_norm": norm, "learning_rate": rate}
        return kept, told if player == MODEL else {f"{player}_{name}": value for name, value in told.items()}

    def _forget_gradients(self, player: str) -> None:
        for parameter in self.moved[player]:
            parameter.grad = None

    def _set_learning_rate(self, player: str, step: int) -> float:
        s = self.settings
        rate = learning_rate(step, steps=self.steps, peak=self.peaks[player], warmup=s.warmup, schedule=s.schedule)
        for group in self.optimizers[player].param_groups:
            group["lr"] = rate
        return rate

    def _require_finite(self, sums: dict[str, Tensor], norm: Tensor, part: Part, player: str, step: int) -> None:
        """Refuses the step in all processes if in any the loss or the gradient is no number."""
        wrong = not (math.isfinite(float(sums["loss"])) and math.isfinite(float(norm)))
        wrong, self.stopping = self.processes.any(wrong, self.interruption.heard)
        if wrong:
            complaints = filter(None, self.processes.all(self._complaint(sums, norm, part, player, step)))
            # The gradient is that of all processes, the loss of those alone in which it is no number.
            told = min(complaints, key=lambda complaint: not complaint.startswith("the loss"))
            self._forget_gradients(player)
            if player != MODEL:
                raise TrainingError(f"{told}; the model had made this step by then, so go on from {self.checkpoints}")
            self.save(step)
            raise TrainingError(
                f"{told}; no weight was changed by this step, and the checkpoint from before it is in"
                f" {self.checkpoints}"
            )

    def _complaint(self, sums: dict[str, Tensor], norm: Tensor, part: Part, player: str, step: int) -> str:
        """What is no number in this process, and where it comes from; empty if all is well here."""

        def again(part: Part) -> None:
            seed_everything(self.settings.seed, step, part.number, *(() if player == MODEL else (1,)))
            self.objective(part.batch, step, player)

        values = {"the loss": float(sums["loss"]), "the norm of the gradient": float(norm)}
        wrong = [f"{name} is {value}" for name, value in values.items() if not math.isfinite(value)]
        if not wrong:
            return ""
        terms = ", ".join(f"{name} {float(value):.4g}" for name, value in sums.items() if name != "loss")
        alone = self.settings.parallel == "ddp" or self.processes.world == 1
        parts = [part] if self.order.parts == self.processes.world else self._parts(step)
        cause = diagnosis(self.objective, ((p.batch, partial(again, p) if alone else None) for p in parts))
        return f"{wrong[0]} at step {step} ({terms}){': ' if cause else ''}{cause}"

    def _take_optimizers(self, state: State) -> None:
        for player, optimizer in self.optimizers.items():
            saved, groups = state.optimizers[player], optimizer.state_dict()["param_groups"]
            if [group["params"] for group in groups] != [group["params"] for group in saved["param_groups"]]:
                log.warning("the optimiser begins anew, for %s does not train the same parameters", state.origin)
                continue
            entries = {
                i: {key: self._sharded(value, self.moved[player][i]) for key, value in entry.items()}
                for i, entry in saved["state"].items()
            }
            # Rates and the like are the recipe's, which may be another one than that of the checkpoint.
            optimizer.load_state_dict({"state": entries, "param_groups": groups})
        if "average" in state.tensors:
            self._take_average(state)

    def _take_average(self, state: State) -> None:
        if self.average:
            saved, own = state.tensors["average"], self.average.values
            self.average.take({name: self.wrapping.like(saved[name], value) for name, value in own.items()})

    def _sharded(self, value: Tensor, parameter: Tensor) -> Tensor:
        """This process's share, laid out in memory as the parameter is: a fused step takes that for granted."""
        if value.shape != parameter.shape:
            return value
        return torch.empty_like(parameter, dtype=value.dtype).copy_(self.wrapping.like(value, parameter))

    def _whole(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        state = optimizer.state_dict()
        whole = {i: {k: self.wrapping.whole(v) for k, v in entry.items()} for i, entry in state["state"].items()}
        return {**state, "state": whole}


def _weighted(value: Tensor, weight: float) -> Tensor:
    return value if weight == 1 else value * weight


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
