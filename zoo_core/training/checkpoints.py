"""Training state on disk: safetensors and JSON in folders that are whole or not there; never a pickle."""

import hashlib
import json
import logging
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from zoo_core.errors import TrainingError
from zoo_core.files import WRITING, whole_folder, write_json

log = logging.getLogger("zoo_core")

MANIFEST = "manifest.json"
STEP = re.compile(r"step-(\d+)")


class State(NamedTuple):
    """What a run needs to go on at ``step``: the step fixes data, randomness and learning rate by itself."""

    step: int
    objective: dict[str, Tensor]
    optimizers: dict[str, dict[str, Any]]


def save_state(
    folder: Path, step: int, objective: nn.Module, optimizers: Mapping[str, torch.optim.Optimizer], keep: int
) -> Path:
    """Writes ``folder/step-<step>``, then deletes all but the newest ``keep``.

    Raises:
        TrainingError: it cannot be written; older checkpoints stay.
    """
    target = folder / f"step-{step:08d}"
    try:
        with whole_folder(target) as temporary:
            _write(temporary, step, objective, optimizers)
    except OSError as error:
        cause = error.strerror or error
        raise TrainingError(f"cannot write the checkpoint {target}: {cause}; older ones stay") from error
    for old in _newest_first(folder)[keep:]:
        shutil.rmtree(old, ignore_errors=True)
    for leftover in folder.glob(f"{WRITING}*"):
        shutil.rmtree(leftover, ignore_errors=True)
    return target


def newest_state(folder: Path) -> State | None:
    """The newest checkpoint that is whole; each damaged one before it is named in a warning."""
    for path in _newest_first(folder):
        try:
            return _read(path)
        except Exception as error:  # whatever is wrong with it, an older one may be right
            log.warning("checkpoint %s is damaged (%s); using the one before", path, error)
    return None


def _newest_first(folder: Path) -> list[Path]:
    found = [path for path in folder.glob("step-*") if STEP.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(path.name[5:]), reverse=True)


def _write(folder: Path, step: int, objective: nn.Module, optimizers: Mapping[str, torch.optim.Optimizer]) -> None:
    # Copies, for safetensors refuses what shares memory with another tensor.
    weights = {name: t.clone(memory_format=torch.contiguous_format) for name, t in objective.state_dict().items()}
    save_file(weights, folder / "objective.safetensors")
    states = {player: _flat(optimizer.state_dict()) for player, optimizer in optimizers.items()}
    for player, (tensors, _) in states.items():
        save_file(tensors, folder / f"optimizer-{player}.safetensors")
    write_json(
        folder / "state.json", {"step": step, "optimizers": {player: rest for player, (_, rest) in states.items()}}
    )
    write_json(folder / MANIFEST, {path.name: _digest(path) for path in sorted(folder.iterdir())})


def _read(folder: Path) -> State:
    manifest = json.loads((folder / MANIFEST).read_text())
    for name, digest in manifest.items():
        if _digest(folder / name) != digest:
            raise ValueError(f"{name} differs from the manifest")
    state = json.loads((folder / "state.json").read_text())
    optimizers = {
        player: _unflat(load_file(folder / f"optimizer-{player}.safetensors"), rest)
        for player, rest in state["optimizers"].items()
    }
    return State(state["step"], load_file(folder / "objective.safetensors"), optimizers)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flat(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimiser's state as named tensors, and the rest as JSON."""
    tensors = {f"{i}.{key}": value for i, entry in state["state"].items() for key, value in entry.items()}
    return tensors, {"param_groups": state["param_groups"]}


def _unflat(tensors: Mapping[str, Tensor], rest: Mapping[str, Any]) -> dict[str, Any]:
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        i, _, key = name.partition(".")
        state.setdefault(int(i), {})[key] = value
    return {"state": state, "param_groups": rest["param_groups"]}
