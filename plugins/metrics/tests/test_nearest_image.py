"""The nearest image of what is drawn for a caption: models whose answers are known."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy
import pytest
import torch
from sklearn.metrics import pairwise_distances
from torch import Tensor
from zoo_metrics.nearest_image import NearestImage

from tests.registered import model as unconditional
from zoo_core import Batch, ConfigError, GenerativeModel, Measurement, build, evaluate
from zoo_core.data import InMemory

DATA = (2, 3, 4)
TOP1, TOP5 = "nearest_image_accuracy", "nearest_image_accuracy_top5"


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


class Draws(GenerativeModel):
    """Draws of each caption, which is the number of an image, what ``answer`` makes of these numbers."""

    def __init__(self, answer: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.data_shape, self.answer, self.numbers = DATA, answer, torch.tensor([])

    def given(self, batch: Batch) -> "Draws":
        told = Draws(self.answer)
        told.numbers = torch.tensor([int(caption) for caption in batch["caption"]])
        return told

    def draw(self, n: int) -> Tensor:
        assert n == len(self.numbers)
        return self.answer(self.numbers)


def images(n: int) -> Tensor:
    return torch.randint(0, 256, (n, *DATA)).float() / 255


def batch(x: Tensor, first: int = 0) -> dict[str, Any]:
    return {"image": x, "caption": [str(first + i) for i in range(len(x))]}


def measured(answer: Callable[[Tensor], Tensor], x: Tensor, size: int = 7) -> dict[str, Measurement]:
    metric = NearestImage(chunk=3)
    update(metric, answer, x, size)
    return metric.compute()


def update(metric: NearestImage, answer: Callable[[Tensor], Tensor], x: Tensor, size: int, first: int = 0) -> None:
    for start in range(first, len(x), size):
        told = batch(x[start : start + size], start)
        view = Draws(answer).given(told)
        metric.update(view, {**told, "sample": view.sample(len(told["image"]))})


def values(measurements: dict[str, Measurement]) -> list[float]:
    return [m.value for m in measurements.values()]


# the values


def test_a_model_that_draws_each_image_is_always_right() -> None:
    x = images(20)
    found = measured(lambda i: x[i], x)
    assert found == {TOP1: Measurement(1, 0, 20), TOP5: Measurement(1, 0, 20)}


def test_a_model_that_draws_other_images_never_is() -> None:
    """Where image i is far from all but i + 1: nearest of all is the one that is drawn, its neighbours come next."""
    x = torch.arange(20.0)[:, None, None, None].expand(20, *DATA)
    assert values(measured(lambda i: x[(i + 1) % 20], x)) == [0, 19 / 20]
    assert values(measured(lambda i: x[(i + 10) % 20], x)) == [0, 0]


@pytest.mark.parametrize("k", range(8))
def test_the_top_five_are_five(k: int) -> None:
    """Along a line with ever larger steps the first is drawn as the k-th after it: those before that one are nearer."""
    x = (4.0 ** torch.arange(10))[:, None, None, None].expand(10, *DATA)
    drawn = x.clone()
    drawn[0] = x[k]
    found = measured(lambda i: drawn[i], x)
    assert values(found) == [1 if k < 1 else 0.9, 1 if k < 5 else 0.9]


def test_noise_is_told_from_what_it_was_added_to_while_it_is_small() -> None:
    x = images(50)
    gap = torch.pdist(x.flatten(1)).min()
    noise = torch.randn_like(x)
    noise *= 0.49 * gap / noise.flatten(1).norm(dim=1)[:, None, None, None]
    assert measured(lambda i: x[i] + noise[i], x)[TOP1].value == 1
    assert measured(lambda i: x[i] + 100 * noise[i], x)[TOP1].value < 1


def test_it_is_what_scikit_learns_distances_say() -> None:
    x = images(60)
    drawn = 0.2 * x + 0.8 * images(60)
    d = pairwise_distances(drawn.flatten(1).double().numpy(), x.flatten(1).double().numpy())
    rank = (d < numpy.diag(d)[:, None]).sum(1)
    found = measured(lambda i: drawn[i], x)
    assert 0.1 < (rank < 1).mean() < (rank < 5).mean() < 1
    for name, hits in ((TOP1, rank < 1), (TOP5, rank < 5)):
        assert found[name].value == pytest.approx(hits.mean())
        assert found[name].error == pytest.approx(hits.std(ddof=1) / math.sqrt(60))
        assert found[name].n == 60


def test_a_model_deaf_to_its_captions_is_right_by_chance() -> None:
    x = images(400)
    answers = torch.randint(0, 400, (400,))
    found = measured(lambda i: x[answers[i]], x)
    assert found[TOP1].value == (answers == torch.arange(400)).double().mean()
    assert found[TOP5].value == pytest.approx(5 / 400, abs=4 * math.sqrt(5) / 400)


def test_equal_images_do_not_count_against_each_other() -> None:
    """Ten times the same two images: each is drawn exactly, or a little off, which is as far from all its equals."""
    x = images(2).repeat(10, 1, 1, 1)
    assert values(measured(lambda i: x[i], x)) == [1, 1]
    assert values(measured(lambda i: x[i] + 0.01, x)) == [1, 1]
    assert values(measured(lambda i: x[(i + 1) % 20], x)) == [0, 0]


@pytest.mark.parametrize("far", [1.0, 1e6])
def test_images_as_near_as_its_own_do_not_count_against_it(far: float) -> None:
    """Black is equally far from all images with one pixel that is not."""
    x = torch.eye(24).view(24, *DATA) * far
    assert values(measured(torch.zeros_like(x).__getitem__, x)) == [1, 1]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_wrong_and_disturbs_no_other(value: float) -> None:
    x = images(10)
    drawn = x.clone()
    drawn[3, 0, 0, 0] = value
    assert values(measured(lambda i: drawn[i], x)) == [0.9, 0.9]


def test_one_example_has_no_error() -> None:
    x = images(1)
    found = measured(lambda i: x[i], x)[TOP1]
    assert (found.value, found.n) == (1, 1)
    assert math.isnan(found.error)


# how they are gathered


@pytest.mark.parametrize("size", [1, 7, 30])
@pytest.mark.parametrize("chunk", [1, 11, 100])
def test_batches_and_chunks_do_not_matter(size: int, chunk: int) -> None:
    x = images(30)
    drawn = 0.3 * x + 0.7 * images(30)
    metric = NearestImage(chunk=chunk)
    update(metric, lambda i: drawn[i], x, size)
    assert metric.compute() == measured(lambda i: drawn[i], x)


def test_states_of_two_processes_add_up_to_one_pass() -> None:
    """Also where both have had equal batches, and with the images of both as candidates."""
    x = images(15).repeat(2, 1, 1, 1)
    drawn = 0.3 * x + 0.7 * images(15).repeat(2, 1, 1, 1)
    here, there = NearestImage(), NearestImage()
    update(here, lambda i: drawn[i], x[:15], 5)
    update(there, lambda i: drawn[i], x, 5, first=15)
    here.rows = {name: here.rows[name] + there.rows[name] for name in here.rows}
    assert here.compute() == measured(lambda i: drawn[i], x)
    assert here.compute()[TOP1].n == 30


def test_reset_forgets_and_nothing_is_nothing() -> None:
    metric, x = NearestImage(), images(4)
    assert metric.compute() == {}
    update(metric, lambda i: x[i] * 0, x, 4)
    metric.reset()
    assert metric.compute() == {}


def test_it_takes_part_in_an_evaluation_by_name() -> None:
    """One noisy draw for each caption, by the seed alone."""
    stored = torch.randint(0, 256, (23, *DATA), dtype=torch.uint8)
    data = InMemory("random", "test", {"image": stored, "caption": [str(i) for i in range(23)]})
    noisy = Draws(lambda i: stored[i] / 255 + 0.7 * torch.randn(len(i), *DATA))
    metrics = [build("metrics/nearest_image")]
    first, again, other = (evaluate(noisy, metrics, data, batch=5, seed=seed)[TOP1] for seed in (0, 0, 1))
    assert first == again
    assert first != other
    assert 0 < first.value < 1
    assert first.unit == "1"
    exact = evaluate(Draws(lambda i: stored[i] / 255), metrics, data, batch=5)
    assert exact[TOP1] == Measurement(1, 0, 23, "1", "higher")


def test_nothing_is_measured_with_gradients() -> None:
    x, enabled = images(3).requires_grad_(), []

    def watched(i: Tensor) -> Tensor:
        enabled.append(torch.is_grad_enabled())
        return x[i]

    metric = NearestImage()
    update(metric, watched, x, 3)
    assert enabled == [False]
    assert not metric.kept("drawn").requires_grad


# what is refused


def test_data_without_captions_are_refused_with_a_sentence() -> None:
    with pytest.raises(ConfigError, match=r"^metric 'nearest_image' needs data with captions"):
        NearestImage().update(Draws(torch.clone), {"image": images(2)})


def test_a_model_without_captions_is_refused_with_a_sentence() -> None:
    model, told = unconditional(), batch(images(2))
    with pytest.raises(
        ConfigError, match=r"^metric 'nearest_image' needs a model .* given captions; vae/vae has none$"
    ):
        NearestImage().update(model.given(told), told)


@pytest.mark.parametrize("data", [torch.zeros(3, 1, 2, 2), torch.zeros(3, *DATA).long()])
def test_codes_in_the_place_of_images_are_refused_with_a_sentence(data: Tensor) -> None:
    with pytest.raises(ConfigError, match=r"draws data of shape \(2, 3, 4\), .*; measure on the images themselves$"):
        update(NearestImage(), lambda i: torch.rand(len(i), *DATA), data, 3)
