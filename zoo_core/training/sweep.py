"""One recipe trained several times, each time with another value of one of its fields."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from zoo_core.errors import ConfigError
from zoo_core.evaluation import read_results
from zoo_core.files import write_json
from zoo_core.host import PluginHost
from zoo_core.pretrained import RESULTS
from zoo_core.training.loop import require_same_recipe, train
from zoo_core.training.reading import parse_yaml, read_recipe
from zoo_core.training.recipe import Recipe


class Point(NamedTuple):
    """A value of the field, and what was measured on held-out data with it."""

    value: Any
    measured: dict[str, float]


def sweep(
    source: str | Path, over: str, folder: Path, overrides: Sequence[str] = (), *, host: PluginHost | None = None
) -> list[Point]:
    """Trains a recipe once for each value, each in a folder of its own; started again it goes on where it stopped.

    ``folder`` then holds these runs, and ``sweep.json`` with what is returned.

    Args:
        over: ``loss.beta=0.5,1,4,16``: a field's dotted path and its values.
        overrides: as ``read_recipe`` takes them.

    Raises:
        ConfigError: there are fewer than two values, or the recipe measures nothing.
        TrainingError, DataError: as ``train``; finished runs stay.
    """
    key, values = parse_over(over)
    # All are read before the first is trained: a bad value costs no run.
    recipes = [read_recipe(source, [*overrides, f"{key}={json.dumps(value)}"], host=host) for value in values]
    if not recipes[0].evaluation.metrics:
        raise ConfigError("evaluation.metrics: name at least one, such as metrics/elbo; a sweep compares measurements")
    points = [Point(v, _measured(r, folder / _name(key, v), host)) for v, r in zip(values, recipes, strict=True)]
    write_json(folder / "sweep.json", {"field": key, "points": [point._asdict() for point in points]})
    return points


def parse_over(over: str) -> tuple[str, list[Any]]:
    """``key=a,b`` → the key and its values as YAML reads them. Raises ConfigError if there are fewer than two."""
    key, _, text = over.partition("=")
    values = list(parse_yaml(f"[{text}]", "--over"))
    if not key or len(values) < 2:
        raise ConfigError(f"--over {over}: use a field and at least two values, such as loss.beta=0.5,1,4,16")
    return key, values


def _name(key: str, value: Any) -> str:
    return f"{key}={value if isinstance(value, str) else json.dumps(value)}".replace("/", "-")


def _measured(recipe: Recipe, folder: Path, host: PluginHost | None) -> dict[str, float]:
    finished = folder / "model"
    require_same_recipe(recipe, folder)
    if not (finished / RESULTS).is_file():
        train(recipe, folder, host=host)
    values = read_results(finished / RESULTS)[0]["values"]
    return {name: float(measured["value"]) for name, measured in values.items()}
