"""MSE and PSNR of reconstructions against scikit-learn and closed forms."""

import math
import random
from collections.abc import Iterator
from typing import Any

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import mean_squared_error
from torch import Tensor
from zoo_metrics.reconstruction import MSE, PSNR

from zoo_core import ConfigError, GenerativeModel, Measurement, Metric, build, evaluate
from zoo_core.data import InMemory

DATA = (2, 3, 4)
many = settings(max_examples=60, deadline=None, derandomize=True, database=None)


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


class Reconstructs(GenerativeModel):
    """Makes of x what it is told."""

    def __init__(self, r: Any) -> None:
        super().__init__()
        self.data_shape, self.r = DATA, r

    def reconstruct(self, x: Tensor) -> Tensor:
        return self.r(x)

    def draw(self, n: int) -> Tensor:
        raise NotImplementedError


class Nothing(GenerativeModel):
    """A model that does not reconstruct."""

    data_shape = DATA

    def draw(self, n: int) -> Tensor:
        raise NotImplementedError


def darker(x: Tensor) -> Tensor:
    """A reconstruction whose error differs from image to image, and is that of the image alone."""
    return x * x.flatten(1).mean(1)[:, None, None, None]


def measured(metric: Metric, r: Any, *batches: Tensor) -> dict[str, Measurement]:
    metric.reset()
    for x in batches:
        metric.update(Reconstructs(r), {"image": x})
    return metric.compute()


def alike(a: Measurement, b: Measurement) -> bool:
    return (a.value, a.error, a.n) == pytest.approx((b.value, b.error, b.n))


def images(n: int) -> Tensor:
    return torch.rand(n, *DATA, dtype=torch.float64)


def rows(x: Tensor) -> Any:
    return x.flatten(1).numpy()


# the values


def test_the_mse_is_scikit_learns() -> None:
    x = images(50)
    mse = measured(MSE(), darker, x)["mse"]
    assert mse.value == pytest.approx(mean_squared_error(rows(x), rows(darker(x))))
    of_each = mean_squared_error(rows(x).T, rows(darker(x)).T, multioutput="raw_values")
    assert mse.error == pytest.approx(numpy.std(of_each, ddof=1) / math.sqrt(50))
    assert mse.n == 50


def test_the_psnr_is_that_of_each_image_and_that_of_all() -> None:
    x = images(50)
    of_each = mean_squared_error(rows(x).T, rows(darker(x)).T, multioutput="raw_values")
    values = measured(PSNR(), darker, x)
    assert list(values) == ["psnr", "psnr_pooled"]
    psnr = 10 * numpy.log10(1 / of_each)
    assert values["psnr"].value == pytest.approx(psnr.mean())
    assert values["psnr"].error == pytest.approx(psnr.std(ddof=1) / math.sqrt(50))
    assert values["psnr_pooled"].value == pytest.approx(10 * math.log10(1 / of_each.mean()))
    assert values["psnr_pooled"].n == 50


@pytest.mark.parametrize("shift", [1.0, 0.1, 0.01, 1e-5])
def test_a_constant_error_has_the_psnr_worked_out_by_hand(shift: float) -> None:
    """An error of 10^-k everywhere is 20 k dB, however large the images are; white for black is 0."""
    x = images(5)
    assert measured(MSE(), lambda x: x + shift, x)["mse"].value == pytest.approx(shift**2)
    for psnr in measured(PSNR(), lambda x: x + shift, x).values():
        assert psnr.value == pytest.approx(-20 * math.log10(shift))
        assert psnr.error == pytest.approx(0, abs=1e-5)


def test_noise_has_its_variance_as_mse() -> None:
    x = images(2000)
    mse = measured(MSE(), lambda x: x + 0.2 * torch.randn_like(x), x)["mse"]
    assert abs(mse.value - 0.04) < 5 * mse.error
    assert mse.error == pytest.approx(0.04 * math.sqrt(2 / x[0].numel() / 2000), rel=0.1)


def test_the_pooled_error_is_that_of_repeated_measurements() -> None:
    """To first order: the spread of the pooled value over many data sets of 100."""

    def measure() -> Measurement:
        return measured(PSNR(), lambda x: x + 0.1 * torch.randn_like(x), images(100))["psnr_pooled"]

    values = [measure() for _ in range(200)]
    spread = numpy.std([v.value for v in values], ddof=1)
    assert numpy.mean([v.error for v in values]) == pytest.approx(spread, rel=0.2)


