"""Fixtures of a session: the zoo as its users install it. Get them with ``pytest_plugins = ["tests.wheelhouse"]``."""

import fcntl
import os
from pathlib import Path

import pytest

from tests.installation import PROJECTS, build_wheels, built, empty_venv, project_name, source_files


@pytest.fixture(scope="session")
def sources() -> dict[str, set[str]]:
    """The files of each package as they were before its wheel was built, by distribution."""
    return {project_name(project): source_files(project) for project in PROJECTS}


@pytest.fixture(scope="session")
def wheels(sources: dict[str, set[str]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The wheel of the core and of each first-party plugin, by distribution; built once for all workers."""
    folder = shared(tmp_path_factory) / "wheels"
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            building = folder.with_suffix(".building")
            build_wheels(PROJECTS, building)
            building.rename(folder)
    return {name: wheel for name, wheel in built(folder).items() if name in sources}


def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of this session that all its workers have."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session")
def zoo(wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with all first-party wheels; install nothing else there."""
    return empty_venv(tmp_path_factory.mktemp("zoo"), wheels.values())
