"""A stranger's plugin, from its two files to a trained model: everything that the zoo's own plugins can do."""

import ast
import json
from pathlib import Path
from typing import Any

import pytest

import zoo_core
from tests.installation import build_wheel, empty_venv, run, uninstall
from zoo_core.evaluation import read_results

pytest_plugins = ["tests.wheelhouse"]

PROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "zoo-outside"
version = "0.3"
dependencies = ["zoo-core>=0.1,<0.2"]

[project.entry-points.zoo_core]
outside = "zoo_outside.plugin"
"""

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

# Samples do not depend on the encoder: what it makes of pictures is drawn too.
DRAW = """
    import torch
    def draw(model, seed):
        x = torch.linspace(0, 1, 5 * 64).reshape(5, 1, 8, 8)
        samples = model.sample(5, generator=torch.Generator().manual_seed(seed))
        return {"samples": samples.numpy().tobytes().hex(), "codes": model.encode(x).detach().numpy().tobytes().hex()}
"""

TRAIN = """
    import json, sys
    from pathlib import Path
    from zoo_core import read_recipe, train
    from zoo_core.training.checkpoints import newest
    from zoo_core.training.gradients import GradientRun
    from zoo_core.training.processes.group import Processes
    from zoo_core.training.processes.interruption import Interruption
    recipe, folder = read_recipe(sys.argv[1]), Path(sys.argv[2])
    model = train(recipe, folder)
    left = GradientRun(recipe, folder, Processes(), Interruption(), resume=newest(folder / "checkpoints")).model.eval()
    print(json.dumps({"model": str(model), "equal": draw(left, 0), "other": draw(left, 1)}))
"""

LOAD = """
    import json, sys
    from zoo_core import from_pretrained
    model = from_pretrained(sys.argv[1])
    modules = {name: type(part).__module__ for name, part in model.named_children()}
    print(json.dumps({"equal": draw(model, 0), "modules": modules}))
