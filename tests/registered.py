"""Small configs and known inputs for whatever the installed plugins offer, by its annotations alone."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from zoo_core import (
    CodeGrid,
    ConfigError,
    GenerativeModel,
    SampleMetric,
    StatisticalModel,
    ZooError,
    build,
    default_host,
    describe,
)
from zoo_core.arguments import Parameter, parameters
from zoo_core.components import Component
from zoo_core.config import CONTRACTS, PROVIDED
from zoo_core.data import Preprocessing, load
from zoo_core.host import Registration

ON_A_GRID = {"classical/chow_liu", "nets/uniform_one_hot"}  # as parts, which see real latents here
DATA, VECTOR, GRID = (1, 8, 8), (3,), (3, 2, 2)  # two stages halve 8 x 8 to 2 x 2
CODES = 5
# Parts that must have parts of their own: what no annotation tells.
CHOSEN: dict[tuple[str, str], Any] = {
    ("dalle/dalle", "first_stage"): {
        "type": "vqvae/vqvae",
        "encoder": {"type": "nets/conv_encoder", "latents": 2, "channels": [3], "layout": "grid"},
        "quantizer": {"type": "vqvae/nearest", "codes": CODES},
        "decoder": {"type": "nets/conv_decoder", "channels": [3]},
    },
}


def registrations(*kinds: str) -> list[Registration]:
    """What the installed plugins offer and a config can build."""
    return [r for r in default_host().registrations() if r.spec.kind in (kinds or CONTRACTS)]


def by_name(registration: Registration) -> str:
    return registration.full_name


def small(registration: Registration, **chosen: Any) -> dict[str, Any]:
    """A config that sets every argument but shapes, away from its default where one is known, and small."""
    values = {
        name: chosen[name] if name in chosen else options(registration, name)[0] for name in _settable(registration)
    }
    return {"type": registration.full_name, **values}


def variants(registration: Registration) -> Iterator[dict[str, Any]]:
    """Small configs that together take every option of every argument."""
    yield small(registration)
    for name in _settable(registration):
        for option in options(registration, name)[1:]:
            yield small(registration, **{name: option})


def plainest(registration: Registration) -> dict[str, Any]:
    """The config with the arguments alone that have no default."""
    required = {n: options(registration, n)[0] for n, p in _settable(registration).items() if p.required}
    return {"type": registration.full_name, **required}


def options(registration: Registration, argument: str) -> list[Any]:
    """Values that together show what an argument can be; None alone if there is no such argument."""
    parameter = _settable(registration).get(argument)
    return _options(parameter, registration) if parameter else [None]


def shapes(registration: Registration) -> dict[str, tuple[int, ...]]:
    """Those that a part of a model would be given by the parts before it."""
    grid = "grid[real]" in getattr(registration.spec, "accepts", ())
    return {"data_shape": DATA, "latent_shape": GRID if grid else VECTOR, "codebook_size": CODES}


def outputs(component: Component) -> list[Tensor]:
    """Everything the contract of a component's kind gives, on known inputs and known noise."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        return list(_EXERCISES[component.kind](component))


def image(*leading: int) -> Tensor:
    return torch.rand(*leading, *DATA).round()


def model(posterior: str = "nets/diagonal_gaussian") -> Any:
    """A small model; with the Gaussian posterior every bound can be computed on it."""
    (chosen,) = (small(r) for r in registrations("posterior") if r.full_name == posterior)
    encoder = {"type": "nets/mlp_encoder", "latents": VECTOR[0], "hidden": [4], "posterior": chosen}
    # Of ``image``, which is binary, it gives probabilities: a metric may refuse a density.
    decoder = {"type": "nets/linear_decoder", "likelihood": "nets/bernoulli"}
    parts = {"encoder": encoder, "decoder": decoder, "prior": "nets/standard_normal"}
    return build({"type": "vae/vae", **parts}, data_shape=DATA)


def coded_model(quantizer: str = "vqvae/nearest") -> Any:
    """A small model whose latents are codes."""
    parts = {"encoder": {"type": "nets/mlp_encoder", "latents": CODES, "hidden": [4], "posterior": "nets/dirac"}}
    parts |= {"quantizer": quantizer, "decoder": "nets/linear_decoder"}
    return build({"type": "vqvae/vqvae", **parts}, data_shape=DATA)


