"""What a data set is: batches by index, as tensors."""

import abc
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from zoo_core.data.fingerprint import fingerprint as content_fingerprint
from zoo_core.data.strings import Strings
from zoo_core.errors import DataError

Batch = dict[str, Tensor | list[str]]


class Dataset(abc.ABC):
    """A finite set of examples with random access.

    Attributes:
        name: what :func:`zoo_core.data.load` was asked for.
        split: the part of the data set: ``"train"``, ``"test"``, …
        data_shape: (C, H, W) of one image, or the shape of one example that is none, such as a latent.
        fingerprint: hex digits that identify the content: equal content, equal fingerprint.
        columns: the keys of a batch, ``"image"`` first; ``"label"`` and ``"caption"`` where known.
        prefetch: whether a batch takes so long to read that the next is worth reading in the background.
    """

    prefetch: ClassVar[bool] = False

    name: str
    split: str
    data_shape: tuple[int, ...]
    fingerprint: str
    columns: tuple[str, ...]

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def batch(self, indices: Tensor) -> Batch:
        """The examples at these places.

        Args:
            indices: integers (B,), each in [0, len), in any order and with repetitions.

        Returns:
            ``image``: uint8 (B, C, H, W), 0 to 255; or float32 or int64 (B, *data_shape), as models take it.
            ``label``: int64 (B,). ``caption``: B strings.

        Raises:
            IndexError: an index lies outside the data set.
        """

    def order(self, seed: int) -> Tensor:
        """The examples in the order of one epoch: a permutation, int64 (N,), that depends on ``seed`` alone."""
        return torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))


class InMemory(Dataset):
    """Columns held whole, as tensors (which may be memory mapped) and strings.

    Args:
        columns: ``image`` uint8 (N, C, H, W), or float32 or int64 (N, ...) for what is no picture, such as latents
            and codes; others with N rows; strings as a sequence.
        fingerprint: of these columns; computed from their values when it is not given.

    Raises:
        DataError: there is no image column, it has another type, or the columns differ in length.
    """

    def __init__(
        self,
        name: str,
        split: str,
        columns: Mapping[str, Tensor | Strings | Sequence[str]],
        fingerprint: str | None = None,
    ) -> None:
        self._columns = {key: _packed(column) for key, column in columns.items()}
        self.name, self.split = name, split
        self.columns = tuple(self._columns)
        self.data_shape = _image_shape(name, self._columns)
        self.fingerprint = fingerprint or content_fingerprint(self._columns)
        _require_equal_lengths(name, self._columns)

    def __len__(self) -> int:
        return len(self._columns["image"])

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.data_shape))
        return f"InMemory({self.name!r}, {self.split!r}: {len(self)} x {shape}, {self.columns})"

    def batch(self, indices: Tensor) -> Batch:
        places = checked_places(indices, len(self))
        return {key: _take(column, places) for key, column in self._columns.items()}


def _packed(column: Tensor | Strings | Sequence[str]) -> Tensor | Strings:
    return column if isinstance(column, Tensor | Strings) else Strings.of(column)


def _take(column: Tensor | Strings, indices: Tensor) -> Tensor | list[str]:
    # index_select copies whole rows; column[indices] takes thirty times as long on small images.
    return column.take(indices) if isinstance(column, Strings) else column.index_select(0, indices)


def checked_places(indices: Tensor, length: int) -> Tensor:
    """Indices of a data set as int64 on the CPU.

    Raises:
        DataError: they are no integers of shape (B,).
        IndexError: one lies outside [0, length).
    """
    if indices.ndim != 1 or indices.is_floating_point() or indices.dtype == torch.bool:
        raise DataError(f"indices must be integers of shape (B,), got {indices.dtype} {tuple(indices.shape)}")
    if len(indices) and not 0 <= int(indices.min()) <= int(indices.max()) < length:
        raise IndexError(f"indices must lie in [0, {length}); got {_extremes(indices)}")
    return indices.to("cpu", torch.int64)


def _extremes(indices: Tensor) -> str:
    return f"{int(indices.min())} to {int(indices.max())}"


def _image_shape(name: str, columns: Mapping[str, Tensor | Strings]) -> tuple[int, ...]:
    image = columns.get("image")
    if not isinstance(image, Tensor) or not (is_ready(image) or (image.dtype, image.ndim) == (torch.uint8, 4)):
        raise DataError(
            f"data set {name!r} needs a column 'image' of uint8 (N, C, H, W), or of float32 or int64 (N, ...)"
        )
    return tuple(image.shape[1:])


def is_ready(examples: object) -> bool:
    """Whether they are numbers that need no preprocessing: latents float32 (N, ...), or codes int64 (N, ...)."""
    return isinstance(examples, Tensor) and examples.dtype in (torch.float32, torch.int64) and examples.ndim > 1


def _require_equal_lengths(name: str, columns: Mapping[str, Tensor | Strings]) -> None:
    lengths = {key: len(column) for key, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise DataError(f"the columns of data set {name!r} differ in length: {lengths}")
