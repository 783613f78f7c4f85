"""One recipe with several values of a field: what the rate costs, and what bad input costs."""

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from zoo_core import ConfigError, TrainingError
from zoo_core.cli.main import app
from zoo_core.training import sweep as module
from zoo_core.training.sweep import parse_over, sweep

SIZE = 16
RECIPE = {
    "model": {
        "type": "vae/vae",
        "encoder": {"type": "nets/mlp_encoder", "latents": 6, "hidden": [64]},
        "decoder": {"type": "nets/mlp_decoder", "hidden": [64], "likelihood": {"type": "nets/gaussian", "sigma": 0.1}},
        "prior": "nets/standard_normal",
    },
    "loss": "vae/elbo",
    "data": {"name": "shapes", "options": {"image_size": SIZE, "objects": 1, "length": 2000}},
    "training": {"steps": 250, "batch": 64, "lr": 2.0e-3},
    "evaluation": {"metrics": ["metrics/elbo"], "examples": 500},
}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "small.yaml"
    path.write_text(yaml.safe_dump(RECIPE))
    return path


@pytest.fixture(scope="module")
def swept(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep")
    arguments = ["sweep", str(recipe), "--over", "loss.beta=0.5,1,4,16", "--plot", "rate,distortion", "-o", str(folder)]
    told = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert told.exit_code == 0, told.output
    return folder


def test_a_dearer_rate_falls_and_the_distortion_rises(swept: Path) -> None:
    """beta-VAE (Higgins et al., 2017): the optimum moves along the rate-distortion curve, by Jensen monotonically."""
    points = json.loads((swept / "sweep.json").read_text())["points"]
    assert [point["value"] for point in points] == [0.5, 1, 4, 16]
    rates, distortions = ([point["measured"][name] for point in points] for name in ("rate", "distortion"))
    assert rates == sorted(rates, reverse=True)
    assert distortions == sorted(distortions)
    assert len(set(rates)) == len(set(distortions)) == 4
    assert (swept / "rate-distortion.png").read_bytes().startswith(b"\x89PNG")


def test_finished_runs_are_not_trained_again(swept: Path, recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = json.loads((swept / "sweep.json").read_text())["points"]
    monkeypatch.setattr(module, "train", pytest.fail)
    again = sweep(recipe, "loss.beta=0.5,1,4,16", swept)
    assert [point._asdict() for point in again] == before


@pytest.mark.parametrize("over", ["loss.beta", "loss.beta=1", "=1,2", "loss.beta=[1"])
def test_a_field_and_two_values_are_needed(over: str) -> None:
    with pytest.raises(ConfigError, match="--over"):
        parse_over(over)


def test_a_bad_value_costs_no_run(recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^loss\.beta: must be a number of at least 0, got -1$"):
        sweep(recipe, "loss.beta=1,-1", tmp_path)
    assert not list(tmp_path.iterdir())


def test_another_recipe_in_the_same_folder_is_refused(swept: Path, recipe: Path) -> None:
    with pytest.raises(TrainingError, match="another recipe"):
        sweep(recipe, "loss.beta=0.5,1", swept, ["training.steps=300"])
