"""Distributions on disk as pip leaves them, and processes that find them: for tests of discovery."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from textwrap import dedent

HEADER = "from zoo_core import LossSpec, PriorSpec, ZooHooks, hookimpl\n"


def install(
    site: Path,
    name: str,
    code: str = "",
    *,
    distribution: str = "",
    entry_point: str = "",
    version: str = "1.0",
    requires: Sequence[str] = (),
    modules: dict[str, str] | None = None,
) -> None:
    """Writes ``zoo-<name>`` with a package ``zoo_<name>`` whose ``plugin.py`` holds ``code``.

    Args:
        distribution: its name, when that is not ``zoo-<name>``.
        entry_point: its one line, when that is not ``<name> = zoo_<name>.plugin``.
        modules: more files of the package: ``{"parts.py": code}``.
    """
    package = f"zoo_{name.replace('-', '_')}"
    distribution = distribution or f"zoo-{name}"
    write(site / package, {"__init__.py": "", "plugin.py": HEADER + dedent(code), **(modules or {})})
    metadata = ["Metadata-Version: 2.1", f"Name: {distribution}", f"Version: {version}"]
    write(
        site / f"{distribution.replace('-', '_')}-{version}.dist-info",
        {
            "METADATA": "\n".join([*metadata, *(f"Requires-Dist: {r}" for r in requires)]) + "\n",
            "entry_points.txt": f"[zoo_core]\n{entry_point or f'{name} = {package}.plugin'}\n",
        },
    )


def write(folder: Path, files: dict[str, str]) -> None:
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(dedent(content), encoding="utf-8")


def python(*arguments: str, site: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs Python with ``site`` before what is installed, and of the ``ZOO_`` variables only those given."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("ZOO_") and k != "PYTHONPATH"}
    path = {"PYTHONPATH": str(site)} if site else {}
    return subprocess.run(
        [sys.executable, *arguments],
        env={**inherited, **path, "PYTHONDONTWRITEBYTECODE": "1", **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
