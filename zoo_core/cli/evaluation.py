"""``zoo eval``: measure a model on held-out data, or check what its card claims."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from zoo_core.cli.options import Device, ModelName, Revision
from zoo_core.cli.output import AsJson, print_json, print_table
from zoo_core.errors import CheckpointError, ConfigError
from zoo_core.host import default_host


def add_to(app: typer.Typer) -> None:
    app.command("eval")(evaluate_model)


def evaluate_model(
    model: ModelName,
    data: Annotated[str | None, typer.Option(help="A data set; default the one of the model's recipe.")] = None,
    split: Annotated[str | None, typer.Option(help="Its split; default the recipe's held-out one.")] = None,
    metrics: Annotated[
        str | None, typer.Option(help='"elbo,iwae" or "elbo,{type: iwae, samples: 5000}"; default the recipe\'s.')
    ] = None,
    extractor: Annotated[
        str | None, typer.Option(help="Features by which samples are compared: pixels, mnist_classifier, …")
    ] = None,
    examples: Annotated[
        int | None, typer.Option(min=1, help="Measure on the first so many; default as the recipe, or all.")
    ] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Examples at a time; default as the recipe, or 100.")] = None,
    seed: Annotated[int, typer.Option(help="Equal seeds give equal values.")] = 0,
    check: Annotated[
        bool, typer.Option("--check", help="Measure again what results.json claims; exit 1 where it does not hold.")
    ] = False,
    revision: Revision = None,
    device: Device = "cpu",
    processes: Annotated[
        int | None, typer.Option("--num-processes", min=1, help="On so many GPUs, or CPU processes.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write results.json there; other evaluations in it stay.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure a model on held-out data; by default re-compute what its recipe asks for.

    Examples: zoo eval vae-mnist · zoo eval vae-mnist --check · zoo eval runs/try/model --data ylecun/mnist --metrics
    elbo,fd,kid --examples 1000 · zoo eval vae-mnist --num-processes 2
    """
    if processes:
        from zoo_core.training.processes.launch import launch

        raise typer.Exit(launch(_without_processes(sys.argv[1:]), processes, module="zoo_core.cli"))
    asked = {"data": data, "split": split, "metrics": metrics, "extractor": extractor, "examples": examples}
    asked |= {"batch": batch}
    chosen = {f"--{name}": value for name, value in asked.items() if value is not None}
    if check and (chosen or seed):
        raise ConfigError(
            f"--check measures what is claimed, as it is claimed; leave out {next(iter(chosen), '--seed')}"
        )
    with _joined(device) as (place, main):
        from zoo_core.pretrained import from_pretrained

        loaded = from_pretrained(model, revision=revision, device=place)
        if check:
            agrees = _check(loaded, model, revision, main, as_json)
        else:
            evaluation = _measured(loaded, {**_usual(loaded, data), **_without_none(asked), "seed": seed})
            agrees = True
            if main:
                _tell(evaluation, model, output, as_json)
    if not agrees:
        raise typer.Exit(1)


def _usual(model: Any, data: str | None) -> dict[str, Any]:
    """What the model's recipe says of evaluation."""
    recipe = model.provenance.get("recipe", {})
    settings, own = recipe.get("evaluation", {}), recipe.get("data", {})
    if data is None and "name" not in own:
        raise ConfigError("--data: is required, since the model does not say on what it was trained")
    return {
        "data": own.get("name"),
        "split": own.get("held_out", "test"),
        "options": own.get("options", {}) if data is None else {},
        "metrics": settings.get("metrics") or ["elbo"],
        # The draws of a batch depend on its number: only batches of the same size give the card's values again.
        "batch": settings.get("batch") or 100,
        "examples": settings.get("examples") if data is None else None,
    }


def _without_none(asked: dict[str, Any]) -> dict[str, Any]:
    chosen = {name: value for name, value in asked.items() if value is not None}
    if "metrics" in chosen:
        chosen["metrics"] = _yaml(f"[{chosen['metrics']}]", "--metrics")
    if "extractor" in chosen:
        chosen["extractor"] = _yaml(chosen["extractor"], "--extractor")
    return chosen


