"""``zoo card``: the model card of a checkpoint, from what it records."""

from pathlib import Path
from typing import Annotated

import typer

from zoo_core.cli.options import ModelName


def add_to(app: typer.Typer) -> None:
    app.command()(card)


def card(
    model: ModelName,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write it there, and pictures beside it; default: print it."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="What users will load: org/name; default MODEL.")] = None,
    pictures: Annotated[bool, typer.Option(help="Draw the pictures anew.")] = True,
    reconstructions: Annotated[
        bool, typer.Option("--reconstructions", help="Show reconstructed images of any data, which then are published.")
    ] = False,
) -> None:
    """Write the model card of a checkpoint from its config, its measured results and what it draws.

    Examples: zoo card vae-mnist · zoo card runs/try/model --name me/try -o runs/try/model/README.md
    """
    from zoo_core.cards import card as written
    from zoo_core.cards import write_pictures
    from zoo_core.files import replace_file
    from zoo_core.host import default_host
    from zoo_core.pretrained import from_pretrained, local_checkpoint

    folder = local_checkpoint(model, host=default_host())
    if output is None:
        print(written(folder, name or model), end="")
        return
    text = written(folder, name or model)  # first, since what is wrong with the folder is told here
    if pictures:
        write_pictures(from_pretrained(folder), output.parent, reconstructions=reconstructions)
        text = written(folder, name or model, pictures=output.parent)
    output.parent.mkdir(parents=True, exist_ok=True)
    replace_file(output, text.encode())
