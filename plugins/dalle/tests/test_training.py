"""The recipe of a dalle, from the command line: on one process, on two, and killed."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from typer.testing import CliRunner

from zoo_core import build, from_pretrained, save_pretrained
from zoo_core.cli.main import app, main

STEPS = 20


@pytest.fixture(scope="module")
def recipe(first_stage: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of pictures 16 x 16 of a first stage that is what it was when it was made."""
    folder = tmp_path_factory.mktemp("recipe")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        saved = save_pretrained(build(first_stage, "model", data_shape=(3, 16, 16)), folder / "first-stage")
    source = {"name": "core/shapes", "options": {"image_size": 16, "length": 128}}
    sizes = {"vocabulary": 400, "text_length": 32, "dim": 24, "depth": 2, "heads": 3}
    content = {
        "model": {"type": "dalle/dalle", "first_stage": {"pretrained": str(saved)}, **sizes},
        "loss": {"type": "dalle/text_image", "drop_caption": 0.0, "bpe_dropout": 0.0},
        "data": {"name": "core/latents", "options": {"model": str(saved), "data": source}},
        "training": {
            "steps": STEPS, "batch": 32, "lr": 1e-2, "log_every": 1, "save_every": 3, "warmup": 3, "precision": "no"
        },
        "evaluation": {"metrics": ["metrics/log_prob"]},
    }  # fmt: skip
    (folder / "small.yaml").write_text(yaml.safe_dump(content))
    return folder / "small.yaml"


@pytest.fixture(scope="module")
def trained(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one")
    done = CliRunner().invoke(app, ["train", str(recipe), "-o", str(folder)])
    assert done.exit_code == 0, done.output
    return folder


def losses(folder: Path) -> list[float]:
    return [event["loss"] for event in events(folder)]


def events(folder: Path) -> list[dict[str, Any]]:
    try:
        lines = (folder / "log.jsonl").read_text().splitlines()
    except FileNotFoundError:
        return []
    return [event for event in map(json.loads, lines) if event["event"] == "train"]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model.safetensors")


def test_it_learns_and_leaves_the_first_stage_as_it_was(recipe: Path, trained: Path) -> None:
    assert sum(losses(trained)[-3:]) < 0.9 * sum(losses(trained)[:3])
    before = load_file(recipe.parent / "first-stage" / "model.safetensors")
    after = weights(trained)
    assert all(torch.equal(after[f"first_stage.{name}"], tensor) for name, tensor in before.items())


def test_the_model_has_a_tokenizer_of_its_data(trained: Path) -> None:
    model = from_pretrained(trained / "model")
    assert (model.tokens(["a red circle"]) != 400).sum() == 3
    assert json.loads((trained / "model" / "config.json").read_text())["files"].keys() == {"tokenizer.json"}


def test_sentences_become_pictures_at_the_command_line(trained: Path, tmp_path: Path) -> None:
    command = ["generate", str(trained / "model"), "a red circle", "a blue star", "-n", "3"]
    done = CliRunner().invoke(app, [*command, "-o", str(tmp_path / "x.png"), "--guidance", "2", "--top-k", "5"])
    assert done.exit_code == 0, done.output
    again = CliRunner().invoke(app, [*command, "-o", str(tmp_path / "y.png"), "--guidance", "2", "--top-k", "5"])
    assert again.exit_code == 0
    assert (tmp_path / "x.png").read_bytes() == (tmp_path / "y.png").read_bytes()
    complete = ["--complete", str(tmp_path / "x.png"), "--keep-rows", "2"]
    done = CliRunner().invoke(app, [*command, *complete, "-o", str(tmp_path / "z.png")])
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize(("options", "sentence"), [
    (["--keep-rows", "2"], "--complete and --keep-rows go together"),
    (["--complete", "nowhere.png", "--keep-rows", "1"], "nowhere.png"),
    (["--scorer", "vae-mnist"], "scores no pictures"),
    (["--top-p", "0"], "top_p: must be above 0"),
])  # fmt: skip
def test_bad_input_is_one_sentence(trained: Path, refused: Any, options: list[str], sentence: str) -> None:
    assert sentence in refused("generate", str(trained / "model"), "a red circle", *options)


def test_a_model_without_words_is_told(refused: Any) -> None:
    assert "which draws without words; see: zoo sample" in refused("generate", "vae-mnist", "three")


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs a command that is bad input; what it says."""

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["zoo", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 2
        return capsys.readouterr().err

    return run


def test_a_run_that_was_cut_goes_on_bit_for_bit(recipe: Path, tmp_path: Path) -> None:
    """With captions hidden and spelled at random, which is a function of the step too."""
    settings = ["--set", "loss.drop_caption=0.3", "--set", "loss.bpe_dropout=0.3", "--set", "training.keep=99"]
    for folder in ("cut", "whole"):
        CliRunner().invoke(app, ["train", str(recipe), *settings, "-o", str(tmp_path / folder)])
    steps = sorted((tmp_path / "cut" / "checkpoints").iterdir())
    for later in steps[len(steps) // 2 :]:
        shutil.rmtree(later)
    shutil.rmtree(tmp_path / "cut" / "model")
    CliRunner().invoke(app, ["train", str(recipe), *settings, "-o", str(tmp_path / "cut")])
    cut, whole = weights(tmp_path / "cut"), weights(tmp_path / "whole")
    assert all(torch.equal(cut[name], tensor) for name, tensor in whole.items())
    tokenizers = [(tmp_path / f / "model" / "tokenizer.json").read_bytes() for f in ("cut", "whole")]
    assert tokenizers[0] == tokenizers[1]
