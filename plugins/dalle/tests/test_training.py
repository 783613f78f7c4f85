"""The recipe of a dalle, from the command line: on one process, on two, and killed."""

import json
import os
import signal
import subprocess
import sys
import time
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


def test_two_processes_train_as_one(recipe: Path, trained: Path, tmp_path: Path) -> None:
    launch = (
        *("-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "1", "--num_processes", "2"),
        *("--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0", "-m", "zoo_core.training"),
    )
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true"}
    subprocess.run(
        [sys.executable, *launch, str(recipe), "-o", str(tmp_path)],
        check=True, capture_output=True, timeout=300, env=environment,
    )  # fmt: skip
    assert losses(tmp_path) == pytest.approx(losses(trained), rel=1e-4)
    one, two = weights(trained), weights(tmp_path)
    assert all(torch.allclose(two[name], one[name], atol=1e-3) for name in one)
    measured = [json.loads((f / "model" / "results.json").read_text())["values"] for f in (trained, tmp_path)]
    assert measured[0]["log_prob"]["value"] == pytest.approx(measured[1]["log_prob"]["value"], rel=1e-4)


def test_a_killed_run_goes_on_bit_for_bit(recipe: Path, tmp_path: Path) -> None:
    """With captions hidden and spelled at random, which is a function of the step too."""
    settings = ["--set", "loss.drop_caption=0.3", "--set", "loss.bpe_dropout=0.3"]
    command = [sys.executable, "-m", "zoo_core.cli", "train", str(recipe), *settings, "-o", str(tmp_path / "cut")]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and len(events(tmp_path / "cut")) < 8:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    CliRunner().invoke(app, ["train", str(recipe), *settings, "-o", str(tmp_path / "whole")])
    cut, whole = weights(tmp_path / "cut"), weights(tmp_path / "whole")
    assert all(torch.equal(cut[name], tensor) for name, tensor in whole.items())
    tokenizers = [(tmp_path / f / "model" / "tokenizer.json").read_bytes() for f in ("cut", "whole")]
    assert tokenizers[0] == tokenizers[1]
