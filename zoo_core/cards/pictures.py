"""The pictures on a card: what the model draws, and what it makes of images that the project makes itself."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo_core.components import GenerativeModel
from zoo_core.data import Dataset, load
from zoo_core.errors import ZooError
from zoo_core.evaluation.measuring import evaluating
from zoo_core.figures import figure_png, labelled_grid
from zoo_core.host import default_host
from zoo_core.images import grid, save_image, save_png
from zoo_core.latents import interpolate
from zoo_core.randomness import seed_everything, undisturbed

PICTURES = {
    "samples.png": "Samples",
    "reconstructions.png": "Images, and their reconstructions below",
    "interpolation.png": "From one sample to another through the latent space",
}
SAMPLES, RECONSTRUCTED, PATHS, STEPS = 64, 12, 5, 9
SENTENCES, OF_EACH = 6, 8
# Data sets that are made by the project, so that showing them gives nobody's images away.
OWN = ("shapes", "emoji")


@torch.no_grad()
def write_pictures(model: GenerativeModel, folder: str | Path, *, reconstructions: bool = False) -> list[Path]:
    """Writes the pictures that a model can make into a folder, and returns them.

    Images of the data are shown if the project makes them itself (``shapes``, ``emoji``), or if ``reconstructions``
    asks for them; nothing else is shown but what the model draws.

    Raises:
        DataError: a picture cannot be written.
    """
    folder, data = Path(folder), _held_out(model)
    makers: dict[str, Callable[[], bytes | Tensor | None]] = {
        "samples.png": lambda: _samples(model, data),
        "reconstructions.png": lambda: _reconstructions(model, data, everything=reconstructions),
        "interpolation.png": lambda: _interpolation(model, data),
    }
    made = {file: _made(make, model) for file, make in makers.items()}
    return [_write(picture, folder / file, model) for file, picture in made.items() if picture is not None]


def _made(make: Callable[[], bytes | Tensor | None], model: GenerativeModel) -> bytes | Tensor | None:
    """A picture; None where the model has none of that kind."""
    if len(model.data_shape) != 3 or model.data_shape[0] not in (1, 3):
        return None
    with undisturbed(), evaluating(model):
        seed_everything(0)
        try:
            return make()
        except (ZooError, NotImplementedError):
            return None


def _write(made: bytes | Tensor, path: Path, model: GenerativeModel) -> Path:
    if isinstance(made, bytes):
        return save_png(made, path)
    return save_image(made.cpu(), path, enlarge=2 if max(model.data_shape[1:]) < 64 else 1)


def _held_out(model: GenerativeModel) -> Dataset | None:
    """The data that the model was not trained on; None where they are not known, or not there."""
    data: Mapping[str, Any] = model.provenance.get("recipe", {}).get("data", {})
    try:
        return load(data["name"], data.get("held_out", "test"), **data.get("options", {}))
    except (ZooError, KeyError):
        return None


def _batch(model: GenerativeModel, data: Dataset | None, n: int) -> dict[str, Any]:
    """Examples from all over the data, as the model sees them."""
    if data is None:
        return {}
    return dict(model.preprocessing(data.batch(torch.arange(n) * len(data) // n)))


def _samples(model: Any, data: Dataset | None) -> bytes | Tensor | None:
    known = default_host().name_of(type(model))
    if known and getattr(known.spec, "sampling", "") == "none":
        return None
    if hasattr(model, "generate") and data is not None:
        texts = _batch(model, data, SENTENCES)["caption"]
        images = model.generate(texts, n=OF_EACH, seed=0).unflatten(0, (len(texts), OF_EACH))
        return figure_png(labelled_grid(images, texts, [""] * OF_EACH, enlarge=2))
    return grid(_draws(model, data, SAMPLES), SAMPLES // 4)


def _draws(model: GenerativeModel, data: Dataset | None, n: int) -> Tensor:
    """Draws, under the labels of the data where the model is given them."""
    batch = _batch(model, data, n)
    view = model.given(batch) if batch else model
    return view.sample(n, generator=torch.Generator().manual_seed(0))


def _reconstructions(model: Any, data: Dataset | None, *, everything: bool) -> Tensor | None:
    if data is None or not hasattr(model, "reconstruct") or not (everything or data.name in OWN):
        return None
    batch = _batch(model, data, RECONSTRUCTED)
    x = batch["image"]
    return grid(torch.cat([x, model.given(batch).reconstruct(x)]), len(x))


def _interpolation(model: Any, data: Dataset | None) -> Tensor | None:
    if not (hasattr(model, "encode") and hasattr(model, "decode")) or hasattr(model, "generate"):
        return None
    x_0, x_1 = _draws(model, data, 2 * PATHS).chunk(2)
    return grid(interpolate(model, x_0, x_1, STEPS).transpose(0, 1).flatten(0, 1), STEPS)
