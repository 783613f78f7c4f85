"""Data sets streamed from the Hub, by the real client against a server on this machine."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

# In a process of its own: Hugging Face's libraries read their settings when they are imported.
STORY = """
import io, json, os, re, sys, time
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pathlib import Path
from PIL import Image
from tests.hub_server import HubServer

def png(i):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(i).integers(0, 256, (40, 30), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()

def parquet(first, groups):
    buffer = io.BytesIO()
    rows = range(first, first + sum(groups))
    table = pa.table({"image": [{"bytes": png(i), "path": None} for i in rows], "label": rows})
    with pq.ParquetWriter(buffer, table.schema) as writer:
        for n in groups:
            writer.write_table(table.slice(0, n))
            table = table.slice(n)
    return buffer.getvalue()

def push(name, files):
    operations = [CommitOperationAdd(path, content) for path, content in files.items()]
    return api.create_commit(name, operations, commit_message="data", repo_type="dataset").oid

def asked():
    \"\"\"How many bytes of data files were asked for, None for whole files.\"\"\"
    ranges = [r.range for r in server.requests if "/resolve/" in r.path and r.path.endswith((".parquet", ".png"))]
    spans = [re.fullmatch(r"bytes=(\\d+)-(\\d+)", r or "") for r in ranges]
    return [s and int(s[2]) - int(s[1]) + 1 for s in spans]

def step(title, get):
    start = time.perf_counter()
    server.requests.clear()
    try:
        told[title] = {"value": get()}
    except DataError as error:
        told[title] = {"error": str(error)}
    told[title] |= {"asked": asked(), "seconds": time.perf_counter() - start}

def labels(data, *places):
    return data.batch(torch.tensor(places))["label"].tolist()

def same(one, other, places):
    a, b = one.batch(places), other.batch(places)
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)

told = {}
with HubServer() as server:
    os.environ.update(server.environment(Path(sys.argv[1]) / "huggingface"))
    import torch
    from huggingface_hub import CommitOperationAdd, HfApi
    from zoo_core.data import load
    from zoo_core.data.row_groups import RowGroups
    from zoo_core.errors import DataError
    from zoo_core.host import PluginHost

    host, api = PluginHost(discover=False), HfApi()
    for name in ("zoo/rows", "zoo/pictures"):
        api.create_repo(name, repo_type="dataset")
    contents = parquet(0, [30, 20]), parquet(50, [9])
    two = {f"data/train-0000{k}-of-00002.parquet": content for k, content in enumerate(contents)}
    first = push("zoo/rows", two)
    told["sizes"] = [len(content) for content in two.values()]
    kinds = {0: "cat", 1: "dog", 2: "dog"}
    push("zoo/pictures", {f"{split}/{kinds[i]}/{i}.png": png(i) for i in kinds for split in ("train", "test")})

    opened = {}
    def open_(name, **options):
        opened[name] = load(name, host=host, streaming=True, **options)
        return [len(opened[name]), opened[name].data_shape]
    step("open", lambda: open_("zoo/rows"))
    rows = opened["zoo/rows"]
    step("first group", lambda: labels(rows, 3, 1))
    push("zoo/rows", {"data/train-00000-of-00002.parquet": parquet(100, [5])})
    step("another group, after a push", lambda: labels(rows, 45, 30, 45))
    step("the same again", lambda: labels(rows, 30, 0))
    server.fail_next("GET .*train-00001", status=403)
    step("denied", lambda: labels(rows, 55))
    server.drop_next("GET .*train-00001")
    step("a dropped connection", lambda: labels(rows, 55))
    step("new commit", lambda: open_("zoo/rows"))
    step("pinned", lambda: open_("zoo/rows", revision=first))
    step("no such split", lambda: load("zoo/rows", "valid", host=host, streaming=True))
    step("no such name", lambda: open_("zoo/rosw"))

    step("open pictures", lambda: open_("zoo/pictures"))
    step("pictures", lambda: labels(opened["zoo/pictures"], 2, 0))

    Path(sys.argv[1], "copy").mkdir()
    for path, content in two.items():
        Path(sys.argv[1], "copy", Path(path).name).write_bytes(content)
    local = load(str(Path(sys.argv[1], "copy")), host=host, streaming=True)
    held = load("zoo/rows", host=host, revision=first)
    told["as in memory"] = same(rows, held, rows.order(1))
    told["as a local copy"] = [rows.fingerprint == local.fingerprint, torch.equal(rows.order(2), local.order(2))]
    pictures = load("zoo/pictures", host=host)
    told["pictures as in memory"] = same(opened["zoo/pictures"], pictures, torch.arange(3))

    with server.refusing():
        step("away", lambda: open_("zoo/rows"))
        step("away, pinned", lambda: open_("zoo/rows", revision=first))
    os.environ["HF_HUB_OFFLINE"] = "1"
    step("offline", lambda: open_("zoo/rows"))
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def story(tmp_path_factory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("story")
    environment = {**os.environ, "ZOO_CACHE": str(folder / "zoo"), "ZOO_DATA": ""}
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", STORY, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("step", "value"),
    [
        ("open", [59, [1, 40, 30]]),
        ("first group", [3, 1]),
        ("another group, after a push", [45, 30, 45]),
        ("the same again", [30, 0]),
        ("a dropped connection", [55]),
        ("new commit", [14, [1, 40, 30]]),
        ("pinned", [59, [1, 40, 30]]),
        ("open pictures", [3, [1, 40, 30]]),
        ("pictures", [1, 0]),
    ],
)
def test_what_is_streamed(story, step, value):
    assert story[step].get("error") is None
    assert story[step]["value"] == value


@pytest.mark.parametrize("step", ["as in memory", "pictures as in memory"])
def test_is_what_it_is_in_memory(story, step):
    assert story[step] is True


def test_a_local_copy_has_the_same_fingerprint_and_order(story):
    assert story["as a local copy"] == [True, True]


@pytest.mark.parametrize(
    ("step", "requests"), [("first group", 0), ("another group, after a push", 1), ("pictures", 2)]
)
def test_one_request_for_each_row_group_or_picture(story, step, requests):
    assert len(story[step]["asked"]) == requests


def test_no_parquet_file_is_asked_for_as_a_whole(story):
    sizes = story["sizes"]
    for step in ("open", "another group, after a push", "a dropped connection"):
        assert all(size and size < max(sizes) for size in story[step]["asked"])
    assert 0.5 < story["open"]["asked"][-1] / sizes[0] < 0.7  # the first group, 30 of 50 rows
    (second_group,) = story["another group, after a push"]["asked"]
    assert 0.3 < second_group / sizes[0] < 0.5  # the other 20


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ("denied", "data/train-00001-of-00002.parquet cannot be read: "),
        ("no such split", "zoo/rows has no split 'valid'; it has: train"),
        ("no such name", "no data set 'zoo/rosw' on the Hub"),
        ("away", "'zoo/rows' cannot be streamed, since the Hub cannot be reached"),
        ("away, pinned", "'zoo/rows' cannot be streamed, since the Hub cannot be reached"),
        ("offline", "'zoo/rows' cannot be streamed, since HF_HUB_OFFLINE is set: leave out streaming"),
    ],
)
def test_what_cannot_be_streamed(story, step, message):
    assert message in story[step]["error"]
    assert "\n" not in story[step]["error"]


@pytest.mark.parametrize("step", ["away", "away, pinned", "offline"])
def test_an_absent_hub_costs_no_patience(story, step):
    assert story[step]["seconds"] < 2
