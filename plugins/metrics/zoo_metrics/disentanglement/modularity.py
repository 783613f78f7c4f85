"""Whether each code tells of one factor alone."""

from collections.abc import Sequence

import torch
from torch import Tensor

from zoo_core import Measurement
from zoo_metrics.disentanglement.codes_and_factors import FactorMetric, measurement
from zoo_metrics.disentanglement.information import binned, mutual_information
from zoo_metrics.disentanglement.mig import Bins


class Modularity(FactorMetric):
    """1/D Σ_i (1 - Σ_{j ≠ a} m_ij^2 / (m_ia^2 (K - 1))) for m_ij = I(z_i; v_j), the largest of code i being m_ia.

    Learning deep disentangled embeddings with the F-statistic loss (Ridgeway & Mozer, 2018)
    https://arxiv.org/abs/1802.05312, with the information of mean codes in bins of equal width, as in the study of
    Locatello et al. (2019) https://arxiv.org/abs/1811.12359.

    From 0 to 1: 1 if every code tells of one factor, be it the same one. A code that tells nothing counts 0. Noise
    seems to tell a little of factors with many values (see ``mutual_information``), so it does not count 0: codes
    without any use can raise this value.

    Args:
        bins: of each code, from its least to its largest value.

    Raises:
        ConfigError: there are not two factors.
    """

    least_factors = 2

    def __init__(self, factors: Sequence[str] | None = None, bins: Bins = 20) -> None:
        super().__init__(factors)
        self.bins = bins

    def compute(self) -> dict[str, Measurement]:
        pairs = self.kept_pairs()
        value = modularity(mutual_information(binned(pairs.z, self.bins), pairs.v)).mean()
        return {"modularity": measurement(value, pairs, bins=self.bins)}


def modularity(information: Tensor) -> Tensor:
    """Of each code, (D,), from I(z_i; v_j) (D, K)."""
    squares = information.square()
    largest = squares.amax(1)
    others = (squares.sum(1) - largest) / (largest * (information.shape[1] - 1))
    return torch.where(largest > 0, 1 - others, 0)
