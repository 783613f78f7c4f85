"""Published CLIP models as scorers of pictures."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from zoo_core import CheckpointError, ConfigError, DataError


class CLIPScorer:
    """s cos(f(x), g(y)) of an image x and a caption y, by a CLIP model that ``transformers`` loads.

    Learning transferable visual models from natural language supervision (Radford et al., 2021)
    https://arxiv.org/abs/2103.00020

    It needs ``transformers`` and ``pillow``: ``pip install "zoo-dalle[clip]"``.

        scorer = CLIPScorer("openai/clip-vit-base-patch32")
        images = dalle.generate("a red heart", n=4, candidates=64, scorer=scorer.score)

    Args:
        name: of a CLIP model on the Hugging Face Hub, or a folder with its weights, tokenizer and image processor.
        device: where it computes.
        batch: pairs at a time.
        options: handed to ``from_pretrained`` of transformers, such as ``revision`` and ``local_files_only``.

    Raises:
        ConfigError: transformers is missing, or the batch is empty.
        CheckpointError: there is no such model, or it is no CLIP.
    """

    def __init__(
        self,
        name: str = "openai/clip-vit-base-patch32",
        *,
        device: str | torch.device = "cpu",
        batch: int = 64,
        **options: Any,
    ) -> None:
        if batch < 1:
            raise ConfigError(f"batch: must be a positive integer, got {batch}")
        transformers = _transformers()
        try:
            self.processor: Any = transformers.CLIPProcessor.from_pretrained(name, **options)
            self.model: Any = transformers.CLIPModel.from_pretrained(name, **options).to(device).eval()
        except (OSError, ValueError) as error:
            raise CheckpointError(f"no CLIP model {name!r}: {' '.join(str(error).split())}") from None
        self.device, self.batch = torch.device(device), batch

    @torch.no_grad()
    def score(self, images: Tensor, captions: Sequence[str]) -> Tensor:
        """s cos(f(x_i), g(y_i)) of each image, (B, 3 or 1, H, W) in [0, 1], with its own caption: (B,).

        Images are rounded to 256 levels and resized as the model's own image processor says. Of a caption, what the
        model has no places for is left out.

        Raises:
            DataError: there are not as many captions as images, or these are no images.
        """
        if isinstance(captions, str) or len(captions) != len(images):
            count = "one string" if isinstance(captions, str) else len(captions)
            raise DataError(f"captions: must be a list of as many as there are images, {len(images)}; got {count}")
        if images.dim() != 4 or images.shape[1] not in (1, 3):
            raise DataError(f"images: must be (B, 3, H, W) or (B, 1, H, W), got {tuple(images.shape)}")
        starts = range(0, len(images), self.batch)
        scores = [self._scored(images[i : i + self.batch], captions[i : i + self.batch]) for i in starts]
        return torch.cat(scores) if scores else torch.empty(0, device=self.device)

    def _scored(self, images: Tensor, captions: Sequence[str]) -> Tensor:
        out = self.model(**self._pixels(images), **self._tokens(captions))
        scores: Tensor = self.model.logit_scale.exp() * (out.image_embeds * out.text_embeds).sum(1)
        return scores

    def _pixels(self, images: Tensor) -> Any:
        levels = (images.clamp(0, 1) * 255).round().to("cpu", torch.uint8).expand(-1, 3, -1, -1)
        process = self.processor.image_processor
        pixels: Any = process(list(levels.numpy()), return_tensors="pt", input_data_format="channels_first")
        return pixels.to(self.device)

    def _tokens(self, captions: Sequence[str]) -> Any:
        room = self.model.config.text_config.max_position_embeddings
        tokenize = self.processor.tokenizer
        tokens = tokenize(list(captions), padding=True, truncation=True, max_length=room, return_tensors="pt")
        return tokens.to(self.device)


def _transformers() -> Any:
    """Imported on use: it takes seconds."""
    try:
        import transformers
    except ImportError:
        raise ConfigError('CLIPScorer needs transformers: pip install "zoo-dalle[clip]"') from None
    return transformers
