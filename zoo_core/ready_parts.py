"""Models that come ready, with weights: ``{"pretrained": "vqvae-mnist"}`` in the place of a config.

A recipe may say so of the whole model, which is then trained further, and wherever a model is a part of another; what
is saved of the trained model says what the part is, and holds its weights.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zoo_core import budget
from zoo_core.arguments import join, shown, unknown_arguments
from zoo_core.components import GenerativeModel
from zoo_core.config import build, describe
from zoo_core.data import Dataset, Preprocessing
from zoo_core.errors import CheckpointError, ConfigError
from zoo_core.host import PluginHost, default_host
from zoo_core.hub.downloading import download
from zoo_core.pretrained import CONFIG, from_pretrained, local_checkpoint, read_config

KEY = "pretrained"
OPTIONS = ("revision", "sha256")


def is_ready(config: Any) -> bool:
    """Whether a config says of a whole model which one it is, instead of what it is made of."""
    return isinstance(config, Mapping) and KEY in config


def spelled_out(config: Any, *, host: PluginHost | None = None) -> Any:
    """The same config with what each ready part is, instead of its name.

    Raises:
        ConfigError: a ready part is not written as one.
        UnknownComponent, CheckpointError: as ``from_pretrained``.
    """
    return _spelled_out(config, "", host, {})


def build_ready(
    config: Mapping[str, Any] | str, kind: str | None = None, *, host: PluginHost | None = None, **shapes: Any
) -> Any:
    """As ``build``, with the weights and the files of the ready parts; a whole that is ready is loaded.

    Raises:
        ConfigError: a model that is ready does not take data of ``data_shape``; or it is too large, see ``budget``.
    """
    if isinstance(config, Mapping) and is_ready(config):
        return _of_shape(_loaded(config, "model", host), config, shapes.get("data_shape"))
    ready: dict[str, GenerativeModel] = {}
    whole = _spelled_out(config, "", host, ready)
    budget.require(whole, kind, host=host, **shapes)
    component = build(whole, kind, host=host, **shapes)
    for path, part in ready.items():
        place: Any = component.get_submodule(path)
        place.load_state_dict(part.state_dict())
        place.take_files(part.files())
    return component


def model_for(
    config: Mapping[str, Any] | str,
    data: Dataset,
    preprocessing: Mapping[str, Any],
    *,
    host: PluginHost | None = None,
) -> GenerativeModel:
    """The model that a recipe describes, before it is trained on its data; ``preprocessing`` is that of the recipe.

    One that is ready is loaded as it is: its preprocessing holds wherever the recipe's says nothing, and it takes
    nothing anew from the data, such as a vocabulary.

    Raises:
        ConfigError, UnknownComponent, CheckpointError: as ``build`` and ``from_pretrained``, or the data do not fit.
    """
    if isinstance(config, Mapping) and is_ready(config):
        model = _loaded(config, "model", host)
        model.preprocessing = Preprocessing.from_dict({**model.preprocessing.as_dict(), **preprocessing})
        return _of_shape(model, config, model.preprocessing.data_shape(data.data_shape))
    chosen = Preprocessing.from_dict(preprocessing)
    built: GenerativeModel = build_ready(config, "model", host=host, data_shape=chosen.data_shape(data.data_shape))
    built.preprocessing = chosen
    built.before_training(data)
    return built


def pinned(name: str, revision: str | None, model: GenerativeModel, host: PluginHost | None = None) -> dict[str, str]:
    """What finds these weights again by that name, and no others: the commit, or the SHA-256 of a single file."""
    host = host or default_host()
    if not _is_local(name, revision, host):
        return {"revision": model.provenance["commit"]}
    digests = list(weight_files(name, revision, model, host).values())
    return {"sha256": digests[0]} if len(digests) == 1 else {}


def weight_files(name: str, revision: str | None, model: GenerativeModel, host: PluginHost) -> dict[str, str]:
    """The SHA-256 of a loaded model's weight files by their names."""
    weights: dict[str, str] = read_config(checkpoint_file(CONFIG, name, revision, model, host))["weights"]
    return weights


def checkpoint_file(file: str, name: str, revision: str | None, model: GenerativeModel, host: PluginHost) -> Path:
    """One of the files beside a loaded model's weights; that of a model on the Hub is downloaded.

    Raises:
        CheckpointError: the Hub's repository has none of that name.
    """
    if _is_local(name, revision, host):
        return local_checkpoint(name, host=host) / file
    return download(model.provenance["repository"], file, model.provenance["commit"], {})


def full_name(name: str | Path) -> str:
    """A model's name as a recipe keeps it: that of a folder without ``~``."""
    return os.path.expanduser(name)


def _is_local(name: str, revision: str | None, host: PluginHost) -> bool:
    try:
        return revision is None and local_checkpoint(name, host=host).is_dir()
    except CheckpointError:
        return False


def _of_shape(model: GenerativeModel, config: Mapping[str, Any], shape: Sequence[int] | None) -> GenerativeModel:
    if shape is not None and not model.accepts(shape):
        raise ConfigError(
            f"model: {config[KEY]} takes data of shape {tuple(model.data_shape)}, and these are {tuple(shape)}"
            f"{_remedy(model.data_shape, shape)}"
        )
    return model


def _remedy(wanted: Sequence[int], shape: Sequence[int]) -> str:
    if len(wanted) != 3 or len(shape) != 3 or wanted[0] not in (1, 3):
        return ""
    return f"; set data.preprocessing to {{image_size: {list(wanted[1:])}, channels: {wanted[0]}}}"


def _spelled_out(config: Any, path: str, host: PluginHost | None, ready: dict[str, GenerativeModel]) -> Any:
    """Adds the ready parts by their paths to ``ready``."""
    if isinstance(config, list | tuple):
        return [_spelled_out(inner, join(path, str(i)), host, ready) for i, inner in enumerate(config)]
    if not isinstance(config, Mapping):
        return config
    if not is_ready(config):
        return {name: _spelled_out(inner, join(path, name), host, ready) for name, inner in config.items()}
    ready[path] = _loaded(config, path or "model", host)
    return describe(ready[path], host=host)


def _loaded(config: Mapping[str, Any], path: str, host: PluginHost | None) -> GenerativeModel:
    unknown_arguments([str(name) for name in config], (KEY, *OPTIONS), path)
    if not isinstance(config[KEY], str):
        raise ConfigError(f"{join(path, KEY)}: must be the name of a model, got {shown(config[KEY])}")
    options = {name: config[name] for name in OPTIONS if name in config}
    part: GenerativeModel = from_pretrained(config[KEY], host=host, **options)
    return part
