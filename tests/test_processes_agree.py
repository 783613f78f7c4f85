"""One run on one process and on several real ones: the same losses, weights and measurements, whoever computes them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from tests.zygote import Child, Zygote, ends, zygote
from zoo_core import build, read_recipe, save_pretrained, train
from zoo_core.data import Preprocessing, load
from zoo_core.evaluation import read_results

__all__ = ["zygote"]

STEPS = 50
# 1,437 digits: an epoch has 22 batches of 64 and one of 29, whose four parts are of 8, 7, 7 and 7.
TRAINING: dict[str, Any] = {
    **{"steps": STEPS, "batch": 64, "micro_batch": 16, "drop_last": False, "precision": "no"},
    **{"log_every": 1, "evaluate_every": 20, "save_every": 0, "trackers": []},
}
DIGITS = {"name": "core/digits"}
VAE = {
    "type": "vae/vae",
    "encoder": {"type": "nets/mlp_encoder", "latents": 3, "hidden": [16]},
    "decoder": {"type": "nets/mlp_decoder", "hidden": [16]},
    "prior": "nets/standard_normal",
}
VQVAE = {
    "type": "vqvae/vqvae",
    "encoder": {"type": "nets/conv_encoder", "latents": 4, "channels": [8, 8], "layout": "grid"},
    # So many codes for so few vectors that some fall out of use at every step.
    "quantizer": {"type": "vqvae/ema", "codes": 64, "decay": 0.9, "restart_below": 0.1},
    "decoder": {"type": "nets/conv_decoder", "channels": [8, 8]},
}
DALLE = {"type": "dalle/dalle", "vocabulary": 400, "text_length": 32, "dim": 16, "depth": 2, "heads": 2}
RECIPES: dict[str, dict[str, Any]] = {
    "vae": {
        "model": VAE,
        "loss": "vae/elbo",
        "data": {**DIGITS, "preprocessing": {"binarize": "dynamic"}},
        "evaluation": {"metrics": ["metrics/elbo"]},
    },
    "vqvae": {
        "model": VQVAE,
        "loss": "vqvae/vq",
        "data": DIGITS,
        "evaluation": {"metrics": ["metrics/mse", "vqvae/codebook"]},
    },
    "factor": {
        "model": VAE,
        "loss": {"type": "vae/factor", "hidden": [16, 16], "adversary_lr": 1e-3},
        "data": DIGITS,
        "evaluation": {"metrics": ["metrics/elbo"]},
    },
    "beta_tc": {
        "model": VAE,
        "loss": {"type": "vae/beta_tc", "examples": 1437},
        "data": DIGITS,
        "evaluation": {"metrics": ["metrics/elbo"]},
    },
    "dalle": {
        "model": DALLE,
        "loss": {"type": "dalle/text_image", "drop_caption": 0.3, "bpe_dropout": 0.3},
        # 150 drawn shapes: four batches of 32 and one of 22.
        "data": {"name": "core/shapes", "options": {"image_size": 16, "length": 150}},
        "training": {"batch": 32, "micro_batch": 8},
        "evaluation": {"metrics": ["metrics/log_prob"], "examples": 130},
    },
    "gmm": {
        "model": {"type": "classical/gmm", "components": 5, "covariance": "diagonal"},
        "data": {**DIGITS, "preprocessing": {"dequantize": "uniform"}},
        "training": {"batch": 200, "micro_batch": None},
        "evaluation": {"metrics": ["metrics/log_prob"]},
    },
}
every_run = pytest.mark.parametrize(("name", "processes"), [*((name, 2) for name in RECIPES), ("vae", 4)])


@pytest.fixture(scope="module")
def runs(zygote: Zygote, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a folder for each number of processes, which holds a run of each recipe."""
    folder = tmp_path_factory.mktemp("runs")
    first_stage = {"pretrained": str(saved_first_stage(folder / "first-stage"))}
    for name, content in RECIPES.items():
        training = {**TRAINING, **content.get("training", {})}
        model = {**content["model"], "first_stage": first_stage} if name == "dalle" else content["model"]
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({**content, "model": model, "training": training}))
        launch(zygote, folder / f"{name}.yaml", *((1, 2, 4) if name == "vae" else (1, 2)))
    return folder


