"""Density and coverage: their expectations, prdc, ties, and what a collapsed or a copying generator is given."""

import math
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from zoo_metrics.samples.density_coverage import DensityCoverage, density_coverage, prdc
from zoo_metrics.samples.precision_recall import precision_recall

from zoo_core import ConfigError, GenerativeModel, build, evaluate
from zoo_core.data import InMemory

many = settings(max_examples=40, deadline=None, derandomize=True, database=None)


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def means(real: Tensor, generated: Tensor, k: int) -> tuple[float, float]:
    density, coverage = density_coverage(real, generated, k)
    return density.double().mean().item(), coverage.double().mean().item()


def expected_coverage(n: int, m: int, k: int) -> float:
    """1 - Π_{i=1..k} (N - i)/(M + N - i) of sets of one distribution."""
    return 1 - math.prod((n - i) / (m + n - i) for i in range(1, k + 1))


@pytest.mark.parametrize(("n", "m", "k"), [(40, 40, 5), (30, 60, 3), (50, 20, 1)])
def test_sets_of_one_distribution_have_the_expected_values(n: int, m: int, k: int) -> None:
    told = torch.tensor([means(torch.randn(n, 4), torch.randn(m, 4), k) for _ in range(400)], dtype=torch.float64)
    error = told.std(0) / math.sqrt(len(told))
    expected = torch.tensor([1.0, expected_coverage(n, m, k)], dtype=torch.float64)
    assert ((told.mean(0) - expected).abs() < 4 * error).all()
    assert (error < 0.02).all()


@pytest.mark.parametrize("k", [1, 3, 5])
def test_all_four_are_those_of_prdc(k: int) -> None:
    compute_prdc = pytest.importorskip("prdc").compute_prdc
    real, generated = torch.randn(250, 20), 0.9 * torch.randn(180, 20) + 0.1
    theirs = compute_prdc(real.double().numpy(), generated.double().numpy(), k)
    ours = prdc(real, generated, k)
    for name, value in ours._asdict().items():
        assert value.double().mean().item() == pytest.approx(theirs[name], abs=1e-6)
        assert theirs[name] > 0
    for own, other in zip((ours.precision, ours.recall), precision_recall(real, generated, k), strict=True):
        assert torch.equal(own, other)
    for own, other in zip((ours.density, ours.coverage), density_coverage(real, generated, k), strict=True):
        assert torch.equal(own, other)


@pytest.mark.parametrize("k", [1, 5])
def test_the_data_themselves_count_with_their_balls_and_neighbours(k: int) -> None:
    x = torch.randn(100, 30)
    # Each ball holds its centre and k neighbours, the last of them on the boundary.
    assert means(x, x[torch.randperm(100)], k) == (pytest.approx((k + 1) / k), 1.0)


def test_features_that_are_all_equal_are_in_every_ball() -> None:
    density, coverage = means(torch.full((20, 3), 0.7), torch.full((30, 3), 0.7), 5)
    assert (density, coverage) == (20 / 5, 1.0)
    compute_prdc = pytest.importorskip("prdc").compute_prdc
    theirs = compute_prdc(torch.full((20, 3), 0.7).numpy(), torch.full((30, 3), 0.7).numpy(), 5)
    assert (theirs["density"], theirs["coverage"]) == (0, 0)


def test_a_collapsed_generator_covers_little_however_many_it_draws() -> None:
    x = torch.randn(300, 2)
    density, coverage = means(x, torch.zeros(200, 2), 5)
    assert 0 < coverage < 0.1
    assert density == pytest.approx(300 * coverage / 5)  # the balls that hold one hold all


def test_an_outlier_of_the_data_makes_recall_of_the_samples_but_no_coverage() -> None:
    real, generated = torch.randn(200, 2), torch.randn(200, 2)
    worse = torch.cat([generated[1:], torch.tensor([[100.0, 0.0]])])
    real = torch.cat([real, torch.tensor([[60.0, 0.0]]) + torch.randn(20, 2)])
    assert precision_recall(real, worse, 3)[1][200:].all()
    assert not density_coverage(real, worse)[1][200:].any()


def test_what_lies_apart_has_neither() -> None:
    assert means(torch.randn(50, 3), torch.randn(40, 3) + 1e4, 5) == (0, 0)


def test_a_common_offset_changes_nothing() -> None:
    x, y = ((torch.randn(100, 8) * 64).round() / 64 for _ in range(2))  # the same with the offset, in float32
    for near, far in zip(prdc(x, y, 3), prdc(x + 10_000, y + 10_000, 3), strict=True):
        assert torch.equal(near, far)


@many
@given(st.integers(8, 30), st.integers(1, 30), st.integers(1, 7), st.integers(0, 2**16))
def test_counts_fit_together(n: int, m: int, k: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, y = (torch.randn(size, 2, generator=generator) for size in (n, m))
    density, coverage = density_coverage(x, y, k)
    hits = (density * k).round()
    assert torch.allclose(hits, density * k)  # whole numbers
    assert hits.sum() >= coverage.sum()  # a ball that holds a sample holds at least one
    assert (coverage <= density_coverage(x, y, k + 1 if k + 1 < n else k)[1]).all()
    assert (coverage <= density_coverage(x, torch.cat([y, x[:1]]), k)[1]).all()
    order = torch.randperm(m, generator=generator)
    assert torch.equal(density_coverage(x, y[order], k)[0], density[order])


def test_fewer_data_than_a_neighbourhood_are_refused_but_one_sample_is_enough() -> None:
    with pytest.raises(ConfigError, match=r"^neighbour number 5 needs more than 5 examples, got 5"):
        density_coverage(torch.randn(5, 2), torch.randn(50, 2))
    assert density_coverage(torch.randn(6, 2), torch.randn(1, 2))[0].shape == (1,)


class Draws(GenerativeModel):
    """Draws what it is told, in turn."""

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        self.data_shape, self.images, self.drawn = tuple(images.shape[1:]), images, 0

    def draw(self, n: int) -> Tensor:
        self.drawn += n
        return self.images[self.drawn - n : self.drawn]


@pytest.mark.filterwarnings("ignore:metric 'density_coverage' says little")
def test_the_metric_measures_draws_and_says_with_what() -> None:
    images = torch.randint(256, (40, 1, 3, 3), dtype=torch.uint8)
    drawn = torch.cat([images[:10], images[:30] // 8]).float() / 255
    metric = DensityCoverage(build("metrics/pixels", "extractor"), k=2)
    told = evaluate(Draws(drawn), [metric], InMemory("noise", "test", {"image": images}), batch=7)
    expected = density_coverage(images.flatten(1) / 255, drawn.flatten(1), 2)
    for name, each in zip(("density", "coverage"), expected, strict=True):
        value, v = told[f"{name} (pixels)"], each.double()
        assert value.value == v.mean().item()
        assert value.error == pytest.approx(v.std().item() / math.sqrt(40))
        assert (value.n, value.unit, value.better) == (40, "1", "higher")
        assert {"k": 2, "d": 9, "real": 40, "extractor": "metrics/pixels"}.items() <= value.about.items()
    assert 0 < told["coverage (pixels)"].value < 1
