"""Convolutional bodies with residual blocks after each change of resolution."""

from collections.abc import Iterable, Sequence

from torch import Tensor, nn

from zoo_core import Likelihood, PositiveInt, Posterior, Shape
from zoo_nets.composition import ACTIVATIONS, Activation
from zoo_nets.stages import Layout, Refine, StagedDecoder, StagedEncoder


class ResidualBlock(nn.Module):
    """x + W2 a(W1 a(x)), starting as the identity.

    Identity mappings in deep residual networks (He et al., 2016) https://arxiv.org/abs/1603.05027
    """

    def __init__(self, channels: int, activation: Activation) -> None:
        super().__init__()
        last = nn.Conv2d(channels, channels, 3, padding=1)
        # The branch starts at zero, so that depth costs nothing at first and no normalisation is needed.
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)  # type: ignore[arg-type]
        act = ACTIVATIONS[activation]
        self.branch = nn.Sequential(act(), nn.Conv2d(channels, channels, 3, padding=1), act(), last)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


class ResNetEncoder(StagedEncoder):
    """Like ``ConvEncoder``, with ``blocks`` residual blocks in each stage."""

    def __init__(
        self,
        data_shape: Shape,
        latents: PositiveInt,
        channels: Sequence[PositiveInt] = (64, 128),
        blocks: PositiveInt = 2,
        hidden: Sequence[PositiveInt] = (),
        layout: Layout = "vector",
        activation: Activation = "relu",
        posterior: Posterior | None = None,
    ) -> None:
        refine = residual(blocks, activation)
        super().__init__(data_shape, latents, channels, hidden, layout, activation, posterior, refine)

    def blocks(self) -> Iterable[nn.Module]:
        return residual_blocks(self.body)


class ResNetDecoder(StagedDecoder):
    """Like ``ConvDecoder``, with ``blocks`` residual blocks in each stage."""

    def __init__(
        self,
        data_shape: Shape,
        latent_shape: Shape,
        channels: Sequence[PositiveInt] = (128, 64),
        blocks: PositiveInt = 2,
        hidden: Sequence[PositiveInt] = (),
        activation: Activation = "relu",
        likelihood: Likelihood | None = None,
    ) -> None:
        refine = residual(blocks, activation)
        super().__init__(data_shape, latent_shape, channels, hidden, activation, likelihood, refine)

    def blocks(self) -> Iterable[nn.Module]:
        return residual_blocks(self.body)


def residual(blocks: int, activation: Activation) -> Refine:
    return lambda channels: nn.Sequential(*(ResidualBlock(channels, activation) for _ in range(blocks)))


def residual_blocks(body: nn.Module) -> list[nn.Module]:
    return [module for module in body.modules() if isinstance(module, ResidualBlock)]
