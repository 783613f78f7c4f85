"""How often a classifier is right."""

from typing import Any

import torch

from zoo_core import Batch, Measurement
from zoo_metrics.averages import AverageMetric
from zoo_metrics.classification.cross_entropy import correct, labels, surprise


class Accuracy(AverageMetric):
    """The share of examples whose most probable class is their label, and -log p(y|x) in nats.

    Reports ``accuracy`` and ``cross_entropy``.

    Raises:
        ConfigError: the model is no classifier.
        DataError: the data have no labels, or have some that are none of the classes.
    """

    @torch.no_grad()
    def update(self, model: Any, batch: Batch) -> None:
        y = labels("metric 'accuracy'", model, batch)
        logits = model.logits(batch["image"])
        self.add(accuracy=correct(logits, y), cross_entropy=surprise(logits, y))

    def compute(self) -> dict[str, Measurement]:
        values = super().compute()
        if "cross_entropy" in values:
            values["cross_entropy"] = values["cross_entropy"]._replace(unit="nats", better="lower")
        return values
