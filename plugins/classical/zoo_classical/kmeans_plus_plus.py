"""Where k-means and mixtures start."""

import torch
from torch import Tensor

from zoo_core import ConfigError


def kmeans_plus_plus(x: Tensor, k: int) -> Tensor:
    """k of the rows x (N, D): the first uniformly, each next with P(x) ∝ min_j || x - mu_j ||^2. (k, D)

    k-means++: the advantages of careful seeding (Arthur & Vassilvitskii, 2007)
    https://dl.acm.org/doi/10.5555/1283383.1283494

    Raises:
        ConfigError: fewer than k of the rows are different.
    """
    chosen = torch.randint(len(x), (1,), device=x.device)
    distance = squared_distance(x, x[chosen])
    while len(chosen) < k:
        if not distance.any():
            raise ConfigError(f"k-means++ needs {k} different examples, one for each centre, got {len(chosen)}")
        chosen = torch.cat([chosen, torch.multinomial(distance, 1)])
        distance = torch.minimum(distance, squared_distance(x, x[chosen[-1:]]))
    return x[chosen]


def squared_distance(x: Tensor, centre: Tensor) -> Tensor:
    """|| x - centre ||^2 for rows x (N, D) and centre (1, D), (N,); exactly 0 where they are equal."""
    return torch.cdist(x, centre, compute_mode="donot_use_mm_for_euclid_dist").square()[:, 0]
