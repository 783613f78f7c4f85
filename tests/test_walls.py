"""Who may import whom, read off the code's own imports; and what may appear nowhere.

``LAYERS`` are built upwards, the first at the bottom: a module imports from its own layer and from those
beneath it. Plugins see the public names of the core and nothing of each other.
"""

import ast
import functools
import graphlib
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import zoo_core
import zoo_core.data
from tests.installed import python
from zoo_core.hookspecs import YIELDS
from zoo_core.host import HEAVY, KNOWN_PLUGINS, PluginHost

ROOT = Path(__file__).parents[1]
LAYERS = (
    ("errors", "specs", "arguments", "files", "untrusted", "pins", "randomness"),
    ("hookspecs",),
    ("host",),
    ("distributions", "data"),
    ("components", "metrics"),
    ("config",),
    ("budget", "hub", "weights", "pretrained", "latents", "images", "figures", "evaluation"),
    ("publishing", "cards", "comparison", "encoded", "ready_parts"),
    ("training", "scaffold"),
    # "python -m zoo_core.training" is the command line, started by "accelerate launch".
    ("cli", "training.__main__", "testing", "conformance"),
)
LIGHT = ("zoo_core", "zoo_core.specs", "zoo_core.hookspecs", "zoo_core.host", "zoo_core.errors", "zoo_core.arguments")
PUBLIC = {"zoo_core": zoo_core.__all__, "zoo_core.data": zoo_core.data.__all__}


class Import(NamedTuple):
    """``from module import name``; ``name`` is empty for ``import module``."""

    module: str
    name: str
    runs: str = "first"  # "first": when the module is imported; "later": in a function; "never": for type checkers


def module_name(path: Path) -> str:
    top = next(p for p in path.parents if p.name.startswith("zoo_"))
    parts = path.relative_to(top.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


CORE = {module_name(path): path for path in sorted(ROOT.glob("zoo_core/**/*.py"))}
PLUGINS = {module_name(path): path for path in sorted(ROOT.glob("plugins/*/zoo_*/**/*.py"))}


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(tree: ast.AST, package: str, runs: str = "first") -> Iterator[Import]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, "", runs) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            yield from (Import(module, alias.name, runs) for alias in node.names)
        elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            never = "never" if isinstance(node.test, (ast.Name, ast.Attribute)) else runs
            yield from imports(ast.Module(node.body, []), package, never)
            yield from imports(ast.Module(node.orelse, []), package, runs)
        else:
            function = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            yield from imports(node, package, "later" if function and runs == "first" else runs)


