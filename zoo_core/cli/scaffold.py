"""``zoo new``: a plugin of one's own, to start from."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zoo_core.hookspecs import KINDS

if TYPE_CHECKING:
    from zoo_core.scaffold import Project

OFFERED = sorted(set(KINDS) - {"checkpoint"})  # which is a folder, and comes of training


def add_to(app: typer.Typer) -> None:
    app.command()(new)


def complete_kind(start: str) -> list[str]:
    return [kind for kind in OFFERED if kind.startswith(start)]


def new(
    name: Annotated[str, typer.Argument(help="Of the plugin: my-plugin, or zoo-my-plugin.")],
    kind: Annotated[str, typer.Option(help=f"What it offers: {', '.join(OFFERED)}.", autocompletion=complete_kind)],
    into: Annotated[
        Path | None, typer.Option("--into", help="The folder to write, new or empty; default zoo-NAME.")
    ] = None,
) -> None:
    """Write a plugin that works: a distribution with one component, a recipe, tests, and how to publish it.

    Examples: zoo new my-plugin --kind prior · zoo new my-plugin --kind loss --into work/my-plugin
    """
    from zoo_core.scaffold import new_plugin

    _tell(new_plugin(name, kind, into))


def _tell(project: "Project") -> None:
    print(f"{project.plugin}/{project.component}, in {project.folder}:")
    for path in project.files:
        print(f"  {path}")
    print("next:")
    place = shlex.quote(str(project.folder))
    for command in (
        f"cd {place} && pip install -e '.[test]'",
        "pytest",
        f"zoo train {project.recipe}",
        f"zoo check {project.plugin}",
    ):
        print(f"  {command}")
