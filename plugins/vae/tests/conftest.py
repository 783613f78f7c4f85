"""A model whose log p(x) is known, and draws from it."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from tests.ppca import PPCA


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture
def ppca() -> PPCA:
    return PPCA.random()


@pytest.fixture
def x(ppca: PPCA) -> Tensor:
    return ppca.draw(5)
