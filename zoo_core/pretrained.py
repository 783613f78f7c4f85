"""Names → folders → weights, safely: nothing in a checkpoint is executed, and nothing is half loaded.

A checkpoint is a folder: ``config.json`` says what to build and lists the weight files with their SHA-256,
``model.safetensors`` holds the weights, ``README.md`` is the card, ``results.json`` what was measured; files of the
model's own, such as a tokenizer, are listed in the config as the weights are.
"""

import math
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar

import torch

from zoo_core import budget, weights
from zoo_core.arguments import Shape, checked, shown
from zoo_core.components import GenerativeModel
from zoo_core.config import build, check, describe
from zoo_core.data import Preprocessing
from zoo_core.errors import CheckpointError, ConfigError, PluginError, UnknownComponent, ZooError, plain
from zoo_core.files import whole_folder, write_json
from zoo_core.host import PluginHost, Registration, core_version, default_host, one_line
from zoo_core.hub.downloading import Repository
from zoo_core.untrusted import named, parse_json, read_bytes, read_json, require_inside, require_regular

FORMAT = 1
CONFIG, RESULTS = "config.json", "results.json"
FIELDS = {
    "format": int, "model": dict, "data_shape": list, "preprocessing": dict, "provenance": dict, "weights": dict
}  # fmt: skip
OTHER_FIELDS = ("library_name", "zoo_core", "plugins", "files")
# What nobody needs more of, and strangers may ask for.
LARGEST_FILE = 16 * 2**20  # bytes of a file of the model's own, such as a tokenizer
MOST_FILES = 1000  # of weights, or of the model's own
MOST_DIMENSIONS, LARGEST_EXAMPLE = 16, 2**30  # of data_shape: how many, and their product


@dataclass(frozen=True)
class Folder:
    """A checkpoint in a folder, or in a folder inside that."""

    top: Path
    inside: str = ""
    origin: ClassVar[Mapping[str, str]] = {}
    remedy: ClassVar[str] = ""

    @property
    def path(self) -> Path:
        return self.top / self.inside

    @property
    def config(self) -> Path:
        return self.file(CONFIG)

    def file(self, name: str) -> Path:
        """Raises CheckpointError if there is no such file, or if a link leads out of the folder."""
        path = self.path / name
        if not os.path.lexists(path):
            raise CheckpointError(f"no file {name!r} in {self.path}")
        with named(path):
            require_inside(path, self.top)
            require_regular(path)
        return path


def save_pretrained(
    model: GenerativeModel,
    folder: str | Path,
    *,
    results: Mapping[str, Any] | None = None,
    storage: torch.dtype | str | None = None,
    variant: str | None = None,
    max_shard_size: int | str = "5GB",
    host: PluginHost | None = None,
) -> Path:
    """Writes a checkpoint that ``from_pretrained`` loads; a folder that exists is replaced at once or not at all.

    A card written by hand stays, and so does every other file that is not part of the checkpoint.

    Args:
        results: measured values, as ``zoo eval`` writes them.
        storage: dtype of floating-point weights on disk, such as ``torch.float16``.
        variant: writes ``model.<variant>.safetensors``, beside what the folder holds of the same model.
        max_shard_size: larger weights are split, with an index.

    Raises:
        ConfigError: a part of the model comes from no plugin.
        CheckpointError: the folder cannot be written, or the model could not be loaded from it.
    """
    folder, host = Path(folder), host or default_host()
    config = _config(model, host)
    weights.refuse_unloadable(model, _empty(config, type(model).__name__, type(model), host))
    dtype, stem = weights.floating(storage, "storage"), weights.stem(variant)
    kept = _other_variants(folder, config, stem) if variant else {}
    try:
        with whole_folder(folder) as temporary:
            _carry_over(folder, temporary, {*map(weights.stem_of, kept)})
            written = weights.write(model, temporary, storage=dtype, stem=stem, max_shard_size=max_shard_size)
            files = _write_files(model, temporary)
            _write_json(temporary / CONFIG, {**config, **files, "weights": {**kept, **written}})
            if results is not None:
                _write_json(temporary / RESULTS, results)
    except OSError as error:
        raise CheckpointError(f"cannot write {folder}: {error.strerror or error}") from error
    return folder


