"""Precision and recall, and the balls they are made of: a float64 reference, the packages, and known answers."""

import math
from collections.abc import Iterator

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from zoo_metrics.samples import neighbours
from zoo_metrics.samples.neighbours import Inside, crossings, inside, neighbourhoods
from zoo_metrics.samples.precision_recall import PrecisionRecall, precision_recall

from tests.peers import fidelity
from zoo_core import ConfigError, GenerativeModel, build, evaluate
from zoo_core.data import InMemory

many = settings(max_examples=60, deadline=None, derandomize=True, database=None)
SETS = (
    "plain",
    "itself",
    "shuffled",
    "constant",
    "collapsed",
    "repeated",
    "lattice",
    "bytes",
    "two clusters",
    "outlier",
)
SETS += ("offset", "far", "huge", "huge and plain", "tiny", "float64", "bfloat16", "narrow")


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def sets(kind: str, n: int, m: int, d: int) -> tuple[Tensor, Tensor]:
    """Two sets (n, d) and (m, d) of a kind that rounding or ties make hard."""
    x, y = torch.randn(n, d), 1.1 * torch.randn(m, d) + 0.1
    apart = torch.arange(max(n, m)).unsqueeze(1) % 2 * 1e5
    made = {
        "plain": (x, y),
        "itself": (x, x),
        "shuffled": (x, x[torch.randperm(n)]),
        "constant": (torch.full_like(x, 0.1), torch.full_like(y, 0.1)),
        "collapsed": (x, x[:1].expand(m, d)),
        "repeated": (x[torch.randint(n // 5, (n,))], x[torch.randint(n // 4, (m,))]),
        "lattice": (x.round(), y.round()),
        "bytes": ((64 * x).byte() / 255, (64 * y).byte() / 255),
        "two clusters": (x + apart[:n], y + apart[:m]),
        "outlier": (torch.cat([x[1:], 1e6 * x[:1]]), y),
        "offset": (x + 1e4, y + 1e4),
        "far": (x, y + 1e4),
        "huge": (1e25 * x, 1e25 * y),
        "huge and plain": (1e22 * x, y),
        "tiny": (1e-25 * x, 1e-25 * y),
        "float64": (x.double() + 1e8, y.double() + 1e8),
        "bfloat16": (x.bfloat16(), y.bfloat16()),
        "narrow": (x, 0.01 * y),
    }
    return made[kind]


def reference(x: Tensor, y: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Radii of x and of y, and which ball of x holds which y, and the other way round: differences, in float64."""
    x, y = x.double(), y.double()

    def distances(a: Tensor, b: Tensor) -> Tensor:
        return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")

    r_x, r_y = (distances(a, a).fill_diagonal_(math.inf).sort(1).values[:, k - 1] for a in (x, y))
    # A root of what is equal to 1e-12 is equal to half of that.
    d, tie = distances(x, y), 1 + 5e-13
    return r_x, r_y, d <= tie * r_x.unsqueeze(1), (d <= tie * r_y).T


def agree(x: Tensor, y: Tensor, k: int) -> bool:
    """Whether radii are the reference's and counts exactly so."""
    of_x, of_y = neighbourhoods(x, k), neighbourhoods(y, k)
    r_x, r_y, holds_x, holds_y = reference(x, y, k)
    radii = [torch.allclose(balls.squares.sqrt(), r, rtol=1e-12, atol=0) for balls, r in ((of_x, r_x), (of_y, r_y))]
    counts = [
        torch.equal(own.held, holds.sum(1)) and torch.equal(own.holding, holds.sum(0))
        for own, holds in zip((*crossings(of_x, of_y), inside(of_x, y)), (holds_x, holds_y, holds_x), strict=True)
    ]
    return all(radii + counts)


@pytest.mark.parametrize("block", [7, 1000])
@pytest.mark.parametrize("kind", SETS)
def test_every_count_is_that_of_float64(kind: str, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "BLOCK", block)
    assert agree(*sets(kind, 60, 45, 24), k=3)


@many
@given(st.integers(2, 30), st.integers(2, 30), st.integers(1, 5), st.integers(1, 6), st.integers(0, 2**16))
def test_ties_are_decided_as_in_float64(n: int, m: int, d: int, k: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, y = (torch.randint(-2, 3, (size, d), generator=generator).float() for size in (n, m))
    assert agree(x, y, min(k, n - 1, m - 1))


def test_rounding_never_passes_the_bounds() -> None:
    x = torch.cat([torch.randn(150, 300), 10 * torch.randn(50, 300)]) + 5
    (cloud,) = neighbours.clouds(x)
    every = slice(0, len(x))
    assert cloud.dtype == torch.float32
    lower = neighbours.lower_bounds(cloud, cloud, every, every).double()
    upper = lower + cloud.slack.double() + cloud.slack.double().unsqueeze(1)
    exact = torch.cdist(x.double(), x.double(), compute_mode="donot_use_mm_for_euclid_dist").square()
    assert ((lower <= exact) & (exact <= upper)).all()
    assert (upper - lower <= 1e-4 * (cloud.low + cloud.low.unsqueeze(1))).all()


def test_an_offset_leaves_the_bounds_as_near_as_they_are_about_zero() -> None:
    x = torch.randn(300, 40)
    (about_zero,), (offset,) = neighbours.clouds(x), neighbours.clouds(x + 1000)
    assert offset.slack.max() < 1.1 * about_zero.slack.max()


def test_what_the_bounds_leave_open_is_made_in_float64_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    summed: list[int] = []
    exact = neighbours.squared_distances

    def counted(x: Tensor, y: Tensor, i: Tensor, j: Tensor) -> Tensor:
        summed.append(len(i))
        return exact(x, y, i, j)

    monkeypatch.setattr(neighbours, "squared_distances", counted)
    x, y = sets("two clusters", 400, 400, 8)
    assert agree(x, y, 3)
    assert sum(summed) < 0.1 * 400 * 400


def test_a_multiplication_in_a_shorter_format_is_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "medium")
    (cloud,) = neighbours.clouds(torch.randn(10, 3))
    assert cloud.dtype == torch.float64


def test_memory_does_not_grow_with_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "BLOCK", 20)
    largest: list[int] = []
    made = neighbours.bounds

    def watched(*arguments: Tensor) -> Tensor:
        tile = made(*arguments)
        largest.append(tile.numel())
        return tile

    monkeypatch.setattr(neighbours, "bounds", watched)
    assert agree(*sets("plain", 130, 110, 6), k=4)
    assert max(largest) == 20 * 20


@pytest.mark.parametrize("k", [1, 3, 5])
def test_precision_and_recall_are_those_of_prdc(k: int) -> None:
    compute_prdc = pytest.importorskip("prdc").compute_prdc
    real, generated = sets("plain", 300, 200, 12)
    theirs = compute_prdc(real.double().numpy(), generated.double().numpy(), k)
    precision, recall = precision_recall(real, generated, k)
    assert precision.double().mean().item() == pytest.approx(theirs["precision"], abs=1e-12)
    assert recall.double().mean().item() == pytest.approx(theirs["recall"], abs=1e-12)
    assert 0 < theirs["precision"] < 1
    assert 0 < theirs["recall"] < 1


@pytest.mark.parametrize("save_cpu_ram", [False, True])
@pytest.mark.parametrize("k", [1, 3, 5])
def test_precision_and_recall_are_those_of_torch_fidelity(k: int, save_cpu_ram: bool) -> None:
    theirs = fidelity("metric_prc").prc_features_to_metric
    real, generated = (x.double() for x in sets("plain", 300, 200, 12))
    told = theirs(generated, real, prc_neighborhood=k, prc_batch_size=64, save_cpu_ram=save_cpu_ram, verbose=False)
    precision, recall = precision_recall(real, generated, k)
    # Theirs are means of float32.
    assert precision.double().mean().item() == pytest.approx(told["precision"], abs=1e-6)
    assert recall.double().mean().item() == pytest.approx(told["recall"], abs=1e-6)


def test_features_far_from_zero_are_compared_where_torch_fidelity_loses_them() -> None:
    x, y = torch.randn(300, 16), 1.5 * torch.randn(300, 16)
    # Of numbers that float32 has the same offsets of.
    x, y = ((64 * a).round() / 64 for a in (x, y))
    near, far = precision_recall(x, y), precision_recall(x + 10_000, y + 10_000)
    assert all(torch.equal(a, b) for a, b in zip(near, far, strict=True))
    theirs = fidelity("metric_prc").prc_features_to_metric
    options = {"prc_neighborhood": 3, "prc_batch_size": 1000, "save_cpu_ram": False, "verbose": False}
    assert theirs(y + 10_000, x + 10_000, **options) != theirs(y, x, **options)


def test_the_boundary_is_part_of_a_ball() -> None:
    real, generated = torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([[-1.0], [5.0], [5.25]])
    precision, recall = precision_recall(real, generated, 1)
    # Balls [-1, 1], [0, 2], [1, 5] of the real ones; [-7, 5], [4.75, 5.25], [5, 5.5] of the generated.
    assert precision.tolist() == [True, True, False]
    assert recall.tolist() == [True, True, True]


def test_a_point_is_no_neighbour_of_its_own_but_an_equal_one_is() -> None:
    x = torch.tensor([[0.0], [0.0], [3.0], [7.0]])
    assert neighbourhoods(x, 1).squares.tolist() == [0, 0, 9, 16]
    assert neighbourhoods(x, 2).squares.tolist() == [9, 9, 9, 49]


def test_features_that_are_all_equal_are_found_where_prdc_finds_none() -> None:
    real, generated = torch.full((20, 5), 0.3), torch.full((30, 5), 0.3)
    precision, recall = precision_recall(real, generated)
    assert precision.all()
    assert recall.all()
    compute_prdc = pytest.importorskip("prdc").compute_prdc
    assert compute_prdc(real.numpy(), generated.numpy(), 3)["precision"] == 0


def test_samples_that_are_the_data_are_all_there() -> None:
    x = torch.randn(200, 50)
    precision, recall = precision_recall(x, x[torch.randperm(200)])
    assert precision.all()
    assert recall.all()


def test_what_lies_apart_shares_nothing() -> None:
    precision, recall = precision_recall(torch.randn(100, 4), torch.randn(80, 4) + 1000)
    assert not precision.any()
    assert not recall.any()


def test_part_of_the_data_is_precise_and_all_of_it_is_recalled_by_more() -> None:
    clusters = torch.randn(200, 3) + 100 * torch.arange(200).remainder(4).unsqueeze(1)
    half = clusters[torch.arange(200).remainder(4) < 2]
    precision, recall = precision_recall(clusters, half)
    assert precision.all()
    assert recall.double().mean() == 0.5
    precision, recall = precision_recall(half, clusters)
    assert precision.double().mean() == 0.5
    assert recall.all()


@many
@given(st.integers(0, 2**16))
def test_the_two_change_places_with_the_sets_and_grow_with_k(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randn(25, 3, generator=generator), torch.randn(15, 3, generator=generator) + 0.5
    there, back = precision_recall(x, y, 2), precision_recall(y, x, 2)
    assert torch.equal(there[0], back[1])
    assert torch.equal(there[1], back[0])
    assert all((small <= large).all() for small, large in zip(there, precision_recall(x, y, 4), strict=True))


@pytest.mark.parametrize(("n", "m"), [(3, 10), (10, 3)])
def test_fewer_than_a_neighbourhood_are_refused(n: int, m: int) -> None:
    with pytest.raises(ConfigError, match=r"^neighbour number 3 needs more than 3 examples, got 3: measure more"):
        precision_recall(torch.randn(n, 2), torch.randn(m, 2))
    assert precision_recall(torch.randn(4, 2), torch.randn(4, 2))[0].shape == (4,)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_features_that_are_no_numbers_are_refused(bad: float) -> None:
    broken = torch.randn(300, 2)
    broken[217, 1] = bad
    for real, generated in ((broken, torch.randn(9, 2)), (torch.randn(9, 2), broken)):
        with pytest.raises(ConfigError, match=r"^features must be finite"):
            precision_recall(real, generated)


def test_features_of_other_sizes_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"\(9, 2\) and \(9, 3\) must be of equal d"):
        precision_recall(torch.randn(9, 2), torch.randn(9, 3))


def test_counts_of_no_balls_are_empty() -> None:
    told = inside(neighbours.Balls(torch.randn(5, 2), torch.full((5,), -math.inf).double()), torch.randn(7, 2))
    assert isinstance(told, Inside)
    assert not told.held.any()
    assert told.holding.shape == (7,)


class Draws(GenerativeModel):
    """Draws what it is told, in turn."""

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        self.data_shape, self.images, self.drawn = tuple(images.shape[1:]), images, 0

    def draw(self, n: int) -> Tensor:
        self.drawn += n
        return self.images[self.drawn - n : self.drawn]


@pytest.mark.filterwarnings("ignore:metric 'precision_recall' says little")
def test_the_metric_measures_draws_and_says_with_what() -> None:
    images = torch.randint(256, (40, 1, 3, 3), dtype=torch.uint8)
    drawn = torch.cat([images[:30], images[:10] // 3]).float() / 255
    metric = PrecisionRecall(build("metrics/pixels", "extractor"), k=2)
    told = evaluate(Draws(drawn), [metric], InMemory("noise", "test", {"image": images}), batch=7)
    precision, recall = precision_recall(images.flatten(1) / 255, drawn.flatten(1), 2)
    for name, expected in (("precision", precision), ("recall", recall)):
        p = expected.double().mean().item()
        value = told[f"{name} (pixels)"]
        assert value.value == p
        assert value.n == 40
        assert value.better == "higher"
        assert value.unit == "1"
        assert value.error == pytest.approx(math.sqrt(p * (1 - p) / 39), abs=1e-12)
        assert value.about["k"] == 2
        assert value.about["d"] == 9
        assert value.about["extractor"] == "metrics/pixels"
    assert 0.7 < told["precision (pixels)"].value < 1


def test_arrays_of_other_packages_keep_their_precision() -> None:
    x = torch.from_numpy(numpy.random.default_rng(0).normal(size=(50, 4)))
    assert agree(x, x + 1e-9, 3)
