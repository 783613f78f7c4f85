"""Arguments and options that commands share."""

from pathlib import Path
from typing import Annotated

import typer

from zoo_core.host import default_host


def complete_checkpoint(start: str) -> list[str]:
    return [r.spec.name for r in default_host().registrations("checkpoint") if r.spec.name.startswith(start)]


ModelName = Annotated[
    str,
    typer.Argument(metavar="MODEL", help="A folder, vae-mnist, or org/name.", autocompletion=complete_checkpoint),
]
Output = Annotated[Path, typer.Option("--output", "-o", help="The PNG to write.")]
Files = Annotated[list[Path] | None, typer.Argument(metavar="IMAGE", help="Image files; default --data.")]
DataName = Annotated[str, typer.Option("--data", help="A data set to take images from: digits, shapes, org/name, …")]
Split = Annotated[str, typer.Option(help="Its split.")]
# For commands that measure on data: what they find in other data than its own says little about a model.
OwnData = Annotated[str | None, typer.Option("--data", help="A data set; default the one of the model's recipe.")]
OwnSplit = Annotated[str | None, typer.Option("--split", help="Its split; default the recipe's held-out one.")]
Count = Annotated[int, typer.Option("--number", "-n", min=1, help="How many images.")]
Seed = Annotated[int, typer.Option(help="Equal seeds draw equal pictures.")]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit on the Hub.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps.")]
Margin = Annotated[int, typer.Option(min=0, help="Black pixels around each image, inside the model's size.")]
Enlarge = Annotated[int, typer.Option(min=1, help="Side of a pixel in the PNG.")]
EnlargeToFit = Annotated[
    int | None, typer.Option("--enlarge", min=1, help="Side of a pixel in the PNG; default so long that labels fit.")
]
