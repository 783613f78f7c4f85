"""Whether what is drawn for a caption is the picture of that caption and of no other."""

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from zoo_core import Batch, ConfigError, GenerativeModel, Measurement, Metric, PositiveInt, default_host


class NearestImage(Metric):
    """The share of captions c_i whose draw x ~ p(x|c_i) has x_i, the image of c_i, among its k nearest: for k = 1 and 5

        1/N Σ_i 1[ #{j : || x - x_j || < || x - x_i ||} < k ],

    with the Euclidean distance over pixels as the model sees them, and all N images of the evaluation as the x_j.

    One image is drawn for each caption. An image that is as near as x_i, such as one equal to it, does not count
    against it. Of a model that pays no heed to its captions the value is k/N on average: it depends on N, and values
    are to be compared on the same data only.

    Reports ``nearest_image_accuracy`` and ``nearest_image_accuracy_top5``; the errors are those of a share of N.

    Args:
        chunk: how many draws are compared with all images at a time.
    """

    draws: ClassVar[bool] = True

    def __init__(self, chunk: PositiveInt = 100) -> None:
        super().__init__()
        self.chunk = chunk

    @torch.no_grad()
    def update(self, model: Any, batch: Batch) -> None:
        require_captions(model, batch)
        x, drawn = batch["image"], batch["sample"]
        require_alike(model, drawn, x)
        self.keep(drawn=drawn.to(x), image=x)

    def compute(self) -> dict[str, Measurement]:
        if not self.rows:
            return {}
        drawn, images = self.kept("drawn").flatten(1), self.kept("image").flatten(1)
        nearer = images_nearer(drawn, images, self.chunk)
        ranks = {"nearest_image_accuracy": 1, "nearest_image_accuracy_top5": 5}
        return {name: _share(nearer < k) for name, k in ranks.items()}


def images_nearer(drawn: Tensor, images: Tensor, chunk: int) -> Tensor:
    """#{j : || x'_i - x_j || < || x'_i - x_i ||} for draws x' and images x, both (N, D): int64 (N,)."""
    images = images.double()
    # What is not finite is near to nothing, not even to its own image.
    drawn = torch.where(drawn.isfinite(), drawn.double(), math.nan)
    half = images.square().sum(1) / 2
    rows = torch.split(torch.arange(len(images)), chunk)
    return torch.cat([_nearer(drawn[own], images, half, own) for own in rows])


def _nearer(drawn: Tensor, images: Tensor, half: Tensor, own: Tensor) -> Tensor:
    near = drawn @ images.T - half  # (|| x' ||^2 - || x' - x_j ||^2) / 2
    # Equally near images differ by what the rounding of sums of products leaves.
    margin = 1e-11 * torch.maximum(half.max(), drawn.square().sum(1, keepdim=True))
    return (~(near <= near.gather(1, own.unsqueeze(1)) + margin)).sum(1)


def _share(hits: Tensor) -> Measurement:
    n, p = len(hits), hits.double().mean().item()
    return Measurement(p, math.sqrt(p * (1 - p) / (n - 1)) if n > 1 else math.nan, n)


def require_captions(model: Any, batch: Batch) -> None:
    """Refuses data without captions and a model that is never told any.

    Raises:
        ConfigError: naming what is missing.
    """
    if "caption" not in batch:
        raise ConfigError("metric 'nearest_image' needs data with captions: a data set with a column 'caption'")
    # What ``given`` makes for a batch is no component that has a name; a model that is one and does not
    # have its own ``given`` was handed on as it is.
    name, ignores = default_host().name_of(type(model)), type(model).given is GenerativeModel.given
    if name and ignores:
        raise ConfigError(f"metric 'nearest_image' needs a model of images given captions; {name.full_name} has none")


def require_alike(model: Any, drawn: Tensor, x: Tensor) -> None:
    """Refuses to compare pictures with what are none, such as the codes of images.

    Raises:
        ConfigError: naming both shapes.
    """
    if drawn.shape != x.shape or not x.is_floating_point():
        told, shown = tuple(drawn.shape[1:]), f"{tuple(x.shape[1:])} of {x.dtype}".replace("torch.", "")
        raise ConfigError(
            f"metric 'nearest_image': {type(model).__name__} draws data of shape {told}, and the data set has {shown}; "
            "measure on the images themselves"
        )
