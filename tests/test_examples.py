"""The examples run as a reader would run them, and show what they say."""

import ast
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest

from zoo_core import DataError
from zoo_core.data import load

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(script: str, *arguments: str) -> str:
    command = [sys.executable, str(EXAMPLES / script), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_a_little_of_a_model_has_most_of_its_likelihood_and_none_of_its_samples(tmp_path: Path) -> None:
    picture = tmp_path / "samples.png"
    told = run("likelihood_without_quality.py", "--output", str(picture))
    nats = {name: float(value) for name, value in re.findall(r"^(\w+) +(-[\d.]+) nats", told, re.MULTILINE)}
    assert 0 <= nats["tree"] - nats["mixture"] <= math.log(100) + 0.01  # they are told with two digits
    assert nats["noise"] < nats["mixture"]
    assert picture.stat().st_size > 0


def test_the_masks_are_drawn(tmp_path: Path) -> None:
    run("attention_masks.py", str(tmp_path / "masks.png"))
    assert (tmp_path / "masks.png").read_bytes() == (EXAMPLES.parent / "plugins/dalle/pictures/masks.png").read_bytes()


def test_the_best_of_many_is_more_often_right_than_the_first() -> None:
    told = run("best_of_many.py", "--sentences", "60", "--candidates", "6")
    first, best = (float(share) for share in re.findall(r"([\d.]+)% right", told))
    assert 100 >= best > first > 60


def test_a_plain_autoencoder_reconstructs_better_and_draws_worse(tmp_path: Path) -> None:
    try:
        load("ylecun/mnist", "test")
    except DataError as error:
        pytest.skip(str(error))
    told = run("plain_autoencoder.py", "--examples", "200", "--output", str(tmp_path), "vae-mnist")
    found = {line.split()[0]: ast.literal_eval(line.split(maxsplit=1)[1]) for line in told.splitlines()[:2]}
    plain, vae = found["plain-ae-mnist"], found["vae-mnist"]
    assert plain["mse"] < vae["mse"]
    assert plain["fd (mnist_classifier)"] > 2 * vae["fd (mnist_classifier)"]
    assert (tmp_path / "index.html").is_file()
