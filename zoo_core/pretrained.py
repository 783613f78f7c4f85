"""Names → folders → weights, safely: nothing in a checkpoint is executed, and nothing is half loaded.

A checkpoint is a folder: ``config.json`` says what to build and lists the weight files with their SHA-256,
``model.safetensors`` holds the weights, ``README.md`` is the card, ``results.json`` what was measured.
"""

import hashlib
import json
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from zoo_core.components import Component, GenerativeModel
from zoo_core.config import build, describe
from zoo_core.data import Preprocessing
from zoo_core.errors import CheckpointError, ConfigError, DataError, UnknownComponent
from zoo_core.files import whole_folder, write_json
from zoo_core.host import PluginHost, Registration, core_version, default_host

FORMAT = 1
CONFIG, CARD, RESULTS = "config.json", "README.md", "results.json"
WEIGHTS = re.compile(r"model(\.[A-Za-z0-9_]+)?(-\d{5}-of-\d{5})?\.safetensors")
LARGEST_CONFIG = 4 * 2**20  # bytes: a config is text written by people


class Source(NamedTuple):
    """Where a checkpoint lies: a folder, or a repository on the Hub at a commit."""

    folder: Path
    repository: str = ""
    commit: str = ""


def save_pretrained(
    model: GenerativeModel,
    folder: str | Path,
    *,
    results: Mapping[str, Any] | None = None,
    storage: torch.dtype | None = None,
    variant: str | None = None,
    max_shard_size: int | str = "5GB",
    host: PluginHost | None = None,
) -> Path:
    """Writes a checkpoint that ``from_pretrained`` loads; a folder that exists is replaced at once or not at all.

    A card written by hand stays, and so does every other file that is not part of the checkpoint.

    Args:
        results: measured values, as ``zoo eval`` writes them.
        storage: dtype of floating-point weights on disk, such as ``torch.float16``.
        variant: writes ``model.<variant>.safetensors``.
        max_shard_size: larger weights are split, with an index.

    Raises:
        ConfigError: a part of the model comes from no plugin.
        CheckpointError: the folder cannot be written.
    """
    folder, host = Path(folder), host or default_host()
    config = _config(model, host)
    try:
        with whole_folder(folder) as temporary:
            _carry_over(folder, temporary)
            config["weights"] = _write_weights(model, temporary, storage, variant, max_shard_size)
            write_json(temporary / CONFIG, config)
            if results is not None:
                write_json(temporary / RESULTS, results)
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
    host: PluginHost | None = None,
) -> Any:
    """A model with its weights, in evaluation mode.

    Args:
        name: a folder; a registered checkpoint such as ``"vae-mnist"``; or a Hub id such as ``"org/name"``.
        revision: branch, tag or commit on the Hub; resolved once, and every file is taken from that commit.
        variant: load ``model.<variant>.safetensors``.
        dtype: of floating-point weights, ``torch.bfloat16`` or ``"bfloat16"``; default as the model builds them.
        sha256: of the weight file, which must then be a single one.
        expected: refuse a checkpoint of another class.

    Raises:
        UnknownComponent: nothing has that name, or a plugin that the checkpoint needs is missing.
        CheckpointError: it is missing, damaged, or not what was asked for; names the file.
        PluginError: a plugin that it needs cannot be loaded.
    """
    host = host or default_host()
    hub = {"token": token, "cache_dir": cache_dir, "local_files_only": local_files_only}
    source, known = _locate(str(name), revision, {**hub, "force_download": force_download}, host)
    fetch = _Files(source, subfolder, hub)
    config = _read_config(fetch(CONFIG))
    weights = _weight_files(config, variant, fetch)
    _verify(weights, config, sha256 or known)
    model = _built(config, fetch(CONFIG), expected, host)
    _assign(model, weights, torch.device(device), _dtype(dtype))
    model.preprocessing = _preprocessing(config, fetch(CONFIG))
    model.provenance = {**config.get("provenance", {}), **_origin(source)}
    return model.eval()


