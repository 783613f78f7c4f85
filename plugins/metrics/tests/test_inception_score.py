"""The Inception Score: its extremes, its entropies, the packages, and classifiers that are sure beyond all measure."""

import math
from collections.abc import Iterator

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy
from torch import Tensor, nn
from zoo_metrics.samples.inception_score import InceptionScore, inception_score

from tests.peers import fidelity
from zoo_core import ConfigError, DataError, Extractor, GenerativeModel, build, evaluate
from zoo_core.data import InMemory

many = settings(max_examples=60, deadline=None, derandomize=True, database=None)


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def sure(labels: Tensor, classes: int, by: float = 1e4) -> Tensor:
    """Logits of a classifier that is sure of these labels."""
    return by * nn.functional.one_hot(labels, classes).float()


def shuffled(logits: Tensor, seed: int) -> Tensor:
    return logits[torch.randperm(len(logits), generator=torch.Generator().manual_seed(seed))]


def with_scipy(logits: Tensor) -> tuple[float, float, float]:
    """The score of a single split, H(y) and the mean H(y|x)."""
    p = logits.double().softmax(1).numpy()
    divergence = entropy(p, p.mean(0, keepdims=True), axis=1).mean()
    return math.exp(divergence), float(entropy(p.mean(0))), float(entropy(p, axis=1).mean())


@many
@given(st.integers(1, 30), st.integers(2, 8), st.floats(0, 20), st.integers(0, 2**16))
def test_one_split_is_what_scipy_finds(n: int, classes: int, spread: float, seed: int) -> None:
    logits = spread * torch.randn(n, classes, generator=torch.Generator().manual_seed(seed))
    told, (score, label, conditional) = inception_score(logits, splits=1), with_scipy(logits)
    assert told.scores.item() == pytest.approx(score, rel=1e-9)
    assert told.marginal.item() == pytest.approx(label, abs=1e-9)
    assert told.conditional.mean().item() == pytest.approx(conditional, abs=1e-9)
    assert told.scores.log().item() == pytest.approx(label - conditional, abs=1e-9)
    assert 1 - 1e-12 <= told.scores.item() <= classes + 1e-9


@pytest.mark.parametrize(("n", "splits"), [(50, 1), (100, 10), (103, 10), (11, 10), (7, 7)])
def test_it_is_that_of_torch_fidelity_on_the_same_order(n: int, splits: int) -> None:
    theirs = fidelity("metric_isc").isc_features_to_metric
    logits = 3 * torch.randn(n, 6)
    told = theirs(shuffled(logits, 5), splits=splits, shuffle=False)
    scores = inception_score(logits, splits, seed=5).scores
    assert scores.mean().item() == pytest.approx(told["inception_score_mean"], rel=1e-12)
    assert scores.std(correction=0).item() == pytest.approx(told["inception_score_std"], abs=1e-12)


class Given(nn.Module):
    """Features that are the images themselves."""

    num_features = 6

    def forward(self, x: Tensor) -> Tensor:
        return x


@pytest.mark.filterwarnings("ignore:Metric `InceptionScore` will save all extracted features")
@pytest.mark.parametrize(("n", "splits", "chunks"), [(100, 10, 10), (60, 4, 4), (11, 10, 6)])
def test_it_is_that_of_torchmetrics_where_the_splits_are_equal(n: int, splits: int, chunks: int) -> None:
    peer = pytest.importorskip("torchmetrics.image.inception").InceptionScore
    logits = 3 * torch.randn(n, 6, dtype=torch.float64)
    metric = peer(feature=Given(), splits=splits)
    metric.update(logits)
    torch.manual_seed(5)
    mean, _ = metric.compute()
    scores = inception_score(logits, splits, seed=5).scores
    # It shuffles by torch's own generator, which the same seed brings to the same order; and it cuts chunks of
    # ceil(N / splits), of which 11 samples fill 6, where the splits here are those that were asked for.
    assert len(scores) == splits
    if chunks == splits:
        assert scores.mean().item() == pytest.approx(mean.item(), rel=1e-12)
    else:
        parts = [inception_score(part, 1).scores for part in shuffled(logits, 5).chunk(splits)]
        assert len(parts) == chunks
        assert torch.cat(parts).mean().item() == pytest.approx(mean.item(), rel=1e-12)


@pytest.mark.parametrize("by", [30.0, 1e3, 1e30, 1e300])
@pytest.mark.parametrize("splits", [1, 3])
def test_a_collapsed_generator_scores_exactly_one(by: float, splits: int) -> None:
    logits = sure(torch.full((31,), 2), 5).double() * (by / 1e4)
    told = inception_score(logits, splits)
    assert torch.equal(told.scores, torch.ones(splits, dtype=torch.float64))
    assert told.marginal.item() == pytest.approx(told.conditional.mean().item(), abs=1e-9)


def test_samples_of_which_all_the_same_is_said_score_exactly_one() -> None:
    assert inception_score(torch.randn(1, 7).expand(40, 7), 4).scores.tolist() == [1, 1, 1, 1]


