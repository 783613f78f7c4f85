"""A newcomer's path, in a shell: a plugin of one's own, trained, checked, pushed, and at work on another machine."""

import json
import os
import re
import shlex
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from tests.hub_server import HubServer
from tests.installation import ALONE, CHECKOUT, OURS, build_wheel, empty_venv, install, uninstall
from zoo_core.evaluation import read_results

pytest_plugins = ["tests.wheelhouse"]

PAGE = CHECKOUT / "docs" / "plugins.md"
NEEDED = ("zoo-core", "zoo-metrics", "zoo-nets")
HUB_ID = "me/my-plugin-digits"
TIMEOUT = 300.0  # seconds that a command may take on a machine that is busy

# Which model it is, where its code comes from, and what it draws and says of given images.
DRAW = """
    import json, sys
    import torch
    from zoo_core import from_pretrained
    model = from_pretrained(sys.argv[1])
    samples = model.sample(16, generator=torch.Generator().manual_seed(0))
    other = model.sample(16, generator=torch.Generator().manual_seed(1))
    x = (torch.arange(5 * 64) % 3 == 0).float().reshape(5, 1, 8, 8)
    bits = {"samples": samples, "other": other, "log_prob": model.log_prob(x).detach()}
    told = {name: value.numpy().tobytes().hex() for name, value in bits.items()}
    told["code"] = sys.modules[type(model).__module__].__file__
    told["commit"] = model.provenance.get("commit")
    print(json.dumps(told))
"""

LOOK = """
    import importlib.util, json
    from importlib.metadata import distributions
    packages = [name for name in ("zoo_core", "zoo_nets", "zoo_my_plugin") if importlib.util.find_spec(name)]
    print(json.dumps([packages, [d.name for d in distributions() if d.name.startswith("zoo-")]]))
"""


