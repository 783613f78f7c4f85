"""The dtypes in which latents are compared with codes."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def widened(z: Tensor) -> Tensor:
    """z in float32 at least: half precision takes many codes for one. float64 stays."""
    return z.to(torch.promote_types(z.dtype, torch.float32))


def unchanged(device: torch.device) -> AbstractContextManager[object]:
    """Products of matrices inside keep the dtype of their factors, whatever autocast is on around them."""
    # The meta device computes nothing, and has no autocast to be switched off.
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)
