"""The nearest code."""

import torch
from torch import Tensor

from zoo_vqvae.precision import unchanged

# Scores that are held at a time: on a CPU they stay in its cache, a GPU is kept busy by them.
SCORES = {"cpu": 2**20, "cuda": 2**26}


@torch.no_grad()
def closest(z: Tensor, e: Tensor) -> Tensor:
    """k = argmin_j || z - e_j ||, (N,) for z (N, D) and codes e (K, D) of one dtype; the first among equals.

    The largest z·e_j - || e_j ||^2 / 2 is that of the nearest e_j: one product of matrices, in chunks of z.
    """
    # Both are taken from the mean of the codes: a large common part would swallow the digits that decide.
    c = e.mean(0)
    e = e - c
    offset = e.square().sum(1) / -2
    rows = max(1, SCORES.get(z.device.type, SCORES["cuda"]) // len(e))
    # One place for the scores of all chunks: a fresh one for each would be spread over the memory of the process.
    scores = z.new_empty(min(rows, len(z)), len(e))
    k = torch.empty(len(z), dtype=torch.long, device=z.device)
    with unchanged(z.device):
        for part, found in zip(torch.split(z, rows), torch.split(k, rows), strict=True):
            torch.argmax(torch.addmm(offset, part - c, e.T, out=scores[: len(part)]), 1, out=found)
    return k
