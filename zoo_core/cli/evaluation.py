"""``zoo eval``: measure a model on held-out data."""

import math
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from zoo_core.cli.options import Device, ModelName, Revision
from zoo_core.cli.output import AsJson, print_json, print_table
from zoo_core.errors import ConfigError


def add_to(app: typer.Typer) -> None:
    app.command("eval")(evaluate_model)


def evaluate_model(
    model: ModelName,
    data: Annotated[str | None, typer.Option(help="A data set; default the one of the model's recipe.")] = None,
    split: Annotated[str | None, typer.Option(help="Its split; default the recipe's held-out one.")] = None,
    metrics: Annotated[
        str | None, typer.Option(help='"elbo,iwae" or "elbo,{type: iwae, samples: 5000}"; default the recipe\'s.')
    ] = None,
    examples: Annotated[
        int | None, typer.Option(min=1, help="Measure on the first so many; default as the recipe, or all.")
    ] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Examples at a time; default as the recipe, or 100.")] = None,
    seed: Annotated[int, typer.Option(help="Equal seeds give equal values.")] = 0,
    revision: Revision = None,
    device: Device = "cpu",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write results.json there.")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure a model on held-out data; by default re-compute what its card says.

    Examples: zoo eval vae-mnist · zoo eval runs/try/model --data ylecun/mnist --metrics elbo --examples 1000
    """
    from zoo_core.config import build
    from zoo_core.data import load
    from zoo_core.evaluation import evaluate, results, rounded
    from zoo_core.files import write_json
    from zoo_core.pretrained import from_pretrained

    loaded = from_pretrained(model, revision=revision, device=device)
    recipe = loaded.provenance.get("recipe", {})
    name, part = data or _from_recipe(recipe, "name", "--data"), split or _held_out(recipe)
    # The draws of a batch depend on its number: only batches of the same size give the card's values again.
    settings = recipe.get("evaluation", {})
    batch, examples = batch or settings.get("batch") or 100, examples or (None if data else settings.get("examples"))
    chosen = _metrics(metrics) if metrics else settings.get("metrics") or ["elbo"]
    built = [build(m, "metric") for m in chosen]
    dataset = load(name, part, **({} if data else recipe["data"].get("options", {})))
    with _bar(examples or len(dataset)) as advance:
        measured = evaluate(loaded, built, dataset, batch=batch, examples=examples, seed=seed, progress=advance)
    report = results(measured, dataset, seed=seed, batch=batch, metrics=chosen, examples=examples)
    if output:
        write_json(output, report)
    if as_json:
        print_json(report)
        return
    rows = [(k, rounded(m.value, m.error), _spread(m.error), m.unit, str(m.n)) for k, m in measured.items()]
    print_table(f"{model} on {name}, {part}", ("", "value", "s.e.", "unit", "examples"), rows)


def _spread(error: float) -> str:
    from zoo_core.evaluation import rounded

    return f"± {rounded(error, error)}" if math.isfinite(error) else ""


def _from_recipe(recipe: dict[str, Any], field: str, option: str) -> str:
    if field not in recipe.get("data", {}):
        raise ConfigError(f"{option}: is required, since the model does not say on what it was trained")
    return str(recipe["data"][field])


def _held_out(recipe: dict[str, Any]) -> str:
    return str(recipe.get("data", {}).get("held_out", "test"))


def _metrics(text: str) -> list[Any]:
    from zoo_core.training.reading import parse_yaml

    return list(parse_yaml(f"[{text}]", "--metrics"))


def _bar(total: int) -> Any:
    """A context whose value advances a bar on a terminal, and does nothing elsewhere."""
    from contextlib import contextmanager

    from rich.console import Console
    from rich.progress import Progress

    @contextmanager
    def shown() -> Any:
        with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True) as progress:
            task = progress.add_task("measuring", total=total)
            yield lambda n: progress.advance(task, n)

    return shown()
