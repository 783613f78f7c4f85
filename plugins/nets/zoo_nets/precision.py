"""The dtypes in which distributions and bodies compute."""

import torch
from torch import Tensor, nn


def widened(h: Tensor) -> Tensor:
    """h in float32 at least: a sum over an image loses its digits in half precision. float64 stays."""
    return h.to(torch.promote_types(h.dtype, torch.float32))


def as_weights(x: Tensor, body: nn.Module) -> Tensor:
    """x in the dtype of a body's weights, for a model that was moved to half precision or to float64."""
    return x.to(next(body.parameters(), x).dtype)
