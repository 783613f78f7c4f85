"""``build`` makes a component from a config, ``describe`` is its exact inverse.

A config is JSON: ``{"type": "vae/vae", "encoder": {"type": "nets/conv_encoder", "latents": 16}, …}``. The
keys beside ``type`` are constructor arguments; a component without arguments may be written as its name.
Shapes are not repeated: what one part provides (an encoder its ``latent_shape``) fills the argument of
that name in the parts after it, unless the whole gives a part another one (``Component.shapes_for``).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from zoo_core import components, metrics
from zoo_core.arguments import Parameter, checked, is_list, join, parameters, phrase, shown, unknown_arguments
from zoo_core.components import Component
from zoo_core.errors import ConfigError
from zoo_core.host import PluginHost, Registration, default_host
from zoo_core.specs import latent_mismatch

Config = Mapping[str, Any]

CONTRACTS: dict[str, type[Component]] = {
    contract.kind: contract
    for contract in (
        components.Encoder, components.Posterior, components.Decoder, components.Likelihood,
        components.Prior, components.Quantizer, components.Loss, components.GenerativeModel,
        metrics.Metric, metrics.Extractor,
    )
}  # fmt: skip
PROVIDED = frozenset(name for contract in CONTRACTS.values() for name in contract.provides)


def build(config: Config | str, kind: str | None = None, *, host: PluginHost | None = None, **shapes: Any) -> Any:
    """The component that a config describes.

    Args:
        config: ``{"type": name, argument: value, …}``, or just a name.
        kind: what it must be (``"model"``, ``"encoder"``, …); None: anything.
        shapes: what is known beforehand, such as ``data_shape=(1, 28, 28)``.

    Raises:
        ConfigError: an argument is unknown, missing or wrong, or parts do not fit; starts with its path.
        UnknownComponent, PluginError: a type is not there, or cannot be imported.
    """
    plan = _planned(config, (kind,) if kind else (), "", host or default_host())
    return _constructed(plan, dict(shapes), "")


def check(
    config: Config | str, kind: str | None = None, *, path: str = "", host: PluginHost | None = None
) -> type[Component]:
    """The class that ``build`` would build; raises what it would raise, as far as that can be told beforehand.

    Args:
        path: where the config stands in a larger one, for messages.
    """
    return _planned(config, (kind,) if kind else (), path, host or default_host()).target


def describe(component: Component, *, host: PluginHost | None = None, **shapes: Any) -> dict[str, Any]:
    """The config from which ``build``, given the same ``shapes``, makes this component again.

    Raises:
        ConfigError: no plugin offers its class, so no config can name it.
    """
    return _described(component, dict(shapes), host or default_host())


@dataclass(frozen=True)
class _Plan:
    """A config whose types have been looked up and whose values have been checked; nothing is built."""

    registration: Registration
    target: type[Component]
    arguments: dict[str, Any]  # values, plans, or tuples of plans


def _planned(config: Any, kinds: Sequence[str], path: str, host: PluginHost) -> _Plan:
    name, given = _split(config, path)
    registration = _found(name, kinds, path, host)
    target = host.load(registration)
    contract = CONTRACTS[registration.spec.kind]
    if not (isinstance(target, type) and issubclass(target, contract)):
        raise ConfigError(f"{_at(path)}{registration.full_name!r} is no {contract.__name__}, as its spec says")
    known = parameters(target)
    unknown_arguments(list(given), list(known), path)
    arguments = {n: _planned_argument(v, known[n], join(path, n), host) for n, v in given.items()}
    _refuse_missing(known, arguments, path)
    _refuse_misfits(arguments, path)
    return _Plan(registration, target, arguments)


def _split(config: Any, path: str) -> tuple[str, dict[str, Any]]:
    if isinstance(config, str):
        return config, {}
    if not isinstance(config, Mapping) or not isinstance(config.get("type"), str):
        raise ConfigError(f"{_at(path)}must be a mapping with a 'type', or a name; got {shown(config)}")
    return config["type"], {str(k): v for k, v in config.items() if k != "type"}


def _found(name: str, kinds: Sequence[str], path: str, host: PluginHost) -> Registration:
    try:
        registration = host.find(kinds[0] if len(kinds) == 1 else None, name)
    except LookupError as error:
        raise type(error)(f"{_at(path)}{error}") from None
    if registration.spec.kind not in (kinds or CONTRACTS):
        raise ConfigError(f"{_at(path)}{name!r} is a {registration.spec.kind}, not a {' or '.join(kinds)}")
    return registration


def _planned_argument(value: Any, parameter: Parameter, path: str, host: PluginHost) -> Any:
    kinds = [t.kind for t in parameter.component_types() if issubclass(t, Component)]
    if not kinds or value is None:
        return checked(value, parameter.annotation, path)
    if not parameter.admits_list(is_list(value)):
        raise ConfigError(f"{path}: must be {phrase(parameter.annotation)}, got {shown(value)}")
    if is_list(value):
        return tuple(_planned(v, kinds, f"{path}[{i}]", host) for i, v in enumerate(value))
    return _planned(value, kinds, path, host)


def _refuse_missing(known: Mapping[str, Parameter], given: Mapping[str, Any], path: str) -> None:
    for name, parameter in known.items():
        if parameter.required and name not in given and name not in PROVIDED:
            raise ConfigError(f"{join(path, name)}: is required")


def _refuse_misfits(arguments: Mapping[str, Any], path: str) -> None:
    plans = [a for a in arguments.values() if isinstance(a, _Plan)]
    reason = latent_mismatch({p.registration.spec.kind: p.registration.spec for p in plans})
    if reason:
        raise ConfigError(f"{_at(path)}{reason}")


def _constructed(plan: _Plan, shapes: dict[str, Any], path: str) -> Any:
    arguments: dict[str, Any] = {}
    for name, parameter in parameters(plan.target).items():
        if name in plan.arguments:
            value = plan.arguments[name]
            arguments[name] = _map_parts(value, _Plan, lambda part, p=parameter: _part(part, p, plan, shapes, path))
        elif name in shapes:
            arguments[name] = shapes[name]
        elif parameter.required:
            raise ConfigError(f"{join(path, name)}: is required; nothing before it provides it")
    try:
        return plan.target(**arguments)
    except ConfigError as error:
        raise ConfigError(_placed(str(error), plan.target, path)) from None


def _placed(sentence: str, target: type, path: str) -> str:
    """A constructor's complaint with its path in the config: ``channels: …`` becomes ``encoder.channels: …``."""
    sentence = sentence.removeprefix(f"{target.__name__}.")
    own = sentence.startswith(tuple(name + end for name in parameters(target) for end in ":["))
    return join(path, sentence) if own else f"{_at(path)}{sentence}"


