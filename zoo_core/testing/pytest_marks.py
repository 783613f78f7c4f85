"""The kit in a plugin's own tests. Imports pytest when it is used, and registers nothing with it."""

from collections.abc import Callable
from typing import Any

from zoo_core.testing.running import Case, Report, cases


def component_checks(plugin: str) -> Callable[[Any], Any]:
    """Runs a test for a plugin, and for each of its components, with what checks it as the argument ``check``.

    Args:
        plugin: the name of one that is installed.

    Raises:
        UnknownComponent, PluginError: it is not there, or broken.
    """
    import pytest

    return pytest.mark.parametrize("check", [_asserting(case) for case in cases(plugin)], ids=str)


def _asserting(case: Case) -> Case:
    def run() -> Report:
        report = case.run()
        if report.failures:
            raise AssertionError("\n".join([str(report), *report.failures]))
        return report

    return Case(case.name, run)
