"""Diagnostics on encoders whose Jacobian and data are known."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from zoo_autoencoder.diagnostics import dead_units, local_tangents, score, sensitivity, singular_values

from zoo_core import build


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def linear(W: Tensor, posterior: str = "nets/dirac") -> Any:
    """An autoencoder with z = W x, decoded by the transpose."""
    config = {
        "type": "autoencoder/autoencoder",
        "encoder": {"type": "nets/linear_encoder", "latents": len(W), "posterior": posterior},
        "decoder": "nets/linear_decoder",
        "prior": "nets/standard_normal",
    }
    model = build(config, data_shape=(W.shape[1],)).double()
    weights = {"encoder.body.1.weight": W, "decoder.body.1.weight": W.T}
    zeros = {name: torch.zeros_like(value) for name, value in model.state_dict().items()}
    model.load_state_dict(zeros | weights)
    return model


def orthogonal(n: int) -> Tensor:
    return torch.linalg.qr(torch.randn(n, n, dtype=torch.float64)).Q


def test_singular_values_of_a_linear_map() -> None:
    s = torch.tensor([3.0, 2.0, 0.5]).double()
    W = orthogonal(3) @ torch.diag(s) @ orthogonal(5)[:3]
    assert torch.allclose(singular_values(linear(W).encoder, torch.randn(7, 5).double()), s.expand(7, 3))


def test_singular_values_of_an_image_encoder_on_a_grid() -> None:
    encoder = {"type": "nets/conv_encoder", "latents": 2, "channels": [3, 3], "layout": "grid"}
    assert singular_values(build(encoder, data_shape=(1, 8, 8)), torch.rand(4, 1, 8, 8)).shape == (4, 8)


def test_sensitivity_splits_the_directions() -> None:
    """z = diag(3, 2, 0.5) applied to axes 0, 1, 2; axis 3 is not seen."""
    W = torch.diag(torch.tensor([3.0, 2.0, 0.5])).double() @ torch.eye(4).double()[:3]
    axes = torch.eye(4).double().expand(6, 4, 4)
    mixed = axes[:, :, 1:3] @ torch.tensor([[1.0, 2.0], [0.0, 5.0]]).double()
    along, across = sensitivity(linear(W).encoder, torch.randn(6, 4).double(), mixed)
    assert torch.allclose(along, torch.tensor([2.0, 0.5]).double().expand(6, 2))
    assert torch.allclose(across, torch.tensor([3.0, 0.0]).double().expand(6, 2))


@pytest.mark.parametrize("dimensions", [1, 2])
def test_local_tangents_of_a_plane(dimensions: int) -> None:
    basis = orthogonal(5)[:, :dimensions]
    x = torch.randn(60, dimensions).double() @ basis.T + 1
    T = local_tangents(x, dimensions, neighbours=8)
    assert T.shape == (60, 5, dimensions)
    assert torch.allclose(T @ T.mT, (basis @ basis.T).expand(60, 5, 5))


def test_local_tangents_of_a_circle() -> None:
    t = torch.linspace(0, 6.28, 400).double()
    T = local_tangents(torch.stack([t.cos(), t.sin()], -1), dimensions=1, neighbours=6)[3:-3, :, 0]
    cosines = (T * torch.stack([-t.sin(), t.cos()], -1)[3:-3]).sum(-1).abs()
    assert cosines.min() > 0.999


def test_dead_units_hardly_vary() -> None:
    W = torch.diag(torch.tensor([1.0, 1e-4, 0.0, 0.5])).double()
    x = torch.randn(500, 4).double()
    assert dead_units(linear(W).encoder, x) == 0.5
    assert dead_units(linear(W).encoder, x, tolerance=0.0) == 0.25
    assert dead_units(linear(W, "autoencoder/sigmoid").encoder, x) == 0.5


def test_the_score_of_a_gaussian_by_its_best_denoiser() -> None:
    """r(x) = x s^2 / (s^2 + sigma^2) denoises N(0, s^2 I) best, which under noise has the score -x / (s^2 + sigma^2).

    Also outside [0, 1], where pictures are cut off.
    """
    s, sigma = 2.0, 0.5
    shrink = torch.eye(3).double() * (s**2 / (s**2 + sigma**2)) ** 0.5
    x = 3 * torch.randn(10, 3).double()
    assert torch.allclose(score(linear(shrink), x, sigma), -x / (s**2 + sigma**2))
