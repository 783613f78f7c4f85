"""Small configs of whatever is registered: by the annotations of constructors, and by what a plugin says of its own.

A plugin may say, in a module ``conformance`` beside its ``plugin``, for components by name (other constants there begin
with ``_``):

    EXAMPLES: arguments of the smallest useful config, where annotations alone do not tell; options of a data set.
    SHAPES: what it is told by the parts before it, such as ``{"data_shape": (3, 32, 32)}``.
    MODELS: the config of the model on which a loss or a metric is tried, where a linear one does not do.
    LOSSES: the config of the loss with which a model is tried that has no log p(x) to be trained by, or with which
        the model is trained that a metric is tried on.
    DATA: the data on which a metric is tried, as a recipe names them, where zeros and ones by two factors do not do.
    VALUES: what a metric must say of samples that are the data themselves, by the values' names; or a function of a
        model and a batch that tells what it must say of these.
    EXPECTED_FAILURES: ``"name::check"`` → why that check cannot pass.
"""

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from zoo_core.arguments import Parameter, parameters
from zoo_core.components import Component
from zoo_core.config import CONTRACTS, PROVIDED
from zoo_core.errors import ConfigError
from zoo_core.host import PluginHost, Registration
from zoo_core.testing.subjects import CODES, DATA, LATENTS, VECTOR, Subject, drawing

TABLES = ("EXAMPLES", "SHAPES", "MODELS", "LOSSES", "DATA", "VALUES", "EXPECTED_FAILURES")

# The kit's own parts, see ``reference``.
PARTS: dict[str, dict[str, Any]] = {
    "encoder": {"type": "reference/linear_encoder", "latents": VECTOR[0]},
    "posterior": {"type": "reference/gaussian_posterior"},
    "decoder": {"type": "reference/linear_decoder"},
    "likelihood": {"type": "reference/gaussian_likelihood"},
    "prior": {"type": "reference/standard_normal"},
    "quantizer": {"type": "reference/lattice"},
    "extractor": {"type": "reference/pixels"},
    "loss": {"type": "reference/negative_elbo"},
}
PARTS["model"] = {
    "type": "reference/linear_gaussian", **{kind: PARTS[kind] for kind in ("encoder", "decoder", "prior")}
}  # fmt: skip
CODE_PRIOR = {"type": "reference/uniform_codes"}


@dataclass(frozen=True)
class Told:
    """What a plugin says of its own components, by their names."""

    examples: Mapping[str, Any] = field(default_factory=dict)
    shapes: Mapping[str, Any] = field(default_factory=dict)
    models: Mapping[str, Any] = field(default_factory=dict)
    losses: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)
    expected_failures: Mapping[str, str] = field(default_factory=dict)


def told_by(package: str) -> Told:
    """What a plugin's module ``conformance`` says; nothing if there is none.

    Raises:
        ValueError: the module has a table that the kit does not know.
    """
    name = f"{package}.conformance"
    if not package or importlib.util.find_spec(name) is None:
        return Told()
    return told(importlib.import_module(name))


def told(module: ModuleType) -> Told:
    """What a module's tables say. Raises as ``told_by``."""
    unknown = [name for name in vars(module) if name.isupper() and name[0] != "_" and name not in TABLES]
    if unknown:
        raise ValueError(f"{module.__name__} has {unknown[0]!r}, which is none of {', '.join(TABLES)}")
    return Told(**{name.lower(): getattr(module, name) for name in TABLES if hasattr(module, name)})


def subject(registration: Registration, host: PluginHost, told: Told) -> Subject:
    """How a component is tried.

    Raises:
        ConfigError: nothing is known for an argument that has no default.
    """
    name = registration.spec.name
    is_built = registration.spec.kind in CONTRACTS
    shapes = {**_shapes(registration), **told.shapes.get(name, {})} if is_built else {}
    given = _given(told.examples.get(name, {}))
    config = _config(registration, host, given) if is_built else given
    model = _given(told.models.get(name, PARTS["model"]))
    loss = _given(told.losses.get(name, {}))
    data, values = told.data.get(name, {}), told.values.get(name, {})
    return Subject(registration, host, config, shapes, model, loss, data, values)


def _given(value: Mapping[str, Any] | Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
    with drawing(0):
        return value() if callable(value) else value


def _shapes(registration: Registration) -> dict[str, Any]:
    spec: Any = registration.spec
    data = getattr(spec, "data_shape", None) or DATA
    return {"data_shape": data, "latent_shape": _latent_shape(spec), "codebook_size": CODES}


def _latent_shape(spec: Any) -> tuple[int, ...]:
    """Of the simplest latents that it accepts; quantizers have several positions if they can."""
    accepted = getattr(spec, "accepts", ("vector[real]",))
    order = ("grid", "vector", "sequence") if spec.kind == "quantizer" else ("vector", "grid", "sequence")
    (chosen, *_) = (latent for layout in order for latent in accepted if latent.startswith(layout))
    return LATENTS[chosen]


def _config(registration: Registration, host: PluginHost, given: Mapping[str, Any]) -> dict[str, Any]:
    known = parameters(host.load(registration))
    made = {
        name: _value(registration, parameter, known)
        for name, parameter in known.items()
        if parameter.required and name not in PROVIDED and name not in given
    }
    return {"type": registration.full_name, **made, **given}


def _value(whole: Registration, parameter: Parameter, known: Mapping[str, Parameter]) -> Any:
    kinds = [t.kind for t in parameter.component_types() if issubclass(t, Component) and t.kind in PARTS]
    if kinds:
        part = CODE_PRIOR if "prior" in kinds and "quantizer" in known else PARTS[kinds[0]]
        return [part] if parameter.admits_list(True) else part
    for candidate in (*parameter.literals, 3, 1, 0.25, [3], True):
        if parameter.admits(candidate):
            return candidate
    raise ConfigError(
        f"{whole.full_name}: the kit has no value for the argument {parameter.name!r};"
        f" give one in the plugin's module conformance: EXAMPLES = {{{whole.spec.name!r}: …}}"
    )