def from_pretrained(
    name: str | Path,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
    subfolder: str = "",
    variant: str | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | str | None = None,
    sha256: str | None = None,
    expected: type[GenerativeModel] = GenerativeModel,
    max_parameters: float | None = None,
    host: PluginHost | None = None,
) -> Any:
    """A model with its weights, in evaluation mode.

    Args:
        name: a folder; a registered checkpoint such as ``"vae-mnist"``; or a Hub id such as ``"org/name"``.
        revision: branch, tag or commit on the Hub; resolved once, and every file is taken from that commit.
        subfolder: where the checkpoint lies in its folder or repository.
        variant: load ``model.<variant>.safetensors``.
        dtype: of floating-point weights, ``torch.bfloat16`` or ``"bfloat16"``; default as the model builds them.
        sha256: of the weight file, which must then be a single one.
        expected: refuse a checkpoint of another class.
        max_parameters: refuse a config that asks for more numbers, before any memory is taken; default the variable
            ``ZOO_MAX_PARAMETERS``, else 2 * 10^10.

    Raises:
        UnknownComponent: nothing has that name, or a plugin that the checkpoint needs is missing.
        CheckpointError: it is missing, damaged, or not what was asked for; names the file.
        PluginError: a plugin that it needs cannot be loaded.
    """
    host = host or default_host()
    place, kind, stem = _device(device), weights.floating(dtype, "dtype"), weights.stem(variant)
    hub = {"token": token, "cache_dir": cache_dir, "local_files_only": local_files_only}
    source, known = _find(name, revision, _inside(subfolder), {**hub, "force_download": force_download}, host)
    known = "" if variant or subfolder else known
    config = read_config(source.config)
    model = _empty(config, str(source.config), expected, host, budget.max_parameters(max_parameters))
    model.preprocessing = _preprocessing(config, source.config)
    files = _weight_files(source, config, stem, sha256 or known)
    with weights.held_still([*files]):
        weights.require_fit(model, [*files], source.remedy)
        _verify(files, source.remedy)
        weights.load(model, [*files], device=place, dtype=kind)
    _give_files(model, source, config)
    model.provenance = {**config["provenance"], **source.origin}
    return model.eval()


def checkpoint_folder(registration: Registration) -> Path | None:
    """Where a registered checkpoint lies inside its plugin's wheel; None if it is on the Hub only.

    Raises:
        PluginError: the package that should hold it cannot be imported.
    """
    package, _, inside = registration.spec.target.partition(":")
    if not package:
        return None
    try:
        folder = Path(str(files(package))) / inside / registration.spec.name
    except Exception as error:
        raise PluginError(f"checkpoint {registration.full_name!r}: {package!r}: {one_line(error)}") from error
    return folder if (folder / CONFIG).is_file() else None


def local_checkpoint(name: str | Path, *, host: PluginHost | None = None) -> Path:
    """The folder of a checkpoint on this machine: a folder itself, or a registered one inside a plugin.

    Raises:
        CheckpointError: it is on the Hub only. UnknownComponent: nothing has that name.
    """
    registration = None if os.path.isdir(name) else _registered(str(name), host or default_host())
    folder = checkpoint_folder(registration) if registration else Path(name)
    if folder is None or not (folder / CONFIG).is_file():
        raise CheckpointError(f"{str(name)!r} is no checkpoint on this machine; name its folder")
    return folder


# --- saving ---------------------------------------------------------------------------------------------


