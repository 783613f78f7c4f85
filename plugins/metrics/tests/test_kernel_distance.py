"""The kernel distance: sums over pairs by brute force, distributions whose distance is known, and peers."""

import math
from collections.abc import Iterator

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from zoo_metrics.samples import kernel_distance as module
from zoo_metrics.samples.kernel_distance import (
    KernelDistance,
    kernel_distance,
    kernel_distance_and_error,
    kernel_distance_subsets,
)

from tests.peers import fidelity
from zoo_core import ConfigError, Extractor, Measurement, build

SHAPES = [(200, 150, 8), (20, 30, 50), (2, 3, 5), (40, 2, 1)]


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture(params=[True, False], ids=["float64", "float32"])
def exact(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether products of pairs are taken in float64, as they are of few examples."""
    if not request.param:
        monkeypatch.setattr(module, "CHEAP", 0)
    return bool(request.param)


def sets(n: int, m: int, d: int, far: float = 0) -> tuple[Tensor, Tensor]:
    return torch.randn(n, d) + far, 1.2 * torch.randn(m, d) + 0.3 + far


def by_definition(x: Tensor, y: Tensor) -> float:
    """Over all pairs, in numpy's longest floats: those of 64 bits lose all digits of means far from zero."""
    X, Y = (z.double().numpy().astype(numpy.longdouble) for z in (x, y))
    xx, yy, xy = ((a @ b.T / X.shape[1] + 1) ** 3 for a, b in ((X, X), (Y, Y), (X, Y)))
    own = [k[~numpy.eye(len(k), dtype=bool)].mean() for k in (xx, yy)]
    return float(sum(own) - 2 * xy.mean())


# the value


@pytest.mark.parametrize(("n", "m", "d"), SHAPES)
@pytest.mark.parametrize("far", [0, 1, 100, 1e4])
def test_it_is_the_definition_however_far_from_zero(n: int, m: int, d: int, far: float, exact: bool) -> None:
    x, y = sets(n, m, d, far)
    value, error = kernel_distance_and_error(x, y)
    known = by_definition(x, y)
    scale = max(abs(known), error) if min(n, m) > 2 else abs(known)
    assert value == pytest.approx(known, abs=(1e-8 if exact else 2e-6) * scale)


@settings(max_examples=60, deadline=None)
@given(n=st.integers(2, 30), m=st.integers(2, 30), d=st.integers(1, 20), seed=st.integers(0, 2**32))
def test_it_is_the_definition_for_any_shape(n: int, m: int, d: int, seed: int) -> None:
    torch.manual_seed(seed)
    x, y = sets(n, m, d)
    value = kernel_distance(x, y)
    assert value == pytest.approx(by_definition(x, y), rel=1e-9, abs=1e-9)
    assert value == pytest.approx(kernel_distance(y, x), rel=1e-9, abs=1e-9)
    assert value == pytest.approx(kernel_distance(x[torch.randperm(n)], y), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("far", [0, 1e3])
def test_blocks_do_not_matter(far: float, exact: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = sets(30, 45, 7, far)
    known = kernel_distance_and_error(x, y)
    for rows in (1, 7, 30):
        monkeypatch.setattr(module, "ROWS", rows)
        assert kernel_distance_and_error(x, y) == pytest.approx(known, rel=1e-9 if exact else 1e-5)


def test_it_needs_no_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHEAP", 0)
    x, y = sets(1000, 800, 20)
    known = kernel_distance_and_error(x, y)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    monkeypatch.setattr(Tensor, "to_mkldnn", None)
    assert kernel_distance_and_error(x, y) == pytest.approx(known, rel=1e-6)


@pytest.mark.parametrize("far", [0, 1e4])
def test_float32_agrees_with_float64_over_blocks(far: float, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = sets(1700, 900, 40, far)
    known = kernel_distance_and_error(x.double(), y.double())
    monkeypatch.setattr(module, "CHEAP", 0)
    assert kernel_distance_and_error(x, y) == pytest.approx(known, rel=1e-6)


def test_float32_is_enough_where_all_is_unequal(exact: bool) -> None:
    """An example that is 100,000 deviations away, features of very different scales, and two far clusters in each."""
    x, y = sets(150, 120, 10)
    x[3] *= 1e5
    clusters = [z + 1000.0 * (torch.arange(len(z)) % 2 * 2 - 1)[:, None] for z in sets(150, 120, 10)]
    scales = [z * 10.0 ** torch.arange(-6, 4) for z in sets(150, 120, 10)]
    for case in ((x, y), clusters, scales):
        known = by_definition(*case)
        assert kernel_distance(*case) == pytest.approx(known, rel=1e-9 if exact else 1e-6)


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e-3, 1e3, 1e12, 1e25])
def test_nothing_overflows(scale: float, exact: bool) -> None:
    x, y = sets(60, 50, 6)
    x, y = x * scale, y * scale
    value, error = kernel_distance_and_error(x, y)
    assert math.isfinite(value)
    assert error > 0
    if scale < 1e-9:  # k = 1 + 3 x·y/d, up to what is far below: MMD² is that of the means, without its bias
        x, y = x.double(), y.double()
        bias = x.var(0).sum() / 60 + y.var(0).sum() / 50
        known = 3 / 6 * float((x.mean(0) - y.mean(0)).square().sum() - bias)
        assert value == pytest.approx(known, rel=1e-5)
    elif scale < 1e6:
        assert value == pytest.approx(by_definition(x, y), rel=1e-5)


def test_between_points_it_is_known() -> None:
    """k(0, 0) = 1, k(x, x) = 8 and k(0, x) = 1 for x of ones: MMD² = 8 + 1 - 2."""
    assert kernel_distance(torch.ones(5, 4), torch.zeros(3, 4)) == pytest.approx(7)


@pytest.mark.parametrize("n", [5, 1100])
@pytest.mark.parametrize("value", [0, 0.1, 1e4])
def test_equal_examples_are_at_no_distance(n: int, value: float, exact: bool) -> None:
    points = torch.full((n, 3), value)
    assert kernel_distance_and_error(points, points) == (0, 0)


def test_a_set_is_nearer_to_itself_than_chance_would_have_it() -> None:
    """Without the diagonal of kxx and kyy, but with that of kxy: below zero."""
    x, _ = sets(50, 50, 4)
    assert kernel_distance(x, x) == pytest.approx(by_definition(x, x), rel=1e-9)
    assert kernel_distance(x, x) < 0


def test_of_equal_distributions_it_is_zero_on_average() -> None:
    values = torch.tensor([kernel_distance(torch.randn(40, 6), torch.randn(25, 6)) for _ in range(200)])
    assert abs(values.mean()) < 4 * values.std() / math.sqrt(200)
    assert (values < 0).double().mean() > 0.3


def test_between_gaussians_it_is_known_on_average() -> None:
    """k sums (x y)^p over one dimension, binomially: MMD² = Σ_p C(3, p) (E x^p - E y^p)², p = 1, 2, 3.

    For N(0, 1) and N(a, 1) the moments differ by a, a² and a³ + 3a.
    """
    a = 0.5
    known = 3 * a**2 + 3 * a**4 + (a**3 + 3 * a) ** 2
    values = torch.tensor([kernel_distance(torch.randn(200, 1), torch.randn(320, 1) + a) for _ in range(100)])
    assert float(values.mean()) == pytest.approx(known, abs=4 * float(values.std()) / 10)


# its error


@pytest.mark.parametrize(("n", "m"), [(3, 3), (20, 35)])
def test_the_error_is_the_jackknifes(n: int, m: int, exact: bool) -> None:
    """Each example of each set left out in turn; 2 of 3 have an unbiased MMD² as well."""
    x, y = sets(n, m, 5, far=2)
    keep = [~torch.eye(k, dtype=torch.bool) for k in (n, m)]
    left = [torch.tensor([by_definition(x[rows], y) for rows in keep[0]]).double()]
    left += [torch.tensor([by_definition(x, y[rows]) for rows in keep[1]]).double()]
    known = sum((len(v) - 1) * v.var(correction=0) for v in left) ** 0.5
    assert kernel_distance_and_error(x, y)[1] == pytest.approx(float(known), rel=1e-5)


def test_the_error_is_how_far_values_lie_apart() -> None:
    """Over many sets: of different distributions as it says, and of equal ones by √2 less."""
    for gap, factor in ((1.0, 1.0), (0.0, math.sqrt(2))):
        drawn = [kernel_distance_and_error(torch.randn(60, 4), torch.randn(90, 4) + gap) for _ in range(600)]
        values, errors = torch.tensor(drawn).double().unbind(1)
        assert float(errors.square().mean().sqrt() / values.std()) == pytest.approx(factor, rel=0.12)


def test_two_examples_have_no_error() -> None:
    value, error = kernel_distance_and_error(*sets(2, 10, 3))
    assert (math.isfinite(value), math.isnan(error)) == (True, True)


# peers


@pytest.mark.parametrize("d", [4, 64])
def test_it_is_torchmetrics_value_of_the_same_examples(d: int) -> None:
    kid = pytest.importorskip("torchmetrics.image.kid")
    x, y = (z.double() for z in sets(100, 100, d))
    assert kernel_distance(x, y) == pytest.approx(float(kid.poly_mmd(x, y)), rel=1e-9)


@pytest.mark.parametrize("d", [4, 64])
def test_it_is_torch_fidelitys_value_of_the_same_examples(d: int) -> None:
    kid = fidelity("metric_kid")
    x, y = (z.double() for z in sets(100, 100, d))
    told = kid.kid_features_to_metric(x, y, kid_subsets=1, kid_subset_size=100, verbose=False)
    assert kernel_distance(x, y) == pytest.approx(told[kid.KEY_METRIC_KID_MEAN], rel=1e-9)


def test_subsets_scatter_as_those_of_torch_fidelity_do() -> None:
    kid = fidelity("metric_kid")
    x, y = (z.double() for z in sets(500, 600, 8))
    told = kid.kid_features_to_metric(x, y, kid_subsets=200, kid_subset_size=50, verbose=False)
    mean, deviation = kernel_distance_subsets(x, y, subsets=200, size=50)
    assert mean == pytest.approx(told[kid.KEY_METRIC_KID_MEAN], abs=6 * deviation / math.sqrt(200))
    assert deviation == pytest.approx(told[kid.KEY_METRIC_KID_STD], rel=0.25)


# subsets


def test_of_subsets_as_large_as_the_sets_nothing_scatters() -> None:
    x, y = sets(40, 40, 3)
    mean, deviation = kernel_distance_subsets(x, y, subsets=3, size=40)
    assert (mean, deviation) == (pytest.approx(kernel_distance(x, y)), pytest.approx(0, abs=1e-9))


def test_subsets_average_to_the_value_of_all_pairs() -> None:
    """Each draws its examples without repetition: a subset's value is unbiased for that of all pairs."""
    x, y = sets(120, 90, 3)
    mean, deviation = kernel_distance_subsets(x, y, subsets=200, size=40)
    assert mean == pytest.approx(kernel_distance(x, y), abs=4 * deviation / math.sqrt(200))


def test_the_deviation_is_divided_by_the_number_of_subsets() -> None:
    x, y = sets(60, 50, 3)
    generator = torch.Generator().manual_seed(5)
    values = []
    for _ in range(4):
        rows = [torch.randperm(len(z), generator=generator)[:10] for z in (x, y)]
        values.append(by_definition(x[rows[0]], y[rows[1]]))
    known = (numpy.mean(values), numpy.std(values, ddof=0))
    assert kernel_distance_subsets(x, y, subsets=4, size=10, seed=5) == pytest.approx(known)
    assert kernel_distance_subsets(x, y, subsets=4, size=10, seed=6) != pytest.approx(known)


# as a metric


class Flat(Extractor):
    """Pixels."""

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)


def measured(metric: KernelDistance, n: int) -> tuple[dict[str, Measurement], Tensor, Tensor]:
    metric.extractor = Flat()
    x, y = (torch.randint(0, 256, (n, 1, 2, 3)).float() / 255 for _ in range(2))
    metric.real = metric.extractor.features(x)
    for sample in y.split(7):
        metric.update(None, {"sample": sample, "original": sample})
    return metric.compute(), metric.real, y.flatten(1)


def test_the_metric_tells_of_what_features_it_is() -> None:
    found, x, y = measured(KernelDistance(), 40)
    assert list(found) == ["kid (Flat)"]
    value = found["kid (Flat)"]
    assert value[:3] == pytest.approx((*kernel_distance_and_error(x, y), 40))
    assert dict(value.about) == {"extractor": "Flat", "weights": "", "d": 6, "real": 40, "generated": 40}


def test_the_metric_tells_of_subsets_where_asked() -> None:
    found, x, y = measured(KernelDistance(subsets=5, size=10, seed=2), 40)
    assert list(found) == ["kid (Flat)", "kid_subsets (Flat)", "kid_subsets_std (Flat)"]
    whole, mean, deviation = found.values()
    known = kernel_distance_subsets(x, y, subsets=5, size=10, seed=2)
    assert (mean.value, deviation.value) == pytest.approx(known)
    assert math.isnan(mean.error)
    assert (whole.better, mean.better, deviation.better) == ("", "", "neither")
    assert {**whole.about, "subsets": 5, "size": 10, "seed": 2} == dict(mean.about) == dict(deviation.about)


def test_it_is_known_by_name() -> None:
    metric = build({"type": "metrics/kid", "subsets": 100})
    assert isinstance(metric, KernelDistance)
    assert (metric.subsets, metric.size, metric.draws) == (100, 1000, True)


# what is refused


@pytest.mark.parametrize(
    ("x", "y", "sentence"),
    [
        (torch.zeros(1, 3), torch.zeros(5, 3), r"needs two examples or more of each, got 1 real$"),
        (torch.zeros(5, 3), torch.zeros(5, 4), r"of equal d, got \(5, 3\) and \(5, 4\)$"),
        (torch.zeros(5, 3), torch.full((5, 3), math.nan), r"^the generated features are not all finite: look at"),
    ],
)
def test_sets_that_have_no_distance_are_refused_with_a_sentence(x: Tensor, y: Tensor, sentence: str) -> None:
    for distance in (kernel_distance, kernel_distance_subsets):
        with pytest.raises(ConfigError, match=sentence):
            distance(x, y)


def test_fewer_examples_than_a_subset_takes_are_refused_with_a_sentence() -> None:
    x, y = sets(1000, 999, 1)
    with pytest.raises(ConfigError, match=r"^subsets of 1000 need as many .* got 999: take more, or a smaller size$"):
        kernel_distance_subsets(x, y)
