"""Runs that train a finished model further: where they begin, what they leave alone, and how they go on."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from tests.zygote import Zygote, ends, zygote
from zoo_core import CheckpointError, from_pretrained, save_pretrained, train
from zoo_core.cli.main import app, main
from zoo_core.training.reading import overridden, parse_recipe
from zoo_core.training.recipe import Recipe
from zoo_core.training.tuning.fine_tuning import recipe_from

__all__ = ["zygote"]

VAE = {
    "type": "vae/vae",
    "encoder": {"type": "nets/mlp_encoder", "latents": 2, "hidden": [16]},
    "decoder": {"type": "nets/mlp_decoder", "hidden": [16]},
    "prior": "nets/standard_normal",
}
VQVAE = {
    "type": "vqvae/vqvae",
    "encoder": {"type": "nets/conv_encoder", "latents": 4, "channels": [8], "layout": "grid"},
    "quantizer": {"type": "vqvae/ema", "codes": 7},
    "decoder": {"type": "nets/conv_decoder", "channels": [8]},
}
QUICK = {"steps": 6, "batch": 32, "log_every": 1, "precision": "no", "trackers": []}


def base(folder: Path, name: str, model: dict[str, Any], loss: Any, **training: Any) -> Path:
    content = {
        "name": name,
        "model": model,
        "loss": loss,
        "data": {"name": "core/digits", "preprocessing": {"binarize": "dynamic"} if model is VAE else {}},
        "training": {**QUICK, **training},
    }
    finished = train(parse_recipe(content), folder / name)
    assert finished
    return finished


@pytest.fixture(scope="module")
def vae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained under a beta that is almost 0 for long."""
    return base(tmp_path_factory.mktemp("base"), "vae", VAE, {"type": "vae/elbo", "warmup": 10**6}, lr=1e-2, warmup=50)


def plan(start: Path, *changes: str) -> Recipe:
    return parse_recipe(overridden(recipe_from(start), changes))


def further(start: Path, folder: Path, *changes: str) -> dict[str, torch.Tensor]:
    """Trains further, and returns what came out."""
    finished = train(plan(start, *changes), folder)
    assert finished
    return weights(finished)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(from_pretrained(folder).state_dict())


def changed(after: dict[str, torch.Tensor], before: dict[str, torch.Tensor]) -> set[str]:
    assert list(after) == list(before)
    return {name for name in before if before[name].numpy().tobytes() != after[name].numpy().tobytes()}


def log(folder: Path) -> list[dict[str, Any]]:
    lines = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    return [line for line in lines if line["event"] == "train"]


@pytest.mark.parametrize("changes", [(), ("training.lora={rank: 2}",), ("training.freeze=[encoder]",)])
def test_steps_of_no_length_change_nothing(vae: Path, tmp_path: Path, changes: tuple[str, ...]) -> None:
    after = further(vae, tmp_path, "training.lr=1e-30", "training.steps=1", *changes)
    assert changed(after, weights(vae)) == set()
    assert from_pretrained(tmp_path / "model").preprocessing.binarize == "dynamic"


def test_warm_ups_are_over(vae: Path, tmp_path: Path) -> None:
    further(vae, tmp_path, "training.steps=2")
    for line in log(tmp_path):
        assert line["loss"] == pytest.approx(line["distortion"] + line["rate"], rel=1e-5)
        assert line["learning_rate"] == pytest.approx(1e-2)
    for line in log(vae.parent):
        assert line["loss"] == pytest.approx(line["distortion"], abs=1e-2)
        assert line["learning_rate"] < 2e-3


@pytest.mark.parametrize("changes", [(), ("training.ema=0.5",), ("training.micro_batch=8", "training.clip=0.1")])
def test_a_frozen_part_stays_bit_for_bit(vae: Path, tmp_path: Path, changes: tuple[str, ...]) -> None:
    decay = ("training.optimizer=adamw", "training.weight_decay=0.5")
    after = further(vae, tmp_path, "training.freeze=[encoder, decoder.body.1.bias]", *decay, *changes)
    learned = {name for name in after if name.startswith("decoder") and name != "decoder.body.1.bias"}
    assert changed(after, weights(vae)) == learned


def test_a_frozen_codebook_stays(tmp_path: Path) -> None:
    start = base(tmp_path, "vqvae", VQVAE, "vqvae/vq")
    after = further(start, tmp_path / "frozen", "training.freeze=[encoder, quantizer]", "training.ema=0.9")
    assert changed(after, weights(start)) == {name for name in after if name.startswith("decoder")}
    after = further(start, tmp_path / "free")
    assert "quantizer.e" in changed(after, weights(start))


@pytest.mark.parametrize("more", [(), ("training.ema=0.5",), ("training.publish=best", "training.evaluate_every=2")])
def test_adapters_end_as_weights_and_a_run_goes_on_with_them(vae: Path, tmp_path: Path, more: tuple[str, ...]) -> None:
    settings = ("training.lora={rank: 2, dropout: 0.1, targets: [decoder]}", "training.save_every=3", *more)
    whole = further(vae, tmp_path / "whole", *settings)
    assert changed(whole, weights(vae)) == {"decoder.body.1.weight", "decoder.body.3.weight"}
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut" / "checkpoints" / "step-00000006")
    shutil.rmtree(tmp_path / "cut" / "model")
    cut = further(vae, tmp_path / "cut", *settings)
    assert changed(cut, whole) == set()


