"""A joint distribution over layers of latents, each given the one above it."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.distributions import Distribution

from zoo_core import ConfigError

Conditional = Callable[[Tensor], Distribution]  # z_{l+1} (*, D_{l+1}) → d(z_l|z_{l+1}), batch (*), event (D_l,)


class NoFormula(ConfigError, NotImplementedError):
    """An objective refuses with it; who can do with draws takes them."""


class TopDown(Distribution):
    """d(z) = d(z_L) Π_{l < L} d(z_l|z_{l+1}) for z = (z_1, …, z_L) of shape (*, D_1 + … + D_L).

    log_prob is in nats, (*, *batch). There is no formula for the mean: see ``center``.

    Args:
        top: d(z_L), of event shape (D_L,) and of the whole's batch shape.
        below: d(z_l|z_{l+1}), of the layers from L - 1 down to 1.
        sizes: D_1, …, D_L.
    """

    arg_constraints = {}
    has_rsample = True

    def __init__(self, top: Distribution, below: Sequence[Conditional], sizes: Sequence[int]) -> None:
        self.top, self.below, self.sizes = top, below, list(sizes)
        super().__init__(top.batch_shape, torch.Size((sum(sizes),)), validate_args=False)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return self.descended(self.top.rsample(torch.Size(sample_shape)), lambda d: d.rsample())

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        # A top such as a mixture has no rsample.
        with torch.no_grad():
            return self.descended(self.top.sample(torch.Size(sample_shape)), lambda d: d.sample())

    @property
    def mean(self) -> Tensor:
        raise NoFormula("the mean of several layers of latents has no formula: take an objective without one")

    def center(self) -> Tensor:
        """The mean of each layer given that of the layer above, (*batch, D_1 + … + D_L)."""
        return self.descended(self.top.mean, lambda d: d.mean)

    def descended(self, z_L: Tensor, chosen: Callable[[Distribution], Tensor]) -> Tensor:
        """z from its top layer, each layer below being chosen from d(z_l|z_{l+1})."""
        z = [z_L]
        for conditional in self.below:
            z.append(chosen(conditional(z[-1])))
        return torch.cat(z[::-1], -1)

    def log_prob(self, value: Tensor) -> Tensor:
        layers = zip(self.layers(value), self.split(value), strict=True)
        return torch.stack([d.log_prob(z_l) for d, z_l in layers]).sum(0)

    def layers(self, z: Tensor) -> list[Distribution]:
        """d(z_1|z_2), …, d(z_L) at z."""
        conditionals = [d(above) for d, above in zip(self.below[::-1], self.split(z)[1:], strict=True)]
        return [*conditionals, self.top]

    def split(self, z: Tensor) -> tuple[Tensor, ...]:
        """z_1, …, z_L."""
        return torch.split(z, self.sizes, -1)
