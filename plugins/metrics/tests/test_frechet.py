"""The Fréchet distance: Gaussians whose distance is known, and peers on the same features."""

import math
import warnings
from collections.abc import Iterator

import numpy
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from zoo_metrics.samples import frechet
from zoo_metrics.samples.frechet import (
    FrechetDistance,
    covariance,
    frechet_distance,
    frechet_distance_infinity,
    frechet_distance_of_moments,
    mean,
)

from tests.peers import fidelity
from zoo_core import ConfigError, Extractor, Measurement, build

SHAPES = [(200, 150, 8), (40, 300, 40), (300, 40, 41), (20, 30, 50), (30, 20, 50), (2, 2, 5), (50, 60, 1)]


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def sets(n: int, m: int, d: int) -> tuple[Tensor, Tensor]:
    """Features of two Gaussians with correlations, float64 (n, d) and (m, d)."""
    A, B = torch.randn(2, d, d, dtype=torch.float64)
    x, y = torch.randn(n, d, dtype=torch.float64), torch.randn(m, d, dtype=torch.float64)
    return x @ A, y @ B + torch.randn(d, dtype=torch.float64)


def spread(*sets: Tensor) -> float:
    """tr S of all sets: what rounding is measured by."""
    return sum(float(x.double().var(0).sum()) for x in sets)


def by_definition(x: Tensor, y: Tensor) -> float:
    """With numpy's moments, and scipy's root of S_1^½ S_2 S_1^½, which has the trace of that of S_1 S_2."""
    X, Y = x.double().numpy(), y.double().numpy()
    S, T = numpy.cov(X, rowvar=False, ddof=1), numpy.cov(Y, rowvar=False, ddof=1)
    S, T = numpy.atleast_2d(S), numpy.atleast_2d(T)
    w, V = scipy.linalg.eigh(S)
    half = (V * numpy.sqrt(w.clip(0))) @ V.T
    overlap = numpy.sqrt(scipy.linalg.eigvalsh(half @ T @ half).clip(0)).sum()
    gap = X.mean(0) - Y.mean(0)
    return float(gap @ gap + numpy.trace(S) + numpy.trace(T) - 2 * overlap)


def rotation(d: int) -> Tensor:
    return torch.linalg.qr(torch.randn(d, d, dtype=torch.float64)).Q


# of moments


def test_between_covariances_that_commute_it_is_that_of_their_deviations() -> None:
    Q, a, b = rotation(12), torch.rand(12).double(), torch.rand(12).double()
    m_1, m_2 = torch.randn(2, 12).double()
    S_1, S_2 = Q @ a.diag() @ Q.T, Q @ b.diag() @ Q.T
    known = (m_1 - m_2).square().sum() + (a.sqrt() - b.sqrt()).square().sum()
    assert frechet_distance_of_moments(m_1, S_1, m_2, S_2) == pytest.approx(float(known), rel=1e-12)


@pytest.mark.parametrize("d", [1, 2, 30])
def test_between_any_covariances_it_is_what_scipys_root_says(d: int) -> None:
    A, B = torch.randn(2, d, d).double()
    S_1, S_2 = A @ A.T + torch.eye(d), B @ B.T + torch.eye(d)
    zero = torch.zeros(d)
    root = scipy.linalg.sqrtm((S_1 @ S_2).numpy()).real
    known = float(S_1.trace() + S_2.trace()) - 2 * numpy.trace(root)
    assert frechet_distance_of_moments(zero, S_1, zero, S_2) == pytest.approx(known, rel=1e-9)


def test_of_one_dimension_it_is_that_of_mean_and_deviation() -> None:
    one = torch.ones(1)
    assert frechet_distance_of_moments(one * 5, one[None] * 4, one * 2, one[None] * 9) == pytest.approx(3**2 + 1)


@pytest.mark.parametrize("decay", [0.5, 2, 6])
def test_directions_of_almost_no_variance_cost_no_precision(decay: float) -> None:
    """Standard deviations fall to 1e-8, ..., 1e-12 and beyond: squared twice, they are lost in rounding."""
    d = 200
    sigma = torch.arange(1, d + 1).double() ** -decay
    Q, zero = rotation(d), torch.zeros(d)
    S = Q @ sigma.square().diag() @ Q.T
    total = 2 * float(sigma.square().sum())
    assert frechet_distance_of_moments(zero, S, zero, S) == pytest.approx(0, abs=1e-8 * total)
    assert frechet_distance_of_moments(zero, S, zero, 4 * S) == pytest.approx(total / 2, rel=1e-8)


