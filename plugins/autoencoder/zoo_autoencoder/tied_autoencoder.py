"""The autoencoder whose decoder is its encoder's transpose."""

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Distribution, Independent, Normal, Uniform

from zoo_autoencoder.autoencoder import Autoencoder
from zoo_autoencoder.layers import LinearLayer, SigmoidLayer
from zoo_autoencoder.sigmoid import widened
from zoo_core import Decoder, PositiveInt, Prior, Shape

Likelihood = Literal["gaussian", "bernoulli"]


class TiedAutoencoder(Autoencoder):
    """z = s(W x + b), p(x|z) = N(W^T z + c, I) or Bernoulli(sigmoid(W^T z + c)): one W both ways.

    A scale of the codes cannot hide in the decoder, so penalties on the encoder mean what they say:
    Contractive auto-encoders (Rifai et al., 2011) https://icml.cc/2011/papers/455_icmlpaper.pdf

    Sampling draws codes from N(0, I), or uniformly from [0, 1]^L under a sigmoid; they follow neither.

    Args:
        latents: L.
        activation: s.
    """

    def __init__(
        self,
        data_shape: Shape,
        latents: PositiveInt,
        activation: Literal["linear", "sigmoid"] = "sigmoid",
        likelihood: Likelihood = "bernoulli",
    ) -> None:
        layer, prior = LAYERS[activation]
        encoder = layer(data_shape, latents)
        decoder = TransposedDecoder(encoder.weight, data_shape, encoder.latent_shape, likelihood)
        super().__init__(encoder, decoder, prior(encoder.latent_shape))


class TransposedDecoder(Decoder):
    """p(x|z) with parameters W^T z + c, for the W (L, D) of a layer.

    Args:
        weight: returns W, which stays the layer's: a parameter with two owners becomes two when they are moved.
    """

    def __init__(
        self, weight: Callable[[], Tensor], data_shape: Shape, latent_shape: Shape, likelihood: Likelihood
    ) -> None:
        super().__init__()
        self.weight, self.likelihood = weight, LIKELIHOODS[likelihood]
        self.data_shape, self.latent_shape = tuple(data_shape), tuple(latent_shape)
        self.c = nn.Parameter(torch.zeros(math.prod(data_shape)))

    def forward(self, z: Tensor) -> Distribution:
        h = nn.functional.linear(z.to(self.c.dtype), self.weight().mT, self.c)
        h = widened(h).reshape(*z.shape[:-1], *self.data_shape)
        return Independent(self.likelihood(h), len(self.data_shape), validate_args=False)


def gaussian(h: Tensor) -> Distribution:
    return Normal(h, torch.ones_like(h), validate_args=False)


def bernoulli(h: Tensor) -> Distribution:
    return Bernoulli(logits=h, validate_args=False)


class NormalCodes(Prior):
    """p(z) = N(0, I)."""

    zero: Tensor

    def __init__(self, latent_shape: Shape) -> None:
        super().__init__()
        self.latent_shape = tuple(latent_shape)
        # Only tells device and dtype: a prior must follow its model wherever that is moved.
        self.register_buffer("zero", torch.zeros(()))

    def forward(self, condition: Any = None) -> Distribution:
        zero = widened(self.zero).expand(self.latent_shape)
        return Independent(self.factors(zero), len(self.latent_shape), validate_args=False)

    def factors(self, zero: Tensor) -> Distribution:
        return Normal(zero, torch.ones_like(zero), validate_args=False)


class UniformCodes(NormalCodes):
    """p(z) = U([0, 1]^L)."""

    def factors(self, zero: Tensor) -> Distribution:
        return Uniform(zero, torch.ones_like(zero), validate_args=False)


LIKELIHOODS: dict[str, Callable[[Tensor], Distribution]] = {"gaussian": gaussian, "bernoulli": bernoulli}
LAYERS: dict[str, tuple[type[LinearLayer], type[NormalCodes]]] = {
    "linear": (LinearLayer, NormalCodes),
    "sigmoid": (SigmoidLayer, UniformCodes),
}
