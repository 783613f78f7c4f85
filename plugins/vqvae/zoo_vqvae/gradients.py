"""How a gradient passes a quantizer, which has none: z_q has the value of the code e, and a derivative in z.

z and e are (B, D, *positions); e is a constant.
"""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Gradient = Literal["straight_through", "rotation"]

# Below this length a vector has no direction.
SHORT = 1e-6


def straight_through(z: Tensor, e: Tensor) -> Tensor:
    """dz_q/dz = I.

    Estimating or propagating gradients through stochastic neurons (Bengio et al., 2013)
    https://arxiv.org/abs/1308.3432
    """
    # This is e to the last digit, which z + (e - z) is not.
    return e + (z - z.detach())


def rotation(z: Tensor, e: Tensor) -> Tensor:
    """dz_q/dz = |e|/|z| R, where R turns z into the direction of e, in the plane of both.

    With unit vectors a of z, b of e and r of a + b:  R = I - 2 r r^T + 2 b a^T.
    Restructuring vector quantization with the rotation trick (Fifty et al., 2024) https://arxiv.org/abs/2410.06424
    """
    with torch.no_grad():
        a, b = F.normalize(z, dim=1, eps=SHORT), F.normalize(e, dim=1, eps=SHORT)
        r = F.normalize(a + b, dim=1, eps=SHORT)
        scale = length(e) / length(z).clamp(min=SHORT)
    turned = z - 2 * r * dot(r, z) + 2 * b * dot(a, z)
    return straight_through(scale * turned, e)


def dot(u: Tensor, v: Tensor) -> Tensor:
    return (u * v).sum(1, keepdim=True)


def length(v: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(v, dim=1, keepdim=True)
    return norm


GRADIENTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "straight_through": straight_through,
    "rotation": rotation,
}
