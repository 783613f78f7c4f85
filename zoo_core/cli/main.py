"""The command ``zoo``: its groups, and how it ends when something is wrong."""

import warnings

import typer

from zoo_core.cli import (
    cards,
    checking,
    comparison,
    evaluation,
    generation,
    latents,
    limits,
    pictures,
    registry,
    scaffold,
    sharing,
    sweep,
    training,
)
from zoo_core.errors import exit_with_sentence

app = typer.Typer(
    name="zoo",
    help="Variational generative models: list, load, draw from, train and measure them.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for group in (
    limits,
    registry,
    pictures,
    generation,
    latents,
    training,
    sweep,
    evaluation,
    comparison,
    cards,
    sharing,
    scaffold,
    checking,
):
    group.add_to(app)


def main() -> None:
    """Runs a command.

    Exit codes: 0 done, 1 failed, 2 bad input, 75 a run that was stopped and can go on, 130 interrupted.
    """
    warnings.formatwarning = _one_line
    with exit_with_sentence():
        app()


def _one_line(message: Warning | str, *where: object, **line: object) -> str:
    """A warning as a user reads it, who does not care for the line of code that gave it."""
    return f"warning: {message}\n"
