"""What the conformance kit asks of everything that this plugin offers."""

from typing import Any

from zoo_core.testing import component_checks


@component_checks("flow")
def test_component(check: Any) -> None:
    check()