def told_model(name: str = "dalle/dalle") -> Any:
    """A small model of images given captions."""
    (registration,) = (r for r in registrations("model") if r.full_name == name)
    return build(small(registration), data_shape=DATA)


class Album(GenerativeModel):
    """Draws the images that it was given, in turn: a model whose samples are known."""

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        self.images, self.data_shape = images, tuple(images.shape[1:])

    def draw(self, n: int) -> Tensor:
        return self.images[torch.arange(n) % len(self.images)]


def _settable(registration: Registration) -> dict[str, Parameter]:
    known = parameters(default_host().load(registration))
    return {name: parameter for name, parameter in known.items() if name not in PROVIDED}


def _options(parameter: Parameter, whole: Registration) -> list[Any]:
    """Values that an annotation admits: every literal and every component that fits, else one small value."""
    if (whole.full_name, parameter.name) in CHOSEN:
        return [_completed(CHOSEN[whole.full_name, parameter.name])]
    kinds = [t.kind for t in parameter.component_types()]
    if kinds:
        fitting = [r for r in registrations(*kinds) if _ends(r) and _fits(r, whole)]
        # The plain parts first: with a part of a special kind, many others would refuse to work.
        plain_first = sorted(fitting, key=lambda r: r.plugin != "nets")
        parts = [small(r) for r in plain_first]
        return [[part] for part in parts] if parameter.admits_list(True) else parts
    if parameter.literals:
        return sorted(parameter.literals, key=lambda value: value == parameter.default)
    candidates = [v for v in (3, 0.25, [3, 6], True, False, "text") if v != parameter.default]
    return [next(filter(parameter.admits, candidates), parameter.default)]


def _ends(registration: Registration) -> bool:
    """Whether it can be a part without parts of its own leading back to it: a model of models has no end."""
    known = parameters(default_host().load(registration)).values()
    return registration.spec.kind not in ("model", "quantizer") or not any(p.component_types() for p in known)


def _fits(registration: Registration, whole: Registration) -> bool:
    """Whether it can be a part of the whole, as far as its specs tell: behind a quantizer a prior is one of codes."""
    if registration.spec.kind == "extractor":
        return registration.full_name == "metrics/pixels"  # the others need a network, or images of another shape
    if registration.spec.kind not in ("prior", "model"):
        return True
    codes = any("[codes]" in latents for latents in getattr(registration.spec, "accepts", ()))
    codes = codes or "codebook_size" in parameters(default_host().load(registration))
    return codes == ("quantizer" in _settable(whole))


def _completed(config: dict[str, Any]) -> dict[str, Any]:
    """The config with every argument in it, as ``describe`` tells it."""
    return describe(build(config, data_shape=DATA), data_shape=DATA)


def _distribution(d: Distribution) -> Iterator[Tensor]:
    if not isinstance(d, CodeGrid):  # labels have no mean
        yield d.mean
    yield (x := d.sample(torch.Size((2,))))
    yield d.log_prob(x)


def _features(channels: int) -> Tensor:
    return torch.randn(2, channels, 4, 4)


def _batch() -> dict[str, Any]:
    return {"image": image(4), "caption": ["a", "b", "a", "c"], "label": torch.tensor([0, 1, 0, 2])}


def _shown() -> tuple[Any, dict[str, Any]]:
    """Pictures of which everything is known, and a model that draws them."""
    batch = Preprocessing()(load("shapes", "test", image_size=16).batch(torch.arange(4)))
    return Album(batch["image"]), batch


def _scored() -> tuple[Any, dict[str, Any]]:
    """Pictures with captions, and a model that scores them."""
    batch = _batch()
    return told_model("dalle/scorer").given(batch), batch


def _classified() -> tuple[Any, dict[str, Any]]:
    """Pictures with labels, and a model that tells them."""
    return told_model("metrics/classifier"), _batch()


def _factored() -> tuple[Any, dict[str, Any]]:
    """Images whose factors are known: any three of them differ in each, and none is alone with its value."""
    pair = torch.arange(60) // 2
    return model(), {"image": image(60), "size": pair, "place": pair.roll(1)}