def _config(model: GenerativeModel, host: PluginHost) -> dict[str, Any]:
    described = describe(model, host=host, data_shape=model.data_shape)
    return {
        "format": FORMAT,
        "library_name": "zoo",
        "zoo_core": core_version(),
        "plugins": {name: host.plugins[name].version for name in sorted(_plugins(described))},
        "model": described,
        "data_shape": list(model.data_shape),
        "preprocessing": model.preprocessing.as_dict(),
        "provenance": dict(model.provenance),
    }


def _plugins(config: Any) -> set[str]:
    """The plugins that a config names."""
    if isinstance(config, Mapping):
        own = {config["type"].partition("/")[0]} if "type" in config else set()
        return own.union(*(_plugins(value) for value in config.values()))
    return set().union(*map(_plugins, config)) if isinstance(config, list) else set()


def _other_variants(folder: Path, config: Mapping[str, Any], stem: str) -> dict[str, str]:
    """Weight files in the folder that are other variants of the same model, and their SHA-256."""
    if not (folder / CONFIG).is_file():
        return {}
    old = read_config(folder / CONFIG)
    same = all(old[field] == config[field] for field in ("model", "data_shape"))
    return {name: sha256 for name, sha256 in old["weights"].items() if same and weights.stem_of(name) != stem}


def _carry_over(folder: Path, temporary: Path, kept: set[str | None]) -> None:
    """Keeps what a person put into the folder; config, results and weights but those ``kept`` are written anew."""
    if not folder.is_dir():
        return
    if not (folder / CONFIG).is_file() and any(path.is_dir() for path in folder.iterdir()):
        raise CheckpointError(f"{folder} holds folders and no checkpoint; name a folder for the checkpoint alone")

    listed = read_config(folder / CONFIG).get("files", {}) if (folder / CONFIG).is_file() else {}

    def own(parent: str, names: list[str]) -> list[str]:
        stems = {name: weights.stem_of(name) for name in names} if Path(parent) == folder else {}
        written = {CONFIG, RESULTS, *listed}
        return [name for name, stem in stems.items() if name in written or (stem and stem not in kept)]

    shutil.copytree(folder, temporary, symlinks=True, ignore=own, dirs_exist_ok=True)


def _write_files(model: GenerativeModel, folder: Path) -> dict[str, dict[str, str]]:
    """Writes the model's own files; returns what the config says of them."""
    written = {}
    for name, content in model.files().items():
        if not _is_own_file(name):
            raise CheckpointError(f"{type(model).__name__} cannot have a file called {name!r}")
        (folder / name).write_bytes(content)
        written[name] = weights.digest(folder / name)
    return {"files": written} if written else {}


def _is_own_file(name: str) -> bool:
    """Whether a model's own file may have that name: a plain one, and none that every checkpoint has."""
    taken = {CONFIG, RESULTS, "README.md"}
    return bool(re.fullmatch(r"\w[\w.-]*", name)) and name not in taken and weights.stem_of(name) is None


def _write_json(path: Path, value: Any) -> None:
    try:
        write_json(path, value)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path.name} cannot hold this as JSON: {error}") from error


# --- finding --------------------------------------------------------------------------------------------


def _find(
    name: str | Path, revision: str | None, inside: str, hub: Mapping[str, Any], host: PluginHost
) -> tuple[Folder | Repository, str]:
    """The checkpoint of that name, and the SHA-256 of its weights if it is known beforehand."""
    if isinstance(name, os.PathLike) or os.path.isdir(name) or name.startswith((".", "/", "~")):
        if revision:
            raise CheckpointError(f"{str(name)!r} is a folder, which has no revision {revision!r}")
        return local_folder(Path(os.path.expanduser(name)), inside), ""
    registration = _registered(name, host)
    if registration is None:
        return Repository.find(name, revision, inside, CONFIG, hub), ""
    folder = checkpoint_folder(registration)
    if folder and revision is None:
        return local_folder(folder, inside), ""
    spec: Any = registration.spec
    # What the registry pins holds for the pinned commit only.
    known = spec.sha256 if revision in (None, spec.revision) else ""
    return Repository.find(spec.hub, revision or spec.revision or None, inside, CONFIG, hub), known


