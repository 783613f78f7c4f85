"""The command ``zoo`` in this process, at a Hub on this machine: for tests of what it sends there."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from threading import Event
from typing import NamedTuple

import pytest
from huggingface_hub import constants
from huggingface_hub.utils import disable_progress_bars, enable_progress_bars  # type: ignore[attr-defined]

from tests.hub_server import Fault, HubServer, Response
from zoo_core.cli import main


class Done(NamedTuple):
    """How a command has ended."""

    code: int
    out: str
    err: str


def zoo(*words: object) -> Done:
    out, err, code, arguments = StringIO(), StringIO(), 0, sys.argv
    formatted = warnings.formatwarning
    sys.argv = ["zoo", *map(str, words)]
    try:
        with redirect_stdout(out), redirect_stderr(err):
            main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        sys.argv, warnings.formatwarning = arguments, formatted
    return Done(code, out.getvalue(), err.getvalue())


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    """A Hub that this process uses as if its address had been in HF_ENDPOINT from the beginning."""
    with HubServer() as running:
        use(running, monkeypatch, tmp_path / "hub")
        disable_progress_bars()
        yield running
        enable_progress_bars()


def use(server: HubServer, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    resolve = "/{repo_id}/resolve/{revision}/{filename}"
    for name, value in {
        "ENDPOINT": server.url, "HUGGINGFACE_CO_URL_TEMPLATE": server.url + resolve, "HF_HUB_CACHE": str(cache),
        "HF_HUB_DISABLE_XET": True, "HF_HUB_OFFLINE": False,
    }.items():  # fmt: skip
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setenv("HF_TOKEN", server.token)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The client's pauses between attempts, which do not happen."""
    pauses: list[float] = []
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", pauses.append)
    return pauses


class Hold(Fault):
    """A request that arrives and is not answered until it is let go; ``reached`` tells that it is there."""

    def __init__(self, pattern: str) -> None:
        super().__init__(pattern, 1)
        self.reached, self.let_go = Event(), Event()

    def befall(self, answer: object) -> Response:
        self.reached.set()
        self.let_go.wait(60)
        raise ConnectionAbortedError("whoever asked is gone")


def changing(server: HubServer) -> list[str]:
    """The requests so far that are made to change something."""
    harmless = ("GET", "HEAD")
    return [f"{seen.method} {seen.path}" for seen in server.requests if seen.method not in harmless]


def stored(server: HubServer, repository: str, revision: str = "main") -> dict[str, bytes]:
    files = server.repository(repository).at(revision).files
    return {path: blob.content for path, blob in files.items() if path != ".gitattributes"}


def head(server: HubServer, repository: str, branch: str = "main") -> str:
    return server.repository(repository).refs[f"refs/heads/{branch}"].oid
