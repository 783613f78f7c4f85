"""That what this plugin offers keeps the contracts."""

from collections.abc import Callable
from typing import Any

from zoo_core.testing import component_checks


@component_checks("dalle")
def test_component(check: Callable[[], Any]) -> None:
    check()
