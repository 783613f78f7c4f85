"""The loss of a classifier, and how its images are varied."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo_core import Batch, ConfigError, DataError, Loss, LossOutput, NonNegativeInt, Probability


class CrossEntropy(Loss):
    """-Σ_c t_c log p(c|x) in nats per example, with t_c = (1 - s) [c = y] + s / C for a label y among C classes.

    Terms: ``cross_entropy``, -log p(y|x), which is the loss without smoothing; and ``accuracy``, the share of examples
    whose most probable class is y. In training, and only there, labels are smoothed and images varied, from torch's
    global generator.

    Args:
        smoothing: s. Rethinking the inception architecture (Szegedy et al., 2016) https://arxiv.org/abs/1512.00567
        flip: how often an image is mirrored, left to right.
        shift: by so many pixels at most, along each axis; the border is repeated.

    Raises:
        ConfigError: the model is no classifier.
        DataError: the data have no labels, or have some that are none of the classes.
    """

    def __init__(self, smoothing: Probability = 0.0, flip: Probability = 0.0, shift: NonNegativeInt = 0) -> None:
        super().__init__()
        self.smoothing, self.flip, self.shift = smoothing, flip, shift

    def forward(self, model: Any, batch: Batch) -> LossOutput:
        learning = torch.is_grad_enabled()
        y = labels("loss 'cross_entropy'", model, batch)
        logits = model.logits(self.varied(batch["image"]) if learning else batch["image"])
        loss = F.cross_entropy(logits, y, reduction="none", label_smoothing=self.smoothing if learning else 0.0)
        terms = {"cross_entropy": surprise(logits, y), "accuracy": correct(logits, y)}
        return LossOutput(loss.mean(), {name: term.detach().mean() for name, term in terms.items()})

    def varied(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W), each varied on its own."""
        x = flipped(x, self.flip) if self.flip else x
        return shifted(x, self.shift) if self.shift else x


def labels(asking: str, model: Any, batch: Batch) -> Tensor:
    """The labels of a batch on the device of its images, int64 (B,). Raises as ``CrossEntropy`` says."""
    if not hasattr(model, "logits") or not hasattr(model, "classes"):
        raise ConfigError(f"{asking} needs a classifier, such as 'metrics/classifier'; got a {type(model).__name__}")
    if "label" not in batch:
        raise DataError(f"{asking} needs data with labels; these have {', '.join(sorted(batch))} alone")
    y: Tensor = batch["label"].to(batch["image"].device).long()
    strange = y[(y < 0) | (y >= model.classes)]
    if len(strange):
        raise DataError(
            f"label: must be from 0 to {model.classes - 1} for {model.classes} classes, got {int(strange[0])}"
        )
    return y


def surprise(logits: Tensor, y: Tensor) -> Tensor:
    """-log p(y|x) in nats, (B,), for logits (B, C)."""
    return F.cross_entropy(logits, y, reduction="none")


def correct(logits: Tensor, y: Tensor) -> Tensor:
    """1 where the most probable class is y, else 0, (B,)."""
    return (logits.argmax(1) == y).to(logits.dtype)


def flipped(x: Tensor, often: float) -> Tensor:
    """Mirrored left to right, with this probability."""
    chosen = torch.rand(len(x), 1, 1, 1, device=x.device) < often
    return torch.where(chosen, x.flip(3), x)


def shifted(x: Tensor, most: int) -> Tensor:
    """By up to ``most`` pixels along each axis; the border is repeated."""
    batch, _, height, width = x.shape
    padded = F.pad(x, [most] * 4, mode="replicate")
    down, across = torch.randint(2 * most + 1, (2, batch, 1), device=x.device)
    rows = torch.arange(height, device=x.device) + down
    columns = torch.arange(width, device=x.device) + across
    each = torch.arange(batch, device=x.device)[:, None, None]
    return padded[each, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
