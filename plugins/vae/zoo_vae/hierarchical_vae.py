"""A VAE with several layers of latents."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from zoo_core import (
    ConfigError,
    Decoder,
    Encoder,
    GenerativeModel,
    LatentVariableModel,
    PositiveInt,
    Prior,
    kl,
)
from zoo_vae.gaussian_layer import GaussianLayer, features, flat_gaussian, product
from zoo_vae.top_down import TopDown

Below = Callable[[int, Tensor], Distribution]  # l and z_{l+1} → p(z_l|z_{l+1})


class HierarchicalVAE(LatentVariableModel):
    """p(x|z_1) p(z_1|z_2) … p(z_{L-1}|z_L) p(z_L), with the ladder as q(z|x); z = (z_1, …, z_L), D_1 + … + D_L numbers.

    Upwards, N(z_1; mu^_1, sigma^_1^2) from x by the encoder of the bottom, and N(z_l; mu^_l, sigma^_l^2) from the mu^
    and sigma^ of the layer below by fully connected layers: what x tells of each layer. Downwards,
    q(z_L|x) = N(mu^_L, sigma^_L^2) and q(z_l|z_{l+1}, x) ∝ N(z_l; mu^_l, sigma^_l^2) p(z_l|z_{l+1}): means weighed by
    precision. Everything takes z as it takes that of a VAE; the KL is estimated from the draws of z.

    Ladder variational autoencoders (Sønderby et al., 2016) https://arxiv.org/abs/1602.02282, where deterministic
    features, rather than mu^ and sigma^, go from layer to layer, through batch normalisation.

    Args:
        bottom_encoder: of a diagonal Gaussian over z_1.
        bottom_decoder: p(x|z_1).
        top_prior: p(z_L).
        upper: D_2, …, D_L; without any it is a VAE.
        hidden: widths of the fully connected layers, upwards and downwards.
    """

    encoder: "Ladder"
    decoder: "BottomDecoder"
    prior: "TopDownPrior"

    def __init__(
        self,
        bottom_encoder: Encoder,
        bottom_decoder: Decoder,
        top_prior: Prior | GenerativeModel,
        upper: Sequence[PositiveInt] = (16,),
        hidden: Sequence[PositiveInt] = (128,),
    ) -> None:
        sizes = [torch.Size(bottom_decoder.latent_shape).numel(), *upper]
        prior = TopDownPrior(top_prior, sizes, hidden)
        encoder = Ladder(bottom_encoder, prior.below, sizes, hidden)
        super().__init__(encoder, BottomDecoder(bottom_decoder, sizes), prior)

    @classmethod
    def shapes_for(cls, part: str, shapes: Mapping[str, Any], arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """A prior of z_L is one of D_L numbers, whatever z_1 is."""
        is_above = part == "top_prior" and arguments["upper"]
        return {**shapes, "latent_shape": (arguments["upper"][-1],)} if is_above else shapes

    @property
    def bottom_encoder(self) -> Encoder:
        return self.encoder.bottom

    @property
    def bottom_decoder(self) -> Decoder:
        return self.decoder.bottom

    @property
    def top_prior(self) -> Prior | GenerativeModel:
        return self.prior.top

    def encode(self, x: Tensor) -> Tensor:
        """The mean of q(z_L|x), and of each layer below given that of the layer above, (B, D_1 + … + D_L)."""
        z: Tensor = self.encoder(x).center()
        return z

    def rates(self, x: Tensor) -> Tensor:
        """KL(q(z_l|z_{l+1}, x) || p(z_l|z_{l+1})) at one z ~ q(z|x), in nats, (B, L): the sum estimates the rate."""
        q, p = self.encoder(x), self.prior()
        z = q.rsample()
        layers = zip(q.layers(z), p.layers(z), q.split(z), strict=True)
        return torch.stack([kl(q_l, p_l, z_l) for q_l, p_l, z_l in layers], -1)


class TopDownPrior(Prior):
    """p(z) = p(z_L) Π_{l < L} p(z_l|z_{l+1}), where p(z_l|z_{l+1}) = N(mu(z_{l+1}), diag sigma(z_{l+1})^2)."""

    def __init__(self, top: Prior | GenerativeModel, sizes: Sequence[int], hidden: Sequence[int]) -> None:
        super().__init__()
        if tuple(top.data_shape) != (sizes[-1],):
            raise ConfigError(f"top_prior: must be one of latents {(sizes[-1],)}, got {tuple(top.data_shape)}")
        self.top, self.sizes, self.latent_shape = top, tuple(sizes), (sum(sizes),)
        self.down = nn.ModuleList(GaussianLayer(above, own, hidden) for own, above in pairwise(sizes))

    def forward(self, condition: Any = None) -> Distribution:
        return TopDown(self.top(), [*self.down][::-1], self.sizes)

    def below(self, layer: int, z: Tensor) -> Distribution:
        """p(z_l|z_{l+1}) at z_{l+1} (*, D_{l+1}), layers being counted from 0."""
        p: Distribution = self.down[layer](z)
        return p


class Ladder(Encoder):
    """q(z|x) = q(z_L|x) Π_{l < L} q(z_l|z_{l+1}, x), as ``HierarchicalVAE`` has it.

    Args:
        below: a method of the prior, which owns p(z_l|z_{l+1}): a module with two owners would be saved twice.
    """

    def __init__(self, bottom: Encoder, below: Below, sizes: Sequence[int], hidden: Sequence[int]) -> None:
        super().__init__()
        self.bottom, self.below, self.sizes = bottom, below, tuple(sizes)
        self.data_shape = bottom.data_shape
        self.latent_shape = (torch.Size(bottom.latent_shape).numel() + sum(sizes[1:]),)
        self.up = nn.ModuleList(GaussianLayer(2 * own, above, hidden) for own, above in pairwise(sizes))

    def forward(self, x: Tensor) -> Distribution:
        told = [flat_gaussian(self.bottom(x))]
        for up in self.up:
            told.append(up(features(told[-1])))
        conditionals = [partial(self.weighed, layer, told_l) for layer, told_l in enumerate(told[:-1])]
        return TopDown(told[-1], conditionals[::-1], self.sizes)

    def weighed(self, layer: int, told: Distribution, z: Tensor) -> Distribution:
        """q(z_l|z_{l+1}, x) at z_{l+1} (*, B, D_{l+1}), given what x told of z_l."""
        return product(told, self.below(layer, z))


class BottomDecoder(Decoder):
    """p(x|z) = p(x|z_1)."""

    def __init__(self, bottom: Decoder, sizes: Sequence[int]) -> None:
        super().__init__()
        self.bottom, self.data_shape, self.latent_shape = bottom, bottom.data_shape, (sum(sizes),)

    def forward(self, z: Tensor) -> Distribution:
        shape = self.bottom.latent_shape
        z_1 = z[..., : torch.Size(shape).numel()]
        p: Distribution = self.bottom(z_1.reshape(*z.shape[:-1], *shape))
        return p
