"""An encoder is a body and a posterior, a decoder a body and a likelihood: any body with any of these."""

from collections.abc import Callable
from typing import Literal

from torch import Tensor, nn
from torch.distributions import Distribution

from zoo_core import Decoder, Encoder, Likelihood, Posterior
from zoo_nets.precision import as_weights

Activation = Literal["relu", "tanh", "silu", "gelu", "elu", "leaky_relu", "softplus"]
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "elu": nn.ELU,
    "leaky_relu": nn.LeakyReLU,
    "softplus": nn.Softplus,
}


class ComposedEncoder(Encoder):
    """q(z|x) = posterior(body(x)).

    A subclass sets ``data_shape``, ``latent_shape``, ``posterior`` and ``body``, which maps x (B, *data_shape)
    to (B, posterior.channels(L), *positions) for latents (L, *positions).
    """

    body: nn.Module
    posterior: Posterior

    def forward(self, x: Tensor) -> Distribution:
        return self.posterior(self.body(as_weights(x, self.body)), len(self.latent_shape))


class ComposedDecoder(Decoder):
    """p(x|z) = likelihood(body(z)).

    A subclass sets ``data_shape``, ``latent_shape``, ``likelihood`` and ``body``, which maps z
    (B, *latent_shape) to (B, likelihood.channels(C), *pixels) for data (C, *pixels).
    """

    body: nn.Module
    likelihood: Likelihood

    def forward(self, z: Tensor) -> Distribution:
        leading = z.shape[: z.dim() - len(self.latent_shape)]
        h = self.body(as_weights(z.reshape(-1, *self.latent_shape), self.body))
        return self.likelihood(h.reshape(*leading, *h.shape[1:]), len(self.data_shape))
