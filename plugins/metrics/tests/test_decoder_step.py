"""Steps of a decoder whose derivative is known."""

import math
from collections.abc import Iterator
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor
from zoo_metrics.geometry.decoder_step import DecoderStep, directions

from tests.registered import coded_model
from zoo_core import ConfigError, GenerativeModel, Measurement, build, evaluate
from zoo_core.data import InMemory

DATA = (1, 4, 5)
NAMES = ["decoder_step_5", "decoder_step_50", "decoder_step_95"]


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


class Linear(GenerativeModel):
    """g(z) = W z for codes that are the first values of x, in float64."""

    data_shape = DATA

    def __init__(self, W: Tensor) -> None:
        super().__init__()
        self.W = W

    def encode(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, : self.W.shape[1]].double()

    def decode(self, z: Tensor) -> Tensor:
        return (z @ self.W.T).unflatten(-1, DATA)

    def draw(self, n: int) -> Tensor:
        raise NotImplementedError


class Squares(Linear):
    """g(z) = W z^2, whose derivative at z is 2 W z."""

    def decode(self, z: Tensor) -> Tensor:
        return super().decode(z.square())


class Nothing(GenerativeModel):
    data_shape = DATA

    def draw(self, n: int) -> Tensor:
        raise NotImplementedError


class Encodes(Nothing):
    def encode(self, x: Tensor) -> Tensor:
        return x


def orthonormal(c: float) -> Tensor:
    return c * torch.linalg.qr(torch.randn(20, 3, dtype=torch.float64)).Q


def measured(model: Any, *batches: Tensor, **arguments: Any) -> dict[str, Measurement]:
    metric = DecoderStep(**arguments)
    for x in batches:
        metric.update(model, {"image": x})
    return metric.compute()


def values(measurements: dict[str, Measurement]) -> list[float]:
    assert list(measurements) == NAMES
    return [m.value for m in measurements.values()]


@pytest.mark.parametrize("c", [0.1, 1.0, 30.0])
@pytest.mark.parametrize("eps", [1e-5, 1e-3, 1.0])
def test_an_orthonormal_decoder_takes_steps_of_one_length(c: float, eps: float) -> None:
    found = measured(Linear(orthonormal(c)), torch.randn(40, *DATA), eps=eps)
    assert values(found) == pytest.approx([c, c, c], rel=1e-7)
    assert found["decoder_step_5"].about == {"eps": eps}
    assert found["decoder_step_5"].n == 40
    assert math.isnan(found["decoder_step_5"].error)


def test_a_linear_decoder_takes_steps_of_w_u() -> None:
    """At the same directions u, as numpy counts percentiles; in any batches."""
    W, x = torch.randn(20, 3, dtype=torch.float64), torch.randn(60, *DATA)
    torch.manual_seed(3)
    u = torch.cat([directions(torch.empty(n, 3, dtype=torch.float64)) for n in (25, 35)])
    by_hand = numpy.percentile((u @ W.T).norm(dim=1).numpy(), [5, 50, 95])
    torch.manual_seed(3)
    found = values(measured(Linear(W), *x.split([25, 35])))
    assert found == pytest.approx(by_hand.tolist(), rel=1e-9)
    assert found[0] < found[1] < found[2]


def test_it_is_the_derivative_where_the_code_is() -> None:
    """One latent: || 2 w z ||, so that percentiles are those of |z|."""
    w, x = torch.randn(20, 1, dtype=torch.float64), torch.randn(200, *DATA)
    expected = numpy.percentile(2 * w.norm().item() * x.flatten(1)[:, 0].abs().double().numpy(), [5, 50, 95])
    assert values(measured(Squares(w), x, eps=1e-6)) == pytest.approx(expected.tolist(), rel=1e-3)


def test_directions_are_uniform_on_the_sphere() -> None:
    u = directions(torch.empty(20_000, 2, 2, dtype=torch.float64)).flatten(1)
    torch.testing.assert_close(u.norm(dim=1), torch.ones(20_000, dtype=torch.float64))
    torch.testing.assert_close(u.T @ u / 20_000, torch.eye(4, dtype=torch.float64) / 4, rtol=0, atol=0.01)
    assert u.mean(0).abs().max() < 0.02


def test_float32_is_enough() -> None:
    encoder = {"type": "nets/mlp_encoder", "latents": 4, "hidden": [8]}
    parts = {"encoder": encoder, "decoder": "nets/mlp_decoder", "prior": "nets/standard_normal"}
    model, x, found = build({"type": "vae/vae", **parts}, data_shape=DATA), torch.rand(50, *DATA), []
    for dtype in (torch.float32, torch.float64):
        metric = DecoderStep()
        z = model.to(dtype).encode(x.to(dtype))
        u = torch.eye(4, dtype=dtype)[torch.arange(50) % 4]
        found.append((model.decode(z + metric.eps * u).double() - model.decode(z).double()).flatten(1).norm(dim=1))
    assert torch.allclose(found[0], found[1], rtol=0.02)


def test_it_takes_part_in_an_evaluation_by_name() -> None:
    data = InMemory("random", "test", {"image": torch.randint(0, 256, (120, *DATA), dtype=torch.uint8)})
    metric = build("metrics/decoder_step")
    found = evaluate(Linear(orthonormal(2.0)), [metric], data, batch=50)
    assert values(found) == pytest.approx([2, 2, 2], rel=1e-6)
    assert found["decoder_step_5"][2:5] == (120, "1", "neither")
    assert not metric.kept("step").requires_grad


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (Nothing(), "needs a model that encodes; Nothing does not"),
        (Encodes(), "needs a model that decodes; Encodes does not"),
        (coded_model(), "VQVAE encodes into indices"),
    ],
    ids=["none", "encodes", "codes"],
)
def test_a_model_without_real_latents_is_refused(model: Any, sentence: str) -> None:
    with pytest.raises(ConfigError, match=f"^metric 'decoder_step' .*{sentence}"):
        DecoderStep().update(model, {"image": torch.rand(2, 1, 8, 8)})
