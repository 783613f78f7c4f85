"""What a name means: a registered data set, a path, a local copy, a repository on the Hub."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from zoo_core.data import InMemory, load, plugin
from zoo_core.errors import ConfigError, DataError, PluginError, UnknownComponent
from zoo_core.hookspecs import hookimpl
from zoo_core.host import PluginHost
from zoo_core.specs import DatasetSpec


def squares(split: str, side: int = 2) -> InMemory:
    return InMemory("squares", split, {"image": torch.zeros(3, 1, side, side, dtype=torch.uint8)})


class Mine:
    @hookimpl
    def zoo_datasets(self) -> Iterator[DatasetSpec]:
        yield DatasetSpec(name="squares", target=f"{__name__}:squares", summary="Black.")
        yield DatasetSpec(name="lost", target="no_such_module:lost", summary="Nowhere.")


@pytest.fixture
def host() -> PluginHost:
    host = PluginHost(discover=False)
    host.register(plugin, "core")
    host.register(Mine(), "mine")
    return host


@pytest.fixture(autouse=True)
def _isolated(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "huggingface"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("ZOO_DATA", "")
    monkeypatch.chdir(tmp_path)


def pictures(folder: Path, count: int) -> Path:
    folder.mkdir(parents=True)
    for i in range(count):
        Image.new("L", (3, 2), i).save(folder / f"{i}.png")
    return folder


@pytest.mark.parametrize("name", ["squares", "mine/squares"])
def test_a_registered_name(host, name):
    assert load(name, "test", host=host).split == "test"
    assert load(name, host=host, side=5).data_shape == (1, 5, 5)


def test_the_core_registers_its_own(host):
    assert len(load("digits", "test", host=host)) == 360
    assert load("core/shapes", "novel", host=host).split == "novel"


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        (
            "squares",
            {"split": "valid"},
            DataError,
            "mine/squares has no split 'valid'; it has: train, test",
        ),
        ("squares", {"sides": 3}, ConfigError, "did you mean 'side'"),
        ("lost", {}, PluginError, "no_such_module"),
        ("sqares", {}, UnknownComponent, r"did you mean: mine/squares.*\./sqares"),
        ("mine/sqares", {}, UnknownComponent, "did you mean: mine/squares"),
        ("./nowhere", {}, DataError, r"no such folder or file: nowhere"),
        ("../nowhere", {}, DataError, "no such folder"),
        ("/no/where", {}, DataError, "no such folder"),
        ("~nobody-of-that-name/x", {}, DataError, "no such folder"),
        ("org/name", {}, DataError, "HF_HUB_OFFLINE is set.*ZOO_DATA"),
        ("org/name", {"image_sze": 3}, ConfigError, "did you mean 'image_size'"),
        ("a/b/c", {}, DataError, "organisation/name"),
        ("org/../../etc", {}, DataError, "organisation/name"),
    ],
)
def test_refusals_say_what_to_do(host, name, options, error, message):
    with pytest.raises(error, match=message):
        load(name, host=host, **options)


def test_paths(host, tmp_path):
    folder = pictures(tmp_path / "some" / "pictures", 4)
    for name in ("./some/pictures", "some/pictures", str(folder)):
        assert len(load(name, host=host)) == 4
    assert load("some/pictures", host=host, image_size=1).data_shape == (1, 1, 1)
    with pytest.raises(ConfigError, match="revision: no such argument"):
        load("some/pictures", host=host, revision="main")


def test_a_registered_name_comes_before_a_folder(host, tmp_path):
    pictures(tmp_path / "squares", 4)
    assert len(load("squares", host=host)) == 3
    assert len(load("./squares", host=host)) == 4


def test_a_local_copy_comes_before_the_hub(host, tmp_path, monkeypatch):
    pictures(tmp_path / "one" / "org" / "name", 5)
    pictures(tmp_path / "two" / "org" / "name", 6)
    pictures(tmp_path / "two" / "org" / "other", 7)
    monkeypatch.setenv("ZOO_DATA", f"{tmp_path / 'one'}:{tmp_path / 'two'}:{tmp_path / 'none'}")
    assert len(load("org/name", host=host)) == 5
    assert len(load("org/other", host=host)) == 7
    assert load("org/name", host=host, revision="v1").name == "org/name"
    with pytest.raises(DataError, match="did you mean: org/name"):
        load("org/nam", host=host)


def test_unknown_names_suggest_registered_ones(host):
    with pytest.raises(DataError, match="did you mean: mine/squares"):
        load("mime/squares", host=host)


def test_importing_the_names_costs_nothing():
    script = """
import sys
from zoo_core.data import load, plugin
list(plugin.zoo_datasets())
heavy = {"torch", "numpy", "datasets", "PIL", "sklearn", "huggingface_hub", "pyarrow"}
print(sorted(heavy & set(sys.modules)))
"""
    command = [sys.executable, "-c", script]
    output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    assert output == "[]\n"


def test_public_names():
    import zoo_core.data

    assert all(getattr(zoo_core.data, name) for name in zoo_core.data.__all__)
    assert dir(zoo_core.data) == zoo_core.data.__all__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = zoo_core.data.nothing


def test_the_docstring_shows_the_truth():
    import doctest

    import zoo_core.data

    assert re.search(">>>", zoo_core.data.__doc__)
    assert doctest.testmod(zoo_core.data).failed == 0
