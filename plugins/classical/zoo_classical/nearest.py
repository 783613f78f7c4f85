"""The nearest centre: the one that float64 finds, in the time of float32."""

import torch
from torch import Tensor


class Nearest:
    """x ↦ k = argmin_j || x - mu_j ||, the first among equals, for centres mu (K, D) in float64.

    A product of float32 matrices decides wherever no rounding could change its answer, one of float64 matrices
    where that is not so, and where that too is unsure, as in ties, differences do.

    With c the mean of the centres, m_j = mu_j - c and b_j = || mu_j ||^2 - || c ||^2, the scores
    s_j = b_j - 2 x·m_j are the squared distances less a number that is the same for all j.
    """

    def __init__(self, mu: Tensor) -> None:
        c = mu.mean(0)
        m = mu - c
        self.mu, self.b, self.m2 = mu, (m * (mu + c)).sum(1, keepdim=True), -2 * m
        self.largest = float(self.b.abs().max())
        self.longest = float(torch.linalg.vector_norm(self.m2, dim=1).max())
        self.single = self.b.float(), self.m2.float()

    def __call__(self, x: Tensor) -> Tensor:
        """k (B,) for rows x (B, D)."""
        k, unsure = self.scored(x.float(), *self.single)
        if len(unsure):
            rest = x[unsure].double()
            k[unsure], still = self.scored(rest, self.b, self.m2)
            k[unsure[still]] = self.by_differences(rest[still])
        return k

    def scored(self, x: Tensor, b: Tensor, m2: Tensor) -> tuple[Tensor, Tensor]:
        """k (B,) by the least score, and the rows where it may be another."""
        s = torch.addmm(b, m2, x.T)
        lowest, k = s.min(0)
        gap = s.scatter_(0, k[None], torch.inf).amin(0) - lowest
        # Two scores may err towards each other; a gap of nan, after an overflow, is no sure one.
        return k, (gap > 2 * self.rounding(x)).logical_not_().nonzero()[:, 0]

    def rounding(self, x: Tensor) -> Tensor:
        """How far from the true ones scores can be that are computed in the precision of x, (B,).

        Rounding x, m_j, b_j, the D products and their sum in any order makes at most, to first order,
        u (D + 4) (|b_j| + || x || || 2 m_j ||) for u half the distance from 1 to the next number: section 3.1 of
        Accuracy and stability of numerical algorithms (Higham, 2002) https://doi.org/10.1137/1.9780898718027 .
        Here u is that whole distance, which covers the higher orders and the rounding of the bound itself; tiny is
        the error of what is too small to have one in proportion.
        """
        scale = self.largest + self.longest * torch.linalg.vector_norm(x, dim=1)
        bound: Tensor = (scale * unit(x) + torch.finfo(x.dtype).tiny) * (x.shape[1] + 4)
        return bound

    def by_differences(self, x: Tensor) -> Tensor:
        # Equal distances are so to the bit, whatever else is in the batch; from a product they would not be.
        return torch.cdist(x, self.mu, compute_mode="donot_use_mm_for_euclid_dist").argmin(1)


def unit(x: Tensor) -> float:
    """The distance from 1 to the next number in the precision of x; inf if products of it may have less."""
    reduced = torch.get_float32_matmul_precision() != "highest" or torch.is_autocast_enabled(x.device.type)
    return torch.inf if reduced and x.dtype == torch.float32 else torch.finfo(x.dtype).eps
