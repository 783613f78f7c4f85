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
from collections.abc import Iterable, Iterator, Sequence
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
KNOWN_PLUGINS = ("autoencoder", "classical", "dalle", "flow", "metrics", "nets", "vae", "vqvae")


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

    @property
    def owns_its_name(self) -> bool:
        return self.name == owned_name(self.distribution)


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
            for entry_point in sorted(_installed(), key=lambda e: e.name):
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
            _check_name(name)
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
        others = sorted({r.spec.kind for r in self.registrations() if name in (r.full_name, r.spec.name)})
        known = f" (it is of the kind {' or '.join(others)})" if others else ""
        raise UnknownComponent(f"no {what} {name!r}{known}{self._suggestion(name, offered)}{self._not_loaded()}")

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
        # What an interrupted uninstall leaves behind has neither a name nor a version.
        plugin = Plugin(entry_point.name, dist.name or "", dist.version or "")
        if not _allowed(plugin):
            plugin.state = "disabled"
        else:
            self._load_plugin(plugin, entry_point, dist)
        # One that took another's name is kept under a key that is no name, so as to hide nobody.
        self.plugins[plugin.name if plugin.owns_its_name else f"{plugin.distribution}:{plugin.name}"] = plugin

    def _load_plugin(self, plugin: Plugin, entry_point: EntryPoint, dist: Distribution) -> None:
        before, start = set(sys.modules), time.perf_counter()
        try:
            _check_owner(plugin)
            plugin.package = _package(entry_point)
            plugin.specs = collect(entry_point.load(), plugin.name, plugin.package)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a plugin that calls sys.exit() must not end the host
            plugin.state, plugin.traceback = "failed", traceback.format_exc()
            plugin.error = one_line(error) + _version_conflict(dist)
            if self.strict:
                raise PluginError(f"{plugin} is broken: {plugin.error}") from error
            switch = plugin.name if plugin.owns_its_name else plugin.distribution or plugin.name
            log.warning(
                "%s is skipped: %s (see 'zoo plugins --errors', or set ZOO_DISABLE=%s)", plugin, plugin.error, switch
            )
        plugin.imports = tuple(m for m in HEAVY if m in sys.modules and m not in before)
        if plugin.imports and plugin.state == "active":
            log.warning(
                "%s imports %s when it is listed (%.1f s); keep its hooks in a module that does not",
                plugin,
                ", ".join(plugin.imports),
                time.perf_counter() - start,
            )

    def _explain_absence(self, name: str) -> None:
        """Says why a name is missing when its plugin is known to be the reason."""
        owner = name.partition("/")[0] if "/" in name else ""
        plugin = self._owner(owner)
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

    def _owner(self, name: str) -> Plugin | None:
        """The plugin that may use a name: by that name, or of the distribution that owns it."""
        owned = (p for p in self.plugins.values() if name and owned_name(p.distribution) == name)
        return self.plugins.get(name) or next(owned, None)

    def _suggestion(self, name: str, offered: Sequence[Registration]) -> str:
        owner, _, short = name.rpartition("/")
        if owner and self._owner(owner) is None:
            return f": no plugin {owner!r} is installed"
        near = get_close_matches(short, dict.fromkeys(r.spec.name for r in offered), n=3)
        if near:
            return "; did you mean: " + ", ".join(r.full_name for n in near for r in offered if r.spec.name == n) + "?"
        return "; there are: " + (", ".join(r.full_name for r in offered) or "none")

    def _not_loaded(self) -> str:
        """Which plugins might have had it, had they loaded."""
        failed = ", ".join(str(p) for p in self.plugins.values() if p.state == "failed")
        return f"; installed but failed to load: {failed}" if failed else ""


@functools.cache
def default_host() -> PluginHost:
    """The host of this process, made at the first call."""
    return PluginHost()


def _installed() -> list[EntryPoint]:
    """The entry points of every plugin; a distribution whose file of them cannot be read has none."""
    try:
        return list(entry_points(group=GROUP))
    except Exception:  # one distribution's file spoils the answer for all: ask each alone
        distributions = {_normal(d.name or ""): d for d in reversed(list(Distribution.discover()))}
        return [found for dist in distributions.values() for found in _readable(dist)]


def _readable(dist: Distribution) -> list[EntryPoint]:
    try:
        return list(dist.entry_points.select(group=GROUP))
    except Exception as error:
        log.warning("the entry points of %s cannot be read: %s", dist.name, one_line(error))
        return []


