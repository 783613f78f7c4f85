"""Which data set a name means: a registered one, a path, a local copy, a repository on the Hub."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo_core.arguments import signature, unknown_arguments
from zoo_core.errors import DataError, UnknownComponent
from zoo_core.host import PluginHost, Registration, default_host

if TYPE_CHECKING:
    from zoo_core.data.dataset import Dataset

GIVEN = ("path", "split", "name")  # parameters that are no options


def load(name: str, split: str = "train", *, host: PluginHost | None = None, **options: Any) -> Dataset:
    """A data set by name.

    1. A registered name: ``"digits"``, ``"core/shapes"``.
    2. A path that exists, or that starts with ``./``, ``../``, ``/`` or ``~``: never the Hub.
    3. ``"organisation/name"``: a folder of that name in one of ``ZOO_DATA``, which stands for every
       revision, else the repository on the Hugging Face Hub.

    Args:
        split: ``"train"``, ``"test"``, …
        host: whose plugins are asked; those of this process by default.
        options: of the registered data set, of :func:`zoo_core.data.sources.from_path` or of
            :func:`zoo_core.data.sources.from_hub`: ``image_size``, ``config``, ``revision``,
            ``streaming``, …

    Raises:
        ConfigError: there is no such option, or its value is not allowed.
        DataError: there is no such data set or split, or it cannot be read.
        UnknownComponent: a plugin or the host knows that it offers no such name.
        PluginError: the plugin of that name is broken or disabled.
    """
    if looks_like_path(name):
        return _from_path(name, split, options)
    host = host or default_host()
    try:
        found = host.find("dataset", name)
    except UnknownComponent as error:
        return _unregistered(host, name, split, options, error)
    return _registered(host, found, split, options)


def looks_like_path(name: str) -> bool:
    """Whether a name is a path by its form alone."""
    return name in (".", "..") or name.startswith(("./", "../", "/", "~", f".{os.sep}"))


def _registered(host: PluginHost, found: Registration, split: str, options: Mapping[str, Any]) -> Dataset:
    splits: tuple[str, ...] = getattr(found.spec, "splits", ())
    if split not in splits:
        raise DataError(f"{found.full_name} has no split {split!r}; it has: {', '.join(splits)}")
    target = host.load(found)
    _check_options(found.full_name, target, options)
    made: Dataset = target(split, **options)
    return made


def _unregistered(
    host: PluginHost,
    name: str,
    split: str,
    options: Mapping[str, Any],
    unknown: UnknownComponent,
) -> Dataset:
    if Path(name).exists():
        return _from_path(name, split, options)
    owner, slash, _ = name.partition("/")
    if not slash:
        raise UnknownComponent(f"{unknown}; or give a folder (./{name}) or organisation/name")
    if owner in host.plugins:
        raise unknown
    return _from_organisation(host, name, split, options)


def _from_organisation(host: PluginHost, name: str, split: str, options: Mapping[str, Any]) -> Dataset:
    from zoo_core.data.hub import Absent, require_name
    from zoo_core.data.sources import from_hub, from_path

    require_name(name)
    _check_options(name, from_hub, options)
    copy = next((folder / name for folder in data_folders() if (folder / name).is_dir()), None)
    if copy:
        here = {option: value for option, value in options.items() if option != "revision"}
        return from_path(copy, split, name=name, **here)
    try:
        return from_hub(name, split, **options)
    except Absent as error:
        raise Absent(f"{error}{_suggestion(host, name, error.names)}") from error


def _from_path(path: str, split: str, options: Mapping[str, Any]) -> Dataset:
    from zoo_core.data.sources import from_path

    _check_options(path, from_path, options)
    return from_path(path, split, **options)


def data_folders() -> list[Path]:
    """The folders of ``ZOO_DATA``, which hold local copies as ``organisation/name``."""
    listed = os.environ.get("ZOO_DATA", "").split(os.pathsep)
    return [Path(folder).expanduser() for folder in listed if folder]


def _check_options(name: str, target: Callable[..., object], options: Iterable[str]) -> None:
    own = [p for p in signature(target).parameters.values() if p.name not in GIVEN]
    if not any(p.kind is p.VAR_KEYWORD for p in own):
        unknown_arguments(list(options), [p.name for p in own], name)


def _suggestion(host: PluginHost, name: str, on_hub: Iterable[str]) -> str:
    registered = (found.full_name for found in host.registrations("dataset"))
    near = get_close_matches(name, {*registered, *_local_names(), *on_hub}, n=3)
    return f"; did you mean: {', '.join(near)}?" if near else ""


def _local_names() -> Iterator[str]:
    for folder in data_folders():
        yield from (str(copy.relative_to(folder)) for copy in folder.glob("*/*") if copy.is_dir())
