"""Features of a published DINOv2 model."""

from typing import Any

from torch import Tensor

from zoo_metrics.extractors.published import Published


class DINOv2Features(Published):
    """The token of the whole image, [CLS], after the last layer and its norm: (B, d).

    DINOv2: learning robust visual features without supervision (Oquab et al., 2023) https://arxiv.org/abs/2304.07193
    As features for distances between sets of images, with the large model: Exposing flaws of generative model
    evaluation metrics … (Stein et al., 2023) https://arxiv.org/abs/2306.04675

    Args:
        model: a DINOv2 model on the Hugging Face Hub, or a folder with its weights and its preprocessor config.
        revision: branch, tag or commit on the Hub.

    Raises:
        ConfigError: on first use, if transformers is missing or the model cannot be loaded; or images are neither
            grey nor in colour.
    """

    types = ("dinov2", "dinov2_with_registers")

    def __init__(self, model: str = "facebook/dinov2-large", revision: str | None = None) -> None:
        super().__init__(model, revision)

    def network_class(self, transformers: Any) -> Any:
        return transformers.AutoModel

    def forward(self, images: Tensor) -> Tensor:
        pixels = self.pixels(images)
        features: Tensor = self.network(pixel_values=pixels).last_hidden_state[:, 0]
        return features