def test_singular_covariances_are_compared_where_they_live() -> None:
    """Between N(0, I) of dimensions 0 to 5 and of 3 to 8 of ten, after a rotation: the trace of the overlap is 3."""
    Q = rotation(10)
    a, b = torch.zeros(2, 10).double()
    a[:6], b[3:9] = 1, 1
    zero = torch.zeros(10)
    for turn in (torch.eye(10).double(), Q):
        S_1, S_2 = turn @ a.diag() @ turn.T, turn @ b.diag() @ turn.T
        assert frechet_distance_of_moments(zero, S_1, zero, S_2) == pytest.approx(6 + 6 - 2 * 3, abs=1e-6)
        assert frechet_distance_of_moments(zero, S_1, zero, S_1) == pytest.approx(0, abs=1e-7)


def test_rounding_of_what_is_singular_does_not_add_up() -> None:
    """Of 200 directions without variance each would add the root of a rounding error."""
    Q, zero = rotation(300), torch.zeros(300)
    P = Q[:, :100] @ Q[:, :100].T
    for S_1, S_2 in ((P, torch.eye(300)), (torch.eye(300), P)):
        assert frechet_distance_of_moments(zero, S_1, zero, S_2) == pytest.approx(100 + 300 - 2 * 100, abs=1e-8)


def test_a_root_is_a_triangle_by_whatever_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Cholesky's way fails, though all eigenvalues count, the other one gives the same distance."""
    A, B = torch.randn(2, 20, 20).double()
    S_1, S_2, zero = A @ A.T, B @ B.T, torch.zeros(20)
    known = frechet_distance_of_moments(zero, S_1, zero, S_2)
    cholesky = torch.linalg.cholesky_ex
    monkeypatch.setattr(torch.linalg, "cholesky_ex", lambda S: (cholesky(S)[0], torch.tensor(1)))
    R = frechet.root(S_1)
    assert (R.tril(-1) == 0).all()
    assert torch.allclose(R.T @ R, S_1)
    assert frechet_distance_of_moments(zero, S_1, zero, S_2) == pytest.approx(known, rel=1e-9)


def test_between_points_it_is_their_squared_distance() -> None:
    zeros = torch.zeros(3, 3)
    assert frechet_distance_of_moments(torch.zeros(3), zeros, torch.ones(3), zeros) == 3
    assert frechet_distance(torch.zeros(4, 3), torch.ones(5, 3)) == 3


# of features


@pytest.mark.parametrize(("n", "m", "d"), SHAPES)
def test_it_is_the_definition_of_few_and_of_many_examples(n: int, m: int, d: int) -> None:
    x, y = sets(n, m, d)
    assert frechet_distance(x, y) == pytest.approx(by_definition(x, y), rel=1e-6)


@settings(max_examples=60, deadline=None)
@given(n=st.integers(2, 40), m=st.integers(2, 40), d=st.integers(1, 20), seed=st.integers(0, 2**32))
def test_it_is_a_distance_for_any_shape(n: int, m: int, d: int, seed: int) -> None:
    torch.manual_seed(seed)
    x, y = sets(n, m, d)
    fd, margin = frechet_distance(x, y), 1e-7 * spread(x, y)
    assert fd == pytest.approx(by_definition(x, y), abs=margin)
    assert fd == pytest.approx(frechet_distance(y, x), abs=margin)
    assert 0 <= frechet_distance(x, x[torch.randperm(n)]) <= margin