def _part(plan: _Plan, parameter: Parameter, whole: _Plan, shapes: dict[str, Any], path: str) -> Any:
    of_latents = _models_latents(plan.target, parameter)
    told = whole.target.shapes_for(parameter.name, shapes, _values(whole))
    part = _constructed(plan, _seen(told, of_latents), join(path, parameter.name))
    shapes.update(_provided(part, of_latents, shapes, told))
    return part


def _values(plan: _Plan) -> dict[str, Any]:
    """The arguments that are no parts, or their defaults."""
    known = {name: p for name, p in parameters(plan.target).items() if not p.component_types()}
    defaults = {name: p.default for name, p in known.items() if not p.required}
    return defaults | {name: value for name, value in plan.arguments.items() if name in known}


def _models_latents(part: type[Component], parameter: Parameter) -> bool:
    """Whether a part is a model in the place of a prior: its data are the latents of the whole."""
    return components.Prior in parameter.component_types() and part.kind == components.GenerativeModel.kind


def _seen(shapes: Mapping[str, Any], of_latents: bool) -> dict[str, Any]:
    if not of_latents:
        return dict(shapes)
    told = {"data_shape": shapes["latent_shape"]} if "latent_shape" in shapes else {}
    return told | {name: shapes[name] for name in ("codebook_size",) if name in shapes}


def _provided(part: Component, of_latents: bool, shapes: Mapping[str, Any], told: Mapping[str, Any]) -> dict[str, Any]:
    """What a part tells those after it: its shapes, but those that were changed for it alone."""
    names = {"latent_shape": "data_shape"} if of_latents else {name: name for name in part.provides}
    same = {name: own for name, own in names.items() if told.get(name) == shapes.get(name)}
    return {name: getattr(part, own) for name, own in same.items() if hasattr(part, own)}


def _map_parts(value: Any, part_type: type, function: Any) -> Any:
    """Applies ``function`` to a part, or to each of a sequence of parts; other values stay."""
    if isinstance(value, part_type):
        return function(value)
    if isinstance(value, nn.ModuleList) or (isinstance(value, tuple) and any(isinstance(v, part_type) for v in value)):
        return [function(v) for v in value]
    return value


def _described(component: Component, shapes: dict[str, Any], host: PluginHost) -> dict[str, Any]:
    registration = host.name_of(type(component))
    if registration is None:
        raise ConfigError(f"no plugin offers {type(component).__qualname__}, so a config cannot name it")
    config: dict[str, Any] = {"type": registration.full_name}
    for name, value in _arguments(component):
        if name in shapes and value == shapes[name]:
            continue

        def part(child: Component, name: str = name) -> dict[str, Any]:
            of_latents = _models_latents(type(child), parameters(type(component))[name])
            told = type(component).shapes_for(name, shapes, component.arguments)
            described = _described(child, _seen(told, of_latents), host)
            shapes.update(_provided(child, of_latents, shapes, told))
            return described

        config[name] = _jsonable(_map_parts(value, Component, part))
    return config


def _arguments(component: Component) -> Iterator[tuple[str, Any]]:
    """Constructor arguments in order; components as they are now, in case one was replaced."""
    for name in parameters(type(component)):
        yield name, component.arguments.get(name, getattr(component, name, None))


def _jsonable(value: Any) -> Any:
    return [_jsonable(v) for v in value] if isinstance(value, (tuple, list)) else value


def _at(path: str) -> str:
    return f"{path}: " if path else ""
