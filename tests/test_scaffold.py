"""``zoo new``: a plugin of every kind, written, linted, listed, checked and trained; and everything that is refused."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version
from typer.testing import CliRunner

import zoo_core
import zoo_core.data
import zoo_core.testing
from tests.installed import python
from zoo_core import ConfigError
from zoo_core.cli.main import app
from zoo_core.files import WRITING
from zoo_core.hookspecs import YIELDS
from zoo_core.host import KNOWN_PLUGINS, core_version, owned_name
from zoo_core.scaffold import KINDS, Project, new_plugin
from zoo_core.scaffold.project import LONGEST, bounds, plugin_name
from zoo_core.specs import NAME
from zoo_core.testing.checks import CHECKS
from zoo_core.testing.examples import TABLES

ROOT = Path(__file__).parents[1]
every_kind = pytest.mark.parametrize("kind", KINDS)
PUBLIC = {
    "zoo_core": zoo_core.__all__,
    "zoo_core.data": zoo_core.data.__all__,
    "zoo_core.testing": ["component_checks"],
}

# Runs the tests of all projects, and some steps of each recipe, in one process that has the projects installed.
TRY = """
import json, sys
from pathlib import Path
from zoo_core import PluginHost
host = PluginHost(strict=True)
told = {"plugins": {p.name: [[s.kind, s.name] for s in p.specs] for p in host.plugins.values()}}
told["heavy"] = [p.name for p in host.plugins.values() if p.imports]

import pytest
from zoo_core import default_host, from_pretrained, read_recipe, train
from zoo_core.config import describe

class Outcomes:
    def __init__(self):
        self.outcomes = {}
    def pytest_runtest_logreport(self, report):
        if report.when == "call" or report.failed:
            self.outcomes[report.nodeid] = [report.outcome, report.longreprtext]

source, runs = map(Path, sys.argv[1:])
gathered = Outcomes()
options = ["-q", "--import-mode=importlib", "-p", "no:cacheprovider", "-c", "/dev/null", "--rootdir", str(source)]
pytest.main([*options, str(source)], plugins=[gathered])
told["tests"] = gathered.outcomes
told["runs"] = {}
for folder in sorted(source.iterdir()):
    (recipe,) = folder.glob("zoo_*/recipes/*.yaml")
    plan = read_recipe(recipe.stem, ["training.steps=25", "training.log_every=1", "training.trackers=[]",
                                     "evaluation.examples=60"])
    model = from_pretrained(train(plan, runs / folder.name))
    lines = map(json.loads, (runs / folder.name / "log.jsonl").read_text().splitlines())
    told["runs"][folder.name] = {
        "recipe": plan.as_dict(),
        "model": describe(model),
        "losses": [line["loss"] for line in lines if line["event"] == "train"],
        "finite": bool(model.sample(3).isfinite().all()),
        "measured": json.loads((runs / folder.name / "model" / "results.json").read_text()),
    }
