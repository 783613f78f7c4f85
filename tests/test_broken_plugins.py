"""Eleven kinds of broken plugin installed at once beside two healthy ones: who works, and what the user is told.

All in real processes, over distributions on disk.
"""

import json
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.installed import install, python

HEALTHY = {
    "fine": """
    @hookimpl
    def zoo_priors():
        yield PriorSpec(name="flow", target="zoo_fine.parts:Flow", summary="A flow.")
    """,
    "good": """
    class Hooks(ZooHooks):
        @hookimpl
        def zoo_losses(self):
            return [LossSpec(name="elbo2", target="zoo_good.parts:ELBO2", summary="Another bound.", bound=True)]
    """,
}


class Broken(NamedTuple):
    code: str
    cause: str
    entry_point: str = ""


YIELD = 'yield PriorSpec(name="{0}", target="{1}", summary="One.")'
ONE, NICE = YIELD.format("one", "zoo_core.errors:ZooError"), YIELD.format("nice", "zoo_core.errors:ZooError")

# Each offers, or would offer, something before or after its fault: none of that may be left over.
BROKEN = {
    "dependency": Broken(
        f"import absent_dependency\n@hookimpl\ndef zoo_priors(): {ONE}",
        "ModuleNotFoundError: No module named 'absent_dependency'",
    ),
    "syntax": Broken(
        f"@hookimpl\ndef zoo_priors(): {ONE}\ndef :",
        "SyntaxError: invalid syntax (plugin.py, line 4)",
    ),
    "argument": Broken(
        f"@hookimpl\ndef zoo_priors(size): {ONE}",
        "PluginValidationError: Plugin 'argument' for hook 'zoo_priors'",
    ),
    "misspelt": Broken(
        f"@hookimpl\ndef zoo_priors(): {ONE}\n@hookimpl\ndef zoo_lossses(): yield",
        "PluginValidationError: unknown hook 'zoo_lossses' in plugin",
    ),
    "raising": Broken(
        f"@hookimpl\ndef zoo_priors(): {ONE}\n@hookimpl\ndef zoo_quantizers(): raise RuntimeError('out\\nof luck')",
        "RuntimeError: out of luck",
    ),
    "halfway": Broken(
        f"@hookimpl\ndef zoo_priors():\n    {ONE}\n    raise OSError(5, 'half-way')\n    {NICE}",
        "OSError: [Errno 5] half-way",
    ),
    "wrong-type": Broken(
        f"@hookimpl\ndef zoo_priors():\n    {ONE}\n    yield LossSpec(name='l', target='a:b', summary='s')",
        "TypeError: zoo_priors() must yield PriorSpec, not LossSpec",
    ),
    "bad-name": Broken(
        f"@hookimpl\ndef zoo_priors():\n    {ONE}\n    {YIELD.format('Real NVP', 'zoo_core.errors:ZooError')}",
        "ValueError: name 'Real NVP': use lower-case letters and digits",
    ),
    "bad-target": Broken(
        f"@hookimpl\ndef zoo_priors():\n    {ONE}\n    {YIELD.format('nice', 'zoo_bad_target/nice.py')}",
        "ValueError: target 'zoo_bad_target/nice.py' of 'nice': use 'package.module:Name'",
    ),
    "twice": Broken(
        f"@hookimpl\ndef zoo_priors():\n    {ONE}\n    {NICE}\n    {ONE}",
        "ValueError: the name 'one' is used twice, as prior and prior",
    ),
    "thief": Broken(
        f"@hookimpl\ndef zoo_priors(): {ONE}",
        "ValueError: the name 'good' is not its own; zoo-thief may only use 'thief'",
        "good = zoo_thief.plugin",
    ),
}
VERSIONS = {name: f"2.{i}" for i, name in enumerate(BROKEN)}
FIRST_PARTY = {"core", "nets", "vae", "metrics"}

