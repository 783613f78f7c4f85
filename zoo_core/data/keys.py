"""Cache keys from facts that cost no decoding. Imports neither datasets nor PIL."""

import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Part of every key: raise it when decoding changes what it returns.
DECODER = 1


def cache_key(name: str, *facts: Any) -> str:
    """A file name that people can tell apart and that changes with any of the facts."""
    digest = hashlib.sha256(json.dumps([DECODER, name, *facts], sort_keys=True).encode())
    words = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")
    return f"{words[-40:]}-{digest.hexdigest()[:32]}"


def file_facts(path: Path) -> list[tuple[str, int, int]]:
    """Path, size in bytes and time of change (ns) of a file, or of every file in a folder.

    Hidden files do not count. A file replaced by one of equal size and time goes unnoticed.
    """
    root = path.resolve()
    return [_facts(file) for file in (sorted(_files(root)) if root.is_dir() else [root])]


def _facts(file: Path) -> tuple[str, int, int]:
    status = file.stat()
    return str(file), status.st_size, status.st_mtime_ns


def _files(root: Path) -> Iterator[Path]:
    for folder, inner, names in os.walk(root, followlinks=True):
        inner[:] = [name for name in inner if not name.startswith(".")]
        yield from (Path(folder, name) for name in names if not name.startswith("."))
