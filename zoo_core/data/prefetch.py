"""The next batch is read while the present one trains."""

from functools import partial

import torch
from torch import Tensor

from zoo_core.data.background import Begun
from zoo_core.data.dataset import Batch, Dataset


class Ahead:
    """Batches of a data set, each begun before it is asked for, one at a time, in a background thread.

    A data set that has no use for this (:attr:`Dataset.prefetch`) is asked directly. Batches are functions of
    their indices, so that what is read ahead changes nothing but the time.
    """

    def __init__(self, data: Dataset) -> None:
        self.data = data
        self._begun: tuple[Tensor, Begun[Batch]] | None = None

    def batch(self, indices: Tensor, following: Tensor | None = None) -> Batch:
        """``data.batch(indices)``; begins to read those ``following``, which are likely to be asked for next.

        Raises:
            Exception: whatever reading these very indices raised, in the background or now.
        """
        if not self.data.prefetch:
            return self.data.batch(indices)
        batch = self._taken(indices)
        if following is not None:
            places = following.clone()  # whoever gave them may write to them
            self._begun = places, Begun(partial(self.data.batch, places))
        return batch

    def close(self) -> None:
        """Drops what was begun, and waits until its thread has ended."""
        if self._begun is not None:
            self._begun[1].wait()
        self._begun = None

    def _taken(self, indices: Tensor) -> Batch:
        begun, self._begun = self._begun, None
        if begun is None:
            return self.data.batch(indices)
        if torch.equal(begun[0].long(), indices.long()):
            return begun[1].result()
        begun[1].wait()  # one at a time, so that memory stays bounded
        return self.data.batch(indices)
