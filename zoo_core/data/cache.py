"""Decoded data sets on disk: written once, then memory mapped by every process.

An entry is a folder of plain ``.npy`` files and ``meta.json``. It is written beside its place and
renamed into it, so that what has the right name is whole. There are no locks: two processes that
start together both decode, and the one that comes second takes the first one's entry.
"""

import functools
import io
import json
import os
import secrets
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.lib.format import header_data_from_array_1_0, write_array_header_1_0
from torch import Tensor

from zoo_core.data.fingerprint import fingerprint, flatten, unflatten
from zoo_core.data.strings import Strings

META = "meta.json"
PREFIX = ".writing-"
ABANDONED = 3600.0  # seconds without a write after which a writer is taken for dead


class Entry(NamedTuple):
    """Columns and the fingerprint of their content."""

    columns: dict[str, Tensor | Strings]
    fingerprint: str


def cache_folder() -> Path:
    """``ZOO_CACHE``, or ``~/.cache/zoo``; data sets are in ``data`` inside it."""
    return Path(os.environ.get("ZOO_CACHE") or "~/.cache/zoo").expanduser() / "data"


def cached(key: str, decode: Callable[[], Mapping[str, Tensor | Strings]]) -> Entry:
    """The columns under that key, decoded at the first call and memory mapped at every other.

    Writing to a mapped tensor changes this process's copy alone. Where the cache cannot be written
    (read-only, full) the columns stay in memory, with one warning.

    Args:
        key: a file name that changes whenever ``decode`` would return something else.
        decode: makes the columns; names are plain words.
    """
    folder = cache_folder() / key
    return _read(folder) or _store(folder, dict(decode()))


def _store(folder: Path, columns: dict[str, Tensor | Strings]) -> Entry:
    entry = Entry(columns, fingerprint(columns))
    try:
        _write(folder, entry)
    except OSError as error:
        _warn_once(str(folder.parent), error.strerror or str(error))
    return _read(folder) or entry


@functools.cache
def _warn_once(folder: str, reason: str) -> None:
    warnings.warn(
        f"cannot write to the data cache {folder} ({reason}): every process decodes its data again;"
        " set ZOO_CACHE to a folder with room",
        stacklevel=2,
    )


def _read(folder: Path) -> Entry | None:
    """The entry in that folder; None where there is none, or one that is not whole."""
    try:
        meta = json.loads((folder / META).read_bytes())
        tensors = {name: _map(folder / f"{name}.npy", size) for name, size in meta["files"].items()}
        return Entry(unflatten(tensors), str(meta["fingerprint"]))
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None


def _map(path: Path, size: int) -> Tensor:
    if path.stat().st_size != size:
        raise ValueError(f"{path} is truncated")
    # Copy on write: torch has no read-only tensors, and writing to a read-only page is a crash.
    return torch.from_numpy(np.load(path, mmap_mode="c", allow_pickle=False))


def _write(folder: Path, entry: Entry) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    _sweep(folder.parent)
    with _temporary(folder.parent) as temporary:
        sizes = {name: _save(temporary / f"{name}.npy", tensor) for name, tensor in flatten(entry.columns).items()}
        meta = {"fingerprint": entry.fingerprint, "files": sizes}
        _save_bytes(temporary / META, json.dumps(meta, indent=1).encode())
        _sync_folder(temporary)
        _install(temporary, folder)
        _sync_folder(folder.parent)


@contextmanager
def _temporary(parent: Path) -> Iterator[Path]:
    # Not tempfile.mkdtemp: its mode 0700 would lock others out of a shared cache.
    folder = parent / f"{PREFIX}{os.getpid()}-{secrets.token_hex(4)}"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _save(path: Path, tensor: Tensor) -> int:
    array = tensor.contiguous().numpy()
    header = io.BytesIO()
    write_array_header_1_0(header, header_data_from_array_1_0(array))
    # Not np.save: on a full disk it loses the last bytes without an error.
    return _save_bytes(path, header.getvalue(), array.data)


def _save_bytes(path: Path, *parts: bytes | memoryview) -> int:
    with path.open("wb") as file:
        for part in parts:
            file.write(part)
        file.flush()
        os.fsync(file.fileno())
    return path.stat().st_size


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _install(temporary: Path, folder: Path) -> None:
    try:
        temporary.rename(folder)
    except OSError:
        if _read(folder) is not None:
            return  # another process was first
        _discard(folder)
        temporary.rename(folder)


def _discard(folder: Path) -> None:
    """Takes a damaged entry out of the way at once, then deletes it."""
    trash = folder.with_name(f"{PREFIX}{os.getpid()}-{secrets.token_hex(4)}")
    folder.rename(trash)
    shutil.rmtree(trash, ignore_errors=True)


def _sweep(parent: Path) -> None:
    """Deletes what killed writers left behind."""
    for leftover in parent.glob(f"{PREFIX}*"):
        if time.time() - _last_write(leftover) > ABANDONED:
            shutil.rmtree(leftover, ignore_errors=True)


def _last_write(folder: Path) -> float:
    try:
        return max(path.stat().st_mtime for path in (folder, *folder.iterdir()))
    except OSError:
        return time.time()  # its writer has just finished
