"""Finds plugins, keeps broken ones apart, looks components up. Imports no torch.

Each plugin is loaded in a manager of its own, so that whatever one does wrong (an import that fails, a
misspelt hook, a generator that raises half-way) can be told by its name and touches no other.
"""

import functools
import importlib
import importlib.util
import logging
import os
import re
import sys
import time
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib.metadata import Distribution, EntryPoint, entry_points, version
from typing import Any, NamedTuple

import pluggy

from zoo_core.errors import PluginError, UnknownComponent
from zoo_core.hookspecs import GROUP, KINDS, YIELDS, ZooHooks
from zoo_core.specs import NAME, Spec

log = logging.getLogger("zoo_core")

# Listing a hundred components must cost nothing: none of these may come in with a plugin's hooks.
HEAVY = ("torch", "transformers", "datasets", "accelerate", "sklearn", "matplotlib")

# Distributions that this project publishes. Only these are ever suggested for installation: the name in
# a stranger's checkpoint must not choose what a user installs.
KNOWN_PLUGINS = ("nets", "vae", "metrics")


class Registration(NamedTuple):
    """A spec and the plugin it came from."""

    spec: Spec
    plugin: str

    @property
    def full_name(self) -> str:
        return f"{self.plugin}/{self.spec.name}"


@dataclass
class Plugin:
    """One installed plugin as the host found it.

    Attributes:
        state: ``active``, ``failed`` or ``disabled``.
        error: why it failed, on one line; empty otherwise.
        traceback: the whole story of the failure.
        package: its top-level package, in which its recipes and bundled weights lie.
        imports: heavy libraries that its hooks module dragged in.
    """

    name: str
    distribution: str = ""
    version: str = ""
    state: str = "active"
    error: str = ""
    traceback: str = ""
    package: str = ""
    imports: tuple[str, ...] = ()
    specs: tuple[Spec, ...] = field(default=(), repr=False)

    def __str__(self) -> str:
        origin = f" ({self.distribution} {self.version})" if self.distribution else ""
        return f"plugin {self.name!r}{origin}"


