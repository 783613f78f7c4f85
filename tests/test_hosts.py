"""Runs on several processes and hosts, with real faults: each ends all of them in less than a minute."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

from tests import tiny
from tests.zygote import ends, free_port, zygote
from zoo_core import from_pretrained

__all__ = ["zygote"]

ROOT = Path(__file__).parents[1]
RECIPE = {
    "name": "tiny",
    "model": tiny.VAE,
    "loss": "vae/elbo",
    "data": {"name": "core/digits"},
    "training": {"steps": 20, "batch": 32, "log_every": 1, "save_every": 10, "trackers": []},
    "evaluation": {"metrics": []},
}


@pytest.fixture
def recipe(tmp_path):
    """A recipe in a file; with more steps, it goes on until it is ended."""
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(RECIPE))
    return path


ENDLESS = ("--set", "training.steps=1000000")


class Command:
    """A command in a process group of its own, which is gone when the context ends."""

    def __init__(self, *words, **environment):
        self.words = [str(word) for word in words]
        paths = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.environment = {**os.environ, "PATH": paths, "OMP_NUM_THREADS": "1", **environment}

    def __enter__(self):
        self.process = subprocess.Popen(
            self.words, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT
        )
        return self

    def __exit__(self, *failure):
        for process in self.family():
            with contextlib.suppress(psutil.Error):
                process.kill()
        self.process.wait()
        self.process.stdout.close()

    def family(self):
        """The processes that it has started, and itself."""
        try:
            one = psutil.Process(self.process.pid)
            return [one, *one.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def ranks(self):
        """The training processes among these, by rank."""
        found = {}
        for process in self.family():
            with contextlib.suppress(psutil.Error):
                if "zoo_core.training" in process.cmdline() and "RANK" in process.environ():
                    found[int(process.environ()["RANK"])] = process
        return found

    def wait_until_saved(self, folder):
        end = time.monotonic() + 60
        while not list(folder.glob("checkpoints/step-*/manifest.json")):
            assert self.process.poll() is None, self.process.stdout.read()
            assert time.monotonic() < end, "nothing was saved"
            time.sleep(0.05)

    def end(self, timeout=60):
        """How it ended, and what it told."""
        told, _ = self.process.communicate(timeout=timeout)
        return self.process.returncode, told


def started(recipe, *options):
    return "zoo", "train", recipe, "--num-processes", "2", *options


def documented(pattern):
    """Commands of the examples' page."""
    page = (ROOT / "examples" / "accelerate" / "README.md").read_text()
    return re.findall(rf"^((?:\w+=\w+ )?{pattern}.*)$", page, re.MULTILINE)


def losses(folder):
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"]) for line in lines if line["event"] == "train"]


