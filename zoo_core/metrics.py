"""What a metric is: gathered batch by batch, on any number of processes, and computed once."""

import abc
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from zoo_core.components import Batch, Component, device_of
from zoo_core.errors import ConfigError, DataError
from zoo_core.host import Registration, default_host


class Measurement(NamedTuple):
    """A measured value, its standard error (nan where there is none), and over how many examples.

    Attributes:
        unit, better: as in the metric's spec; left to ``evaluate`` by a metric that does not report in several.
        about: what the value depends on besides model and data, such as the extractor of its features and the SHA-256
            of its weights: values for which these differ must not be compared.
    """

    value: float
    error: float
    n: int
    unit: str = ""
    better: str = ""
    about: Mapping[str, Any] = {}


class Metric(Component):
    """A measurement of a model.

    What ``update`` gathers lies in ``state`` and ``rows``, which ``evaluate`` brings together from all processes;
    then ``compute`` is called, in one of them.

    Attributes:
        draws: whether ``update`` needs draws of the model: ``batch["sample"]``, one for each example, and
            ``batch["original"]``, the examples as stored, in the model's size and colours: both float32, in [0, 1].
        state: named tensors that add up, over batches and over processes.
        rows: named chunks of rows, one for each batch, in the order of the examples.
    """

    kind: ClassVar[str] = "metric"
    draws: ClassVar[bool] = False
    state: dict[str, Tensor]
    rows: dict[str, list[Tensor]]

    def __init__(self) -> None:
        super().__init__()
        Metric.reset(self)

    def reset(self) -> None:
        """Forgets everything; called before the first update."""
        self.state, self.rows = {}, {}

    def keep(self, **rows: Tensor) -> None:
        """Keeps one row for each example, (B, …), under each name; called once in an update."""
        for name, chunk in rows.items():
            self.rows.setdefault(name, []).append(chunk.detach().cpu())

    def kept(self, name: str) -> Tensor:
        """All rows under that name, (N, …), in the order of the examples."""
        return torch.cat(self.rows[name])

    @abc.abstractmethod
    def update(self, model: Any, batch: Batch) -> None:
        """Takes one batch into account.

        Raises:
            ConfigError: it cannot be measured on this model, or on such data.
        """

    @abc.abstractmethod
    def compute(self) -> dict[str, Measurement]:
        """The values so far, by name."""


class Extractor(Component):
    """Features of images, by which samples are compared with data.

    Attributes:
        is_fid: whether these are the features that a Fréchet distance called FID is about.
    """

    kind: ClassVar[str] = "extractor"
    is_fid: bool = False

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[str, tuple[Tensor, Tensor]] = {}

    @abc.abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W), float32 in [0, 1] with 256 levels → features (B, d)."""

    def logits(self, images: Tensor) -> Tensor:
        """Images as for ``forward`` → log-odds of classes, (B, classes), of an extractor that is a classifier.

        Raises:
            ConfigError: it is none.
        """
        raise ConfigError(f"extractor {self.label!r} is no classifier; use one that is, such as mnist_classifier")

    @property
    def weights(self) -> str:
        """The SHA-256 of its weights; empty if it has none."""
        return ""

    @property
    def label(self) -> str:
        """How values say which features they are of."""
        known = self._registration()
        return known.spec.name if known else type(self).__name__

    @property
    def identity(self) -> dict[str, Any]:
        """What decides its features: its full name, its arguments, and its weights' hash."""
        known = self._registration()
        name = known.full_name if known else type(self).__qualname__
        return {"extractor": name, **self.arguments, "weights": self.weights}

    def features(self, images: Tensor) -> Tensor:
        """Features (B, d) on the CPU, of images (B, C, H, W) as bytes or as floats in [0, 1] alike.

        Floats are rounded to 256 levels, as a picture is when it is stored. The features of the last images are
        remembered: metrics that share an extractor share its work.

        Raises:
            DataError: these are no images, or have values that are no numbers.
        """
        return self._remembered("features", images)

    def class_logits(self, images: Tensor) -> Tensor:
        """``logits`` (B, classes) on the CPU, of images as ``features`` takes them."""
        return self._remembered("logits", images)

    @torch.no_grad()
    def _remembered(self, what: str, images: Tensor) -> Tensor:
        # By identity of the tensor, which cannot be another's as long as it is kept here.
        if what not in self._last or self._last[what][0] is not images:
            self.eval()
            taken = as_stored(images).to(device_of(self))
            made = self.logits(taken) if what == "logits" else self(taken)
            self._last[what] = images, made.detach().cpu()
        return self._last[what][1]

    def _registration(self) -> Registration | None:
        return default_host().name_of(type(self))


def as_stored(images: Tensor) -> Tensor:
    """Bytes, or floats in [0, 1], as float32 with 256 levels from 0 to 1.

    Raises:
        DataError: these are no images (B, C, H, W), or some value is no number.
    """
    if images.dim() != 4 or not (images.dtype == torch.uint8 or images.is_floating_point()):
        raise DataError(f"features need images (B, C, H, W), not {images.dtype} of shape {tuple(images.shape)}")
    if images.dtype == torch.uint8:
        return images.float() / 255
    if not images.isfinite().all():
        raise DataError("features need images of finite values; the model drew some that are not")
    return images.float().clamp(0, 1).mul(255).round() / 255


class SampleMetric(Metric):
    """Compares draws of a model with data, by features of both.

    Attributes:
        real: features of the data, (N, d): set by ``evaluate`` before ``compute``.

    Args:
        extractor: makes the features; by default ``evaluate`` takes the one that is registered for such images.
    """

    draws: ClassVar[bool] = True
    real: Tensor

    def __init__(self, extractor: Extractor | None = None) -> None:
        super().__init__()
        self.extractor = extractor

    @property
    def features_of(self) -> Extractor:
        """The extractor that is used.

        Raises:
            ConfigError: there is none yet.
        """
        if self.extractor is None:
            raise ConfigError(f"{type(self).__name__}.extractor: name one, such as pixels")
        return self.extractor

    def named(self, name: str) -> str:
        """A value's name, which says of what features it is."""
        return f"{name} ({self.features_of.label})"

    def update(self, model: Any, batch: Batch) -> None:
        require_alike(model, batch)
        self.keep(generated=self.features_of.features(batch["sample"]))


def require_alike(model: Any, batch: Batch) -> None:
    """Refuses to compare draws with data that are none of the same kind, such as codes with images.

    Raises:
        ConfigError: naming both shapes.
    """
    drawn, data = batch["sample"], batch["original"]
    if drawn.shape != data.shape or drawn.dim() != 4 or not drawn.is_floating_point():
        raise ConfigError(
            f"samples are compared with images: {type(model).__name__} draws {drawn.dtype} of shape"
            f" {tuple(drawn.shape[1:])}, and the data are of shape {tuple(data.shape[1:])}"
        )
