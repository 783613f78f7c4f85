"""What is asked of a checkpoint."""

import hashlib
import importlib.util
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo_core.components import GenerativeModel
from zoo_core.evaluation import read_results
from zoo_core.pretrained import from_pretrained
from zoo_core.testing.checks import check, require, require_equal
from zoo_core.testing.subjects import Subject

LARGEST = 50 * 2**20  # bytes of a checkpoint inside a wheel; PyPI takes 100 MB in all


def is_bundled(spec: Any) -> bool:
    return bool(spec.target)


@check("checkpoint", when=is_bundled, structural=True)
def folder(subject: Subject) -> None:
    """Its folder in the package has config, weights, and no more bytes than a wheel has room for."""
    path = _folder(subject)
    files = {file.name: file.stat().st_size for file in path.iterdir()}
    for needed in ("config.json",):
        require(needed in files, f"{path} has no {needed}")
    require(any(name.endswith(".safetensors") for name in files), f"{path} has no weights in safetensors")
    total = sum(files.values())
    require(total <= LARGEST, f"{path} has {total / 2**20:.0f} MiB: leave target empty, and let it be downloaded")


@check("checkpoint", when=is_bundled)
def card_and_results(subject: Subject) -> None:
    """It comes with a card, and with what was measured of it."""
    path = _folder(subject)
    require((path / "README.md").is_file(), f"{path} has no card, README.md: write it with zoo card")
    require(read_results(path / "results.json"), f"{path} has no results.json: measure with zoo eval")


@check("checkpoint", when=is_bundled)
def plugins_of_its_parts(subject: Subject) -> None:
    """The plugins that its config names are installed."""
    config = json.loads((_folder(subject) / "config.json").read_bytes())
    for name in sorted(_types(config.get("model", config))):
        subject.host.find(None, name)


@check("checkpoint", when=is_bundled)
def loads(subject: Subject) -> None:
    """Found by its name, it is a model that draws finite samples, the same from equal generators."""
    model = from_pretrained(subject.registration.full_name, host=subject.host)
    require(isinstance(model, GenerativeModel), f"it is no model, but a {type(model).__name__}")
    require(not model.training, "it is loaded in training mode")
    finite = all(bool(t.isfinite().all()) for t in model.state_dict().values() if _is_number(t))
    require(finite, "some of its weights are not finite")
    registration = subject.host.name_of(type(model))
    if registration is None or getattr(registration.spec, "sampling", "none") == "none":
        return
    x, again = (model.sample(1, generator=torch.Generator().manual_seed(0)) for _ in range(2))
    require_equal(x, again, "with equal generators its samples differ")
    require(x.isfinite().all(), "its samples are not finite")
    require(float(x.min()) >= 0 and float(x.max()) <= 1, "its samples do not lie in [0, 1]")


@check("checkpoint", when=lambda spec: is_bundled(spec) and bool(spec.sha256))
def hash_of_weights(subject: Subject) -> None:
    """The SHA-256 in its spec is that of the file."""
    path = _folder(subject) / "model.safetensors"
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    require(
        found == subject.spec.sha256,
        f"its spec says that {path.name} has the SHA-256 {subject.spec.sha256}, not {found}",
    )


@check("checkpoint", when=lambda spec: not is_bundled(spec))
def pinned(subject: Subject) -> None:
    """What is downloaded is known beforehand: by a commit and the hash of its weights."""
    require(subject.spec.revision, "it is in no wheel, and its spec names no commit: give revision, 40 hex digits")
    require(subject.spec.sha256, "it is in no wheel, and its spec names no hash: give sha256, 64 hex digits")


def _folder(subject: Subject) -> Path:
    package, _, inside = subject.spec.target.partition(":")
    found = importlib.util.find_spec(package)
    places = list(found.submodule_search_locations or ()) if found else []
    paths: list[Path] = [Path(place) / inside / subject.spec.name for place in places]
    there = [path for path in paths if path.is_dir()]
    require(there, f"there is no folder {inside}/{subject.spec.name} in the package {package}")
    return there[0]


def _types(config: Any) -> set[str]:
    """All that a config names."""
    if isinstance(config, dict):
        own = {config["type"]} if isinstance(config.get("type"), str) else set()
        return own.union(*map(_types, config.values()))
    return set().union(*map(_types, config)) if isinstance(config, list) else set()


def _is_number(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()
