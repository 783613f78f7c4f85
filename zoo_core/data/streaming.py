"""Data sets that are read when they are asked for. Imports ``datasets``: import it where it is needed."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from zoo_core.data.background import in_threads
from zoo_core.data.byte_ranges import Files
from zoo_core.data.dataset import Batch, Dataset, checked_places
from zoo_core.data.decoding import Pixels, decode_rows, held
from zoo_core.data.features import find_columns
from zoo_core.data.keys import DECODER
from zoo_core.data.reading import as_stored, require_split, rows_of, small_columns, tables
from zoo_core.data.row_groups import RowGroups, read_footers
from zoo_core.data.sizes import Size
from zoo_core.errors import DataError

PROBE = 16  # first images that tell whether there is colour

Opener = Callable[[Sequence[str]], Files]


class Stored(NamedTuple):
    """Some rows as they are stored: encoded images, and a table with the columns beside them."""

    images: Sequence[Any]
    beside: pa.Table


class Rows(Protocol):
    """Rows with random access."""

    def __len__(self) -> int: ...

    @property
    def identity(self) -> object:
        """What tells these rows from others, as JSON."""
        ...

    def stored(self, places: Tensor) -> Stored:
        """The rows at these places, int64 (B,)."""
        ...

    def order(self, seed: int) -> Tensor:
        """A permutation of all rows in which those that lie together stay near each other, if that is cheaper."""
        ...


class Streamed(Dataset):
    """Examples that are read and decoded when a batch asks for them, and not kept.

    A batch is what the same data in memory would give for the same indices. All images must have the size of the
    first; they are colour if any of the first sixteen is, and a grey one among them becomes colour.

    ``order`` permutes row groups, then rows within windows of several row groups (see
    :meth:`zoo_core.data.row_groups.RowGroups.order`); of files of images, whole.

    ``fingerprint`` identifies content as far as that is known without reading it: of parquet by the files' footers
    (rows, and lengths and statistics of each column of each row group), of files of images by their names and sizes
    (on the Hub: hashes) with their labels and captions; and by the options. It is not that of the data in memory.

    Args:
        names: the source's name of each column.
        size: (H, W) to which images are cut about their centre and resized; None keeps them.

    Raises:
        DataError: there are no images, or the first cannot be used.
    """

    prefetch: ClassVar[bool] = True

    def __init__(self, name: str, split: str, rows: Rows, names: Mapping[str, str], size: Size | None) -> None:
        self.name, self.split, self.columns = name, split, tuple(names)
        self._rows, self._names, self._size = rows, names, size
        self.data_shape = self._first_shape()
        facts = [DECODER, dict(names), size, self.data_shape, rows.identity]
        self.fingerprint = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.data_shape))
        return f"Streamed({self.name!r}, {self.split!r}: {len(self)} x {shape}, {self.columns})"

    def batch(self, indices: Tensor) -> Batch:
        places = checked_places(indices, len(self))
        images, beside = self._rows.stored(places)
        image = torch.empty(len(places), *self.data_shape, dtype=torch.uint8)
        decoded = decode_rows(self.name, places.tolist(), images, self._size)
        for row, number, pixels in zip(image.numpy(), places.tolist(), decoded, strict=True):
            self._require_shape(number, pixels)
            row[:] = pixels
        every = torch.arange(len(places))
        small = small_columns(self.name, beside, self._names)
        return {"image": image, **{key: c if isinstance(c, Tensor) else c.take(every) for key, c in small.items()}}

    def order(self, seed: int) -> Tensor:
        return self._rows.order(seed)

    def _first_shape(self) -> tuple[int, ...]:
        if not len(self):
            raise DataError(f"{self.name} has no images")
        first = torch.arange(min(PROBE, len(self)))
        images = [*decode_rows(self.name, first.tolist(), self._rows.stored(first).images, self._size)]
        return max(image.shape[0] for image in images), *images[0].shape[1:]

    def _require_shape(self, number: int, pixels: Pixels) -> None:
        (channels, *size), (expected, *sizes) = pixels.shape, self.data_shape
        if size != sizes:
            (a, b), (c, d) = size, sizes
            raise DataError(f"image {number} of {self.name} is {a}x{b}, the first is {c}x{d}; give image_size=(H, W)")
        if channels > expected:
            raise DataError(
                f"image {number} of {self.name} is in colour, but the first {PROBE} are grey; make one of"
                " those colour, or leave out streaming"
            )


def streamed(
    source: str,
    builder: Any,
    split: str,
    size: Size | None,
    chosen: Mapping[str, str] | None,
    opener: Opener,
) -> Streamed:
    """A split of what a builder of ``reading`` reads, opened but not read.

    Args:
        source: what to call the data set in errors.
        size: (H, W) of the images, None for their own.
        chosen: canonical names and the source's columns to use for them.
        opener: makes files readable by their paths.

    Raises:
        DataError: there is no such split, it cannot be streamed, or its columns or images cannot be used.
    """
    require_split(source, builder, split)
    if builder.name not in LAYOUTS:
        raise DataError(
            f"{source} cannot be streamed: it consists of {builder.name} files, and only parquet files and folders of"
            " images are read in place; leave out streaming"
        )
    if getattr(builder.config, "filters", None) is not None:
        raise DataError(f"{source} cannot be streamed: its README filters rows; leave out streaming")
    rows, names = LAYOUTS[builder.name](source, builder, split, chosen, opener)
    return Streamed(source, split, rows, names, size)


def _paths(builder: Any, split: str) -> list[str]:
    return next([*map(str, files)] for name, files in builder.config.data_files.items() if str(name) == split)


class ParquetRows:
    """Rows of parquet files, of which ``image`` is the column of encoded images."""

    def __init__(self, groups: RowGroups, image: str) -> None:
        self._groups, self._image = groups, image
        self.identity = groups.identity

    def __len__(self) -> int:
        return len(self._groups)

    def stored(self, places: Tensor) -> Stored:
        rows = self._groups.take(places)
        return Stored(held(rows[self._image].to_pylist()), rows.drop_columns([self._image]))

    def order(self, seed: int) -> Tensor:
        return self._groups.order(seed)


def _parquet(
    source: str, builder: Any, split: str, chosen: Mapping[str, str] | None, opener: Opener
) -> tuple[Rows, dict[str, str]]:
    files = opener(_paths(builder, split))
    footers = read_footers(files)  # before datasets does, which would not name the file that is damaged
    found = rows_of(source, builder, split, streaming=True)
    names = find_columns(source, found.features or {}, chosen)
    groups = RowGroups(files, footers, as_stored(found, names).features.arrow_schema)
    return ParquetRows(groups, names["image"]), names


class ImageFiles:
    """One image in each file.

    Args:
        beside: the columns that are no images, in the order of the files.
    """

    def __init__(self, files: Files, beside: pa.Table) -> None:
        self._files, self._beside = files, beside

    def __len__(self) -> int:
        return len(self._files)

    @property
    def identity(self) -> object:
        paths = [self._files.path(i) for i in range(len(self))]
        root = os.path.commonpath([os.path.dirname(path) for path in paths]) if paths else ""
        facts = [(path[len(root) :], self._files.identity(i)) for i, path in enumerate(paths)]
        digest = hashlib.sha256(json.dumps([facts, self._beside.to_pydict()]).encode())
        return digest.hexdigest()

    def stored(self, places: Tensor) -> Stored:
        numbers = places.tolist()
        contents = in_threads(lambda i: self._files.read(numbers[i]), len(numbers), self._files.at_once)
        return Stored(contents, self._beside.take(pa.array(places.numpy())))

    def order(self, seed: int) -> Tensor:
        return torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))


def _image_files(
    source: str, builder: Any, split: str, chosen: Mapping[str, str] | None, opener: Opener
) -> tuple[Rows, dict[str, str]]:
    archive = next((path for path in _paths(builder, split) if path.endswith(".zip")), None)
    if archive:
        raise DataError(f"{source} holds an archive, {Path(archive).name}, which cannot be streamed: unpack it first")
    builder.config.decode_num_threads = 0  # else every file on the Hub is read, to be decoded, only to list them
    found = rows_of(source, builder, split, streaming=True)
    names = find_columns(source, found.features or {}, chosen)
    kept = as_stored(found, names)
    table = pa.concat_tables([kept.features.arrow_schema.empty_table(), *tables(source, kept)])
    if not pa.types.is_struct(table[names["image"]].type):
        raise DataError(f"the column {names['image']!r} of {source} holds no images")
    paths = pc.struct_field(table[names["image"]], "path").to_pylist()
    missing = next((i for i, path in enumerate(paths) if path is None), None)
    if missing is not None:
        raise DataError(f"image {missing} of {source} cannot be used: it is missing")
    return ImageFiles(opener(paths), table.drop_columns([names["image"]])), names


LAYOUTS = {"parquet": _parquet, "imagefolder": _image_files}
