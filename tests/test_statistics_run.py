"""Models that are fitted by sums over the data, through the same loop as all others."""

import itertools
import json

import pytest
import torch
from torch.distributions import Independent, Normal

from zoo_core import (
    ConfigError,
    ModelSpec,
    PluginHost,
    Shape,
    StatisticalModel,
    TrainingError,
    from_pretrained,
    hookimpl,
)
from zoo_core.data import load
from zoo_core.evaluation import read_results
from zoo_core.training import train
from zoo_core.training.reading import parse_recipe


class Blend(StatisticalModel):
    """A Gaussian for each pixel, which moves half of the way to its maximum-likelihood place at each update."""

    def __init__(self, data_shape: Shape) -> None:
        super().__init__()
        self.data_shape = tuple(data_shape)
        self.register_buffer("mu", torch.full(self.data_shape, torch.nan))

    def begin(self, x):
        self.mu = x[0].clone()

    def distribution(self):
        normal = Normal(self.mu, torch.ones_like(self.mu), validate_args=False)
        return Independent(normal, len(self.data_shape), validate_args=False)

    def log_prob(self, x):
        return self.distribution().log_prob(x)

    def draw(self, n):
        return self.distribution().sample((n,)).clamp(0, 1)

    def statistics(self, x):
        return {
            "n": torch.tensor(float(len(x)), dtype=torch.float64),
            "objective": self.log_prob(x).double().sum(),
            "x": x.double().sum(0),
        }

    def update(self, statistics):
        self.mu = (0.5 * self.mu + 0.5 * statistics["x"] / statistics["n"]).float()


class Plugin:
    @hookimpl
    def zoo_models(self):
        yield ModelSpec(
            name="blend", target=f"{__name__}:Blend", summary="A Gaussian.",
            density="exact", sampling="parallel", latent="none",
        )  # fmt: skip


@pytest.fixture
def host(monkeypatch):
    import sys

    # The target of a spec is imported by name, under whatever name pytest has imported this file.
    monkeypatch.setitem(sys.modules, __name__, sys.modules[Blend.__module__])
    host = PluginHost()
    host.register(Plugin(), "toy")
    return host


def recipe(host, **training):
    content = {
        "name": "blend",
        "model": {"type": "toy/blend"},
        "data": {"name": "core/digits"},
        "training": {"steps": 6, "batch": 100, "log_every": 1, "save_every": 1, **training},
        "evaluation": {"metrics": ["metrics/log_prob"]},
    }
    return parse_recipe(content, host=host)


def objectives(folder):
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line["objective"] for line in lines if line["event"] == "train"]


def test_the_fit_is_the_one_of_the_whole_data_whatever_the_batch(host, tmp_path):
    x = load("digits", "train").batch(torch.arange(1437))["image"].double() / 255
    for batch in (100, 1437):
        train(recipe(host, batch=batch, steps=20), tmp_path / str(batch), host=host)
        model = from_pretrained(tmp_path / str(batch) / "model", host=host)
        torch.testing.assert_close(model.mu.double(), x.mean(0), atol=1e-5, rtol=1e-5)


def test_the_objective_never_falls_and_is_measured_on_held_out_data(host, tmp_path):
    train(recipe(host), tmp_path, host=host)
    told = objectives(tmp_path)
    assert len(told) == 6
    assert all(a < b for a, b in itertools.pairwise(told))
    results = read_results(tmp_path / "model" / "results.json")[0]
    model = from_pretrained(tmp_path / "model", host=host)
    x = load("digits", "test").batch(torch.arange(360))["image"] / 255
    assert results["values"]["log_prob"]["value"] == pytest.approx(float(model.log_prob(x).double().mean()), rel=1e-6)


def test_a_run_taken_up_again_goes_on_bit_for_bit(host, tmp_path, monkeypatch):
    train(recipe(host), tmp_path / "whole", host=host)
    update, calls = Blend.update, []

    def failing(self, statistics):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        update(self, statistics)

    monkeypatch.setattr(Blend, "update", failing)
    with pytest.raises(KeyboardInterrupt):
        train(recipe(host), tmp_path / "cut", host=host)
    monkeypatch.setattr(Blend, "update", update)
    train(recipe(host), tmp_path / "cut", host=host)
    assert objectives(tmp_path / "cut") == objectives(tmp_path / "whole")
    whole, cut = (from_pretrained(tmp_path / name / "model", host=host) for name in ("whole", "cut"))
    assert torch.equal(whole.mu, cut.mu)


def test_it_ends_when_little_is_gained(host, tmp_path):
    train(recipe(host, steps=200, tolerance=1e-6), tmp_path, host=host)
    told = objectives(tmp_path)
    assert 3 < len(told) < 30
    gains = [abs(b - a) / abs(b) for a, b in itertools.pairwise(told)]
    assert gains[-1] <= 1e-6 < min(gains[:-1])
    model = from_pretrained(tmp_path / "model", host=host)
    assert model.provenance["steps"] == len(told)


def test_what_has_ended_stays_as_it_is(host, tmp_path):
    """Started again, a run that had settled makes no further step, and neither does one that was cut at its end."""
    folders = [train(recipe(host, steps=200, tolerance=1e-6), tmp_path, host=host) for _ in range(2)]
    assert folders[0] == folders[1]
    steps = len(objectives(tmp_path))
    model = from_pretrained(folders[0], host=host)
    assert model.provenance["steps"] == steps
    twin = train(recipe(host, steps=200, tolerance=1e-6), tmp_path / "twin", host=host)
    assert torch.equal(from_pretrained(twin, host=host).mu, model.mu)
    assert len(objectives(tmp_path / "twin")) == steps


def test_an_objective_that_is_not_finite_stops_the_run(host, tmp_path, monkeypatch):
    monkeypatch.setattr(Blend, "begin", lambda self, x: None)
    with pytest.raises(TrainingError, match="the objective is nan at iteration 0"):
        train(recipe(host), tmp_path, host=host)


def test_a_loss_belongs_to_gradients_alone(host):
    base = {"name": "x", "data": {"name": "digits"}, "training": {"steps": 1}}
    with pytest.raises(ConfigError, match="loss: Blend is fitted without a loss; leave it out"):
        parse_recipe({**base, "model": {"type": "toy/blend"}, "loss": "vae/elbo"}, host=host)
    vae = {
        "type": "vae/vae",
        "encoder": {"type": "nets/mlp_encoder", "latents": 2},
        "decoder": "nets/mlp_decoder",
        "prior": "nets/standard_normal",
    }
    with pytest.raises(ConfigError, match="loss: VAE needs one; it is required"):
        parse_recipe({**base, "model": vae}, host=host)
