"""Spanning trees of dense graphs."""

from collections.abc import Iterator

import torch
from torch import Tensor


def maximum_spanning_tree(weight: Tensor) -> Tensor:
    """The tree with the largest sum of weight (D, D), symmetric, as each node's parent (D,); 0 is its own.

    Shortest connection networks and some generalizations (Prim, 1957)
    https://doi.org/10.1002/j.1538-7305.1957.tb01515.x
    """
    parent = torch.zeros(len(weight), dtype=torch.int64, device=weight.device)
    outside = parent.new_ones(len(weight), dtype=torch.bool)
    heaviest, node = torch.full_like(weight[0], -torch.inf), parent[0]
    for _ in range(len(weight) - 1):
        outside[node] = False
        better = outside & (weight[node] > heaviest)
        parent = torch.where(better, node, parent)
        heaviest = torch.where(better, weight[node], heaviest)
        node = heaviest.masked_fill(~outside, -torch.inf).argmax()
    return parent


def levels(parent: Tensor) -> Iterator[Tensor]:
    """The nodes (*,) of a forest by their distance from the root: those that are their own parents come first."""
    nodes = torch.arange(len(parent), device=parent.device)
    level, reached = parent == nodes, torch.zeros_like(parent, dtype=torch.bool)
    while level.any():
        yield nodes[level]
        reached = reached | level
        level = reached[parent] & ~reached
