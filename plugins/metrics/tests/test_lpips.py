"""What is handed to the package lpips, by a stand-in that records it, and what is said where it is missing."""

import sys
import types
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from zoo_metrics.lpips import LPIPS, loaded

from zoo_core import ConfigError, GenerativeModel, build

DATA = (3, 8, 8)


class Network(nn.Module):
    """In the place of ``lpips.LPIPS``: half the mean difference, in its shape."""

    made: list[dict[str, Any]] = []
    given: list[tuple[Tensor, Tensor]] = []

    def __init__(self, **arguments: Any) -> None:
        super().__init__()
        self.made.append(arguments)
        if arguments["net"] == "vgg":
            raise OSError("no such host")

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        assert not self.training
        assert not torch.is_grad_enabled()
        if a.shape[-1] < 4:
            raise RuntimeError("Output size is too small")
        self.given.append((a, b))
        return ((a - b).abs().mean((1, 2, 3)) / 2).view(-1, 1, 1, 1)


class Darker(GenerativeModel):
    data_shape = DATA

    def reconstruct(self, x: Tensor) -> Tensor:
        return x / 2

    def draw(self, n: int) -> Tensor:
        raise NotImplementedError


class Nothing(GenerativeModel):
    data_shape = DATA

    def draw(self, n: int) -> Tensor:
        raise NotImplementedError


@pytest.fixture(autouse=True)
def package(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    stand_in: Any = types.ModuleType("lpips")
    stand_in.LPIPS = Network
    Network.made, Network.given = [], []
    monkeypatch.setitem(sys.modules, "lpips", stand_in)
    loaded.cache_clear()
    yield stand_in
    loaded.cache_clear()


def images(channels: int = 3) -> Tensor:
    return torch.rand(4, channels, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("net", ["alex", "squeeze"])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_are_given_from_minus_1_to_1_in_three_channels(net: Any, channels: int) -> None:
    x, metric = images(channels), LPIPS(net=net)
    metric.update(Darker(), {"image": x})
    ((a, b),) = Network.given
    assert a.shape == b.shape == (4, 3, 8, 8)
    assert a.dtype == b.dtype == torch.float32
    torch.testing.assert_close(a, (2 * x - 1).expand(4, 3, 8, 8))
    torch.testing.assert_close(b, (x - 1).expand(4, 3, 8, 8))
    value = metric.compute()["lpips"]
    of_each = x.mean((1, 2, 3)).double() / 2
    assert value.value == pytest.approx(of_each.mean().item(), rel=1e-5)
    assert value.error == pytest.approx(of_each.std().item() / 2, rel=1e-4)
    assert value.n == 4
    assert value.about == {"net": net, "version": "0.1"}
    assert Network.made == [{"net": net, "version": "0.1", "verbose": False}]


def test_the_network_is_loaded_once() -> None:
    for metric in (LPIPS(), LPIPS(), build({"type": "metrics/lpips", "net": "alex"})):
        metric.update(Darker(), {"image": images()})
    assert len(Network.made) == 1
    assert list(metric.parameters()) == []


@pytest.mark.parametrize("missing", [ImportError("No module named 'torchvision'"), RuntimeError("operator nms")])
def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, missing: Exception) -> None:
    class Missing:
        def find_spec(self, name: str, *rest: Any) -> None:
            if name == "lpips":
                raise missing

    monkeypatch.delitem(sys.modules, "lpips")
    monkeypatch.setattr(sys, "meta_path", [Missing(), *sys.meta_path])
    with pytest.raises(ConfigError, match=r"^metric 'lpips' needs the packages lpips and torchvision: pip install"):
        LPIPS().update(Darker(), {"image": images()})


def test_weights_that_cannot_be_had_are_named() -> None:
    with pytest.raises(ConfigError, match="the weights of 'vgg' cannot be had: no such host"):
        LPIPS(net="vgg").update(Darker(), {"image": images()})


def test_images_that_are_too_small_for_the_network_are_refused() -> None:
    x = torch.rand(2, 3, 2, 2)
    with pytest.raises(ConfigError, match=r"^metric 'lpips': 'alex' does not take .* \(3, 2, 2\): Output size"):
        LPIPS().update(Darker(), {"image": x})


@pytest.mark.parametrize("x", [torch.full((2, 4, 8, 8), 0.5), torch.full((2, 8), 0.5), torch.ones(2, 3, 8, 8).long()])
def test_what_is_no_image_is_refused(x: Tensor) -> None:
    with pytest.raises(ConfigError, match=r"^metric 'lpips' needs grey or colour images"):
        LPIPS().update(Darker(), {"image": x})


def test_a_model_that_does_not_reconstruct_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^metric 'lpips' needs a model that reconstructs; Nothing does not$"):
        LPIPS().update(Nothing(), {"image": images()})


def test_nothing_is_nothing() -> None:
    assert LPIPS().compute() == {}
