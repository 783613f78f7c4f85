"""Training a recipe: by gradients or by statistics, whichever its model is made for."""

import contextlib
import json
import logging
import tempfile
from pathlib import Path
from typing import Any

from zoo_core.arguments import join
from zoo_core.errors import CheckpointError, Stopped, TrainingError, ZooError
from zoo_core.host import PluginHost
from zoo_core.training.checkpoints import newest, verify
from zoo_core.training.gradients import GradientRun
from zoo_core.training.processes.group import Processes
from zoo_core.training.processes.interruption import Interruption
from zoo_core.training.reading import parse_recipe
from zoo_core.training.recipe import Recipe
from zoo_core.training.run import CHECKPOINTS, RECIPE, Run
from zoo_core.training.statistics import StatisticsRun

log = logging.getLogger("zoo_core")

# What may be another than before when a run goes on: the result is the same.
WITHOUT_EFFECT = {f"training.{name}" for name in ("parallel", "recompute", "keep", "trackers", "sample_every")}


def train(
    recipe: Recipe, folder: str | Path, *, resume: str | Path = "auto", host: PluginHost | None = None
) -> Path | None:
    """Trains a recipe, or goes on with the run that ``folder`` holds.

    Args:
        resume: ``"auto"`` goes on from the newest whole checkpoint in ``folder``, if there is one; a path, of
            another run or of one of its checkpoints, is where a new run begins.

    Returns:
        The folder of the model, which ``from_pretrained`` loads; None in all processes but the first.

    Raises:
        TrainingError, ConfigError, DataError: with a sentence; what was saved before stays.
        Stopped: the process was told to stop, by SIGTERM or Ctrl-C; the checkpoint of that step is written.
    """
    folder = Path(folder)
    require_same_recipe(recipe, folder, host=host)
    _make(folder)
    processes = Processes(recipe.training.trackers, folder)
    with processes.alone_in(folder), processes.watched(folder), Interruption() as interruption:
        start = _start(recipe, folder, resume, processes, host)
        run: Run | None = _kind(recipe)(recipe, folder, processes, interruption, resume=start, host=host)
        assert run is not None
        stopped, finished = None, run.finished
        try:
            run.train()
        except Stopped as error:
            stopped = error.with_traceback(None)
        except CheckpointError as error:  # the trained model cannot be written
            raise TrainingError(f"{error}; whole checkpoints stay as they are") from error
        except OSError as error:
            raise TrainingError(f"{folder}: {error.strerror or error}; whole checkpoints stay as they are") from error
        run = None  # what it has wrapped must be gone before the connections end
        processes.shut_down()
    if stopped:
        raise stopped
    return finished if processes.main else None


def rehearse(recipe: Recipe, *, host: PluginHost | None = None) -> dict[str, Any]:
    """Builds everything, takes one step and tells sizes; writes nothing that stays."""
    with tempfile.TemporaryDirectory() as folder, Interruption() as interruption:
        processes = Processes()
        run: Run | None = _kind(recipe)(recipe, Path(folder), processes, interruption, host=host)
        assert run is not None
        values = run.step(0)
        sizes = {part: sum(p.numel() for p in m.parameters()) for part, m in run.model.named_children()}
        told = {
            "examples": len(run.data),
            "data shape": run.model.data_shape,
            "steps": run.steps,
            "parameters": sum(p.numel() for p in run.model.parameters()),
            **{f"parameters of {part}": size for part, size in sizes.items()},
            **{f"{name} at the first step": f"{float(value):.4g}" for name, value in values.items()},
        }
        run = None
        processes.shut_down()
    return told


def require_same_recipe(recipe: Recipe, folder: Path, *, host: PluginHost | None = None) -> None:
    """Refuses to go on with a run under another recipe.

    Raises:
        TrainingError: naming what differs.
    """
    changed = _changes(recipe, folder, host)
    if changed:
        raise TrainingError(
            f"{folder} holds a run of another recipe ({changed}); choose another --output, and --resume {folder} if it"
            " shall begin where that one stands"
        )


def _changes(recipe: Recipe, folder: Path, host: PluginHost | None) -> str:
    """What differs between a recipe and that of the run in a folder; empty if nothing does, or if there is none."""
    try:
        before = json.loads((folder / RECIPE).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except (OSError, ValueError) as error:
        raise TrainingError(
            f"{folder / RECIPE} cannot be read, so nobody knows whether the run there is of this recipe: {error};"
            " delete that file if it is, or choose another --output"
        ) from error
    with contextlib.suppress(ZooError, TypeError, ValueError):
        before = parse_recipe(before, host=host).as_dict()  # with the defaults of fields that are newer than the run
    old, new = _leaves(before), _leaves(recipe.as_dict())
    changed = sorted(key for key in (old.keys() | new.keys()) - WITHOUT_EFFECT if old.get(key) != new.get(key))
    more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
    return ", ".join(f"{key} was {old.get(key)}, is {new.get(key)}" for key in changed[:3]) + more


def _start(
    recipe: Recipe, folder: Path, resume: str | Path, processes: Processes, host: PluginHost | None
) -> Path | None:
    """The checkpoint to go on from, as the main process finds it."""
    found = None
    with processes.agreeing():
        if processes.main:
            found = newest(folder / CHECKPOINTS)
            elsewhere = None if str(resume) == "auto" else Path(resume)
            if found and elsewhere:
                log.warning("%s has begun already: going on from %s", folder, found)
            elif elsewhere:
                found = _elsewhere(recipe, elsewhere, host)
    start: Path | None = processes.all(found)[0]
    return start


def _elsewhere(recipe: Recipe, place: Path, host: PluginHost | None) -> Path:
    """The checkpoint at a path: that one, or the newest of that run."""
    if (place / CHECKPOINTS).is_dir():
        found, run = newest(place / CHECKPOINTS), place
    else:
        verify(place)
        found, run = place, place.parent.parent
    if found is None:
        raise TrainingError(f"--resume {place}: there is no checkpoint")
    changed = _changes(recipe, run, host)
    if changed:
        log.warning("going on from %s with another recipe: %s", found, changed)
    return found


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainingError(f"--output {folder}: {error.strerror or error}") from error


def _kind(recipe: Recipe) -> type[Run]:
    return StatisticsRun if recipe.loss is None else GradientRun


def _leaves(tree: Any, path: str = "") -> dict[str, str]:
    """Values of nested dictionaries by dotted path."""
    if not isinstance(tree, dict):
        return {path: json.dumps(tree)}
    return {k: v for key, inner in tree.items() for k, v in _leaves(inner, join(path, key)).items()}