def _measured(model: Any, settings: dict[str, Any]) -> dict[str, Any]:
    """One evaluation, under the settings that ``results.json`` has of one."""
    from zoo_core.data import load
    from zoo_core.evaluation import measure

    dataset = load(settings["data"], settings["split"], **settings.get("options", {}))
    told: dict[str, Any] = {name: settings.get(name) for name in ("options", "extractor", "examples")}
    told |= {"batch": settings.get("batch") or 100, "seed": settings.get("seed", 0)}
    with _bar(min(settings.get("examples") or len(dataset), len(dataset))) as advance:
        return measure(model, settings["metrics"], dataset, progress=advance, **told)


def _tell(evaluation: dict[str, Any], model: str, output: Path | None, as_json: bool) -> None:
    from zoo_core.evaluation.results import document, read_results, with_evaluation
    from zoo_core.files import replace_json

    if output:
        replace_json(output, document(with_evaluation(read_results(output), evaluation)))
    if as_json:
        print_json(evaluation)
        return
    rows = [(name, *_cells(m)) for name, m in evaluation["values"].items()]
    title = f"{model} on {evaluation['data']}, {evaluation['split']}, in {evaluation['seconds']:.1f} seconds"
    print_table(title, ("", "value", "s.e.", "unit", "better", "examples"), rows)


def _cells(measured: dict[str, Any]) -> tuple[str, ...]:
    from zoo_core.evaluation import rounded

    value, error = measured["value"], measured["error"]
    spread = f"± {rounded(error, error)}" if error is not None else ""
    return rounded(value, error), spread, measured["unit"], measured["better"], f"{measured['n']:,}"


def _check(model: Any, name: str, revision: str | None, main: bool, as_json: bool) -> bool:
    """Measures again what ``results.json`` claims; whether it all holds."""
    from zoo_core.evaluation.results import compared, read_results
    from zoo_core.pretrained import RESULTS
    from zoo_core.ready_parts import checkpoint_file

    claims = read_results(checkpoint_file(RESULTS, name, revision, model, default_host()))
    if not claims:
        raise CheckpointError(f"{name} claims nothing: it has no {RESULTS}")
    pairs = [(claim, compared(claim, _measured(model, claim))) for claim in claims]
    if main and as_json:
        print_json([{"data": c["data"], "split": c["split"], "values": [_fields(v) for v in vs]} for c, vs in pairs])
    elif main:
        for claim, values in pairs:
            rows = [(v.name, _number(v.claimed), _number(v.measured), f"{v.allowed:.2g}", _verdict(v)) for v in values]
            title = f"{name} on {claim['data']}, {claim['split']}"
            print_table(title, ("", "claimed", "measured", "allowed", ""), rows)
    return all(v.agrees for _, values in pairs for v in values)


def _fields(value: Any) -> dict[str, Any]:
    return {**value._asdict(), "agrees": value.agrees}


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.8g}"


def _verdict(value: Any) -> str:
    return "holds" if value.agrees else "DOES NOT HOLD"


@contextmanager
def _joined(device: str) -> Iterator[tuple[Any, bool]]:
    """The device, and whether this process speaks: one of several that were launched together measures its share."""
    from zoo_core.training.processes.launch import refuse_silent_launch

    if "WORLD_SIZE" not in os.environ:
        refuse_silent_launch()
        yield device, True
        return
    from zoo_core.training.processes.group import Processes, leave

    processes = Processes()
    try:
        yield processes.device, processes.main
    except typer.Exit as end:
        leave(end.exit_code)
    processes.shut_down()


def _without_processes(arguments: list[str]) -> list[str]:
    """The command for one of the processes."""
    i = next(i for i, word in enumerate(arguments) if word.startswith("--num-processes"))
    return arguments[:i] + arguments[i + (1 if "=" in arguments[i] else 2) :]


def _yaml(text: str, where: str) -> Any:
    from zoo_core.training.reading import parse_yaml

    return parse_yaml(text, where)


def _bar(total: int) -> Any:
    """A context whose value advances a bar on a terminal, and does nothing elsewhere."""
    from rich.console import Console
    from rich.progress import Progress

    @contextmanager
    def shown() -> Any:
        with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True) as progress:
            task = progress.add_task("measuring", total=total)
            yield lambda n: progress.advance(task, n)

    return shown()
