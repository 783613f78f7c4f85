"""Convolutional stages for images of any size: each halves or doubles the grid; what refines it is given."""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Literal

from torch import nn

from zoo_core import ConfigError, Likelihood, Posterior, Shape
from zoo_nets.composition import ACTIVATIONS, Activation, ComposedDecoder, ComposedEncoder
from zoo_nets.likelihoods import BernoulliLikelihood
from zoo_nets.mlp import dense
from zoo_nets.posteriors import DiagonalGaussian

Layout = Literal["vector", "grid"]
Refine = Callable[[int], nn.Module]  # from a number of channels to what follows each stage


class StagedEncoder(ComposedEncoder):
    """x (B, C, H, W) → halving stages → latents (B, latents), or a grid (B, latents, h, w)."""

    def __init__(
        self,
        data_shape: Shape,
        latents: int,
        channels: Sequence[int],
        hidden: Sequence[int],
        layout: Layout,
        activation: Activation,
        posterior: Posterior | None,
        refine: Refine,
    ) -> None:
        super().__init__()
        require_image(data_shape, channels)
        self.data_shape = tuple(data_shape)
        self.posterior = posterior or DiagonalGaussian()
        numbers = self.posterior.channels(latents)
        grid = grids(data_shape[1:], len(channels))[-1]
        stages = nn.Sequential(*halving([data_shape[0], *channels], activation, refine))
        if layout == "grid":
            self.latent_shape = (latents, *grid)
            self.body = nn.Sequential(stages, nn.Conv2d(channels[-1], numbers, 1))
        else:
            self.latent_shape = (latents,)
            widths = [channels[-1] * math.prod(grid), *hidden, numbers]
            self.body = nn.Sequential(stages, nn.Flatten(), *dense(widths, activation))


class StagedDecoder(ComposedDecoder):
    """z (*, D) or (*, L, h, w) → doubling stages → p(x|z) over (C, H, W)."""

    def __init__(
        self,
        data_shape: Shape,
        latent_shape: Shape,
        channels: Sequence[int],
        hidden: Sequence[int],
        activation: Activation,
        likelihood: Likelihood | None,
        refine: Refine,
    ) -> None:
        super().__init__()
        require_image(data_shape, channels)
        self.data_shape, self.latent_shape = tuple(data_shape), tuple(latent_shape)
        self.likelihood = likelihood or BernoulliLikelihood()
        sizes = grids(data_shape[1:], len(channels))[::-1]
        require_latents(self.latent_shape, sizes[0])
        entrance = self._entrance((channels[0], *sizes[0]), hidden, activation)
        widths = [*channels, self.likelihood.channels(data_shape[0])]
        self.body = nn.Sequential(*entrance, *doubling(widths, sizes, activation, refine))

    def _entrance(self, features: tuple[int, ...], hidden: Sequence[int], activation: Activation) -> list[nn.Module]:
        """From latents to the first grid of features."""
        if len(self.latent_shape) == 3:
            return [nn.Conv2d(self.latent_shape[0], features[0], 1)]
        widths = [math.prod(self.latent_shape), *hidden, math.prod(features)]
        return [*dense(widths, activation), nn.Unflatten(1, features)]


def require_image(data_shape: Shape, channels: Sequence[int]) -> None:
    """Refuses data that are no images, and a body without stages."""
    if len(data_shape) != 3:
        raise ConfigError(f"data_shape: must be (channels, height, width), got {tuple(data_shape)}")
    if not channels:
        raise ConfigError("channels: must name at least one stage, got []")


def require_latents(latent_shape: Shape, grid: tuple[int, ...]) -> None:
    """Refuses latents that are neither a vector nor a grid of the size at which the stages begin."""
    if len(latent_shape) != 1 and (len(latent_shape) != 3 or tuple(latent_shape[1:]) != grid):
        height, width = grid
        raise ConfigError(
            f"latent_shape: must be (D,), or (L, {height}, {width}) since so many stages begin there,"
            f" got {tuple(latent_shape)}"
        )


def grids(size: Sequence[int], stages: int) -> list[tuple[int, ...]]:
    """Height and width before and after each halving, rounded up: (28, 28), (14, 14), (7, 7), (4, 4)."""
    return [tuple(math.ceil(n / 2**stage) for n in size) for stage in range(stages + 1)]


def halving(channels: Sequence[int], activation: Activation, refine: Refine) -> Iterator[nn.Module]:
    """Stages that halve the grid, rounding up."""
    for a, b in pairwise(channels):
        yield from (nn.Conv2d(a, b, 3, stride=2, padding=1), ACTIVATIONS[activation](), refine(b))


def doubling(
    channels: Sequence[int], sizes: Sequence[tuple[int, ...]], activation: Activation, refine: Refine
) -> Iterator[nn.Module]:
    """Stages that undo ``halving``, from ``sizes[0]`` to ``sizes[-1]``; the last one ends without activation."""
    for (a, b), target in zip(pairwise(channels), sizes[1:], strict=True):
        # Twice a size rounded up is one too many where the target is odd: the padding decides.
        odd = tuple(1 - n % 2 for n in target)
        yield from (refine(a), ACTIVATIONS[activation]())
        yield nn.ConvTranspose2d(a, b, 3, stride=2, padding=1, output_padding=odd)
