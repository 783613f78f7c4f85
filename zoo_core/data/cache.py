"""Decoded data sets on disk: written once, then memory mapped by every process.

An entry is a folder of plain ``.npy`` files and ``meta.json``. It is written beside its place and
renamed into it, so that what has the right name is whole. There are no locks: two processes that
start together both decode, and the one that comes second takes the first one's entry.
"""

import functools
import io
import json
import os
import shutil
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.lib.format import header_data_from_array_1_0, write_array_header_1_0
from torch import Tensor

from zoo_core.data.fingerprint import fingerprint, flatten, unflatten
from zoo_core.data.strings import Strings
from zoo_core.files import WRITING, whole_folder, write_json

META = "meta.json"
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
    return find(key) or store(key, decode())


def find(key: str) -> Entry | None:
    """The columns under that key, memory mapped; None where there are none, or they are not whole."""
    return _read(cache_folder() / key)


def store(key: str, columns: Mapping[str, Tensor | Strings]) -> Entry:
    """Keeps columns under that key, as ``cached`` does."""
    folder, columns = cache_folder() / key, dict(columns)
    entry = Entry(columns, fingerprint(columns))
    try:
        if _read(folder) is None:  # another process may have been first
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
    with whole_folder(folder) as temporary:
        sizes = {name: _save(temporary / f"{name}.npy", tensor) for name, tensor in flatten(entry.columns).items()}
        write_json(temporary / META, {"fingerprint": entry.fingerprint, "files": sizes})


def _save(path: Path, tensor: Tensor) -> int:
    array = tensor.contiguous().numpy()
    header = io.BytesIO()
    write_array_header_1_0(header, header_data_from_array_1_0(array))
    # Not np.save: on a full disk it loses the last bytes without an error.
    with path.open("wb") as file:
        file.write(header.getvalue())
        file.write(array.data)
    return path.stat().st_size


def _sweep(parent: Path) -> None:
    """Deletes what killed writers left behind."""
    for leftover in parent.glob(f"{WRITING}*"):
        if time.time() - _last_write(leftover) > ABANDONED:
            shutil.rmtree(leftover, ignore_errors=True)


def _last_write(folder: Path) -> float:
    try:
        return max(path.stat().st_mtime for path in (folder, *folder.iterdir()))
    except OSError:
        return time.time()  # its writer has just finished
