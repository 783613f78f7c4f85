"""Convolutional encoders and decoders for images of any size."""

from collections.abc import Sequence

from torch import nn

from zoo_core import Likelihood, PositiveInt, Posterior, Shape
from zoo_nets.composition import Activation
from zoo_nets.stages import Layout, StagedDecoder, StagedEncoder


class ConvEncoder(StagedEncoder):
    """x (B, C, H, W) → strided convolutions → latents (B, latents), or a grid (B, latents, h, w).

    Args:
        channels: of each stage; a stage halves height and width, rounding up.
        hidden: widths of the fully connected layers before a vector of latents.
        layout: ``vector``, or ``grid`` for ``latents`` channels at each place of the last stage.
        posterior: default a diagonal Gaussian.
    """

    def __init__(
        self,
        data_shape: Shape,
        latents: PositiveInt,
        channels: Sequence[PositiveInt] = (32, 64),
        hidden: Sequence[PositiveInt] = (256,),
        layout: Layout = "vector",
        activation: Activation = "relu",
        posterior: Posterior | None = None,
    ) -> None:
        super().__init__(data_shape, latents, channels, hidden, layout, activation, posterior, unrefined)


class ConvDecoder(StagedDecoder):
    """z (*, D) or (*, L, h, w) → transposed convolutions → p(x|z) over (C, H, W).

    Args:
        channels: of each stage, from the latents to the image; a stage doubles height and width.
        hidden: widths of the fully connected layers after a vector of latents.
        likelihood: default Bernoulli.
    """

    def __init__(
        self,
        data_shape: Shape,
        latent_shape: Shape,
        channels: Sequence[PositiveInt] = (64, 32),
        hidden: Sequence[PositiveInt] = (256,),
        activation: Activation = "relu",
        likelihood: Likelihood | None = None,
    ) -> None:
        super().__init__(data_shape, latent_shape, channels, hidden, activation, likelihood, unrefined)


def unrefined(channels: int) -> nn.Module:
    return nn.Identity()