@pytest.mark.parametrize(("n", "m", "d"), [(700, 80, 30), (30, 70, 90)])
def test_blocks_do_not_matter(n: int, m: int, d: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = sets(n, m, d)
    whole = frechet_distance(x, y)
    monkeypatch.setattr(frechet, "ROWS", 64)
    monkeypatch.setattr(frechet, "COLUMNS", 7)
    assert frechet_distance(x, y) == pytest.approx(whole, rel=1e-8)


@pytest.mark.parametrize(("n", "m", "d"), [(200, 150, 8), (20, 30, 50)])
@pytest.mark.parametrize("far", [0, 1e4, 1e7])
def test_it_is_no_other_far_from_zero_nor_after_a_rotation(n: int, m: int, d: int, far: float) -> None:
    x, y = sets(n, m, d)
    Q, t = rotation(d), far * torch.randn(d).double()
    assert frechet_distance(x @ Q + t, y @ Q + t) == pytest.approx(frechet_distance(x, y), rel=1e-7)


def test_it_grows_with_the_square_of_a_scale_and_of_a_shift() -> None:
    x, y = sets(200, 150, 8)
    shift = torch.arange(8).double()
    assert frechet_distance(3 * x, 3 * y) == pytest.approx(9 * frechet_distance(x, y))
    assert frechet_distance(x, x + shift) == pytest.approx(float(shift.square().sum()))
    assert frechet_distance(x, 3 * x) == pytest.approx(spread(2 * x) + float((2 * x).mean(0).square().sum()))


@pytest.mark.parametrize(("n", "d"), [(300, 20), (20, 300)])
@pytest.mark.parametrize("far", [0, 1e4])
def test_float32_features_are_compared_in_float64(n: int, d: int, far: float) -> None:
    """Means 10,000 deviations from zero: one part in 10^7 of them would be seen, and of their squares all the more."""
    x, y = torch.randn(n, d) + far, 1.1 * torch.randn(n, d) + far
    assert frechet_distance(x, y) == pytest.approx(by_definition(x, y), rel=1e-8 if n > d else 1e-6)
    assert frechet_distance(x, y) == pytest.approx(frechet_distance(x.double(), y.double()), rel=1e-12)


@pytest.mark.parametrize("n", [500, 20])
def test_constant_and_dependent_features_add_nothing(n: int) -> None:
    """Two constants, one of them no binary fraction, a sum, and a copy: only a copy adds to the distance."""
    x, y = sets(n, n, 30)
    known = frechet_distance(x, y)
    constants = torch.tensor([0.1, 7]).double().expand(n, 2)
    x, y = torch.cat([constants, x], 1), torch.cat([constants, y], 1)
    assert frechet_distance(x, y) == pytest.approx(known, rel=1e-9)
    doubled = [torch.cat([z, z[:, 2:]], 1) for z in (x, y)]
    assert frechet_distance(*doubled) == pytest.approx(2 * known, rel=1e-6)


def test_constant_features_take_no_longer_way(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = sets(200, 200, 6)
    x[:, 2], y[:, 4] = 0.1, 0.7
    known = by_definition(x, y)
    monkeypatch.setattr(torch.linalg, "eigh", None)
    assert frechet_distance(x, y) == pytest.approx(known, rel=1e-8)


def test_a_feature_constant_in_one_set_alone_counts() -> None:
    x, y = sets(200, 200, 4)
    y[:, 1] = 3
    assert frechet_distance(x, y) == pytest.approx(by_definition(x, y), rel=1e-8)


@pytest.mark.parametrize(("n", "d"), [(400, 30), (30, 400), (400, 400), (401, 400)])
def test_a_set_is_at_no_distance_from_itself(n: int, d: int) -> None:
    x, _ = sets(n, n, d)
    margin = 1e-8 * spread(x, x)
    assert 0 <= frechet_distance(x, x) <= margin
    assert 0 <= frechet_distance(x.float(), x.flip(0).float()) <= margin


@pytest.mark.parametrize("n", [50, 150, 151, 300])
def test_examples_of_very_uneven_features_lose_no_precision(n: int) -> None:
    """Standard deviations from 1 to 3e-7, in all directions: FD(x, cx) = (1 - c)^2 (tr S + |m|^2)."""
    d = 150
    sigma = torch.arange(1, d + 1).double() ** -3
    x = torch.randn(n, d).double() * sigma @ rotation(d)
    size = spread(x)
    assert frechet_distance(x, x) <= 1e-11 * size
    gap = float(x.mean(0).square().sum())
    assert frechet_distance(x, 1.01 * x) == pytest.approx(1e-4 * (size + gap), rel=1e-7)


def test_all_examples_twice_change_nothing_but_the_divisor() -> None:
    """Σ over 2N rows, divided by 2N - 1: S is 2(N - 1)/(2N - 1) of what it was."""
    x, y = sets(60, 60, 5)
    c = 2 * 59 / 119
    gap = float((x.mean(0) - y.mean(0)).square().sum())
    known = gap + c * (frechet_distance(x, y) - gap)
    assert frechet_distance(x.repeat(2, 1), y.repeat(2, 1)) == pytest.approx(known)


def test_of_equal_distributions_it_falls_as_one_over_n() -> None:
    d = 16
    fd = [sum(frechet_distance(torch.randn(n, d), torch.randn(n, d)) for _ in range(20)) / 20 for n in (200, 800, 3200)]
    scaled = [n * value for n, value in zip((200, 800, 3200), fd, strict=True)]
    assert scaled == pytest.approx([scaled[-1]] * 3, rel=0.15)
    assert fd[0] > 3 * fd[1] > 9 * fd[2] > 0


def test_samples_of_known_gaussians_come_near_their_distance() -> None:
    a, b = torch.linspace(0.5, 2, 6), torch.linspace(1, 3, 6)
    x, y = torch.randn(20000, 6) * a, torch.randn(20000, 6) * b + 1
    assert frechet_distance(x, y) == pytest.approx(float(6 + (a - b).square().sum()), rel=0.05)


def test_mean_and_covariance_are_numpys() -> None:
    x, _ = sets(2500, 2, 7)
    x += 1e5
    assert mean(x).numpy() == pytest.approx(x.numpy().mean(0), rel=1e-14)
    S = covariance(x, mean(x)).tril()
    assert S.numpy() == pytest.approx(numpy.tril(numpy.cov(x.numpy() - 1e5, rowvar=False)), abs=1e-8)
    assert (mean(torch.full((3001, 2), 0.1)) == torch.tensor(0.1).double()).all()


# peers


@pytest.mark.parametrize(("n", "m", "d"), [(300, 200, 24), (900, 1100, 64)])
@pytest.mark.parametrize("far", [0, 3])
def test_it_is_torchmetrics_value(n: int, m: int, d: int, far: float) -> None:
    fid = pytest.importorskip("torchmetrics.image.fid")

    class Identity(nn.Module):
        num_features = d

        def forward(self, x: Tensor) -> Tensor:
            return x

    x, y = (z + far for z in sets(n, m, d))
    metric = fid.FrechetInceptionDistance(feature=Identity()).set_dtype(torch.float64)
    metric.update(x, real=True)
    metric.update(y, real=False)
    assert frechet_distance(x, y) == pytest.approx(float(metric.compute()), rel=1e-6)


@pytest.mark.parametrize(("n", "m", "d"), [(300, 200, 24), (900, 1100, 64), (60, 50, 80)])
def test_it_is_torch_fidelitys_value(n: int, m: int, d: int) -> None:
    fid = fidelity("metric_fid")
    x, y = sets(n, m, d)
    told = fid.fid_statistics_to_metric(*(fid.fid_features_to_statistics(z) for z in (x, y)), verbose=False)
    assert frechet_distance(x, y) == pytest.approx(told[fid.KEY_METRIC_FID], rel=1e-6)


# at infinity


def test_at_infinity_the_bias_is_gone() -> None:
    """Of equal distributions FD is about a constant / N: what is left of it is small, and of either sign."""
    left, whole = [], []
    for _ in range(20):
        x, y = torch.randn(800, 16), torch.randn(600, 16)
        left.append(frechet_distance_infinity(x, y))
        whole.append(frechet_distance(x, y))
    assert abs(sum(left)) < 0.15 * sum(whole)
    assert min(left) < 0 < max(left)


def test_at_infinity_it_is_the_distance_of_the_gaussians() -> None:
    a = torch.linspace(1, 3, 32)
    known = 32 + float((a - 1).square().sum())
    values = [frechet_distance_infinity(torch.randn(500, 32), a * torch.randn(500, 32) + 1) for _ in range(10)]
    assert sum(values) / 10 == pytest.approx(known, rel=0.02)


def test_at_infinity_a_line_is_met_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    """FD = 3 + 70/n, with n falling from 10,000 to 5000 in the larger set, and in step with it in the other."""
    sizes = []

    def line(x: Tensor, y: Tensor) -> float:
        sizes.append((len(x), len(y)))
        assert len(x.unique()) == len(x)
        return 3 + 70 / len(x)

    monkeypatch.setattr(frechet, "frechet_distance", line)
    x, y = torch.arange(10000.0)[:, None], torch.arange(20000.0)[:, None]
    assert frechet_distance_infinity(x, y) == pytest.approx(3, abs=1e-4)
    assert (len(sizes), sizes[0], sizes[-1]) == (15, (5000, 10000), (10000, 20000))
    sizes.clear()
    frechet_distance_infinity(x[:300], y[:300], points=3)
    assert sizes == [(150, 150), (225, 225), (300, 300)]


def test_at_infinity_a_seed_decides() -> None:
    x, y = sets(100, 90, 4)
    values = [frechet_distance_infinity(x, y, seed=seed) for seed in (0, 0, 1)]
    assert values[1] == pytest.approx(values[0], rel=1e-9)
    assert values[2] != pytest.approx(values[0], rel=1e-3)


# as a metric


class Flat(Extractor):
    """Pixels, which are called FID's features if told so."""

    def __init__(self, is_fid: bool = False) -> None:
        super().__init__()
        self.is_fid = is_fid

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)


def measured(metric: FrechetDistance, n: int, is_fid: bool = False) -> tuple[dict[str, Measurement], Tensor, Tensor]:
    extractor = Flat(is_fid)
    metric.extractor = extractor
    x, y = (torch.randint(0, 256, (n, 1, 2, 3)).float() / 255 for _ in range(2))
    metric.real = extractor.features(x)
    for sample in y.split(7):
        metric.update(None, {"sample": sample, "original": sample})
    return metric.compute(), metric.real, y.flatten(1)


def test_the_metric_tells_of_what_features_it_is() -> None:
    found, x, y = measured(FrechetDistance(), 40)
    assert list(found) == ["fd (Flat)"]
    value = found["fd (Flat)"]
    assert value.value == pytest.approx(by_definition(x, y), rel=1e-6)
    assert (value.n, math.isnan(value.error)) == (40, True)
    known = {"extractor": "Flat", "is_fid": False, "weights": "", "d": 6, "real": 40, "generated": 40}
    assert dict(value.about) == known


def test_fid_is_the_name_of_inceptions_features_alone() -> None:
    found, x, y = measured(FrechetDistance(infinity=True, seed=3), 40, is_fid=True)
    assert list(found) == ["fid", "fid_infinity"]
    assert found["fid_infinity"].value == pytest.approx(frechet_distance_infinity(x, y, seed=3))
    assert found["fid_infinity"].about["seed"] == 3
    found, *_ = measured(FrechetDistance(infinity=True), 40)
    assert list(found) == ["fd (Flat)", "fd_infinity (Flat)"]


def test_no_more_examples_than_features_are_warned_of() -> None:
    with pytest.warns(UserWarning, match=r"^a Fréchet distance of 6 features from 6 examples says little: take more"):
        measured(FrechetDistance(), 6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        measured(FrechetDistance(), 7)


def test_it_is_known_by_name() -> None:
    metric = build({"type": "metrics/fd", "infinity": True, "seed": 1})
    assert isinstance(metric, FrechetDistance)
    assert (metric.infinity, metric.seed, metric.draws) == (True, 1, True)


# what is refused


@pytest.mark.parametrize(
    ("x", "y", "sentence"),
    [
        (torch.zeros(1, 3), torch.zeros(5, 3), r"needs two examples or more of each, got 1 real$"),
        (torch.zeros(5, 3), torch.zeros(0, 3), r"needs two examples or more of each, got 0 generated$"),
        (torch.zeros(5, 3), torch.zeros(5, 4), r"\(N, d\) and \(M, d\) of equal d, got \(5, 3\) and \(5, 4\)$"),
        (torch.zeros(5), torch.zeros(5), r"of equal d, got \(5,\) and \(5,\)$"),
        (torch.zeros(5, 3), torch.full((5, 3), math.nan), r"^the generated features are not all finite: look at"),
        (torch.tensor([[0.0], [math.inf]]), torch.zeros(5, 1), r"^the real features are not all finite: look at"),
    ],
)
def test_sets_that_have_no_distance_are_refused_with_a_sentence(x: Tensor, y: Tensor, sentence: str) -> None:
    for distance in (frechet_distance, frechet_distance_infinity):
        with pytest.raises(ConfigError, match=sentence):
            distance(x, y)


def test_what_is_no_covariance_is_refused_with_a_sentence() -> None:
    zero, good = torch.zeros(2), torch.eye(2)
    for bad in (torch.tensor([[1.0, 2], [2, 1]]), torch.tensor([[-1.0, 0], [0, 1]])):
        with pytest.raises(ConfigError, match=r"^no covariance has a negative eigenvalue, such as -1 beside"):
            frechet_distance_of_moments(zero, bad, zero, good)
    with pytest.raises(ConfigError, match=r"two means \(d,\) and two covariances \(d, d\) of equal d$"):
        frechet_distance_of_moments(zero, good, zero, torch.eye(3))


def test_too_few_for_infinity_are_refused_with_a_sentence() -> None:
    x, y = sets(29, 40, 3)
    with pytest.raises(ConfigError, match=r"^FD at infinity, from 15 sizes, needs 30 examples or more, got 29$"):
        frechet_distance_infinity(x, y)
