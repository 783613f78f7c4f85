"""Chow-Liu trees."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.distributions import constraints

from zoo_classical.spanning_tree import levels, maximum_spanning_tree
from zoo_classical.started import StartedModel
from zoo_core import ConfigError, PositiveFloat, Shape


class ChowLiu(StartedModel):
    """P(x) = Π_i P(x_i | x_parent(i)) over binary pixels: the tree with the largest Σ_i I(x_i; x_parent(i)).

    Of all trees it is the most likely one. It is found from how often each pair of pixels is on together:
    one update finds it; further ones stay there.

    Approximating discrete probability distributions with dependence trees (Chow & Liu, 1968)
    https://doi.org/10.1109/TIT.1968.1054142

    Args:
        smoothing: added to the count of each of the four states of every pair (Laplace), as if four times as
            many examples of uniform noise had been seen before.
    """

    support = constraints.boolean
    parent: Tensor
    p: Tensor

    def __init__(self, data_shape: Shape, smoothing: PositiveFloat = 1.0) -> None:
        super().__init__(data_shape)
        self.smoothing = smoothing
        # The root is its own parent, and P(on) is the same in both states of it.
        self.register_buffer("parent", torch.arange(self.size))
        self.parameter("p", 2, self.size)

    def p_on(self, x: Tensor, pixels: Tensor | slice = slice(None)) -> Tensor:
        """P(x_i = 1 | x_parent(i)) for some pixels i, given rows x (B, D): (B, pixels)."""
        p = self.p.double()[:, pixels]
        return torch.where(x[:, self.parent[pixels]] == 1, p[1], p[0])

    def log_prob(self, x: Tensor) -> Tensor:
        """log P(x), exact, in nats, (B,). Raises ConfigError if a pixel is neither 0 nor 1."""
        self.require_start()
        x = self.binary(x)
        p = self.p_on(x)
        return torch.where(x == 1, p, 1 - p).log().sum(1)

    def draw(self, n: int) -> Tensor:
        """x ~ P(x): the root, then every pixel whose parent is known, all at once."""
        self.require_start()
        x = self.p.new_zeros((n, self.size), dtype=torch.float64)
        for pixels in levels(self.parent):
            x[:, pixels] = torch.bernoulli(self.p_on(x, pixels))
        return self.images(x)

    def binary(self, x: Tensor) -> Tensor:
        """x as rows (B, D). Raises ConfigError if a pixel is neither 0 nor 1."""
        rows = self.rows(x)
        if not ((rows == 0) | (rows == 1)).all():
            raise ConfigError("ChowLiu needs pixels that are 0 or 1: set data.preprocessing.binarize to 'dynamic'")
        return rows

    def begin(self, x: Tensor) -> None:
        """Every pixel a fair coin, which is what smoothing alone would say; x is only checked."""
        self.p = torch.full_like(self.binary(x)[:1], 0.5).repeat(2, 1)
        self.started.fill_(True)

    def statistics(self, x: Tensor) -> dict[str, Tensor]:
        """n, Σ log P(x), and how often pixels i and j are both on, (D, D)."""
        rows = self.binary(x)
        return {"n": rows.new_tensor(len(rows)), "objective": self.log_prob(x).sum(), "both": rows.T @ rows}

    def update(self, statistics: Mapping[str, Tensor]) -> None:
        joint = pair_probabilities(statistics["n"], statistics["both"], self.smoothing)
        self.parent = maximum_spanning_tree(mutual_information(joint))
        pixels = torch.arange(self.size, device=self.parent.device)
        p = joint[:, :, pixels, self.parent]
        p_on = p[1].sum(0)
        self.p = torch.where(self.parent == pixels, p_on, p[1] / p.sum(0))


def pair_probabilities(n: Tensor, both: Tensor, smoothing: float) -> Tensor:
    """P(x_i = a, x_j = b), indexed by (a, b, i, j), from how often both pixels are on (D, D); not for i = j."""
    i = both.diagonal()[:, None].expand_as(both)
    counts = torch.stack([n - i - i.T + both, i.T - both, i - both, both]) + smoothing
    return (counts / (n + 4 * smoothing)).unflatten(0, (2, 2))


def mutual_information(joint: Tensor) -> Tensor:
    """I(x_i; x_j) = Σ_ab P(a, b) log P(a, b) / (P(a) P(b)) in nats, (D, D)."""
    independent = joint.sum(1, keepdim=True) * joint.sum(0, keepdim=True)
    return (joint * (joint / independent).log()).sum((0, 1))
