"""From stored bytes to what a model sees; saved with every checkpoint."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from zoo_core.arguments import checked, unknown_arguments
from zoo_core.data.dataset import Batch, is_ready
from zoo_core.data.sizes import checked_size
from zoo_core.errors import ConfigError, DataError

Binarize = Literal["none", "dynamic", "threshold"]
Dequantize = Literal["none", "uniform"]
Channels = Literal[1, 3]

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow turns colour into grey


@dataclass(frozen=True)
class Preprocessing:
    """v in {0, …, 255} -> x in [0, 1], on whatever device the batch is.

    x = v / 255; dequantised: x = (v + u) / 256, u ~ U[0, 1); binarised: x ~ Bernoulli(v / 255).
    Resized and recoloured images are rounded to whole v first, so that this holds for them too.
    Examples that are no stored images, float32 or int64 such as latents, stay as they are; no setting applies to them.

    Attributes:
        image_size: (H, W) or the side of a square; bilinear, antialiased, and not cut to the new
            shape: other proportions are distorted. None keeps it.
        channels: 1 for grey (BT.601 luma), 3 for colour (grey three times); None keeps them.
        binarize: ``dynamic`` draws anew at each call, from the global generator of the batch's
            device (Burda et al., 2015, https://arxiv.org/abs/1509.00519); ``threshold``: v >= 128.
        dequantize: ``uniform`` adds noise from the same generator (Theis et al., 2016,
            https://arxiv.org/abs/1511.01844); log p(x) is then a density: bits/dim needs + 8.

    Raises:
        ConfigError: a value is none of these, or both binarize and dequantize are asked for.
    """

    image_size: tuple[int, int] | None = None
    channels: int | None = None
    binarize: Binarize = "none"
    dequantize: Dequantize = "none"

    def __post_init__(self) -> None:
        # JSON gives lists: one form, so that equal settings compare equal.
        object.__setattr__(self, "image_size", checked_size(self.image_size))
        checked(self.channels, Channels | None, "channels")
        checked(self.binarize, Binarize, "binarize")
        checked(self.dequantize, Dequantize, "dequantize")
        if self.binarize != "none" and self.dequantize != "none":
            raise ConfigError("binarize: excludes dequantize; set one of them to 'none'")

    def __call__(self, batch: Batch) -> Batch:
        """The batch with ``image`` as float32 (B, C, H, W); its other columns are the same objects.

        Raises:
            DataError: there is no ``image`` of uint8 (B, C, H, W); or it is of numbers as models take them, but
                settings are not at their defaults.
        """
        if is_ready(batch.get("image")) and self == Preprocessing():
            return batch
        return {**batch, "image": self._values(self._levels(_stored(batch)))}

    def data_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """(C, H, W) after preprocessing of images that are stored as ``shape``; what is no image keeps its shape.

        Raises:
            DataError: settings are not at their defaults, and these are no images.
        """
        if self == Preprocessing():
            return tuple(shape)
        if len(shape) != 3:
            raise DataError(
                f"preprocessing: takes images (C, H, W), not examples of shape {tuple(shape)}; leave it out"
            )
        channels, *size = shape
        height, width = self.image_size or size
        return self.channels or channels, height, width

    def as_dict(self) -> dict[str, Any]:
        """All settings as JSON knows them."""
        return {**asdict(self), "image_size": list(self.image_size) if self.image_size else None}

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> "Preprocessing":
        """The inverse of :meth:`as_dict`; what is left out takes its default.

        Raises:
            ConfigError: a key is unknown or a value is not allowed.
        """
        unknown_arguments(list(settings), [field.name for field in fields(cls)], "preprocessing")
        return cls(**settings)

    def _levels(self, image: Tensor) -> Tensor:
        """Recoloured and resized, as whole numbers 0 to 255."""
        v = image.float()
        if self.channels == 1 and v.shape[1] == 3:
            v = _grey(v)
        if self.image_size not in (None, v.shape[2:]):
            v = interpolate(v, self.image_size, mode="bilinear", align_corners=False, antialias=True)
        # Last, so that three equal channels are resized as one.
        return v.round().expand(-1, self.channels or -1, -1, -1)

    def _values(self, v: Tensor) -> Tensor:
        if self.dequantize == "uniform":
            return (v + _uniform(v)) / 256
        if self.binarize == "threshold":
            return torch.ge(v, 128, out=torch.empty_like(v))  # by way of bool it takes eight times as long
        x = v.float() / 255
        return torch.bernoulli(x) if self.binarize == "dynamic" else x


def _stored(batch: Batch) -> Tensor:
    image = batch.get("image")
    if is_ready(image):
        raise DataError(
            "preprocessing: these examples are no stored images, so no setting applies to them; leave it out"
        )
    if not isinstance(image, Tensor) or image.dtype != torch.uint8 or image.ndim != 4:
        got = f"{image.dtype} {tuple(image.shape)}" if isinstance(image, Tensor) else "none"
        raise DataError(f"preprocessing needs a column 'image' of uint8 (B, C, H, W), got {got}")
    return image


def _uniform(v: Tensor) -> Tensor:
    """u ~ U[0, 1) in steps of 2^-16."""
    # With finer steps float32 would round some v + u up to the next level, and 255 + u to x = 1.
    return torch.rand(v.shape, device=v.device).mul_(65536).floor_().div_(65536)


def _grey(v: Tensor) -> Tensor:
    weights = torch.tensor(LUMA, device=v.device).view(3, 1, 1)
    return (v * weights).sum(1, keepdim=True)
