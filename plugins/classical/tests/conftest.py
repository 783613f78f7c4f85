"""What the tests share: seeds, digits, and iterations over batches."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from zoo_core.data import Preprocessing, load


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture(scope="session")
def digits() -> Tensor:
    """x (1437, 1, 8, 8) in [0, 1]."""
    data = load("digits", "train")
    image: Tensor = Preprocessing()(data.batch(torch.arange(len(data))))["image"]
    return image


@pytest.fixture
def sums() -> Callable[..., dict[str, Tensor]]:
    def sums(model: Any, x: Tensor, *sizes: int) -> dict[str, Tensor]:
        """The statistics of x, added up over batches of these sizes."""
        parts = [model.statistics(batch) for batch in x.split(list(sizes) or len(x))]
        return {name: torch.stack([part[name] for part in parts]).sum(0) for name in parts[0]}

    return sums


@pytest.fixture
def fit(sums: Callable[..., dict[str, Tensor]]) -> Callable[..., list[float]]:
    def fit(model: Any, x: Tensor, iterations: int, *, begun: bool = False) -> list[float]:
        """Iterates, and returns the objective per example before each iteration and after the last."""
        if not begun:
            model.begin(x)
        objectives = []
        for _ in range(iterations):
            statistics = sums(model, x)
            objectives.append(statistics["objective"].item() / len(x))
            model.update(statistics)
        return [*objectives, sums(model, x)["objective"].item() / len(x)]

    return fit