@functools.cache
def imports_of(module: str) -> tuple[Import, ...]:
    path = (CORE | PLUGINS)[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    return tuple(imports(parsed(path), package))


def home(module: str, name: str) -> str:
    """The module of the core that an import reaches: a submodule, or where a package has the name from."""
    if f"{module}.{name}" in CORE:
        return f"{module}.{name}"
    if module in CORE and CORE[module].name == "__init__.py":
        for found in imports_of(module):
            if found.name == name and found.module.startswith(f"{module}."):
                return home(found.module, name)
    return module


def edges(module: str, *runs: str) -> set[str]:
    """The modules of the core that a module imports."""
    found = (home(i.module, i.name) for i in imports_of(module) if i.runs in runs)
    return {target for target in found if target.partition(".")[0] == "zoo_core"}


def layer(module: str) -> int:
    """Where a module of the core stands; the longest name in the table counts."""
    inner = module.partition(".")[2]
    names = [inner, inner.partition(".")[0]]
    return next(i for name in names for i, layer in enumerate(LAYERS) if name in layer)


def above(importer: str, imported: str) -> bool:
    return layer(imported) > layer(importer)


class TestCore:
    @pytest.mark.parametrize("module", CORE)
    def test_knows_no_plugin(self, module: str) -> None:
        packages = {i.module.partition(".")[0] for i in imports_of(module)}
        assert [package for package in packages if package.startswith("zoo_")] in ([], ["zoo_core"])
        named = re.compile(rf"\bzoo_({'|'.join(KNOWN_PLUGINS)})\b")
        # One hook is called like the plugin that uses it most.
        assert [s for s in strings(parsed(CORE[module])) if named.search(s) and s not in YIELDS] == []

    @pytest.mark.parametrize("module", sorted(CORE.keys() - {"zoo_core"}))
    def test_builds_only_on_what_stands_below(self, module: str) -> None:
        assert module.partition(".")[2].partition(".")[0] in {name for layer in LAYERS for name in layer}, (
            f"say in LAYERS where {module} stands"
        )
        # The package itself leads to all the rest, but lazily; nothing inside it may take that way.
        targets = edges(module, "first", "later", "never")
        assert "zoo_core" not in targets
        assert [target for target in targets if above(module, target)] == []

    def test_imports_nothing_in_a_circle(self) -> None:
        graphlib.TopologicalSorter({module: edges(module, "first") - {module} for module in CORE}).prepare()

    def test_each_room_may_be_imported_first(self) -> None:
        """Also where a package's own file takes names from the modules inside it."""
        code = f"""
import importlib, sys
for module in {sorted(m for m in CORE if m.count(".") <= 1)}:
    for known in [m for m in sys.modules if m.partition(".")[0] == "zoo_core"]:
        del sys.modules[known]
    importlib.import_module(module)
print("done")
"""
        done = python("-c", code)
        assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr

    @pytest.mark.parametrize("module", LIGHT)
    def test_what_discovery_needs_imports_nothing_heavy(self, module: str) -> None:
        reached, waiting = set(), {module}
        while waiting:
            reached |= waiting
            waiting = {target for m in waiting for target in edges(m, "first")} - reached
        heavy = {(m, i.module) for m in reached for i in imports_of(m) if i.runs == "first" and is_heavy(i)}
        assert heavy == set()

    def test_what_discovery_needs_runs_without_anything_heavy(self) -> None:
        modules = ", ".join((*LIGHT, "zoo_core.data.plugin", "zoo_core.cli.main"))
        done = python("-c", f"import sys, {modules}; print(*sys.modules)")
        assert done.returncode == 0, done.stderr
        assert {*HEAVY, "numpy", "huggingface_hub"} & {*done.stdout.split()} == set()


def is_heavy(found: Import) -> bool:
    return found.module.partition(".")[0] in {*HEAVY, "numpy", "huggingface_hub"}


def strings(tree: ast.Module) -> Iterator[str]:
    """String constants that are no docstrings."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.value


def trespasses(found: Import, own: str) -> bool:
    """Whether a plugin's import reaches what is not its own and not public."""
    package = found.module.partition(".")[0]
    if not package.startswith("zoo_") or package == own:
        return False
    return found.name not in PUBLIC.get(found.module, ())


class TestPlugins:
    def test_there_are_some(self) -> None:
        assert {module.partition(".")[0] for module in PLUGINS} >= {f"zoo_{name}" for name in KNOWN_PLUGINS}

    @pytest.mark.parametrize("module", PLUGINS)
    def test_see_public_names_and_nothing_of_each_other(self, module: str) -> None:
        own = module.partition(".")[0]
        assert [found for found in imports_of(module) if trespasses(found, own)] == []

    @pytest.mark.parametrize("name", KNOWN_PLUGINS)
    def test_offer_only_what_is_their_own(self, name: str) -> None:
        specs = PluginHost(strict=True).plugins[name].specs
        assert specs
        assert {spec.target.partition(".")[0].partition(":")[0] for spec in specs} <= {f"zoo_{name}", ""}


# Whatever reads these runs what a stranger wrote.
UNPICKLING = ("pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal")
UNSAFE_CALLS = ("eval", "exec", "compile", "__import__")
UNSAFE_FUNCTIONS = re.compile(r"torch\.(\w+\.)*load|yaml\.(\w+_)?load(_all)?")
UNSAFE_WHEN_ON = ("allow_pickle", "trust_remote_code", "shell")


def unsafe(tree: ast.Module) -> list[str]:
    """What in a module could run code that came with data."""
    found = [i.module for i in imports(tree, "zoo_core") if i.module.partition(".")[0] in UNPICKLING]
    found += [f"{i.module}.{i.name}" for i in imports(tree, "zoo_core") if not safe_name(f"{i.module}.{i.name}", None)]
    safe_loaders = {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and node.bases and all(is_safe(b, set()) for b in node.bases)
    }
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name = ast.unparse(call.func)
        options = {keyword.arg: keyword.value for keyword in call.keywords}
        loader = options.get("Loader", call.args[1] if len(call.args) > 1 else None)
        if name in UNSAFE_CALLS or not safe_name(name, loader, safe_loaders):
            found.append(name)
        found += [option for option in UNSAFE_WHEN_ON if option in options and ast.unparse(options[option]) != "False"]
    return found


def safe_name(name: str, loader: ast.expr | None, safe_loaders: frozenset[str] | set[str] = frozenset()) -> bool:
    if not UNSAFE_FUNCTIONS.fullmatch(name) or name == "yaml.safe_load":
        return True
    return name == "yaml.load" and loader is not None and is_safe(loader, safe_loaders)


def is_safe(loader: ast.expr, safe_loaders: frozenset[str] | set[str]) -> bool:
    name = ast.unparse(loader)
    return name.removeprefix("yaml.") in ("SafeLoader", "CSafeLoader") or name in safe_loaders


class TestEverywhere:
    @pytest.mark.parametrize("module", CORE | PLUGINS)
    def test_nothing_runs_code_that_came_with_data(self, module: str) -> None:
        assert unsafe(parsed((CORE | PLUGINS)[module])) == []


class TestTheWallsThemselves:
    """A wall that stops nothing would pass every test above."""

    @pytest.mark.parametrize("code", [
        "import pickle", "def f():\n    from pickle import loads", "import joblib as j", "from dill import load",
        "torch.load(path)", "torch.load(path, weights_only=True)", "torch.jit.load(path)", "from torch import load",
        "from torch.jit import load", "eval('1')", "f(exec(code))", "compile(code, '', 'exec')", "__import__(name)",
        "yaml.load(text)", "yaml.load(text, yaml.Loader)", "yaml.load(text, Loader=yaml.FullLoader)",
        "yaml.unsafe_load(text)", "yaml.full_load(text)", "yaml.load_all(text)", "from yaml import unsafe_load",
        "class L(yaml.Loader): ...\nyaml.load(text, L)", "class L(yaml.SafeLoader, Odd): ...\nyaml.load(text, L)",
        "numpy.load(path, allow_pickle=True)", "numpy.load(path, allow_pickle=flag)",
        "AutoModel.from_pretrained(name, trust_remote_code=True)", "subprocess.run(line, shell=True)",
    ])  # fmt: skip
    def test_unsafe_code_is_seen(self, code: str) -> None:
        assert unsafe(ast.parse(code)) != []

    @pytest.mark.parametrize("code", [
        "model.eval()", "re.compile('x')", "torch.compile(model)", "'eval(1) exec(1) pickle'", "torch.Tensor",
        "from safetensors.torch import load_file", "safetensors.torch.load_file(path)", "model.load_state_dict(s)",
        "yaml.safe_load(text)", "yaml.load(text, yaml.SafeLoader)", "yaml.load(text, Loader=yaml.CSafeLoader)",
        "class L(yaml.SafeLoader): ...\nyaml.load(text, L)", "numpy.load(path, allow_pickle=False)", "json.load(f)",
        "from zoo_core.data import load", "import picklesmith", "def f(shell=True): ...",
    ])  # fmt: skip
    def test_safe_code_is_let_through(self, code: str) -> None:
        assert unsafe(ast.parse(code)) == []

    @pytest.mark.parametrize("code", [
        "import zoo_core", "import zoo_core.config", "from zoo_core import _HOME", "from zoo_core import config",
        "from zoo_core.config import build", "from zoo_core import *", "from zoo_core.data.cache import cached",
        "from zoo_core.data import resolve", "import zoo_other", "from zoo_other.parts import Part",
        "def f():\n    from zoo_other import Part", "if TYPE_CHECKING:\n    from zoo_core.components import Batch",
        "try:\n    import zoo_other\nexcept ImportError: ...", "class A:\n    import zoo_other",
    ])  # fmt: skip
    def test_a_plugin_that_trespasses_is_seen(self, code: str) -> None:
        assert [i for i in imports(ast.parse(code), "zoo_mine") if trespasses(i, "zoo_mine")] != []

    @pytest.mark.parametrize("code", [
        "from zoo_core import Loss, hookimpl", "from zoo_core.data import load", "from zoo_mine.parts import Part",
        "import torch", "from .parts import Part", "import zoology",
    ])  # fmt: skip
    def test_a_plugin_that_keeps_to_the_rules_is_let_through(self, code: str) -> None:
        assert [i for i in imports(ast.parse(code), "zoo_mine") if trespasses(i, "zoo_mine")] == []

    def test_imports_are_read_with_when_they_run(self) -> None:
        code = """
import a
from b import c as d
if TYPE_CHECKING:
    from e import f
else:
    import g
if not TYPE_CHECKING:
    import h
def function():
    import i
    if typing.TYPE_CHECKING:
        import j
class Class:
    import k
    def method(self):
        from .l import m
from .. import n
"""
        assert [*imports(ast.parse(code), "zoo.pack")] == [
            Import("a", ""), Import("b", "c"), Import("e", "f", "never"), Import("g", ""), Import("h", ""),
            Import("i", "", "later"), Import("j", "", "never"), Import("k", ""), Import("zoo.pack.l", "m", "later"),
            Import("zoo", "n"),
        ]  # fmt: skip

    @pytest.mark.parametrize(("importer", "imported", "wrong"), [
        ("host", "config", True), ("config", "host", False), ("config", "components", False), ("data", "host", False),
        ("errors", "hookspecs", True), ("specs", "errors", False), ("evaluation", "training", True),
        ("training.loop", "evaluation.evaluate", False), ("training.loop", "cli.main", True),
        ("training.__main__", "cli.training", False), ("training.loop", "training.__main__", True),
        ("components", "data.dataset", False), ("data", "components", True), ("pretrained", "images", False),
    ])  # fmt: skip
    def test_layers_are_told_apart(self, importer: str, imported: str, wrong: bool) -> None:
        assert above(f"zoo_core.{importer}", f"zoo_core.{imported}") == wrong

    def test_names_are_followed_to_where_they_are_defined(self) -> None:
        assert home("zoo_core", "build") == "zoo_core.config"
        assert home("zoo_core", "components") == "zoo_core.components"
        assert home("zoo_core.data", "load") == "zoo_core.data.resolve"
        assert home("zoo_core.data", "cache") == "zoo_core.data.cache"
        assert home("zoo_core.errors", "ZooError") == "zoo_core.errors"
        assert home("torch", "nn") == "torch"