@dataclass
class Machine:
    """An environment without anything of this checkout, as somebody has it who installed wheels."""

    folder: Path  # where its user works
    python: Path
    hub: Mapping[str, str]
    seconds: dict[str, float] = field(default_factory=dict)

    def do(self, line: str) -> str:
        """What a line of the page comes to; a wheel is installed in place of the folder itself."""
        words = shlex.split(line, comments=True)
        if words[0] == "cd":
            self.folder /= words[1]
        elif words[0] == "pip":
            install(self.python, [build_wheel(self.folder, self.folder / "dist")])
        elif words[0] == "zoo":
            return self.run(self.python.parent / "zoo", *words[1:])
        else:
            assert words == ["pytest"], line  # which the environment does not have; the tests are run elsewhere
        return ""

    def ask(self, code: str, *words: object) -> Any:
        return json.loads(self.run(self.python, "-I", "-c", dedent(code), *words))

    def run(self, program: Path, *words: object) -> str:
        """What a program prints there; the seconds that it took are kept."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
        start = time.monotonic()
        done = subprocess.run(
            [str(program), *map(str, words)],
            cwd=self.folder,
            env={**clean, **ALONE, **self.hub, "ZOO_CACHE": self.hub["HF_HOME"] + "/zoo"},
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )
        step = f"{program.name} {words[0]}"
        self.seconds[step] = self.seconds.get(step, 0.0) + time.monotonic() - start
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@dataclass
class Seen:
    """What was seen on the way."""

    said: dict[str, str] = field(default_factory=dict)
    told: dict[str, Any] = field(default_factory=dict)


@pytest.fixture(scope="module")
def server() -> Iterator[HubServer]:
    with HubServer() as running:
        yield running


@pytest.fixture(scope="module")
def path(server: HubServer, wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """The whole path, once, as the page says it."""
    start, seen = time.monotonic(), Seen()
    writing, pushing, loading, looking = (commands(block) for block in blocks())
    zoo_wheels = [wheels[name] for name in NEEDED]

    here = machine(tmp_path_factory.mktemp("here"), server, zoo_wheels)
    seen.said = {line: here.do(line) for line in [*writing, *looking, *pushing]}
    model = here.folder / "runs" / "my-plugin-digits" / "model"
    seen.told["before"] = here.ask(DRAW, model)
    seen.told["results"] = read_results(model / "results.json")
    uninstall(here.python, "zoo-my-plugin", *NEEDED)
    seen.told["left"] = here.ask(LOOK)

    (wheel,) = here.folder.glob("dist/**/*.whl")
    there = machine(tmp_path_factory.mktemp("there"), server, [*zoo_wheels, wheel])
    seen.said |= {line: there.do(line) for line in loading}
    seen.told["after"] = there.ask(DRAW, HUB_ID)
    seen.told["place"] = str(there.folder)
    seen.told["pictures"] = [file.name for file in there.folder.glob("*.png")]

    told = ", ".join(f"{step} {took:.1f}" for m in (here, there) for step, took in m.seconds.items())
    print(f"\nthe newcomer's path took {time.monotonic() - start:.0f} s: {told}")
    return seen


def blocks() -> list[str]:
    """What the page has a reader type: to make a plugin, to publish, to load elsewhere, to look what is wrong."""
    return re.findall(r"^```console\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def commands(block: str) -> list[str]:
    return re.findall(r"^\$ (.*?)(?:\s+#.*)?$", block, re.MULTILINE)


def machine(folder: Path, server: HubServer, wheels: list[Path]) -> Machine:
    return Machine(folder, empty_venv(folder, wheels), server.environment(folder / "home"))


def test_what_is_written_is_told_with_the_commands_that_follow(path: Seen) -> None:
    *written, cd_and_install, _, train, check = path.said["zoo new my-plugin --kind model"].splitlines()
    assert written[0] == "my-plugin/bernoulli_mixture, in zoo-my-plugin:"
    first = [line for line in path.said if line.startswith(("cd", "pip", "zoo train", "zoo check"))][:4]
    assert first == [*cd_and_install.strip().split(" && "), train.strip(), check.strip()]


def test_it_learned_something(path: Seen) -> None:
    """Fair coins would give -64 log 2 = -44.4 nats, independent pixels -27.1."""
    (evaluation,) = path.told["results"]
    assert evaluation["data"] == "digits"
    assert evaluation["values"]["log_prob"]["value"] > -25


def test_it_does_all_that_is_asked_of_a_plugin(path: Seen) -> None:
    assert "my-plugin/bernoulli_mixture" in path.said["zoo check my-plugin"]


def test_it_is_found_and_nothing_failed(path: Seen) -> None:
    assert re.search(r"my-plugin +zoo-my-plugin 0\.1\.0 +active +1 components", path.said["zoo plugins"])
    assert path.said["zoo plugins --errors"] == path.said["zoo plugins"]
    assert "components" in path.said["zoo show my-plugin/bernoulli_mixture"]


def test_the_whole_model_is_on_the_hub_as_one_commit(path: Seen, server: HubServer) -> None:
    (pushed,) = (said for line, said in path.said.items() if line.startswith("zoo push"))
    repository, commit = pushed.split()[:2]
    assert repository == HUB_ID
    there = server.repository(HUB_ID).at("main")
    assert there.oid == commit == path.told["after"]["commit"]
    assert set(there.files) >= {"config.json", "model.safetensors", "results.json", "README.md"}
    assert there.parent is not None
    assert there.parent.parent is None


def test_nothing_was_left_where_it_was_made(path: Seen) -> None:
    assert path.told["left"] == [[], []]


def test_its_code_came_from_the_wheel(path: Seen) -> None:
    assert path.told["after"]["code"].startswith(f"{path.told['place']}/venv/")
    assert path.told["after"]["code"].endswith("/zoo_my_plugin/bernoulli_mixture.py")


def test_it_draws_a_picture_elsewhere(path: Seen) -> None:
    assert path.told["pictures"] == ["grid.png"]


@pytest.mark.parametrize(("what", "numbers"), [("samples", 16 * 64), ("log_prob", 5)])
def test_it_is_the_same_model_bit_for_bit(what: str, numbers: int, path: Seen) -> None:
    before, after = path.told["before"], path.told["after"]
    assert len(bytes.fromhex(before[what])) == 4 * numbers
    assert after[what] == before[what]


def test_equal_samples_are_no_accident(path: Seen) -> None:
    assert path.told["before"]["other"] != path.told["before"]["samples"]
