"""Data sets in Hugging Face's layouts: local folders and files, and repositories on the Hub.

``datasets`` costs a second to import, and neither it nor Pillow is imported for what is cached.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from zoo_core.arguments import checked
from zoo_core.data import hub
from zoo_core.data.cache import cached
from zoo_core.data.dataset import Dataset, InMemory
from zoo_core.data.keys import cache_key, file_facts
from zoo_core.data.sizes import ImageSize, Size, checked_size
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
    streaming: bool = False,
) -> Dataset:
    """A local copy: a ``.parquet`` file, or a folder of parquet files or of images.

    Args:
        name: what the data set is called; the path by default.
        config: which of the folder's configurations, if its README lists several.
        image_size: (H, W), or the side of a square, to which images are cut about their centre and
            resized.
        columns: the source's columns to use, by canonical name: ``{"label": "fine_label"}``.
        streaming: read and decode what a batch needs when it is asked for, instead of everything now: for what
            does not fit into memory or the cache. Parquet and folders of images only; see
            :class:`zoo_core.data.streaming.Streamed`.

    Raises:
        ConfigError: ``image_size`` is no size, or ``streaming`` neither true nor false.
        DataError: it is no data set, it has no such split, its images cannot be used, or it cannot be streamed.
    """
    # Path.expanduser raises another error where there is no such user.
    place, name = Path(os.path.expanduser(path)), name or str(path)
    size = checked_size(image_size)
    if checked(streaming, bool, "streaming"):
        return _streamed_path(name, split, _existing(place), config, size, columns)
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
    streaming: bool = False,
) -> Dataset:
    """A data set repository on the Hugging Face Hub, ``organisation/name``.

    Args:
        revision: a branch, tag or commit. A full commit asks the Hub nothing once it is cached;
            another name costs one request, and what it last meant is used while the Hub is away.
        config, image_size, columns, streaming: as in :func:`from_path`. Streamed, nothing is downloaded whole and
            nothing is cached: parts of files are asked for, all of the commit that ``revision`` means now.

    Raises:
        ConfigError: as in :func:`from_path`.
        DataError: there is no such repository or split, it holds no images, or it is not cached (or to be streamed)
            and the Hub cannot be reached (``HF_HUB_OFFLINE`` included).
    """
    size = checked_size(image_size)
    if checked(streaming, bool, "streaming"):
        return _streamed_hub(name, split, revision, config, size, columns)
    commit = hub.resolve(name, revision)
    facts = (name, commit, split, config, size, dict(columns or {}))
    key = cache_key(f"{name}-{split}", *facts)

    def decode() -> Columns:
        from zoo_core.data import reading

        builder = reading.hub_builder(name, config, commit)
        return reading.read(name, builder, split, size, columns, streaming=False)

    return _dataset(name, split, key, decode)


def _streamed_path(
    name: str, split: str, place: Path, config: str | None, size: Size | None, columns: Mapping[str, str] | None
) -> Dataset:
    from zoo_core.data import reading, streaming
    from zoo_core.data.byte_ranges import LocalFiles

    with TemporaryDirectory() as scratch:
        builder = reading.local_builder(place, config, scratch)
        return streaming.streamed(name, builder, split, size, columns, LocalFiles)


def _streamed_hub(
    name: str, split: str, revision: str, config: str | None, size: Size | None, columns: Mapping[str, str] | None
) -> Dataset:
    commit = hub.resolve_online(name, revision)
    from zoo_core.data import reading, streaming
    from zoo_core.data.byte_ranges import HubFiles

    builder = reading.hub_builder(name, config, commit)
    return streaming.streamed(name, builder, split, size, columns, HubFiles)


def _dataset(name: str, split: str, key: str, decode: Callable[[], Columns]) -> InMemory:
    entry = cached(key, decode)
    return InMemory(name, split, entry.columns, entry.fingerprint)


def _existing(place: Path) -> Path:
    if not place.exists():
        raise DataError(f"no such folder or file: {place}")
    return place


def _facts(place: Path) -> list[tuple[str, int, int]]:
    try:
        return file_facts(_existing(place))
    except OSError as error:
        raise DataError(f"{place} cannot be read: {error}") from error
