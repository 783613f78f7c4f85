"""That what the core itself offers keeps the contracts."""

from collections.abc import Callable
from typing import Any

from zoo_core import default_host
from zoo_core.testing import component_checks
from zoo_core.testing.examples import Told
from zoo_core.testing.running import report


@component_checks("core")
def test_component(check: Callable[[], Any]) -> None:
    check()


def test_latents_of_a_model_are_a_data_set() -> None:
    """Which the core alone cannot be asked, since it offers no model."""
    host = default_host()
    data = {"name": "core/digits", "preprocessing": {"image_size": 28}}
    told = Told(examples={"latents": {"model": "vae-mnist", "data": data}})
    assert report(host.find("dataset", "core/latents"), host, told).failures == []
