"""Rows of parquet files by number, read a row group at a time. Imports ``datasets``: import it where it is needed."""

import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from threading import Lock
from typing import ClassVar, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from datasets.table import table_cast
from torch import Tensor

from zoo_core.data.background import in_threads
from zoo_core.data.byte_ranges import Fetched, Files
from zoo_core.data.reading import read_as_data
from zoo_core.errors import DataError

MAGIC = b"PAR1"
FOOTER = 1 << 16  # bytes that are read of a file's end in the hope that they are its whole footer
GAP = 1 << 20  # bytes between two columns that are read along with them rather than asked for around
WINDOW = 128 << 20  # bytes of row groups whose rows are shuffled among each other: part of what a seed means


class Footer(NamedTuple):
    """What stands at the end of a parquet file.

    Attributes:
        metadata: rows, row groups, and where each column of each lies.
        digest: of all that, so of the lengths and statistics of the content too.
    """

    metadata: pq.FileMetaData
    digest: str


def read_footers(files: Files) -> list[Footer]:
    """Those of all files: what is known of them without reading them.

    Raises:
        DataError: a file is no whole parquet file; names it.
    """
    return in_threads(partial(_footer, files), len(files), files.at_once)


def _footer(files: Files, number: int) -> Footer:
    size = files.size(number)
    tail = files.read(number, max(0, size - FOOTER), size)
    if len(tail) < 8 or not tail.endswith(MAGIC):
        raise DataError(f"{files.path(number)} is no whole parquet file: its end is missing")
    length = int.from_bytes(tail[-8:-4], "little") + 8
    if len(tail) < length <= size:
        tail = files.read(number, size - length, size)
    footer = tail[-length:]
    with read_as_data(files.path(number)):
        metadata = pq.read_metadata(pa.BufferReader(MAGIC + footer))
    return Footer(metadata, hashlib.sha256(footer).hexdigest())


