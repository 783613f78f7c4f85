"""Continuity and trustworthiness of codes whose neighbours are known."""

import math
from collections.abc import Iterator
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor
from zoo_metrics.geometry.continuity import Continuity, continuity, trustworthiness

from tests.registered import coded_model
from zoo_core import ConfigError, GenerativeModel, Measurement, build, evaluate
from zoo_core.data import InMemory

DATA = (1, 2, 3)
BOTH = ["continuity", "trustworthiness"]


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


class Encodes(GenerativeModel):
    """Whose code is what it is told to make of x."""

    def __init__(self, code: Any) -> None:
        super().__init__()
        self.data_shape, self.code = DATA, code

    def encode(self, x: Tensor) -> Tensor:
        return self.code(x)

    def draw(self, n: int) -> Tensor:
        raise NotImplementedError


class Nothing(GenerativeModel):
    data_shape = DATA

    def draw(self, n: int) -> Tensor:
        raise NotImplementedError


def measured(code: Any, *batches: Tensor, **arguments: Any) -> dict[str, Measurement]:
    metric = Continuity(**arguments)
    for x in batches:
        metric.update(Encodes(code), {"image": x})
    return metric.compute()


def values(measurements: dict[str, Measurement]) -> list[float]:
    return [measurements[name].value for name in BOTH]


def rotated(n: int) -> Tensor:
    """An orthonormal map of n dimensions."""
    return torch.linalg.qr(torch.randn(n, n, dtype=torch.float64)).Q


def by_hand(x: Tensor, z: Tensor, k: int) -> float:
    """Continuity as its formula is printed: rank by rank."""
    n = len(x)
    place = []
    for rows in (x, z):
        d = torch.cdist(rows.double(), rows.double()).numpy()
        numpy.fill_diagonal(d, -1)
        place.append(d.argsort(1).argsort(1))  # of i itself 0, of its nearest neighbour 1
    total = sum(
        place[1][i, j] - k for i in range(n) for j in range(n) if j != i and place[0][i, j] <= k and place[1][i, j] > k
    )
    return float(1 - 2 / (n * k * (2 * n - 3 * k - 1)) * total)


# the values


@pytest.mark.parametrize("k", [1, 5, 12])
def test_it_is_the_formula(k: int) -> None:
    x = torch.randn(60, 5)
    z = x[:, :2] + 0.3 * torch.randn(60, 2)
    assert continuity(x, z, k) == pytest.approx(by_hand(x, z, k), abs=1e-12)
    assert trustworthiness(x, z, k) == pytest.approx(by_hand(z, x, k), abs=1e-12)
    assert abs(continuity(x, z, k) - trustworthiness(x, z, k)) > 0.01


def test_an_isometric_embedding_has_1() -> None:
    Q = rotated(6).float()
    x = torch.randn(80, *DATA)
    assert values(measured(lambda x: 3 * x.flatten(1) @ Q + 7, x)) == [1, 1]


def test_codes_that_know_nothing_have_a_half() -> None:
    """A random order puts a neighbour on every rank alike: the sum is half of the largest there is."""
    x, z = torch.randn(600, 5), torch.randn(600, 5)
    assert continuity(x, z, 12) == pytest.approx(0.5, abs=0.02)


def test_tearing_costs_continuity_and_gluing_costs_trust() -> None:
    """Points on a circle: cut open into a line, or pressed flat."""
    t = torch.linspace(0, 2 * math.pi, 201, dtype=torch.float64)[:-1]
    circle = torch.stack([t.cos(), t.sin()], 1)
    cut, pressed = t.unsqueeze(1), t.cos().unsqueeze(1)
    assert trustworthiness(circle, cut, 12) > 0.999 > 0.99 > continuity(circle, cut, 12)
    assert continuity(circle, pressed, 12) > 0.97 > 0.8 > trustworthiness(circle, pressed, 12)


