"""What is asked of a data set."""

import hashlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo_core.data import Dataset
from zoo_core.testing.checks import check, require, require_equal
from zoo_core.testing.subjects import Subject, drawing

ROWS = 6
COMPARED = 2000  # examples of each split, at most
TYPES = (torch.uint8, torch.float32, torch.int64)


@check("dataset", structural=True)
def splits(subject: Subject) -> None:
    """Each split that its spec names is there, has examples, and says what they are."""
    for split in subject.spec.splits:
        data = _loaded(subject, split)
        require(isinstance(data, Dataset), f"{split}: the target must give a Dataset, not {type(data).__name__}")
        require(len(data) > 0, f"{split}: it has no examples")
        require(data.split == split, f"asked for {split!r} it says that it is {data.split!r}")
        require(data.columns[:1] == ("image",), f"{split}: its first column must be 'image', not {data.columns[:1]}")
        require(isinstance(data.name, str) and data.name, f"{split}: it has no name")
        told = isinstance(data.fingerprint, str) and data.fingerprint
        require(told, f"{split}: it has no fingerprint, by which results say what they were measured on")


@check("dataset", structural=True)
def batches(subject: Subject) -> None:
    """A batch has the columns that were told: pictures as bytes, or ready numbers; labels int64, captions strings."""
    for split in subject.spec.splits:
        data = _loaded(subject, split)
        batch = data.batch(_places(data))
        require(set(batch) == set(data.columns), f"{split}: it tells of columns {data.columns}, a batch has {[*batch]}")
        for name, column in batch.items():
            require(len(column) == ROWS, f"{split}: {name!r} of {ROWS} examples has {len(column)} rows")
            if isinstance(column, Tensor):
                continue
            strings = isinstance(column, list) and all(isinstance(text, str) for text in column)
            require(strings, f"{split}: {name!r} must be a tensor or a list of strings")
        _require_pictures(batch["image"], data)
        label = batch.get("label", torch.zeros(0, dtype=torch.int64))
        right = isinstance(label, Tensor) and label.dtype == torch.int64 and label.dim() == 1
        require(right, f"{split}: labels must be int64 (B,)")


@check("dataset")
def places(subject: Subject) -> None:
    """Examples are found by their places, in any order and twice; there are none beyond the last."""
    for split in subject.spec.splits:
        data = _loaded(subject, split)
        at = _places(data)
        together = data.batch(at)
        for i, place in enumerate(at.tolist()):
            alone = data.batch(torch.tensor([place]))
            for name in together:
                _require_same_row(together[name], i, alone[name], f"{split}: {name!r} of example {place} is another")
        for outside in (len(data), -1):
            _require_refused(data, outside)


@check("dataset")
def epochs(subject: Subject) -> None:
    """An epoch visits each example once, in an order that its seed decides."""
    data = _loaded(subject, subject.spec.splits[0])
    first, again, other = data.order(0), data.order(0), data.order(1)
    require(torch.equal(first.sort().values, torch.arange(len(data))), "order() does not visit each example once")
    require_equal(first, again, "order() of one seed is another the second time")
    require(len(data) < 10 or not torch.equal(first, other), "order() of another seed is the same")


@check("dataset")
def determinism(subject: Subject) -> None:
    """Loaded again it has the same fingerprint and the same examples."""
    for split in subject.spec.splits:
        runs = []
        for other in (1, 2):
            random.seed(other)
            np.random.seed(other)
            with drawing(other):
                data = _loaded(subject, split)
                runs.append((data.fingerprint, data.batch(_places(data))))
        require(runs[0][0] == runs[1][0], f"{split}: loaded again it has another fingerprint")
        for name in runs[0][1]:
            for i in range(ROWS):
                _require_same_row(runs[0][1][name], i, runs[1][1][name][i : i + 1],
                                  f"{split}: loaded again {name!r} is another")  # fmt: skip


@check("dataset")
def disjoint_splits(subject: Subject) -> None:
    """No example is in two splits: what is held out has not been learned from."""
    seen: dict[bytes, str] = {}
    for split in subject.spec.splits:
        for digest in set(_digests(_loaded(subject, split))):
            other = seen.setdefault(digest, split)
            require(other == split, f"an example of {split!r} is in {other!r} as well")


@check("dataset", when=lambda spec: len(spec.splits) > 1)
def fingerprints_of_splits(subject: Subject) -> None:
    """Splits have fingerprints of their own."""
    told = [_loaded(subject, split).fingerprint for split in subject.spec.splits]
    require(len(set(told)) == len(told), "two splits have one fingerprint: results on one would pass for the other's")


def _loaded(subject: Subject, split: str) -> Any:
    options = {name: value for name, value in subject.config.items() if name != "type"}
    return subject.host.load(subject.registration)(split, **options)


def _places(data: Dataset) -> Tensor:
    """Some, among them the last and one twice."""
    return torch.tensor([0, len(data) - 1, len(data) // 2, 0, len(data) // 3, len(data) // 4])


def _require_pictures(image: Any, data: Dataset) -> None:
    require(isinstance(image, Tensor) and image.dtype in TYPES, f"images must be uint8, float32 or int64, not {image}")
    require(
        tuple(image.shape[1:]) == tuple(data.data_shape),
        f"images have the shape {tuple(image.shape[1:])}, data_shape says {tuple(data.data_shape)}",
    )
    require(image.dtype != torch.uint8 or image.dim() == 4, f"pictures must be (B, C, H, W), not {tuple(image.shape)}")
    require(not image.is_floating_point() or image.isfinite().all(), "some numbers of the examples are not finite")


def _require_same_row(column: Any, i: int, alone: Any, sentence: str) -> None:
    if isinstance(column, Tensor):
        require_equal(column[i], alone[0], sentence)
    else:
        require(column[i] == alone[0], sentence)


def _require_refused(data: Dataset, place: int) -> None:
    try:
        data.batch(torch.tensor([place]))
    except IndexError:
        return
    require(False, f"asked for example {place} of {len(data)} it must raise an IndexError")


def _digests(data: Dataset) -> Iterator[bytes]:
    n = min(len(data), COMPARED)
    for chunk in torch.split(torch.arange(n), 500):
        for row in data.batch(chunk)["image"]:
            assert isinstance(row, Tensor)
            yield hashlib.sha256(row.contiguous().numpy().tobytes()).digest()
