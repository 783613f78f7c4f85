"""``zoo train``: the same in a shell and under ``accelerate launch -m zoo_core.training``; ``zoo fit-prior``."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from zoo_core.cli.options import ModelName, Revision
from zoo_core.cli.output import print_table
from zoo_core.errors import ConfigError
from zoo_core.host import default_host


def add_to(app: typer.Typer) -> None:
    app.command()(train)
    app.command("fit-prior")(fit_prior)


def train(
    recipe: Annotated[
        str | None, typer.Argument(help="A YAML file, or the name of an installed recipe: vae-mnist.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Change a field: training.lr=3e-4, model.encoder.latents=8.")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The run's folder; default runs/NAME.")] = None,
    start: Annotated[str | None, typer.Option("--from", help="Train this model further.")] = None,
    revision: Revision = None,
    resume: Annotated[str, typer.Option(help="A run, or checkpoint, where this one begins.")] = "auto",
    processes: Annotated[
        int | None, typer.Option("--num-processes", min=1, help="On so many GPUs, or CPU processes, of all hosts.")
    ] = None,
    machines: Annotated[int, typer.Option("--num-machines", min=1, help="How many hosts take part.")] = 1,
    machine: Annotated[int, typer.Option("--machine-rank", min=0, help="The number of this host, from 0.")] = 0,
    address: Annotated[str, typer.Option("--main-address", help="Of host 0, as the others reach it.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--main-port", help="A free port of host 0.")] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Build everything, take one step, save nothing.")] = False,
    show_list: Annotated[bool, typer.Option("--list", help="List the installed recipes.")] = False,
) -> None:
    """Train a recipe; started again with the same folder, a run goes on where it stopped.

    SIGTERM and Ctrl-C save first; the exit code is then 75.

    Examples: zoo train vae-mnist · zoo train my.yaml --set training.epochs=2 -o runs/try · zoo train vae-mnist
    --num-processes 2 · zoo train --from vae-mnist --set data.name=./pictures
    """
    from zoo_core.training.reading import installed_recipes

    if show_list:
        print_table("", ("", ""), [(name, _summary(path)) for name, path in installed_recipes(default_host()).items()])
        return
    from zoo_core.training.command import Command

    command = Command(
        recipe=recipe, overrides=overrides or (), output=output, resume=resume, start=start, revision=revision
    )
    if dry_run:
        from zoo_core.training.loop import rehearse

        print_table("", ("", ""), [(key, str(value)) for key, value in rehearse(command.plan()).items()])
    elif processes is None and machines == 1:
        _tell(command.run())
    else:
        from zoo_core.training.processes.launch import Hosts, launch

        command.plan()  # what is wrong with it is told here, once
        raise typer.Exit(launch(command.arguments(), processes or machines, Hosts(machines, machine, address, port)))


def fit_prior(
    model: ModelName,
    prior: Annotated[str, typer.Option(help="Any prior, or any model in its place: classical/gmm, flow/realnvp, …")],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="prior.components=50, training.epochs=10, loss=…, data.options.…")
    ] = None,
    data: Annotated[str | None, typer.Option(help="A data set to encode; default that of the model's recipe.")] = None,
    split: Annotated[str | None, typer.Option(help="Its split; default the recipe's for training.")] = None,
    draws: Annotated[int, typer.Option(min=1, help="How many z ~ q(z|x) of each x.")] = 1,
    revision: Revision = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The run's folder; default runs/NAME.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Encode, take one step, save no model.")] = False,
) -> None:
    """Fit a prior to the latents of a finished model; its other weights stay. Goes on where it stopped.

    Examples: zoo fit-prior vae-mnist --prior flow/realnvp · zoo fit-prior runs/ae/model --prior classical/gmm
    --set prior.components=50 -o runs/ae-gmm
    """
    from zoo_core.training.loop import rehearse
    from zoo_core.training.post_hoc import PriorsAsModels, prior_recipe, put_prior

    named = {key: value for key, value in (("name", data), ("split", split)) if value}
    chosen = _overridden({"prior": _yaml(prior, "--prior"), "data": named}, overrides or ())
    recipe = prior_recipe(model, chosen.pop("prior"), draws=draws, revision=revision, **chosen)
    if dry_run:
        told = rehearse(recipe, host=PriorsAsModels(default_host()))
        print_table("", ("", ""), [(key, str(value)) for key, value in told.items()])
        return
    _tell(put_prior(recipe, output or Path("runs") / recipe.name))


def _tell(finished: Path | None) -> None:
    """The folder of a finished model, in the process that has it."""
    if finished is not None:
        print(finished)


def _overridden(settings: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """The settings of a fit with KEY=VALUE at dotted paths. Raises ConfigError if there is no such setting."""
    chosen: Any = dict(settings)
    for override in overrides:
        key, equals, text = override.partition("=")
        place, *rest = key.split(".")
        if not equals or place not in ("prior", "data", "loss", "training"):
            raise ConfigError(f"--set {override}: use prior.…=, data.…=, loss.…= or training.…=")
        value = _yaml(text, f"--set {override}")
        for name in reversed((place, *rest)):
            value = {name: value}
        chosen = _merged(chosen, value)
    return dict(chosen)


def _merged(old: Any, new: Any) -> Any:
    """Mappings one in the other; a component written as its name alone takes arguments too."""
    if not isinstance(new, Mapping):
        return new
    base = {"type": old} if isinstance(old, str) else old if isinstance(old, Mapping) else {}
    return {**base, **{key: _merged(base.get(key), value) for key, value in new.items()}}


def _yaml(text: str, where: str) -> Any:
    from zoo_core.training.reading import parse_yaml

    return parse_yaml(text, where)


def _summary(path: Path) -> str:
    line = path.read_text(encoding="utf-8").partition("\n")[0]
    return line.removeprefix("summary: ") if line.startswith("summary: ") else ""