class PluginHost:
    """The plugins of this process and what they offer.

    Args:
        discover: find installed plugins by their entry points; else start empty.
        strict: raise at the first broken plugin instead of leaving it out; default ``ZOO_STRICT``.

    ``ZOO_DISABLE=a,b`` leaves plugins out and ``ZOO_PLUGINS=a,b`` lets only these in (empty: none), both
    before anything of them is imported and by plugin or distribution name.

    Raises:
        PluginError: a plugin is broken and ``strict`` holds.
    """

    def __init__(self, *, discover: bool = True, strict: bool | None = None) -> None:
        self.plugins: dict[str, Plugin] = {}
        self.strict = os.environ.get("ZOO_STRICT", "") not in ("", "0") if strict is None else strict
        if discover:
            for entry_point in sorted(entry_points(group=GROUP), key=lambda e: e.name):
                self._discover(entry_point)

    def register(self, plugin: object, name: str) -> None:
        """Adds a plugin object by hand, in this process only: for tests and notebooks.

        Raises:
            PluginError: it is broken, or the name is taken.
        """
        if name in self.plugins:
            raise PluginError(f"there is a plugin {name!r} already: {self.plugins[name]}")
        found = Plugin(name)
        try:
            found.specs = collect(plugin, name)
        except Exception as error:
            raise PluginError(f"plugin {name!r} is broken: {one_line(error)}") from error
        self.plugins[name] = found

    def registrations(self, kind: str | None = None) -> list[Registration]:
        """Everything the active plugins offer, of one kind or of all, by full name."""
        found = (Registration(spec, p.name) for p in self.plugins.values() for spec in p.specs)
        return sorted((r for r in found if kind in (None, r.spec.kind)), key=lambda r: r.full_name)

    def find(self, kind: str | None, name: str) -> Registration:
        """The component of that name: ``plugin/name``, or ``name`` while only one plugin has it.

        Raises:
            UnknownComponent: there is none, or several; the message says which were meant.
            PluginError: its plugin is installed but failed to load, or is disabled.
        """
        offered = self.registrations(kind)
        matches = [r for r in offered if name in (r.full_name, r.spec.name)]
        if len(matches) == 1:
            return matches[0]
        what = kind or "component"
        if matches:
            names = ", ".join(f"{r.full_name} ({r.spec.kind})" for r in matches)
            raise UnknownComponent(f"{name!r} names more than one {what}: {names}; use the full name")
        self._explain_absence(name)
        raise UnknownComponent(f"no {what} {name!r}{self._suggestion(name, offered)}")

    def load(self, registration: Registration) -> Any:
        """Imports what a registration's target names.

        Raises:
            PluginError: it cannot be imported; the message names plugin, target and cause.
        """
        spec = registration.spec
        module, _, attribute = spec.target.partition(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except Exception as error:
            raise PluginError(
                f"{spec.kind} {registration.full_name!r} of {self.plugins[registration.plugin]} cannot be"
                f" imported from {spec.target!r}: {one_line(error)}"
            ) from error

    def name_of(self, target: type) -> Registration | None:
        """The registration of a class that has been imported; None if no active plugin offers it."""
        return next((r for r in self.registrations() if _imported(r.spec.target) is target), None)

    def _discover(self, entry_point: EntryPoint) -> None:
        dist = entry_point.dist
        assert dist is not None  # entry_points() reads them from distributions
        plugin = Plugin(entry_point.name, dist.name, dist.version, package=entry_point.module.partition(".")[0])
        if not _allowed(plugin):
            plugin.state = "disabled"
        else:
            self._load_plugin(plugin, entry_point, dist)
        # A distribution that took another's name is kept under its own, so as to hide nobody.
        self.plugins[plugin.name if plugin.name == owned_name(dist.name) else dist.name] = plugin

    def _load_plugin(self, plugin: Plugin, entry_point: EntryPoint, dist: Distribution) -> None:
        before, start = set(sys.modules), time.perf_counter()
        try:
            _check_owner(plugin)
            plugin.specs = collect(entry_point.load(), plugin.name, plugin.package)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a plugin that calls sys.exit() must not end the host
            plugin.state, plugin.traceback = "failed", traceback.format_exc()
            plugin.error = one_line(error) + _version_conflict(dist)
            if self.strict:
                raise PluginError(f"{plugin} is broken: {plugin.error}") from error
            log.warning("%s is skipped: %s (see 'zoo plugins --errors', or set ZOO_DISABLE=%s)",
                        plugin, plugin.error, plugin.name)
        plugin.imports = tuple(m for m in HEAVY if m in sys.modules and m not in before)
        if plugin.imports:
            log.warning("%s imports %s when it is listed (%.1f s); keep its hooks in a module that does not",
                        plugin, ", ".join(plugin.imports), time.perf_counter() - start)

    def _explain_absence(self, name: str) -> None:
        """Says why a name is missing when its plugin is known to be the reason."""
        owner = name.partition("/")[0] if "/" in name else ""
        plugin = self.plugins.get(owner)
        if plugin is None:
            if owner in KNOWN_PLUGINS:
                raise UnknownComponent(
                    f"{name!r} needs the plugin {owner!r}, which is not installed: pip install zoo-{owner}"
                )
            return
        if plugin.state == "failed":
            raise PluginError(f"{name!r} cannot be used: {plugin} is installed but failed to load: {plugin.error}")
        if plugin.state == "disabled":
            raise PluginError(f"{name!r} cannot be used: {plugin} is disabled by ZOO_DISABLE or ZOO_PLUGINS")

    def _suggestion(self, name: str, offered: Iterable[Registration]) -> str:
        owner, _, short = name.rpartition("/")
        if owner and owner not in self.plugins:
            return f": no plugin {owner!r} is installed"
        full_names = {r.spec.name: r.full_name for r in offered}
        near = get_close_matches(short, full_names, n=3)
        if near:
            return "; did you mean: " + ", ".join(full_names[n] for n in near) + "?"
        return "; there are: " + (", ".join(sorted(full_names.values())) or "none")


@functools.cache
def default_host() -> PluginHost:
    """The host of this process, made at the first call."""
    return PluginHost()


def collect(plugin: object, name: str, package: str | None = None) -> tuple[Spec, ...]:
    """All specs a plugin object yields.

    Args:
        package: the plugin's top-level package; targets inside it must exist.

    Raises:
        ValueError, TypeError, pluggy.PluginValidationError: whatever is wrong with it.
    """
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(ZooHooks)
    manager.register(plugin, name)
    manager.check_pending()
    specs = tuple(spec for hook in YIELDS for spec in _consume(manager, hook))
    _check_unique(specs)
    _check_targets(specs, package)
    return specs


def _consume(manager: pluggy.PluginManager, hook: str) -> Iterator[Spec]:
    for implementation in getattr(manager.hook, hook).get_hookimpls():
        for spec in implementation.function():
            if not isinstance(spec, YIELDS[hook]):
                wanted = " or ".join(t.__name__ for t in YIELDS[hook])
                raise TypeError(f"{hook}() must yield {wanted}, not {type(spec).__name__}")
            yield spec


def _check_unique(specs: Iterable[Spec]) -> None:
    seen: dict[str, Spec] = {}
    for spec in specs:
        if spec.name in seen:
            raise ValueError(f"the name {spec.name!r} is used twice, as {seen[spec.name].kind} and {spec.kind}")
        seen[spec.name] = spec


def _check_targets(specs: Iterable[Spec], package: str | None) -> None:
    for module in sorted({spec.target.partition(":")[0] for spec in specs}):
        if package and module.partition(".")[0] == package and not _exists(module):
            raise ValueError(f"a target names the module {module!r}, which does not exist")


def _exists(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _imported(target: str) -> object:
    """What a target names, if its module has been imported by now."""
    module, _, attribute = target.partition(":")
    return getattr(sys.modules.get(module), attribute, None)


def owned_name(distribution: str) -> str:
    """The one plugin name that a distribution may use: its own, without ``zoo-``; empty if none."""
    normal = re.sub(r"[-_.]+", "-", distribution).lower()
    return normal.removeprefix("zoo-") if normal.startswith("zoo-") else ""


def _check_owner(plugin: Plugin) -> None:
    own = owned_name(plugin.distribution)
    if not own:
        raise ValueError(f"its distribution is called {plugin.distribution!r}; plugins are called 'zoo-<name>'")
    if plugin.name != own:
        raise ValueError(f"the name {plugin.name!r} is not its own; {plugin.distribution} may only use {own!r}")
    if not NAME.fullmatch(plugin.name):
        raise ValueError(f"plugin name {plugin.name!r}: use lower-case letters and digits, joined by '-'")


def _allowed(plugin: Plugin) -> bool:
    names = {plugin.name, plugin.distribution}
    if names & _listed("ZOO_DISABLE"):
        return False
    return "ZOO_PLUGINS" not in os.environ or bool(names & _listed("ZOO_PLUGINS"))


def _listed(variable: str) -> set[str]:
    return {name.strip() for name in os.environ.get(variable, "").split(",") if name.strip()}


def _version_conflict(dist: Distribution) -> str:
    """Whether a failed plugin was made for another version of the core, for its warning."""
    from packaging.requirements import InvalidRequirement, Requirement

    for text in dist.requires or ():
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            continue
        if requirement.name == "zoo-core" and not requirement.specifier.contains(core_version(), True):
            return f"; it asks for zoo-core{requirement.specifier}, this is {core_version()}"
    return ""


def core_version() -> str:
    return version("zoo-core")


def one_line(error: BaseException) -> str:
    """``Type: message`` on one line; pluggy's messages put the reason on the third."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def check_kind(kind: str) -> str:
    """The kind's name in the singular; ``encoders`` is taken for ``encoder``.

    Raises:
        UnknownComponent: there is no such kind.
    """
    for known in KINDS:
        if kind in (known, plural(known)):
            return known
    raise UnknownComponent(f"no kind {kind!r}; there are: {', '.join(map(plural, KINDS))}")


def plural(kind: str) -> str:
    return "losses" if kind == "loss" else kind + "s"
