"""Real training processes that start in a moment: forked from one that has imported everything.

``python -m tests.zygote`` reads a command per line and forks a child for each, which runs what ``python -m
zoo_core.training`` runs, or another program. It tells of each child when it has started and how it has ended, as lines
of JSON, and ends, with its children, when there is nobody left to command it.
"""

import atexit
import functools
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
LOOK = 0.003  # seconds between looks at the children
LONGEST = 60.0  # seconds that a process of a test may take
TRAINING = "zoo_core.training.__main__:main"


class Child:
    """A process of a run; ``code`` is None while it lives, and -9 after a SIGKILL."""

    def __init__(self, zygote: "Zygote", number: int, folder: Path) -> None:
        self.zygote, self.number = zygote, number
        self.errors, self.output = folder / f"{number}.stderr", folder / f"{number}.stdout"
        self.pid = 0
        self.code: int | None = None

    @property
    def alive(self) -> bool:
        self.zygote.listen(0)
        return self.code is None

    @property
    def stderr(self) -> str:
        return self.errors.read_text()

    def send(self, number: signal.Signals) -> None:
        assert self.alive, f"it has ended with {self.code}: {self.stderr}"
        os.kill(self.pid, number)

    def wait(self, timeout: float = LONGEST) -> int:
        """Until it has ended; returns how."""
        end = time.monotonic() + timeout
        while self.alive:
            if time.monotonic() > end:
                self.send(signal.SIGKILL)
                raise TimeoutError(f"still at work after {timeout} s: {self.stderr}")
            self.zygote.listen(0.1)
        return int(self.code or 0)

    def wait_until(self, condition: Callable[[], Any], timeout: float = LONGEST) -> None:
        """Fails if it ends before."""
        end = time.monotonic() + timeout
        while not condition():
            assert self.alive, f"it has ended with {self.code}: {self.stderr}"
            assert time.monotonic() < end, f"nothing came about in {timeout} s: {self.stderr}"
            time.sleep(0.0003)


class Zygote:
    """The process from which others are forked, as those who start them see it."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.zygote"],
            cwd=ROOT, env=_environment({}), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        self.children: list[Child] = []
        self.rest = b""

    def start(
        self,
        *arguments: object,
        folder: Path,
        environment: Mapping[str, str] | None = None,
        setup: str = "",
        program: str = TRAINING,
    ) -> Child:
        """Starts ``python -m zoo_core.training *arguments``.

        Args:
            folder: where it works, and where its standard error and output go.
            environment: what is other than in this process.
            setup: ``module:function``, called in the child first, such as to register a plugin.
            program: ``module:function``, what the child is instead of a training.
        """
        child = Child(self, len(self.children), folder)
        self.children.append(child)
        command = {
            "number": child.number,
            "arguments": [str(argument) for argument in arguments],
            "folder": str(folder),
            "environment": _environment(environment or {}),
            "setup": setup,
            "program": program,
            "told": [str(child.output), str(child.errors)],
        }
        assert self.process.stdin
        self.process.stdin.write(json.dumps(command).encode() + b"\n")
        self.process.stdin.flush()
        while not child.pid:
            self.listen(LONGEST)
        return child

    def start_group(self, *arguments: object, folder: Path, world: int = 2, **options: str) -> list[Child]:
        """The processes of one run over gloo, as a launcher starts them."""
        common = {
            "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world), "ACCELERATE_USE_CPU": "true",
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()),
        }  # fmt: skip
        ranks = [{**common, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(world)]
        return [self.start(*arguments, folder=folder, environment=rank, **options) for rank in ranks]

    def end(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(LONGEST)

    def listen(self, seconds: float) -> None:
        """Takes in what is told, waiting so long for it at most."""
        assert self.process.stdout
        out = self.process.stdout.fileno()
        while select.select([out], [], [], seconds)[0]:
            told = os.read(out, 1 << 16)
            assert told, "the process from which others are forked has ended"
            *lines, self.rest = (self.rest + told).split(b"\n")
            for line in map(json.loads, lines):
                vars(self.children[line.pop("number")]).update(line)
            seconds = 0


def ends(children: Iterable[Child], timeout: float = LONGEST) -> list[int]:
    """How each has ended, once all have."""
    return [child.wait(timeout) for child in children]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture(scope="session")
def zygote() -> Zygote:
    return _shared()


@functools.cache
def _shared() -> Zygote:
    """One for all files of a session: each that imports the fixture has one of its own."""
    zygote = Zygote()
    atexit.register(zygote.end)
    return zygote


def _environment(changes: Mapping[str, str]) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", **changes}


def serve() -> dict[str, Any] | None:
    """Forks a child for each command. Returns twice: the command in a child, None at the end."""
    numbers: dict[int, int] = {}
    rest, told = b"", b"\n"
    while told:
        if select.select([0], [], [], LOOK if numbers else None)[0]:
            told = os.read(0, 1 << 16)
            *lines, rest = (rest + told).split(b"\n")
            for command in map(json.loads, filter(None, lines)):
                pid = os.fork()
                if not pid:
                    return dict(command)
                numbers[pid] = command["number"]
                _tell(number=command["number"], pid=pid)
        for pid in list(numbers):
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                _tell(number=numbers.pop(pid), code=os.waitstatus_to_exitcode(status))
    for pid in numbers:
        os.kill(pid, signal.SIGKILL)
    return None


def _tell(**line: int) -> None:
    os.write(1, json.dumps(line).encode() + b"\n")


def _live(command: Mapping[str, Any]) -> None:
    """The life of a child."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for stream, path in enumerate(command["told"], start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    os.environ.clear()
    os.environ.update(command["environment"])
    os.chdir(command["folder"])
    functions = [_function(command[name]) for name in ("setup", "program") if command[name]]
    sys.argv = [str(sys.modules[functions[-1].__module__].__file__), *command["arguments"]]
    for function in functions:
        function()


def _function(name: str) -> Callable[[], Any]:
    module, _, function = name.partition(":")
    found: Callable[[], Any] = getattr(importlib.import_module(module), function)
    return found


def _import_everything() -> None:
    """What a run imports sooner or later; nothing is computed, for threads do not outlive a fork."""
    import huggingface_hub.serialization  # noqa: F401
    import numpy.ctypeslib  # noqa: F401
    import PIL.Image
    import rich._emoji_codes  # noqa: F401
    import torch._dynamo
    import torch.distributed.fsdp
    import torch.distributed.tensor
    import torch.utils.serialization.config
    import torch.utils.tensorboard  # noqa: F401

    import zoo_core.training.__main__  # noqa: F401
    from zoo_core.host import default_host

    PIL.Image.preinit()
    host = default_host()
    for registration in host.registrations():
        if registration.spec.kind != "checkpoint":
            host.load(registration)
    gc.collect()
    gc.freeze()


if __name__ == "__main__":
    _import_everything()
    if (given := serve()) is not None:
        _live(given)
