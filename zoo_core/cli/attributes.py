"""Images with and without an attribute: told apart by a column of a data set, or by the folder they are in."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from zoo_core.cli.inputs import Chunks, Fitting, column, from_files, some
from zoo_core.errors import ConfigError, DataError

if TYPE_CHECKING:
    from torch import Tensor

    from zoo_core.components import Batch
    from zoo_core.data import Dataset


class Sides(NamedTuple):
    """Images with the attribute and without it, to encode; and some without it, as they are stored, to show."""

    plus: Chunks
    minus: Chunks
    shown: "Callable[[], Batch]"


@dataclass(frozen=True)
class Condition:
    """``label=3``: a column and the value it must have."""

    option: str
    column: str
    value: str

    def __str__(self) -> str:
        return f"{self.column}={self.value}"

    def places(self, dataset: "Dataset", places: "Tensor") -> "Tensor":
        """Those of the places that meet it. Raises DataError if there is no such column, or none meets it."""
        return self._chosen(dataset, places, True, f"has {self}")

    def others(self, dataset: "Dataset", places: "Tensor") -> "Tensor":
        """The other places. Raises DataError if there is no such column, or none is left."""
        return self._chosen(dataset, places, False, f"has another {self.column} than {self.value}")

    def _chosen(self, dataset: "Dataset", places: "Tensor", met: bool, told: str) -> "Tensor":
        import torch

        values = column(dataset, places, self.column)
        chosen = torch.tensor([(str(value) == self.value) is met for value in values])
        if not chosen.any():
            of = f"{len(values)} images of {dataset.name!r}, {dataset.split}"
            raise DataError(f"{self.option}: none of {of}, {told}; there are: {_some_of(values)}")
        return places[chosen]


@dataclass(frozen=True)
class ByColumn:
    """Both sides by a column of a data set; ``minus`` None takes all others."""

    plus: Condition
    minus: Condition | None

    def with_it(self, dataset: "Dataset", places: "Tensor") -> "Tensor":
        return self.plus.places(dataset, places)

    def without_it(self, dataset: "Dataset", places: "Tensor") -> "Tensor":
        return self.minus.places(dataset, places) if self.minus else self.plus.others(dataset, places)


def sides_by_column(
    by: ByColumn, dataset: "Dataset", held_out: "Dataset", fit: Fitting, *, examples: int, number: int, seed: int
) -> Sides:
    """From ``examples`` of a data set; what is shown, ``number`` without the attribute, from held-out data."""

    def chunks(places: "Tensor") -> Chunks:
        return Chunks(places, dataset.batch, fit.trained)

    def shown() -> "Batch":
        return held_out.batch(by.without_it(held_out, some(held_out, examples, seed))[:number])

    places = some(dataset, examples, seed)
    return Sides(chunks(by.with_it(dataset, places)), chunks(by.without_it(dataset, places)), shown)


def sides_by_folder(plus: Path, minus: Path, fit: Fitting, *, number: int) -> Sides:
    """The images of two folders; what is shown are the first without the attribute."""
    with_it, without = map(_image_files, (plus, minus))
    shown = partial(from_files, without[:number])
    return Sides(Chunks(with_it, from_files, fit.trained), Chunks(without, from_files, fit.trained), shown)


def parse_sides(plus: str, minus: str | None) -> "ByColumn | tuple[Path, Path]":
    """What ``--plus`` and ``--minus`` say: COLUMN=VALUE or folders, both of a kind.

    Raises:
        ConfigError: they say something else.
    """
    first, second = _side("--plus", plus), _side("--minus", minus) if minus else None
    if isinstance(first, Condition) and not isinstance(second, Path):
        return ByColumn(first, second)
    if isinstance(first, Path) and isinstance(second, Path):
        return first, second
    raise ConfigError("--minus: must be a folder if --plus is one, and COLUMN=VALUE or left out otherwise")


def _side(option: str, text: str) -> Condition | Path:
    if Path(text).is_dir():
        return Path(text)
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise ConfigError(f"{option}: must be COLUMN=VALUE, such as label=3, or a folder of images; got {text!r}")
    return Condition(option, name, value)


def _image_files(folder: Path) -> list[Path]:
    from PIL import Image

    known = Image.registered_extensions()
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in known)
    if not found:
        raise DataError(f"there are no image files in {folder}")
    return found


def _some_of(values: list[Any], most: int = 10) -> str:
    kinds = sorted(set(values))
    return ", ".join(map(str, kinds[:most])) + (", …" if len(kinds) > most else "")
