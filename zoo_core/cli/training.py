"""``zoo train``: the same in a shell and under ``accelerate launch -m zoo_core.training``."""

from pathlib import Path
from typing import Annotated

import typer

from zoo_core.cli.output import print_table
from zoo_core.errors import ConfigError
from zoo_core.host import default_host


def add_to(app: typer.Typer) -> None:
    app.command()(train)


def train(
    recipe: Annotated[
        str | None, typer.Argument(help="A YAML file, or the name of an installed recipe: vae-mnist.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Change a field: training.lr=3e-4, model.encoder.latents=8.")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The run's folder; default runs/NAME.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Build everything, take one step, save nothing.")] = False,
    show_list: Annotated[bool, typer.Option("--list", help="List the installed recipes.")] = False,
) -> None:
    """Train a recipe; started again with the same folder, a run goes on where it stopped.

    Examples: zoo train vae-mnist · zoo train my.yaml --set training.epochs=2 -o runs/try ·
    accelerate launch -m zoo_core.training vae-mnist
    """
    from zoo_core.training.recipe import installed_recipes, read_recipe

    if show_list:
        print_table("", ("", ""), [(name, _summary(path)) for name, path in installed_recipes(default_host()).items()])
        return
    if recipe is None:
        raise ConfigError("name a recipe; 'zoo train --list' lists the installed ones")
    plan = read_recipe(recipe, overrides or ())

    from zoo_core.training.loop import rehearse
    from zoo_core.training.loop import train as run

    if dry_run:
        print_table("", ("", ""), [(key, str(value)) for key, value in rehearse(plan).items()])
        return
    finished = run(plan, output or Path("runs") / plan.name)
    if finished is not None:
        print(finished)


def _summary(path: Path) -> str:
    line = path.read_text(encoding="utf-8").partition("\n")[0]
    return line.removeprefix("summary: ") if line.startswith("summary: ") else ""
