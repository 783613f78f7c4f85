"""Folders and files that are whole or not there at all."""

import ctypes
import errno
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

WRITING = ".writing-"

AT_FDCWD, RENAME_EXCHANGE = -100, 2  # linux/fcntl.h, linux/fs.h


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A temporary folder beside ``target`` that takes its name once everything in it is on disk.

    A ``target`` that exists is replaced; if it is a link, what it leads to. After an error or a kill it is
    as it was.

    Raises:
        OSError: it cannot be written, is a file, or is where this process works.
    """
    target = target.resolve()
    _refuse_irreplaceable(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = _sibling(target)
    temporary.mkdir()
    try:
        yield temporary
        for path in (*temporary.rglob("*"), temporary):
            if not path.is_symlink():
                # safetensors lets only the owner read; a folder's files show what the umask allows.
                path.chmod(path.stat().st_mode | temporary.stat().st_mode & 0o666)
                sync(path)
        _replace(temporary, target)
        sync(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _refuse_irreplaceable(target: Path) -> None:
    if target.exists() and not target.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "it is a file", str(target))
    # Shells and processes that work there would be left in a folder without a name.
    if target.exists() and Path.cwd().is_relative_to(target):
        raise OSError(errno.EBUSY, "it holds the current folder; name another one", str(target))


def _sibling(target: Path) -> Path:
    return target.with_name(f"{WRITING}{target.name}-{os.getpid()}-{secrets.token_hex(4)}")


def _replace(temporary: Path, target: Path) -> None:
    """Gives a folder its name; the one that had it before takes the temporary name."""
    try:
        temporary.rename(target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        if not _exchange(temporary, target):
            _exchange_in_steps(temporary, target)


def _exchange(a: Path, b: Path) -> bool:
    """Swaps two names at once, so that neither is ever missing; False where the system cannot."""
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    return bool(renameat2 and renameat2(AT_FDCWD, os.fsencode(a), AT_FDCWD, os.fsencode(b), RENAME_EXCHANGE) == 0)


def _exchange_in_steps(a: Path, b: Path) -> None:
    aside = _sibling(b)
    b.rename(aside)
    try:
        a.rename(b)
    except BaseException:
        aside.rename(b)
        raise
    aside.rename(a)


def sync(path: Path) -> None:
    """Waits until a file's content, or a folder's list of names, is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Any) -> None:
    """Raises ValueError for nan and infinity, which are no JSON."""
    path.write_bytes(_as_json(value))


def replace_json(path: Path, value: Any) -> None:
    """As ``write_json`` and ``replace_file``."""
    replace_file(path, _as_json(value))


def replace_file(path: Path, content: bytes) -> None:
    """Writes a file: whole, or not at all; one that was there before stays until then.

    Raises:
        OSError: it cannot be written.
    """
    temporary = _sibling(path)
    try:
        temporary.write_bytes(content)
        sync(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _as_json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
