"""Data sets that come with a dependency."""

import numpy as np
import torch
from torch import Tensor

from zoo_core.data.cache import cached
from zoo_core.data.dataset import InMemory
from zoo_core.data.keys import cache_key
from zoo_core.errors import DataError

TRAIN = 1437  # four fifths


def digits(split: str = "train") -> InMemory:
    """1,797 handwritten digits, grey 8x8: the first thing to try anything on.

    The optical digits of E. Alpaydin and C. Kaynak (1998), as scikit-learn carries them: their 17
    levels become 0 to 255. They are shuffled once, with a fixed seed: 1,437 to train, 360 to test.

    Raises:
        DataError: the split is neither ``"train"`` nor ``"test"``.
    """
    parts = {"train": slice(None, TRAIN), "test": slice(TRAIN, None)}
    if split not in parts:
        raise DataError(f"digits has no split {split!r}; it has: train, test")
    columns = cached(cache_key("digits"), _decode).columns.items()
    rows = {name: c[parts[split]] for name, c in columns if isinstance(c, Tensor)}
    return InMemory("digits", split, rows)


def _decode() -> dict[str, Tensor]:
    from sklearn.datasets import load_digits

    source = load_digits()
    order = torch.from_numpy(np.random.RandomState(0).permutation(len(source.target)))
    levels = torch.from_numpy(source.images)[order, None]
    label = torch.from_numpy(source.target)[order]
    return {"image": (levels * 255 / 16).round().to(torch.uint8), "label": label.to(torch.int64)}
