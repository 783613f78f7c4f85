"""Entropies and mutual information of what takes few values, as their frequencies give them, in nats."""

import torch
from torch import Tensor


def binned(z: Tensor, bins: int) -> Tensor:
    """Each column of z (N, D) in bins of equal width from its least to its largest value: int64 (N, D).

    Bins hold their lower edge; the last one holds the largest value too. A constant column is in one bin.
    """
    columns = z.double().T.contiguous()
    low, high = columns.aminmax(dim=1, keepdim=True)
    edges = low + (high - low) / bins * torch.arange(1, bins)
    return torch.searchsorted(edges, columns, right=True).T


def entropy(v: Tensor) -> Tensor:
    """H(v_j) = -Σ p log p for each column of v, int64 (N, K) from 0: (K,)."""
    return torch.stack([_entropy(column.bincount()) for column in v.T])


def mutual_information(a: Tensor, v: Tensor) -> Tensor:
    """I(a_i; v_j) = Σ p(a, v) log p(a, v) / (p(a) p(v)) of columns of a (N, D) and v (N, K), int64 from 0: (D, K).

    The frequencies of N examples stand for p: of independent columns this is not 0, but about
    (A - 1)(V - 1) / (2N) with A and V values (Miller, 1955).
    """
    return torch.stack([_information(joint_counts(a, column)) for column in v.T], 1)


def joint_counts(a: Tensor, v: Tensor) -> Tensor:
    """How often each value of each column of a (N, D) meets each value of v (N,): (D, A, V)."""
    d, values, others = a.shape[1], int(a.max()) + 1, int(v.max()) + 1
    cells = (torch.arange(d) * values + a) * others + v.unsqueeze(1)
    return cells.flatten().bincount(minlength=d * values * others).view(d, values, others)


def _entropy(counts: Tensor) -> Tensor:
    p = counts.double() / counts.sum()
    return -torch.xlogy(p, p).sum()


def _information(counts: Tensor) -> Tensor:
    n = counts.double()
    total = n.sum((1, 2), keepdim=True)
    # In this order what is constant tells exactly nothing.
    log_ratio = (n.log() - n.sum(1, keepdim=True).log()) + (total.log() - n.sum(2, keepdim=True).log())
    return torch.where(n > 0, n / total * log_ratio, 0).sum((1, 2)).clamp(min=0)
