"""torch-fidelity's functions: a wheel that also holds a package ``tests``, and imports torchvision without need."""

import importlib
import importlib.machinery
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch  # noqa: F401  # before the stubs, which it would take for the real thing

FOLDER = Path(sys.prefix) / "peers"
STUBS = tuple(f"torchvision{part}" for part in ("", ".datasets", ".models", ".transforms", ".transforms.functional"))


def fidelity(module: str) -> Any:
    """``torch_fidelity.<module>``, such as ``metric_fid``; skips the test where it is not installed."""
    if not (FOLDER / "torch_fidelity").is_dir():
        pytest.skip("torch-fidelity is not installed in .venv/peers")
    name = f"torch_fidelity.{module}"
    if name not in sys.modules:
        _import(name)
    return sys.modules[name]


def _import(name: str) -> None:
    stubbed = [stub for stub in STUBS if stub not in sys.modules]
    for stub in stubbed:
        parent, _, own = stub.rpartition(".")
        sys.modules[stub] = _stub(stub)
        if parent:
            setattr(sys.modules[parent], own, sys.modules[stub])
    sys.path.insert(0, str(FOLDER))
    try:
        importlib.import_module(name)
    finally:
        sys.path.remove(str(FOLDER))
        for stub in stubbed:
            del sys.modules[stub]


def _stub(name: str) -> types.ModuleType:
    module = types.ModuleType(name)
    module.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)
    module.__path__ = []
    # Names such as transforms.Compose, which are looked up at import and never used here.
    vars(module)["__getattr__"] = _named
    return module


def _named(attribute: str) -> type:
    if attribute.startswith("__"):
        raise AttributeError(attribute)
    return type(attribute, (), {})
