"""Features of this plugin's own classifiers."""

from typing import Any, ClassVar

from torch import Tensor

from zoo_core import ConfigError, PositiveFloat, from_pretrained
from zoo_metrics.classification.classifier import Classifier
from zoo_metrics.extractors.trained import Trained


class ClassifierFeatures(Trained):
    """s h, h being what a trained ``metrics/classifier`` has before its last affine map, (B, d); and logits W h + b.

    Args:
        checkpoint: the classifier's name, folder or Hub id, as ``from_pretrained`` takes it.
        scale: s. A kernel distance, (x·y / d + 1)^3, means the first three moments alike if |s h|^2 / d is about 1,
            and a classifier leaves that open: any s with W / s has the same logits.

    Raises:
        UnknownComponent, CheckpointError: on first use, if there is no such checkpoint or it is no classifier.
        ConfigError: images are of another shape than those it was trained on.
    """

    data_shape: ClassVar[tuple[int, ...] | None] = None  # known beforehand of a classifier that comes with this plugin

    def __init__(self, checkpoint: str, scale: PositiveFloat = 1.0) -> None:
        super().__init__()
        self.checkpoint, self.scale = checkpoint, scale

    @property
    def identity(self) -> dict[str, Any]:
        """As of any extractor, with the scale of those that come along as well."""
        return {**super().identity, "scale": self.scale}

    def load(self) -> Classifier:
        model: Classifier = from_pretrained(self.checkpoint, expected=Classifier)
        return model

    def forward(self, images: Tensor) -> Tensor:
        self._require_shape(images)
        features: Tensor = self.scale * self.network.features(images)
        return features

    def logits(self, images: Tensor) -> Tensor:
        self._require_shape(images)
        logits: Tensor = self.network.logits(images)
        return logits

    def _require_shape(self, images: Tensor) -> None:
        expected = self.data_shape or self.network.data_shape
        if tuple(images.shape[1:]) != tuple(expected):
            raise ConfigError(
                f"extractor {self.label!r} was trained on images {tuple(expected)}, these are"
                f" {tuple(images.shape[1:])}; use another, such as pixels"
            )


class MNISTClassifier(ClassifierFeatures):
    """Of grey digits, (B, 1, 28, 28): the checkpoint ``classifier-mnist``."""

    data_shape = (1, 28, 28)

    def __init__(self) -> None:
        super().__init__("metrics/classifier-mnist", scale=0.25)


class CIFAR10Classifier(ClassifierFeatures):
    """Of small colour photographs, (B, 3, 32, 32): the checkpoint ``classifier-cifar10``."""

    data_shape = (3, 32, 32)

    def __init__(self) -> None:
        super().__init__("metrics/classifier-cifar10", scale=0.25)
