"""The host: looking up, leaving out, and telling why. Every test has a host of its own."""

import logging
import re
import sys
import tomllib
import types
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.installed import install, python, write
from zoo_core import host as host_module
from zoo_core.errors import PluginError, UnknownComponent
from zoo_core.hookspecs import KINDS, ZooHooks, hookimpl
from zoo_core.host import KNOWN_PLUGINS, PluginHost, Registration, check_kind, core_version, default_host, plural
from zoo_core.specs import DecoderSpec, EncoderSpec, LossSpec, PriorSpec, Spec

ROOT = Path(__file__).parents[1]
HOOK_OF = {"prior": "zoo_priors", "encoder": "zoo_encoders", "decoder": "zoo_decoders", "loss": "zoo_losses"}
FLOW = """
@hookimpl
def zoo_priors():
    yield PriorSpec(name="flow", target="{package}.plugin:zoo_priors", summary="A flow.")
"""


def spec(kind: type[Spec], name: str, target: str = "zoo_core.errors:ZooError") -> Spec:
    return kind(name=name, target=target, summary=f"{name}.")


def plugin_of(*offered: Spec) -> types.SimpleNamespace:
    def hook(kind: str) -> Callable[[], list[Spec]]:
        @hookimpl(specname=HOOK_OF[kind])
        def offer() -> list[Spec]:
            return [s for s in offered if s.kind == kind]

        return offer

    return types.SimpleNamespace(**{HOOK_OF[kind]: hook(kind) for kind in {s.kind for s in offered}})


def host_of(**plugins: Iterable[Spec]) -> PluginHost:
    host = PluginHost(discover=False)
    for name, offered in plugins.items():
        host.register(plugin_of(*offered), name)
    return host


