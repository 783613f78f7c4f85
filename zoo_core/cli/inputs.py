"""What commands take in: a model, image files, the images and the columns of a data set."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo_core.errors import ConfigError, DataError

if TYPE_CHECKING:
    from torch import Tensor

    from zoo_core.components import Batch
    from zoo_core.data import Dataset

CHUNK = 500  # images read at a time


def load_model(model: str, revision: str | None, device: str) -> Any:
    """Raises DataError if it is no model of images."""
    from zoo_core.pretrained import from_pretrained

    loaded = from_pretrained(model, revision=revision, device=device)
    if len(loaded.data_shape) != 3:
        raise DataError(f"the model takes data of shape {tuple(loaded.data_shape)}, which are no images")
    return loaded


@dataclass(frozen=True)
class Fitting:
    """Batches of stored images, uint8, as a model takes them, on its device; other columns stay as they are.

    Attributes:
        margin: black pixels around each image, inside the model's size.

    Raises:
        ConfigError: the margin leaves nothing of an image.
    """

    model: Any
    device: str
    margin: int = 0

    def __post_init__(self) -> None:
        _, height, width = self.model.data_shape
        if 2 * self.margin >= min(height, width):
            raise ConfigError(f"--margin: {self.margin} leaves nothing of images of {height}x{width}")

    def shown(self, batch: "Batch") -> "Batch":
        """Never binarised: pictures are for people."""
        return self._fitted(batch)

    def trained(self, batch: "Batch") -> "Batch":
        """As the model has seen it in training: binarised or with noise, from torch's global generator."""
        own = self.model.preprocessing
        return self._fitted(batch, binarize=own.binarize, dequantize=own.dequantize)

    def _fitted(self, batch: "Batch", **settings: Any) -> "Batch":
        import torch

        from zoo_core.data import Preprocessing

        channels, *size = self.model.data_shape
        fit = Preprocessing(image_size=tuple(s - 2 * self.margin for s in size), channels=channels, **settings)
        x = torch.cat([torch.as_tensor(fit({"image": images})["image"]) for images in _of_one_size(batch["image"])])
        padded = torch.nn.functional.pad(x, [self.margin] * 4)
        tensors = {name: c.to(self.device) for name, c in batch.items() if isinstance(c, torch.Tensor)}
        return {**batch, **tensors, "image": padded.to(self.device)}


def _of_one_size(images: "Tensor | Sequence[Tensor]") -> "list[Tensor]":
    import torch

    return [images] if isinstance(images, torch.Tensor) else [image[None] for image in images]


@dataclass(frozen=True)
class Chunks:
    """Many examples, some at a time, as often as they are gone through.

    Attributes:
        read: some of the places → a batch of stored images.
        fit: that → what the model takes.
    """

    places: "Sequence[Any] | Tensor"
    read: "Callable[[Any], Batch]"
    fit: "Callable[[Batch], Batch]"

    def __iter__(self) -> "Iterator[Batch]":
        for i in range(0, len(self.places), CHUNK):
            yield self.fit(self.read(self.places[i : i + CHUNK]))


def own_dataset(
    model: Any, data: str | None, split: str | None, *, field: str = "held_out", default: str = "test"
) -> "Dataset":
    """The data set of that name; without one that of the model's recipe, whose ``field`` says the split.

    Raises:
        ConfigError: the model does not say on what it was trained.
    """
    from zoo_core.data import load

    recipe: Mapping[str, Any] = {} if data else model.provenance.get("recipe", {}).get("data", {})
    if not (data or "name" in recipe):
        raise ConfigError("--data: is required, since the model does not say on what it was trained")
    return load(data or recipe["name"], split or recipe.get(field, default), **recipe.get("options", {}))


def some(dataset: "Dataset", number: int, seed: int) -> "Tensor":
    """So many different places in a data set, or all if there are fewer."""
    import torch

    return torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))[:number]


def from_files(files: Sequence[Path]) -> "Batch":
    """Raises DataError if one is missing or holds no image."""
    from zoo_core.images import read_images

    return {"image": read_images(files)}


def chosen(files: list[Path] | None, data: str, split: str, number: int, seed: int) -> "Batch":
    """Stored images: those of the files, else some of a data set."""
    from zoo_core.data import load

    if files:
        return from_files(files)
    dataset = load(data, split)
    return dataset.batch(some(dataset, number, seed))


def column(dataset: "Dataset", places: "Tensor", name: str) -> list[Any]:
    """A column's values at these places: integers or strings.

    Raises:
        DataError: there is no such column, or it holds something else.
    """
    import torch

    if name not in dataset.columns:
        raise DataError(f"{dataset.name!r} has no column {name!r}; it has: {', '.join(dataset.columns)}")
    values: list[Any] = []
    for part in torch.split(places, CHUNK):
        values.extend(_values(dataset.batch(part)[name], name))
    return values


def _values(part: "Tensor | list[str]", name: str) -> list[Any]:
    if isinstance(part, list):
        return part
    if part.dim() != 1 or part.is_floating_point():
        raise DataError(f"{name!r} is no column of integers or strings")
    values: list[Any] = part.tolist()
    return values
