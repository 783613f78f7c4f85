"""k-means on the vectors of one batch."""

import torch
from torch import Tensor

from zoo_vqvae.closest import closest


@torch.no_grad()
def kmeans(z: Tensor, clusters: int, iterations: int = 10) -> tuple[Tensor, Tensor]:
    """Centres (K, D) of vectors z (N, D), and how many are nearest to each, (K,).

    Least squares quantization in PCM (Lloyd, 1982) https://doi.org/10.1109/TIT.1982.1056489 ; it starts from vectors
    drawn at random, and a centre that has lost all of its vectors stays where it is.
    """
    e = z[drawn(len(z), clusters, z.device)]
    n = e.new_zeros(clusters)
    for _ in range(iterations):
        n, m = sums(z, closest(z, e), clusters)
        e = torch.where(n[:, None] > 0, m / n[:, None].clamp(min=1), e)
    return e, n


def sums(z: Tensor, k: Tensor, clusters: int) -> tuple[Tensor, Tensor]:
    """How many vectors have each code, (K,), and their sum, (K, D)."""
    n = z.new_zeros(clusters).index_add_(0, k, z.new_ones(len(z)))
    return n, z.new_zeros(clusters, z.shape[1]).index_add_(0, k, z)


def drawn(n: int, number: int, device: torch.device) -> Tensor:
    """So many of n indices at random, different ones as far as there are enough, (number,)."""
    return torch.cat([torch.randperm(n, device=device) for _ in range(-(-number // n))])[:number]
