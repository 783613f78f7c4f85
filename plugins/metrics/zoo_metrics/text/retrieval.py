"""Whether the picture drawn for a caption leads back to that caption."""

import functools
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from zoo_core import Batch, ConfigError, Measurement, Metric, from_pretrained
from zoo_metrics.text.captions import require_drawn

TOP = {1: "caption_retrieval_accuracy", 5: "caption_retrieval_accuracy_top5"}


class CaptionRetrieval(Metric):
    """The share of captions y_i whose draw x_i ~ p(x|y_i) has y_i among its k most similar captions, for k = 1 and 5:

        1/N Σ_i 1[ #{j : y_j ≠ y_i, s(x_i, y_j) >= s(x_i, y_i)} < k ]

    with the captions of its batch as the y_j, and s the similarity of a picture and a caption as a scorer that was
    trained on pairs of them sees it. Captions that are equal to its own do not count against it; others that are
    just as similar do. Of a model that pays no heed to its captions the value is k/B on average for the B examples of
    an evaluation batch: it depends on ``evaluation.batch``, 100 unless a recipe says otherwise.

    Reports ``caption_retrieval_accuracy`` and ``caption_retrieval_accuracy_top5``, with the errors of a share of N.
    What a scorer reaches on the data's own pictures, its ``retrieval_accuracy``, is what there is to reach.

    Learning transferable visual models from natural language supervision (Radford et al., 2021)
    https://arxiv.org/abs/2103.00020

    Args:
        scorer: name or folder of a checkpoint, as ``from_pretrained`` takes it, of a model that has
            ``similarities(x, captions)`` → (images, captions), such as ``scorer-shapes``.

    Raises:
        ConfigError: the model that is measured draws no pictures for captions, or the scorer has no similarities.
    """

    draws: ClassVar[bool] = True

    def __init__(self, scorer: str) -> None:
        super().__init__()
        self.scorer = scorer

    @torch.no_grad()
    def update(self, model: Any, batch: Batch) -> None:
        x, captions = require_drawn("caption_retrieval", model, batch)
        similarities = loaded(self.scorer).to(x.device).similarities(x, captions)
        before = wrong_before(similarities.cpu(), equal(captions))
        for k, name in TOP.items():
            hits = torch.tensor([len(before), int((before < k).sum())], dtype=torch.float64)
            self.state[name] = self.state.get(name, torch.zeros(2, dtype=torch.float64)) + hits

    def compute(self) -> dict[str, Measurement]:
        shares = {name: share(*sums.tolist()) for name, sums in self.state.items()}
        return {name: value._replace(about={"scorer": self.scorer}) for name, value in shares.items()}


def wrong_before(similarities: Tensor, right: Tensor) -> Tensor:
    """How many wrong captions are at least as similar to each picture as its own, (B,), for two of (B, B)."""
    own = similarities.diagonal().unsqueeze(1)
    # Written so that what is no number counts against it.
    return (~(similarities < own) & ~right).sum(1)


def equal(captions: Sequence[str]) -> Tensor:
    """Which captions are which, bool (B, B)."""
    place = {caption: i for i, caption in enumerate(dict.fromkeys(captions))}
    number = torch.tensor([place[caption] for caption in captions], dtype=torch.int64)
    return number.unsqueeze(1) == number


def share(n: float, hits: float) -> Measurement:
    p = hits / n
    return Measurement(p, math.sqrt(p * (1 - p) / (n - 1)) if n > 1 else math.nan, int(n))


@functools.cache
def loaded(scorer: str) -> Any:
    """The checkpoint of that name, in evaluation mode; once for all metrics.

    Raises:
        ConfigError: it cannot tell how similar pictures and captions are.
    """
    model = from_pretrained(scorer).eval()
    if not hasattr(model, "similarities"):
        raise ConfigError(
            f"scorer: {scorer!r} is a {type(model).__name__}, which has no similarities of pictures and captions"
        )
    return model
