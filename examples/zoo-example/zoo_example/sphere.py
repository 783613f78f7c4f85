"""The unit sphere S^(d-1) in R^d: its surface, its points, and a refusal of all others."""

import math

import torch
from torch import Tensor
from torch.distributions import constraints

from zoo_core import ConfigError

# Points that were rounded to bfloat16 lie within this of the sphere.
TOLERANCE = 0.02


class Sphere(constraints.Constraint):
    """|z| = 1 along ``dim``, which is negative; all dimensions from there on are the event."""

    def __init__(self, dim: int) -> None:
        self.dim, self.event_dim = dim, -dim
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        """Whether all spheres of an event are met: (*,) for a value (*, *event)."""
        length = torch.linalg.vector_norm(value, dim=self.dim, keepdim=True)
        met: Tensor = ((length - 1).abs() < TOLERANCE).flatten(self.dim).all(-1)
        return met

    def require(self, z: Tensor) -> Tensor:
        """z itself.

        Raises:
            ConfigError: some of it is not on the sphere, where a density of area says nothing.
        """
        # On the meta device there are no values to look at, and a look would break what is compiled.
        if not (z.is_meta or torch.compiler.is_compiling() or self.check(z).all()):
            raise ConfigError(
                "log p(z) on the sphere is asked for a z that is not on it: let the encoder's posterior be "
                "example/power_spherical and the prior example/uniform_sphere, or neither of them"
            )
        return z


def log_surface(d: int) -> float:
    """log |S^(d-1)| = log 2 + d/2 log pi - log Gamma(d/2); two points, a circle, a sphere, … for d = 1, 2, 3, …"""
    return math.log(2) + d / 2 * math.log(math.pi) - math.lgamma(d / 2)


def unit(h: Tensor, dim: int) -> Tensor:
    """h / |h| along ``dim``, of any finite h: the zero vector becomes the first axis."""
    # Squares of the scaled vector neither overflow nor vanish; its direction does not depend on the scale.
    scale = h.detach().abs().amax(dim, keepdim=True)
    scaled = h / torch.where(scale > 0, scale, 1.0)
    first = torch.zeros_like(h)
    first.select(dim, 0).fill_(1.0)
    length = torch.linalg.vector_norm(scaled, dim=dim, keepdim=True)
    return torch.where(scale > 0, scaled / length.clamp(min=1.0), first)


def widened(h: Tensor) -> Tensor:
    """h in float32 at least: half precision has too few digits for a density. float64 stays."""
    return h.to(torch.promote_types(h.dtype, torch.float32))
