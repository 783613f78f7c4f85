"""Probabilistic principal component analysis, by EM."""

from collections.abc import Mapping

import torch
from torch import Tensor

from zoo_classical.ppca import PPCA


class PPCAEM(PPCA):
    """PPCA by EM, whose sums are D x L instead of D x D: for large pictures.

    E: the mean and the second moment of p(z|x). M: W = (Σ d E[z]') (Σ E[zz'])^-1 and
    sigma^2 = (Σ d'd - tr W' Σ d E[z]') / (n D), for d = x - mu with mu the mean of the data.

    Section 3.3 and appendix B of Probabilistic principal component analysis (Tipping & Bishop, 1999)
    https://doi.org/10.1111/1467-9868.00196 . Arguments as in PPCA; its W spans the same subspace, rotated.
    """

    def begin(self, x: Tensor) -> None:
        """As PPCA, but with a random W: from W = 0 no step of EM would lead away."""
        super().begin(x)
        self.W = torch.randn_like(self.W) * (self.variance / self.W.shape[1]).sqrt()

    def statistics(self, x: Tensor) -> dict[str, Tensor]:
        """n, Σ log p(x), Σ d, Σ d'd, Σ z, Σ d z' and Σ z z' for d = x - mu and z = E[z|x]."""
        d, z = self.rows(x) - self.mu.double(), self.encode(x)
        sums = {"d": d.sum(0), "d2": d.square().sum(), "z": z.sum(0), "dz": d.T @ z, "zz": z.T @ z}
        return {"n": d.new_tensor(len(d)), "objective": self.log_prob(x).sum(), **sums}

    def update(self, statistics: Mapping[str, Tensor]) -> None:
        n, d, d2, z, dz, zz = (statistics[name] for name in ("n", "d", "d2", "z", "dz", "zz"))
        # First mu moves to the mean of the data; E[z|x] is linear in d, so its sums move along.
        d2, dz, zz = d2 - d @ d / n, dz - torch.outer(d, z) / n, zz - torch.outer(z, z) / n
        W = torch.linalg.solve(zz + n * torch.linalg.inv(self.precision()), dz.T).T.contiguous()
        self.variance = ((d2 - (W * dz).sum()) / (n * self.size)).clamp(min=self.min_variance)
        self.W, self.mu = W, self.mu.double() + d / n
