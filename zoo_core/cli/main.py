"""The command ``zoo``: its groups, and how it ends when something is wrong."""

import sys

import typer

from zoo_core.cli import cards, evaluation, pictures, registry, training
from zoo_core.errors import TrainingError, ZooError

app = typer.Typer(
    name="zoo",
    help="Variational generative models: list, load, draw from, train and measure them.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for group in (registry, pictures, training, evaluation, cards):
    group.add_to(app)


def main() -> None:
    """Runs a command. Exit codes: 0 done, 1 failed, 2 bad input (one sentence on standard error), 130 stopped."""
    guarded(app)


def guarded(command: typer.Typer) -> None:
    """Runs an app and turns what the zoo says on purpose into one line and an exit code."""
    try:
        command()
    except ZooError as error:
        sys.exit(_tell(error, 1 if isinstance(error, TrainingError) else 2))
    except BrokenPipeError:  # the reader of a pipe, such as head, had enough
        sys.stderr.close()
    except OSError as error:
        sys.exit(_tell(error, 1))


def _tell(error: Exception, code: int) -> int:
    print(f"error: {error}", file=sys.stderr)
    return code