def push_to_hub(
    model: GenerativeModel | str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    commit_message: str = "Upload model",
    token: str | bool | None = None,
    host: PluginHost | None = None,
) -> str:
    """Uploads a model, or a checkpoint's folder, as one commit; returns the commit's hash.

    The repository is made if need be. A card that is there already is kept.

    Raises:
        CheckpointError: the Hub cannot be reached or refuses; the repository is as it was.
    """
    if isinstance(model, GenerativeModel):
        with tempfile.TemporaryDirectory() as temporary:
            folder = save_pretrained(model, Path(temporary) / "model", host=host)
            return _upload(folder, repo_id, private, revision, commit_message, token)
    _read_config(Path(model) / CONFIG)
    return _upload(Path(model), repo_id, private, revision, commit_message, token)


def checkpoint_folder(registration: Registration) -> Path | None:
    """Where a registered checkpoint lies inside its plugin's wheel; None if it is on the Hub only."""
    package, _, inside = registration.spec.target.partition(":")
    folder = Path(str(files(package))) / inside / registration.spec.name if package else None
    return folder if folder and (folder / CONFIG).is_file() else None


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


def _carry_over(folder: Path, temporary: Path) -> None:
    """Keeps what a person put into the folder; weights, config and results are written anew."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.is_file() and path.name not in (CONFIG, RESULTS) and not path.name.startswith("model"):
            (temporary / path.name).write_bytes(path.read_bytes())


def _write_weights(
    model: nn.Module, folder: Path, storage: torch.dtype | None, variant: str | None, max_shard_size: int | str
) -> dict[str, str]:
    from huggingface_hub import save_torch_state_dict

    tensors = {
        name: tensor.to(storage) if storage and tensor.is_floating_point() else tensor
        for name, tensor in model.state_dict().items()
    }
    pattern = f"model{'.' + variant if variant else ''}{{suffix}}.safetensors"
    save_torch_state_dict(tensors, folder, filename_pattern=pattern, max_shard_size=max_shard_size)
    return {path.name: _digest(path) for path in sorted(folder.iterdir()) if WEIGHTS.fullmatch(path.name)}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- finding --------------------------------------------------------------------------------------------


def _locate(name: str, revision: str | None, hub: dict[str, Any], host: PluginHost) -> tuple[Source, str]:
    """Where the checkpoint of that name lies, and the SHA-256 of its weights if it is known beforehand."""
    path = Path(name).expanduser()
    if path.is_dir() or name.startswith((".", "/", "~")):
        if not path.is_dir():
            raise CheckpointError(f"no such folder: {name!r}")
        return Source(path), ""
    registration = _registered(name, host)
    if registration is None:
        return _on_hub(name, revision, hub), ""
    folder = checkpoint_folder(registration)
    if folder and revision is None:
        return Source(folder), ""
    spec: Any = registration.spec
    # What the registry pins holds for the pinned commit only.
    known = spec.sha256 if revision in (None, spec.revision) else ""
    return _on_hub(spec.hub, revision or spec.revision or None, hub), known


def _registered(name: str, host: PluginHost) -> Registration | None:
    checkpoints = host.registrations("checkpoint")
    if any(name in (r.spec.name, r.full_name) for r in checkpoints):
        return host.find("checkpoint", name)
    if "/" in name:
        return None
    near = get_close_matches(name, [r.spec.name for r in checkpoints], n=3)
    hint = f"did you mean: {', '.join(near)}?" if near else f"there are: {', '.join(r.spec.name for r in checkpoints)}"
    raise UnknownComponent(f"no checkpoint {name!r}; {hint} (a Hub id has the form 'organisation/name')")


def _on_hub(repository: str, revision: str | None, hub: dict[str, Any]) -> Source:
    """Resolves the revision to a commit, by way of the one file that every checkpoint has."""
    path = _download(repository, CONFIG, revision, **hub)
    # The cache is …/snapshots/<commit>/config.json, so that one request settles commit and config.
    return Source(path.parent, repository, path.parent.name)


class _Files:
    """Files of one checkpoint: from its folder, or from its repository at one commit."""

    def __init__(self, source: Source, subfolder: str, hub: dict[str, Any]) -> None:
        if subfolder and not all(re.fullmatch(r"[\w-][\w.-]*", part) for part in subfolder.split("/")):
            raise CheckpointError(f"subfolder {subfolder!r}: use plain names joined by '/'")
        self.source, self.subfolder, self.hub = source, subfolder, hub

    def __call__(self, name: str) -> Path:
        inside = f"{self.subfolder}/{name}" if self.subfolder else name
        if self.source.repository:
            return _download(self.source.repository, inside, self.source.commit, **self.hub)
        path = self.source.folder / inside
        if not path.is_file():
            raise CheckpointError(f"no file {inside!r} in {self.source.folder}")
        return path


def _download(repository: str, name: str, revision: str | None, **hub: Any) -> Path:
    import huggingface_hub
    from huggingface_hub import errors

    where = f"{repository!r}" + (f" at revision {revision!r}" if revision else "")
    try:
        return Path(huggingface_hub.hf_hub_download(repository, name, revision=revision, **hub))
    except errors.GatedRepoError:
        raise CheckpointError(f"{where} is gated: accept its terms on the Hub and give a token") from None
    except errors.RepositoryNotFoundError:
        raise CheckpointError(f"no repository {repository!r} on the Hub, or it is private and needs a token") from None
    except errors.RevisionNotFoundError:
        raise CheckpointError(f"{repository!r} has no revision {revision!r}") from None
    except errors.LocalEntryNotFoundError:
        raise CheckpointError(f"{name} of {where} is not in the cache, and the Hub cannot be asked (offline?)") from None
    except errors.EntryNotFoundError:
        raise CheckpointError(f"{where} has no file {name!r}") from None
    except errors.HFValidationError:
        raise CheckpointError(f"{repository!r} is neither a folder, nor a registered name, nor a Hub id") from None
    except (errors.HfHubHTTPError, OSError) as error:
        raise CheckpointError(f"{name} of {where} cannot be downloaded: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _origin(source: Source) -> dict[str, str]:
    return {"repository": source.repository, "commit": source.commit} if source.repository else {}


# --- loading --------------------------------------------------------------------------------------------


def _read_config(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > LARGEST_CONFIG:
            raise CheckpointError(f"{path}: larger than {LARGEST_CONFIG} bytes")
        config = json.loads(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: no valid JSON: {_first_line(error)}") from None
    for field, form in {"format": int, "model": dict, "data_shape": list, "weights": dict}.items():
        if not isinstance(config, dict) or not isinstance(config.get(field), form):
            raise CheckpointError(f"{path}: no zoo checkpoint: the field {field!r} is missing or wrong")
    if config["format"] > FORMAT:
        raise CheckpointError(f"{path}: format {config['format']} is newer than this zoo-core; upgrade zoo-core")
    return config


def _weight_files(config: Mapping[str, Any], variant: str | None, fetch: _Files) -> list[Path]:
    """The weight files of a variant; each is a plain name, so that none leads out of the folder."""
    stem = f"model.{variant}" if variant else "model"
    names = sorted(n for n in config["weights"] if WEIGHTS.fullmatch(n) and re.split(r"-|\.safetensors", n)[0] == stem)
    if not names:
        listed = ", ".join(map(repr, config["weights"])) or "none"
        raise CheckpointError(f"{fetch(CONFIG)}: no weights called '{stem}.safetensors'; listed: {listed}")
    return [fetch(name) for name in names]


def _verify(weights: Iterable[Path], config: Mapping[str, Any], sha256: str) -> None:
    weights = list(weights)
    if sha256 and len(weights) > 1:
        raise CheckpointError(f"sha256 is given, but there are {len(weights)} weight files")
    for path in weights:
        digest = _digest(path)
        for expected in filter(None, (config["weights"].get(path.name), sha256)):
            if digest != expected:
                raise CheckpointError(f"{path}: damaged or exchanged: its SHA-256 is {digest}, not {expected}")


def _built(config: Mapping[str, Any], path: Path, expected: type[GenerativeModel], host: PluginHost) -> GenerativeModel:
    """The model on the meta device: no memory, no random initialisation."""
    try:
        with torch.device("meta"):
            model: GenerativeModel = build(config["model"], "model", host=host, data_shape=tuple(config["data_shape"]))
    except ConfigError as error:
        raise CheckpointError(f"{path}: model.{error}") from error
    if not isinstance(model, expected):
        raise CheckpointError(f"{path}: holds a {type(model).__name__}, not a {expected.__name__}")
    return model


def _assign(model: nn.Module, weights: Iterable[Path], device: torch.device, dtype: torch.dtype | None) -> None:
    wanted = model.state_dict()
    weights = list(weights)
    found = {name: shape for path in weights for name, shape in _header(path)}
    _compare({name: tuple(t.shape) for name, t in wanted.items()}, found, weights[0])
    tensors = {}
    for path in weights:
        for name, tensor in _tensors(path):
            kind = dtype if dtype and tensor.is_floating_point() else wanted[name].dtype
            # A copy of our own: the file may be overwritten or cut while the model lives.
            tensors[name] = tensor.to(device=device, dtype=kind, copy=True)
    model.load_state_dict(tensors, assign=True)
    _refuse_meta(model)


def _header(path: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    with _opened(path) as file:
        for name in file.keys():  # noqa: SIM118: not a mapping
            yield name, tuple(file.get_slice(name).get_shape())


def _tensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    with _opened(path) as file:
        for name in file.keys():  # noqa: SIM118: not a mapping
            tensor = file.get_tensor(name)
            if not torch.isfinite(tensor).all():
                raise CheckpointError(f"{path}: {name!r} holds values that are not finite")
            yield name, tensor


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: no readable safetensors file: {_first_line(error)}") from None


def _compare(wanted: Mapping[str, Any], found: Mapping[str, Any], path: Path) -> None:
    """Refuses weights that are missing, left over, or of another shape; names at most five of them."""
    problems = [f"{name!r} is missing" for name in wanted if name not in found]
    problems += [f"{name!r} is not in the model" for name in found if name not in wanted]
    problems += [
        f"{name!r} has shape {found[name]}, the model {wanted[name]}"
        for name in wanted
        if name in found and found[name] != wanted[name]
    ]
    if problems:
        more = f", and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise CheckpointError(f"{path}: does not fit its config: {'; '.join(problems[:5])}{more}")


def _refuse_meta(model: nn.Module) -> None:
    """A tensor that no file fills stays on the meta device, where it silently computes nothing."""
    for prefix, module in model.named_modules():
        own = {**module._parameters, **module._buffers, **vars(module)}
        for name, tensor in own.items():
            if isinstance(tensor, Tensor) and tensor.is_meta:
                raise CheckpointError(
                    f"{type(module).__name__} keeps {'.'.join(filter(None, (prefix, name)))!r} out of its state_dict,"
                    " so it cannot be loaded; register it as a persistent buffer"
                )


def _preprocessing(config: Mapping[str, Any], path: Path) -> Preprocessing:
    try:
        return Preprocessing.from_dict(config.get("preprocessing", {}))
    except (DataError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: preprocessing: {error}") from None


def _dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if dtype is not None and not (isinstance(found, torch.dtype) and found.is_floating_point):
        raise CheckpointError(f"dtype: must be a floating-point dtype such as 'bfloat16', got {dtype!r}")
    return found


# --- uploading ------------------------------------------------------------------------------------------


def _upload(
    folder: Path, repo_id: str, private: bool | None, revision: str | None, message: str, token: str | bool | None
) -> str:
    from huggingface_hub import HfApi, errors

    api = HfApi(token=token, library_name="zoo", library_version=core_version())
    try:
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        kept = [CARD] if api.file_exists(repo_id, CARD, revision=revision) else []
        commit = api.upload_folder(
            repo_id=repo_id, folder_path=folder, revision=revision, commit_message=message, ignore_patterns=kept
        )
    except (errors.HfHubHTTPError, errors.HFValidationError, OSError, ValueError) as error:
        raise CheckpointError(f"cannot upload to {repo_id!r}: {_first_line(error)}") from error
    return str(commit.oid)
