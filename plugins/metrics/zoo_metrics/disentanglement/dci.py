"""Disentanglement, completeness and informativeness."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from zoo_core import Measurement, PositiveInt
from zoo_metrics.disentanglement.codes_and_factors import (
    CodesAndFactors,
    FactorMetric,
    measurement,
    require_values,
    train_and_test,
)

EPSILON = 1e-11  # of the study: what matters to nothing matters to all alike


class DCI(FactorMetric):
    """R_ij >= 0 says how much code i matters to a classifier of factor v_j, here gradient boosted trees (GBT).

    disentanglement   Σ_i rho_i (1 - H_K(P_i)), P_i = row i of R, normalised; rho_i = its sum over that of all R
    completeness      the same of the columns, with D for K: Σ_j rho_j (1 - H_D(P_j))
    informativeness   the accuracy of the classifiers on examples that they have not seen, the mean over factors

    with H_K the entropy to the base K. All from 0 to 1: disentangled codes matter to one factor each, complete ones
    are the only one that matters to theirs.

    A framework for the quantitative evaluation of disentangled representations (Eastwood & Williams, 2018)
    https://openreview.net/forum?id=By-7dz-AZ, with scikit-learn's ``GradientBoostingClassifier`` and its importances
    as in the study of Locatello et al. (2019) https://arxiv.org/abs/1811.12359. The paper has other classifiers and
    reports the error, not the accuracy: values depend on that choice.

    Trees are grown for each value of each factor: minutes, with the study's settings and factors of 50 values.

    Reports ``dci_disentanglement``, ``dci_completeness`` and ``dci_informativeness``.

    Args:
        estimators: rounds of boosting.
        train_examples, test_examples: at most so many, in that proportion.
        seed: of the split and of the trees.

    Raises:
        ConfigError: there are not two codes and two factors, or too few examples.
    """

    least_codes = 2
    least_factors = 2

    def __init__(
        self,
        factors: Sequence[str] | None = None,
        estimators: PositiveInt = 100,
        train_examples: PositiveInt = 10_000,
        test_examples: PositiveInt = 5_000,
        seed: int = 0,
    ) -> None:
        super().__init__(factors)
        self.estimators, self.seed = estimators, seed
        self.train_examples, self.test_examples = train_examples, test_examples

    def compute(self) -> dict[str, Measurement]:
        pairs = self.kept_pairs()
        train, test = train_and_test(len(pairs.z), self.train_examples, self.test_examples, self.seed)
        R, accuracies = boosted(pairs, train, test, self.estimators, self.seed)
        values = {
            "dci_disentanglement": disentanglement(R),
            "dci_completeness": disentanglement(R.T),
            "dci_informativeness": accuracies.mean(),
        }
        about = {"classifier": f"GBT, {self.estimators} rounds", "train": len(train), "test": len(test)}
        return {name: measurement(value, pairs, **about) for name, value in values.items()}


class Boosted(NamedTuple):
    """Importances R (D, K), and accuracies on the test rows (K,)."""

    importances: Tensor
    accuracies: Tensor


def boosted(pairs: CodesAndFactors, train: Tensor, test: Tensor, estimators: int, seed: int) -> Boosted:
    """One classifier of each factor from all codes, learned from the rows ``train`` and tested on ``test``.

    Raises:
        ConfigError: a factor does not vary over the rows ``train``.
    """
    factors = zip(pairs.v.T, pairs.names, strict=True)
    fitted = [_boosted(pairs.z, v, name, train, test, estimators, seed) for v, name in factors]
    importances, accuracies = zip(*fitted, strict=True)
    return Boosted(torch.stack(importances, 1), torch.tensor(accuracies, dtype=torch.float64))


def _boosted(
    z: Tensor, v: Tensor, name: str, train: Tensor, test: Tensor, estimators: int, seed: int
) -> tuple[Tensor, float]:
    from sklearn.ensemble import GradientBoostingClassifier

    require_values(v[train], repr(name))
    # The generator's seed is one of 32 bits.
    trees = GradientBoostingClassifier(n_estimators=estimators, random_state=seed % 2**32)
    trees.fit(z[train].numpy(), v[train].numpy())
    accuracy = trees.score(z[test].numpy(), v[test].numpy())
    return torch.as_tensor(trees.feature_importances_, dtype=torch.float64), float(accuracy)


def disentanglement(R: Tensor) -> Tensor:
    """Σ_i rho_i (1 - H_K(P_i)) of importances R (D, K), (); its completeness is the same of its transpose.

    Codes that matter to nothing have no weight; it is 0 if nothing matters.
    """
    p = (R + EPSILON) / (R + EPSILON).sum(1, keepdim=True)
    concentration = 1 + torch.xlogy(p, p).sum(1) / math.log(R.shape[1])
    total = R.sum()
    return (R.sum(1) * concentration).sum() / torch.where(total > 0, total, 1)