def test_two_processes_train_the_same_adapters_as_one(zygote: Zygote, vae: Path, tmp_path: Path) -> None:
    settings = (
        "training.micro_batch=16", "training.freeze=[encoder]", "training.lora={rank: 2}", "training.ema=0.5",
        "training.optimizer=adamw", "training.weight_decay=0.5",
    )  # fmt: skip
    one = further(vae, tmp_path / "one", *settings)
    (tmp_path / "two.json").write_text((tmp_path / "one" / "recipe.json").read_text())
    children = zygote.start_group(tmp_path / "two.json", "-o", tmp_path / "two", folder=tmp_path)
    assert ends(children) == [0, 0], children[0].stderr
    two = weights(tmp_path / "two" / "model")
    learned = {"decoder.body.1.weight", "decoder.body.3.weight"}
    assert changed(two, weights(vae)) == changed(one, weights(vae)) == learned
    assert all(torch.allclose(one[name], two[name], atol=1e-5) for name in one)


def test_a_mixture_goes_on_from_where_it_is(tmp_path: Path) -> None:
    start = base(tmp_path, "mixture", {"type": "classical/gmm", "components": 3}, None, steps=4)
    further(start, tmp_path / "further", "training.steps=2")
    before, after = log(start.parent), log(tmp_path / "further")
    assert after[0]["objective"] >= before[-1]["objective"]
    assert after[-1]["objective"] >= after[0]["objective"] > before[0]["objective"]


def test_a_model_of_words_keeps_its_own(tmp_path: Path) -> None:
    data = {"name": "core/shapes", "options": {"image_size": 16, "length": 64}}
    model = {"type": "dalle/dalle", "first_stage": VQVAE, "vocabulary": 300, "text_length": 32}
    content = {
        "name": "words",
        "model": {**model, "dim": 12, "depth": 1, "heads": 2},
        "loss": "dalle/text_image",
        "data": data,
        "training": {**QUICK, "steps": 1},
    }
    start = train(parse_recipe(content), tmp_path / "words")
    assert start
    changes = ("data.options.seed=1", "data.options.objects=1", "training.lora={targets: [stream]}")
    further(start, tmp_path / "further", *changes)
    tokenizers = [(folder / "tokenizer.json").read_bytes() for folder in (start, tmp_path / "further" / "model")]
    assert tokenizers[0] == tokenizers[1]


def test_the_command_begins_with_a_model_under_a_recipe_or_its_own(vae: Path, tmp_path: Path) -> None:
    (tmp_path / "iwae.yaml").write_text(
        "loss: {type: vae/iwae, samples: 2}\ndata: {name: digits}\ntraining: {steps: 2, batch: 8, trackers: []}\n"
    )
    for words, loss in (([str(tmp_path / "iwae.yaml")], "vae/iwae"), ([], "vae/elbo")):
        command = ["train", *words, "--from", str(vae), "--set", "training.epochs=0.1", "-o", str(tmp_path / loss[4:])]
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 0, done.output
        recipe = json.loads((tmp_path / loss[4:] / "recipe.json").read_text())
        assert recipe["loss"]["type"] == loss
        assert recipe["name"] == "vae-fine-tuned"
        assert recipe["model"].keys() == {"pretrained", "sha256"}
        assert (recipe["training"]["steps"], recipe["training"]["epochs"]) == (None, 0.1)


def test_a_run_never_goes_on_from_other_weights(vae: Path, tmp_path: Path) -> None:
    shutil.copytree(vae, tmp_path / "start")
    recipe = plan(tmp_path / "start", "training.steps=2")
    train(recipe, tmp_path / "run")
    other = from_pretrained(vae)
    with torch.no_grad():
        other.decoder.body[1].bias += 1
    save_pretrained(other, tmp_path / "start")
    with pytest.raises(CheckpointError, match="exchanged"):
        train(recipe, tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (["data.name=emoji-that-are-not-there"], "emoji-that-are-not-there"),
        (["data.preprocessing.image_size=[28, 20]"], "set data.preprocessing to {image_size: [8, 8], channels: 1}"),
        (["training.freeze=[encodr]"], "did you mean: encoder"),
        (["training.lora={rank: 0}"], "training.lora.rank: must be a positive integer, got 0"),
        (["training.lora={}", "training.freeze=[encoder, decoder]"], "leaves nothing to train"),
        (["model.encoder.latents=3"], "model.encoder: no such argument"),
    ],
)
def test_bad_input_is_one_sentence(
    vae: Path,
    tmp_path: Path,
    changes: list[str],
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sets = [word for change in changes for word in ("--set", change)]
    monkeypatch.setattr(sys, "argv", ["zoo", "train", "--from", str(vae), *sets, "-o", str(tmp_path / "run")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert sentence in told
    assert told.count("\n") == 1
