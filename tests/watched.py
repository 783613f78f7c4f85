"""A process that runs commands of ``zoo`` under a watchdog, and tells of each how it ended and what it cost.

``python -m tests.watched`` reads a command per line, as JSON, and answers with a line. What hangs or fills the memory
is ended, so that an attack that works fails its test and nothing else.
"""

import contextlib
import importlib
import io
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
MEMORY = 1 << 30  # bytes of address space beyond what the imports take
LONGEST = 20  # seconds of one command


class Outcome(NamedTuple):
    """How a command ended.

    Attributes:
        code: what a shell would see; -1 if it raised something that no command may raise.
        seconds: of the processor, since others may be at work too; what only waits is ended by the watchdog.
        grown: by how many bytes its memory grew at most.
    """

    code: int
    out: str
    err: str
    seconds: float
    grown: int


class Watched:
    """The process, as a test sees it."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        self.environment = {**os.environ, "PYTHONPATH": path, **(environment or {})}
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.watched"],
            cwd=ROOT, env=self.environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def zoo(self, *arguments: object) -> Outcome:
        """Runs a command of the command line."""
        return Outcome(**self.ask(arguments=[str(a) for a in arguments]))

    def call(self, function: str, **arguments: Any) -> dict[str, Any]:
        """Calls ``module:function``; returns ``Outcome``'s fields, and what it returned as ``value``."""
        return self.ask(function=function, keywords=arguments)

    def ask(self, **command: Any) -> dict[str, Any]:
        assert self.process.stdin
        assert self.process.stdout
        assert self.process.stderr
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if answer:
            return dict(json.loads(answer))
        died = f"it has ended with {self.process.wait(10)}: {self.process.stderr.read()}"
        self.start()  # for the next command
        raise AssertionError(died)

    def end(self) -> None:
        self.process.communicate(timeout=10)


@contextmanager
def watched(environment: Mapping[str, str] | None = None) -> Iterator[Watched]:
    process = Watched(environment)
    try:
        yield process
    finally:
        process.end()


def run(arguments: list[str]) -> int:
    """What ``zoo`` does, in this process."""
    from zoo_core.cli.main import main

    sys.argv = ["zoo", *arguments]
    try:
        main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def measured(command: Mapping[str, Any]) -> dict[str, Any]:
    out, err = io.StringIO(), io.StringIO()
    before, start = _memory("VmRSS"), time.process_time()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    value = None
    signal.alarm(LONGEST)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            if "function" in command:
                module, _, name = command["function"].partition(":")
                value, code = getattr(importlib.import_module(module), name)(**command["keywords"]), 0
            else:
                code = run(command["arguments"])
    except BaseException as error:
        code = -1
        err.write(f"{type(error).__name__}: {error}")
    finally:
        signal.alarm(0)
    seconds, grown = time.process_time() - start, _memory("VmHWM") - before
    told = {"code": code, "out": out.getvalue(), "err": err.getvalue(), "seconds": seconds, "grown": grown}
    return {**told, "value": value} if "function" in command else told


def _memory(field: str) -> int:
    """In bytes, as Linux tells it of this process."""
    text = Path("/proc/self/status").read_text()
    return int(text.partition(f"{field}:")[2].split()[0]) * 1024


class TooLate(BaseException):
    """No error that anything catches."""


def _late(*_: object) -> None:
    raise TooLate


def serve() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    import zoo_core.cli.main
    from zoo_core.pretrained import from_pretrained

    from_pretrained("vae-mnist").sample(1)
    import zoo_core.images
    import zoo_core.training.loop  # noqa: F401

    signal.signal(signal.SIGALRM, _late)
    taken = _memory("VmSize")
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, taken + MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for line in sys.stdin:
        answers.write(json.dumps(measured(json.loads(line))) + "\n")
        answers.flush()


if __name__ == "__main__":
    serve()
