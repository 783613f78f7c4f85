"""``zoo sweep``: one recipe with several values of one of its fields, side by side."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zoo_core.cli.output import AsJson, print_json, print_table
from zoo_core.errors import ConfigError

if TYPE_CHECKING:
    from zoo_core.training.sweep import Point


def add_to(app: typer.Typer) -> None:
    app.command()(sweep)


def sweep(
    recipe: Annotated[str, typer.Argument(help="A YAML file, or the name of an installed recipe.")],
    over: Annotated[str, typer.Option(help="A field and its values: loss.beta=0.5,1,4,16.")],
    overrides: Annotated[list[str] | None, typer.Option("--set", help="Change another field for all runs.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Default runs/NAME-sweep.")] = None,
    plot: Annotated[
        str | None, typer.Option(help="Two measured values to plot against each other: rate,distortion.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train a recipe once for each value of a field and compare what is measured on held-out data.

    Example: zoo sweep beta-vae-shapes --over loss.beta=0.5,1,4,16 --plot rate,distortion
    """
    from zoo_core.training.sweep import sweep as run

    axes = plot.split(",") if plot else []
    if plot and len(axes) != 2:
        raise ConfigError(f"--plot: name two values, such as rate,distortion; got {plot!r}")
    folder = output or Path("runs") / f"{Path(recipe).stem}-sweep"
    points = run(recipe, over, folder, overrides or ())
    if as_json:
        print_json([point._asdict() for point in points])
    else:
        names = list(points[0].measured)
        rows = [(str(p.value), *(f"{p.measured[name]:.4f}" for name in names)) for p in points]
        print_table("", (over.partition("=")[0], *names), rows)
    if plot:
        print(_drawn(points, axes, over.partition("=")[0], folder / f"{axes[0]}-{axes[1]}.png"))


def _drawn(points: "Sequence[Point]", axes: list[str], field: str, path: Path) -> Path:
    from zoo_core.figures import labelled_curve, save_figure

    missing = [name for name in axes if name not in points[0].measured]
    if missing:
        raise ConfigError(f"--plot: {missing[0]!r} was not measured; there are: {', '.join(points[0].measured)}")
    x, y = ([point.measured[name] for point in points] for name in axes)
    labels = [f"{field.rpartition('.')[2]} {point.value}" for point in points]
    return save_figure(labelled_curve(x, y, labels, (axes[0], axes[1])), path)
