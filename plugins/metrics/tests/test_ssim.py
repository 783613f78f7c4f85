"""Structural similarity against scikit-image and closed forms."""

from collections.abc import Iterator
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor
from zoo_metrics.ssim import SSIM, structural_similarity, windowed

from zoo_core import ConfigError, GenerativeModel, build, evaluate
from zoo_core.data import InMemory


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


class Reconstructs(GenerativeModel):
    """Makes of x what it is told."""

    def __init__(self, r: Any, shape: tuple[int, ...] = (3, 14, 17)) -> None:
        super().__init__()
        self.data_shape, self.r = shape, r

    def reconstruct(self, x: Tensor) -> Tensor:
        return self.r(x)

    def draw(self, n: int) -> Tensor:
        raise NotImplementedError


class Nothing(GenerativeModel):
    """A model that does not reconstruct."""

    data_shape = (1, 28, 28)

    def draw(self, n: int) -> Tensor:
        raise NotImplementedError


def images(n: int = 5, shape: tuple[int, ...] = (3, 14, 17)) -> Tensor:
    """Smooth ones, and noise."""
    return (torch.rand(n, *shape, dtype=torch.float64) + torch.linspace(0, 1, shape[-1])) / 2


def by_skimage(x: Tensor, y: Tensor) -> list[float]:
    """The mean over channels, and over the places whose window of 11 lies inside."""
    metrics = pytest.importorskip("skimage.metrics")
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}
    return [
        metrics.structural_similarity(a.numpy(), b.numpy(), channel_axis=0, full=True, **settings)[1][
            :, 5:-5, 5:-5
        ].mean()
        for a, b in zip(x.double(), y.double(), strict=True)
    ]


# the value


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 14, 17), (3, 11, 11), (2, 40, 12)], ids=str)
@pytest.mark.parametrize("noise", [0.01, 0.2])
def test_it_is_scikit_images(shape: tuple[int, ...], noise: float) -> None:
    x = images(4, shape)
    y = (x + noise * torch.randn_like(x)).clamp(0, 1)
    value = structural_similarity(x, y)
    assert value.dtype == torch.float64
    assert value.tolist() == pytest.approx(by_skimage(x, y), abs=1e-10)


def test_it_is_scikit_images_own_mean() -> None:
    """Which leaves out a margin of the same width, of grey images."""
    metrics = pytest.importorskip("skimage.metrics")
    x = images(1, (1, 28, 28))
    y = x.square()
    own = metrics.structural_similarity(
        x[0, 0].numpy(), y[0, 0].numpy(), gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1.0
    )
    assert structural_similarity(x, y).item() == pytest.approx(own, abs=1e-10)


def test_float32_images_are_compared_in_float64() -> None:
    x = images(4).float()
    y = x + 1e-3 * torch.randn_like(x)
    assert structural_similarity(x, y).tolist() == pytest.approx(by_skimage(x, y), abs=1e-10)


def test_equal_images_have_1() -> None:
    x = images()
    torch.testing.assert_close(structural_similarity(x, x), torch.ones(5, dtype=torch.float64))


def test_flat_images_have_the_value_worked_out_by_hand() -> None:
    """Without variance only the light counts: (2 a b + C) / (a^2 + b^2 + C)."""
    a, b, C = 0.3, 0.9, 0.01**2
    x = torch.full((1, 1, 20, 20), a, dtype=torch.float64)
    expected = (2 * a * b + C) / (a**2 + b**2 + C)
    assert structural_similarity(x, x * b / a).item() == pytest.approx(expected, rel=1e-10)


def test_the_negative_is_anticorrelated() -> None:
    """Around one half the light is the same, and the structure is its own opposite."""
    x = 0.5 + 0.4 * (torch.rand(3, 1, 30, 30, dtype=torch.float64).round() - 0.5)
    value = structural_similarity(x, 1 - x)
    assert (value < -0.8).all()


def test_it_is_symmetric_and_at_most_1() -> None:
    x, y = images(), images()
    torch.testing.assert_close(structural_similarity(x, y), structural_similarity(y, x))
    assert structural_similarity(x, y).max() < 1


def test_the_window_is_a_gaussian_of_eleven_pixels() -> None:
    """What a single bright pixel leaves."""
    x = torch.zeros(1, 1, 21, 21, dtype=torch.float64)
    x[0, 0, 10, 10] = 1
    places = numpy.arange(-5, 6)
    weights = numpy.exp(-(places**2) / (2 * 1.5**2))
    weights /= weights.sum()
    torch.testing.assert_close(windowed(x)[0, 0], torch.from_numpy(numpy.outer(weights, weights)))


# how it is measured


def test_it_takes_part_in_an_evaluation_by_name() -> None:
    stored = torch.randint(0, 256, (23, 3, 14, 17), dtype=torch.uint8)
    data = InMemory("random", "test", {"image": stored})
    value = evaluate(Reconstructs(lambda x: x.square()), [build("metrics/ssim")], data, batch=5)["ssim"]
    x = stored.float() / 255
    of_each = numpy.array(by_skimage(x, x.square()))
    assert value.value == pytest.approx(of_each.mean(), abs=1e-8)
    assert value.error == pytest.approx(of_each.std(ddof=1) / numpy.sqrt(23), rel=1e-6)
    assert value[2:][:3] == (23, "1", "higher")


def test_nothing_is_measured_with_gradients() -> None:
    enabled = []

    def watched(x: Tensor) -> Tensor:
        enabled.append(torch.is_grad_enabled())
        return x

    metric = SSIM()
    metric.update(Reconstructs(watched), {"image": images().requires_grad_()})
    assert enabled == [False]
    assert not any(v.requires_grad for v in metric.state.values())


# what is refused


@pytest.mark.parametrize(
    "x",
    [
        torch.full((2, 1, 10, 28), 0.5),
        torch.full((2, 1, 28, 10), 0.5),
        torch.full((2, 7), 0.5),
        torch.ones(2, 1, 28, 28).long(),
    ],
)
def test_what_has_no_room_for_the_window_is_refused(x: Tensor) -> None:
    with pytest.raises(ConfigError, match=r"^metric 'ssim' needs images of 11 x 11 pixels at least"):
        SSIM().update(Reconstructs(torch.clone), {"image": x})


def test_a_model_that_does_not_reconstruct_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^metric 'ssim' needs a model that reconstructs; Nothing does not$"):
        SSIM().update(Nothing(), {"image": images(2, (1, 28, 28))})
