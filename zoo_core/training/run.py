"""What every run has, however its model is fitted: processes, data, a model, a log, a folder, an end."""

import abc
import gc
import os
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from zoo_core.components import GenerativeModel, Measurement
from zoo_core.config import build
from zoo_core.data import Dataset, Preprocessing, load
from zoo_core.errors import TrainingError
from zoo_core.evaluation import evaluate, results
from zoo_core.evaluation.measuring import to_device
from zoo_core.files import write_json
from zoo_core.host import PluginHost
from zoo_core.pretrained import save_pretrained
from zoo_core.randomness import seed_everything
from zoo_core.ready_parts import build_ready
from zoo_core.training.log import RunLog
from zoo_core.training.recipe import Recipe

RECIPE = "recipe.json"


class Run(abc.ABC):
    """One training run, in one process of one or of many. Subclasses say how the model is fitted.

    Args:
        folder: where recipe, log, checkpoints and finally the model go.

    Attributes:
        steps: how many there are; ``start``: how many were done in an earlier life.
        examples_per_step: over all processes.

    Raises:
        TrainingError: it cannot be run as it was launched, or its checkpoint does not fit.
    """

    steps: int
    start: int
    examples_per_step: int

    def __init__(self, recipe: Recipe, folder: Path, *, host: PluginHost | None = None) -> None:
        self.recipe, self.settings, self.folder, self.host = recipe, recipe.training, folder, host
        self.accelerator = Accelerator(kwargs_handlers=self.handlers())
        _require_one_group(self.accelerator)
        self.data, self.held_out = self._load(recipe.data.split), self._load(recipe.data.held_out)
        self.preprocessing = Preprocessing.from_dict(recipe.data.preprocessing)
        seed_everything(self.settings.seed)
        shape = self.preprocessing.data_shape(self.data.data_shape)
        self.model: GenerativeModel = build_ready(recipe.model, "model", host=host, data_shape=shape)
        self.model.before_training(self.data)
        self.prepare()
        self.model.preprocessing, self.model.provenance = self.preprocessing, self._provenance()

    def handlers(self) -> list[Any]:
        """How Accelerate shall wrap what is trained; by its defaults if nothing else is said."""
        return []

    @abc.abstractmethod
    def prepare(self) -> None:
        """Sets the attributes above, and takes up the newest checkpoint if there is one."""

    @abc.abstractmethod
    def step(self, step: int) -> dict[str, Tensor]:
        """Makes one step; returns what to report of it, scalars that are meaned over the processes."""

    @abc.abstractmethod
    def save(self, step: int) -> None:
        """Writes a checkpoint from which the run can go on; called in every process."""

    def held_out_values(self) -> dict[str, float]:
        """What is measured on held-out data on the way; nothing by default."""
        return {}

    def done(self, step: int) -> bool:
        """Whether nothing is left to do after so many steps."""
        return step >= self.steps

    @property
    def main(self) -> bool:
        return bool(self.accelerator.is_main_process)

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def finished(self) -> Path:
        """The folder of the trained model."""
        return self.folder / "model"

    def train(self) -> None:
        """Runs to the end: the model is then in ``finished``."""
        if self.main:
            write_json(self.folder / RECIPE, self.recipe.as_dict())
        with RunLog(self.folder / "log.jsonl", steps=self.steps, start=self.start, main=self.main) as log:
            step = self.start
            while not self.done(step):
                values = self.step(step)
                step += 1
                log.advance(step)
                self._report(step, values, log)
            self._finish(step, log)

    def batch(self, indices: Tensor, *seed: int) -> Any:
        """Preprocessed examples on this process's device; what is random in them depends on ``seed`` alone."""
        seed_everything(*seed)
        return self.preprocessing(to_device(self.data.batch(indices), self.accelerator.device))

    def shut_down(self) -> None:
        """Lets gloo's threads end before the interpreter does: otherwise it aborts now and then."""
        self.accelerator.wait_for_everyone()
        self.release()
        gc.collect()
        self.accelerator.end_training()

    def release(self) -> None:
        """Lets go of what Accelerate has wrapped."""
        self.accelerator.free_memory()

    def _report(self, step: int, values: dict[str, Tensor], log: RunLog) -> None:
        settings, last = self.settings, self.done(step)
        if step % settings.log_every == 0 or last:
            mean = {name: float(self.accelerator.reduce(v.detach(), "mean")) for name, v in values.items()}
            speed = log.steps_per_second() * self.examples_per_step
            log.report("train", {**mean, "examples_per_second": speed})
        if last or (settings.evaluate_every and step % settings.evaluate_every == 0):
            log.report("held_out", self.held_out_values())
        if last or (settings.save_every and step % settings.save_every == 0):
            self.save(step)

    def _finish(self, step: int, log: RunLog) -> None:
        """Saves the trained model, then measures it and saves it with what was measured."""
        settings = self.recipe.evaluation
        self.model.provenance = {**self.model.provenance, "steps": step, "seconds": round(log.seconds(), 1)}
        self._save_model()  # first, since a metric may refuse the model
        measured = self.measure([build(m, "metric", host=self.host) for m in settings.metrics])
        log.report("measured", {name: m.value for name, m in measured.items()})
        told: dict[str, Any] = {"batch": settings.batch, "metrics": settings.metrics, "examples": settings.examples}
        self._save_model(results(measured, self.held_out, **told))

    def _save_model(self, report: dict[str, Any] | None = None) -> None:
        if self.main:
            save_pretrained(self.model, self.finished, results=report, host=self.host)

    def measure(self, metrics: list[Any]) -> dict[str, Measurement]:
        """Metrics on the held-out split, over all processes."""
        settings = self.recipe.evaluation
        return evaluate(self.model, metrics, self.held_out, batch=settings.batch, examples=settings.examples)

    def _load(self, split: str) -> Dataset:
        data = self.recipe.data
        with self.accelerator.main_process_first():  # it fills the cache, the others read it
            return load(data.name, split, host=self.host, **data.options)

    def _provenance(self) -> dict[str, Any]:
        return {
            "recipe": self.recipe.as_dict(),
            "steps": self.steps,
            "examples": len(self.data),
            "data_fingerprint": self.data.fingerprint,
            "processes": self.accelerator.num_processes,
            "device": _device_name(self.accelerator.device),
        }


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
