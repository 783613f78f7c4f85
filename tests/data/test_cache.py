"""The cache: whole entries or none, whoever is killed, late or out of room."""

import errno
import os
import resource
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from zoo_core.data.cache import ABANDONED, Entry, cached
from zoo_core.data.fingerprint import fingerprint, flatten
from zoo_core.data.strings import Strings
from zoo_core.files import WRITING

COLUMNS = {
    "image": torch.arange(7 * 12, dtype=torch.uint8).view(7, 1, 3, 4),
    "label": torch.arange(7),
    "caption": Strings.of([f"number {i}" for i in range(7)]),
}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "data"


class Decoder:
    """Counts how often it is asked."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> dict[str, torch.Tensor | Strings]:
        self.calls += 1
        return dict(COLUMNS)


def assert_right(entry: Entry) -> None:
    found = flatten(entry.columns)
    assert list(entry.columns) == list(COLUMNS)
    assert all(torch.equal(found[name], tensor) for name, tensor in flatten(COLUMNS).items())
    assert entry.fingerprint == fingerprint(COLUMNS)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_decodes_once():
    decode = Decoder()
    for _ in range(3):
        assert_right(cached("key", decode))
    assert decode.calls == 1


def test_keys_are_apart(folder):
    decode = Decoder()
    cached("one", decode)
    cached("two", decode)
    assert decode.calls == 2
    assert names(folder) == ["one", "two"]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.data(),
    st.integers(0, 4),
    st.tuples(st.sampled_from([1, 3]), st.integers(1, 3), st.integers(1, 3)),
)
def test_what_is_read_is_what_was_written(folder, data, rows, shape):
    pixels = data.draw(arrays.arrays(np.uint8, (rows, *shape)))
    texts = data.draw(st.lists(st.text(), min_size=rows, max_size=rows))
    columns = {"image": torch.from_numpy(pixels), "caption": Strings.of(texts)}
    shutil.rmtree(folder, ignore_errors=True)
    cached("key", lambda: columns)
    entry = cached("key", lambda: pytest.fail("it was cached"))
    assert entry.fingerprint == fingerprint(entry.columns) == fingerprint(columns)


def test_writing_to_a_column_does_not_reach_the_file():
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch warns of arrays that cannot be written
        image = cached("key", Decoder()).columns["image"]
    assert isinstance(image, torch.Tensor)
    image.zero_()
    assert_right(cached("key", Decoder()))


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def scramble_header(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"\0" * 64)


def replace(path: Path) -> None:
    np.save(path.open("wb"), np.zeros((9, 1, 3, 4), np.uint8))


DAMAGE = {
    "truncated": truncate,
    "scrambled": scramble_header,
    "replaced": replace,
    "deleted": Path.unlink,
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("file", ["image.npy", "label.npy", "caption.ends.npy", "meta.json"])
def test_a_damaged_entry_is_written_anew(folder, damage, file):
    cached("key", Decoder())
    DAMAGE[damage](folder / "key" / file)
    decode = Decoder()
    assert_right(cached("key", decode))
    assert_right(cached("key", decode))
    assert decode.calls == 1
    assert names(folder) == ["key"]


@pytest.mark.parametrize("meta", ["", "[]", "{}", '{"files": [], "fingerprint": ""}', "null"])
def test_a_meaningless_meta_file_is_no_entry(folder, meta):
    cached("key", Decoder())
    (folder / "key" / "meta.json").write_text(meta)
    decode = Decoder()
    assert_right(cached("key", decode))
    assert decode.calls == 1


def test_a_mapped_entry_outlives_its_files(folder):
    entry = cached("key", Decoder())
    shutil.rmtree(folder)
    assert_right(entry)


def test_others_may_read_a_shared_cache(folder):
    old = os.umask(0o022)
    try:
        cached("key", Decoder())
    finally:
        os.umask(old)
    assert (folder / "key").stat().st_mode & 0o777 == 0o755


def test_serves_from_memory_where_it_cannot_write(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "file"))
    decode = Decoder()
    with pytest.warns(UserWarning, match="ZOO_CACHE"):
        assert_right(cached("key", decode))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # once is enough
        assert_right(cached("other", decode))
    assert decode.calls == 2


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """As on a full disk, a longer write fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("room", [0, 100, 200])
def test_serves_from_memory_when_the_disk_is_full(folder, room):
    with pytest.warns(UserWarning, match=os.strerror(errno.EFBIG)), files_of_at_most(room):
        entry = cached("key", Decoder())
    assert_right(entry)
    assert names(folder) == []


