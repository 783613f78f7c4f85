"""The dtype in which latents are compared with codes."""

import torch
from torch import Tensor


def widened(z: Tensor) -> Tensor:
    """z in float32 at least: half precision takes many codes for one. float64 stays."""
    return z.to(torch.promote_types(z.dtype, torch.float32))