def saved_first_stage(folder: Path) -> Path:
    """Whose codes tell one picture from another, and whose codebook would learn if it were not frozen."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: Any = build({**VQVAE, "quantizer": {"type": "vqvae/ema", "codes": 7}}, "model", data_shape=(3, 16, 16))
        x = Preprocessing()(load("core/shapes", "test", image_size=16, length=50).batch(torch.arange(50)))["image"]
        model.quantizer(model.encoder(x).mean)
        assert len(model.encode(x).unique()) == 7
        return save_pretrained(model, folder)


def launch(zygote: Zygote, recipe: Path, *numbers: int) -> None:
    """Trains it in so many real processes, which talk over gloo: each number by itself, all at the same time."""
    started: list[Child] = []
    for world in numbers:
        arguments, folder = (recipe, "-o", recipe.parent / str(world) / recipe.stem), recipe.parent
        if world == 1:
            started.append(zygote.start(*arguments, folder=folder))
        else:
            started += zygote.start_group(*arguments, folder=folder, world=world)
    assert ends(started, 200) == [0] * len(started), "\n".join(child.stderr for child in started)


def told(run: Path, event: str) -> list[dict[str, Any]]:
    lines = map(json.loads, (run / "log.jsonl").read_text().splitlines())
    return [line for line in lines if line["event"] == event]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "model.safetensors")


@every_run
def test_the_losses_are_those_of_one_process(runs: Path, name: str, processes: int) -> None:
    """With all that is drawn at random: binarisation, noise, z, k-means, revived codes, hidden captions."""
    one, several = (told(runs / str(number) / name, "train") for number in (1, processes))
    assert [line["step"] for line in several] == [line["step"] for line in one] == list(range(1, STEPS + 1))
    for key in {key for key in one[0] if key == "loss" or key.endswith("_loss") or key == "objective"}:
        assert [line[key] for line in several] == pytest.approx([line[key] for line in one], rel=1e-5)
    assert one[-1] != one[-2]


@every_run
def test_the_weights_are_those_of_one_process(runs: Path, name: str, processes: int) -> None:
    one, several = (weights(runs / str(number) / name) for number in (1, processes))
    assert one.keys() == several.keys()
    for key, value in one.items():
        torch.testing.assert_close(several[key], value, rtol=1e-4, atol=1e-5)


def test_a_frozen_codebook_does_not_learn(runs: Path) -> None:
    trained = weights(runs / "2" / "dalle")
    for key, value in load_file(runs / "first-stage" / "model.safetensors").items():
        assert torch.equal(trained[f"first_stage.{key}"], value)


@every_run
def test_held_out_data_are_measured_as_by_one_process(runs: Path, name: str, processes: int) -> None:
    """On the way and at the end: as many examples, and the same values."""
    one, several = (told(runs / str(number) / name, "held_out") for number in (1, processes))
    assert len(one) == len(several) == (0 if name == "gmm" else 3)
    for line, other in zip(one, several, strict=True):
        assert other["loss"] == pytest.approx(line["loss"], rel=1e-6)
    one, several = (
        read_results(runs / str(number) / name / "model" / "results.json")[0]["values"] for number in (1, processes)
    )
    assert {key: value["n"] for key, value in several.items()} == {key: value["n"] for key, value in one.items()}
    for key, value in one.items():
        assert several[key]["value"] == pytest.approx(value["value"], rel=1e-6)


def test_a_batch_in_parts_teaches_what_it_does_at_once(tmp_path: Path) -> None:
    """Where nothing is drawn at random; with the smaller last batch of an epoch, whose parts are not all equal."""
    quantizer = {"type": "vqvae/ema", "codes": 16, "start": "normal", "restart_below": 0.0}
    content = {**RECIPES["vqvae"], "model": {**VQVAE, "quantizer": quantizer}, "training": {**TRAINING, "steps": 46}}
    (tmp_path / "vqvae.yaml").write_text(yaml.safe_dump(content))
    for size in (64, 16):
        train(read_recipe(tmp_path / "vqvae.yaml", [f"training.micro_batch={size}"]), tmp_path / str(size))
    whole, parts = ([line["loss"] for line in told(tmp_path / str(size), "train")] for size in (64, 16))
    assert parts == pytest.approx(whole, rel=1e-5)
    for key, value in weights(tmp_path / "64").items():
        torch.testing.assert_close(weights(tmp_path / "16")[key], value, rtol=1e-3, atol=1e-4)
    assert (weights(tmp_path / "16")["quantizer.N"] != 1).all()