"""

ASK = """
    import json, sys
    from zoo_core import UnknownComponent, check, default_host, from_pretrained, read_recipe
    def said(function, *arguments):
        try:
            return f"no error but {function(*arguments)}"
        except UnknownComponent as error:
            return str(error)
    print(json.dumps({
        "plugins": sorted(default_host().plugins),
        "checkpoint": said(from_pretrained, sys.argv[1]),
        "recipe": said(read_recipe, sys.argv[2]),
        "metric": said(check, "metrics/elbo"),
    }))
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the plugin's source and the recipe."""
    folder = tmp_path_factory.mktemp("outside")
    (folder / "source" / "zoo_outside").mkdir(parents=True)
    written = {"__init__.py": "", "plugin.py": PLUGIN, "parts.py": PARTS}
    for name, text in written.items():
        (folder / "source" / "zoo_outside" / name).write_text(text, encoding="utf-8")
    (folder / "source" / "pyproject.toml").write_text(PROJECT, encoding="utf-8")
    (folder / "projected-digits.yaml").write_text(RECIPE, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def python(place: Path, wheels: dict[str, Path]) -> Path:
    """The interpreter of an environment with the zoo and the plugin."""
    return empty_venv(place, [*wheels.values(), build_wheel(place / "source", place)])


@pytest.fixture(scope="module")
def trained(place: Path, python: Path) -> Any:
    """Trains the recipe; what the model draws is taken from what training left, before it was saved as a model."""
    return json.loads(run(python, DRAW + TRAIN, place / "projected-digits.yaml", place / "run"))


@pytest.fixture(scope="module")
def loaded(trained: Any, python: Path) -> Any:
    """What the saved model draws in another process, and who made its parts."""
    return json.loads(run(python, DRAW + LOAD, trained["model"]))


@pytest.fixture(scope="module")
def left_alone(loaded: Any, trained: Any, place: Path, python: Path) -> Any:
    """What is said when the plugin is gone, and with it one of the zoo's own; the last thing done in there."""
    uninstall(python, "zoo-outside", "zoo-metrics")
    return json.loads(run(python, ASK, trained["model"], place / "projected-digits.yaml"))


def events(place: Path, name: str) -> list[dict[str, float]]:
    lines = map(json.loads, (place / "run" / "log.jsonl").read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line["event"] == name]


def test_it_takes_less_than_thirty_lines(place: Path) -> None:
    texts = [file.read_text(encoding="utf-8") for file in (place / "source").rglob("*.py")]
    lines = [line for text in texts for line in text.splitlines() if line.strip()]
    assert 0 < len(lines) < 30


def test_it_needs_public_names_only(place: Path) -> None:
    trees = [ast.parse(file.read_text(encoding="utf-8")) for file in (place / "source").rglob("*.py")]
    imports = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ImportFrom | ast.Import)]
    names = {alias.name for node in imports if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert {node.module for node in imports if isinstance(node, ast.ImportFrom)} == {"zoo_core"}
    assert {alias.name for node in imports if isinstance(node, ast.Import) for alias in node.names} == {"torch"}
    assert names <= set(zoo_core.__all__)


def test_its_loss_falls_in_training(trained: Any, place: Path) -> None:
    losses = [line["loss"] for line in events(place, "train")]
    assert len(losses) == 60
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_its_loss_is_measured_on_held_out_data(trained: Any, place: Path) -> None:
    (held_out,) = events(place, "held_out")
    first = events(place, "train")[0]
    assert held_out["loss"] < 0.8 * first["loss"]
    assert 0 < held_out["distance"] < held_out["loss"]


def test_its_model_is_measured_by_another_plugin(trained: Any) -> None:
    results = read_results(Path(trained["model"]) / "results.json")[0]
    assert results["data"] == "digits"
    assert {value["n"] for value in results["values"].values()} == {100}


def test_its_model_is_saved_with_full_names_and_versions(trained: Any) -> None:
    config = json.loads((Path(trained["model"]) / "config.json").read_text(encoding="utf-8"))
    assert config["model"]["encoder"]["type"] == "outside/projection"
    assert config["plugins"].keys() == {"vae", "nets", "outside"}
    assert config["plugins"]["outside"] == "0.3"


def test_its_model_is_loaded_with_its_own_encoder(loaded: Any) -> None:
    assert loaded["modules"] == {"encoder": "zoo_outside.parts", "decoder": "zoo_nets.mlp", "prior": "zoo_nets.priors"}


@pytest.mark.parametrize(("drawn", "numbers"), [("samples", 5 * 64), ("codes", 5 * 8)])
def test_another_process_draws_the_same_bit_for_bit(drawn: str, numbers: int, trained: Any, loaded: Any) -> None:
    assert len(bytes.fromhex(loaded["equal"][drawn])) == numbers * 4
    assert loaded["equal"][drawn] == trained["equal"][drawn]


def test_another_generator_draws_something_else(trained: Any) -> None:
    assert trained["other"]["samples"] != trained["equal"]["samples"]
    assert trained["other"]["codes"] == trained["equal"]["codes"]


def test_it_is_gone_once_it_is_uninstalled(left_alone: Any) -> None:
    assert {"core", "nets", "vae"} <= {*left_alone["plugins"]}
    assert not {"outside", "metrics"} & {*left_alone["plugins"]}


@pytest.mark.parametrize("asked", ["checkpoint", "recipe"])
def test_when_it_is_missing_it_is_named_but_not_suggested(asked: str, left_alone: Any) -> None:
    """What a stranger's file names must not become what a user installs."""
    said = left_alone[asked]
    assert "'outside/projection'" in said
    assert "no plugin 'outside' is installed" in said
    assert "pip" not in said
    assert "zoo-outside" not in said


def test_a_missing_plugin_of_the_zoo_is_suggested(left_alone: Any) -> None:
    assert "pip install zoo-metrics" in left_alone["metric"]
