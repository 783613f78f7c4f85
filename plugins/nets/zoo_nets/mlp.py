"""Fully connected encoders and decoders, for data of any shape."""

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from zoo_core import Likelihood, PositiveInt, Posterior, Shape
from zoo_nets.composition import ACTIVATIONS, Activation, ComposedDecoder, ComposedEncoder
from zoo_nets.likelihoods import BernoulliLikelihood
from zoo_nets.posteriors import DiagonalGaussian


class MLPEncoder(ComposedEncoder):
    """x (B, *data_shape) → hidden layers → latents (B, latents).

    Args:
        hidden: widths of the hidden layers.
        posterior: default a diagonal Gaussian.
    """

    def __init__(
        self,
        data_shape: Shape,
        latents: PositiveInt,
        hidden: Sequence[PositiveInt] = (512,),
        activation: Activation = "relu",
        posterior: Posterior | None = None,
    ) -> None:
        super().__init__()
        self.data_shape, self.latent_shape = tuple(data_shape), (latents,)
        self.posterior = posterior or DiagonalGaussian()
        widths = [math.prod(data_shape), *hidden, self.posterior.channels(latents)]
        self.body = nn.Sequential(nn.Flatten(), *dense(widths, activation))


class MLPDecoder(ComposedDecoder):
    """z (*, *latent_shape) → hidden layers → p(x|z).

    Args:
        hidden: widths of the hidden layers.
        likelihood: default Bernoulli.
    """

    def __init__(
        self,
        data_shape: Shape,
        latent_shape: Shape,
        hidden: Sequence[PositiveInt] = (512,),
        activation: Activation = "relu",
        likelihood: Likelihood | None = None,
    ) -> None:
        super().__init__()
        self.data_shape, self.latent_shape = tuple(data_shape), tuple(latent_shape)
        self.likelihood = likelihood or BernoulliLikelihood()
        h_shape = (self.likelihood.channels(data_shape[0]), *data_shape[1:])
        widths = [math.prod(latent_shape), *hidden, math.prod(h_shape)]
        self.body = nn.Sequential(nn.Flatten(), *dense(widths, activation), nn.Unflatten(1, h_shape))


def dense(widths: Sequence[int], activation: Activation) -> list[nn.Module]:
    """Affine maps from width to width with the activation between them."""
    layers = [layer for a, b in pairwise(widths) for layer in (ACTIVATIONS[activation](), nn.Linear(a, b))]
    return layers[1:]
