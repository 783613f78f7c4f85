"""``zoo card``: the model card of a checkpoint, from what it records."""

from pathlib import Path
from typing import Annotated

import typer

from zoo_core.cli.options import ModelName


def add_to(app: typer.Typer) -> None:
    app.command()(card)


def card(
    model: ModelName,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write it there; default: print it.")] = None,
    name: Annotated[str | None, typer.Option(help="What users will load: org/name; default MODEL.")] = None,
) -> None:
    """Write the model card of a checkpoint from its config and measured results.

    Examples: zoo card vae-mnist · zoo card runs/try/model --name me/try -o runs/try/model/README.md
    """
    from zoo_core.cards import card as written
    from zoo_core.host import default_host
    from zoo_core.pretrained import local_checkpoint

    text = written(local_checkpoint(model, host=default_host()), name or model)
    if output:
        output.write_text(text, encoding="utf-8")
    else:
        print(text, end="")
