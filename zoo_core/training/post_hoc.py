"""A prior fitted after the fact, to the latents of a model that stays as it is."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from zoo_core.arguments import parameters
from zoo_core.components import GenerativeModel, Prior, StatisticalModel
from zoo_core.config import build, check, describe
from zoo_core.encoded import NAME
from zoo_core.errors import ConfigError
from zoo_core.host import PluginHost, Registration, default_host
from zoo_core.pretrained import from_pretrained, save_pretrained
from zoo_core.ready_parts import full_name, pinned, weight_files
from zoo_core.specs import ModelSpec, PriorSpec, Spec
from zoo_core.training.loop import train
from zoo_core.training.reading import parse_recipe
from zoo_core.training.recipe import Recipe, Training

LOSS = "nets/nll"  # -log p(z)
METRIC = "metrics/log_prob"
# What is not said in a fit; each kind of fit has its own.
BY_STATISTICS = {"steps": 100, "batch": 1000, "tolerance": 1e-5, "log_every": 10, "save_every": 10}
# Densities of flows are only as good as their inverses: float32.
BY_GRADIENTS = {
    "epochs": 20, "batch": 128, "schedule": "cosine", "clip": 100.0, "log_every": 500, "precision": "no",
}  # fmt: skip


def fit_prior(
    model: str | Path,
    prior: str | Mapping[str, Any],
    folder: str | Path,
    *,
    data: Mapping[str, Any] | None = None,
    draws: int = 1,
    loss: str | Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    revision: str | None = None,
    host: PluginHost | None = None,
) -> Path | None:
    """Fits a prior to z ~ q(z|x) over a model's data, and saves the model with it; all its other weights stay.

    For a fixed encoder and decoder the ELBO is largest where -E[log p(z)] is smallest, over the z that the encoder
    makes of the data: so the fit raises the ELBO of a VAE (ELBO surgery, Hoffman & Johnson, 2016,
    http://approximateinference.org/accepted/HoffmanJohnson2016.pdf), and samples of an autoencoder become like its
    data (Ghosh et al., 2020, https://arxiv.org/abs/1903.12436).

    Args:
        model: a folder, a registered name such as ``"vae-mnist"``, or a Hub id, at that ``revision``.
        prior: the config of any prior, or of any model, whose data are then the latents.
        folder: of the run, which goes on where it stopped: ``prior`` holds the fit, ``model`` the new model.
        data: what is encoded, where it is not the data of the model's own recipe: fields as in a recipe.
        draws: how many z of each x.
        loss: of a prior that is fitted by gradients; default -log p(z).
        training: fields of a recipe's section ``training``.

    Returns:
        The folder of the new model, which ``from_pretrained`` loads; None in all processes but the first.

    Raises:
        ConfigError: the model takes no prior, or not this one.
        TrainingError, DataError, CheckpointError: as ``train`` and ``from_pretrained``; what was saved before stays.
    """
    recipe = prior_recipe(
        model, prior, data=data, draws=draws, loss=loss, training=training, revision=revision, host=host
    )
    return put_prior(recipe, Path(folder), host=host)


def prior_recipe(
    model: str | Path,
    prior: str | Mapping[str, Any],
    *,
    data: Mapping[str, Any] | None = None,
    draws: int = 1,
    loss: str | Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    revision: str | None = None,
    host: PluginHost | None = None,
) -> Recipe:
    """The recipe of the fit, with the config of the prior as its model. Arguments and errors as ``fit_prior``."""
    host, name = host or default_host(), full_name(model)
    base: GenerativeModel = from_pretrained(name, revision=revision, host=host)
    config, spec = _checked(base, prior, host)
    by_statistics = spec.kind == GenerativeModel.kind and issubclass(check(config, host=host), StatisticalModel)
    title = base.provenance.get("recipe", {}).get("name", Path(name).name)
    options = {"model": name, **pinned(name, revision, base, host), "draws": draws}
    options |= {"data": dict(data)} if data else {}
    content = {
        "name": f"{title}-{spec.name}",
        "summary": f"{config['type']} as the prior of {title}, fitted to its latents.",
        "model": config,
        "loss": loss if by_statistics else loss or LOSS,
        "data": {"name": NAME, "options": options},
        "training": _with_defaults(dict(training or {}), BY_STATISTICS if by_statistics else BY_GRADIENTS),
        "evaluation": {"metrics": [METRIC] if _has_density(spec) else []},
    }
    return parse_recipe(content, host=PriorsAsModels(host))


def put_prior(recipe: Recipe, folder: Path, *, host: PluginHost | None = None) -> Path | None:
    """Trains the recipe of a prior, and saves the model that it is for with it. Returns and raises as ``fit_prior``."""
    host = host or default_host()
    finished = train(recipe, folder / "prior", host=PriorsAsModels(host))
    if finished is None:
        return None
    options = recipe.data.options
    model = from_pretrained(options["model"], revision=options.get("revision"), sha256=options.get("sha256"), host=host)
    model.prior = from_pretrained(finished, host=PriorsAsModels(host))
    fit = model.prior.provenance
    told = {key: fit[key] for key in ("recipe", "steps", "seconds", "examples", "data_fingerprint", "device")}
    told["weights"] = weight_files(options["model"], options.get("revision"), model, host)
    told["chosen"] = _chosen(recipe)
    model.provenance = {**model.provenance, "prior": told}
    return save_pretrained(model, folder / "model", host=host)


class PriorsAsModels(PluginHost):
    """The same plugins, but a prior is what it is to a fit: a model with a density, whose data are latents."""

    def __init__(self, host: PluginHost) -> None:
        super().__init__(discover=False, strict=host.strict)
        self.plugins = host.plugins

    def registrations(self, kind: str | None = None) -> list[Registration]:
        found = (Registration(_as_model(r.spec), r.plugin) for r in super().registrations())
        return [r for r in found if kind in (None, r.spec.kind)]


def _as_model(spec: Spec) -> Spec:
    if not isinstance(spec, PriorSpec):
        return spec
    stated = {"name": spec.name, "target": spec.target, "summary": spec.summary}
    return ModelSpec(**stated, density="exact", sampling="parallel", latent="none")


def _checked(base: GenerativeModel, prior: str | Mapping[str, Any], host: PluginHost) -> tuple[dict[str, Any], Spec]:
    """The whole config of the prior, given the shape of the model's latents where it is no model, and its spec."""
    if Prior not in (parameters(type(base))["prior"].component_types() if "prior" in parameters(type(base)) else ()):
        raise ConfigError(
            f"prior: {type(base).__name__} has none that could be exchanged; take a model that is given one"
        )
    whole = {**describe(base, host=host, data_shape=base.data_shape), "prior": prior}
    check(whole, "model", host=host)  # imports the classes: tensors of a module imported on the meta device stay there
    with torch.device("meta"):
        fitted = build(whole, "model", host=host, data_shape=base.data_shape).prior
    spec, of = _spec(fitted, host), _spec(base, host)
    if _has_density(of) and not _has_density(spec):
        raise ConfigError(f"prior: {spec.name!r} has no density, which the log p(x) of {of.name!r} needs; take another")
    shapes = {} if isinstance(fitted, Prior) else {"data_shape": fitted.data_shape}
    return describe(fitted, host=host, **shapes), spec


def _spec(component: GenerativeModel, host: PluginHost) -> Spec:
    registration = host.name_of(type(component))
    assert registration is not None  # it was built by name
    return registration.spec


def _has_density(spec: Spec) -> bool:
    return getattr(spec, "density", "exact") != "none"


def _with_defaults(given: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """One of steps and epochs replaces the other."""
    lengths = {"steps", "epochs"}
    kept = {k: v for k, v in defaults.items() if not (k in lengths and lengths & given.keys())}
    return {**kept, **given}


def _chosen(recipe: Recipe) -> dict[str, Any]:
    """The fields of its section ``training`` that are not as in every fit of that kind."""
    defaults = asdict(Training(**(BY_STATISTICS if recipe.loss is None else BY_GRADIENTS)))
    settings = recipe.as_dict()["training"]
    return {k: v for k, v in settings.items() if v is not None and v != json.loads(json.dumps(defaults[k]))}
