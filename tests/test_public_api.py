"""The one public list: every name is there, on first use and at no cost before, and type checkers see the same."""

import ast
import importlib
import inspect
import sys
from pathlib import Path

import pytest

import zoo_core
from tests.installed import python

SOURCE = Path(inspect.getfile(zoo_core))


def type_checking_imports() -> list[tuple[str, str, str | None]]:
    """(module, name, alias) of each import that only type checkers see."""
    (block,) = (
        node
        for node in ast.parse(SOURCE.read_text()).body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    assert all(isinstance(node, ast.ImportFrom) for node in block.body)
    return [
        (node.module or "", alias.name, alias.asname)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    ]


def test_the_list_is_sorted_and_names_nothing_twice_or_private() -> None:
    names = [name for names in zoo_core._PUBLIC.values() for name in names]
    assert zoo_core.__all__ == sorted(names)
    assert len(names) == len(set(names))
    assert not [name for name in names if name.startswith("_")]


@pytest.mark.parametrize("name", zoo_core.__all__)
def test_a_public_name_is_what_its_module_defines(name: str) -> None:
    home = importlib.import_module(zoo_core._HOME[name])
    assert getattr(zoo_core, name) is getattr(home, name)
    # It is listed under the module or package that defines it, not under one that happens to import it.
    value = getattr(home, name)
    if inspect.isclass(value) or inspect.isfunction(value):
        assert f"{value.__module__}.".startswith(f"{home.__name__}.")


def test_a_public_name_is_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(vars(zoo_core), "ConfigError", raising=False)
    assert "ConfigError" in dir(zoo_core)
    first = zoo_core.ConfigError
    assert vars(zoo_core)["ConfigError"] is first


def test_public_names_do_not_hide_modules() -> None:
    modules = {path.stem if path.is_file() else path.name for path in SOURCE.parent.iterdir()}
    assert not modules & {*zoo_core.__all__}


def test_type_checkers_see_the_same_names() -> None:
    seen = type_checking_imports()
    assert sorted((module, name) for module, name, _ in seen) == sorted(
        (module, name) for module, names in zoo_core._PUBLIC.items() for name in names
    )
    assert [name for _, name, alias in seen if alias != name] == []  # only "X as X" is a re-export


def test_every_public_class_and_function_has_a_docstring() -> None:
    documented = (getattr(zoo_core, name) for name in zoo_core.__all__)
    silent = [v.__name__ for v in documented if (inspect.isclass(v) or inspect.isfunction(v)) and not v.__doc__]
    assert silent == []


@pytest.mark.parametrize("name", ["Missing", "_missing", "vae", "torch", "importlib"])
def test_an_unknown_name_is_an_attribute_error(name: str) -> None:
    assert not hasattr(zoo_core, name)
    with pytest.raises(AttributeError, match=f"module 'zoo_core' has no attribute '{name}'"):
        getattr(zoo_core, name)


def test_to_import_the_package_imports_nothing_else() -> None:
    code = "import sys; before = {*sys.modules}; import zoo_core; print(*{*sys.modules} - before)"
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
    imported = done.stdout.split()
    assert [module for module in imported if module.startswith("zoo_core")] == ["zoo_core"]
    assert {module.partition(".")[0] for module in imported} - sys.stdlib_module_names == {"zoo_core"}


@pytest.mark.parametrize(("name", "heavy"), [
    ("hookimpl", False), ("PluginHost", False), ("LossSpec", False), ("ConfigError", False), ("PositiveInt", False),
    ("Loss", True),
])  # fmt: skip
def test_what_a_hooks_module_needs_comes_without_torch(name: str, heavy: bool) -> None:
    done = python("-c", f"import sys; from zoo_core import {name}; print('torch' in sys.modules)")
    assert done.stdout.strip() == str(heavy), done.stderr