SHOW = """
import json
from zoo_core import ZooError, default_host
host = default_host()
def asked(name):
    try:
        return host.find(None, name).full_name
    except ZooError as error:
        return f"{type(error).__name__}: {error}"
"""
TELL = """
print(json.dumps({
    "plugins": [[p.distribution, p.state, p.error, p.traceback] for p in host.plugins.values()],
    "offered": [r.full_name for r in host.registrations()],
    "loaded": [host.load(host.find(None, name)).__module__ for name in ("fine/flow", "elbo2")],
    "asked": {name: asked(f"{name}/one") for name in NAMES},
}))
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    parts = {"parts.py": "class Flow: ...\nclass ELBO2: ...\n"}
    install(folder, "fine", HEALTHY["fine"], modules=parts)
    install(folder, "good", HEALTHY["good"], modules=parts, entry_point="good = zoo_good.plugin:Hooks")
    for name, (code, _, entry_point) in BROKEN.items():
        install(folder, name, code, version=VERSIONS[name], entry_point=entry_point)
    return folder


@pytest.fixture(scope="module")
def shown(site: Path) -> subprocess.CompletedProcess[str]:
    """What one process sees: states and components by plugin, and what it is told on standard error."""
    done = python("-c", f"{SHOW}\nNAMES = {[*BROKEN]}\n{TELL}", site=site)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def found(shown: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    return dict(json.loads(shown.stdout))


@pytest.mark.parametrize("name", BROKEN)
def test_each_broken_one_costs_one_line(shown: subprocess.CompletedProcess[str], name: str) -> None:
    (line,) = (line for line in shown.stderr.splitlines() if f"(zoo-{name} " in line)
    called, switch = ("good", "zoo-thief") if name == "thief" else (name, name)
    assert line.startswith(f"plugin {called!r} (zoo-{name} {VERSIONS[name]}) is skipped: {BROKEN[name].cause}")
    assert line.endswith(f" (see 'zoo plugins --errors', or set ZOO_DISABLE={switch})")


def test_nothing_else_is_told(shown: subprocess.CompletedProcess[str]) -> None:
    assert len(shown.stderr.splitlines()) == len(BROKEN) == 11


def test_exactly_the_broken_ones_failed(found: dict[str, Any]) -> None:
    states = {distribution: state for distribution, state, _, _ in found["plugins"]}
    assert len(states) == len(found["plugins"])
    assert {d for d, state in states.items() if state == "failed"} == {f"zoo-{name}" for name in BROKEN}
    active = {d for d, state in states.items() if state == "active"}
    assert {f"zoo-{name}" for name in FIRST_PARTY | {*HEALTHY}} <= active


def test_the_traceback_leads_to_the_fault(found: dict[str, Any]) -> None:
    stories = {distribution: story for distribution, state, _, story in found["plugins"] if state == "failed"}
    assert all(story.startswith("Traceback (most recent call last):\n") for story in stories.values())
    for name in ("dependency", "syntax", "raising", "halfway"):
        assert f"zoo_{name}/plugin.py" in stories[f"zoo-{name}"]


def test_nothing_of_a_broken_one_is_left_over(found: dict[str, Any]) -> None:
    offered = set(found["offered"])
    assert {"fine/flow", "good/elbo2", "core/digits", "nets/standard_normal", "vae/vae"} <= offered
    assert not [name for name in offered if name.endswith(("/one", "/nice", "/l"))]
    assert not {name.partition("/")[0] for name in offered} & {*BROKEN}


def test_the_healthy_ones_load(found: dict[str, Any]) -> None:
    assert found["loaded"] == ["zoo_fine.parts", "zoo_good.parts"]


@pytest.mark.parametrize("name", BROKEN)
def test_a_component_of_a_broken_one_is_not_called_unknown(found: dict[str, Any], name: str) -> None:
    answer = found["asked"][name]
    assert answer.startswith(f"PluginError: '{name}/one' cannot be used: plugin ")
    assert f"(zoo-{name} {VERSIONS[name]}) is installed but failed to load: {BROKEN[name].cause}" in answer


def test_a_first_party_model_works_beside_them(site: Path) -> None:
    code = """
from zoo_core import build
config = {"type": "vae/vae", "encoder": {"type": "nets/mlp_encoder", "latents": 2}, "decoder": "nets/mlp_decoder",
          "prior": "nets/standard_normal"}
