"""Folders that are whole or not there: after success, after an error, after a kill."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from zoo_core import files
from zoo_core.files import WRITING, whole_folder, write_json


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def leftovers(folder: Path) -> list[Path]:
    return list(folder.glob(f"{WRITING}*"))


def write(target: Path, **texts: str) -> None:
    with whole_folder(target) as temporary:
        for name, text in texts.items():
            (temporary / name).write_text(text)


@pytest.fixture(params=["at once", "in steps"])
def replacing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways to replace a folder: Linux's own, and the one of systems that lack it."""
    if request.param == "in steps":
        monkeypatch.setattr(files, "_exchange", lambda a, b: False)


def test_it_appears_with_its_parents(tmp_path: Path) -> None:
    write(tmp_path / "a" / "b" / "target", x="1", y="2")
    assert contents(tmp_path) == {"a/b/target/x": "1", "a/b/target/y": "2"}


def test_nothing_has_the_name_before_the_end(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "target") as temporary:
        (temporary / "x").write_text("1")
        assert not (tmp_path / "target").exists()
        assert temporary.parent == tmp_path
    assert not temporary.exists()


@pytest.mark.usefixtures("replacing")
def test_it_replaces_all_of_a_folder(tmp_path: Path) -> None:
    write(tmp_path / "target", old="1", both="1")
    write(tmp_path / "target", new="2", both="2")
    assert contents(tmp_path) == {"target/new": "2", "target/both": "2"}
    assert leftovers(tmp_path) == []


def fail_inside(target: Path, error: BaseException) -> None:
    with whole_folder(target) as temporary:
        (temporary / "x").write_text("new")
        raise error


@pytest.mark.parametrize("error", [OSError("full"), KeyboardInterrupt(), ValueError("x")])
def test_an_error_inside_leaves_the_old(tmp_path: Path, error: BaseException) -> None:
    write(tmp_path / "target", x="old")
    with pytest.raises(type(error)):
        fail_inside(tmp_path / "target", error)
    assert contents(tmp_path) == {"target/x": "old"}
    assert leftovers(tmp_path) == []


def test_an_error_inside_leaves_nothing_where_nothing_was(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="full"):
        fail_inside(tmp_path / "target", OSError("full"))
    assert list(tmp_path.iterdir()) == []


def test_an_error_between_two_steps_leaves_the_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "target", x="old")
    rename, targets = Path.rename, []

    def fail_at_the_second(self: Path, target: Path) -> Path:
        targets.append(target)
        if targets.count(tmp_path / "target") == 2:
            raise OSError("full")
        return rename(self, target)

    monkeypatch.setattr(files, "_exchange", lambda a, b: False)
    monkeypatch.setattr(Path, "rename", fail_at_the_second)
    with pytest.raises(OSError, match="full"):
        write(tmp_path / "target", x="new")
    assert contents(tmp_path) == {"target/x": "old"}
    assert leftovers(tmp_path) == []


def test_why_a_name_could_not_be_given_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if self.name.startswith(WRITING):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OSError, match="Read-only"):
        write(tmp_path / "target", x="1")
    assert list(tmp_path.iterdir()) == []


KILLED = """
import sys, time
from pathlib import Path
from zoo_core.files import whole_folder
with whole_folder(Path(sys.argv[1])) as temporary:
    (temporary / "x").write_text("new")
    print("inside", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("before", [{}, {"x": "old"}])
def test_a_kill_inside_leaves_what_was(tmp_path: Path, before: dict[str, str]) -> None:
    if before:
        write(tmp_path / "target", **before)
    command = [sys.executable, "-c", KILLED, str(tmp_path / "target")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "inside\n"
        process.send_signal(signal.SIGKILL)
    assert contents(tmp_path / "target") == before
    # What is left of it has no name that anyone looks for, and is in nobody's way.
    assert set(tmp_path.iterdir()) - {tmp_path / "target"} == set(leftovers(tmp_path)) != set()
    write(tmp_path / "target", x="newer")
    assert contents(tmp_path / "target") == {"x": "newer"}


@pytest.mark.skipif(sys.platform != "linux", reason="other systems need two steps")
def test_a_folder_that_is_replaced_is_never_missing(tmp_path: Path) -> None:
    write(tmp_path / "target", x="0")
    missing, done = [], threading.Event()

    def watch() -> None:
        while not done.is_set():
            if not os.path.isdir(tmp_path / "target"):
                missing.append(True)

    watcher = threading.Thread(target=watch)
    watcher.start()
    for i in range(50):
        write(tmp_path / "target", x=str(i))
    done.set()
    watcher.join()
    assert not missing


def test_everything_is_on_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []

    def fsync(descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        synced.append((path.name, (tmp_path / "target").exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    with whole_folder(tmp_path / "target") as temporary:
        (temporary / "inside").mkdir()
        (temporary / "inside" / "x").write_text("1")
    before = {name for name, there in synced if not there}
    after = {name for name, there in synced if there}
    assert before == {temporary.name, "inside", "x"}
    assert after == {tmp_path.name}


def test_a_link_goes_on_leading_there(tmp_path: Path) -> None:
    write(tmp_path / "runs" / "first", x="old")
    (tmp_path / "latest").symlink_to(tmp_path / "runs" / "first")
    write(tmp_path / "latest", x="new")
    assert (tmp_path / "latest").is_symlink()
    assert contents(tmp_path / "runs") == {"first/x": "new"}
    assert leftovers(tmp_path) == []


def test_a_dangling_link_inside_is_no_obstacle(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "target") as temporary:
        (temporary / "link").symlink_to("nowhere")
    assert (tmp_path / "target" / "link").is_symlink()


def test_a_file_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("mine")
    with pytest.raises(OSError, match="it is a file"):
        write(tmp_path / "target", x="1")
    assert (tmp_path / "target").read_text() == "mine"


@pytest.mark.parametrize("name", [".", "..", "../here"])
def test_where_one_works_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(OSError, match="current folder"):
        write(Path(name), x="1")
    assert contents(tmp_path) == {}


def test_writers_at_once_leave_one_whole_folder(tmp_path: Path) -> None:
    def work(text: str) -> None:
        for _ in range(20):
            write(tmp_path / "target", x=text, y=text)

    with ThreadPoolExecutor() as pool:
        list(pool.map(work, "abc"))
    x, y = contents(tmp_path / "target").values()
    assert x == y
    assert leftovers(tmp_path) == []


def test_json_is_for_people_too(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"σ": [1, None]})
    text = (tmp_path / "x.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"σ": [1, None]}
    assert "σ" in text
    assert text.endswith("}\n")


# --- what strangers made --------------------------------------------------------------------------------
