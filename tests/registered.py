"""Small configs and known inputs for whatever the installed plugins offer, by its annotations alone."""

from collections.abc import Iterator
from functools import partial
from typing import Any, Literal, get_args, get_origin

import torch
from torch import Tensor
from torch.distributions import Distribution

from zoo_core import ConfigError, StatisticalModel, build, default_host
from zoo_core.arguments import Parameter, checked, parameters
from zoo_core.components import Component
from zoo_core.config import CONTRACTS, PROVIDED
from zoo_core.host import Registration

DATA, VECTOR, GRID = (1, 8, 8), (3,), (3, 2, 2)  # two stages halve 8 x 8 to 2 x 2


def registrations(*kinds: str) -> list[Registration]:
    """What the installed plugins offer and a config can build."""
    return [r for r in default_host().registrations() if r.spec.kind in (kinds or CONTRACTS)]


def by_name(registration: Registration) -> str:
    return registration.full_name


def small(registration: Registration, **chosen: Any) -> dict[str, Any]:
    """A config that sets every argument but shapes, away from its default where one is known, and small."""
    values = {
        name: chosen[name] if name in chosen else _options(parameter)[0]
        for name, parameter in _settable(registration).items()
    }
    return {"type": registration.full_name, **values}


def variants(registration: Registration) -> Iterator[dict[str, Any]]:
    """Small configs that together take every option of every argument."""
    yield small(registration)
    for name, parameter in _settable(registration).items():
        for option in _options(parameter)[1:]:
            yield small(registration, **{name: option})


def plainest(registration: Registration) -> dict[str, Any]:
    """The config with the arguments alone that have no default."""
    required = {n: _options(p)[0] for n, p in _settable(registration).items() if p.required}
    return {"type": registration.full_name, **required}


def options(registration: Registration, argument: str) -> list[Any]:
    """Values that together show what an argument can be; None alone if there is no such argument."""
    parameter = _settable(registration).get(argument)
    return _options(parameter) if parameter else [None]


def shapes(registration: Registration) -> dict[str, tuple[int, ...]]:
    """Those that a part of a model would be given by the parts before it."""
    grid = "grid[real]" in getattr(registration.spec, "accepts", ())
    return {"data_shape": DATA, "latent_shape": GRID if grid else VECTOR}


def outputs(component: Component) -> list[Tensor]:
    """Everything the contract of a component's kind gives, on known inputs and known noise."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        return list(_EXERCISES[component.kind](component))


def image(*leading: int) -> Tensor:
    return torch.rand(*leading, *DATA).round()


def model(posterior: str = "nets/diagonal_gaussian") -> Any:
    """A small model; with the Gaussian posterior every bound can be computed on it."""
    encoder = {"type": "nets/mlp_encoder", "latents": 2, "hidden": [4], "posterior": posterior}
    parts = {"encoder": encoder, "decoder": "nets/linear_decoder", "prior": "nets/standard_normal"}
    return build({"type": "vae/vae", **parts}, data_shape=DATA)


def _settable(registration: Registration) -> dict[str, Parameter]:
    known = parameters(default_host().load(registration))
    return {name: parameter for name, parameter in known.items() if name not in PROVIDED}


def _options(parameter: Parameter) -> list[Any]:
    """Values that an annotation admits: every literal and every component, else one small value."""
    kinds = [t.kind for t in parameter.component_types()]
    if kinds:
        # The plain parts first: with a part of a special kind, many others would refuse to work.
        plain_first = sorted(filter(_ends, registrations(*kinds)), key=lambda r: r.plugin != "nets")
        parts = [small(r) for r in plain_first]
        return [[part] for part in parts] if parameter.admits_list(True) else parts
    if literals := [a for a in _leaves(parameter.annotation) if get_origin(a) is Literal]:
        values = [value for literal in literals for value in get_args(literal)]
        return sorted(values, key=lambda value: value == parameter.default)
    candidates = [v for v in (3, 0.25, [4, 3], True, False, "text") if v != parameter.default]
    return [next(filter(partial(_admitted, parameter), candidates), parameter.default)]


def _ends(registration: Registration) -> bool:
    """Whether it can be a part without parts of its own leading back to it: a model of models has no end."""
    known = parameters(default_host().load(registration)).values()
    return registration.spec.kind != "model" or not any(p.component_types() for p in known)


def _leaves(annotation: Any) -> list[Any]:
    inner = [] if get_origin(annotation) is Literal else get_args(annotation)
    return [leaf for a in inner for leaf in _leaves(a)] if inner else [annotation]


def _admitted(parameter: Parameter, value: Any) -> bool:
    try:
        checked(value, parameter.annotation, parameter.name)
    except ConfigError:
        return False
    return True


def _distribution(d: Distribution) -> Iterator[Tensor]:
    yield d.mean
    yield (x := d.sample(torch.Size((2,))))
    yield d.log_prob(x)


def _features(channels: int) -> Tensor:
    return torch.randn(2, channels, 4, 4)


def _metric(metric: Any) -> Iterator[Tensor]:
    metric.reset()
    metric.update(model(), {"image": image(4)})
    yield from (torch.tensor(value) for value in metric.compute().values())


def _loss(loss: Any) -> Iterator[Tensor]:
    total, terms = _accepted(loss)
    yield from (total, *terms.values())


def _accepted(loss: Any) -> Any:
    """The loss on the first posterior that it takes; the Gaussian is asked first."""
    names = sorted((r.full_name for r in registrations("posterior")), key=lambda name: name != "nets/diagonal_gaussian")
    refusals = []
    for name in names:
        try:
            return loss(model(name), {"image": image(4)})
        except ConfigError as refusal:
            refusals.append(refusal)
    raise refusals[0]


def _model(model: Any) -> Iterator[Tensor]:
    for part in model.modules():
        if isinstance(part, StatisticalModel):
            x = torch.rand(20, *part.data_shape).round()
            part.begin(x)
            part.update(part.statistics(x))
    yield model.sample(2, generator=torch.Generator().manual_seed(1))
    yield model.log_prob(image(2)) if _has_density(model) else model.reconstruct(image(2))


def _has_density(model: Any) -> bool:
    """Whether its spec and those of all models in it promise one; latents are on no grid, as Chow-Liu trees ask."""
    found = [default_host().name_of(type(part)) for part in model.modules()]
    names = [r for r in found if r and r.spec.kind == "model"]
    return all(r.spec.density != "none" for r in names) and "classical/chow_liu" not in [r.full_name for r in names[1:]]


_EXERCISES: dict[str, Any] = {
    "encoder": lambda encoder: _distribution(encoder(image(2))),
    "posterior": lambda posterior: _distribution(posterior(_features(posterior.channels(3)), 3)),
    "decoder": lambda decoder: _distribution(decoder(torch.randn(2, *decoder.latent_shape))),
    "likelihood": lambda likelihood: _distribution(likelihood(_features(likelihood.channels(3)), 3)),
    "prior": lambda prior: _distribution(prior()),
    "quantizer": lambda quantizer: quantizer(torch.randn(2, *quantizer.latent_shape)),
    "loss": _loss,
    "metric": _metric,
    "model": _model,
}
