"""Training state on disk: safetensors and JSON in folders that are whole or not there; never a pickle."""

import contextlib
import json
import logging
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from zoo_core.errors import TrainingError
from zoo_core.files import WRITING, whole_folder, write_json
from zoo_core.weights import digest

log = logging.getLogger("zoo_core")

MANIFEST, STATE = "manifest.json", "state.json"
STEP = re.compile(r"step-(\d+)")


class State(NamedTuple):
    """What a run needs to go on at ``step``: the step fixes data, randomness and learning rate by itself.

    Attributes:
        tensors: named tensors by what they are: ``objective``, and ``average`` if there is one.
        optimizers: state dictionaries, by player.
        facts: whatever else, as JSON knows it.
        origin: where it was read.
    """

    step: int
    tensors: Mapping[str, Mapping[str, Tensor]]
    optimizers: Mapping[str, Mapping[str, Any]] = {}
    facts: Mapping[str, Any] = {}
    origin: Path | None = None


def save_state(folder: Path, state: State, *, keep: int, best: int | None = None) -> Path:
    """Writes ``folder/step-<step>``, then deletes all but the newest ``keep`` and that of step ``best``.

    Raises:
        TrainingError: it cannot be written; older checkpoints stay.
    """
    target = checkpoint(folder, state.step)
    try:
        with whole_folder(target) as temporary:
            _write(temporary, state)
    except (OSError, SafetensorError) as error:
        cause = getattr(error, "strerror", None) or error
        raise TrainingError(f"cannot write the checkpoint {target}: {cause}; older ones stay") from error
    # Those of later steps are damaged: the run has gone on from an earlier one.
    upto = [path for path in checkpoints(folder) if _step(path) <= state.step]
    for old in upto[keep:]:
        if best is None or old != checkpoint(folder, best):
            _delete(old)
    return target


def clear_leftovers(run: Path) -> None:
    """Deletes what an earlier life of a run was about to write, or to delete, when it was killed."""
    for leftover in (
        path for place in (run, run / "checkpoints", run / "samples") for path in place.glob(f"{WRITING}*")
    ):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def newest(folder: Path) -> Path | None:
    """The newest checkpoint that is whole; each damaged one after it is named in a warning.

    Raises:
        TrainingError: there are some, but none of them is whole.
    """
    found = checkpoints(folder)
    for path in found:
        try:
            verify(path)
            return path
        except TrainingError as error:
            log.warning("%s; using the one before", error)
    if found:
        raise TrainingError(f"no checkpoint in {folder} is whole; to begin anew, choose another --output")
    return None


def checkpoint(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return folder / f"step-{step:08d}"


def checkpoints(folder: Path) -> list[Path]:
    """Those there are, the newest first."""
    found = [path for path in folder.glob("step-*") if STEP.fullmatch(path.name)]
    return sorted(found, key=_step, reverse=True)


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def _delete(folder: Path) -> None:
    """Its name goes first: half a checkpoint must not have one."""
    leftover = folder.with_name(f"{WRITING}{folder.name}")
    with contextlib.suppress(OSError):
        folder.rename(leftover)
        shutil.rmtree(leftover)


def verify(folder: Path) -> None:
    """Refuses a checkpoint that is not as it was written.

    Raises:
        TrainingError: naming the file.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        wrong = [name for name, told in manifest.items() if _fingerprint(folder / name) != told]
    except (OSError, ValueError, AttributeError) as error:
        raise TrainingError(f"checkpoint {folder} is damaged: {error}") from error
    if wrong or STATE not in manifest:
        raise TrainingError(f"checkpoint {folder} is damaged: {(wrong or [MANIFEST])[0]} is not as it was written")


def read_state(folder: Path) -> State:
    """What was saved there.

    Raises:
        TrainingError: it is damaged.
    """
    verify(folder)
    told = json.loads((folder / STATE).read_text(encoding="utf-8"))
    optimizers = {
        player: _unflat(load_file(folder / f"optimizer-{player}.safetensors"), rest)
        for player, rest in told["optimizers"].items()
    }
    tensors = {name: load_file(folder / f"{name}.safetensors") for name in told["tensors"]}
    return State(told["step"], tensors, optimizers, told["facts"], folder)


def load(objective: nn.Module, state: State) -> None:
    """Puts what is trained into a state.

    Raises:
        TrainingError: it is the state of something else.
    """
    try:
        objective.load_state_dict(dict(state.tensors["objective"]))
    except RuntimeError as error:
        cause = str(error).splitlines()[1:2] or [str(error)]
        raise TrainingError(f"checkpoint {state.origin} does not fit this recipe: {cause[0].strip()}") from error


def _write(folder: Path, state: State) -> None:
    for name, tensors in state.tensors.items():
        # Copies, for safetensors refuses what shares memory with another tensor.
        save_file({key: _copied(value) for key, value in tensors.items()}, folder / f"{name}.safetensors")
    rests = {}
    for player, optimizer in state.optimizers.items():
        tensors, rests[player] = _flat(optimizer)
        save_file(tensors, folder / f"optimizer-{player}.safetensors")
    told = {"step": state.step, "tensors": list(state.tensors), "optimizers": rests, "facts": dict(state.facts)}
    write_json(folder / STATE, told)
    write_json(folder / MANIFEST, {path.name: _fingerprint(path) for path in sorted(folder.iterdir())})


def _copied(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)


def _fingerprint(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": digest(path)}


def _flat(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimiser's state as named tensors, and the rest as JSON."""
    tensors = {f"{i}.{key}": _copied(value) for i, entry in state["state"].items() for key, value in entry.items()}
    return tensors, {"param_groups": state["param_groups"]}


def _unflat(tensors: Mapping[str, Tensor], rest: Mapping[str, Any]) -> dict[str, Any]:
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        i, _, key = name.partition(".")
        # A copy, for what load_file returns is the file itself.
        state.setdefault(int(i), {})[key] = value.clone()
    return {"state": state, "param_groups": rest["param_groups"]}
