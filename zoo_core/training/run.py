"""What every run has, however its model is fitted: processes, data, a model, a log, a folder, an end."""

import abc
import platform
import resource
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo_core.components import GenerativeModel
from zoo_core.data import Dataset, load
from zoo_core.data.prefetch import Ahead
from zoo_core.errors import DataError, Stopped, TrainingError
from zoo_core.evaluation import evaluate, measure
from zoo_core.evaluation.results import document
from zoo_core.evaluation.sharing import to_device
from zoo_core.files import replace_json
from zoo_core.host import PluginHost, core_version
from zoo_core.metrics import Measurement
from zoo_core.pretrained import save_pretrained
from zoo_core.randomness import seed_everything
from zoo_core.ready_parts import model_for
from zoo_core.training import pictures
from zoo_core.training.checkpoints import State, checkpoint, clear_leftovers, read_state, save_state
from zoo_core.training.log import RunLog
from zoo_core.training.processes.group import Processes
from zoo_core.training.processes.interruption import Interruption
from zoo_core.training.progress import Progress
from zoo_core.training.recipe import Recipe

RECIPE, ENVIRONMENT = "recipe.json", "environment.json"
CHECKPOINTS = "checkpoints"

Values = dict[str, Tensor | float]  # what is reported of a step, scalars by their names


class _Interrupted(Exception):
    """A measurement was stopped, and the model may be another one than training goes on from."""


