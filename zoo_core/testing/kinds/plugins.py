"""What is asked of a plugin itself: that listing it costs nothing, and that what it lists is there."""

import importlib.metadata
import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from packaging.requirements import Requirement

from zoo_core.config import CONTRACTS
from zoo_core.hookspecs import GROUP
from zoo_core.host import Plugin, PluginHost, Registration, collect, one_line
from zoo_core.testing.checks import check, declared, require, unfit
from zoo_core.testing.examples import Told, told_by

MOST_MS = 50  # of processor time, to import its hooks and to call them
LOWER, UPPER = (">=", ">", "==", "~="), ("<", "<=", "==", "~=")

# Imports the hooks of a plugin three times, and tells how long the second fastest took.
TIMED = """
import importlib, json, sys, time
from zoo_core.host import HEAVY, collect
module, name, package = sys.argv[1:]
before, times = set(sys.modules), []
for _ in range(3):
    for own in [m for m in sys.modules if m not in before and m.partition(".")[0] == package]:
        del sys.modules[own]
    start = time.process_time()
    collect(importlib.import_module(module), name, package)
    times.append(1000 * (time.process_time() - start))
heavy = [m for m in HEAVY if m in sys.modules and m not in before]
print(json.dumps({"ms": sorted(times)[1], "heavy": heavy}))
"""


@dataclass(frozen=True, eq=False)
class Listing:
    """A plugin as the kit asks about it, in the place of both a spec and a component."""

    plugin: Plugin
    host: PluginHost
    kind: ClassVar[str] = "plugin"

    @property
    def spec(self) -> "Listing":
        return self

    @property
    def name(self) -> str:
        return self.plugin.name

    @property
    def registrations(self) -> list[Registration]:
        return [Registration(spec, self.name) for spec in self.plugin.specs]

    @property
    def entry_points(self) -> list[importlib.metadata.EntryPoint]:
        """Those of its distribution, for plugins."""
        found = importlib.metadata.distribution(self.plugin.distribution).entry_points
        return list(found.select(group=GROUP))


def is_installed(listing: Listing) -> bool:
    """Whether it comes in a distribution; one that was registered by hand does not."""
    return bool(listing.plugin.distribution)


@check("plugin", structural=True)
def targets(listing: Listing) -> None:
    """Each target can be imported, and is what its spec says."""
    for registration in listing.registrations:
        spec = registration.spec
        if spec.kind == "checkpoint":  # a folder
            continue
        try:
            found = listing.host.load(registration)
        except Exception as error:
            unfit(one_line(error).partition(": ")[2])
        contract = CONTRACTS.get(spec.kind)
        fits = callable(found) if contract is None else isinstance(found, type) and issubclass(found, contract)
        wanted = contract.__name__ if contract else "function that gives a data set"
        require(fits, f"{spec.kind} {registration.full_name!r}: {spec.target} is no {wanted}")


@check("plugin")
def tables(listing: Listing) -> None:
    """Its module ``conformance`` speaks of components that it has, and of checks that these are asked."""
    told = _told(listing)
    offered: list[Any] = [*listing.plugin.specs, listing]
    asked = {f"{spec.name}::{c.name}" for spec in offered for c in declared(spec, told)}
    names = {spec.name for spec in listing.plugin.specs}
    for table in ("examples", "shapes", "models", "losses", "data", "values"):
        for name in getattr(told, table):
            require(name in names, f"{table.upper()} of its module conformance names {name!r}, which it does not offer")
    for name, reason in told.expected_failures.items():
        require(name in asked, f"EXPECTED_FAILURES names {name!r}, which is no check of a component of it")
        require(reason.strip(), f"EXPECTED_FAILURES gives no reason for {name!r}")


@check("plugin", when=is_installed)
def one_entry_point(listing: Listing) -> None:
    """Its distribution is called zoo-<name>, and has one entry point, of that name."""
    found = [entry_point.name for entry_point in listing.entry_points]
    require(found == [listing.name], f"{listing.plugin.distribution} must have one entry point {listing.name!r} in the"
                                     f" group {GROUP!r}, it has {found}")  # fmt: skip


@check("plugin", when=is_installed)
def hooks_again(listing: Listing) -> None:
    """Its hooks, called again, give the same."""
    again = collect(listing.entry_points[0].load(), listing.name, listing.plugin.package)
    require(
        again == listing.plugin.specs,
        f"called again, its hooks give {len(again)} specs instead of the same {len(listing.plugin.specs)}:"
        " let each call make its own",
    )


@check("plugin", when=is_installed)
def cheap_to_list(listing: Listing) -> None:
    """Its hooks import nothing heavy, and take no more than 50 ms."""
    (entry_point, *_) = listing.entry_points
    command = [sys.executable, "-c", TIMED, entry_point.module, listing.name, listing.plugin.package]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    process = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    if process.returncode:
        unfit(f"its hooks fail in a process of their own: {(process.stderr.strip().splitlines() or ['?'])[-1]}")
    told = json.loads(process.stdout.splitlines()[-1])
    heavy = ", ".join(told["heavy"])
    require(not heavy, f"its hooks import {heavy}: keep them in a module that does not")
    require(told["ms"] <= MOST_MS, f"its hooks take {told['ms']:.0f} ms of processor time, and may take {MOST_MS}")


@check("plugin", when=lambda listing: is_installed(listing) and listing.plugin.distribution != "zoo-core")
def versions_of_core(listing: Listing) -> None:
    """It says from which version of zoo-core on it works, and before which it has been tried."""
    texts = importlib.metadata.requires(listing.plugin.distribution) or []
    found = [r for r in map(Requirement, texts) if re.sub(r"[-_.]+", "-", r.name).lower() == "zoo-core"]
    operators = {specifier.operator for requirement in found for specifier in requirement.specifier}
    require(found, "it does not require zoo-core: give dependencies = ['zoo-core>=0.1,<0.2']")
    for side, known in (("lower", LOWER), ("upper", UPPER)):
        require(operators & set(known), f"its requirement of zoo-core, {found[0]}, has no {side} bound: '>=0.1,<0.2'")


@check("plugin", when=is_installed)
def licence_and_types(listing: Listing) -> None:
    """Its distribution names a licence, and its package tells type checkers that it is typed."""
    told = importlib.metadata.metadata(listing.plugin.distribution)
    licence = any(field in told for field in ("License-Expression", "License", "License-File"))
    require(licence, f"{listing.plugin.distribution} names no licence: nobody may use it")
    typed = any((folder / "py.typed").is_file() for folder in _folders(listing.plugin.package))
    require(typed, f"the package {listing.plugin.package} has no file py.typed")


def _folders(package: str) -> Iterator[Path]:
    found = importlib.util.find_spec(package)
    yield from map(Path, (found.submodule_search_locations or ()) if found else ())


def _told(listing: Listing) -> Told:
    try:
        return told_by(listing.plugin.package)
    except Exception as error:
        unfit(f"its module conformance cannot be read: {one_line(error)}")
