"""The hooks: each docstring's example is run and then used as a plugin; the tables agree with the signatures."""

import doctest
import inspect
import types
from collections.abc import Iterable
from typing import Any, get_args, get_origin, get_type_hints

import pytest

from zoo_core import specs
from zoo_core.errors import PluginError
from zoo_core.hookspecs import GROUP, KINDS, YIELDS, ZooHooks, hookimpl
from zoo_core.host import PluginHost
from zoo_core.specs import Spec

HOOKS = [name for name, member in vars(ZooHooks).items() if inspect.isfunction(member)]
SPECS = [c for c in vars(specs).values() if isinstance(c, type) and issubclass(c, Spec) and c is not Spec]
EXTRAS: dict[str, dict[str, str]] = {
    "metric": {"better": "lower", "unit": "nats"},
    "model": {"density": "none", "sampling": "parallel", "latent": "none"},
    "checkpoint": {"hub": "me/one"},
}


def example(hook: str) -> dict[str, Any]:
    """The names that a hook's example defines, once it has run as a doctest."""
    (test,) = doctest.DocTestFinder(recurse=False).find(getattr(ZooHooks, hook), hook, globs={})
    runner = doctest.DocTestRunner(verbose=False)
    result = runner.run(test, clear_globs=False)
    assert result.attempted >= 2
    assert result.failed == 0
    return dict(test.globs)


def plugin_of(**members: Any) -> types.ModuleType:
    module = types.ModuleType("zoo_my.plugin")
    vars(module).update(members)
    return module


def a_spec(kind: type[Spec]) -> Spec:
    return kind(name="one", target="zoo_my.one:One", summary="One.", **EXTRAS.get(kind.kind, {}))


@pytest.fixture
def host() -> PluginHost:
    return PluginHost(discover=False)


def test_there_are_ten_hooks_and_the_table_has_them_all() -> None:
    assert len(HOOKS) == 10
    assert list(YIELDS) == HOOKS
    assert all(hook.startswith("zoo_") for hook in HOOKS)


@pytest.mark.parametrize("hook", HOOKS)
def test_the_example_runs_and_its_component_is_found(hook: str, host: PluginHost) -> None:
    host.register(plugin_of(**example(hook)), "my")
    registrations = host.registrations()
    assert registrations
    for found in registrations:
        assert isinstance(found.spec, YIELDS[hook])
        assert found.spec.target.startswith("zoo_my")
        assert host.find(found.spec.kind, found.spec.name) == found
        assert host.find(None, f"my/{found.spec.name}") == found


@pytest.mark.parametrize("hook", HOOKS)
def test_the_example_is_a_whole_hook_of_public_names(hook: str) -> None:
    source = inspect.getdoc(getattr(ZooHooks, hook)) or ""
    imports = [line for line in source.splitlines() if "import" in line]
    assert imports == [line for line in imports if line.startswith(">>> from zoo_core import ")] != []
    assert f"def {hook}():" in source


def test_all_examples_together_make_one_plugin(host: PluginHost) -> None:
    host.register(plugin_of(**{name: value for hook in HOOKS for name, value in example(hook).items()}), "my")
    assert len(host.registrations()) == len(HOOKS)


@pytest.mark.parametrize("hook", HOOKS)
def test_the_signature_agrees_with_what_the_host_admits(hook: str) -> None:
    function = getattr(ZooHooks, hook)
    returned = get_type_hints(function)["return"]
    (yielded,) = get_args(returned)
    assert get_origin(returned) is Iterable
    assert (get_args(yielded) or (yielded,)) == YIELDS[hook]
    assert list(inspect.signature(function).parameters) == ["self"]


@pytest.mark.parametrize("hook", HOOKS)
def test_a_hook_admits_its_own_kinds_and_no_other(hook: str) -> None:
    for kind in SPECS:
        plugin = plugin_of(**{hook: hookimpl(lambda kind=kind: [a_spec(kind)], specname=hook)})
        own = PluginHost(discover=False)
        if kind in YIELDS[hook]:
            own.register(plugin, "my")
            assert own.find(kind.kind, "my/one").spec == a_spec(kind)
        else:
            with pytest.raises(PluginError, match=rf"{hook}\(\) must yield .*, not {kind.__name__}"):
                own.register(plugin, "my")


def test_every_kind_of_spec_has_exactly_one_hook() -> None:
    assert sorted(s.kind for admitted in YIELDS.values() for s in admitted) == sorted(s.kind for s in SPECS)
    assert len(set(KINDS)) == len(KINDS) == len(SPECS)
    assert set(KINDS) == {s.kind for s in SPECS}


@pytest.mark.parametrize("made", [lambda hooks: hooks, lambda hooks: hooks()], ids=["class", "object"])
def test_a_subclass_of_the_hooks_is_a_plugin(made: Any, host: PluginHost) -> None:
    class Mine(ZooHooks):
        @hookimpl
        def zoo_priors(self) -> list[specs.PriorSpec]:
            return [specs.PriorSpec(name="flow", target="zoo_my.flow:Flow", summary="A flow.")]

    host.register(made(Mine), "my")
    assert [r.full_name for r in host.registrations()] == ["my/flow"]


def test_the_group_is_the_packages_name() -> None:
    assert GROUP == "zoo_core"
