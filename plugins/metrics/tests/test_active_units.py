"""Active units: of codes whose variances are known, however far from 0 and however they are dealt out."""

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from zoo_metrics.active_units import ActiveUnits, merged, moments

from tests.registered import coded_model
from zoo_core import ConfigError, GenerativeModel, Measurement, build, evaluate
from zoo_core.data import InMemory

DATA = (1, 2, 5)


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


class Encodes(GenerativeModel):
    """Whose code is what it is told to make of x."""

    data_shape = DATA

    def __init__(self, code: Any = torch.clone) -> None:
        super().__init__()
        self.code = code

    def encode(self, x: Tensor) -> Tensor:
        return self.code(x)

    def draw(self, n: int) -> Tensor:
        raise NotImplementedError


class Nothing(GenerativeModel):
    data_shape = DATA

    def draw(self, n: int) -> Tensor:
        raise NotImplementedError


def measured(z: Tensor, *sizes: int, **arguments: Any) -> dict[str, Measurement]:
    metric = ActiveUnits(**arguments)
    for part in z.split(list(sizes) or [len(z)]):
        metric.update(Encodes(), {"image": part})
    return metric.compute()


def with_variances(*variances: float, n: int = 1000, mean: float = 0.0) -> Tensor:
    """Codes (n, D) with exactly these variances over all of them."""
    z = torch.randn(n, len(variances), dtype=torch.float64)
    z = (z - z.mean(0)) / z.std(0, correction=0)
    return mean + z * torch.tensor(variances, dtype=torch.float64).sqrt()


@pytest.mark.parametrize("mean", [0.0, -3.0, 1e3, 1e6])
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_units_are_active_above_a_hundredth(mean: float, size: int) -> None:
    z = with_variances(0.0, 0.0099, 0.0101, 1.0, 1e-6, 50.0, mean=mean)
    sizes = [size] * (1000 // size) + [1000 % size] * (1000 % size > 0)
    values = measured(z, *sizes)
    assert list(values) == ["active_units", "latent_units"]
    assert (values["active_units"].value, values["latent_units"].value) == (3, 6)
    assert values["active_units"].n == 1000
    assert math.isnan(values["active_units"].error)
    assert values["active_units"].about == {"threshold": 0.01}


def test_float32_codes_far_from_0_keep_their_variance() -> None:
    """Their squares would not: 10^10 and a variance of 0.04 are beyond float32."""
    z = with_variances(0.04, 0.0, mean=1e5).float()
    assert measured(z, 300, 700)["active_units"].value == 1
    torch.testing.assert_close(moments(z), moments(z.double()))


def test_the_variance_is_that_of_the_whole_set() -> None:
    """Divided by n, not by n - 1: it is no estimate for other examples."""
    assert measured(with_variances(0.0095, 0.0105, n=10))["active_units"].value == 1


def test_the_threshold_is_an_argument() -> None:
    z = with_variances(0.3, 0.1, 0.6)
    assert [measured(z, threshold=t)["active_units"].value for t in (0.05, 0.2, 0.5, 0.7)] == [3, 2, 1, 0]


def test_merged_moments_are_those_of_all_rows() -> None:
    z = 1e4 + torch.randn(97, 3, dtype=torch.float64) * torch.tensor([1.0, 0.01, 100.0])
    n, mean, squares = merged(torch.stack([moments(part) for part in z.split([50, 1, 0, 46])]))
    assert n.tolist() == [97, 97, 97]
    torch.testing.assert_close(mean, z.mean(0), rtol=1e-14, atol=0)
    torch.testing.assert_close(squares / n, z.var(0, correction=0), rtol=1e-9, atol=0)


def test_a_grid_of_latents_counts_every_place() -> None:
    z = torch.randn(50, 2, 3, 4)
    z[:, 1] = 1
    values = measured(z)
    assert (values["active_units"].value, values["latent_units"].value) == (12, 24)


def test_rows_of_two_processes_are_those_of_one() -> None:
    z = with_variances(0.0098, 0.0102, n=60)
    here, there = ActiveUnits(), ActiveUnits()
    here.update(Encodes(), {"image": z[:23]})
    there.update(Encodes(), {"image": z[23:]})
    here.rows = {name: [*here.rows[name], *there.rows[name]] for name in here.rows}
    assert here.compute()["active_units"][0::2][:2] == (1, 60)


def test_a_collapsed_posterior_has_none() -> None:
    """By name, in an evaluation: of a VAE of two units, one of which the encoder does not use."""
    encoder = {"type": "nets/linear_encoder", "latents": 2}
    parts = {"encoder": encoder, "decoder": "nets/linear_decoder", "prior": "nets/standard_normal"}
    model = build({"type": "vae/vae", **parts}, data_shape=DATA)
    (weight, bias) = model.encoder.parameters()
    with torch.no_grad():
        weight.zero_()
        weight[0] = 1.0
        bias.fill_(5.0)
    data = InMemory("random", "test", {"image": torch.randint(0, 256, (40, *DATA), dtype=torch.uint8)})
    with pytest.warns(UserWarning, match="'active_units' says little of 40 examples"):
        values = evaluate(model, [build("metrics/active_units")], data, batch=7)
    active, units = values["active_units"], values["latent_units"]
    assert (active.value, active.n, active.unit, active.better) == (1, 40, "1", "higher")
    assert (units.value, units.better) == (2, "neither")


def test_nothing_is_measured_with_gradients() -> None:
    enabled = []

    def watched(x: Tensor) -> Tensor:
        enabled.append(torch.is_grad_enabled())
        return x

    ActiveUnits().update(Encodes(watched), {"image": torch.rand(3, 2, requires_grad=True)})
    assert enabled == [False]


def test_one_example_has_no_variance() -> None:
    with pytest.raises(
        ConfigError, match=r"^metric 'active_units' needs two examples at least, got 1: raise examples$"
    ):
        measured(torch.rand(1, 4))


@pytest.mark.parametrize(
    ("model", "sentence"),
    [(Nothing(), "needs a model that encodes; Nothing does not"), (coded_model(), "VQVAE encodes into indices")],
    ids=["none", "codes"],
)
def test_a_model_without_real_latents_is_refused(model: Any, sentence: str) -> None:
    with pytest.raises(ConfigError, match=f"^metric 'active_units' .*{sentence}"):
        ActiveUnits().update(model, {"image": torch.rand(2, 1, 8, 8)})
