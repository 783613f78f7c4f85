"""``zoo --max-parameters 5e10 …``: what holds for every command that loads or builds a model."""

import os
from typing import Annotated

import typer


def add_to(app: typer.Typer) -> None:
    app.callback()(limit)


def limit(
    max_parameters: Annotated[
        float | None,
        typer.Option(min=1, metavar="N", help="Refuse larger models; default ZOO_MAX_PARAMETERS, else 2e10."),
    ] = None,
) -> None:
    """Variational generative models: list, load, draw from, train and measure them."""
    if max_parameters is not None:
        # Where from_pretrained looks, here and in the processes that a command starts.
        os.environ["ZOO_MAX_PARAMETERS"] = repr(max_parameters)
