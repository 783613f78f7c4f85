"""How a gradient passes a quantizer, which has none: z_q has the value of the code e, and a derivative in z.

z and e are (B, D, *positions); e is a constant.
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Gradient = Literal["straight_through", "rotation"]

# Below this length a vector has no direction.
SHORT = 1e-6
# How many numbers of z are turned at a time.
NUMBERS = 2**18


class StraightThrough(torch.autograd.Function):
    """e to the last digit, which z + (e - z) is not, without a pass over either."""

    generate_vmap_rule = True

    @staticmethod
    def forward(z: Tensor, e: Tensor) -> Tensor:
        return e.view_as(e)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Nothing is kept."""

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


def straight_through(z: Tensor, e: Tensor) -> Tensor:
    """dz_q/dz = I.

    Estimating or propagating gradients through stochastic neurons (Bengio et al., 2013)
    https://arxiv.org/abs/1308.3432
    """
    z_q: Tensor = StraightThrough.apply(z, e.to(torch.promote_types(z.dtype, e.dtype)))  # type: ignore[no-untyped-call]
    return z_q


class Rotation(torch.autograd.Function):
    """e, with the derivative of |e|/|z| R z, some examples at a time: what belongs to them stays in the cache."""

    generate_vmap_rule = True

    @staticmethod
    def forward(z: Tensor, e: Tensor) -> Tensor:
        return e.view_as(e)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Any) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        examples = max(1, NUMBERS * len(grad) // grad.numel())
        parts = zip(*(whole.split(examples) for whole in (*ctx.saved_tensors, grad)), strict=True)
        return torch.cat([turned_back(z, e, g) for z, e, g in parts]), None


def rotation(z: Tensor, e: Tensor) -> Tensor:
    """dz_q/dz = |e|/|z| R, where R turns z into the direction of e, in the plane of both.

    With unit vectors a of z, b of e and r of a + b:  R = I - 2 r r^T + 2 b a^T.
    Restructuring vector quantization with the rotation trick (Fifty et al., 2024) https://arxiv.org/abs/2410.06424
    """
    z_q: Tensor = Rotation.apply(z, e.to(torch.promote_types(z.dtype, e.dtype)))  # type: ignore[no-untyped-call]
    return z_q


def turned_back(z: Tensor, e: Tensor, g: Tensor) -> Tensor:
    """|e|/|z| R^T g, for a gradient g: both, as e itself, are constants."""
    a, b = F.normalize(z, dim=1, eps=SHORT), F.normalize(e, dim=1, eps=SHORT)
    r = F.normalize(a + b, dim=1, eps=SHORT)
    scale = length(e) / length(z).clamp(min=SHORT)
    return scale * (g - 2 * r * dot(r, g) + 2 * a * dot(b, g))


def dot(u: Tensor, v: Tensor) -> Tensor:
    return (u * v).sum(1, keepdim=True)


def length(v: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(v, dim=1, keepdim=True)
    return norm


GRADIENTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "straight_through": straight_through,
    "rotation": rotation,
}
