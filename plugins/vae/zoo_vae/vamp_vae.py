"""The VAE whose prior is a mixture of its own posteriors."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from zoo_core import Decoder, Encoder, LatentVariableModel, PositiveInt, Prior, Shape
from zoo_vae.even_mixture import EvenMixture

Posterior = Callable[[Tensor], Distribution]  # x (B, *data_shape) → q(z|x)


class VampVAE(LatentVariableModel):
    """p(x) = ∫ p(x|z) p(z) dz with p(z) = 1/K Σ_k q(z|u_k), of K learned pseudo-inputs u_k in [0, 1].

    The prior that makes the ELBO of a data set largest is the mean of q(z|x) over all of it; this one is the mean over
    K inputs that stand for the data. It has no closed-form KL, so the rate is estimated from the draws of z.

    VAE with a VampPrior (Tomczak & Welling, 2018) https://arxiv.org/abs/1705.07120

    Args:
        encoder: of a q(z|x) with a density; the prior's components are made by it too.
        pseudo_inputs: K.
    """

    def __init__(self, encoder: Encoder, decoder: Decoder, pseudo_inputs: PositiveInt = 500) -> None:
        super().__init__(encoder, decoder, VampPrior(self.q, encoder.data_shape, encoder.latent_shape, pseudo_inputs))

    def q(self, x: Tensor) -> Distribution:
        """q(z|x) by the encoder that the model now has: the prior must follow if that is moved, copied or replaced."""
        q: Distribution = self.encoder(x)
        return q


class VampPrior(Prior):
    """p(z) = 1/K Σ_k q(z|u_k), with u_k in [0, 1] kept there by a hard tanh.

    Args:
        q: a method of the model, which owns the encoder: a module with two owners would be saved twice.
        components: K.
    """

    def __init__(self, q: Posterior, data_shape: Shape, latent_shape: Shape, components: int) -> None:
        super().__init__()
        self.q, self.latent_shape = q, tuple(latent_shape)
        # Grey with noise, inside of the bounds, where every pixel has a gradient.
        self.u = nn.Parameter(0.5 + 0.1 * torch.randn(components, *data_shape))

    def forward(self, condition: Any = None) -> Distribution:
        return EvenMixture(self.q(self.pseudo_inputs()))

    def pseudo_inputs(self) -> Tensor:
        """u (K, *data_shape), each in [0, 1]."""
        return self.u.clamp(0, 1)
