"""Movements in latent space, for any model that encodes and decodes. Latents are (B, *latent_shape)."""

import torch
from torch import Tensor

from zoo_core.components import LatentVariableModel


def linear(z_0: Tensor, z_1: Tensor, steps: int) -> Tensor:
    """z_t = (1 - t) z_0 + t z_1 for ``steps`` values of t from 0 to 1: (steps, *z.shape)."""
    t = _times(z_0, steps)
    return (1 - t) * z_0 + t * z_1


def spherical(z_0: Tensor, z_1: Tensor, steps: int) -> Tensor:
    """z_t = (sin((1 - t) w) z_0 + sin(t w) z_1) / sin w, w the angle between them: (steps, *z.shape).

    Keeps the length where both have the same, as draws of a Gaussian prior nearly do. Latents that point
    the same way, or opposite ways, have no such arc: they are joined linearly.
    Animating rotation with quaternion curves (Shoemake, 1985); for latents White (2016)
    https://arxiv.org/abs/1609.04468
    """
    t = _times(z_0, steps)
    flat_0, flat_1 = z_0.flatten(1), z_1.flatten(1)
    cosine = torch.nn.functional.cosine_similarity(flat_0, flat_1, dim=1)
    w = torch.acos(cosine.clamp(-1, 1)).view(-1, *[1] * (z_0.dim() - 1))
    arc = (torch.sin((1 - t) * w) * z_0 + torch.sin(t * w) * z_1) / torch.sin(w)
    return torch.where(torch.sin(w).abs() < 1e-4, linear(z_0, z_1, steps), arc)


@torch.no_grad()
def interpolate(
    model: LatentVariableModel, x_0: Tensor, x_1: Tensor, steps: int = 9, *, path: str = "spherical"
) -> Tensor:
    """Decoded pictures on the way from x_0 to x_1, each (B, *data_shape): (steps, B, *data_shape).

    Args:
        path: ``spherical`` or ``linear``.
    """
    paths = {"linear": linear, "spherical": spherical}
    return model.decode(paths[path](model.encode(x_0), model.encode(x_1), steps))


def _times(z: Tensor, steps: int) -> Tensor:
    return torch.linspace(0, 1, steps, device=z.device, dtype=z.dtype).view(-1, *[1] * z.dim())
