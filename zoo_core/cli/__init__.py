"""``zoo …``: thin; each command calls what Python users call, and imports it only when it runs."""

from zoo_core.cli.main import main

__all__ = ["main"]
