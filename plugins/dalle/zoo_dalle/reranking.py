"""Many pictures are drawn, and those kept that a judge of pictures and texts likes best."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Scorer = Callable[[Tensor, Sequence[str]], Tensor]  # images (B, *data_shape) and B captions → (B,), the more the better


def best(x: Tensor, texts: Sequence[str], n: int, scorer: Scorer) -> Tensor:
    """Of the pictures (texts · candidates, *data_shape) the n of each text that a scorer likes best."""
    candidates = len(x) // max(1, len(texts))
    scores = scorer(x, [text for text in texts for _ in range(candidates)]).view(len(texts), candidates)
    order = scores.argsort(stable=True, dim=1, descending=True)[:, :n]
    first = torch.arange(len(texts), device=order.device)[:, None] * candidates
    return x[(first + order).flatten().to(x.device)]
