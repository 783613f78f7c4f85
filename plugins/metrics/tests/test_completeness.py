"""Draws beside and among the data, and MMD where it has a formula."""

import math
from collections.abc import Iterator
from typing import Any

import numpy
import pytest
import torch
from sklearn.neighbors import NearestNeighbors
from torch import Tensor
from torch.distributions import Independent, MultivariateNormal, Normal
from zoo_metrics.geometry.completeness import Completeness, among
from zoo_metrics.geometry.mmd import median_distance, mmd

from tests.registered import coded_model
from zoo_core import ConfigError, GenerativeModel, Measurement, build, evaluate
from zoo_core.data import InMemory

DATA = (1, 2, 3)


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


class Latent(GenerativeModel):
    """x = z, z ~ N(0, I); q(z|x) is a Gaussian around x of a width of its own."""

    data_shape = latent_shape = DATA

    def __init__(self, shift: float = 0.0, width: float = 0.1) -> None:
        super().__init__()
        self.shift, self.width = shift, width

    def prior(self) -> Independent:
        return Independent(Normal(torch.zeros(DATA), 1.0), 3)

    def encoder(self, x: Tensor) -> Independent:
        return Independent(Normal(x + self.shift, self.width), 3)

    def encode(self, x: Tensor) -> Tensor:
        return self.encoder(x).mean

    def decode(self, z: Tensor) -> Tensor:
        return z

    def draw(self, n: int) -> Tensor:
        return self.prior().sample(torch.Size((n,)))


class Nothing(GenerativeModel):
    data_shape = DATA

    def draw(self, n: int) -> Tensor:
        raise NotImplementedError


def batch(x: Tensor, sample: Tensor) -> dict[str, Tensor]:
    return {"image": x, "original": x, "sample": sample}


def measured(model: Any, x: Tensor, sample: Tensor, size: int = 50, **arguments: Any) -> dict[str, Measurement]:
    metric = Completeness(**arguments)
    for a, b in zip(x.split(size), sample.split(size), strict=True):
        metric.update(model, batch(a, b))
    return metric.compute()


# completeness


def by_scikit_learn(real: Tensor, drawn: Tensor, k: int) -> float:
    """Precision: of each real point the k nearest others, and whether a draw is as near to one as these."""
    a, b = real.flatten(1).double().numpy(), drawn.flatten(1).double().numpy()
    radii = NearestNeighbors(n_neighbors=k + 1).fit(a).kneighbors(a)[0][:, -1]
    d = numpy.linalg.norm(b[:, None] - a[None], axis=2)
    return float((d <= radii).any(1).mean())


@pytest.mark.parametrize("k", [1, 3, 5])
def test_it_is_the_share_of_draws_among_the_data(k: int) -> None:
    real, drawn = torch.randn(200, *DATA), 1.5 * torch.randn(200, *DATA)
    p = by_scikit_learn(real, drawn, k)
    assert 0.1 < p < 0.95
    value = measured(Latent(), real, drawn, k=k)["completeness"]
    assert value.value == pytest.approx(p)
    assert value.error == pytest.approx(math.sqrt(p * (1 - p) / 199))
    assert (value.n, value.about) == (200, {"k": k})


def test_draws_of_the_data_are_all_among_them_and_others_are_not() -> None:
    real = torch.randn(100, *DATA)
    assert measured(Latent(), real, real.flip(0))["completeness"].value == 1
    assert measured(Latent(), real, real + 100)["completeness"].value == 0


def test_an_encoder_that_leaves_holes_shows() -> None:
    """Data at two places: between them an interpolating decoder draws what is no datum."""
    side = torch.randint(0, 2, (300, 1, 1, 1)) * 2 - 1.0
    real = side + 0.1 * torch.randn(300, *DATA)
    holes = among(real.flatten(1), (torch.rand(300, 1) * 2 - 1) + 0.1 * torch.randn(300, 6), 3)
    none = among(real.flatten(1), real.flatten(1).flip(0) + 0.01 * torch.randn(300, 6), 3)
    assert holes.value < 0.5 < 0.95 < none.value


