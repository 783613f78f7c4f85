"""p(z) with a simple density. Shapes: D is the product of ``latent_shape``."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily, Normal

from zoo_core import PositiveInt, Prior, Shape


class StandardNormal(Prior):
    """p(z) = N(0, I)."""

    def __init__(self, latent_shape: Shape) -> None:
        super().__init__()
        self.latent_shape = tuple(latent_shape)
        # Only tells device and dtype: a prior must follow its model wherever that is moved.
        self.register_buffer("zero", torch.zeros(()))

    def forward(self, condition: Any = None) -> Distribution:
        mu = self.zero.expand(self.latent_shape)
        normal = Normal(mu, torch.ones_like(mu), validate_args=False)
        return Independent(normal, len(self.latent_shape), validate_args=False)


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
        normal = Normal(self.mu, self.log_sigma.clamp(-20, 20).exp(), validate_args=False)
        component = Independent(normal, len(self.latent_shape), validate_args=False)
        pi = Categorical(logits=self.logits, validate_args=False)
        return MixtureSameFamily(pi, component, validate_args=False)

    def responsibilities(self, z: Tensor) -> Tensor:
        """p(k|z), (*, K)."""
        p = self()
        return torch.softmax(p.component_distribution.log_prob(z.unsqueeze(-len(self.latent_shape) - 1)) + self.logits, -1)
