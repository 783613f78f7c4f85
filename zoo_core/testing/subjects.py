"""A component as the kit tries it: what it is called, and how a small one of it is made."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from zoo_core.components import StatisticalModel
from zoo_core.config import build
from zoo_core.host import PluginHost, Registration

DATA, VECTOR, GRID = (1, 8, 8), (3,), (3, 2, 2)  # shapes of the data and latents that parts are tried on
LATENTS = {
    "vector[real]": VECTOR, "grid[real]": GRID, "sequence[real]": (3, 4),
    "vector[codes]": VECTOR, "grid[codes]": (2, 2), "sequence[codes]": VECTOR,
}  # fmt: skip
CODES = 5


@dataclass(frozen=True, eq=False)
class Subject:
    """A component under test.

    Attributes:
        config: of a small one.
        shapes: that the parts before it would tell it.
        model: config of the model on which a loss or a metric is tried.
        loss: config of the loss with which a model is tried; empty: its own log p(x).
        values: what a metric must say, by name, or a function of a model and a batch that tells it.
        data: the data set on which a metric is tried, as a recipe names it; empty: examples that the kit draws.
    """

    registration: Registration
    host: PluginHost
    config: Mapping[str, Any]
    shapes: Mapping[str, Any]
    model: Mapping[str, Any]
    loss: Mapping[str, Any]
    data: Mapping[str, Any] = field(default_factory=dict)
    values: Any = field(default_factory=dict)

    @property
    def spec(self) -> Any:
        return self.registration.spec

    def make(
        self, seed: int = 0, *, device: str = "cpu", config: Mapping[str, Any] | None = None, **shapes: Any
    ) -> Any:
        """A new one, of the config's kind, in training mode; a model that is fitted by sums has had one iteration.

        Args:
            shapes: that it is told instead of those of the subject.
        """
        given = {**self.shapes, **shapes}
        with drawing(seed), torch.device(device):
            made = build(self.config if config is None else config, self.spec.kind, host=self.host, **given)
            if device == "cpu":
                fit(made)
        return made.train()

    def make_model(self, seed: int = 0) -> Any:
        """The model on which a loss or a metric is tried."""
        with drawing(seed):
            made = build(self.model, "model", host=self.host, data_shape=self.data_shape)
            fit(made)
        return made

    def make_loss(self) -> Any:
        """The loss with which a model is tried."""
        with drawing(0):
            return build(self.loss, "loss", host=self.host, **self.shapes)

    @property
    def data_shape(self) -> tuple[int, ...]:
        return tuple(self.shapes["data_shape"])


@contextmanager
def drawing(seed: int) -> Iterator[None]:
    """Torch's global generator seeded; afterwards as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def batch_of(shape: tuple[int, ...], n: int, *, codes: int = 0) -> dict[str, Any]:
    """n examples with all that models, losses and metrics may ask for.

    Images are binary, which every likelihood of images takes; with ``codes``, as many different integers.
    """
    generator = torch.Generator().manual_seed(n)
    image = torch.rand(n, *shape, generator=generator).round()
    if codes:
        image = torch.randint(codes, (n, *shape), generator=generator)
    places = torch.arange(n)
    return {
        "image": image,
        "label": places % 3,
        "caption": [("a dot", "two dots", "a line")[i % 3] for i in range(n)],
        "size": places // 2,
        "place": (places // 2).roll(1),
    }


def data_of(model: Any, n: int) -> dict[str, Any]:
    """A batch for a model: of images, or of codes for one that is a density of codes."""
    return batch_of(tuple(model.data_shape), n, codes=getattr(model, "codebook_size", 0))


def as_json(config: Any) -> Any:
    """The config as it comes back from a file."""
    return json.loads(json.dumps(config))


def fit(component: Any, n: int = 20) -> None:
    """One iteration of what is fitted by sums, on n examples."""
    for part in component.modules():
        if isinstance(part, StatisticalModel):
            x: Tensor = data_of(part, n)["image"]
            if x.is_floating_point() and not getattr(getattr(part, "support", None), "is_discrete", False):
                x = (x + torch.rand(x.shape)) / 2  # so that all of them differ, however few numbers they have
            part.begin(x)
            part.update(part.statistics(x))
