"""Extractors whose networks come from the Hugging Face Hub, through ``transformers``."""

import abc
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo_core import ConfigError
from zoo_metrics.extractors.trained import Trained, in_colour


class Published(Trained):
    """Features of a network that ``transformers`` loads, of images in its own size and normalised as it was trained.

    An image is resized to the network's square, whole, by bicubic interpolation with antialiasing, and then
    (x - mean) / std by channel: size, mean and std are those of the model's own image processor, whose crop is left
    out, so that nothing of a sample goes unseen.

    Args:
        model: on the Hugging Face Hub, or a folder with weights, config and preprocessor config.
        revision: branch, tag or commit on the Hub.
    """

    types: ClassVar[tuple[str, ...]]  # of its networks, by transformers' names

    def __init__(self, model: str, revision: str | None = None) -> None:
        super().__init__()
        self.model, self.revision = model, revision
        self._entrance: tuple[int, Tensor, Tensor] | None = None

    @abc.abstractmethod
    def network_class(self, transformers: Any) -> Any:
        """The class of transformers that has the network."""

    def load(self) -> nn.Module:
        transformers = library(self.label)
        require_type(self.label, self.model, self._had(transformers.AutoConfig).model_type, self.types)
        processor = self._had(transformers.AutoImageProcessor)
        network, told = self._had(self.network_class(transformers), output_loading_info=True)
        # transformers would draw them at random, with a warning.
        if told["missing_keys"]:
            raise ConfigError(f"model: {self.model!r} is not whole: it has no {min(told['missing_keys'])}")
        mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (processor.image_mean, processor.image_std))
        self._entrance = side_of(processor), mean, std
        loaded: nn.Module = network
        return loaded

    def _had(self, made: Any, **options: Any) -> Any:
        """What a class of transformers makes of the model. Raises ConfigError if it cannot be had."""
        if self.revision is not None:
            options["revision"] = self.revision
        try:
            return made.from_pretrained(self.model, **options)
        except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
            raise ConfigError(f"model: {self.model!r} cannot be loaded: {' '.join(str(error).split())}") from None

    def pixels(self, images: Tensor) -> Tensor:
        """Images (B, 1 or 3, H, W) in [0, 1] as the network sees them, (B, 3, S, S)."""
        assert self.network is not None
        assert self._entrance is not None  # loading the network told it
        side, mean, std = self._entrance
        x = in_colour(self.label, images)
        x = F.interpolate(x, (side, side), mode="bicubic", antialias=True).clamp(0, 1)
        return (x - mean.to(x.device)) / std.to(x.device)


def require_type(label: str, model: str, found: str, types: Sequence[str]) -> None:
    """Refuses a network of another architecture, which transformers would fill with random weights.

    Raises:
        ConfigError: naming both.
    """
    if found not in types:
        raise ConfigError(f"model: extractor {label!r} takes a {' or '.join(types)}; {model!r} is a {found}")


def library(label: str) -> Any:
    """transformers, imported on use since it takes seconds. Raises ConfigError if it is missing."""
    try:
        import transformers
    except ImportError:
        raise ConfigError(f"extractor {label!r} needs transformers: pip install transformers pillow") from None
    return transformers


def side_of(processor: Any) -> int:
    """The side S of the square images that an image processor makes: of its crop, or of its size if it has none."""
    crop: Mapping[str, int] | None = getattr(processor, "crop_size", None)
    size: Mapping[str, int] = crop if crop and getattr(processor, "do_center_crop", True) else processor.size
    return int(size["height"] if "height" in size else size["shortest_edge"])
