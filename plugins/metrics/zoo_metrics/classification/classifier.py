"""Which class an image belongs to: the network behind features and class probabilities of one kind of data."""

import math

import torch
from torch import Tensor, nn

from zoo_core import ConfigError, DataError, Encoder, GenerativeModel, PositiveInt
from zoo_core.data import Dataset


class Classifier(GenerativeModel):
    """p(y|x) = softmax(W h + b)_y with h = max(0, m(2x - 1)), for m the mean of an encoder's q(z|x).

    h are its features: distances between sets of images are taken between these, as FID takes them between those of
    the Inception network. It has no density and draws no samples.

    Trained from nothing, the encoder's weights start with the variance 2/n for n inputs of a unit: those that torch
    draws have 1/(3n), and what passes through such layers fades where nothing normalises it.

    Delving deep into rectifiers (He et al., 2015) https://arxiv.org/abs/1502.01852
    GANs trained by a two time-scale update rule … (Heusel et al., 2017) https://arxiv.org/abs/1706.08500

    Args:
        encoder: of images; any, of which the mean is taken; its latents, d in all, are the features.
        classes: C.
    """

    def __init__(self, encoder: Encoder, classes: PositiveInt) -> None:
        super().__init__()
        self.encoder, self.classes = encoder, classes
        self.data_shape = tuple(encoder.data_shape)
        self.head = nn.Linear(math.prod(encoder.latent_shape), classes)

    @torch.no_grad()
    def before_training(self, data: Dataset) -> None:
        """Gives the encoder's convolutions and affine maps the variance 2/n; what starts at zero stays there."""
        for layer in self.encoder.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                layer.weight.mul_(math.sqrt(6))
                if layer.bias is not None:
                    layer.bias.zero_()

    def features(self, x: Tensor) -> Tensor:
        """h, (B, d), of images (B, *data_shape) in [0, 1].

        Raises:
            DataError: they have another shape.
        """
        if tuple(x.shape[1:]) != self.data_shape:
            raise DataError(f"must be images (B, {', '.join(map(str, self.data_shape))}), got {tuple(x.shape)}")
        mean: Tensor = self.encoder(2 * x.to(self.head.weight.device) - 1).mean
        return mean.flatten(1).relu()

    def logits(self, x: Tensor) -> Tensor:
        """W h + b, (B, C), in float32 at least. Raises DataError as ``features`` does."""
        return self.logits_of(self.features(x))

    def logits_of(self, features: Tensor) -> Tensor:
        """W h + b, (B, C), for features h (B, d)."""
        logits: Tensor = self.head(features.to(self.head.weight.dtype))
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def draw(self, n: int) -> Tensor:
        """Raises ConfigError: it draws nothing."""
        raise ConfigError(
            "a classifier draws no pictures, it tells what is in them: ask for its logits(images), or make it the"
            " extractor of a metric of samples"
        )
