"""Runs the checks of a plugin's components and tells what came of them."""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch.distributions import Distribution

from zoo_core.errors import PluginError, UnknownComponent
from zoo_core.host import Plugin, PluginHost, Registration, default_host, one_line
from zoo_core.testing import examples, reference
from zoo_core.testing.checks import Check, Unfit, declared
from zoo_core.testing.examples import Told
from zoo_core.testing.kinds import (  # noqa: F401  (checks are known once their modules are imported)
    checkpoints,
    datasets,
    decoders,
    densities,
    encoders,
    extractors,
    latents,
    losses,
    metrics,
    models,
    modules,
    plugins,
    priors,
    quantizers,
)
from zoo_core.testing.kinds.plugins import Listing
from zoo_core.testing.subjects import Subject

State = Literal["passed", "failed", "expected failure", "not run"]


@dataclass(frozen=True)
class Outcome:
    """What came of one check; a sentence says what failed, or why a failure was expected."""

    check: str
    state: State
    sentence: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Report:
    """What came of all checks that a component's kind declares."""

    name: str
    outcomes: tuple[Outcome, ...]

    @property
    def failures(self) -> list[str]:
        """A sentence for each check that failed; one more if some were not run."""
        failed = [f"{self.name}::{o.check}: {o.sentence}" for o in self.outcomes if o.state == "failed"]
        unasked = self.count("not run")
        return failed + ([f"{self.name}: {unasked} of {len(self.outcomes)} checks did not run"] if unasked else [])

    @property
    def seconds(self) -> float:
        return sum(outcome.seconds for outcome in self.outcomes)

    def count(self, state: State) -> int:
        return sum(outcome.state == state for outcome in self.outcomes)

    def __str__(self) -> str:
        run = len(self.outcomes) - self.count("not run")
        counted = f"{self.count('passed')} passed, {self.count('expected failure')} expected failures"
        return f"{self.name}: {run} of {len(self.outcomes)} run, {counted}, {self.count('failed')} failed"


def check_plugin(name: str, components: Sequence[str] = (), *, host: PluginHost | None = None) -> Iterator[Report]:
    """A report on the plugin itself, then one on each of its components.

    Args:
        components: names of those to check; default all.
        host: where the plugin is; default those that are installed.

    Raises:
        UnknownComponent: there is no such plugin or component. PluginError: it is broken, or switched off.
    """
    yield from (case() for case in cases(name, components, host=host))


@dataclass(frozen=True)
class Case:
    """One component, ready to be checked."""

    name: str
    run: Callable[[], Report]

    def __call__(self) -> Report:
        """The report; in a plugin's own tests an AssertionError, with a sentence for each failure."""
        return self.run()

    def __str__(self) -> str:
        return self.name


def cases(name: str, components: Sequence[str] = (), *, host: PluginHost | None = None) -> list[Case]:
    """What there is to check of a plugin. Raises as ``check_plugin``."""
    host = host or default_host()
    found = found_plugin(name, host)
    registrations = [Registration(spec, found.name) for spec in found.specs]
    known = [registration.spec.name for registration in registrations]
    for component in components:
        if component.removeprefix(f"{name}/") not in known:
            raise UnknownComponent(f"plugin {name!r} has no component {component!r}; it has: {', '.join(known)}")
    wanted = {component.removeprefix(f"{name}/") for component in components}
    chosen = [r for r in registrations if not wanted or r.spec.name in wanted]
    itself = [] if wanted else [Case(name, partial(report_on_plugin, found, host))]
    return [*itself, *(Case(r.full_name, partial(report, r, host)) for r in chosen)]


def found_plugin(name: str, host: PluginHost) -> Plugin:
    """The active plugin of that name. Raises as ``check_plugin``."""
    plugin = host.plugins.get(name)
    if plugin is None:
        raise UnknownComponent(f"no plugin {name!r} is installed; there are: {', '.join(host.plugins) or 'none'}")
    if plugin.state != "active":
        raise PluginError(f"{plugin} is {plugin.state}" + (f": {plugin.error}" if plugin.error else ""))
    return plugin


def report(
    registration: Registration, host: PluginHost, told: Told | None = None, *, only: Sequence[str] = ()
) -> Report:
    """Asks a component everything that its kind declares.

    Args:
        only: names of checks; beside them what everything else builds on is asked, and no more.
    """
    try:
        told = told or examples.told_by(host.plugins[registration.plugin].package)
        subject = examples.subject(registration, _with_reference(host), told)
    except Exception as error:
        missing = Outcome("example", "failed", one_line(error))
        unasked = (Outcome(c.name, "not run") for c in declared(registration.spec, told))
        return Report(registration.full_name, (missing, *unasked))
    checks = [c for c in declared(registration.spec, told) if not only or c.structural or c.name in only]
    return Report(registration.full_name, tuple(_outcomes(checks, subject, told)))


def report_on_plugin(plugin: Plugin, host: PluginHost) -> Report:
    """Asks a plugin everything that is asked of one, whatever it offers."""
    listing = Listing(plugin, host)
    try:
        told = examples.told_by(plugin.package)
    except Exception:  # which one of the checks tells of
        told = Told()
    return Report(plugin.name, tuple(_outcomes(declared(listing), listing, told)))


def _with_reference(host: PluginHost) -> PluginHost:
    """A host that has the kit's own parts as well."""
    both = PluginHost(discover=False)
    both.plugins = dict(host.plugins)
    both.register(reference.ReferencePlugin(), reference.NAME)
    return both


def _outcomes(checks: Sequence[Check], subject: Subject | Listing, told: Told) -> Iterator[Outcome]:
    stopped, excuse = False, ""
    for check in checks:
        if stopped:
            yield Outcome(check.name, "not run")
            continue
        reason = told.expected_failures.get(f"{subject.spec.name}::{check.name}", "")
        outcome = _outcome(check, subject, reason)
        if excuse and outcome.state == "failed" and not reason:
            outcome = replace(outcome, state="expected failure", sentence=excuse)
        if check.structural and outcome.state == "expected failure":
            excuse = excuse or reason  # what stands on it may fail with it
        stopped = check.structural and outcome.state == "failed"
        yield outcome


def _outcome(check: Check, subject: Subject | Listing, reason: str) -> Outcome:
    start = time.perf_counter()
    sentence = _failure(check, subject)
    seconds = time.perf_counter() - start
    if reason and sentence:
        return Outcome(check.name, "expected failure", reason, seconds)
    if reason:
        return Outcome(check.name, "failed", f"passes, although a failure is expected: {reason!r}", seconds)
    return Outcome(check.name, "failed" if sentence else "passed", sentence, seconds)


def _failure(check: Check, subject: Subject | Listing) -> str:
    """What is wrong, in a sentence; empty if nothing is."""
    try:
        with undisturbed():
            check.ask(subject)
    except Unfit as error:
        return str(error)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a component may fail in any way, also by sys.exit()
        return f"raised {one_line(error)}"
    return ""


@contextmanager
def undisturbed() -> Iterator[None]:
    """Seeded, and afterwards as if nothing had happened: random states, gradients, validation of distributions."""
    states = random.getstate(), np.random.get_state()
    validates, dtype = Distribution._validate_args, torch.get_default_dtype()
    random.seed(0)
    np.random.seed(0)
    try:
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.manual_seed(0)
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        # torch.compile switches it off for the whole process.
        Distribution.set_default_validate_args(validates)
        torch.set_default_dtype(dtype)