def collect(plugin: object, name: str, package: str | None = None) -> tuple[Spec, ...]:
    """All specs a plugin object yields.

    Args:
        plugin: a module, an object with methods, or a class, of which one object is made.
        package: the plugin's top-level package; targets inside it must exist.

    Raises:
        ValueError, TypeError, pluggy.PluginValidationError: whatever is wrong with it.
    """
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(ZooHooks)
    manager.register(plugin() if isinstance(plugin, type) else plugin, name)
    manager.check_pending()
    _check_marked(plugin, manager)
    specs = tuple(spec for hook in YIELDS for spec in _consume(manager, hook))
    _check_unique(specs)
    _check_targets(specs, package)
    return specs


def _consume(manager: pluggy.PluginManager, hook: str) -> Iterator[Spec]:
    for implementation in getattr(manager.hook, hook).get_hookimpls():
        wanted = " or ".join(t.__name__ for t in YIELDS[hook])
        offered = implementation.function()
        if not isinstance(offered, Iterable):
            raise TypeError(f"{hook}() must yield {wanted}; it returned {type(offered).__name__}")
        for spec in offered:
            if not isinstance(spec, YIELDS[hook]):
                raise TypeError(f"{hook}() must yield {wanted}, not {type(spec).__name__}")
            yield spec


def _check_marked(plugin: object, manager: pluggy.PluginManager) -> None:
    for hook in YIELDS:
        function = getattr(plugin, hook, None)
        inherited = getattr(function, "__func__", function) is getattr(ZooHooks, hook)
        if function and not inherited and not getattr(manager.hook, hook).get_hookimpls():
            raise ValueError(f"{hook} is not marked with @hookimpl")


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
    except ModuleNotFoundError as error:
        # A package that is there but lacks a dependency is told about when it is loaded.
        return not f"{module}.".startswith(f"{error.name}.")


def _imported(target: str) -> object:
    """What a target names, if its module has been imported by now."""
    module, _, attribute = target.partition(":")
    return getattr(sys.modules.get(module), attribute, None)


def owned_name(distribution: str) -> str:
    """The one plugin name that a distribution may use: its own, without ``zoo-``; empty if none."""
    normal = _normal(distribution)
    return normal.removeprefix("zoo-") if normal.startswith("zoo-") else ""


def _normal(name: str) -> str:
    """The form in which PyPI compares names of distributions."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _package(entry_point: EntryPoint) -> str:
    if not entry_point.pattern.match(entry_point.value):
        raise ValueError(f"its entry point is {entry_point.value!r}; use 'package.module'")
    return entry_point.module.partition(".")[0]


def _check_owner(plugin: Plugin) -> None:
    own = owned_name(plugin.distribution)
    if not plugin.distribution:
        raise ValueError("its distribution has no metadata; install it again, or remove what is left of it")
    if not own:
        raise ValueError(f"its distribution is called {plugin.distribution!r}; plugins are called 'zoo-<name>'")
    if plugin.name != own:
        raise ValueError(f"the name {plugin.name!r} is not its own; {plugin.distribution} may only use {own!r}")
    _check_name(plugin.name)


def _check_name(name: str) -> None:
    if not NAME.fullmatch(name):
        raise ValueError(f"plugin name {name!r}: use lower-case letters and digits, joined by '-'")


def _allowed(plugin: Plugin) -> bool:
    names = {_normal(plugin.name), _normal(plugin.distribution)}
    if names & _listed("ZOO_DISABLE"):
        return False
    return "ZOO_PLUGINS" not in os.environ or bool(names & _listed("ZOO_PLUGINS"))


def _listed(variable: str) -> set[str]:
    return {_normal(name.strip()) for name in os.environ.get(variable, "").split(",") if name.strip()}


def _version_conflict(dist: Distribution) -> str:
    """Whether a failed plugin was made for another version of the core, for its warning."""
    from packaging.requirements import InvalidRequirement, Requirement

    for text in dist.requires or ():
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            continue
        if _normal(requirement.name) != "zoo-core" or (requirement.marker and not requirement.marker.evaluate()):
            continue
        if not requirement.specifier.contains(core_version(), True):
            return f"; it asks for zoo-core{requirement.specifier}, this is {core_version()}"
    return ""


def core_version() -> str:
    return version("zoo-core")


def one_line(error: BaseException) -> str:
    """``Type: message`` on one line; pluggy's messages put the reason on the third."""
    try:
        text = " ".join(str(error).split())
    except Exception:  # some errors cannot even be printed
        text = ""
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
