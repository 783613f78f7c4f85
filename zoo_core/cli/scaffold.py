"""``zoo new``: a plugin of one's own, to start from."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from zoo_core.scaffold import KINDS, Project, new_plugin


def add_to(app: typer.Typer) -> None:
    app.command()(new)


def complete_kind(start: str) -> list[str]:
    return [kind for kind in KINDS if kind.startswith(start)]


def new(
    name: Annotated[str, typer.Argument(help="Of the plugin: my-plugin, or zoo-my-plugin.")],
    kind: Annotated[str, typer.Option(help=f"What it offers: {', '.join(KINDS)}.", autocompletion=complete_kind)],
    into: Annotated[
        Path | None, typer.Option("--into", help="The folder to write, new or empty; default zoo-NAME.")
    ] = None,
) -> None:
    """Write a plugin that works: a distribution with one component, a recipe, tests, and how to publish it.

    Examples: zoo new my-plugin --kind prior · zoo new my-plugin --kind loss --into work/my-plugin
    """
    _tell(new_plugin(name, kind, into))


def _tell(project: Project) -> None:
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
