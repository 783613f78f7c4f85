"""Data sets in Hugging Face's layouts: local folders and files, and repositories on the Hub.

``datasets`` costs a second to import, and neither it nor Pillow is imported for what is cached.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from zoo_core.data import hub
from zoo_core.data.cache import cached
from zoo_core.data.dataset import InMemory
from zoo_core.data.keys import cache_key, file_facts
from zoo_core.data.sizes import ImageSize, checked_size
from zoo_core.errors import DataError

if TYPE_CHECKING:
    from zoo_core.data.reading import Columns


def from_path(
    path: str | os.PathLike[str],
    split: str = "train",
    *,
    name: str | None = None,
    config: str | None = None,
    image_size: ImageSize = None,
    columns: Mapping[str, str] | None = None,
) -> InMemory:
    """A local copy: a ``.parquet`` file, or a folder of parquet files or of images.

    Args:
        name: what the data set is called; the path by default.
        config: which of the folder's configurations, if its README lists several.
        image_size: (H, W), or the side of a square, to which images are cut about their centre and
            resized.
        columns: the source's columns to use, by canonical name: ``{"label": "fine_label"}``.

    Raises:
        ConfigError: ``image_size`` is no size.
        DataError: it is no data set, it has no such split, or its images cannot be used.
    """
    # Path.expanduser raises another error where there is no such user.
    place, name = Path(os.path.expanduser(path)), name or str(path)
    size = checked_size(image_size)
    facts = (_facts(place), split, config, size, dict(columns or {}))
    key = cache_key("-".join((*place.resolve().parts[-2:], split)), *facts)

    def decode() -> Columns:
        from zoo_core.data import reading

        with TemporaryDirectory() as scratch:
            builder = reading.local_builder(place, config, scratch)
            return reading.read(name, builder, split, size, columns, streaming=True)

    return _dataset(name, split, key, decode)


def from_hub(
    name: str,
    split: str = "train",
    *,
    revision: str = "main",
    config: str | None = None,
    image_size: ImageSize = None,
    columns: Mapping[str, str] | None = None,
) -> InMemory:
    """A data set repository on the Hugging Face Hub, ``organisation/name``.

    Args:
        revision: a branch, tag or commit. A full commit asks the Hub nothing once it is cached;
            another name costs one request, and what it last meant is used while the Hub is away.
        config, image_size, columns: as in :func:`from_path`.

    Raises:
        DataError: there is no such repository or split, it holds no images, or it is not cached and
            the Hub cannot be reached (``HF_HUB_OFFLINE`` included).
    """
    size, commit = checked_size(image_size), hub.resolve(name, revision)
    facts = (name, commit, split, config, size, dict(columns or {}))
    key = cache_key(f"{name}-{split}", *facts)

    def decode() -> Columns:
        from zoo_core.data import reading

        builder = reading.hub_builder(name, config, commit)
        return reading.read(name, builder, split, size, columns, streaming=False)

    return _dataset(name, split, key, decode)


def _dataset(name: str, split: str, key: str, decode: Callable[[], Columns]) -> InMemory:
    entry = cached(key, decode)
    return InMemory(name, split, entry.columns, entry.fingerprint)


def _facts(place: Path) -> list[tuple[str, int, int]]:
    if not place.exists():
        raise DataError(f"no such folder or file: {place}")
    try:
        return file_facts(place)
    except OSError as error:
        raise DataError(f"{place} cannot be read: {error}") from error
