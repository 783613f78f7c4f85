"""Whether a scorer finds the caption of an image."""

import math
from typing import Any

import torch
from torch import Tensor

from zoo_core import Batch, ConfigError, Measurement, Metric
from zoo_dalle.scorer import Paired, right


class Retrieval(Metric):
    """The share of images whose own caption is among the k most similar of its batch, for k = 1 and 5.

    Captions that are equal to its own do not count against it; others that are just as similar do. Chance is k/B for
    the B examples of an evaluation batch: the value depends on ``evaluation.batch``, 100 unless a recipe says
    otherwise, and the last batch may be smaller.

    Reports ``retrieval_accuracy`` and ``retrieval_accuracy_top5``; the errors are those of a share of N.

    Learning transferable visual models from natural language supervision (Radford et al., 2021)
    https://arxiv.org/abs/2103.00020
    """

    @torch.no_grad()
    def update(self, model: Any, batch: Batch) -> None:
        if not isinstance(model, Paired):
            raise ConfigError(f"metric 'retrieval' needs a scorer and captions; got a {type(model).__name__}")
        before = ranks(model.similarities(batch["image"]), right(model.captions))
        for k, name in TOP.items():
            hits = torch.tensor([len(before), int((before < k).sum())], dtype=torch.float64)
            self.state[name] = self.state.get(name, torch.zeros(2, dtype=torch.float64)) + hits

    def compute(self) -> dict[str, Measurement]:
        return {name: _share(*sums.tolist()) for name, sums in self.state.items()}


TOP = {1: "retrieval_accuracy", 5: "retrieval_accuracy_top5"}


def ranks(similarities: Tensor, right: Tensor) -> Tensor:
    """How many wrong captions are at least as similar to each image as its own, (B,), for two of (B, B)."""
    own = similarities.diagonal()[:, None]
    # Written so that what is no number counts against it.
    return (~(similarities < own) & ~right.to(similarities.device)).sum(1)


def _share(n: float, hits: float) -> Measurement:
    p = hits / n
    return Measurement(p, math.sqrt(p * (1 - p) / (n - 1)) if n > 1 else math.nan, int(n))