def test_leftovers_are_swept_when_they_are_old(folder):
    for name, age in (("old", ABANDONED + 60), ("young", ABANDONED - 60)):
        leftover = folder / f"{WRITING}{name}"
        leftover.mkdir(parents=True)
        (leftover / "image.npy").touch()
        for path in (leftover / "image.npy", leftover):
            os.utime(path, (time.time() - age,) * 2)
    cached("key", Decoder())
    assert names(folder) == [f"{WRITING}young", "key"]


def test_who_comes_second_takes_the_first_ones_entry(folder):
    def decode() -> dict[str, torch.Tensor | Strings]:
        cached("key", Decoder())  # as another process does meanwhile
        decode.first = (folder / "key").stat().st_ino
        return dict(COLUMNS)

    assert_right(cached("key", decode))
    assert (folder / "key").stat().st_ino == decode.first
    assert names(folder) == ["key"]


RACE = """
import sys, time
from pathlib import Path
import torch
from zoo_core.data.cache import cached

me, other = Path(sys.argv[1]), Path(sys.argv[2])

def decode():
    me.touch()
    while not other.exists():  # neither goes on before both have found the cache empty
        time.sleep(0.001)
    return {"image": torch.arange(4_000_000, dtype=torch.int64).to(torch.uint8).view(-1, 1, 20, 20)}

entry = cached("key", decode)
print(entry.fingerprint, int(entry.columns["image"].long().sum()))
"""


def start(script: str, *arguments: object) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_two_processes_that_start_together_share_one_entry(folder, tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    outputs = [process.communicate(timeout=60) for process in (start(RACE, a, b), start(RACE, b, a))]
    assert outputs[0] == outputs[1]
    assert outputs[0][1] == ""
    assert names(folder) == ["key"]


KILLS = """
import os, signal, sys
import torch
from zoo_core.data.cache import cache_folder, cached

def run(last):
    left = iter(range(last))
    real = os.fsync
    def fsync(file):
        next(left, None) is None and os.kill(os.getpid(), signal.SIGKILL)
        real(file)
    os.fsync = fsync
    cached("key", lambda: {"image": torch.zeros(9, 1, 9, 9, dtype=torch.uint8)})
    os._exit(0)

for last in range(9):
    child = os.fork()
    child or run(last)
    status = os.waitpid(child, 0)[1]
    print(os.waitstatus_to_exitcode(status), *sorted(p.name for p in cache_folder().iterdir()))
    if status == 0:
        break
"""


def test_a_killed_writer_leaves_nothing_that_looks_whole(folder):
    """It is killed at each of its calls to fsync in turn, until there are no more."""
    output, errors = start(KILLS).communicate(timeout=60)
    assert errors == ""
    *killed, done = [line.split() for line in output.splitlines()]
    assert len(killed) == 4  # image.npy, meta.json, the entry's folder; at last the cache's own
    *before, after = [found for code, *found in killed if code == "-9"]
    assert all(name.startswith(WRITING) for found in before for name in found)
    assert after[-1] == "key"  # renamed, and only then killed: whole
    assert done[0] == "0"
    entry = cached("key", lambda: pytest.fail("it was cached"))
    assert entry.columns["image"].shape == (9, 1, 9, 9)
