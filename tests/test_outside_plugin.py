"""examples/zoo-example, a plugin as its author ships it: its wheel, its own tests, its weights on a Hub."""

import ast
import json
import shutil
from collections.abc import Iterator
from importlib.metadata import distribution, files
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest

import zoo_core
import zoo_core.data
from tests.hub_server import HubServer
from tests.installation import CHECKOUT, build_wheel, empty_venv, package, run, source_files, uninstall

pytest_plugins = ["tests.wheelhouse"]

PROJECT = CHECKOUT / "examples" / "zoo-example"
CHECKPOINT = package(PROJECT) / "checkpoints" / "spherical-vae-mnist"
HUB_ID = "someone/spherical-vae-mnist"
PUBLIC = {
    "zoo_core": zoo_core.__all__,
    "zoo_core.data": zoo_core.data.__all__,
    "zoo_core.testing": ["component_checks"],
}

# Before the Hub's client is imported.
SETTINGS = """
    import json, os, sys
    os.environ.update(json.loads(sys.argv[1]))
"""

# Everything that is asked where the plugin is installed, in one process.
USE = """
    import contextlib, io
    import torch
    from typer.testing import CliRunner
    from zoo_core import default_host, from_pretrained
    from zoo_core.cli.main import app

    def drawn(name):
        model = from_pretrained(name)
        x = model.sample(3, generator=torch.Generator().manual_seed(0))
        return {"samples": x.numpy().tobytes().hex(), "codes": model.encode(x).detach().numpy().tobytes().hex()}

    def told(*words):
        done = CliRunner().invoke(app, [*words])
        return {"code": done.exit_code, "said": done.output}

    _, _, folder, hub_id, readme = sys.argv
    answers = {"list": told("plugins"), "push": told("push", folder, hub_id)}
    answers["drawn"] = {"folder": drawn(folder), "hub": drawn(hub_id), "wheel": drawn("example/spherical-vae-mnist")}
    answers["check"] = told("check", "example")
    modules = {name: type(part).__module__ for name, part in from_pretrained(hub_id).named_modules()}
    answers["modules"] = {name: modules[name] for name in ("encoder", "encoder.posterior", "decoder", "prior")}
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(readme, "README.md", "exec"), {})
    answers["readme"] = printed.getvalue()
    print(json.dumps(answers))
"""

ASK = """
    from zoo_core import UnknownComponent, default_host, from_pretrained
    try:
        said = f"no error but {from_pretrained(sys.argv[2])}"
    except UnknownComponent as error:
        said = str(error)
    print(json.dumps({"plugins": sorted(default_host().plugins), "said": said}))
"""

TEST = """
    import sys
    sys.path.append(sys.argv[1])
    import pytest
    sys.exit(pytest.main(sys.argv[2:]))
"""


@pytest.fixture(scope="module")
def server() -> Iterator[HubServer]:
    with HubServer() as running:
        yield running


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(PROJECT, tmp_path_factory.mktemp("example"))


@pytest.fixture(scope="module")
def python(wheel: Path, wheels: dict[str, Path]) -> Path:
    """The interpreter of an environment with the zoo and the plugin."""
    return empty_venv(wheel.parent, [*wheels.values(), wheel])


