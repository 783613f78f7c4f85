"""Templates filled in, and written as one folder.

``templates/any`` is the part that all distributions have, ``templates/<kind>`` that of a component of that kind. A
file ``a/b.py.in`` is written as ``a/b.py`` with its ``$words`` replaced. In a path ``package`` and ``recipe`` stand for
their names, ``suite`` for ``tests``, which no wheel of ours has, and a leading ``dot_`` for a dot.
"""

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path
from string import Template
from typing import Any

from packaging.version import Version

from zoo_core.errors import ConfigError, PluginError
from zoo_core.files import whole_folder
from zoo_core.host import KNOWN_PLUGINS, core_version, owned_name
from zoo_core.specs import NAME

TEMPLATES = Path(__file__).parent / "templates"
KINDS = tuple(sorted(path.parent.name for path in TEMPLATES.glob("*/about.toml")))
LONGEST = 40  # letters of a name: with it every line of a file still fits its width


@dataclass(frozen=True)
class Project:
    """What was written.

    Attributes:
        folder: of the distribution.
        plugin: its name, to which the component's is added: ``my-plugin/laplace``.
        recipe: the name of the recipe that trains with it.
        files: paths inside the folder, in order.
    """

    folder: Path
    plugin: str
    component: str
    recipe: str
    files: tuple[str, ...]


def new_plugin(name: str, kind: str, into: Path | None = None) -> Project:
    """Writes a distribution ``zoo-<name>`` with one working component of a kind: whole, or not at all.

    Args:
        name: lower-case letters and digits, joined by ``-``; with ``zoo-`` or without.
        kind: one of ``KINDS``.
        into: the folder, which is made, or is empty; default ``zoo-<name>`` where this process works.

    Raises:
        ConfigError: the name or the kind cannot be used, or there is something in the folder.
        OSError: it cannot be written.
    """
    plugin = plugin_name(name)
    about = describe(kind)
    words = words_for(plugin, about)
    folder = into or Path(words["distribution"])
    files = {path: text for part in ("any", kind) for path, text in filled(TEMPLATES / part, words)}
    _require_free(folder)
    with whole_folder(folder) as place:
        for path, text in {**files, "LICENSE": license_text()}.items():
            (place / path).parent.mkdir(parents=True, exist_ok=True)
            (place / path).write_text(text, encoding="utf-8")
        _require_free(folder)  # what came there meanwhile would be replaced
    return Project(folder, plugin, words["component"], words["recipe"], tuple(sorted([*files, "LICENSE"])))


def plugin_name(name: str) -> str:
    """The name of a plugin, from its own or its distribution's.

    Raises:
        ConfigError: it is none, or one of those that this project publishes.
    """
    plugin = name.removeprefix("zoo-")
    if not NAME.fullmatch(plugin) or owned_name(f"zoo-{plugin}") != plugin or len(plugin) > LONGEST:
        raise ConfigError(
            f"name {name!r}: use lower-case letters and digits, joined by '-', {LONGEST} at most, such as my-plugin"
        )
    if plugin in (*KNOWN_PLUGINS, "core"):
        raise ConfigError(f"name {name!r}: zoo-{plugin} is one of the zoo's own; choose another")
    return plugin


def describe(kind: str) -> Mapping[str, Any]:
    """What is said of a kind's component: its name and title, what it needs, the data it is tried on.

    Raises:
        ConfigError: there is no such kind.
    """
    if kind not in KINDS:
        raise ConfigError(f"--kind: must be one of {', '.join(KINDS)}, got {kind!r}")
    return tomllib.loads((TEMPLATES / kind / "about.toml").read_text(encoding="utf-8"))


def words_for(plugin: str, about: Mapping[str, Any]) -> dict[str, str]:
    """What the ``$words`` of a template stand for."""
    versions = bounds(core_version())
    needs = ["torch", *(f"{name}{versions}" for name in ("zoo-core", *about["needs"]))]
    words = {
        "plugin": plugin,
        "distribution": f"zoo-{plugin}",
        "package": f"zoo_{plugin.replace('-', '_')}",
        "component": str(about["component"]),
        "title": str(about["title"]),
        "recipe": f"{plugin}-{about['data']}",
        "bounds": versions,
        "dependencies": "\n".join(f'    "{need}",' for need in needs),
    }
    return {**words, "use": Template(str(about["use"]).strip()).substitute(words)}


def bounds(core: str) -> str:
    """The versions of the zoo that a plugin written for this one takes: ``>=0.1,<0.2``, or ``>=1.4,<2``.

    A version that is not out yet is itself the lowest: ``>=0.2`` would leave out 0.2.0.dev1.
    """
    version = Version(core)
    lowest = version.public if version.is_prerelease else f"{version.major}.{version.minor}"
    return f">={lowest},<{version.major + 1 if version.major else f'0.{version.minor + 1}'}"


def filled(templates: Path, words: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Path and text of each file that a folder of templates makes."""
    for source in sorted(templates.rglob("*.in")):
        parts = source.relative_to(templates).with_suffix("").parts
        yield "/".join(_renamed(part, words) for part in parts), Template(_read(source)).substitute(words)


def license_text() -> str:
    """The licence of the zoo, which the new plugin has too.

    Raises:
        PluginError: the installation has lost it.
    """
    text = distribution("zoo-core").read_text("licenses/LICENSE")
    if not text:
        raise PluginError("the file LICENSE of zoo-core is missing; install zoo-core again")
    return text


def _renamed(part: str, words: Mapping[str, str]) -> str:
    if part.startswith("dot_"):
        return f".{part.removeprefix('dot_')}"
    stem, dot, suffix = part.partition(".")
    names = {"package": words["package"], "recipe": words["recipe"], "suite": "tests"}
    return names.get(stem, stem) + dot + suffix


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _require_free(folder: Path) -> None:
    """Raises ConfigError unless nothing is lost by writing there."""
    if folder.is_dir() and Path.cwd().is_relative_to(folder.resolve()):
        raise ConfigError(f"{folder} holds the current folder; name another one with --into")
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ConfigError(f"{folder} is there already; name a new or an empty folder with --into")
