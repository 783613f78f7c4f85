"""Features of a published CLIP model."""

from typing import Any

from torch import Tensor

from zoo_metrics.extractors.published import Published


class CLIPFeatures(Published):
    """f(x), an image in the space that CLIP's images and texts share, before it is brought to length 1: (B, d).

    Learning transferable visual models from natural language supervision (Radford et al., 2021)
    https://arxiv.org/abs/2103.00020
    As features for distances between sets of images: The role of ImageNet classes in Fréchet inception distance
    (Kynkäänniemi et al., 2023) https://arxiv.org/abs/2203.06026

    Args:
        model: a CLIP model on the Hugging Face Hub, or a folder with its weights and its preprocessor config.
        revision: branch, tag or commit on the Hub.

    Raises:
        ConfigError: on first use, if transformers is missing or the model cannot be loaded or is no CLIP; or images
            are neither grey nor in colour.
    """

    types = ("clip",)

    def __init__(self, model: str = "openai/clip-vit-base-patch32", revision: str | None = None) -> None:
        super().__init__(model, revision)

    def network_class(self, transformers: Any) -> Any:
        return transformers.CLIPModel

    def forward(self, images: Tensor) -> Tensor:
        pixels = self.pixels(images)
        found = self.network.get_image_features(pixel_values=pixels)
        # From version 5 on transformers wraps them.
        features: Tensor = found if isinstance(found, Tensor) else found.pooler_output
        return features
