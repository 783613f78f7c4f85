"""A stranger's plugin of two files: its encoder and loss train with the parts of others, and are missed elsewhere."""

import ast
import json
from pathlib import Path

import pytest

import zoo_core
from tests.installed import install, python
from zoo_core import UnknownComponent, from_pretrained, read_recipe
from zoo_core.evaluation import read_results

PLUGIN = """\
from zoo_core import EncoderSpec, LossSpec, hookimpl


@hookimpl
def zoo_encoders():
    yield EncoderSpec(name="projection", target="zoo_outside.parts:Projection", summary="A fixed random projection.")


@hookimpl
def zoo_losses():
    yield LossSpec(name="wasserstein", target="zoo_outside.parts:Wasserstein", summary="Transport instead of KL.")
"""

PARTS = '''\
import torch

from zoo_core import Encoder, Loss, LossOutput, NonNegativeFloat, PositiveInt, Posterior, Shape


class Projection(Encoder):
    """q(z|x) = posterior(W R x): R is drawn once, only W is learned."""

    def __init__(self, data_shape: Shape, latents: PositiveInt, posterior: Posterior) -> None:
        super().__init__()
        self.data_shape, self.latent_shape, self.posterior = tuple(data_shape), (latents,), posterior
        self.register_buffer("R", torch.randn(torch.Size(data_shape).numel(), 4 * latents))
        self.W = torch.nn.Linear(4 * latents, posterior.channels(latents))

    def forward(self, x):
        return self.posterior(self.W(x.flatten(1) @ self.R / x[0].numel() ** 0.5), 1)


class Wasserstein(Loss):
    """E_q[-log p(x|z)] + weight W2(q(z|x), N(0, I))^2, for a diagonal Gaussian q."""

    def __init__(self, weight: NonNegativeFloat = 1.0) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, model, batch):
        q = model.encoder(batch["image"])
        distortion = -model.decoder(q.rsample()).log_prob(batch["image"])
        distance = q.mean.square().sum(1) + (q.stddev - 1).square().sum(1)
        return LossOutput((distortion + self.weight * distance).mean(), {"distance": distance.mean().detach()})
'''

RECIPE = """\
model:
  type: vae/vae
  encoder: {type: outside/projection, latents: 8, posterior: nets/diagonal_gaussian}
  decoder: {type: nets/mlp_decoder, hidden: [64]}
  prior: nets/standard_normal
loss: {type: outside/wasserstein, weight: 0.1}
data: {name: digits}
training: {steps: 60, batch: 64, lr: 5.0e-3, log_every: 1}
evaluation: {metrics: [metrics/elbo], examples: 100}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the plugin as pip leaves it, and the recipe."""
    folder = tmp_path_factory.mktemp("outside")
    modules = {"plugin.py": PLUGIN, "parts.py": PARTS}
    install(folder / "site", "outside", version="0.3", requires=["zoo-core>=0.1,<0.2"], modules=modules)
    (folder / "projected-digits.yaml").write_text(RECIPE, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def trained(place: Path) -> Path:
    """The model of a process that has the plugin, as this one has not."""
    recipe, run = (str(place / name) for name in ("projected-digits.yaml", "run"))
    done = python("-m", "zoo_core.cli", "train", recipe, "-o", run, site=place / "site")
    assert done.returncode == 0, done.stderr
    return place / "run" / "model"


def events(place: Path, name: str) -> list[dict[str, float]]:
    lines = map(json.loads, (place / "run" / "log.jsonl").read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line["event"] == name]


def test_it_takes_less_than_thirty_lines() -> None:
    lines = [line for text in (PLUGIN, PARTS) for line in text.splitlines() if line.strip()]
    assert 0 < len(lines) < 30


def test_it_needs_public_names_only() -> None:
    imports = [node for text in (PLUGIN, PARTS) for node in ast.walk(ast.parse(text))]
    imports = [node for node in imports if isinstance(node, ast.ImportFrom | ast.Import)]
    names = {alias.name for node in imports if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert {node.module for node in imports if isinstance(node, ast.ImportFrom)} == {"zoo_core"}
    assert {alias.name for node in imports if isinstance(node, ast.Import) for alias in node.names} == {"torch"}
    assert names <= set(zoo_core.__all__)


def test_its_loss_falls_in_training(trained: Path, place: Path) -> None:
    losses = [line["loss"] for line in events(place, "train")]
    assert len(losses) == 60
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_its_loss_is_measured_on_held_out_data(trained: Path, place: Path) -> None:
    (held_out,) = events(place, "held_out")
    first = events(place, "train")[0]
    assert held_out["loss"] < 0.8 * first["loss"]
    assert 0 < held_out["distance"] < held_out["loss"]


def test_its_model_is_measured_by_another_plugin(trained: Path) -> None:
    results = read_results(trained / "results.json")[0]
    assert results["data"] == "digits"
    assert {value["n"] for value in results["values"].values()} == {100}


def test_its_model_is_saved_with_full_names_and_versions(trained: Path) -> None:
    config = json.loads((trained / "config.json").read_text(encoding="utf-8"))
    assert config["model"]["encoder"]["type"] == "outside/projection"
    assert config["plugins"].keys() == {"vae", "nets", "outside"}
    assert config["plugins"]["outside"] == "0.3"


@pytest.mark.parametrize("asked", ["checkpoint", "recipe"])
def test_where_it_is_missing_it_is_named_but_not_suggested(asked: str, trained: Path, place: Path) -> None:
    """What a stranger's file names must not become what a user installs."""
    with pytest.raises(UnknownComponent, match="no plugin 'outside' is installed") as refusal:
        from_pretrained(trained) if asked == "checkpoint" else read_recipe(place / "projected-digits.yaml")
    said = str(refusal.value)
    assert "'outside/projection'" in said
    assert "pip" not in said
    assert "zoo-outside" not in said
