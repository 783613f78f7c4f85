"""``zoo push``, as a person and as a script meet it: the real client, against a server on this machine."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tests.hub_server import HubServer
from zoo_core import build, save_pretrained
from zoo_core.cards import card

Zoo = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def server() -> Iterator[HubServer]:
    with HubServer() as running:
        yield running


@pytest.fixture
def zoo(server: HubServer, tmp_path: Path) -> Zoo:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, **server.environment(tmp_path / "home")}
        command = [sys.executable, "-m", "zoo_core.cli", *words]
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)

    return run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    config = {
        "type": "vae/vae",
        "encoder": {"type": "nets/mlp_encoder", "latents": 2, "hidden": [32]},
        "decoder": {"type": "nets/mlp_decoder", "hidden": [32]},
        "prior": "nets/standard_normal",
    }
    saved = save_pretrained(build(config, "model", data_shape=(1, 4, 4)), tmp_path / "small")
    (saved / "README.md").write_text(card(saved, "me/small"))
    return saved


def test_a_model_is_pushed_and_loaded_at_the_commit_that_is_printed(server: HubServer, zoo: Zoo, folder: Path) -> None:
    done = zoo("push", str(folder), "me/small", "--private", "--revision", "next", "--message", "The first")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    repository, commit = done.stdout.split()
    there = server.repository("me/small")
    assert (repository, there.private) == ("me/small", True)
    assert there.at("next").oid == commit
    assert there.at(commit).title == "The first"
    stored = {name: blob.content for name, blob in there.at(commit).files.items() if name != ".gitattributes"}
    assert stored == {path.name: path.read_bytes() for path in folder.iterdir()}
    assert set(there.at("main").files) == {".gitattributes"}
    eager = zoo("sample", "me/small", "--revision", commit, "-n", "2", "-o", str(folder.parent / "x.png"))
    assert eager.returncode == 0, eager.stderr


def test_a_repository_is_public_unless_told_and_a_missing_card_is_told(
    server: HubServer, zoo: Zoo, folder: Path
) -> None:
    (folder / "README.md").unlink()
    done = zoo("push", str(folder), "me/small")
    assert "zoo card" in done.stderr
    assert not server.repository("me/small").private
    assert done.stdout.split()[1] == server.repository("me/small").at("main").oid


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [(["nowhere/at-all", "me/small"], "no checkpoint on this machine"), (["{folder}", "a/b/c"], "cannot upload")],
)
def test_bad_input_is_one_sentence(zoo: Zoo, folder: Path, arguments: list[str], sentence: str) -> None:
    done = zoo("push", *[word.format(folder=folder) for word in arguments])
    assert done.returncode == 2
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1


def test_what_is_damaged_is_not_pushed(server: HubServer, zoo: Zoo, folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    done = zoo("push", str(folder), "me/small")
    assert done.returncode == 2
    assert "damaged" in done.stderr
    assert server.requests == []
