"""``zoo generate``: pictures of what a sentence says."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zoo_core.cli.inputs import Fitting, from_files, load_model
from zoo_core.cli.options import Device, Enlarge, ModelName, Output, Revision, Seed
from zoo_core.cli.pictures import write
from zoo_core.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor


def add_to(app: typer.Typer) -> None:
    app.command()(generate)


def generate(
    model: ModelName,
    texts: Annotated[list[str], typer.Argument(metavar="TEXT", help="What to draw; each text has a row of its own.")],
    number: Annotated[int, typer.Option("--number", "-n", min=1, help="How many pictures of each text.")] = 8,
    output: Output = Path("generated.png"),
    guidance: Annotated[
        float | None, typer.Option(min=0, help="1: none; above: closer to the text. Default the model's own.")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0, help="Below 1: what is likelier; 0: the likeliest. Default the model's own.")
    ] = None,
    top_k: Annotated[int | None, typer.Option(min=1, help="Draw among the k likeliest codes alone.")] = None,
    top_p: Annotated[
        float | None, typer.Option(min=0, max=1, help="Draw among the likeliest codes of this probability together.")
    ] = None,
    complete: Annotated[Path | None, typer.Option(metavar="IMAGE", help="A picture to go on from.")] = None,
    keep_rows: Annotated[int | None, typer.Option(min=1, help="Of its rows of codes, those that stay.")] = None,
    scorer: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Keep the pictures that it likes best: scorer-shapes, …")
    ] = None,
    candidates: Annotated[int, typer.Option(min=1, help="Pictures of each text for the scorer to choose from.")] = 16,
    seed: Seed = 0,
    revision: Revision = None,
    device: Device = "cpu",
    enlarge: Enlarge = 3,
) -> None:
    """Draw what a sentence says.

    Examples: zoo generate dalle-shapes "a small red circle left of a big blue square" -n 8 -o out.png ·
    zoo generate dalle-emoji "red heart" "pizza" --scorer scorer-emoji
    """
    from zoo_core.images import grid

    loaded = load_model(model, revision, device)
    if not hasattr(loaded, "generate"):
        raise ConfigError(f"{model!r} is a {type(loaded).__name__}, which draws without words; see: zoo sample")
    if (complete is None) != (keep_rows is None):
        raise ConfigError("--complete and --keep-rows go together: a picture, and how much of it stays")
    chosen: dict[str, Any] = {"guidance": guidance, "temperature": temperature, "top_k": top_k, "top_p": top_p}
    if complete is not None:
        chosen |= {"image": _image(loaded, complete, device), "keep_rows": keep_rows}
    if scorer is not None:
        chosen |= {"scorer": _scorer(scorer, device), "candidates": candidates}
    with _Progress() as progress:
        pictures = loaded.generate(texts, n=number, seed=seed, progress=progress.codes, **chosen)
    write(grid(pictures, number), output, enlarge)


def _image(model: Any, path: Path, device: str) -> "Tensor":
    image: Tensor = Fitting(model, device).shown(from_files([path]))["image"][0]
    return image


def _scorer(name: str, device: str) -> Any:
    loaded = load_model(name, None, device)
    if not hasattr(loaded, "score"):
        raise ConfigError(f"--scorer: {name!r} is a {type(loaded).__name__}, which scores no pictures of texts")
    return loaded.score


class _Progress:
    """How many codes have been drawn, while somebody is looking."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn("{task.completed:.0f} codes"), TextColumn("{task.speed:.0f}/s"), TimeElapsedColumn())
        console = Console(stderr=True)
        self.progress = Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty())
        self.task = self.progress.add_task("codes", total=None)

    def __enter__(self) -> "_Progress":
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def codes(self, drawn: int) -> None:
        self.progress.advance(self.task, drawn)
