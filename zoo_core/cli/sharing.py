"""``zoo push`` and ``zoo publish``: finished models to the Hugging Face Hub."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zoo_core.cli.options import complete_checkpoint
from zoo_core.cli.output import print_table
from zoo_core.errors import ConfigError, plain

if TYPE_CHECKING:
    from zoo_core.publishing.pushing import Push
    from zoo_core.publishing.registered import Publication

CARD_LINES = 8


def add_to(app: typer.Typer) -> None:
    app.command()(push)
    app.command()(publish)


def push(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A folder, or vae-mnist.", autocompletion=complete_checkpoint)
    ],
    repository: Annotated[str, typer.Argument(metavar="ORG/NAME", help="Where it goes; made if need be.")],
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    revision: Annotated[str | None, typer.Option(help="The branch; made if need be. Default main.")] = None,
    message: Annotated[str, typer.Option("--message", "-m", help="Of the commit.")] = "Upload model",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Tell what would change there, and send nothing.")] = False,
) -> None:
    """Upload a model as one commit: weights, config, recipe, results, card and pictures.

    A README.md on the Hub that a person wrote is kept. Log in first: hf auth login, or HF_TOKEN.

    Examples: zoo push runs/try/model me/try · zoo push vae-mnist me/vae --dry-run · zoo push runs/try/model me/try
    --private --revision next
    """
    from zoo_core.pretrained import local_checkpoint
    from zoo_core.publishing.contents import contents_of
    from zoo_core.publishing.pushing import check_repository, rehearse
    from zoo_core.publishing.pushing import push as send

    check_repository(repository)
    with contents_of(local_checkpoint(model), repository) as contents:
        if dry_run:
            _tell(rehearse(contents, repository, revision=revision))
            return
        done = send(contents, repository, private=private or None, revision=revision, message=message)
    for remark in done.remarks:
        print(plain(remark, 500), file=sys.stderr)
    print(f"{done.repository} {done.commit}")


def publish(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME", help="vae-mnist, …", autocompletion=complete_checkpoint)
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every checkpoint of the project's own plugins.")] = False,
    organisation: Annotated[
        str | None, typer.Option(help="Push to this one instead; commits are noted with --pins alone.")
    ] = None,
    pins: Annotated[
        Path | None, typer.Option(help="Note the commits in this file, not in the plugins' published.json.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Tell what would change there, and send nothing.")] = False,
) -> None:
    """Push checkpoints to the repositories in their specs, and note each commit for the next release.

    What is there already is not sent again; after an error or a kill, the same command goes on where it ended.

    Examples: zoo publish --all · zoo publish vae-mnist --dry-run · zoo publish --all --organisation me --pins me.json
    """
    from zoo_core.publishing.registered import plans
    from zoo_core.publishing.registered import publish as send

    if everything == bool(names):
        raise ConfigError("say which checkpoints by name, or --all")
    planned = plans(None if everything else names, organisation=organisation, pins=pins)
    done: list[Publication] = []
    try:
        for publication in send(planned, dry_run=dry_run):
            done.append(publication)
    finally:
        rows = [(p.name, p.push.repository, p.push.commit or "none", _what(p, dry_run)) for p in done]
        print_table("", ("checkpoint", "repository", "commit", ""), rows)
        for remark in (f"{p.name}: {remark}" for p in done for remark in p.push.remarks):
            print(plain(remark, 500), file=sys.stderr)


def _what(publication: "Publication", dry_run: bool) -> str:
    changed = "would change" if dry_run else "pushed"
    return (changed if publication.push.changed else "unchanged") + (", noted" if publication.noted else "")


def _tell(told: "Push") -> None:
    from huggingface_hub.repocard import REGEX_YAML_BLOCK

    rows = [(plain(change.name), change.what, f"{change.size:,} bytes") for change in told.changes]
    print_table(f"{told.repository} {told.commit}".rstrip(), ("file", "", ""), rows)
    for remark in told.remarks:
        print(plain(remark, 500))
    prose = REGEX_YAML_BLOCK.sub("", told.card, count=1)
    lines = [plain(line) for line in prose.splitlines() if line.strip()]
    print("\n".join(["README.md:", *(f"  {line}" for line in lines[:CARD_LINES])]))
