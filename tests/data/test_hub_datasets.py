"""Data sets on the Hub, by the real client against a server on this machine."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from zoo_core.errors import DataError

# In a process of its own: Hugging Face's libraries read their settings when they are imported.
STORY = """
import io, json, os, sys, time
import pyarrow as pa
import pyarrow.parquet as pq
from pathlib import Path
from PIL import Image
from tests.hub_server import HubServer

def parquet(rows):
    images = []
    for i in range(rows):
        buffer = io.BytesIO()
        Image.new("L", (3, 2), 10 * i).save(buffer, "PNG")
        images.append({"bytes": buffer.getvalue(), "path": None})
    buffer = io.BytesIO()
    pq.write_table(pa.table({"image": images, "label": range(rows)}), buffer)
    return buffer.getvalue()

def push(**rows):
    files = {f"data/{split}-00000-of-00001.parquet": parquet(n) for split, n in rows.items()}
    operations = [CommitOperationAdd(path, content) for path, content in files.items()]
    commit = api.create_commit("zoo/tiny", operations, commit_message="data", repo_type="dataset")
    return commit.oid

def step(title, *arguments, **options):
    server.requests.clear()
    start = time.perf_counter()
    try:
        data = load(*arguments, host=host, **options)
        outcome = {"labels": data.batch(torch.arange(len(data)))["label"].tolist()}
    except DataError as error:
        outcome = {"error": str(error)}
    seconds = time.perf_counter() - start
    steps[title] = {**outcome, "requests": len(server.requests), "seconds": seconds}

steps = {}
with HubServer() as server:
    os.environ.update(server.environment(Path(sys.argv[1])))
    import torch
    from huggingface_hub import CommitOperationAdd, HfApi
    from zoo_core.data import load
    from zoo_core.errors import DataError
    from zoo_core.host import PluginHost

    host, api = PluginHost(discover=False), HfApi()
    api.create_repo("zoo/tiny", repo_type="dataset")
    first = push(train=7, test=3)
    step("cold", "zoo/tiny")
    step("warm", "zoo/tiny")
    step("other split", "zoo/tiny", "test")
    step("no such split", "zoo/tiny", "valid")
    step("pinned", "zoo/tiny", revision=first)
    step("no such name", "zoo/tinny")
    step("no such revision", "zoo/tiny", revision="v9")
    with server.refusing():
        step("away", "zoo/tiny")
        step("away, never seen", "zoo/other")
    with server.down():
        step("down", "zoo/tiny")
    second = push(train=5)
    step("new commit", "zoo/tiny")
    step("old commit", "zoo/tiny", revision=first)
    os.environ["HF_HUB_OFFLINE"] = "1"
    step("offline", "zoo/tiny")
    step("offline, never seen", "zoo/other")
print(json.dumps(steps))
"""

LATER = """
import sys
from zoo_core.data import load
print(len(load("zoo/tiny")))
print([name for name in ("datasets", "PIL", "pyarrow", "huggingface_hub") if name in sys.modules])
"""


@pytest.fixture(scope="module")
def caches(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("caches")


def run(script: str, caches: Path, **environment: str) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZOO_CACHE", str(caches / "zoo"))
        patch.setenv("ZOO_DATA", "")
        for name, value in environment.items():
            patch.setenv(name, value)
        command = [sys.executable, "-c", script, str(caches / "huggingface")]
        root = Path(__file__).resolve().parents[2]
        done = subprocess.run(command, capture_output=True, text=True, cwd=root, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def story(caches) -> dict[str, dict[str, Any]]:
    return json.loads(run(STORY, caches))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("step", "rows"),
    [
        ("cold", 7),
        ("warm", 7),
        ("other split", 3),
        ("pinned", 7),
        ("away", 7),
        ("down", 7),
        ("new commit", 5),
        ("old commit", 7),
        ("offline", 5),
    ],
)
def test_what_is_loaded(story, step, rows):
    assert story[step].get("error") is None
    assert story[step]["labels"] == list(range(rows))


@pytest.mark.parametrize(("step", "requests"), [("warm", 1), ("pinned", 0), ("old commit", 0), ("offline", 0)])
def test_what_is_cached_costs_at_most_one_request(story, step, requests):
    assert story[step]["requests"] == requests


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ("no such split", "zoo/tiny has no split 'valid'; it has: train, test"),
        ("no such name", "did you mean: zoo/tiny?"),
        ("no such revision", "no revision 'v9'"),
        ("away, never seen", "the Hub cannot be reached: go online once"),
        ("offline, never seen", "HF_HUB_OFFLINE is set: go online once"),
    ],
)
def test_what_cannot_be_loaded(story, step, message):
    assert message in story[step]["error"]


def test_an_absent_hub_costs_no_patience(story):
    assert story["away"]["seconds"] < 2
    assert story["away, never seen"]["seconds"] < 2


@pytest.mark.usefixtures("story")
def test_offline_and_cached_needs_no_library(caches):
    assert run(LATER, caches, HF_HUB_OFFLINE="1").splitlines() == ["5", "[]"]


def test_another_commit_than_the_one_asked_for_is_refused(monkeypatch):
    """As datasets gives it when the Hub is away and it has kept some other commit."""
    from zoo_core.data import reading

    kept = SimpleNamespace(hash="a" * 40)
    monkeypatch.setattr(reading.datasets, "load_dataset_builder", lambda **_: kept)
    with pytest.raises(DataError, match="not cached at commit b"):
        reading.hub_builder("zoo/tiny", None, "b" * 40)


def test_a_note_that_is_no_commit_is_not_believed(tmp_path, monkeypatch):
    """A revision may come from a stranger's recipe: it must not make a file's text known."""
    from zoo_core.data import hub

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "hub" / "datasets--org--name" / "refs").mkdir(parents=True)
    (tmp_path / "secret").write_text("secret text")
    with pytest.raises(hub.Absent) as caught:
        hub.resolve("org/name", "../../../secret")
    assert "secret text" not in str(caught.value)