def local_folder(folder: Path, inside: str = "") -> Folder:
    """Raises CheckpointError if there is no such folder."""
    if not os.path.isdir(folder):
        raise CheckpointError(f"no such folder: {str(folder)!r}")
    return Folder(folder, inside)


def _inside(subfolder: str) -> str:
    """A subfolder as what stands before the names of its files."""
    if subfolder and not all(re.fullmatch(r"[\w-][\w.-]*", part) for part in subfolder.split("/")):
        raise CheckpointError(f"subfolder {subfolder!r}: use plain names joined by '/'")
    return f"{subfolder}/" if subfolder else ""


def _registered(name: str, host: PluginHost) -> Registration | None:
    checkpoints = host.registrations("checkpoint")
    if any(name in (r.spec.name, r.full_name) for r in checkpoints):
        return host.find("checkpoint", name)
    if "/" in name:
        return None
    names = [r.spec.name for r in checkpoints]
    near = get_close_matches(name, names, n=3)
    hint = f"did you mean: {', '.join(near)}?" if near else f"there are: {', '.join(names) or 'none'}"
    raise UnknownComponent(f"no checkpoint {shown(name)}; {hint} (a Hub id has the form 'organisation/name')")


# --- loading --------------------------------------------------------------------------------------------


def read_config(path: Path) -> dict[str, Any]:
    """What a ``config.json`` says, once it has been found to be one.

    Raises:
        CheckpointError: it is missing, too large, no JSON, of a newer format, or lacks a field; names the file.
    """
    with named(path):
        require_inside(path, path.parent)
        config = read_json(path)
    return _checked_fields(config, path)


def _checked_fields(config: Any, path: Path) -> dict[str, Any]:
    fields = config if isinstance(config, dict) else {}
    version = fields.get("format")
    if isinstance(version, int) and version > FORMAT:
        raise CheckpointError(f"{path}: format {shown(version)} is newer than this zoo-core; upgrade zoo-core")
    for field, form in FIELDS.items():
        # Not isinstance: True is no version.
        if type(fields.get(field)) is not form or (field == "format" and version != FORMAT):
            raise CheckpointError(f"{path}: no zoo checkpoint: the field {field!r} is missing or wrong")
    for field in fields.keys() - {*FIELDS, *OTHER_FIELDS}:
        raise CheckpointError(f"{path}: no such field: {shown(field)}")
    _require_shape(path, fields["data_shape"])
    # A plain name leads nowhere out of the folder.
    _require_digests(path, "weights", fields["weights"], "safetensors files", weights.FILE.fullmatch)
    _require_digests(path, "files", fields.get("files", {}), "plain file names", _is_own_file)
    return fields


def _require_shape(path: Path, shape: list[Any]) -> None:
    try:
        checked(shape, Shape, "data_shape")
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from None
    if not 1 <= len(shape) <= MOST_DIMENSIONS or math.prod(shape) > LARGEST_EXAMPLE:
        limit = f"1 to {MOST_DIMENSIONS} sizes whose product is at most {LARGEST_EXAMPLE}"
        raise CheckpointError(f"{path}: data_shape: must be {limit}, got {shown(shape)}")


def _require_digests(path: Path, field: str, files: Any, what: str, allowed: Callable[[str], Any]) -> None:
    if isinstance(files, dict) and len(files) > MOST_FILES:
        raise CheckpointError(f"{path}: {field}: lists {len(files)} files; {MOST_FILES} at most")
    for name, sha256 in files.items() if isinstance(files, dict) else [(files, None)]:
        if not (isinstance(sha256, str) and re.fullmatch("[0-9a-f]{64}", sha256) and allowed(name)):
            got = f"{shown(name)}: {shown(sha256)}"
            raise CheckpointError(f"{path}: {field}: must be {what} and their SHA-256, got {got}")