# MMD


def expected(m: float, s: float, d: int, scale: float) -> float:
    """MMD^2 of N(0, I) and N(m 1, s^2 I), whose Gaussian kernels have expectations in closed form."""

    def kernel(variance: float, shift: float) -> float:
        total = scale**2 + variance
        return (scale**2 / total) ** (d / 2) * math.exp(-d * shift**2 / (2 * total))

    return kernel(2, 0) + kernel(2 * s**2, 0) - 2 * kernel(1 + s**2, m)


@pytest.mark.parametrize(("m", "s"), [(0.0, 1.0), (0.5, 1.0), (0.0, 0.5), (1.0, 2.0)])
@pytest.mark.parametrize("scale", [0.7, 2.0])
def test_it_is_the_closed_form_of_gaussians_on_average(m: float, s: float, scale: float) -> None:
    d, sizes = 3, (40, 60)
    draws = (torch.randn(400, sizes[0], d), m + s * torch.randn(400, sizes[1], d))
    values = numpy.array([mmd(x, y, scale) for x, y in zip(*draws, strict=True)])
    error = values.std(ddof=1) / math.sqrt(400)
    assert values.mean() == pytest.approx(expected(m, s, d, scale), abs=4 * error)
    assert error < 0.003
    if m == 0 and s == 1:
        assert expected(m, s, d, scale) == pytest.approx(0, abs=1e-12)
        assert (values < 0).mean() > 0.3


def test_it_is_the_sum_over_pairs() -> None:
    x, y = torch.randn(5, 2, dtype=torch.float64), torch.randn(4, 2, dtype=torch.float64) + 1

    def k(a: Tensor, b: Tensor) -> float:
        return math.exp(-float((a - b).square().sum()) / (2 * 1.3**2))

    by_hand = (
        sum(k(x[i], x[j]) for i in range(5) for j in range(5) if i != j) / 20
        + sum(k(y[i], y[j]) for i in range(4) for j in range(4) if i != j) / 12
        - 2 * sum(k(a, b) for a in x for b in y) / 20
    )
    assert mmd(x, y, 1.3) == pytest.approx(by_hand, rel=1e-12)


def test_it_does_not_depend_on_where_the_points_lie() -> None:
    x, y = torch.randn(60, 2, dtype=torch.float64), torch.randn(50, 2, dtype=torch.float64) + 1
    assert mmd(x + 1e6, y + 1e6, 1.3) == pytest.approx(mmd(x, y, 1.3), rel=1e-8)


@pytest.mark.parametrize("block", [1, 7, 1000])
def test_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    x, y = torch.randn(30, 2), torch.randn(20, 2)
    whole = mmd(x, y, 1.0)
    monkeypatch.setattr("zoo_metrics.geometry.mmd.BLOCK", block)
    assert mmd(x, y, 1.0) == pytest.approx(whole, abs=1e-12)