@pytest.fixture(scope="module")
def trained(zygote, tmp_path_factory):
    """The losses of a run of two processes that no launcher has started."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(RECIPE))
    children = zygote.start_group(folder / "tiny.yaml", "-o", folder / "run", folder=folder)
    assert ends(children) == [0, 0], children[0].stderr
    return losses(folder / "run")


class TestOneHost:
    def test_misconfigured_launches_are_refused_with_the_command_that_works(self, zygote, trained, recipe, tmp_path):
        folder = tmp_path / "run"
        words = ("-m", "zoo_core.training", recipe, "-o", folder)
        with Command("accelerate", "launch", "--num_machines", "1", "--cpu", "--num_processes", "2", *words) as refused:
            code, told = refused.end()
        one_instead_of_two = code, told
        place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        strangers = [
            zygote.start(recipe, "-o", folder, folder=tmp_path, environment={**place, "RANK": rank, "LOCAL_RANK": rank})
            for rank in ("0", "1")
        ]
        two_strangers = max(ends(strangers)), strangers[0].stderr
        command = working(*one_instead_of_two)
        assert working(*two_strangers) == command
        assert not (folder / "log.jsonl").exists()
        with Command("sh", "-c", command) as works:
            code, told = works.end()
        assert code == 0, told
        assert told.splitlines()[-1] == str(folder / "model")
        assert from_pretrained(folder / "model").provenance["processes"] == 2
        assert losses(folder) == trained

    def test_the_documented_command_for_a_cpu_trains_the_same(self, trained, recipe, tmp_path):
        (command,) = documented("accelerate launch .*two_processes_cpu.yaml")
        with Command("sh", "-c", command.replace("vae-mnist", f"{recipe} -o {tmp_path / 'run'}")) as run:
            code, told = run.end()
        assert code == 0, told
        assert losses(tmp_path / "run") == trained

    def test_a_signal_to_one_process_stops_all_and_can_be_gone_on_from(self, recipe, tmp_path):
        with Command(*started(recipe, "-o", tmp_path, *ENDLESS)) as run:
            run.wait_until_saved(tmp_path)
            run.ranks()[1].send_signal(signal.SIGTERM)
            code, told = run.end(30)
        assert code == 75, told
        assert saved(tmp_path) == losses(tmp_path)[-1][0]

    def test_a_process_that_stands_still_ends_all(self, recipe, tmp_path):
        with Command(*started(recipe, "-o", tmp_path, *ENDLESS), ZOO_SILENCE="3") as run:
            run.wait_until_saved(tmp_path)
            stopped = run.ranks()[1]
            stopped.suspend()
            code, told = run.end(40)  # ten seconds more if silence may last fifteen
            assert code == 1
            assert re.search("error: process 1 on .* no sign of life for 3 s.* goes on from .*step-", told)
            assert not stopped.is_running()
        assert saved(tmp_path) > 0


def saved(folder):
    """The step of the newest checkpoint."""
    return max(int(path.parent.name.partition("-")[2]) for path in folder.glob("checkpoints/step-*/manifest.json"))


def working(code, told):
    """The command that one which is refused is told to be replaced by."""
    assert code == 1
    command = re.search(r"(?:ACCELERATE_USE_CPU=true )?zoo train .*? --num-processes 2", told)
    assert command, told
    return command[0]


@pytest.fixture(scope="module")
def hosts():
    """Two network namespaces, joined by a cable: to programs, two hosts that share their disk."""
    if not (shutil.which("ip") and os.geteuid() == 0):
        pytest.skip("network namespaces need root and iproute2")
    names = [f"zoo-{side}-{os.getpid()}" for side in "ab"]
    cable = [f"zoo{side}{os.getpid() % 10**8}" for side in "ab"]
    steps = [f"ip netns add {name}" for name in names]
    steps += [f"ip link add {cable[0]} netns {names[0]} type veth peer name {cable[1]} netns {names[1]}"]
    for number, (name, end) in enumerate(zip(names, cable, strict=True), 1):
        steps += [f"ip -n {name} {step}" for step in (
            f"addr add 10.77.0.{number}/24 dev {end}", f"link set {end} up", "link set lo up"
        )]  # fmt: skip
    try:
        for step in steps:
            done = subprocess.run(step.split(), capture_output=True, text=True)
            if done.returncode:
                pytest.skip(f"no network namespaces here: {step}: {done.stderr.strip()}")
        yield [Host(*host) for host in zip(names, cable, strict=True)]
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)


class Host:
    def __init__(self, name, interface):
        self.name, self.interface = name, interface

    def command(self, *words, **environment):
        if words[0] == "accelerate":  # zoo train finds it out
            environment["GLOO_SOCKET_IFNAME"] = self.interface
        return Command("ip", "netns", "exec", self.name, *words, **environment)


class TestTwoHosts:
    ADDRESS = "10.77.0.1"

    @contextlib.contextmanager
    def launched(self, hosts, pattern, changes, **environment):
        """The documented commands of the two hosts, with changes."""
        commands = documented(pattern)
        assert len(commands) == 2
        with contextlib.ExitStack() as stack:
            runs = []
            for host, command in zip(hosts, commands, strict=True):
                for old, new in {"10.0.0.1": self.ADDRESS, **changes}.items():
                    command = command.replace(old, str(new))
                runs.append(stack.enter_context(host.command(*command.split(), **environment)))
            yield runs

    def begun(self, hosts, recipe, folder, *options, **environment):
        changes = {"vae-mnist": recipe, "/shared/run": folder, "-processes 16": " ".join(("-processes 2", *options))}
        return self.launched(hosts, "zoo train .* --machine-rank", changes, **environment)

    def test_the_documented_commands_train_as_one_host_does(self, hosts, trained, recipe, tmp_path):
        with self.begun(hosts, recipe, tmp_path / "zoo") as runs:
            ended = [run.end() for run in runs]
        assert [code for code, _ in ended] == [0, 0], ended
        options = f"--num_processes 2 --main_process_ip {self.ADDRESS} -m zoo_core"
        changes = {"-m zoo_core": options, "vae-mnist": f"{recipe} -o {tmp_path / 'accelerate'}"}
        with self.launched(hosts, "accelerate launch .*two_hosts.yaml", changes, ACCELERATE_USE_CPU="true") as runs:
            ended = [run.end() for run in runs]
        assert [code for code, _ in ended] == [0, 0], ended
        assert losses(tmp_path / "zoo") == losses(tmp_path / "accelerate") == trained

    def test_a_host_that_dies_ends_the_run_on_the_other(self, hosts, recipe, tmp_path):
        with self.begun(hosts, recipe, tmp_path, *ENDLESS) as (main, other):
            main.wait_until_saved(tmp_path)
            for process in other.family():
                process.kill()
            code, told = main.end(30)
        assert code == 1
        assert "the connection to another process broke" in told
        assert saved(tmp_path) > 0

    def test_a_cable_that_breaks_ends_the_run_on_both(self, hosts, recipe, tmp_path):
        with self.begun(hosts, recipe, tmp_path, *ENDLESS, ZOO_SILENCE="3") as runs:
            runs[0].wait_until_saved(tmp_path)
            cable = ["ip", "-n", hosts[1].name, "link", "set", hosts[1].interface]
            subprocess.run([*cable, "down"], check=True)
            try:
                ended = [run.end(40) for run in runs]
            finally:
                subprocess.run([*cable, "up"], check=True)
        assert [code for code, _ in ended] == [1, 1]
        assert all("no sign of life for 3 s" in told for _, told in ended)
        assert saved(tmp_path) > 0
