"""The uniform distribution on the sphere, and the prior that it is."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from zoo_core import Prior, Shape
from zoo_example.sphere import Sphere, log_surface, unit, widened


class SphericalUniform(Distribution):
    """p(z) = 1 / |S^(d-1)| for z in R^d with |z| = 1: a density with respect to the sphere's area.

    An event (d, *positions) is a point on the sphere at each position, independently; log_prob and entropy are sums
    over them, in nats.

    Args:
        zero: a scalar that tells dtype and device.
        event_shape: (d, *positions).

    Raises:
        ConfigError: log_prob is asked for what is not on the sphere.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    has_rsample = True
    measure = "area on a sphere"

    def __init__(self, zero: Tensor, event_shape: Sequence[int], batch_shape: Sequence[int] = ()) -> None:
        self.zero = zero
        super().__init__(torch.Size(batch_shape), torch.Size(event_shape), validate_args=False)

    @property
    def support(self) -> Sphere:
        return Sphere(-len(self.event_shape))

    @property
    def mean(self) -> Tensor:
        return self.zero.expand(self._extended_shape())

    @property
    def variance(self) -> Tensor:
        """1/d of each coordinate."""
        return (self.zero + 1 / self.event_shape[0]).expand(self._extended_shape())

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        return unit(torch.randn(shape, dtype=self.zero.dtype, device=self.zero.device), self.support.dim)

    def log_prob(self, value: Tensor) -> Tensor:
        z = self.support.require(value)
        leading = torch.broadcast_shapes(z.shape[: self.support.dim], self.batch_shape)  # type: ignore[no-untyped-call]
        return -self._log_volume().expand(leading)

    def entropy(self) -> Tensor:
        return self._log_volume().expand(self.batch_shape)

    def expand(self, batch_shape: Sequence[int], _instance: Distribution | None = None) -> "SphericalUniform":
        return SphericalUniform(self.zero, self.event_shape, batch_shape)

    def _log_volume(self) -> Tensor:
        d, *positions = self.event_shape
        return self.zero + torch.Size(positions).numel() * log_surface(d)


class UniformSphere(Prior):
    """p(z) = 1 / |S^(d-1)|, the prior of a hyperspherical VAE, for latents (d,) or (d, *positions).

    Hyperspherical variational auto-encoders (Davidson et al., 2018) https://arxiv.org/abs/1804.00891
    """

    zero: Tensor

    def __init__(self, latent_shape: Shape) -> None:
        super().__init__()
        self.latent_shape = tuple(latent_shape)
        # Only tells device and dtype: a prior must follow its model wherever that is moved.
        self.register_buffer("zero", torch.zeros(()))

    def forward(self, condition: Any = None) -> Distribution:
        return SphericalUniform(widened(self.zero), self.latent_shape)