def test_the_median_distance_is_that_of_pairs() -> None:
    assert median_distance(torch.tensor([[0.0], [1.0], [3.0]])) == pytest.approx(2)
    x = torch.randn(40, 3, dtype=torch.float64)
    d = [float((a - b).norm()) for i, a in enumerate(x) for b in x[:i]]
    assert median_distance(x + 100) == pytest.approx(sorted(d)[(len(d) - 1) // 2], rel=1e-9)


def test_codes_that_follow_the_prior_have_none_of_it() -> None:
    """q(z) = N(0, I) where x ~ N(0, 1 - w^2) is widened by w; a shifted encoder has more than that."""
    w = 0.6
    x = math.sqrt(1 - w**2) * torch.randn(1000, *DATA)
    value = measured(Latent(width=w), x, x)["latent_mmd"]
    assert abs(value.value) < 0.003
    shifted = measured(Latent(shift=0.5, width=w), x, x)["latent_mmd"]
    scale = median_distance(torch.cat([torch.randn(1000, 6), 0.5 + torch.randn(1000, 6)]))
    assert scale == pytest.approx(math.sqrt(2 * 6), rel=0.1)
    assert shifted.value == pytest.approx(expected(0.5, 1.0, 6, scale), rel=0.15)
    assert value.better == "lower"
    assert math.isnan(value.error)


# how they are gathered


@pytest.mark.parametrize("size", [3, 50, 100])
def test_the_first_examples_are_taken(size: int) -> None:
    real, drawn = torch.randn(100, *DATA), 1.5 * torch.randn(100, *DATA)
    first = measured(Latent(width=1e-6), real, drawn, size, examples=60)
    assert first["completeness"].value == pytest.approx(by_scikit_learn(real[:60], drawn[:60], 3))
    assert first["completeness"].n == first["latent_mmd"].n == 60


def test_no_more_is_kept_than_is_needed() -> None:
    metric, x = Completeness(examples=60), torch.randn(50, *DATA)
    for _ in range(3):
        metric.update(Latent(), batch(x, x))
    assert list(metric.rows) == ["real", "drawn", "code", "prior"]
    assert all(list(map(len, chunks)) == [50, 10, 0] for chunks in metric.rows.values())


def test_it_takes_part_in_an_evaluation_by_name() -> None:
    """Of probabilistic PCA as a plugin fits it: reconstructions of the data's own mean lie among them."""
    images = torch.randint(0, 256, (300, *DATA), dtype=torch.uint8)
    data = InMemory("random", "test", {"image": images})
    model = build({"type": "classical/ppca", "latents": 2}, data_shape=DATA)
    x = images.float() / 255
    model.begin(x)
    model.update(model.statistics(x))
    with pytest.warns(UserWarning, match="'completeness' says little of 300 examples"):
        values = evaluate(model, [build("metrics/completeness")], data, batch=70)
    assert list(values) == ["completeness", "latent_mmd"]
    assert 0.9 < values["completeness"].value <= 1
    assert abs(values["latent_mmd"].value) < 0.02
    assert [v.better for v in values.values()] == ["higher", "lower"]


# what is refused


def test_too_few_examples_are_refused() -> None:
    x = torch.randn(3, *DATA)
    with pytest.raises(ConfigError, match="needs more than 3 examples, got 3"):
        measured(Latent(), x, x)
    with pytest.raises(ConfigError, match="MMD needs two examples at least of each kind, got 1 and 3"):
        mmd(torch.randn(1, 2), torch.randn(3, 2), 1.0)


def test_latents_that_do_not_differ_are_refused() -> None:
    with pytest.raises(ConfigError, match="half of the pairs among 8 are equal"):
        median_distance(torch.ones(8, 2))


def test_draws_of_another_shape_are_refused() -> None:
    x = torch.randn(5, *DATA)
    with pytest.raises(ConfigError, match=r"draws data of shape \(1, 3, 2\), and the data have \(1, 2, 3\)"):
        Completeness().update(Latent(), batch(x, x.mT))


@pytest.mark.parametrize(
    ("model", "sentence"),
    [(Nothing(), r"needs a model with q\(z\|x\); Nothing has none"), (coded_model(), "VQVAE encodes into indices")],
    ids=["none", "codes"],
)
def test_a_model_without_real_latents_is_refused(model: Any, sentence: str) -> None:
    x = torch.rand(2, 1, 8, 8)
    with pytest.raises(ConfigError, match=f"^metric 'completeness' .*{sentence}"):
        Completeness().update(model, batch(x, x))


def test_priors_of_any_batch_shape_are_drawn_from() -> None:
    """One p(z) for all, or one for each example."""
    model: Any = Latent()
    model.prior = lambda: MultivariateNormal(torch.zeros(40, 6), torch.eye(6))
    x = torch.randn(40, *DATA)
    assert measured(model, x, x)["latent_mmd"].n == 40