def _empty(
    config: Mapping[str, Any], where: str, expected: type[GenerativeModel], host: PluginHost, limit: float = math.inf
) -> GenerativeModel:
    """The model on the meta device: no memory, no random initialisation."""
    try:
        # Imports the classes: the tensors of a module that is imported on the meta device would stay there.
        check(config["model"], "model", path="model", host=host)
        with torch.device("meta"), budget.within(limit):
            model = build(config["model"], "model", host=host, data_shape=tuple(config["data_shape"]))
    except (UnknownComponent, PluginError) as error:
        raise type(error)(f"{where}: {plain(str(error), 500)}") from error
    except ConfigError as error:
        raise CheckpointError(f"{where}: {plain(str(error), 500)}") from error
    except Exception as error:  # a constructor may fail in any way on arguments that nobody would write
        reason = plain(one_line(error))
        raise CheckpointError(f"{where}: model: cannot be built on the meta device: {reason}") from error
    if not isinstance(model, expected):
        raise CheckpointError(f"{where}: holds a {type(model).__name__}, not a {expected.__name__}")
    weights.refuse_strays(model)
    return model


def _weight_files(
    source: Folder | Repository, config: Mapping[str, Any], stem: str, sha256: str
) -> dict[Path, set[str]]:
    """The weight files of a stem, and the SHA-256 that each must have: as the config says, and as it is known."""
    names = sorted(name for name in config["weights"] if weights.stem_of(name) == stem)
    if not names:
        stems = sorted({f"{weights.stem_of(name)}.safetensors" for name in config["weights"]})
        listed = ", ".join(map(repr, stems[:5])) or "none"
        raise CheckpointError(f"{source.config}: no weights called '{stem}.safetensors'; listed: {listed}")
    if sha256 and len(names) > 1:
        raise CheckpointError(f"sha256 is given, but there are {len(names)} weight files")
    return {source.file(name): {config["weights"][name], *([sha256.lower()] if sha256 else [])} for name in names}


def _verify(files: Mapping[Path, set[str]], remedy: str) -> None:
    for path, known in files.items():
        for sha256 in sorted(known):
            weights.verify(path, sha256, remedy)


def _give_files(model: GenerativeModel, source: Folder | Repository, config: Mapping[str, Any]) -> None:
    """Hands the model its own files, each of which has the SHA-256 that the config says."""
    listed, needed = config.get("files", {}), sorted(model.files())
    if sorted(listed) != needed:
        wanted = ", ".join(needed) or "none"
        raise CheckpointError(f"{source.config}: files: must list {wanted}, got {shown(sorted(listed))}")
    if not listed:
        return
    paths = {name: source.file(name) for name in listed}
    with weights.held_still([*paths.values()]):
        content = {name: _own_file(path, listed[name], source.remedy) for name, path in paths.items()}
    try:
        model.take_files(content)
    except Exception as error:  # a library may fail in any way on a file that nobody would write
        reason = str(error) if isinstance(error, ZooError) else one_line(error)
        raise CheckpointError(f"{', '.join(map(str, paths.values()))}: {plain(reason)}") from error


def _own_file(path: Path, sha256: str, remedy: str) -> bytes:
    with named(path, remedy):
        require_regular(path, LARGEST_FILE)
    weights.verify(path, sha256, remedy)
    with named(path):
        content = read_bytes(path, LARGEST_FILE)
        if path.suffix == ".json":
            parse_json(content)
    return content


def _preprocessing(config: Mapping[str, Any], path: Path) -> Preprocessing:
    try:
        return Preprocessing.from_dict(config["preprocessing"])
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from None


def _device(device: str | torch.device) -> torch.device:
    try:
        return torch.empty(0, device=device).device
    except Exception as error:  # RuntimeError, AssertionError, …: each backend has its own
        raise CheckpointError(f"device {str(device)!r} cannot be used: {one_line(error)}") from None
