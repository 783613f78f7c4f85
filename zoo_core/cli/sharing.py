"""``zoo push``: a finished model to the Hugging Face Hub."""

import sys
from typing import Annotated

import typer

from zoo_core.cli.options import complete_checkpoint


def add_to(app: typer.Typer) -> None:
    app.command()(push)


def push(
    folder: Annotated[
        str, typer.Argument(metavar="FOLDER", help="Of a model, or vae-mnist.", autocompletion=complete_checkpoint)
    ],
    repository: Annotated[str, typer.Argument(metavar="ORG/NAME", help="Where it goes; made if need be.")],
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    revision: Annotated[str | None, typer.Option(help="The branch; made if need be. Default main.")] = None,
    message: Annotated[str, typer.Option("--message", "-m", help="Of the commit.")] = "Upload model",
) -> None:
    """Upload a model as one commit, and print what finds it again: a README that is there stays.

    Log in first: hf auth login, or HF_TOKEN.

    Examples: zoo push runs/try/model me/try · zoo push runs/try/model me/try --private --revision next
    """
    from zoo_core.pretrained import local_checkpoint
    from zoo_core.publishing import push_to_hub

    place = local_checkpoint(folder)
    if not (place / "README.md").is_file():
        print(f"no README.md in {place}; zoo card writes one", file=sys.stderr)
    commit = push_to_hub(place, repository, private=private or None, revision=revision, commit_message=message)
    print(f"{repository} {commit}")
