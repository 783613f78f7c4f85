"""``zoo compare``: models of any families in one table, on a page to print."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zoo_core.cli.options import Seed, complete_checkpoint
from zoo_core.cli.output import AsJson, print_json
from zoo_core.errors import ConfigError

if TYPE_CHECKING:
    from zoo_core.comparison.comparing import Comparison


def add_to(app: typer.Typer) -> None:
    app.command("compare")(compare_models)


def compare_models(
    models: Annotated[
        list[str],
        typer.Argument(metavar="MODEL…", help="Folders, vae-mnist, or org/name.", autocompletion=complete_checkpoint),
    ],
    data: Annotated[str, typer.Option(help="A data set: digits, ylecun/mnist, …")],
    split: Annotated[str, typer.Option(help="Its split.")] = "test",
    examples: Annotated[int | None, typer.Option(min=1, help="Measure on the first so many; default all.")] = None,
    metrics: Annotated[
        str | None, typer.Option(help='"iwae,mse" or "{type: iwae, samples: 5000},fd"; default a choice for samples.')
    ] = None,
    extractor: Annotated[
        str | None, typer.Option(help="Of the features that samples are compared in; default by the data's shape.")
    ] = None,
    seed: Seed = 0,
    grid: Annotated[int, typer.Option(min=0, help="Samples shown of each model.")] = 64,
    reconstructions: Annotated[
        bool, typer.Option("--reconstructions", help="Show what models make of the data; this shows the data.")
    ] = False,
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder of the page.")] = Path("comparison"),
    as_json: AsJson = False,
) -> None:
    """Compare models by likelihood, samples, size and speed; write a page to print. A run that was ended goes on.

    Example: zoo compare ae-mnist vae-mnist gmm-mnist --data ylecun/mnist --examples 2000 --output comparison
    """
    from zoo_core.comparison import compare, write_page
    from zoo_core.config import build
    from zoo_core.data import load
    from zoo_core.pretrained import from_pretrained
    from zoo_core.training.reading import parse_yaml

    _refuse_twins(models)
    # All of them before anything is measured: a misspelt name is told at once.
    loaded = {name: from_pretrained(name) for name in models}
    chosen = parse_yaml(f"[{metrics}]", "--metrics") if metrics else None
    features = build(parse_yaml(extractor, "--extractor"), "extractor") if extractor else None
    with _bar(len(models)) as progress:
        compared = compare(
            loaded, load(data, split), metrics=chosen, extractor=features, examples=examples, seed=seed, grid=grid,
            reconstructions=reconstructions, folder=output, progress=progress,
        )  # fmt: skip
    page = write_page(compared, output, command=shlex.join(["zoo", *sys.argv[1:]]) if _is_own(sys.argv) else "")
    if as_json:
        print_json([entry.stored for entry in compared.entries])
        return
    _print(compared)
    print(page)


def _refuse_twins(models: list[str]) -> None:
    twice = next((name for name in models if models.count(name) > 1), None)
    if twice:
        raise ConfigError(f"{twice!r} is named more than once; name each model once")


def _is_own(words: list[str]) -> bool:
    """Whether this process is that command, and not one that calls it."""
    return words[1:2] == ["compare"]


def _print(compared: "Comparison") -> None:
    """The table, as wide as it needs to be where no terminal sets a width."""
    from rich.console import Console
    from rich.text import Text

    console = Console() if sys.stdout.isatty() else Console(width=400)
    console.print(_table(compared))
    for entry in compared.entries:
        for what, reason in entry.stored["failed"].items():
            console.print(Text(f"{entry.name}: {what} failed: {reason}"))


def _table(compared: "Comparison") -> Any:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from zoo_core.comparison.table import ARROWS, table

    found = table(compared)
    shown = Table(box=box.SIMPLE_HEAD, caption="* the best of its group, where likelihoods speak of one kind of data")
    # Titles of groups are wrapped, names are not.
    shown.add_column("model", overflow="fold", max_width=max(24, *(len(e.name) + 2 for e in compared.entries)))
    for column in found.columns:
        arrow = ARROWS.get(column.better, "")
        shown.add_column(Text(f"{column.title}{arrow}\n{column.detail}"), justify="right", overflow="fold")
    for group in found.groups:
        shown.add_section()
        shown.add_row(Text(group.title, style="italic"))
        for name, cells in group.rows:
            shown.add_row(Text(f"  {name}"), *(Text(c.words + "*" * c.best, style="bold" * c.best) for c in cells))
    return shown


def _bar(models: int) -> Any:
    """A context whose value, called with a model and a number of examples, moves a bar on a terminal."""
    from contextlib import contextmanager

    from rich.console import Console
    from rich.progress import Progress

    @contextmanager
    def shown() -> Any:
        with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True) as progress:
            tasks: dict[str, Any] = {}

            def advance(name: str, examples: int) -> None:
                if name not in tasks:
                    tasks[name] = progress.add_task(f"{name} ({len(tasks) + 1} of {models})", total=None)
                progress.advance(tasks[name], examples)

            yield advance

    return shown()
