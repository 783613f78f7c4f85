"""p(z) with a simple density. Shapes: D is the product of ``latent_shape``."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, MixtureSameFamily

from zoo_core import PositiveInt, Prior, Shape
from zoo_nets.normal import normal
from zoo_nets.one_hot import OneHot, require_multiple
from zoo_nets.precision import widened


class StandardNormal(Prior):
    """p(z) = N(0, I)."""

    def __init__(self, latent_shape: Shape) -> None:
        super().__init__()
        self.latent_shape = tuple(latent_shape)
        # Only tells device and dtype: a prior must follow its model wherever that is moved.
        self.register_buffer("zero", torch.zeros(()))

    def forward(self, condition: Any = None) -> Distribution:
        mu = widened(self.zero).expand(self.latent_shape)
        return normal(mu, torch.ones_like(mu), len(self.latent_shape))


class UniformOneHot(Prior):
    """p(z) = classes^-V, for z of V one-hot vectors one after the other, at each position if there are any.

    Args:
        classes: how many each variable has; ``latent_shape[0]`` is a multiple of it.
    """

    def __init__(self, latent_shape: Shape, classes: PositiveInt) -> None:
        super().__init__()
        require_multiple(latent_shape[0], classes)
        self.latent_shape, self.classes = tuple(latent_shape), classes
        # Only tells device and dtype, as in StandardNormal.
        self.register_buffer("zero", torch.zeros(()))

    def forward(self, condition: Any = None) -> Distribution:
        return OneHot(widened(self.zero).expand(self.latent_shape), self.classes, len(self.latent_shape))


class GaussianMixture(Prior):
    """p(z) = Σ_k pi_k N(z; mu_k, diag sigma_k^2), all learned.

    Args:
        components: K.
        spread: standard deviation of the first mu_k around 0; equal means could not part.
    """

    def __init__(self, latent_shape: Shape, components: PositiveInt = 10, spread: float = 1.0) -> None:
        super().__init__()
        self.latent_shape = tuple(latent_shape)
        self.logits = nn.Parameter(torch.zeros(components))
        self.mu = nn.Parameter(spread * torch.randn(components, *latent_shape))
        self.log_sigma = nn.Parameter(torch.zeros(components, *latent_shape))

    def forward(self, condition: Any = None) -> Distribution:
        sigma = widened(self.log_sigma).clamp(-20, 20).exp()
        component = normal(widened(self.mu), sigma, len(self.latent_shape))
        pi = Categorical(logits=widened(self.logits), validate_args=False)
        return MixtureSameFamily(pi, component, validate_args=False)

    def responsibilities(self, z: Tensor) -> Tensor:
        """p(k|z), (*, K)."""
        log_p_z_k = self().component_distribution.log_prob(z.unsqueeze(-len(self.latent_shape) - 1))
        return torch.softmax(log_p_z_k + self.logits, -1)