@pytest.fixture(autouse=True)
def _no_switches(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("ZOO_STRICT", "ZOO_DISABLE", "ZOO_PLUGINS"):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on this process's path, whose packages are forgotten afterwards."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for module in set(sys.modules) - before:
        if str(getattr(sys.modules[module], "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[module]


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    caplog.set_level(logging.WARNING, "zoo_core")
    return lambda: [record.getMessage() for record in caplog.records if record.name == "zoo_core"]


def install_flow(site: Path, name: str, **options: Any) -> None:
    install(site, name, FLOW.format(package=f"zoo_{name.replace('-', '_')}"), **options)


class TestFind:
    def test_by_full_and_by_short_name(self) -> None:
        flow = spec(PriorSpec, "flow")
        host = host_of(one=[flow, spec(LossSpec, "elbo")], two=[spec(PriorSpec, "gmm")])
        for kind in ("prior", None):
            for name in ("one/flow", "flow"):
                assert host.find(kind, name) == Registration(flow, "one")

    def test_an_ambiguous_short_name_lists_the_full_ones(self) -> None:
        host = host_of(one=[spec(PriorSpec, "flow")], two=[spec(PriorSpec, "flow")], three=[spec(PriorSpec, "gmm")])
        with pytest.raises(UnknownComponent) as caught:
            host.find("prior", "flow")
        assert str(caught.value) == (
            "'flow' names more than one prior: one/flow (prior), two/flow (prior); use the full name"
        )
        assert host.find("prior", "two/flow").plugin == "two"

    def test_the_kind_settles_which_of_two_is_meant(self) -> None:
        host = host_of(one=[spec(EncoderSpec, "conv")], two=[spec(DecoderSpec, "conv")])
        assert host.find("decoder", "conv").full_name == "two/conv"
        with pytest.raises(UnknownComponent, match=r"one/conv \(encoder\), two/conv \(decoder\)"):
            host.find(None, "conv")

    @pytest.mark.parametrize("name", ["one/conv", "conv"])
    def test_another_kind_is_not_found(self, name: str) -> None:
        host = host_of(one=[spec(EncoderSpec, "conv")])
        with pytest.raises(UnknownComponent, match=rf"no decoder '{name}' \(it is of the kind encoder\)"):
            host.find("decoder", name)

    @pytest.mark.parametrize("typo", ["flwo", "one/flwo", "two/flow2"])
    def test_near_names_are_suggested_in_full_whoever_has_them(self, typo: str) -> None:
        host = host_of(one=[spec(PriorSpec, "flow")], two=[spec(PriorSpec, "flow"), spec(PriorSpec, "gmm")])
        with pytest.raises(UnknownComponent) as caught:
            host.find("prior", typo)
        assert str(caught.value) == f"no prior {typo!r}; did you mean: one/flow, two/flow?"

    def test_without_a_near_name_all_are_listed(self) -> None:
        host = host_of(one=[spec(PriorSpec, "flow")], two=[spec(PriorSpec, "flow"), spec(LossSpec, "elbo")])
        with pytest.raises(UnknownComponent, match=r"no prior 'xyz'; there are: one/flow, two/flow$"):
            host.find("prior", "xyz")
        with pytest.raises(UnknownComponent, match=r"no component 'xyz'; there are: one/flow, two/elbo, two/flow$"):
            host.find(None, "xyz")

    def test_a_strangers_plugin_is_named_and_nothing_is_suggested(self) -> None:
        with pytest.raises(UnknownComponent) as caught:
            host_of(one=[spec(PriorSpec, "flow")]).find("prior", "evil/flow")
        assert str(caught.value) == "no prior 'evil/flow': no plugin 'evil' is installed"

    @pytest.mark.parametrize("known", KNOWN_PLUGINS)
    def test_for_a_plugin_of_this_project_the_pip_line_is_given(self, known: str) -> None:
        with pytest.raises(UnknownComponent, match=f"'{known}/x' needs the plugin.*: pip install zoo-{known}$"):
            host_of().find("prior", f"{known}/x")

    def test_the_known_plugins_are_those_of_this_repository(self) -> None:
        folders = sorted(p.parent.name for p in ROOT.glob("plugins/*/pyproject.toml"))
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        assert sorted(KNOWN_PLUGINS) == folders
        assert sorted(extras["zoo"]) == [f"zoo-{name}" for name in folders]

    def test_registrations_are_sorted_by_full_name(self) -> None:
        host = host_of(two=[spec(PriorSpec, "b"), spec(PriorSpec, "a")], one=[spec(LossSpec, "z")])
        assert [r.full_name for r in host.registrations()] == ["one/z", "two/a", "two/b"]
        assert [r.full_name for r in host.registrations("prior")] == ["two/a", "two/b"]
        assert host.registrations("metric") == []


class TestLoad:
    def test_what_the_target_names(self) -> None:
        host = host_of(one=[spec(PriorSpec, "flow", "zoo_core.errors:ZooError")])
        assert host.load(host.find("prior", "flow")).__name__ == "ZooError"

    @pytest.mark.parametrize(("target", "cause"), [
        ("zoo_vq.missing:Flow", "ModuleNotFoundError: No module named 'zoo_vq.missing'"),
        ("zoo_vq.parts:Missing", "AttributeError: module 'zoo_vq.parts' has no attribute 'Missing'"),
        ("zoo_vq.needy:Flow", "ModuleNotFoundError: No module named 'absent_dependency'"),
        ("zoo_vq.faulty:Flow", "ZeroDivisionError: division by zero"),
    ])  # fmt: skip
    def test_an_error_names_plugin_target_and_cause(self, site: Path, target: str, cause: str) -> None:
        modules = {"parts.py": "", "needy.py": "import absent_dependency", "faulty.py": "1 / 0"}
        install_flow(site, "vq", version="1.2", modules=modules)
        host = PluginHost()
        with pytest.raises(PluginError) as caught:
            host.load(Registration(spec(PriorSpec, "flow", target), "vq"))
        origin = "prior 'vq/flow' of plugin 'vq' (zoo-vq 1.2)"
        assert str(caught.value) == f"{origin} cannot be imported from {target!r}: {cause}"
        assert caught.value.__cause__ is not None

    def test_the_name_of_a_class_once_it_has_been_imported(self, site: Path) -> None:
        code = FLOW.format(package="zoo_vq").replace("plugin:zoo_priors", "flow:Flow")
        install(site, "vq", code, modules={"flow.py": "class Flow: ...\nclass Other: ..."})
        host = PluginHost()
        assert host.name_of(object) is None
        assert "zoo_vq.flow" not in sys.modules
        flow = host.load(host.find("prior", "vq/flow"))
        found = host.name_of(flow)
        assert found is not None
        assert found.full_name == "vq/flow"
        assert host.name_of(sys.modules["zoo_vq.flow"].Other) is None
        assert PluginHost(discover=False).name_of(flow) is None


class TestRegister:
    def test_hosts_know_nothing_of_each_other(self) -> None:
        one, two = host_of(mine=[spec(PriorSpec, "flow")]), host_of(mine=[spec(PriorSpec, "other")])
        assert [r.full_name for r in one.registrations()] == ["mine/flow"]
        assert [r.full_name for r in two.registrations()] == ["mine/other"]
        assert PluginHost(discover=False).plugins == {}

    def test_beside_the_installed_ones(self) -> None:
        host = PluginHost(strict=True)
        host.register(plugin_of(spec(PriorSpec, "flow")), "mine")
        assert host.find("prior", "mine/flow").plugin == "mine"
        assert host.find("dataset", "core/digits").plugin == "core"

    def test_a_name_is_taken_once(self) -> None:
        host = host_of(mine=[spec(PriorSpec, "flow")])
        with pytest.raises(PluginError, match="there is a plugin 'mine' already: plugin 'mine'"):
            host.register(plugin_of(spec(PriorSpec, "other")), "mine")
        assert [r.full_name for r in host.registrations()] == ["mine/flow"]

    @pytest.mark.parametrize("name", ["", "Mine", "a/b", "my plugin", "9", "core:x"])
    def test_a_name_must_be_one_that_a_config_can_use(self, name: str) -> None:
        host = host_of()
        with pytest.raises(PluginError, match="use lower-case letters and digits"):
            host.register(plugin_of(spec(PriorSpec, "flow")), name)
        assert host.plugins == {}

    def test_what_is_broken_leaves_nothing_behind(self) -> None:
        @hookimpl
        def zoo_priors() -> Iterator[Spec]:
            yield spec(PriorSpec, "flow")
            raise RuntimeError("half\nway")

        host = host_of()
        with pytest.raises(PluginError, match=r"^plugin 'mine' is broken: RuntimeError: half way$") as caught:
            host.register(types.SimpleNamespace(zoo_priors=zoo_priors), "mine")
        assert isinstance(caught.value.__cause__, RuntimeError)
        assert (host.plugins, host.registrations()) == ({}, [])

    @pytest.mark.parametrize(("offered", "told"), [(None, "NoneType"), (3, "int"), (spec(PriorSpec, "f"), "PriorSpec")])
    def test_a_hook_that_returns_no_iterable_is_named(self, offered: object, told: str) -> None:
        plugin = types.SimpleNamespace(zoo_priors=hookimpl(lambda: offered, specname="zoo_priors"))
        with pytest.raises(PluginError, match=rf"zoo_priors\(\) must yield PriorSpec; it returned {told}"):
            host_of().register(plugin, "mine")

    def test_a_hook_that_was_not_marked_is_named(self) -> None:
        class Mine(ZooHooks):
            def zoo_priors(self) -> list[PriorSpec]:
                return []

        for plugin in (types.SimpleNamespace(zoo_priors=lambda: []), Mine, Mine()):
            with pytest.raises(PluginError, match="zoo_priors is not marked with @hookimpl"):
                host_of().register(plugin, "mine")

    def test_one_name_for_two_kinds_is_refused(self) -> None:
        with pytest.raises(PluginError, match="the name 'conv' is used twice, as encoder and decoder"):
            host_of(mine=[spec(EncoderSpec, "conv"), spec(DecoderSpec, "conv")])


class TestDiscovery:
    def test_an_installed_plugin_is_found_with_its_version(self, site: Path) -> None:
        install_flow(site, "vq", version="1.2")
        plugin = PluginHost().plugins["vq"]
        assert str(plugin) == "plugin 'vq' (zoo-vq 1.2)"
        assert (plugin.state, plugin.error, plugin.traceback, plugin.package) == ("active", "", "", "zoo_vq")
        assert [s.name for s in plugin.specs] == ["flow"]

    def test_the_first_party_plugins_are_in_order(self, warnings: Callable[[], list[str]]) -> None:
        host = PluginHost(strict=True)
        assert {"core", *KNOWN_PLUGINS} <= {*host.plugins}
        assert warnings() == []

    def test_listing_imports_nothing_heavy(self) -> None:
        code = "import sys; from zoo_core.host import *; assert default_host().registrations(); print(*sys.modules)"
        done = python("-c", code, ZOO_STRICT="1")
        assert done.returncode == 0, done.stderr
        assert not {*host_module.HEAVY, "numpy", "huggingface_hub"} & {*done.stdout.split()}

    def test_an_entry_point_may_name_a_class(self, site: Path) -> None:
        code = """
        class Mine(ZooHooks):
            @hookimpl
            def zoo_priors(self):
                yield PriorSpec(name="flow", target="zoo_vq.plugin:Mine", summary="A flow.")
        """
        install(site, "vq", code, entry_point="vq = zoo_vq.plugin:Mine")
        assert PluginHost(strict=True).find("prior", "flow").full_name == "vq/flow"

    def test_a_broken_one_is_told_in_one_line_and_left_out(self, site: Path, warnings: Callable[[], list[str]]) -> None:
        install(site, "vq", "raise RuntimeError('no\\n  luck %s')", version="1.2")
        host = PluginHost()
        plugin = host.plugins["vq"]
        assert warnings() == [
            "plugin 'vq' (zoo-vq 1.2) is skipped: RuntimeError: no luck %s"
            " (see 'zoo plugins --errors', or set ZOO_DISABLE=vq)"
        ]
        assert (plugin.state, plugin.error, plugin.specs) == ("failed", "RuntimeError: no luck %s", ())
        assert "zoo_vq/plugin.py" in plugin.traceback
        assert host.find("dataset", "digits").plugin == "core"

    def test_a_component_of_a_broken_one_is_never_unknown(self, site: Path) -> None:
        install(site, "vq", "import absent_dependency", version="1.2")
        host = PluginHost()
        with pytest.raises(PluginError) as caught:
            host.find("prior", "vq/flow")
        assert str(caught.value) == (
            "'vq/flow' cannot be used: plugin 'vq' (zoo-vq 1.2) is installed but failed to load:"
            " ModuleNotFoundError: No module named 'absent_dependency'"
        )
        with pytest.raises(UnknownComponent, match=r"; installed but failed to load: plugin 'vq' \(zoo-vq 1\.2\)$"):
            host.find("prior", "flow")

    @pytest.mark.parametrize(("code", "error"), [
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("raise SystemExit", "SystemExit"),
        ("raise GeneratorExit", "GeneratorExit"),
        ("class E(Exception):\n    def __str__(self): raise self\nraise E", "E"),
        ("@hookimpl\ndef zoo_priors(): raise SystemExit('bye')", "SystemExit: bye"),
    ])  # fmt: skip
    def test_nothing_a_plugin_raises_ends_the_host(self, site: Path, code: str, error: str) -> None:
        install(site, "vq", code)
        plugin = PluginHost().plugins["vq"]
        assert (plugin.state, plugin.error) == ("failed", error)

    def test_the_user_may_still_interrupt(self, site: Path) -> None:
        install(site, "vq", "raise KeyboardInterrupt")
        with pytest.raises(KeyboardInterrupt):
            PluginHost()

    def test_what_an_interrupted_uninstall_leaves_is_told(self, site: Path, warnings: Callable[[], list[str]]) -> None:
        install_flow(site, "vq")
        (site / "zoo_vq-1.0.dist-info" / "METADATA").unlink()
        assert "vq" not in PluginHost().plugins
        (line,) = warnings()
        assert line.startswith("plugin 'vq' is skipped: ValueError: its distribution has no metadata; install it again")
        assert line.endswith("set ZOO_DISABLE=vq)")

    def test_an_entry_point_that_names_no_module_is_told(self, site: Path) -> None:
        install(site, "vq", entry_point="vq = zoo-vq/plugin.py")
        assert PluginHost().plugins["vq"].error == (
            "ValueError: its entry point is 'zoo-vq/plugin.py'; use 'package.module'"
        )

    @pytest.mark.parametrize("target", ["zoo_vq.missing:Flow", "zoo_vq.plugin.inner:Flow", "zoo_vq.no.such:Flow"])
    def test_a_target_in_its_own_package_must_exist(self, site: Path, target: str) -> None:
        install(site, "vq", FLOW.format(package="zoo_vq").replace("zoo_vq.plugin:zoo_priors", target))
        module = target.partition(":")[0]
        assert PluginHost().plugins["vq"].error == (
            f"ValueError: a target names the module '{module}', which does not exist"
        )

    def test_a_target_whose_package_lacks_a_dependency_costs_only_itself(self, site: Path) -> None:
        code = FLOW.format(package="zoo_vq").replace("zoo_vq.plugin:zoo_priors", "zoo_vq.extra.flow:Flow")
        install(site, "vq", code, modules={"extra/__init__.py": "import absent_dependency", "extra/flow.py": ""})
        host = PluginHost(strict=True)
        with pytest.raises(PluginError, match="No module named 'absent_dependency'"):
            host.load(host.find("prior", "vq/flow"))

    def test_a_target_in_another_package_is_met_when_it_is_loaded(self, site: Path) -> None:
        install(site, "vq", FLOW.format(package="zoo_vq").replace("zoo_vq.plugin:zoo_priors", "absent_package:Flow"))
        host = PluginHost(strict=True)
        with pytest.raises(PluginError, match="No module named 'absent_package'"):
            host.load(host.find("prior", "vq/flow"))

    def test_the_host_of_the_process_is_made_once(self) -> None:
        assert default_host() is default_host()


class TestOwners:
    @pytest.mark.parametrize(("distribution", "entry_point", "told"), [
        ("nets-extra", "vq", "its distribution is called 'nets-extra'; plugins are called 'zoo-<name>'"),
        ("zoo-thief", "vq", "the name 'vq' is not its own; zoo-thief may only use 'thief'"),
        ("zoo_my.vq", "my_vq", "the name 'my_vq' is not its own; zoo_my.vq may only use 'my-vq'"),
        ("zoo-9", "9", "plugin name '9': use lower-case letters and digits, joined by '-'"),
        ("zoo-", "zoo", "plugins are called 'zoo-<name>'"),
    ])  # fmt: skip
    def test_a_plugin_has_the_name_of_its_distribution(
        self, site: Path, distribution: str, entry_point: str, told: str
    ) -> None:
        install(site, "vq", "imported = True", distribution=distribution, entry_point=f"{entry_point} = zoo_vq.plugin")
        with pytest.raises(PluginError, match=re.escape(told)):
            PluginHost(strict=True)
        assert "zoo_vq" not in sys.modules

    @pytest.mark.parametrize("distribution", ["zoo-my-vq", "zoo_my_vq", "Zoo.My-VQ"])
    def test_the_way_a_distribution_writes_its_name_does_not_matter(self, site: Path, distribution: str) -> None:
        install_flow(site, "my-vq", distribution=distribution)
        assert PluginHost(strict=True).find("prior", "flow").full_name == "my-vq/flow"

    @pytest.mark.parametrize(("distribution", "entry_point"), [
        ("zoo-thief", "vq"),  # another's plugin name
        ("vq", "aaa"), ("vq", "zzz"),  # a distribution called like another's plugin, before it and after it
        ("zoo-vq-extra", "vq"),
    ])  # fmt: skip
    def test_one_that_takes_anothers_name_hides_nobody(
        self, site: Path, warnings: Callable[[], list[str]], distribution: str, entry_point: str
    ) -> None:
        install_flow(site, "vq")
        install_flow(site, "other", distribution=distribution, entry_point=f"{entry_point} = zoo_other.plugin")
        host = PluginHost()
        assert host.plugins["vq"].state == "active"
        assert host.find("prior", "flow").full_name == "vq/flow"
        (taker,) = (p for p in host.plugins.values() if p.state == "failed")
        assert (taker.distribution, taker.name) == (distribution, entry_point)
        (line,) = warnings()
        # To switch off the name would switch off its owner.
        assert line.endswith(f"set ZOO_DISABLE={distribution})")

    def test_asking_for_what_it_would_own_tells_that_it_failed(self, site: Path) -> None:
        install_flow(site, "thief", entry_point="good = zoo_thief.plugin")
        with pytest.raises(PluginError, match=r"plugin 'good' \(zoo-thief 1\.0\) is installed but failed to load"):
            PluginHost().find("prior", "thief/flow")


SENTINEL = "from pathlib import Path\nPath({path!r}).touch()\n"


@pytest.fixture
def imported(site: Path, tmp_path: Path) -> Callable[[], bool]:
    """Installs a plugin ``vq`` (distribution ``zoo_vq``) and tells whether any of it was imported."""
    mark = tmp_path / "imported"
    code = SENTINEL.format(path=str(mark))
    install(site, "vq", code, distribution="zoo_vq", modules={"__init__.py": code})
    return mark.exists


class TestSwitches:
    @pytest.mark.parametrize("listed", ["vq", "zoo-vq", "zoo_vq", " other , vq ,", "VQ"])
    def test_a_disabled_plugin_is_not_imported(
        self, imported: Callable[[], bool], monkeypatch: pytest.MonkeyPatch, listed: str
    ) -> None:
        monkeypatch.setenv("ZOO_DISABLE", listed)
        host = PluginHost(strict=True)
        assert host.plugins["vq"].state == "disabled"
        assert not imported()
        with pytest.raises(PluginError, match=r"'vq/x' cannot be used: .* is disabled by ZOO_DISABLE or ZOO_PLUGINS"):
            host.find("prior", "vq/x")
        assert host.plugins["core"].state == "active"

    @pytest.mark.parametrize("listed", ["", " , ", "core", "vqq", "v", "zoo-core,nets"])
    def test_a_plugin_that_is_not_allowed_is_not_imported(
        self, imported: Callable[[], bool], monkeypatch: pytest.MonkeyPatch, listed: str
    ) -> None:
        monkeypatch.setenv("ZOO_PLUGINS", listed)
        host = PluginHost(strict=True)
        assert host.plugins["vq"].state == "disabled"
        assert not imported()
        assert (host.plugins["core"].state == "active") == ("core" in listed)
        assert (host.plugins["nets"].state == "active") == ("nets" in listed)

    @pytest.mark.parametrize("listed", ["vq", "zoo-vq", "core, vq"])
    def test_a_plugin_that_is_allowed_is_imported(
        self, imported: Callable[[], bool], monkeypatch: pytest.MonkeyPatch, listed: str
    ) -> None:
        monkeypatch.setenv("ZOO_PLUGINS", listed)
        host = PluginHost(strict=True)
        assert host.plugins["vq"].state == "active"
        assert imported()
        assert host.plugins["nets"].state == "disabled"

    def test_without_switches_it_is_imported(self, imported: Callable[[], bool]) -> None:
        assert PluginHost(strict=True).plugins["vq"].state == "active"
        assert imported()

    def test_to_disable_outweighs_to_allow(self, imported: Callable[[], bool], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("ZOO_PLUGINS", "vq")
        monkeypatch.setenv("ZOO_DISABLE", "vq")
        assert PluginHost().registrations() == []
        assert not imported()

    @pytest.mark.parametrize(("variable", "strict", "raises"), [
        (None, None, False), ("", None, False), ("0", None, False), ("1", None, True),
        ("1", False, False), ("0", True, True), (None, True, True),
    ])  # fmt: skip
    def test_strict_raises_at_the_first_broken_plugin(
        self, site: Path, monkeypatch: pytest.MonkeyPatch, variable: str | None, strict: bool | None, raises: bool
    ) -> None:
        install(site, "vq", "raise SystemExit(3)", version="1.2")
        if variable is not None:
            monkeypatch.setenv("ZOO_STRICT", variable)
        if not raises:
            assert PluginHost(strict=strict).plugins["vq"].state == "failed"
            return
        with pytest.raises(PluginError, match=r"^plugin 'vq' \(zoo-vq 1\.2\) is broken: SystemExit: 3$"):
            PluginHost(strict=strict)


class TestVersions:
    @pytest.mark.parametrize("requirement", ["zoo-core>=99", "zoo_core >= 99", "Zoo.Core>=99; python_version > '3'"])
    def test_a_broken_plugin_made_for_another_core_says_so(
        self, site: Path, warnings: Callable[[], list[str]], requirement: str
    ) -> None:
        install(site, "vq", "from zoo_core import Missing", requires=["torch>=2", requirement])
        error = PluginHost().plugins["vq"].error
        assert error.startswith("ImportError: cannot import name 'Missing'")
        assert error.endswith(f"; it asks for zoo-core>=99, this is {core_version()}")
        (line,) = warnings()
        assert error in line

    @pytest.mark.parametrize("requirement", [
        f"zoo-core=={core_version()}", "zoo-core", "zoo-core-extra>=99", "torch>=99", "not a requirement!",
        "zoo-core>=99; extra == 'later'", "zoo-core>=99; python_version < '3'",
    ])  # fmt: skip
    def test_otherwise_the_cause_stands_alone(self, site: Path, requirement: str) -> None:
        install(site, "vq", "1 / 0", requires=[requirement])
        assert PluginHost().plugins["vq"].error == "ZeroDivisionError: division by zero"

    def test_a_plugin_that_works_is_not_held_up_by_its_pins(
        self, site: Path, warnings: Callable[[], list[str]]
    ) -> None:
        install_flow(site, "vq", requires=["zoo-core>=99"])
        assert PluginHost(strict=True).plugins["vq"].state == "active"
        assert warnings() == []


class TestHeavyImports:
    """In processes of their own, where a stand-in for matplotlib has not been imported by anybody yet."""

    def found(self, site: Path, code: str, before: str = "zoo_core") -> tuple[str, str]:
        write(site, {"matplotlib.py": ""})
        install(site, "vq", code)
        told = "from zoo_core import default_host; print(*default_host().plugins['vq'].imports)"
        done = python("-c", f"import {before}; {told}", site=site)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip(), done.stderr

    def test_are_told_with_what_to_do(self, tmp_path: Path) -> None:
        imports, told = self.found(tmp_path, "import matplotlib")
        assert imports == "matplotlib"
        assert re.fullmatch(
            r"plugin 'vq' \(zoo-vq 1\.0\) imports matplotlib when it is listed \(\d+\.\d s\);"
            r" keep its hooks in a module that does not\n",
            told,
        )

    def test_cost_a_broken_plugin_no_second_line(self, tmp_path: Path) -> None:
        _, told = self.found(tmp_path, "import matplotlib\n1 / 0")
        assert len(told.splitlines()) == 1
        assert "is skipped: ZeroDivisionError" in told

    def test_nothing_is_told_of_a_light_one(self, tmp_path: Path) -> None:
        assert self.found(tmp_path, "import json") == ("", "")

    def test_what_the_user_imported_is_not_laid_at_its_door(self, tmp_path: Path) -> None:
        assert self.found(tmp_path, "import matplotlib", before="matplotlib") == ("", "")


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_are_taken_in_singular_and_plural(kind: str) -> None:
    assert check_kind(kind) == check_kind(plural(kind)) == kind


def test_an_unknown_kind_lists_those_there_are() -> None:
    with pytest.raises(UnknownComponent, match=r"no kind 'lozz'; there are: encoders, .*losses.*checkpoints$"):
        check_kind("lozz")
