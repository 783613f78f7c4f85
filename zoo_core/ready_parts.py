"""Parts of a model that come ready, with weights: ``{"pretrained": "vqvae-mnist"}`` in the place of a config.

A recipe may say so wherever a model is a part of another; what is saved of the trained model says what the part is,
and holds its weights.
"""

from collections.abc import Mapping
from typing import Any

from zoo_core.arguments import join, shown, unknown_arguments
from zoo_core.components import GenerativeModel
from zoo_core.config import build, describe
from zoo_core.errors import ConfigError
from zoo_core.host import PluginHost
from zoo_core.pretrained import from_pretrained

KEY = "pretrained"
OPTIONS = ("revision", "sha256")


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
    """As ``build``, with the weights of the ready parts."""
    ready: dict[str, GenerativeModel] = {}
    component = build(_spelled_out(config, "", host, ready), kind, host=host, **shapes)
    for path, part in ready.items():
        component.get_submodule(path).load_state_dict(part.state_dict())
    return component


def _spelled_out(config: Any, path: str, host: PluginHost | None, ready: dict[str, GenerativeModel]) -> Any:
    """Adds the ready parts by their paths to ``ready``."""
    if isinstance(config, list | tuple):
        return [_spelled_out(inner, join(path, str(i)), host, ready) for i, inner in enumerate(config)]
    if not isinstance(config, Mapping):
        return config
    if KEY not in config:
        return {name: _spelled_out(inner, join(path, name), host, ready) for name, inner in config.items()}
    ready[path] = _loaded(config, path, host)
    return describe(ready[path], host=host)


def _loaded(config: Mapping[str, Any], path: str, host: PluginHost | None) -> GenerativeModel:
    unknown_arguments(list(config), (KEY, *OPTIONS), path)
    if not isinstance(config[KEY], str):
        raise ConfigError(f"{join(path, KEY)}: must be the name of a model, got {shown(config[KEY])}")
    options = {name: config[name] for name in OPTIONS if name in config}
    part: GenerativeModel = from_pretrained(config[KEY], host=host, **options)
    return part
