"""How well a drawn picture and its caption go together, as a published CLIP model sees it."""

import functools
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from zoo_core import Batch, ConfigError, Measurement
from zoo_metrics.averages import AverageMetric
from zoo_metrics.extractors.trained import sha256_of
from zoo_metrics.text.captions import require_drawn

W = 2.5  # brings most values to between 0 and 1


class CLIPScore(AverageMetric):
    """2.5 max(cos(f(x), g(y)), 0) of each caption y and one draw x ~ p(x|y), f and g being a CLIP model's features.

    CLIPScore: a reference-free evaluation metric for image captioning (Hessel et al., 2021)
    https://arxiv.org/abs/2104.08718

    The mean of values cut at 0 one by one, with the paper's factor of 2.5 and its prompt before each caption. Elsewhere
    it is 100 cos, of other models and without a prompt: compare values of one setting alone. Pictures are rounded
    to 256 levels and resized as the model's own image processor says; of a caption, what the model has no places for is
    left out. It needs ``transformers`` and ``pillow``. Reports ``clip_score``.

    Args:
        model: a CLIP model on the Hugging Face Hub, or a folder with its weights, tokenizer and image processor.
        prompt: what stands before each caption.

    Raises:
        ConfigError: there is no such model, or the model that is measured draws no pictures for captions.
    """

    draws: ClassVar[bool] = True

    def __init__(self, model: str = "openai/clip-vit-base-patch32", prompt: str = "A photo depicts ") -> None:
        super().__init__()
        self.model, self.prompt = model, prompt

    @torch.no_grad()
    def update(self, model: Any, batch: Batch) -> None:
        x, captions = require_drawn("clip_score", model, batch)
        cosines = loaded(self.model).cosines(x, [self.prompt + caption for caption in captions])
        self.add(clip_score=W * cosines.clamp(min=0))

    def compute(self) -> dict[str, Measurement]:
        values = super().compute()
        if not values:
            return {}
        about = {"model": self.model, "weights": loaded(self.model).weights, "w": W, "prompt": self.prompt}
        return {name: value._replace(about=about) for name, value in values.items()}


class CLIP:
    """The two towers of a CLIP model, by its name on the Hub or its folder.

    Learning transferable visual models from natural language supervision (Radford et al., 2021)
    https://arxiv.org/abs/2103.00020

    Raises:
        ConfigError: ``transformers`` is missing, or there is no such model.
    """

    def __init__(self, name: str) -> None:
        try:
            import transformers
        except ImportError:
            raise ConfigError("metric 'clip_score' needs transformers: pip install transformers") from None
        clip: Any = transformers.CLIPModel
        try:
            self.processor: Any = transformers.CLIPProcessor.from_pretrained(name)
            # In evaluation mode, as transformers loads everything.
            self.towers, told = clip.from_pretrained(name, output_loading_info=True)
        except (OSError, ValueError) as error:
            raise ConfigError(f"model: no CLIP model {name!r}: {' '.join(str(error).split())}") from None
        # transformers would draw them at random, with a warning.
        if told["missing_keys"]:
            raise ConfigError(f"model: {name!r} is no whole CLIP model: it has no {min(told['missing_keys'])}")

    def cosines(self, x: Tensor, captions: Sequence[str]) -> Tensor:
        """cos(f(x_i), g(y_i)) of images x (B, 1 or 3, H, W) in [0, 1], (B,)."""
        self.towers.to(x.device)
        out = self.towers(**self.pixels(x).to(x.device), **self.tokens(captions).to(x.device))
        cosine: Tensor = (out.image_embeds * out.text_embeds).sum(1)  # which have length 1
        return cosine

    def pixels(self, x: Tensor) -> Any:
        if x.shape[1] not in (1, 3):
            raise ConfigError(f"metric 'clip_score' needs grey or colour pictures, got some of {x.shape[1]} channels")
        levels = (x.clamp(0, 1) * 255).round().to("cpu", torch.uint8).expand(-1, 3, -1, -1)
        process = self.processor.image_processor
        return process(list(levels.numpy()), return_tensors="pt", input_data_format="channels_first")

    def tokens(self, captions: Sequence[str]) -> Any:
        room = self.towers.config.text_config.max_position_embeddings
        tokenize = self.processor.tokenizer
        return tokenize(list(captions), padding=True, truncation=True, max_length=room, return_tensors="pt")

    @functools.cached_property
    def weights(self) -> str:
        """The SHA-256 of all tensors, by their names."""
        return sha256_of(self.towers)


@functools.cache
def loaded(name: str) -> CLIP:
    """The model of that name; once for all metrics."""
    return CLIP(name)
