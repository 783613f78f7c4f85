"""The training loop. Everything random is a function of (seed, step, process), so a resumed run is exact."""

import gc
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from zoo_core.arguments import join
from zoo_core.components import Batch, GenerativeModel, Loss, LossOutput, Measurement
from zoo_core.config import build
from zoo_core.data import Dataset, Preprocessing, load
from zoo_core.errors import TrainingError
from zoo_core.evaluation import evaluate, results
from zoo_core.evaluation.measuring import to_device
from zoo_core.files import write_json
from zoo_core.host import PluginHost
from zoo_core.pretrained import save_pretrained
from zoo_core.randomness import seed_everything
from zoo_core.training.checkpoints import newest_state, save_state
from zoo_core.training.held_out import LossTerms
from zoo_core.training.log import RunLog
from zoo_core.training.order import step_indices
from zoo_core.training.recipe import Recipe
from zoo_core.training.schedules import learning_rate

RECIPE = "recipe.json"
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


class Run:
    """One training run, in one process of one or of many.

    Args:
        folder: where recipe, log, checkpoints and finally the model go.

    Raises:
        TrainingError: it cannot be run as it was launched, or the data are fewer than a batch.
    """

    def __init__(self, recipe: Recipe, folder: Path, *, host: PluginHost | None = None) -> None:
        self.recipe, self.settings, self.folder, self.host = recipe, recipe.training, folder, host
        self.accelerator = Accelerator()
        _require_one_group(self.accelerator)
        self.data, self.held_out = self._load(recipe.data.split), self._load(recipe.data.held_out)
        self.preprocessing = Preprocessing.from_dict(recipe.data.preprocessing)
        self.steps = self.settings.steps_over(len(self.data))
        _require_shares(self.settings.batch, len(self.data), self.accelerator.num_processes)
        seed_everything(self.settings.seed)
        shape = self.preprocessing.data_shape(self.data.data_shape)
        self.model: GenerativeModel = build(recipe.model, "model", host=host, data_shape=shape)
        self.model.preprocessing, self.model.provenance = self.preprocessing, self._provenance()
        loss: Loss = build(recipe.loss, "loss", host=host)
        objective = Objective(self.model, loss, self.settings.precision)
        optimizer = _optimizer(recipe, objective)
        self.start = self._restore(objective, optimizer)
        self.objective, self.optimizer = self.accelerator.prepare(objective, optimizer)

    @property
    def main(self) -> bool:
        return bool(self.accelerator.is_main_process)

    @property
    def finished(self) -> Path:
        """The folder of the trained model."""
        return self.folder / "model"

    def train(self) -> Path:
        """Runs to the end and returns the folder of the model, which ``from_pretrained`` loads."""
        if self.main:
            write_json(self.folder / RECIPE, self.recipe.as_dict())
        with RunLog(self.folder / "log.jsonl", steps=self.steps, start=self.start, main=self.main) as log:
            self.objective.train()
            for step in range(self.start, self.steps):
                output, norm = self.step(step)
                log.advance(step + 1)
                self._report(step + 1, output, norm, log)
            self._finish(log)
        return self.finished

    def step(self, step: int) -> tuple[LossOutput, Tensor | None]:
        """One optimiser step on the global batch of that number."""
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        seed_everything(self.settings.seed, step, rank)
        indices = step_indices(len(self.data), self.settings.batch, step, self.settings.seed)[rank::world]
        batch = self.preprocessing(to_device(self.data.batch(indices), self.accelerator.device))
        self._set_learning_rate(step)
        output: LossOutput = self.objective(batch, step)
        self._require_finite(output, step)
        self.optimizer.zero_grad()
        self.accelerator.backward(output.total)
        norm = None
        if self.settings.clip is not None:
            norm = self.accelerator.clip_grad_norm_(self.objective.parameters(), self.settings.clip)
        self.optimizer.step()
        return output, norm

    def evaluate(self) -> dict[str, float]:
        """The loss's terms, meaned over the held-out split, with schedules ended."""
        objective: Any = self.accelerator.unwrap_model(self.objective)
        measured = self._measure([LossTerms(objective.loss)])
        return {name: value.value for name, value in measured.items()}

    def save(self, step: int) -> None:
        """Writes a checkpoint from which the run can go on."""
        if self.main:
            objective = self.accelerator.unwrap_model(self.objective)
            save_state(self.folder / "checkpoints", step, objective, self.optimizer, self.settings.keep)

    def _report(self, step: int, output: LossOutput, norm: Tensor | None, log: RunLog) -> None:
        settings, last = self.settings, step == self.steps
        if step % settings.log_every == 0 or last:
            values = {"loss": output.total, **output.terms, **({} if norm is None else {"gradient_norm": norm})}
            mean = {name: float(self.accelerator.reduce(v.detach(), "mean")) for name, v in values.items()}
            speed = log.steps_per_second() * settings.batch
            rate = self.optimizer.param_groups[0]["lr"]
            log.report("train", {**mean, "learning_rate": rate, "examples_per_second": speed})
        if last or (settings.evaluate_every and step % settings.evaluate_every == 0):
            log.report("held_out", self.evaluate())
        if last or (settings.save_every and step % settings.save_every == 0):
            self.save(step)

    def _finish(self, log: RunLog) -> None:
        """Measures the trained model and saves it with what was measured."""
        settings = self.recipe.evaluation
        measured = self._measure([build(m, "metric", host=self.host) for m in settings.metrics])
        log.report("measured", {name: m.value for name, m in measured.items()})
        self.model.provenance = {**self.model.provenance, "seconds": round(log.seconds(), 1)}
        if self.main:
            report = results(measured, self.held_out, batch=settings.batch, metrics=settings.metrics)
            save_pretrained(self.model, self.finished, results=report, host=self.host)

    def _measure(self, metrics: list[Any]) -> dict[str, Measurement]:
        settings = self.recipe.evaluation
        return evaluate(self.model, metrics, self.held_out, batch=settings.batch, examples=settings.examples)

    def _load(self, split: str) -> Dataset:
        data = self.recipe.data
        with self.accelerator.main_process_first():  # it fills the cache, the others read it
            return load(data.name, split, host=self.host, **data.options)

    def _restore(self, objective: nn.Module, optimizer: torch.optim.Optimizer) -> int:
        state = newest_state(self.folder / "checkpoints")
        if state is None:
            return 0
        objective.load_state_dict(state.objective)
        optimizer.load_state_dict(state.optimizer)
        return state.step

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
                f" and the last checkpoint is in {self.folder / 'checkpoints'}"
            )

    def _provenance(self) -> dict[str, Any]:
        return {
            "recipe": self.recipe.as_dict(),
            "steps": self.steps,
            "examples": len(self.data),
            "data_fingerprint": self.data.fingerprint,
            "processes": self.accelerator.num_processes,
            "device": _device_name(self.accelerator.device),
        }


