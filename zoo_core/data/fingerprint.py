"""The identity of a data set's content, whatever it was read from."""

import hashlib
from collections.abc import Mapping

from torch import Tensor

from zoo_core.data.strings import Strings


def fingerprint(columns: Mapping[str, Tensor | Strings]) -> str:
    """SHA-256 of the columns' names, types, shapes and values, as 64 hex digits.

    Two copies of a data set have the same one if and only if they decode to the same values.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(flatten(columns).items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()


def flatten(columns: Mapping[str, Tensor | Strings]) -> dict[str, Tensor]:
    """The same columns with each column of strings as its two tensors."""
    tensors: dict[str, Tensor] = {}
    for name, column in columns.items():
        if isinstance(column, Strings):
            tensors |= {f"{name}.bytes": column.data, f"{name}.ends": column.ends}
        else:
            tensors[name] = column
    return tensors


def unflatten(tensors: Mapping[str, Tensor]) -> dict[str, Tensor | Strings]:
    """The inverse of :func:`flatten`."""
    columns: dict[str, Tensor | Strings] = {}
    for name, tensor in tensors.items():
        stem, _, part = name.partition(".")
        if part == "bytes":
            columns[stem] = Strings(tensor, tensors[f"{stem}.ends"])
        elif not part:
            columns[stem] = tensor
    return columns
