"""What users install: wheels of the core and of every first-party plugin, in an environment without the checkout."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from tests.installation import CHECKOUT, PROJECTS, is_zoo, metadata, output, package, project_name, project_table, run
from zoo_core.host import KNOWN_PLUGINS

pytest_plugins = ["tests.wheelhouse"]

PLUGINS = PROJECTS[1:]
every_project = pytest.mark.parametrize("project", PROJECTS, ids=project_name)
every_plugin = pytest.mark.parametrize("project", PLUGINS, ids=project_name)


def plugin_name(project: Path) -> str:
    return project_name(project).removeprefix("zoo-")


@every_project
def test_a_wheel_holds_its_package_and_nothing_else(
    project: Path, sources: dict[str, set[str]], wheels: dict[str, Path]
) -> None:
    name = project_name(project)
    files = {file for file in ZipFile(wheels[name]).namelist() if ".dist-info/" not in file}
    assert files == sources[name]
    assert not [file for file in files if {"tests", "conftest.py"} & set(Path(file).parts)]
    assert f"{package(project).name}/py.typed" in files


@every_project
def test_a_wheel_carries_the_license(project: Path, wheels: dict[str, Path]) -> None:
    dist = metadata(wheels[project_name(project)])
    assert dist.metadata["License-Expression"] == "Apache-2.0"
    assert dist.read_text("licenses/LICENSE") == (CHECKOUT / "LICENSE").read_text(encoding="utf-8") != ""


def test_the_wheel_of_the_vae_carries_its_recipes(wheels: dict[str, Path]) -> None:
    assert "zoo_vae/recipes/vae-mnist.yaml" in ZipFile(wheels["zoo-vae"]).namelist()


@every_plugin
def test_a_plugin_bounds_the_zoo_on_both_sides(project: Path, wheels: dict[str, Path]) -> None:
    required = map(Requirement, metadata(wheels[project_name(project)]).requires or ())
    needs = {need.name: need.specifier for need in required}
    assert "zoo-core" in needs
    for name in filter(is_zoo, needs):
        version = Version(metadata(wheels[name]).version)
        assert needs[name].contains(version, prereleases=True), f"{name}{needs[name]} excludes {version} beside it"
        assert set(bounds(needs[name])) == {"lower", "upper"}, f"{name}{needs[name]} is open on a side"


def bounds(specifier: SpecifierSet) -> Iterator[str]:
    for part in specifier:
        if part.operator in (">", ">=", "~=", "=="):
            yield "lower"
        if part.operator in ("<", "<=", "~=", "=="):
            yield "upper"


def test_the_core_knows_every_plugin_of_the_project() -> None:
    names = {project_table(project)["name"] for project in PLUGINS}
    assert names == {f"zoo-{name}" for name in KNOWN_PLUGINS}
    assert names == {Requirement(need).name for need in project_table(CHECKOUT)["optional-dependencies"]["zoo"]}


# All that is asked where nothing but wheels is installed, in one process; what must not import torch comes first.
USE = """
    import importlib, json, sys
    from zoo_core import default_host

    host = default_host()
    told = {"path": sys.path, "states": {p.name: [p.state, p.distribution, p.error] for p in host.plugins.values()}}
    told["torch"] = "torch" in sys.modules

    import torch
    from zoo_core import build, from_pretrained, read_recipe
    from zoo_core.pretrained import checkpoint_folder
    from zoo_core.training.reading import installed_recipes

    def used(model):
        if hasattr(model, "logits"):
            return model.logits(torch.rand(2, *model.data_shape))
        if default_host().name_of(type(model)).spec.sampling == "none":
            return model.score(torch.rand(2, *model.data_shape), ["a dot", "a line"])
        return model.sample(2)

    told["recipes"] = [name for name in installed_recipes(host) if read_recipe(name)]
    parts = {"encoder": {"type": "nets/mlp_encoder", "latents": 2}, "decoder": "nets/mlp_decoder",
             "prior": "nets/standard_normal"}
    x = build({"type": "vae/vae", **parts}, data_shape=(1, 4, 4)).sample(3, generator=torch.Generator())
    told["drawn"] = [list(x.shape), 0 <= float(x.min()) < float(x.max()) <= 1]
    names = [r.full_name for r in host.registrations("checkpoint") if checkpoint_folder(r)]
    told["used"] = {name: len(used(from_pretrained(name))) for name in names}

    told["files"], told["failed"] = {}, []
    for name in sys.argv[1:]:
        try:
            told["files"][name] = importlib.import_module(name).__file__
        except Exception as error:
            told["failed"].append(f"{name}: {error!r}")
    print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def found(zoo: Path, wheels: dict[str, Path]) -> Any:
    """What is found in the environment, and what can be done there."""
    names = [name for wheel in wheels.values() for name in ZipFile(wheel).namelist() if name.endswith(".py")]
    modules = [name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in names]
    return json.loads(run(zoo, USE, *modules))


def test_nothing_of_the_checkout_is_in_sight(found: Any, zoo: Path) -> None:
    assert not [entry for entry in found["path"] if Path(entry).resolve().is_relative_to(CHECKOUT)]
    assert found["files"].keys() >= {package(project).name for project in PROJECTS}
    for name, file in found["files"].items():
        assert Path(file).is_relative_to(zoo.parents[1]), f"{name} comes from {file}"


def test_what_the_wheels_require_is_enough(found: Any) -> None:
    """Every module can be imported where only the declared requirements are."""
    assert found["failed"] == []


def test_every_plugin_is_active(found: Any) -> None:
    assert found["states"] == {plugin_name(p): ["active", project_name(p), ""] for p in PROJECTS}


def test_finding_plugins_does_not_import_torch(found: Any) -> None:
    assert not found["torch"]


def test_every_recipe_is_installed_and_can_be_read(found: Any) -> None:
    recipes = {f"{plugin_name(p)}/{path.stem}" for p in PLUGINS for path in package(p).glob("recipes/*.yaml")}
    assert set(found["recipes"]) == recipes != set()


def test_a_model_is_built_and_sampled(found: Any) -> None:
    assert found["drawn"] == [[3, 1, 4, 4], True]


def test_every_bundled_checkpoint_is_loaded_and_used(found: Any) -> None:
    configs = [(plugin_name(p), path) for p in PLUGINS for path in package(p).glob("checkpoints/*/config.json")]
    assert found["used"] == {f"{plugin}/{path.parent.name}": 2 for plugin, path in configs} != {}


def test_the_command_lists_what_is_installed(zoo: Path) -> None:
    listed = output([zoo.with_name("zoo"), "list"], zoo.parent)
    assert {"vae/vae", "nets/mlp_encoder", "metrics/elbo", "core/digits"} <= set(listed.split())