def train(recipe: Recipe, folder: str | Path, *, host: PluginHost | None = None) -> Path | None:
    """Trains a recipe, or goes on with the run that ``folder`` holds.

    Returns the folder of the model, which ``from_pretrained`` loads; None in all processes but the first.

    Raises:
        TrainingError, ConfigError, DataError: with a sentence; what was saved before stays.
    """
    folder = Path(folder)
    _require_same_recipe(recipe, folder)
    folder.mkdir(parents=True, exist_ok=True)
    run = Run(recipe, folder, host=host)
    run.train()
    finished = run.finished if run.main else None
    _shut_down(run)
    return finished


def rehearse(recipe: Recipe, *, host: PluginHost | None = None) -> dict[str, Any]:
    """Builds everything, takes one step and tells sizes; writes nothing."""
    with tempfile.TemporaryDirectory() as folder:
        run = Run(recipe, Path(folder), host=host)
        output, _ = run.step(0)
        sizes = {part: sum(p.numel() for p in m.parameters()) for part, m in run.model.named_children()}
        told = {
            "examples": len(run.data),
            "data shape": run.model.data_shape,
            "steps": run.steps,
            "parameters": sum(sizes.values()),
            **{f"parameters of {part}": size for part, size in sizes.items()},
            "loss at the first step": round(float(output.total.detach()), 3),
        }
        _shut_down(run)
    return told


def _require_same_recipe(recipe: Recipe, folder: Path) -> None:
    """Refuses to go on with a run under another recipe.

    Raises:
        TrainingError: naming what differs.
    """
    try:
        before = json.loads((folder / RECIPE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    old, new = _leaves(before), _leaves(recipe.as_dict())
    changed = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
    if changed:
        told = ", ".join(f"{key} was {old.get(key)}, is {new.get(key)}" for key in changed[:3])
        raise TrainingError(f"{folder} holds a run of another recipe ({told}); choose another --output")


def _leaves(tree: Any, path: str = "") -> dict[str, str]:
    """Values of nested dictionaries by dotted path."""
    if not isinstance(tree, dict):
        return {path: json.dumps(tree)}
    return {k: v for key, inner in tree.items() for k, v in _leaves(inner, join(path, key)).items()}


def _shut_down(run: Run) -> None:
    """Lets gloo's threads end before the interpreter does: otherwise it aborts now and then."""
    accelerator = run.accelerator
    accelerator.wait_for_everyone()
    run.objective, run.optimizer = accelerator.free_memory(run.objective, run.optimizer)
    gc.collect()
    accelerator.end_training()


def _optimizer(recipe: Recipe, objective: nn.Module) -> torch.optim.Optimizer:
    s = recipe.training
    kind: Any = OPTIMIZERS[s.optimizer]
    optimizer: torch.optim.Optimizer = kind(
        objective.parameters(), lr=s.lr, betas=tuple(s.betas), eps=s.eps, weight_decay=s.weight_decay, fused=True
    )
    return optimizer


def _require_one_group(accelerator: Accelerator) -> None:
    """Refuses processes that were launched together but do not know of each other.

    ``accelerate launch`` does that on a CPU, and each of them would write into the same folder.
    """
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched != accelerator.num_processes:
        raise TrainingError(
            f"{launched} processes were launched but each trains alone; on a CPU use: ACCELERATE_USE_CPU=true"
            f" accelerate launch --multi_gpu --num_processes {launched} -m zoo_core.training RECIPE"
        )


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} thread(s) per process"


def _require_shares(batch: int, examples: int, world: int) -> None:
    """Refuses a batch that the processes cannot share evenly, or that the data cannot fill."""
    if batch % world:
        raise TrainingError(f"training.batch: {batch} cannot be shared by {world} processes; use a multiple of {world}")
    if examples < batch:
        raise TrainingError(f"training.batch: {batch} is more than the {examples} examples there are")
