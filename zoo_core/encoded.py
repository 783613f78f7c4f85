"""``core/latents``: what a frozen model's encoder makes of a data set, as a data set of its own."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from zoo_core.arguments import NonNegativeInt, PositiveInt, checked, parameters, unknown_arguments
from zoo_core.components import GenerativeModel, device_of
from zoo_core.config import describe
from zoo_core.data import Dataset, InMemory, Preprocessing, cached, load
from zoo_core.data.dataset import Batch
from zoo_core.data.fingerprint import fingerprint
from zoo_core.data.keys import cache_key
from zoo_core.data.strings import Strings
from zoo_core.errors import ConfigError, DataError
from zoo_core.evaluation.sharing import to_device
from zoo_core.pretrained import from_pretrained
from zoo_core.randomness import seed_everything, undisturbed

NAME = "core/latents"
# A split here → the key under which a recipe keeps the split that is encoded, and its default.
SPLITS = {"train": ("split", "train"), "test": ("held_out", "test")}
SECTION = ("name", "split", "held_out", "options", "preprocessing")


def latents(
    split: str = "train",
    *,
    model: str,
    revision: str | None = None,
    sha256: str | None = None,
    data: Mapping[str, Any] | None = None,
    draws: PositiveInt = 1,
    seed: NonNegativeInt = 0,
    batch: PositiveInt = 500,
    device: str = "cpu",
) -> InMemory:
    """z ~ q(z|x) for every x of a data set, float32 (N draws, *latent_shape); of a Dirac, the code itself.

    Of a model with a quantizer, its codes: int64. The data's other columns, such as labels and captions, stay beside
    them. They are drawn once, and read from the cache afterwards. Every draw depends on ``seed``, its number and the
    place of its batch alone.

    Args:
        split: ``"train"``, what the model was trained on, or ``"test"``, what was held out.
        model: a folder, a registered name or a Hub id, at that ``revision``.
        sha256: of its weight file; refuses any other.
        data: what is encoded, as a recipe says it: name, split, held_out, options, preprocessing. What is left out
            is as in the model's own recipe; another data set gets the model's own preprocessing.
        draws: how many of each x, one after another through the whole set.
        batch: examples at a time.

    Raises:
        ConfigError: an option is wrong, or the model has no encoder.
        DataError: the model does not record its data and none are given, or they have another shape.
    """
    given = {**locals()}
    for name, parameter in parameters(latents).items():
        checked(given[name], parameter.annotation, name)
    loaded = from_pretrained(model, revision=revision, sha256=sha256, device=device)
    _require_encoder(model, loaded)
    source, preprocessing = _source(model, loaded, split, dict(data or {}))
    _require_fit(model, loaded, source, preprocessing)
    facts = [source.fingerprint, source.columns, preprocessing.as_dict(), draws, seed, batch, device]
    key = cache_key(f"latents-{model}-{split}", _identity(loaded), *facts)
    entry = cached(key, lambda: _encode(loaded, source, preprocessing, draws, seed, batch))
    return InMemory(NAME, split, entry.columns, entry.fingerprint)


def _require_encoder(name: str, model: Any) -> None:
    shape: tuple[int, ...] = getattr(model, "latent_shape", ())
    if not (shape and hasattr(model, "encoder")):
        raise ConfigError(f"model: {name!r} is a {type(model).__name__}, which encodes to no latents that are data")


def _source(name: str, model: GenerativeModel, split: str, section: dict[str, Any]) -> tuple[Dataset, Preprocessing]:
    """The data set to encode, and what the model has to see of it."""
    unknown_arguments(list(section), SECTION, "data")
    own = model.provenance.get("recipe", {}).get("data", {})
    if "name" not in section:
        section = {**own, **section}
    if "name" not in section:
        raise DataError(f"{name!r} does not record on what it was trained; name its data: data.name, or --data")
    key, default = SPLITS[split]
    settings = section.get("preprocessing")
    preprocessing = model.preprocessing if settings is None else Preprocessing.from_dict(settings)
    return load(section["name"], section.get(key, default), **section.get("options", {})), preprocessing


def _require_fit(name: str, model: GenerativeModel, source: Dataset, preprocessing: Preprocessing) -> None:
    shape = preprocessing.data_shape(source.data_shape)
    if tuple(shape) != tuple(model.data_shape):
        raise DataError(f"{source.name!r} gives data of shape {shape}, {name!r} takes {tuple(model.data_shape)}")


def _identity(model: GenerativeModel) -> list[Any]:
    """What changes whenever the model might encode otherwise: its config, and a digest of its tensors."""
    state = {name: t.detach().cpu().reshape(-1).view(torch.uint8) for name, t in model.state_dict().items()}
    return [describe(model, data_shape=model.data_shape), fingerprint(state)]


@torch.no_grad()
def _encode(
    model: Any, source: Dataset, preprocessing: Preprocessing, draws: int, seed: int, batch: int
) -> dict[str, Tensor | Strings]:
    places = torch.split(torch.arange(len(source)), batch)
    order = [(draw, number) for draw in range(draws) for number in range(len(places))]
    console = Console(stderr=True)
    shown_order = track(order, "encoding", console=console, transient=True, disable=not sys.stderr.isatty())
    with undisturbed():
        parts = [_draw(model, source, preprocessing, places[i], seed, k, i) for k, i in shown_order]
    return {name: _joined([part[name] for part in parts]) for name in parts[0]}


def _draw(model: Any, source: Dataset, preprocessing: Preprocessing, places: Tensor, *key: int) -> Batch:
    """The examples at these places with z ~ q(z|x), (B, *latent_shape), in the place of x."""
    seed_everything(*key)
    inputs = preprocessing(to_device(source.batch(places), device_of(model)))
    x, view = inputs["image"], model.given(inputs)
    z: Tensor = view.encode(x) if hasattr(view, "quantizer") else view.encoder(x).sample()
    return {**inputs, "image": z.float() if z.is_floating_point() else z}


def _joined(parts: Sequence[Tensor | list[str]]) -> Tensor | Strings:
    """One column of those of batches, on the CPU."""
    if isinstance(parts[0], Tensor):
        return torch.cat([torch.as_tensor(part) for part in parts]).cpu()
    return Strings.of(str(text) for part in parts for text in part)
