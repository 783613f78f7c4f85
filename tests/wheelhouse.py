"""Fixtures of a session: the zoo as its users install it. Get them with ``pytest_plugins = ["tests.wheelhouse"]``."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.installation import PROJECTS, build_wheel, empty_venv, project_name, source_files


@pytest.fixture(scope="session")
def sources() -> dict[str, set[str]]:
    """The files of each package as they were before its wheel was built, by distribution."""
    return {project_name(project): source_files(project) for project in PROJECTS}


@pytest.fixture(scope="session")
def wheels(sources: dict[str, set[str]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The wheel of the core and of each first-party plugin, by distribution."""
    into = tmp_path_factory.mktemp("wheels")
    with ThreadPoolExecutor(max_workers=2) as pool:
        built = pool.map(lambda project: build_wheel(project, into), PROJECTS)
        return {project_name(project): wheel for project, wheel in zip(PROJECTS, built, strict=True)}


@pytest.fixture(scope="session")
def zoo(wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with all first-party wheels; install nothing else there."""
    return empty_venv(tmp_path_factory.mktemp("zoo"), wheels.values())
