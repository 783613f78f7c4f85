"""Rows of Hugging Face data sets to columns. Imports ``datasets``: import it where it is needed."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import torch
from torch import Tensor

from zoo_core.data.decoding import Size, decode_images
from zoo_core.data.features import find_columns
from zoo_core.data.strings import Strings
from zoo_core.errors import DataError

Columns = dict[str, Tensor | Strings]

CHUNK = 512  # rows that one thread decodes at a time


def local_builder(place: Path, config: str | None, scratch: str) -> datasets.DatasetBuilder:
    """What reads a folder or a parquet file; ``scratch`` takes the files that it leaves behind.

    Raises:
        DataError: nothing there looks like a data set, or ``config`` is not one of its own.
    """
    if place.is_dir():
        return _builder(str(place), path=str(place), name=config, cache_dir=scratch)
    if place.suffix != ".parquet":
        raise DataError(f"{place} is no data set: give a folder or a .parquet file")
    return _builder(str(place), path="parquet", data_files=str(place), cache_dir=scratch)


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
    try:
        return datasets.load_dataset_builder(**arguments)
    except Exception as error:  # datasets raises a dozen types here, some of them its own
        raise DataError(f"{source} cannot be read as a data set: {_first_line(error)}") from error


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
        DataError: there is no such split, no image column, or an image cannot be used.
    """
    rows = _rows(source, builder, split, streaming)
    names = find_columns(source, rows.features or {}, chosen)
    return _decode(source, _tables(rows, names), size, names)


def _rows(source: str, builder: Any, split: str, streaming: bool) -> Any:
    splits = [str(name) for name in builder.config.data_files or builder.info.splits or ()]
    if splits and split not in splits:
        raise DataError(f"{source} has no split {split!r}; it has: {', '.join(splits)}")
    try:
        if streaming:
            return builder.as_streaming_dataset(split)
        builder.download_and_prepare()
        return builder.as_dataset(split)
    except Exception as error:
        raise DataError(f"{source} cannot be read: {_first_line(error)}") from error


def _tables(rows: Any, names: Mapping[str, str]) -> Iterator[pa.Table]:
    image = names["image"]
    if isinstance(rows.features[image], datasets.Image):
        rows = rows.cast_column(image, datasets.Image(decode=False))
    yield from rows.select_columns(list(names.values())).with_format("arrow").iter(CHUNK)


def _decode(
    source: str, tables: Iterator[pa.Table], size: Size | None, names: Mapping[str, str]
) -> Columns:
    """Images are decoded while the tables come in; the small columns are kept on the way."""
    labels: list[pa.ChunkedArray] = []
    captions: list[str] = []

    def images() -> Iterator[Sequence[Any]]:
        for table in tables:
            if "label" in names:
                labels.append(table[names["label"]])
            if "caption" in names:
                captions.extend(text or "" for text in table[names["caption"]].to_pylist())
            yield table[names["image"]].to_pylist()

    columns: Columns = {"image": decode_images(source, images(), size)}
    if "label" in names:
        columns["label"] = torch.cat([_label(source, part) for part in labels])
    if "caption" in names:
        columns["caption"] = Strings.of(captions)
    return columns


def _label(source: str, part: pa.ChunkedArray) -> Tensor:
    """int64; -1 where there is none, as in the hidden labels of test sets."""
    if not pa.types.is_integer(part.type):
        raise DataError(f"the label column of {source} holds {part.type}, not integers")
    values = part.fill_null(-1).cast(pa.int64()).combine_chunks()
    return torch.from_numpy(values.to_numpy(zero_copy_only=False).copy())


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