@pytest.fixture(scope="module")
def used(python: Path, server: HubServer, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the plugin's user sees and has; the weights are pushed from a folder that is not the installed one."""
    folder = shutil.copytree(CHECKPOINT, tmp_path_factory.mktemp("mine") / "spherical-vae-mnist")
    settings = json.dumps(server.environment(tmp_path_factory.mktemp("home")))
    example = (PROJECT / "README.md").read_text(encoding="utf-8").partition("```python\n")[2].partition("```")[0]
    return json.loads(run(python, SETTINGS + USE, settings, folder, HUB_ID, example))


@pytest.fixture(scope="module")
def tested(python: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What the plugin's own tests say there, all but the kit's on its parts, which ``zoo check`` asks as well."""
    folder = tmp_path_factory.mktemp("own-tests")
    shutil.copytree(PROJECT / "tests", folder / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "pytest").mkdir()
    for name in {file.parts[0] for tool in ("pytest", "iniconfig") for file in files(tool) or ()} - {
        "..",
        "__pycache__",
    }:
        (folder / "pytest" / name).symlink_to(Path(str(distribution("pytest").locate_file(name))))
    options = ["-q", "--import-mode=importlib", "-p", "no:cacheprovider", "--rootdir", folder]
    return run(python, TEST, folder / "pytest", *options, "-k", "not test_component or checkpoint", folder / "tests")


@pytest.fixture(scope="module")
def left_alone(
    used: Any, tested: str, python: Path, server: HubServer, tmp_path_factory: pytest.TempPathFactory
) -> Any:
    """What is said when the plugin is gone; the last thing done in there."""
    uninstall(python, "zoo-example")
    settings = json.dumps(server.environment(tmp_path_factory.mktemp("elsewhere")))
    return json.loads(run(python, SETTINGS + ASK, settings, HUB_ID))


def imports(file: Path) -> Iterator[tuple[str, list[str]]]:
    """The modules that a file imports, each with the names that it takes from there."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, []) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, file
            yield node.module or "", [alias.name for alias in node.names]


@pytest.mark.parametrize("file", sorted(PROJECT.rglob("*.py")), ids=lambda file: str(file.relative_to(PROJECT)))
def test_it_needs_public_names_only(file: Path) -> None:
    for module, names in imports(file):
        top = module.partition(".")[0]
        assert not top.startswith("zoo_") or top in ("zoo_core", "zoo_example")
        if top == "zoo_core":
            assert set(names) <= set(PUBLIC[module])
            assert names


def test_its_wheel_holds_the_whole_package(wheel: Path) -> None:
    held = {name for name in ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert held == source_files(PROJECT)
    assert any(name.endswith("model.safetensors") for name in held)


def test_it_is_found_once_it_is_installed(used: Any) -> None:
    assert used["list"]["code"] == 0
    assert "zoo-example 0.1.0" in used["list"]["said"]


def test_its_weights_are_pushed_as_one_commit(used: Any, server: HubServer) -> None:
    assert used["push"]["code"] == 0, used["push"]["said"]
    there = server.repository(HUB_ID).at("main")
    assert there.oid in used["push"]["said"]
    assert {"model.safetensors", "config.json", "results.json", "README.md", "samples.png"} <= set(there.files)
    assert there.files["model.safetensors"].content == (CHECKPOINT / "model.safetensors").read_bytes()


def test_its_parts_meet_those_of_other_plugins(used: Any) -> None:
    assert used["modules"] == {
        "encoder": "zoo_nets.mlp",
        "encoder.posterior": "zoo_example.power_spherical",
        "decoder": "zoo_nets.mlp",
        "prior": "zoo_example.uniform_sphere",
    }


@pytest.mark.parametrize(("drawn", "numbers"), [("samples", 3 * 784), ("codes", 3 * 6)])
@pytest.mark.parametrize("source", ["hub", "wheel"])
def test_the_same_is_drawn_wherever_it_is_loaded_from(source: str, drawn: str, numbers: int, used: Any) -> None:
    assert len(bytes.fromhex(used["drawn"][source][drawn])) == numbers * 4
    assert used["drawn"][source][drawn] == used["drawn"]["folder"][drawn]


def test_it_passes_the_kit(used: Any) -> None:
    assert used["check"]["code"] == 0, used["check"]["said"]
    assert "example/power_spherical" in used["check"]["said"]


def test_its_readme_runs(used: Any) -> None:
    assert used["readme"] == "torch.Size([16, 1, 28, 28])\n"


def test_its_own_tests_pass_where_it_is_installed(tested: str) -> None:
    assert " passed" in tested
    assert "skipped" not in tested


def test_where_it_is_missing_it_is_named_but_not_suggested(left_alone: Any) -> None:
    """What a stranger's file names must not become what a user installs."""
    assert "example" not in left_alone["plugins"]
    assert "'example/power_spherical'" in left_alone["said"]
    assert "no plugin 'example' is installed" in left_alone["said"]
    assert not {"pip", "zoo-example"} & {*left_alone["said"].replace("'", " ").split()}
    assert len(left_alone["said"].splitlines()) == 1
