"""Real latents: those of examples, those of the prior, and the paths between them."""

from typing import Any

import torch
from torch import Tensor

from zoo_core import ConfigError


def real_codes(metric: str, model: Any, x: Tensor) -> Tensor:
    """E_q[z|x], (B, *latent_shape).

    Raises:
        ConfigError: the model does not encode, or its codes are indices, or not finite.
    """
    if not hasattr(model, "encode"):
        raise ConfigError(f"metric {metric!r} needs a model that encodes; {type(model).__name__} does not")
    z: Tensor = model.encode(x)
    if not z.is_floating_point():
        raise ConfigError(f"metric {metric!r} needs real latents; {type(model).__name__} encodes into indices")
    if not z.isfinite().all():
        raise ConfigError(f"metric {metric!r}: {type(model).__name__} encodes into values that are not finite")
    return z


def prior_draws(metric: str, model: Any, n: int) -> Tensor:
    """z ~ p(z), (n, *latent_shape); of a prior that has one p(z) for each example, that.

    Raises:
        ConfigError: the model has no prior, does not decode, or its latents are indices.
    """
    if not (hasattr(model, "prior") and hasattr(model, "decode")):
        raise ConfigError(
            f"metric {metric!r} needs a model that decodes latents of a prior; {type(model).__name__} does not"
        )
    p_z = model.prior()
    z: Tensor = p_z.sample(torch.Size([] if p_z.batch_shape else [n]))
    if not z.is_floating_point():
        raise ConfigError(f"metric {metric!r} needs real latents; those of {type(model).__name__} are indices")
    return z


def lerp(z_0: Tensor, z_1: Tensor, t: Tensor) -> Tensor:
    """(1 - t) z_0 + t z_1, for z (B, *latent_shape) and t (B,)."""
    t = t.view(-1, *[1] * (z_0.dim() - 1))
    return ((1 - t) * z_0.double() + t * z_1.double()).to(z_0)


def slerp(z_0: Tensor, z_1: Tensor, t: Tensor) -> Tensor:
    """((1 - t) r_0 + t r_1) (sin((1 - t) w) u_0 + sin(t w) u_1) / sin w for z = r u, | u | = 1 and t (B,).

    The direction turns at one speed by the angle w between z_0 and z_1 (B, *latent_shape), and the length grows at one
    speed: without a length of its own the path between two that lie almost opposite would go far astray. A straight
    line where w is 0 or half a turn, for which there is no arc, or more than one.

    Animating rotation with quaternion curves (Shoemake, 1985); for latents White (2016)
    https://arxiv.org/abs/1609.04468
    """
    (r_0, u_0), (r_1, u_1) = in_length_and_direction(z_0), in_length_and_direction(z_1)
    t = t.to(r_0).view(r_0.shape)
    w = torch.acos((u_0 * u_1).flatten(1).sum(1).clamp(-1, 1)).view(r_0.shape)
    arc = (torch.sin((1 - t) * w) * u_0 + torch.sin(t * w) * u_1) / torch.sin(w)
    z = torch.where(torch.sin(w) > 1e-6, ((1 - t) * r_0 + t * r_1) * arc, (1 - t) * r_0 * u_0 + t * r_1 * u_1)
    return z.to(z_0)


def in_length_and_direction(z: Tensor) -> tuple[Tensor, Tensor]:
    """| z |, (B, 1, …), and z / | z |, for z (B, *latent_shape), in float64."""
    z = z.double()
    r = z.flatten(1).norm(dim=1).view(-1, *[1] * (z.dim() - 1))
    return r, z / r.clamp(min=torch.finfo(z.dtype).tiny)
