"""Builds wheels, and environments that hold nothing but wheels and what these require."""

import os
import subprocess
import sys
import tomllib
import venv
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, PackageNotFoundError, PathDistribution, distribution
from pathlib import Path
from textwrap import dedent
from typing import Any
from zipfile import Path as ZipPath
from zipfile import ZipFile

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

CHECKOUT = Path(__file__).parents[1]
PROJECTS = [CHECKOUT, *sorted(path.parent for path in CHECKOUT.glob("plugins/*/pyproject.toml"))]
OURS = ("PYTHON", "ZOO_", "ACCELERATE_")  # variables that would lead out of an environment, or change the zoo
ALONE = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}


def project_table(project: Path) -> dict[str, Any]:
    table: dict[str, Any] = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return table


def project_name(project: Path) -> str:
    return str(project_table(project)["name"])


def package(project: Path) -> Path:
    return project / project_name(project).replace("-", "_")


def source_files(project: Path) -> set[str]:
    """What of a package is worth shipping: all but caches and hidden files."""
    return {
        str(path.relative_to(project))
        for path in package(project).rglob("*")
        if path.is_file() and not any(p.startswith(".") or p == "__pycache__" for p in path.relative_to(project).parts)
    }


def build_wheel(project: Path, into: Path) -> Path:
    """The wheel of a project, built in a folder of its own inside ``into`` with the build tools that are installed."""
    return build_wheels([project], into / project_name(project))[project_name(project)]


def build_wheels(projects: Iterable[Path], folder: Path) -> dict[str, Path]:
    """The wheels of projects by distribution, built in one folder."""
    pip("wheel", "--no-index", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, *projects)
    return built(folder)


def built(folder: Path) -> dict[str, Path]:
    """The wheels in a folder by distribution."""
    return {canonicalize_name(wheel.name.partition("-")[0]): wheel for wheel in folder.glob("*.whl")}


def empty_venv(folder: Path, wheels: Iterable[Path]) -> Path:
    """Makes an environment without pip that holds these wheels, and links to what they require; returns its python.

    Requirements are the declared ones and theirs, as this environment has them; anything else, and all of
    the zoo that this environment has, is not there.
    """
    wheels = list(wheels)
    venv.create(folder / "venv", symlinks=True, with_pip=False)
    (site_packages,) = (folder / "venv").glob("lib/python*/site-packages")
    _link(requirements(wheels), folder / "required")
    (site_packages / "required.pth").write_text(f"{folder / 'required'}\n", encoding="utf-8")
    python = folder / "venv" / "bin" / "python"
    install(python, wheels)
    return python


def install(python: Path, wheels: Iterable[Path]) -> None:
    """Installs wheels as users do: pip refuses if something that they require is missing or of the wrong version."""
    pip("--python", python, "install", "--no-index", *wheels)


def uninstall(python: Path, *names: str) -> None:
    pip("--python", python, "uninstall", "--yes", *names)


def run(python: Path, code: str, *arguments: object) -> str:
    """What a program prints in that environment; a failure shows its errors."""
    return output([python, "-I", "-c", dedent(code), *arguments], python.parent)


def output(command: Iterable[object], folder: Path) -> str:
    """What a command prints, run in ``folder`` on one thread of the processor, without network."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env={**clean, **ALONE, "ZOO_CACHE": str(folder / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def pip(*arguments: object) -> str:
    command = [sys.executable, "-I", "-m", "pip", "--isolated", "--disable-pip-version-check", *arguments]
    return output(command, Path(sys.prefix))


def metadata(wheel: Path) -> Distribution:
    """What a wheel says of itself."""
    (info,) = (path for path in ZipPath(ZipFile(wheel)).iterdir() if path.name.endswith(".dist-info"))
    return PathDistribution(info)


def requirements(wheels: Iterable[Path]) -> list[Distribution]:
    """All that the wheels require, directly or not, except the zoo itself, as it is installed here."""
    asked = [need for wheel in wheels for need in _needs(metadata(wheel), frozenset())]
    found: dict[tuple[str, frozenset[str]], Distribution] = {}
    while asked:
        need = asked.pop()
        key = canonicalize_name(need.name), frozenset(need.extras)
        if key in found or is_zoo(need.name):
            continue
        try:
            found[key] = distribution(need.name)
        except PackageNotFoundError:
            continue  # pip, when it installs the wheels, says whether it was needed
        asked += _needs(found[key], key[1])
    return list(found.values())


def is_zoo(name: str) -> bool:
    return canonicalize_name(name).startswith("zoo-")


def _needs(dist: Distribution, extras: frozenset[str]) -> Iterator[Requirement]:
    for need in map(Requirement, dist.requires or ()):
        if need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in extras or {""}):
            yield need


def _link(distributions: Iterable[Distribution], folder: Path) -> None:
    folder.mkdir()
    for dist in distributions:
        for name in {file.parts[0] for file in dist.files or ()} - {"..", "__pycache__"}:
            link, place = folder / name, Path(str(dist.locate_file(name)))
            if place.exists() and not link.exists():
                link.symlink_to(place)