print(tuple(build(config, data_shape=(1, 8, 8)).sample(3).shape))
"""
    done = python("-c", code, site=site)
    assert (done.returncode, done.stdout) == (0, "(3, 1, 8, 8)\n"), done.stderr


def test_strict_raises_and_names_the_first(site: Path) -> None:
    done = python("-c", SHOW, site=site, ZOO_STRICT="1")
    assert done.returncode == 1
    assert done.stdout == ""
    last = done.stderr.splitlines()[-1]
    first = min(BROKEN)  # by name: "argument"
    assert last.startswith(f"zoo_core.errors.PluginError: plugin {first!r} (zoo-{first} {VERSIONS[first]}) is broken: ")
    assert BROKEN[first].cause in last


@pytest.mark.parametrize("name", BROKEN)
def test_strict_raises_for_each_of_them(site: Path, name: str) -> None:
    others = ",".join(f"zoo-{other}" for other in BROKEN if other != name)
    done = python("-c", SHOW, site=site, ZOO_STRICT="1", ZOO_DISABLE=others)
    assert done.returncode == 1
    assert f"(zoo-{name} {VERSIONS[name]}) is broken: {BROKEN[name].cause}" in done.stderr.splitlines()[-1]


def test_what_the_warnings_advise_silences_them(shown: subprocess.CompletedProcess[str], site: Path) -> None:
    advised = [line.rpartition("ZOO_DISABLE=")[2].rstrip(")") for line in shown.stderr.splitlines()]
    code = f"{SHOW}\nprint(asked('flow'), asked('elbo2'), asked('vae/vae'))"
    done = python("-c", code, site=site, ZOO_STRICT="1", ZOO_DISABLE=",".join(advised))
    assert (done.returncode, done.stdout, done.stderr) == (0, "fine/flow good/elbo2 vae/vae\n", "")


class TestCommandLine:
    def zoo(self, site: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return python("-m", "zoo_core.cli", *arguments, site=site, **environment)

    @pytest.mark.parametrize("strict", ["", "1"])
    def test_plugins_lists_the_broken_ones_whatever_is_asked_for(self, site: Path, strict: str) -> None:
        done = self.zoo(site, "plugins", ZOO_STRICT=strict)
        assert done.returncode == 0, done.stderr
        for name, broken in BROKEN.items():
            (line,) = (line for line in done.stdout.splitlines() if f"zoo-{name} " in line)
            assert "failed" in line
            assert broken.cause in line
        assert sum("active" in line for line in done.stdout.splitlines()) >= len(FIRST_PARTY) + len(HEALTHY)
        assert "Traceback" not in done.stdout

    def test_errors_shows_the_tracebacks(self, site: Path) -> None:
        done = self.zoo(site, "plugins", "--errors")
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("Traceback (most recent call last):") >= len(BROKEN)
        for name in ("dependency", "syntax", "raising", "halfway"):
            assert f"zoo_{name}/plugin.py" in done.stdout

    def test_as_json_they_are_one_list(self, site: Path) -> None:
        done = self.zoo(site, "plugins", "--json")
        assert done.returncode == 0, done.stderr
        states = {p["distribution"]: (p["state"], p["offers"]) for p in json.loads(done.stdout)}
        assert states["zoo-fine"] == ("active", ["fine/flow"])
        assert all(states[f"zoo-{name}"] == ("failed", []) for name in BROKEN)

    def test_list_shows_what_works_and_keeps_warnings_off_its_output(self, site: Path) -> None:
        done = self.zoo(site, "list", "priors")
        assert done.returncode == 0, done.stderr
        assert "fine/flow" in done.stdout
        assert "nets/standard_normal" in done.stdout
        assert "skipped" not in done.stdout
        assert len(done.stderr.splitlines()) == len(BROKEN)

    def test_to_show_one_of_a_broken_plugin_is_bad_input(self, site: Path) -> None:
        done = self.zoo(site, "show", "dependency/one")
        assert done.returncode == 2
        assert done.stderr.splitlines()[-1].startswith("error: 'dependency/one' cannot be used: ")
        assert "Traceback" not in done.stderr


def test_entry_points_that_cannot_be_read_cost_one_line(tmp_path):
    """A malformed file of any distribution makes Python's own ``entry_points()`` raise."""
    install(tmp_path, "whole", "@hookimpl\ndef zoo_losses():\n    return []\n")
    install(tmp_path, "spoilt", entry_point="no equals sign here")
    done = python("-m", "zoo_core.cli", "plugins", site=tmp_path)
    assert done.returncode == 0
    assert [line for line in done.stderr.splitlines() if "zoo-spoilt" in line] == done.stderr.splitlines()
    assert len(done.stderr.splitlines()) == 1
    names = [line.split()[0] for line in done.stdout.splitlines()]
    assert {"core", "metrics", "nets", "vae", "whole"} <= set(names)
    assert len(names) == len(set(names))
