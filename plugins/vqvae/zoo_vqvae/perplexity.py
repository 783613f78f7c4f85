"""How many codes are in even use."""

import torch
from torch import Tensor


def perplexity(counts: Tensor) -> Tensor:
    """exp(-Σ_k p_k log p_k), p_k a code's share of counts (*, K): from 1 to K; (*)."""
    n = counts.to(torch.promote_types(counts.dtype, torch.get_default_dtype()))
    p = n / n.sum(-1, keepdim=True).clamp(min=1)
    even: Tensor = torch.special.entr(p).sum(-1).exp()
    return even