def _metric(metric: Any) -> Iterator[Tensor]:
    """On the first model that it takes: of real latents, of codes, of pictures that captions or labels tell of.

    One that none of them will do for, since it needs larger pictures or a network that is not here, says so each time.
    """
    refusals: list[Tensor] = []
    usual = (lambda: (model(), _batch()), lambda: (coded_model(), _batch()))
    for made in (*usual, _shown, _scored, _classified, _factored):
        metric.reset()
        try:
            values = _measured(metric, *made())
        except ZooError as refusal:
            refusals.append(_sentence(refusal))
            continue
        yield from (torch.tensor(value[:3]).nan_to_num() for value in values.values())
        return
    yield from refusals


def _sentence(error: Exception) -> Tensor:
    return torch.tensor([ord(letter) for letter in str(error)])


def _measured(metric: Any, model: Any, batch: dict[str, Any]) -> Any:
    """As ``evaluate`` does it, on one batch."""
    if metric.draws:
        batch = {**batch, "sample": model.sample(len(batch["image"])), "original": batch["image"]}
    if isinstance(metric, SampleMetric):
        metric.extractor = metric.extractor or build("metrics/pixels", "extractor")
        metric.real = metric.extractor.features(batch["image"])
    metric.update(model, batch)
    return metric.compute()


def _loss(loss: Any) -> Iterator[Tensor]:
    total, terms = _accepted(loss)
    yield from (total, *terms.values())


def _accepted(loss: Any) -> Any:
    """The loss on the first model that it takes: of any posterior, the Gaussian first, of codes, captions or labels."""
    names = sorted((r.full_name for r in registrations("posterior")), key=lambda name: name != "nets/diagonal_gaussian")
    coded = (partial(coded_model, name) for name in ("vqvae/nearest", "vqvae/gumbel"))
    refusals = []
    told = (partial(told_model, name) for name in ("dalle/dalle", "dalle/scorer", "metrics/classifier"))
    for made in (*(partial(model, name) for name in names), *coded, *told):
        batch = _batch()
        try:
            return loss(made().given(batch), batch)
        except ConfigError as refusal:
            refusals.append(refusal)
    raise refusals[0]


def _extractor(extractor: Any) -> Iterator[Tensor]:
    """Features, unless they are those of a network that is not here."""
    shape = getattr(extractor, "data_shape", None) or DATA
    try:
        yield extractor.features(torch.rand(2, *shape))
    except ZooError as error:
        yield _sentence(error)


def _model(model: Any) -> Iterator[Tensor]:
    for part in model.modules():
        if isinstance(part, StatisticalModel):
            x = torch.rand(20, *part.data_shape).round()
            part.begin(x)
            part.update(part.statistics(x))
    if not _draws(model):
        yield model.logits(image(2)) if hasattr(model, "classes") else model.score(image(2), ["a dot", "two dots"])
        return
    yield model.sample(2, generator=torch.Generator().manual_seed(1))
    given = model.given({"label": torch.tensor([0, 1])})
    yield model.log_prob(_data(model)) if _has_density(model) else given.reconstruct(image(2))


def _data(model: Any) -> Tensor:
    """Two images, or two of the codes that it is a density of."""
    return torch.randint(CODES, (2, *DATA)) if hasattr(model, "codebook_size") else image(2)


def _draws(model: Any) -> bool:
    """Whether its spec promises samples."""
    registration = default_host().name_of(type(model))
    return getattr(registration and registration.spec, "sampling", "") != "none"


def _has_density(model: Any) -> bool:
    """Whether each spec in it promises one; for parts over a grid of values real latents have none."""
    found = [r for part in model.modules() if (r := default_host().name_of(type(part)))]
    promised = all(getattr(r.spec, "density", "") != "none" for r in found)
    return promised and ON_A_GRID.isdisjoint(r.full_name for r in found[1:])


_EXERCISES: dict[str, Any] = {
    "encoder": lambda encoder: _distribution(encoder(image(2))),
    "posterior": lambda posterior: _distribution(posterior(_features(posterior.channels(3)), 3)),
    "decoder": lambda decoder: _distribution(decoder(torch.randn(2, *decoder.latent_shape))),
    "likelihood": lambda likelihood: _distribution(likelihood(_features(likelihood.channels(3)), 3)),
    "prior": lambda prior: _distribution(prior()),
    # In training mode a quantizer may learn.
    "quantizer": lambda quantizer: quantizer.eval()(torch.randn(2, *quantizer.latent_shape)),
    "loss": _loss,
    "metric": _metric,
    "extractor": _extractor,
    "model": _model,
}
