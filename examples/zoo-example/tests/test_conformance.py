"""What every component of every plugin must do."""

from collections.abc import Callable

from zoo_core.testing import component_checks


@component_checks("example")
def test_component(check: Callable[[], object]) -> None:
    check()
