"""The embedded digits: the same for everybody, whole, and decoded once."""

import subprocess
import sys

import pytest
import torch
from sklearn.datasets import load_digits

from zoo_core.data.embedded import digits
from zoo_core.errors import DataError


@pytest.fixture(autouse=True)
def _isolated(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path))


def everything() -> tuple[torch.Tensor, torch.Tensor]:
    batches = [part.batch(torch.arange(len(part))) for part in (digits("train"), digits("test"))]
    return tuple(torch.cat([b[name] for b in batches]) for name in ("image", "label"))  # type: ignore


def test_sizes():
    train, test = digits(), digits("test")
    assert (len(train), len(test)) == (1437, 360)
    assert train.data_shape == (1, 8, 8)
    assert train.columns == ("image", "label")
    assert train.fingerprint != test.fingerprint


def test_both_splits_together_are_the_original():
    images, labels = everything()
    source = load_digits()
    levels = (images[:, 0].double() * 16 / 255).round()
    found = sorted(zip(levels.flatten(1).tolist(), labels.tolist(), strict=True))
    assert found == sorted(zip(source.data.tolist(), source.target.tolist(), strict=True))


def test_scale():
    images, _ = everything()
    assert images.unique().tolist() == [round(v * 255 / 16) for v in range(17)]


def test_every_digit_is_in_both_splits():
    for split in ("train", "test"):
        part = digits(split)
        labels = part.batch(torch.arange(len(part)))["label"]
        assert torch.bincount(labels, minlength=10).min() > len(part) / 20


def test_the_split_is_fixed(tmp_path, monkeypatch):
    first = digits("train").fingerprint
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "other"))
    torch.manual_seed(1)
    assert digits("train").fingerprint == first


def test_refuses_other_splits():
    with pytest.raises(DataError, match="it has: train, test"):
        digits("valid")


def test_scikit_learn_is_needed_once_for_both_splits():
    digits("train")
    script = """
import sys
from zoo_core.data.embedded import digits
print(len(digits("test")), "sklearn" in sys.modules)
"""
    command = [sys.executable, "-c", script]
    output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    assert output == "360 False\n"
