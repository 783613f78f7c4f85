"""Rows of Hugging Face data sets to columns. Imports ``datasets``: import it where it is needed."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import torch
from torch import Tensor

from zoo_core.data.decoding import decode_images, held
from zoo_core.data.features import find_columns
from zoo_core.data.sizes import Size
from zoo_core.data.strings import Strings
from zoo_core.errors import DataError, plain

Columns = dict[str, Tensor | Strings]

CHUNK = 512  # rows that one thread decodes at a time


def local_builder(place: Path, config: str | None, scratch: str) -> datasets.DatasetBuilder:
    """What reads a folder or a parquet file; ``scratch`` takes the files that it leaves behind.

    Raises:
        DataError: nothing there looks like a data set, or ``config`` is not one of its own.
    """
    if place.is_dir():
        folder = _builder(str(place), path=str(place), name=config, cache_dir=scratch)
        _require_inside(place, folder)
        return _require_unpacked(place, _without_splits_as_labels(folder))
    if place.suffix != ".parquet":
        raise DataError(f"{place} is no data set: give a folder or a .parquet file")
    return _builder(str(place), path="parquet", data_files=str(place), cache_dir=scratch)


def _require_unpacked(place: Path, builder: datasets.DatasetBuilder) -> datasets.DatasetBuilder:
    """Refuses what datasets cannot read in place: it takes the archive's name for a label."""
    files = chain.from_iterable((builder.config.data_files or {}).values())
    archive = next((name for name in map(str, files) if name.endswith(".zip")), None)
    if archive:
        raise DataError(f"{place} holds an archive, {Path(archive).name}: unpack it first")
    return builder


def _require_inside(place: Path, builder: datasets.DatasetBuilder) -> None:
    """Refuses a README that names files beside the folder. Links in it are its owner's, and are followed."""
    tops = tuple(os.path.join(top, "") for top in (os.path.abspath(place), os.path.realpath(place)))
    for name in chain.from_iterable((builder.config.data_files or {}).values()):
        if not os.path.abspath(name).startswith(tops):
            raise DataError(f"{place} names a file beside it, {plain(str(name))}")


def _without_splits_as_labels(builder: Any) -> datasets.DatasetBuilder:
    """Where each split is one folder of images, datasets takes train and test for labels, and then misses one."""
    splits = (builder.config.data_files or {}).values()
    if hasattr(builder.config, "drop_labels") and all(len({Path(str(f)).parent for f in s}) == 1 for s in splits):
        builder.config.drop_labels = True
    made: datasets.DatasetBuilder = builder
    return made


def hub_builder(name: str, config: str | None, commit: str) -> datasets.DatasetBuilder:
    """What downloads and reads a repository at a full commit.

    Raises:
        DataError: it cannot be had, it holds no data set, or ``config`` is not one of its own.
    """
    builder = _builder(name, path=name, name=config, revision=commit)
    # While the Hub is away, datasets takes the newest commit it has kept, whichever was asked for.
    if builder.hash != commit:
        raise DataError(f"{name} is not cached at commit {commit} and the Hub cannot be reached")
    return builder


def _builder(source: str, **arguments: Any) -> datasets.DatasetBuilder:
    with read_as_data(source):
        return datasets.load_dataset_builder(**arguments)


@contextmanager
def read_as_data(source: str) -> Iterator[None]:
    """Errors of datasets and pyarrow, which come in a dozen types, as one that names the source."""
    try:
        yield
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(f"{source} cannot be read as a data set: {reason}") from error


def read(
    source: str,
    builder: datasets.DatasetBuilder,
    split: str,
    size: Size | None,
    chosen: Mapping[str, str] | None,
    *,
    streaming: bool,
) -> Columns:
    """Every row of a split, decoded.

    Args:
        source: what to call the data set in errors.
        size: (H, W) of the images, None for their own.
        chosen: canonical names and the source's columns to use for them.
        streaming: read the files as they lie instead of downloading and converting them first.

    Raises:
        DataError: there is no such split, no image column, or a column cannot be used.
    """
    require_split(source, builder, split)
    rows = rows_of(source, builder, split, streaming=streaming)
    names = find_columns(source, rows.features or {}, chosen)
    # A folder of images has their paths, as datasets found them; a parquet file may hold any.
    kept = list if hasattr(builder.config, "drop_labels") else held
    return _decode(source, tables(source, as_stored(rows, names)), size, names, kept)


def require_split(source: str, builder: Any, split: str) -> None:
    """Refuses a split that the builder knows not to exist.

    Raises:
        DataError: listing those there are.
    """
    splits = [str(name) for name in builder.config.data_files or builder.info.splits or ()]
    if splits and split not in splits:
        raise DataError(f"{source} has no split {split!r}; it has: {', '.join(splits)}")


def rows_of(source: str, builder: Any, split: str, *, streaming: bool) -> Any:
    """A split as datasets reads it, in place if ``streaming``."""
    with read_as_data(source):
        if streaming:
            return builder.as_streaming_dataset(split)
        builder.download_and_prepare()
        return builder.as_dataset(split)


def as_stored(rows: Any, names: Mapping[str, str]) -> Any:
    """The columns in question alone, the images as they are stored: encoded, or the paths of files."""
    image = names["image"]
    if isinstance(rows.features[image], datasets.Image):
        rows = rows.cast_column(image, datasets.Image(decode=False))
    return rows.select_columns(list(names.values()))


def tables(source: str, rows: Any) -> Iterator[pa.Table]:
    """All rows, some at a time."""
    with read_as_data(source):
        yield from rows.with_format("arrow").iter(CHUNK)


def _decode(
    source: str,
    parts: Iterator[pa.Table],
    size: Size | None,
    names: Mapping[str, str],
    stored: Callable[[list[Any]], list[Any]],
) -> Columns:
    kept: list[pa.Table] = []

    def images() -> Iterator[Sequence[Any]]:
        for table in parts:
            kept.append(table.drop_columns([names["image"]]))
            yield stored(table[names["image"]].to_pylist())

    image = decode_images(source, images(), size)
    return {"image": image, **small_columns(source, pa.concat_tables(kept), names)}


def small_columns(source: str, table: pa.Table, names: Mapping[str, str]) -> Columns:
    """Labels and captions, as far as there are any."""
    return {name: read_one(source, table[names[name]]) for name, read_one in SMALL.items() if name in names}


def _label(source: str, column: pa.ChunkedArray) -> Tensor:
    """int64; -1 where there is none, as in the hidden labels of test sets."""
    if not pa.types.is_integer(column.type):
        raise DataError(f"the label column of {source} holds {column.type}, not integers")
    # A copy, since Arrow's memory cannot be written.
    return torch.from_numpy(column.fill_null(-1).cast(pa.int64()).to_numpy().copy())


def _caption(source: str, column: pa.ChunkedArray) -> Strings:
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        raise DataError(f"the caption column of {source} holds {column.type}, not strings")
    return Strings.of(text or "" for text in column.to_pylist())


SMALL: dict[str, Callable[[str, pa.ChunkedArray], Tensor | Strings]] = {
    "label": _label,
    "caption": _caption,
}
