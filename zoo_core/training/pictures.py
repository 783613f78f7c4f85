"""What a model draws on the way, as pictures."""

from pathlib import Path
from typing import Any

import torch

from zoo_core.components import GenerativeModel
from zoo_core.data import Dataset
from zoo_core.evaluation.measuring import evaluating
from zoo_core.evaluation.sharing import to_device
from zoo_core.host import PluginHost, default_host
from zoo_core.images import grid, save_image
from zoo_core.randomness import seed_everything, undisturbed

SAMPLES = 64


def draws_pictures(model: GenerativeModel, host: PluginHost | None) -> bool:
    """Whether its samples are images, grey or coloured."""
    registration = (host or default_host()).name_of(type(model))
    draws = registration is None or getattr(registration.spec, "sampling", "") != "none"
    return draws and len(model.data_shape) == 3 and model.data_shape[0] in (1, 3)


@torch.no_grad()
def draw(model: Any, held_out: Dataset, path: Path, *, device: torch.device) -> None:
    """Writes a grid of samples, of equal noise at every step; under the labels or captions of the held-out data."""
    places = torch.arange(min(SAMPLES, len(held_out)))
    with undisturbed(), evaluating(model):
        seed_everything(0)
        inputs = model.preprocessing(to_device(held_out.batch(places), device))
        view = model.given(inputs)
        images = view.sample(len(places), generator=torch.Generator().manual_seed(0))
    save_image(grid(images.cpu()), path)
