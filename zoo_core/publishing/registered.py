"""The checkpoints of installed plugins, each to its repository; and the commits noted for the next release."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

from zoo_core.errors import CheckpointError
from zoo_core.host import KNOWN_PLUGINS, PluginHost, Registration, default_host
from zoo_core.pins import pins_file, read_pins, write_pin
from zoo_core.pretrained import checkpoint_folder
from zoo_core.publishing.contents import CARD, Contents, gathered, is_written_by_zoo
from zoo_core.publishing.pushing import Push, check_repository, push, rehearse

WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Plan:
    """Where a checkpoint goes. ``pins``: the file in which its commit is noted; None for none."""

    name: str
    repository: str
    contents: Contents
    pins: Path | None


@dataclass(frozen=True)
class Publication:
    """A checkpoint that was published. ``noted``: whether its pin was none, or another one."""

    name: str
    push: Push
    noted: bool


def plans(
    names: Sequence[str] | None,
    *,
    organisation: str | None = None,
    pins: Path | None = None,
    host: PluginHost | None = None,
) -> list[Plan]:
    """Where these checkpoints go; None for all of the project's own plugins. Nothing is sent yet.

    Args:
        organisation: in the place of the one in their specs; commits are then noted in ``pins`` alone.
        pins: the file for the commits, in the place of those in the plugins.

    Raises:
        UnknownComponent: there is no such checkpoint.
        CheckpointError: one is not on this machine, or damaged, or its card is not what the zoo writes of it; two
            would go to one repository; or a plugin's files are not to be changed.
    """
    host = host or default_host()
    found = [host.find("checkpoint", name) for name in names] if names is not None else _first_party(host)
    planned = [_plan(registration, organisation, pins, host) for registration in dict.fromkeys(found)]
    for repository, times in Counter(plan.repository for plan in planned).items():
        if times > 1:
            raise CheckpointError(f"{times} checkpoints would go to {repository!r}; publish them apart")
    return planned


def publish(
    planned: Iterable[Plan], *, dry_run: bool = False, token: str | bool | None = None
) -> Iterator[Publication]:
    """Pushes each and notes its commit, one after another; what is there already is noted as it is.

    After a kill, or an error, the same again goes on where it ended.

    Raises:
        CheckpointError: as ``push_to_hub``. OSError: the commit cannot be noted.
    """
    for plan in planned:
        if dry_run:
            yield Publication(plan.name, rehearse(plan.contents, plan.repository, token=token), False)
        else:
            done = push(plan.contents, plan.repository, message=f"Publish {plan.name}", token=token)
            yield Publication(plan.name, done, _note(plan, done.commit))


def _first_party(host: PluginHost) -> list[Registration]:
    return [r for r in host.registrations("checkpoint") if r.plugin in KNOWN_PLUGINS]


def _plan(registration: Registration, organisation: str | None, pins: Path | None, host: PluginHost) -> Plan:
    spec: Any = registration.spec
    folder = checkpoint_folder(registration)
    if folder is None:
        raise CheckpointError(f"{registration.full_name!r} is not on this machine, so that it cannot be published")
    repository = f"{organisation}/{spec.name}" if organisation else spec.hub
    check_repository(repository)
    if pins is None and organisation is None:
        pins = pins_file(spec.target)
        _refuse_installed(registration, host)
    if pins is not None:
        _readable(pins)
    return Plan(spec.name, repository, _fitting(folder, spec.name, host), pins)


def _refuse_installed(registration: Registration, host: PluginHost) -> None:
    """What pip has put somewhere is not the source of the next release."""
    plugin = host.plugins[registration.plugin]
    package = registration.spec.target.partition(":")[0].partition(".")[0]
    record = distribution(plugin.distribution).read_text("RECORD") if plugin.distribution else ""
    if any(line.startswith(f"{package}/") for line in (record or "").splitlines()):
        raise CheckpointError(
            f"{registration.full_name!r}: {plugin.distribution} is installed from a wheel, and its commit would not get"
            " into the next release; publish from an editable installation, or name a file for it with --pins"
        )


def _fitting(folder: Path, name: str, host: PluginHost) -> Contents:
    """What a folder holds, if its card is what the zoo writes of these weights and these results."""
    contents = gathered(folder, name, host)
    if contents.made or not is_written_by_zoo(folder, name):
        raise CheckpointError(
            f"{folder}: {CARD} is not what the zoo writes of this checkpoint and its results; write it again:"
            f" zoo card {folder} --name {name} -o {folder / CARD}"
        )
    return contents


def _note(plan: Plan, commit: str) -> bool:
    if plan.pins is None:
        return False
    _readable(plan.pins)
    # Weights in several files have no SHA-256 of their own; the commit holds them.
    return write_pin(plan.pins, plan.name, revision=commit, sha256=plan.contents.sha256.get(WEIGHTS, ""))


def _readable(pins: Path) -> None:
    try:
        read_pins(pins)
    except ValueError as error:
        raise CheckpointError(str(error)) from None