@pytest.mark.parametrize("far", [0.0, 1e6])
def test_it_does_not_depend_on_where_the_points_lie(far: float) -> None:
    x = torch.randn(60, 5, dtype=torch.float64)
    z = x[:, :2].clone()
    assert continuity(x + far, z - far, 5) == pytest.approx(by_hand(x, z, 5), abs=1e-9)


# how they are gathered


@pytest.mark.parametrize("size", [1, 7, 60])
def test_batches_do_not_matter(size: int) -> None:
    x = torch.randn(60, *DATA)
    whole = measured(lambda x: x.flatten(1)[:, :2], x)
    assert values(measured(lambda x: x.flatten(1)[:, :2], *x.split(size))) == values(whole)
    assert whole["continuity"].n == 60
    assert whole["continuity"].about == {"k": 12}


@pytest.mark.parametrize("size", [1, 7, 60])
def test_the_first_examples_are_taken(size: int) -> None:
    x = torch.randn(60, *DATA)
    first = measured(lambda x: x.flatten(1)[:, :2], *x.split(size), examples=40)
    assert values(first) == values(measured(lambda x: x.flatten(1)[:, :2], x[:40]))
    assert first["continuity"].n == 40


def test_of_two_processes_the_first_examples_are_taken_too() -> None:
    """Each has every other batch, and keeps no more than could be needed."""
    x, metrics = torch.randn(60, *DATA), [Continuity(examples=20, k=5), Continuity(examples=20, k=5)]
    for i, part in enumerate(x.split(5)):
        metrics[i % 2].update(Encodes(lambda x: x.flatten(1)[:, :2]), {"image": part})
    here, there = metrics
    assert sum(map(len, here.rows["z"])) == 20
    here.rows = {n: [c for pair in zip(here.rows[n], there.rows[n], strict=True) for c in pair] for n in ("x", "z")}
    assert values(here.compute()) == values(measured(lambda x: x.flatten(1)[:, :2], x[:20], k=5))


def test_it_takes_part_in_an_evaluation_by_name() -> None:
    data = InMemory("random", "test", {"image": torch.randint(0, 256, (40, *DATA), dtype=torch.uint8)})
    model = build({"type": "classical/ppca", "latents": 2}, data_shape=DATA)
    x = data.batch(torch.arange(40))["image"].float() / 255
    model.begin(x)
    model.update(model.statistics(x))
    with pytest.warns(UserWarning, match="'continuity' says little of 40 examples"):
        found = evaluate(model, [build({"type": "metrics/continuity", "k": 3})], data, batch=7)
    rows = x.flatten(1), model.encode(x)
    assert values(found) == pytest.approx([continuity(*rows, 3), trustworthiness(*rows, 3)])
    assert found["continuity"][2:] == (40, "1", "higher", {"k": 3})


# what is refused


def test_too_few_examples_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"with 12 neighbours needs more than 24 examples, got 24: raise examples"):
        measured(torch.clone, torch.randn(24, *DATA))
    assert measured(torch.clone, torch.randn(25, *DATA))


def test_equal_codes_and_equal_examples_have_no_neighbours() -> None:
    x = torch.randn(30, *DATA)
    with pytest.raises(ConfigError, match=r"^metric 'continuity': all 30 codes are equal"):
        measured(lambda x: torch.ones(len(x), 2), x)
    with pytest.raises(ConfigError, match=r"^metric 'continuity': all 30 examples are equal"):
        measured(lambda x: torch.randn(len(x), 2), x * 0)


def test_codes_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"^metric 'continuity': Encodes encodes into values that are not finite"):
        measured(lambda x: x / 0, torch.randn(30, *DATA))


@pytest.mark.parametrize(
    ("model", "sentence"),
    [(Nothing(), "needs a model that encodes; Nothing does not"), (coded_model(), "VQVAE encodes into indices")],
    ids=["none", "codes"],
)
def test_a_model_without_real_latents_is_refused(model: Any, sentence: str) -> None:
    with pytest.raises(ConfigError, match=f"^metric 'continuity' .*{sentence}"):
        Continuity().update(model, {"image": torch.rand(2, 1, 8, 8)})