def test_where_the_packages_say_nan() -> None:
    logits = sure(torch.full((20,), 1), 4, by=1e3)
    assert math.isnan(fidelity("metric_isc").isc_features_to_metric(logits, splits=2)["inception_score_mean"])
    assert inception_score(logits, 2).scores.tolist() == [1, 1]


@pytest.mark.parametrize("classes", [2, 10])
def test_every_class_alike_and_for_certain_scores_the_number_of_classes(classes: int) -> None:
    told = inception_score(sure(torch.arange(20 * classes) % classes, classes), splits=1)
    assert told.scores.item() == pytest.approx(classes, rel=1e-12)
    assert told.marginal.item() == pytest.approx(math.log(classes), rel=1e-12)
    assert told.conditional.eq(0).all()


def test_a_classifier_that_knows_nothing_tells_both_entropies_in_full() -> None:
    told = inception_score(torch.zeros(30, 8), splits=1)
    assert told.scores.item() == 1
    assert told.marginal.item() == pytest.approx(math.log(8))
    assert told.conditional.numpy() == pytest.approx(numpy.full(30, math.log(8)))


def test_k_of_the_classes_score_k() -> None:
    labels = torch.arange(60) % 3
    assert inception_score(sure(labels, 10), splits=1).scores.item() == pytest.approx(3)


def test_every_sample_is_in_one_split() -> None:
    # Of certain labels that all differ, a split of n samples scores n.
    told = inception_score(sure(torch.arange(23), 23), splits=5)
    assert told.scores.numpy() == pytest.approx(numpy.array([4, 5, 4, 5, 5]))


def test_the_shuffle_is_that_of_the_seed_alone() -> None:
    logits = 3 * torch.randn(40, 5)
    first = inception_score(logits, 4, seed=1).scores
    torch.manual_seed(9)
    assert torch.equal(inception_score(logits, 4, seed=1).scores, first)
    assert not torch.equal(inception_score(logits, 4, seed=2).scores, first)
    # Sorted by class, splits in order would each see a single class, and score 1.
    assert inception_score(sure(torch.arange(60) // 20, 3), 3).scores.min() > 2


def test_adding_to_all_logits_changes_nothing() -> None:
    logits = torch.randn(30, 4)
    for a, b in zip(inception_score(logits), inception_score(logits.double() + 1e3), strict=True):
        assert torch.allclose(a, b, rtol=1e-9)


def test_too_few_samples_and_logits_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"^10 splits need logits \(N, C\) of 10 samples or more, got \(9, 3\)$"):
        inception_score(torch.randn(9, 3))
    with pytest.raises(ConfigError, match=r"^logits must be finite"):
        inception_score(torch.tensor([[0.0, math.nan]]), splits=1)


class Draws(GenerativeModel):
    """Draws what it is told, in turn."""

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        self.data_shape, self.images, self.drawn = tuple(images.shape[1:]), images, 0

    def draw(self, n: int) -> Tensor:
        self.drawn += n
        return self.images[self.drawn - n : self.drawn]


class Brightest(Extractor):
    """A classifier: which pixel is the brightest."""

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)

    def logits(self, images: Tensor) -> Tensor:
        return 20 * images.flatten(1)


def measured(metric: InceptionScore, drawn: Tensor) -> dict[str, tuple[float, float, int, str, str]]:
    data = InMemory("noise", "test", {"image": torch.zeros(drawn.shape, dtype=torch.uint8)})
    return {name: value[:5] for name, value in evaluate(Draws(drawn), [metric], data, batch=7).items()}


@pytest.mark.filterwarnings("ignore:metric 'inception_score' says little")
def test_the_metric_reports_the_score_its_spread_and_both_entropies() -> None:
    drawn = torch.randint(256, (50, 1, 2, 3)).float() / 255
    told = measured(InceptionScore(Brightest(), splits=4, seed=3), drawn)
    scores, marginal, conditional = inception_score(20 * drawn.flatten(1), 4, 3)
    expected = {
        "inception_score": (scores.mean(), scores.std() / 2, "1", "higher"),
        "inception_score_std": (scores.std(correction=0), math.nan, "1", "neither"),
        "label_entropy": (marginal, math.nan, "nats", "neither"),
        "conditional_entropy": (conditional.mean(), conditional.std() / math.sqrt(50), "nats", "neither"),
    }
    assert set(told) == {f"{name} (Brightest)" for name in expected}
    for name, (value, error, unit, better) in expected.items():
        own = told[f"{name} (Brightest)"]
        assert own[:2] == pytest.approx((float(value), float(error)), rel=1e-9, nan_ok=True)
        assert own[2:] == (50, unit, better)


@pytest.mark.filterwarnings("ignore:metric 'inception_score' says little")
def test_features_that_are_no_classifier_are_refused() -> None:
    with pytest.raises(ConfigError, match="'pixels' is no classifier"):
        measured(InceptionScore(build("metrics/pixels", "extractor")), torch.rand(20, 1, 2, 2))


@pytest.mark.filterwarnings("ignore:metric 'inception_score' says little")
def test_samples_that_are_no_images_are_refused() -> None:
    with pytest.raises((ConfigError, DataError), match="image"):
        measured(InceptionScore(Brightest()), torch.rand(20, 4))