class Run(abc.ABC):
    """One training run, in one process of one or of many. Subclasses say how the model is fitted.

    Args:
        folder: where recipe, log, checkpoints and finally the model go.
        resume: the checkpoint to go on from.

    Attributes:
        steps: how many there are; ``start``: how many were done in an earlier life.
        examples_per_step: over all processes.
        stopping: whether any process was told to stop.

    Raises:
        TrainingError: it cannot be run as it was launched, or its checkpoint does not fit.
    """

    steps: int
    examples_per_step: int

    def __init__(
        self,
        recipe: Recipe,
        folder: Path,
        processes: Processes,
        interruption: Interruption,
        *,
        resume: Path | None = None,
        host: PluginHost | None = None,
    ) -> None:
        self.recipe, self.settings, self.folder, self.host = recipe, recipe.training, folder, host
        self.processes, self.interruption, self.stopping = processes, interruption, False
        self.data, self.held_out = self._load(recipe.data.split), self._load(recipe.data.held_out)
        self.ahead = Ahead(self.data)
        seed_everything(self.settings.seed)
        self.model: GenerativeModel = model_for(recipe.model, self.data, recipe.data.preprocessing, host=host)
        state = read_state(resume) if resume else None
        self.start = state.step if state else 0
        own = state is not None and resume is not None and resume.parent == self.checkpoints
        self.saved = self.start if own else None
        self.progress = Progress(**state.facts["progress"]) if state and own else Progress()
        self._require_same_data(state if own else None)
        self.prepare(state)
        self.model.provenance = self._provenance()

    @abc.abstractmethod
    def prepare(self, state: State | None) -> None:
        """Sets ``steps`` and ``examples_per_step``, and what else is needed; takes up a state if there is one."""

    @abc.abstractmethod
    def step(self, step: int) -> Values:
        """Makes one step; returns what to report of it, scalars that are meaned over the processes."""

    @abc.abstractmethod
    def state(self, step: int) -> State:
        """From what the run can go on; called in every process."""

    @abc.abstractmethod
    def take(self, state: State) -> None:
        """Puts the model into the state of an earlier step of this run."""

    def held_out_values(self, step: int) -> dict[str, float]:
        """What is measured on held-out data on the way; nothing by default."""
        return {}

    def done(self, step: int) -> bool:
        """Whether nothing is left to do after so many steps."""
        return step >= self.steps or self.progress.exhausted(self.settings.patience)

    @contextmanager
    def published(self) -> Iterator[None]:
        """Inside, the model is what the run would publish now, whole in every process."""
        yield

    @property
    def checkpoints(self) -> Path:
        return self.folder / CHECKPOINTS

    @property
    def finished(self) -> Path:
        """The folder of the trained model."""
        return self.folder / "model"

    def train(self) -> None:
        """Runs to the end: the model is then in ``finished``.

        Raises:
            Stopped: a process was told to; the checkpoint of that step is written.
        """
        if self.processes.main:
            clear_leftovers(self.folder)
            replace_json(self.folder / RECIPE, self.recipe.as_dict())
            replace_json(self.folder / ENVIRONMENT, self._environment())
        with self._log() as self.log:
            step = self.start
            if step:
                self._milestones(step)  # an earlier life may have ended before it came to them
            while not self.done(step):
                values = self.step(step)
                step += 1
                self.log.advance(step)
                if self._due(step, self.settings.log_every):
                    self._report(values)
                self._milestones(step)
                self._heed(step)
            self.ahead.close()
            try:
                self._finish(step)
            except _Interrupted:
                self._heed(step)

    def batch(self, indices: Tensor, *seed: int, following: Tensor | None = None) -> Any:
        """Preprocessed examples on this process's device; what is random in them depends on ``seed`` alone.

        Args:
            following: those that are likely to be asked for next, to be read meanwhile.
        """
        seed_everything(*seed)
        stored = self.ahead.batch(indices, following)
        return self.model.preprocessing(to_device(stored, self.processes.device))

    def save(self, step: int) -> None:
        """Writes a checkpoint, unless that of this step is there."""
        if self.saved == step:
            return
        state = self.state(step)
        facts = {"progress": self.progress.as_dict(), "data_fingerprint": self.data.fingerprint, **state.facts}
        with self.processes.agreeing():
            if self.processes.main:
                best = self.progress.best_step
                save_state(self.checkpoints, state._replace(facts=facts), keep=self.settings.keep, best=best)
        self.saved = step

    def measure(self, metrics: list[Any]) -> dict[str, Measurement]:
        """Metrics on the held-out split, over all processes; it may be stopped between batches."""
        settings = self.recipe.evaluation
        return evaluate(
            self.model,
            metrics,
            self.held_out,
            batch=settings.batch,
            examples=settings.examples,
            between=self._ask,
        )

    def _log(self) -> RunLog:
        return RunLog(
            self.folder / "log.jsonl",
            steps=self.steps,
            start=self.start,
            main=self.processes.main,
            track=self.processes.track(self.recipe.name, start=self.start),
        )

    def _due(self, step: int, every: int) -> bool:
        return self.done(step) or bool(every and step % every == 0)

    def _report(self, values: Values) -> None:
        speed = self.log.steps_per_second() * self.examples_per_step
        told = {"examples_per_second": speed, "peak_memory_mb": _peak_memory(self.processes.device)}
        self.log.report("train", {**self.processes.mean(values), **told})

    def _milestones(self, step: int) -> None:
        """Evaluation, pictures and checkpoint, as far as they are due and not done."""
        improved = self._due(step, self.settings.evaluate_every) and self._evaluate(step)
        if self._due(step, self.settings.sample_every):
            self._draw(step)
        if improved or self._due(step, self.settings.save_every):
            self.save(step)

    def _evaluate(self, step: int) -> bool:
        """Measures on held-out data; returns whether this is worth a checkpoint: the best so far, where it matters."""
        if self.progress.evaluated == step:
            return False
        try:
            with self.published():
                values = self.held_out_values(step)
        except _Interrupted:
            # Here, where the weights are again those that training goes on from.
            self._heed(step)
            return False
        if not values:
            return False
        self.log.report("held_out", values)
        best = self.progress.take(step, values, self.settings.monitor)
        return best and (self.settings.publish == "best" or self.settings.patience is not None)

    def _draw(self, step: int) -> None:
        path = self.folder / "samples" / f"step-{step:08d}.png"
        if not pictures.draws_pictures(self.model, self.host) or path.exists():
            return
        with self.published():
            if self.processes.main:
                try:
                    pictures.draw(self.model, self.held_out, path, device=self.processes.device)
                except DataError as error:  # it cannot be written
                    raise TrainingError(f"{error}; whole checkpoints stay as they are") from error

    def _heed(self, step: int) -> None:
        """Ends the run here if any process was told to stop."""
        if self.stopping:
            self.save(step)
            self.log.report("stopped", {"step": step})
            raise Stopped(
                f"stopped at step {step} of {self.steps} as it was told to; {checkpoint(self.checkpoints, step)} is"
                " written, and the same command goes on from there"
            )

    def _ask(self) -> None:
        """Ends a measurement if any process was told to stop."""
        (self.stopping,) = self.processes.any(self.interruption.heard)
        if self.stopping:
            raise _Interrupted

    def _finish(self, step: int) -> None:
        """Saves the trained model, then measures it and saves it with what was measured."""
        settings, best = self.recipe.evaluation, self.progress.best_step
        if self.settings.publish == "best" and best not in (None, step):
            self.take(read_state(checkpoint(self.checkpoints, best)))
            step = best
        seconds = round(self.log.seconds(), 1)
        self.model.provenance = {**self.model.provenance, "steps": step, "seconds": seconds}
        with self.published():
            self._save_model()  # first, since a metric may refuse the model
            evaluation = measure(
                self.model, settings.metrics, self.held_out,
                options=self.recipe.data.options, batch=settings.batch, examples=settings.examples,
                between=self._ask, host=self.host,
            )  # fmt: skip
            self.log.report("measured", {name: m["value"] for name, m in evaluation["values"].items()})
            self._save_model(document([evaluation]))

    def _save_model(self, report: dict[str, Any] | None = None) -> None:
        if self.processes.main:
            save_pretrained(self.model, self.finished, results=report, host=self.host)

    def _load(self, split: str) -> Dataset:
        data = self.recipe.data
        with self.processes.main_first():  # it fills the cache, the others read it
            return load(data.name, split, host=self.host, **data.options)

    def _require_same_data(self, state: State | None) -> None:
        before = state.facts["data_fingerprint"] if state else self.data.fingerprint
        if before != self.data.fingerprint:
            raise TrainingError(
                f"the data {self.data.name!r} are others than those that {self.folder} has been trained on so far:"
                " their content has changed; choose another --output to begin anew"
            )

    def _provenance(self) -> dict[str, Any]:
        return {
            "recipe": self.recipe.as_dict(),
            "steps": self.steps,
            "examples": len(self.data),
            "data_fingerprint": self.data.fingerprint,
            "processes": self.processes.world,
            "device": _device_name(self.processes.device),
        }

    def _environment(self) -> dict[str, Any]:
        """Where and how this life of the run is lived."""
        return {
            "command": sys.argv,
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "host": socket.gethostname(),
            "system": platform.platform(),
            "processes": self.processes.world,
            "device": _device_name(self.processes.device),
            "versions": {"python": platform.python_version(), "torch": torch.__version__, "zoo_core": core_version()},
        }


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} thread(s) per process"


def _peak_memory(device: torch.device) -> float:
    """Of the device, or of this process, in MB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    if Path("/proc/self/status").exists():  # what the system call tells there begins with the parent's
        return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) * 1024 / 1e6
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, kilobytes elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
