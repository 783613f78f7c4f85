"""Which examples a step sees: a pure function of seed and step, so that resuming needs no state."""

import functools

import torch
from torch import Tensor

from zoo_core.randomness import derived_seed


def step_indices(examples: int, batch: int, step: int, seed: int) -> Tensor:
    """The examples of a step, (batch,): each epoch is a permutation of its own, its tail is dropped."""
    epoch, place = divmod(step, examples // batch)
    return _permutation(examples, seed, epoch)[place * batch : (place + 1) * batch]


@functools.lru_cache(maxsize=1)
def _permutation(examples: int, seed: int, epoch: int) -> Tensor:
    generator = torch.Generator().manual_seed(derived_seed(seed, epoch))
    return torch.randperm(examples, generator=generator)