@many
@given(st.lists(st.floats(1e-4, 1), min_size=1, max_size=20))
def test_the_pooled_psnr_is_never_larger(shifts: list[float]) -> None:
    """Jensen: -log is convex. Equal where all images have one error."""
    by = torch.tensor(shifts, dtype=torch.float64)[:, None, None, None]
    values = measured(PSNR(), lambda x: x + by, images(len(shifts)))
    assert values["psnr_pooled"].value <= values["psnr"].value + 1e-6
    if len(set(shifts)) == 1:
        assert values["psnr_pooled"].value == pytest.approx(values["psnr"].value, abs=1e-6)
    elif max(shifts) > 1.1 * min(shifts):
        assert values["psnr_pooled"].value < values["psnr"].value


def test_a_perfect_reconstruction_has_no_error() -> None:
    x = images(3)
    assert measured(MSE(), torch.clone, x)["mse"].value == 0
    values = measured(PSNR(), torch.clone, x)
    assert values["psnr"].value == values["psnr_pooled"].value == math.inf
    # One such image makes the mean of the decibels infinite, but not the pooled value.
    one = measured(PSNR(), lambda x: x + torch.tensor([0.0, 0.1, 0.1])[:, None, None, None], x)
    assert one["psnr"].value == math.inf
    assert one["psnr_pooled"].value == pytest.approx(10 * math.log10(3 / 0.02))


# how they are gathered


@pytest.mark.parametrize("metric", [MSE(), PSNR()], ids=["mse", "psnr"])
@pytest.mark.parametrize("size", [1, 7, 50])
def test_order_and_batches_do_not_matter(metric: Metric, size: int) -> None:
    x = images(50)
    shuffled = x[random.Random(0).sample(range(50), 50)]
    whole, parts = measured(metric, darker, x), measured(metric, darker, *shuffled.split(size))
    assert parts.keys() == whole.keys()
    assert all(alike(parts[name], whole[name]) for name in whole)


@pytest.mark.parametrize("kind", [MSE, PSNR])
def test_states_of_two_processes_add_up_to_one_pass(kind: Any) -> None:
    x, here, there = images(30), kind(), kind()
    measured(here, darker, x[:11])
    measured(there, darker, x[11:])
    here.state = {name: here.state[name] + there.state[name] for name in here.state}
    whole = measured(kind(), darker, x)
    assert all(alike(value, whole[name]) for name, value in here.compute().items())


def test_small_errors_are_summed_in_float64() -> None:
    """Float32 sums of 10^-8 and 1 would lose the small one."""
    x = torch.zeros(20_001, 1, 1, 1)
    error = torch.full_like(x, 1e-4)
    error[0] = 1
    value = measured(MSE(), lambda x: x + error, x)["mse"].value
    assert value == pytest.approx((1 + 20_000 * 1e-8) / 20_001, rel=1e-7)


def test_metrics_take_part_in_an_evaluation_by_name() -> None:
    """Of a model that makes everything black, on images as it sees them."""
    stored = torch.randint(0, 256, (23, *DATA), dtype=torch.uint8)
    data = InMemory("random", "test", {"image": stored})
    values = evaluate(Reconstructs(torch.zeros_like), [build("metrics/mse"), build("metrics/psnr")], data, batch=5)
    mse = (stored.double() / 255).square().flatten(1).mean(1)
    assert values["mse"].value == pytest.approx(mse.mean().item(), rel=1e-6)
    assert values["psnr"].value == pytest.approx((-10 * mse.log10()).mean().item(), rel=1e-6)
    assert values["psnr_pooled"].value == pytest.approx(-10 * math.log10(mse.mean().item()), rel=1e-6)


@pytest.mark.parametrize("metric", [MSE(), PSNR()], ids=["mse", "psnr"])
def test_nothing_is_measured_with_gradients(metric: Metric) -> None:
    x, enabled = images(3).requires_grad_(), []

    def watched(x: Tensor) -> Tensor:
        enabled.append(torch.is_grad_enabled())
        return darker(x)

    metric.update(Reconstructs(watched), {"image": x})
    assert enabled == [False]
    assert not any(v.requires_grad for v in metric.state.values())


@pytest.mark.parametrize("name", ["mse", "psnr"])
def test_a_model_that_does_not_reconstruct_is_refused_with_a_sentence(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"^metric '{name}' needs a model that reconstructs; Nothing does not$"):
        build(f"metrics/{name}").update(Nothing(), {"image": images(2)})