class RowGroups:
    """The rows of all files, end to end.

    Args:
        footers: of the files, in turn.
        schema: the columns to read, and as what.

    Attributes:
        kept: bytes of row groups that stay in memory, as they are stored: those read last, and the last in any case.
    """

    kept: ClassVar[int] = 256 << 20

    def __init__(self, files: Files, footers: Sequence[Footer], schema: pa.Schema) -> None:
        self._files, self._footers, self._schema = files, footers, schema
        places = [(f, g) for f, footer in enumerate(footers) for g in range(footer.metadata.num_row_groups)]
        self._places = places
        rows = [footers[f].metadata.row_group(g).num_rows for f, g in places]
        self._ends = torch.tensor(rows, dtype=torch.int64).cumsum(0)
        self._cache: OrderedDict[int, pa.Table] = OrderedDict()
        self._bytes = 0  # of all tables in the cache
        self._lock = Lock()

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    @property
    def identity(self) -> list[str]:
        """What tells these rows from others, wherever the files lie."""
        return [footer.digest for footer in self._footers]

    def take(self, places: Tensor) -> pa.Table:
        """The rows at these places, int64 (B,), in that order."""
        if not len(places):
            return self._schema.empty_table()
        groups = torch.searchsorted(self._ends, places.contiguous(), right=True)
        rows = places - self._starts[groups]
        # Each group in turn, so that none is read twice however few are kept.
        order = groups.argsort(stable=True)
        counts = groups.bincount()
        numbers = counts.nonzero().flatten()
        shares = torch.split(rows[order], counts[numbers].tolist())
        parts = [self._group(g).take(pa.array(r.numpy())) for g, r in zip(numbers.tolist(), shares, strict=True)]
        return pa.concat_tables(parts).take(pa.array(order.argsort().numpy()))

    def order(self, seed: int) -> Tensor:
        """All rows once: row groups in random order, then rows at random within windows of several groups.

        A window is as many groups as have ``WINDOW`` bytes (one, if it has more), so that what is read next is
        always near what was read last. A row group is the smallest part of a file that can be read: in files with
        larger ones, the examples are best shuffled once before they are written.
        """
        return windowed_order(self._counts, self._sizes, seed)

    @property
    def _starts(self) -> Tensor:
        return self._ends - self._counts

    @property
    def _counts(self) -> Tensor:
        return self._ends.diff(prepend=torch.zeros(1, dtype=torch.int64))

    @cached_property
    def _sizes(self) -> list[int]:
        """Bytes of each group in memory, about."""
        return [sum(chunk.total_uncompressed_size for chunk in self._chunks(*place)) for place in self._places]

    def _chunks(self, file: int, group: int) -> Iterator[pq.ColumnChunkMetaData]:
        metadata = self._footers[file].metadata.row_group(group)
        for i in range(metadata.num_columns):
            chunk = metadata.column(i)
            # A struct's columns are called struct.field.
            if any(f"{chunk.path_in_schema}.".startswith(f"{name}.") for name in self._schema.names):
                yield chunk

    def _group(self, number: int) -> pa.Table:
        # Whoever comes second waits, rather than reading the same once more.
        with self._lock:
            if number not in self._cache:
                self._keep(number, self._read(*self._places[number]))
            self._cache.move_to_end(number)
            return self._cache[number]

    def _keep(self, number: int, table: pa.Table) -> None:
        self._cache[number] = table
        self._bytes += table.nbytes
        while self._bytes > self.kept and len(self._cache) > 1:
            self._bytes -= self._cache.popitem(last=False)[1].nbytes

    def _read(self, file: int, group: int) -> pa.Table:
        ranges = merged([_range(chunk) for chunk in self._chunks(file, group)])
        parts = [(start, self._files.read(file, start, stop)) for start, stop in ranges]
        with read_as_data(self._files.path(file)):
            # In this thread, since those of Arrow may not call Python while it is shutting down.
            source = pa.PythonFile(Fetched(self._files, file, parts), mode="r")
            parquet = pq.ParquetFile(source, metadata=self._footers[file].metadata, pre_buffer=False)
            table = parquet.read_row_group(group, columns=self._schema.names, use_threads=False)
            return table_cast(table, self._schema)


def _range(chunk: pq.ColumnChunkMetaData) -> tuple[int, int]:
    """The bytes [start, stop) of a file that hold a column of a row group."""
    start = chunk.data_page_offset
    if chunk.has_dictionary_page and chunk.dictionary_page_offset:
        start = min(start, chunk.dictionary_page_offset)
    return start, start + chunk.total_compressed_size


def merged(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The ranges in ascending order, those that are close to each other as one."""
    joined: list[tuple[int, int]] = []
    for start, stop in sorted(ranges):
        if joined and start - joined[-1][1] <= GAP:
            start, last = joined.pop()
            stop = max(stop, last)
        joined.append((start, stop))
    return joined


def windowed_order(counts: Tensor, sizes: Sequence[int], seed: int, window: int = WINDOW) -> Tensor:
    """A permutation of all rows of groups of ``counts`` rows and ``sizes`` bytes, int64 (N,), as of ``seed``."""
    generator = torch.Generator().manual_seed(seed)
    starts = (counts.cumsum(0) - counts).tolist()
    rows = [torch.arange(start, start + n) for start, n in zip(starts, counts.tolist(), strict=True)]
    parts = [torch.zeros(0, dtype=torch.int64)]
    for groups in _windows(torch.randperm(len(rows), generator=generator).tolist(), sizes, window):
        among = torch.cat([rows[group] for group in groups])
        parts.append(among[torch.randperm(len(among), generator=generator)])
    return torch.cat(parts)


def _windows(groups: Sequence[int], sizes: Sequence[int], window: int) -> Iterator[list[int]]:
    """The groups in turn, as many at a time as have ``window`` bytes together, and one at least."""
    among, room = list[int](), window
    for group in groups:
        if among and sizes[group] > room:
            yield among
            among, room = [], window
        among.append(group)
        room -= sizes[group]
    if among:
        yield among
