"""The maximum mean discrepancy of two sets of points, with a Gaussian kernel."""

import torch
from torch import Tensor

from zoo_core import ConfigError

BLOCK = 1000  # rows of kernels at a time


def mmd(x: Tensor, y: Tensor, scale: float) -> float:
    """The unbiased estimate of MMD^2 between the distributions of rows x (M, D) and y (N, D):

        1/(M(M-1)) Σ_{i≠j} k(x_i, x_j) + 1/(N(N-1)) Σ_{i≠j} k(y_i, y_j) - 2/(M N) Σ_ij k(x_i, y_j),

    k(a, b) = exp(-|| a - b ||^2 / (2 scale^2)), in float64; negative at times.

    A kernel two-sample test (Gretton et al., 2012), lemma 6 https://jmlr.org/papers/v13/gretton12a.html

    Raises:
        ConfigError: one of them has fewer than two rows.
    """
    m, n = len(x), len(y)
    if min(m, n) < 2:
        raise ConfigError(f"MMD needs two examples at least of each kind, got {m} and {n}: raise examples")
    centre = torch.cat([x, y]).double().mean(0)
    x, y = x.double() - centre, y.double() - centre
    # Each point has the kernel 1 with itself.
    within = (kernels(x, x, scale) - m) / (m * (m - 1)) + (kernels(y, y, scale) - n) / (n * (n - 1))
    return within - 2 * kernels(x, y, scale) / (m * n)


def kernels(x: Tensor, y: Tensor, scale: float) -> float:
    """Σ_ij k(x_i, y_j) for x (M, D) and y (N, D)."""
    sums = [(-0.5 * (torch.cdist(rows, y) / scale).square()).exp().sum() for rows in torch.split(x, BLOCK)]
    return float(torch.stack(sums).sum())


def median_distance(x: Tensor) -> float:
    """The median distance between two of the rows x (N, D): a scale at which neither all nor none are alike.

    Raises:
        ConfigError: half of all pairs or more are equal, or there is none.
    """
    distances = torch.pdist(x.double() - x.double().mean(0))
    if not len(distances) or (median := float(distances.median())) == 0:
        raise ConfigError(f"a scale needs points that differ, and half of the pairs among {len(x)} are equal")
    return median
