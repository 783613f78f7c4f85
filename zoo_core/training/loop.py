"""Training a recipe: by gradients or by statistics, whichever its model is made for."""

import json
import tempfile
from pathlib import Path
from typing import Any

from zoo_core.arguments import join
from zoo_core.errors import TrainingError
from zoo_core.host import PluginHost
from zoo_core.training.gradients import GradientRun
from zoo_core.training.recipe import Recipe
from zoo_core.training.run import RECIPE, Run
from zoo_core.training.statistics import StatisticsRun


def train(recipe: Recipe, folder: str | Path, *, host: PluginHost | None = None) -> Path | None:
    """Trains a recipe, or goes on with the run that ``folder`` holds.

    Returns the folder of the model, which ``from_pretrained`` loads; None in all processes but the first.

    Raises:
        TrainingError, ConfigError, DataError: with a sentence; what was saved before stays.
    """
    folder = Path(folder)
    require_same_recipe(recipe, folder)
    folder.mkdir(parents=True, exist_ok=True)
    run = _run(recipe, folder, host)
    run.train()
    finished = run.finished if run.main else None
    run.shut_down()
    return finished


def rehearse(recipe: Recipe, *, host: PluginHost | None = None) -> dict[str, Any]:
    """Builds everything, takes one step and tells sizes; writes nothing."""
    with tempfile.TemporaryDirectory() as folder:
        run = _run(recipe, Path(folder), host)
        values = run.step(0)
        sizes = {part: sum(p.numel() for p in m.parameters()) for part, m in run.model.named_children()}
        told = {
            "examples": len(run.data),
            "data shape": run.model.data_shape,
            "steps": run.steps,
            "parameters": sum(p.numel() for p in run.model.parameters()),
            **{f"parameters of {part}": size for part, size in sizes.items()},
            **{f"{name} at the first step": f"{float(value.detach()):.4g}" for name, value in values.items()},
        }
        run.shut_down()
    return told


def _run(recipe: Recipe, folder: Path, host: PluginHost | None) -> Run:
    kind = StatisticsRun if recipe.loss is None else GradientRun
    return kind(recipe, folder, host=host)


def require_same_recipe(recipe: Recipe, folder: Path) -> None:
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