Path(runs / "told.json").write_text(json.dumps(told))
"""


@pytest.fixture(scope="module")
def projects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Project]:
    """One of each kind, in folders called like it."""
    place = tmp_path_factory.mktemp("projects")
    return {kind: new_plugin(f"try-{kind}", kind, place / kind) for kind in KINDS}


@pytest.fixture(scope="module")
def told(projects: dict[str, Project], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What came of the tests and of the recipes."""
    site, runs = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("runs")
    for project in projects.values():
        put(project.folder, site)
    source = projects[KINDS[0]].folder.parent
    environment = {**os.environ, "PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", TRY, str(source), str(runs)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert (runs / "told.json").is_file(), done.stdout + done.stderr
    return json.loads((runs / "told.json").read_text())


def table(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return content


def put(folder: Path, site: Path) -> None:
    """Puts a project's package where it is found, with what its wheel would say of it."""
    project = table(folder)
    package = project["name"].replace("-", "_")
    shutil.copytree(folder / package, site / package)
    info = site / f"{package}-{project['version']}.dist-info"
    info.mkdir()
    needs = [f"Requires-Dist: {need}" for need in project["dependencies"]]
    metadata = ["Metadata-Version: 2.4", f"Name: {project['name']}", f"Version: {project['version']}", *needs]
    metadata += [f"License-Expression: {project['license']}", f"Summary: {project['description']}"]
    (info / "METADATA").write_text("\n".join(metadata) + "\n")
    points = [f"{name} = {value}" for name, value in project["entry-points"]["zoo_core"].items()]
    (info / "entry_points.txt").write_text("\n".join(["[zoo_core]", *points]) + "\n")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def ruff(*arguments: str, folder: Path) -> str:
    command = [sys.executable, "-m", "ruff", *arguments, "--no-cache", "."]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    return "" if done.returncode == 0 else done.stdout + done.stderr


class TestWhatIsWritten:
    def test_there_is_one_of_every_kind_but_checkpoints(self) -> None:
        kinds = {spec.kind for specs in YIELDS.values() for spec in specs}
        assert set(KINDS) == kinds - {"checkpoint"}

    @every_kind
    def test_a_project_has_all_that_a_distribution_needs(self, kind: str, projects: dict[str, Project]) -> None:
        project = projects[kind]
        package = f"zoo_try_{kind}"
        assert set(project.files) == set(contents(project.folder))
        assert set(project.files) >= {
            "LICENSE", "README.md", "pyproject.toml", ".gitignore", ".github/workflows/test.yml",
            "tests/test_conformance.py", f"tests/test_{project.component}.py", f"{package}/__init__.py",
            f"{package}/py.typed", f"{package}/plugin.py", f"{package}/{project.component}.py",
            f"{package}/recipes/{project.recipe}.yaml",
        }  # fmt: skip
        assert (project.folder / package / "__init__.py").read_bytes() == b""
        assert (project.folder / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()

    @every_kind
    def test_it_bounds_the_zoo_and_every_plugin_on_both_sides(self, kind: str, projects: dict[str, Project]) -> None:
        project = table(projects[kind].folder)
        needs = {need.name: need.specifier for need in map(Requirement, project["dependencies"])}
        assert project["entry-points"] == {"zoo_core": {f"try-{kind}": f"zoo_try_{kind}.plugin"}}
        assert (
            {"zoo-core", "torch"} <= needs.keys() <= {"zoo-core", "torch", *(f"zoo-{name}" for name in KNOWN_PLUGINS)}
        )
        for name in needs.keys() - {"torch"}:
            assert needs[name].contains(core_version())
            assert {part.operator for part in needs[name]} == {">=", "<"}

    @every_kind
    def test_a_recipe_needs_no_plugin_that_is_not_required(self, kind: str, projects: dict[str, Project]) -> None:
        project = projects[kind]
        recipe = (project.folder / f"zoo_try_{kind}" / "recipes" / f"{project.recipe}.yaml").read_text()
        named = {name.partition("/")[0] for name in strings(yaml.safe_load(recipe)) if "/" in name and " " not in name}
        required = {owned_name(Requirement(need).name) for need in table(project.folder)["dependencies"]} - {""}
        assert named | {"core"} == required | {f"try-{kind}"}

    @every_kind
    def test_nothing_is_left_to_be_filled_in(self, kind: str, projects: dict[str, Project]) -> None:
        for path, content in contents(projects[kind].folder).items():
            text = content.decode()
            left = [word for word in ("$plugin", "$package", "$$", "${", "TODO") if word in text]
            assert left == (["${"] if path.endswith("test.yml") else []), path

    @every_kind
    def test_it_uses_public_names_alone(self, kind: str, projects: dict[str, Project]) -> None:
        for file in projects[kind].folder.rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ImportFrom) and str(node.module).startswith("zoo_core"):
                    assert {alias.name for alias in node.names} <= set(PUBLIC[str(node.module)]), file

    @every_kind
    def test_its_plugin_module_imports_nothing_heavy(self, kind: str, projects: dict[str, Project]) -> None:
        tree = ast.parse((projects[kind].folder / f"zoo_try_{kind}" / "plugin.py").read_text())
        imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert imported == {"collections.abc", "zoo_core"}
        assert not [node for node in ast.walk(tree) if isinstance(node, ast.Import)]

    @every_kind
    def test_its_workflow_is_yaml_that_checks_it_on_every_python(self, kind: str, projects: dict[str, Project]) -> None:
        job = yaml.safe_load((projects[kind].folder / ".github/workflows/test.yml").read_text())["jobs"]["test"]
        assert job["strategy"]["matrix"]["python"] == ["3.11", "3.12"]
        runs = [step["run"] for step in job["steps"] if "run" in step]
        assert runs[-3:] == ["pip install -e '.[test]'", "pytest", f"zoo check try-{kind}"]
        assert all("@v" in step["uses"] for step in job["steps"] if "uses" in step)
        (python_step,) = (step for step in job["steps"] if "python-version" in step.get("with", {}))
        assert python_step["with"]["python-version"] == "${{ matrix.python }}"

    def test_ruff_has_nothing_to_say_however_long_the_name(self, tmp_path: Path) -> None:
        for name in ("a", "my-plugin", "abcdefghi-" * (LONGEST // 10 - 1) + "abcdefghij"):
            for kind in KINDS:
                new_plugin(name, kind, tmp_path / name / kind)
        assert ruff("check", folder=tmp_path) == ""
        assert ruff("format", "--check", folder=tmp_path) == ""


def strings(content: Any) -> list[str]:
    if isinstance(content, dict):
        content = list(content.values())
    return [s for c in content for s in strings(c)] if isinstance(content, list) else [str(content)]


class TestWhatItDoes:
    @every_kind
    def test_it_is_listed_as_what_it_is(self, kind: str, told: Any, projects: dict[str, Project]) -> None:
        assert told["plugins"][f"try-{kind}"] == [[kind, projects[kind].component]]
        assert f"try-{kind}" not in told["heavy"]

    @every_kind
    def test_its_own_tests_pass(self, kind: str, told: Any, projects: dict[str, Project]) -> None:
        results = {name: result for name, result in told["tests"].items() if name.startswith(f"{kind}/")}
        failures = "\n".join(told for outcome, told in results.values() if outcome != "passed")
        assert not failures, failures
        files = {name.partition("::")[0] for name in results}
        assert files == {f"{kind}/tests/test_conformance.py", f"{kind}/tests/test_{projects[kind].component}.py"}
        full_name = f"try-{kind}/{projects[kind].component}"
        assert [name for name in results if f"test_component[{full_name}]" in name]

    @every_kind
    def test_its_recipe_uses_it_and_learns(self, kind: str, told: Any, projects: dict[str, Project]) -> None:
        run = told["runs"][kind]
        name = f"try-{kind}/{projects[kind].component}"
        used = run["model"] if kind not in ("loss", "dataset", "metric", "extractor") else run["recipe"]
        assert name in strings(used)
        assert run["finite"]
        assert len(run["losses"]) == 25
        assert sum(run["losses"][-3:]) < 0.95 * sum(run["losses"][:3])
        (measured,) = run["measured"]["evaluations"] if "evaluations" in run["measured"] else run["measured"]
        assert measured["values"]
        if kind == "metric":
            assert "participation_ratio" in measured["values"]
        if kind == "extractor":
            assert "kid (edges)" in measured["values"]


class TestVersions:
    @pytest.mark.parametrize(
        ("core", "range_"),
        [("0.1.0", ">=0.1,<0.2"), ("0.9.3", ">=0.9,<0.10"), ("1.4.2", ">=1.4,<2"), ("0.2.0.dev3", ">=0.2.0.dev3,<0.3")],
    )
    def test_the_range_is_up_to_the_next_version_that_may_break(self, core: str, range_: str) -> None:
        assert bounds(core) == range_

    @given(
        st.tuples(*[st.integers(0, 30)] * 3),
        st.sampled_from(["", ".dev2", "a1", "rc4", ".post1", "+cpu", "rc1.dev3+local.7"]),
    )
    def test_it_takes_the_version_that_it_is_written_with_and_no_next_one(
        self, numbers: tuple[int, int, int], suffix: str
    ) -> None:
        version = ".".join(map(str, numbers)) + suffix
        chosen = SpecifierSet(bounds(version))
        assert chosen.contains(Version(version).public, prereleases=True)
        major, minor, patch = numbers
        assert chosen.contains(f"{major}.{minor}.{patch + 1}")
        assert not chosen.contains(f"{major + 1}.0.0")
        assert chosen.contains(f"{major}.{minor + 1}.0") == (major > 0)


class TestNames:
    @given(st.from_regex(r"(zoo-)?[a-z][a-z0-9]{0,8}(-[a-z0-9]{1,8}){0,2}", fullmatch=True))
    def test_a_good_name_is_the_same_for_pypi_the_host_and_python(self, name: str) -> None:
        own = name.removeprefix("zoo-")
        if own in (*KNOWN_PLUGINS, "core"):
            return
        plugin = plugin_name(name)
        assert plugin == own == owned_name(f"zoo-{plugin}")
        assert NAME.fullmatch(plugin)
        assert f"zoo_{plugin.replace('-', '_')}".isidentifier()

    @given(
        st.one_of(
            st.text(max_size=12),
            st.text("azZ09-_. /\\\n'\"$äπ٣", max_size=12),
            st.from_regex(rf"[a-z]{{{LONGEST + 1},{LONGEST + 40}}}", fullmatch=True),
            st.sampled_from(
                [*KNOWN_PLUGINS, "core", "zoo-vae", "zoo-core", "my_plugin", "../up", "zoo-", "a--b", "a-"]
            ),
        )
    )
    def test_a_bad_name_is_refused_in_a_line(self, name: str) -> None:
        own = name.removeprefix("zoo-")
        good = own.isascii() and NAME.fullmatch(own) and "_" not in own and len(own) <= LONGEST
        if good and own not in (*KNOWN_PLUGINS, "core"):
            assert plugin_name(name) == own
            return
        with pytest.raises(ConfigError) as refusal:
            plugin_name(name)
        assert repr(name) in str(refusal.value)
        assert len(str(refusal.value).splitlines()) == 1

    @pytest.mark.parametrize("known", [*KNOWN_PLUGINS, "core"])
    def test_the_zoos_own_names_are_not_given_away(self, known: str) -> None:
        with pytest.raises(ConfigError, match="own"):
            plugin_name(known)

    def test_a_prefix_is_taken_off_once(self, tmp_path: Path) -> None:
        project = new_plugin("zoo-keeper", "prior", tmp_path / "keeper")
        assert project.plugin == "keeper"
        assert table(project.folder)["name"] == "zoo-keeper"


class TestRefusals:
    def test_no_other_kind(self, tmp_path: Path) -> None:
        for kind in ("checkpoint", "any", "", "../loss", "losses"):
            with pytest.raises(ConfigError, match="--kind"):
                new_plugin("mine", kind, tmp_path / "mine")
        assert not (tmp_path / "mine").exists()

    def test_nothing_is_overwritten(self, tmp_path: Path) -> None:
        project = new_plugin("mine", "loss", tmp_path / "mine")
        before = contents(tmp_path)
        for kind in ("loss", "prior"):
            with pytest.raises(ConfigError, match="there already"):
                new_plugin("mine", kind, project.folder)
        assert contents(tmp_path) == before

    def test_no_file_is_replaced_by_a_folder(self, tmp_path: Path) -> None:
        (tmp_path / "mine").write_text("a file")
        with pytest.raises(ConfigError, match="there already"):
            new_plugin("mine", "loss", tmp_path / "mine")
        assert contents(tmp_path) == {"mine": b"a file"}

    def test_an_empty_folder_will_do_but_not_where_one_stands(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "mine").mkdir()
        monkeypatch.chdir(tmp_path / "mine")
        with pytest.raises(ConfigError, match="current folder"):
            new_plugin("mine", "loss", Path())
        monkeypatch.chdir(tmp_path)
        assert new_plugin("mine", "loss", Path("mine")).files
        assert set(contents(tmp_path / "mine")) == set(new_plugin("mine", "loss", tmp_path / "again").files)

    def test_what_comes_while_it_is_written_stays(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write = Path.write_text

        def meanwhile(path: Path, *arguments: Any, **options: Any) -> int:
            (tmp_path / "mine").mkdir(exist_ok=True)
            (tmp_path / "mine" / "work").write_bytes(b"of weeks")
            return write(path, *arguments, **options)

        monkeypatch.setattr(Path, "write_text", meanwhile)
        with pytest.raises(ConfigError, match="there already"):
            new_plugin("mine", "loss", tmp_path / "mine")
        assert contents(tmp_path) == {"mine/work": b"of weeks"}

    def test_a_disk_that_is_full_leaves_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write, left = Path.write_text, [7]

        def full(path: Path, *arguments: Any, **options: Any) -> int:
            left[0] -= 1
            if not left[0]:
                raise OSError(28, "No space left on device")
            return write(path, *arguments, **options)

        monkeypatch.setattr(Path, "write_text", full)
        with pytest.raises(OSError, match="No space"):
            new_plugin("mine", "loss", tmp_path / "mine")
        assert list(tmp_path.iterdir()) == []

    def test_a_kill_leaves_nothing_half_written(self, tmp_path: Path) -> None:
        code = """
import os, signal, sys
from pathlib import Path
from zoo_core.scaffold import new_plugin
place, writes = Path(sys.argv[1]), int(sys.argv[2])
write = Path.write_text
def then_die(*arguments, **options):
    global writes
    writes -= 1
    if writes < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return write(*arguments, **options)
Path.write_text = then_die
new_plugin("mine", "loss", place)
"""
        for writes in (0, 5, 11):
            assert python("-c", code, str(tmp_path / "mine"), str(writes)).returncode == -9
            assert [p.name for p in tmp_path.iterdir() if not p.name.startswith(WRITING)] == []
        assert python("-c", code, str(tmp_path / "mine"), "12").returncode == 0
        assert len(contents(tmp_path / "mine")) == 12


class TestCommand:
    def test_it_tells_what_it_wrote_and_how_to_go_on(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        done = CliRunner().invoke(app, ["new", "my-plugin", "--kind", "prior"], catch_exceptions=False)
        head, *files, n, install, test, train, check = done.stdout.splitlines()
        assert done.exit_code == 0
        assert head == "my-plugin/laplace, in zoo-my-plugin:"
        assert {line.strip() for line in files} == set(contents(tmp_path / "zoo-my-plugin"))
        assert [n, *(line.strip() for line in (install, test, train, check))] == [
            "next:", "cd zoo-my-plugin && pip install -e '.[test]'", "pytest", "zoo train my-plugin-digits",
            "zoo check my-plugin",
        ]  # fmt: skip

    def test_a_folder_with_a_space_is_quoted(self, tmp_path: Path) -> None:
        command = ["new", "my-plugin", "--kind", "loss", "--into", str(tmp_path / "my work" / "plugin")]
        done = CliRunner().invoke(app, command, catch_exceptions=False)
        assert f"cd '{tmp_path}/my work/plugin' && " in done.stdout

    def test_bad_input_is_one_sentence_and_nothing_is_written(self, tmp_path: Path) -> None:
        commands = [
            ["My-Plugin", "--kind", "loss"], ["mine", "--kind", "checkpoint"], ["vae", "--kind", "loss"],
            ["mine", "--kind", "loss", "--into", "full"],
        ]  # fmt: skip
        (tmp_path / "full").mkdir()
        (tmp_path / "full" / "file").touch()
        code = """
import os, sys
from zoo_core.cli.main import main
os.chdir(sys.argv.pop(1))
main()
"""
        for command in commands:
            done = python("-c", code, str(tmp_path), "new", *command)
            assert (done.returncode, done.stdout) == (2, ""), command
            assert done.stderr.startswith("error: ")
            assert done.stderr.count("\n") == 1
        assert contents(tmp_path) == {"full/file": b""}


PAGE = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| `(\w+)` \| `(\w+)` \| (?:`(\w+)`|a function) \| (.*) \|$", PAGE, re.MULTILINE)


class TestThePage:
    """docs/plugins.md says what is; its commands are run on the newcomer's path."""

    def test_it_has_every_kind_with_its_hook(self) -> None:
        hooks = {spec.kind: hook for hook, specs in YIELDS.items() for spec in specs if spec.kind in KINDS}
        assert {kind: hook for kind, hook, _, _ in ROWS} == hooks
        assert len(ROWS) == len(KINDS)

    @pytest.mark.parametrize(("kind", "contract", "text"), [(kind, name, text) for kind, _, name, text in ROWS if name])
    def test_it_names_the_class_and_all_that_is_abstract_in_it(self, kind: str, contract: str, text: str) -> None:
        base = getattr(zoo_core, contract)
        assert base.kind == kind
        assert all(f"`{method}(" in text for method in base.__abstractmethods__)
        for method in re.findall(r"`(\w+)\(", text):
            assert callable(getattr(base, method)), method

    def test_its_tables_of_a_conformance_module_are_those_of_the_kit(self) -> None:
        (block,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
        scope: dict[str, Any] = {}
        exec(compile(block, "plugins.md", "exec"), scope)
        assert {name for name in scope if name.isupper()} <= set(TABLES)
        assert {key.partition("::")[2] for key in scope["EXPECTED_FAILURES"]} <= {check.name for check in CHECKS}
