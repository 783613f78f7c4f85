"""The separated attribute predictability."""

from collections.abc import Sequence

import torch
from torch import Tensor

from zoo_core import Measurement, PositiveFloat, PositiveInt
from zoo_metrics.disentanglement.codes_and_factors import (
    CodesAndFactors,
    FactorMetric,
    measurement,
    require_values,
    train_and_test,
)


class SAP(FactorMetric):
    """1/K Σ_j (S_aj - S_bj) for S_ij = how well code i alone predicts factor v_j, best by code a, second best by b.

    S is the accuracy, on examples that it has not seen, of a linear support vector machine whose classes weigh alike
    (scikit-learn's ``LinearSVC``), as in the study of Locatello et al. (2019) https://arxiv.org/abs/1811.12359.

    Variational inference of disentangled latent concepts from unlabeled observations (Kumar et al., 2018)
    https://arxiv.org/abs/1711.00848

    From 0 to 1, and small: a line cut by a threshold for each value, against the rest, cannot single out values in its
    middle, so even a code that is a factor of many values predicts it badly. Values depend on the scale of the codes.

    Args:
        C: the weight of the errors against that of the margin.
        train_examples, test_examples: at most so many, in that proportion.
        seed: of the split.

    Raises:
        ConfigError: there is only one code, no factor, or too few examples.
    """

    least_codes = 2

    def __init__(
        self,
        factors: Sequence[str] | None = None,
        C: PositiveFloat = 0.01,
        train_examples: PositiveInt = 10_000,
        test_examples: PositiveInt = 5_000,
        seed: int = 0,
    ) -> None:
        super().__init__(factors)
        self.C, self.seed = C, seed
        self.train_examples, self.test_examples = train_examples, test_examples

    def compute(self) -> dict[str, Measurement]:
        pairs = self.kept_pairs()
        train, test = train_and_test(len(pairs.z), self.train_examples, self.test_examples, self.seed)
        value = accuracy_gaps(predictability(pairs, train, test, self.C)).mean()
        about = {"classifier": f"LinearSVC, C = {self.C:g}, balanced", "train": len(train), "test": len(test)}
        return {"sap": measurement(value, pairs, **about)}


def predictability(pairs: CodesAndFactors, train: Tensor, test: Tensor, C: float) -> Tensor:
    """The accuracy S_ij of predicting factor j from code i, learned from the rows ``train``, on ``test``: (D, K).

    Raises:
        ConfigError: a factor does not vary over the rows ``train``.
    """
    for v, name in zip(pairs.v.T, pairs.names, strict=True):
        require_values(v[train], repr(name))
    scores = [[_accuracy(z, v, train, test, C) for v in pairs.v.T] for z in pairs.z.T.unsqueeze(2)]
    return torch.tensor(scores, dtype=torch.float64)


def _accuracy(z: Tensor, v: Tensor, train: Tensor, test: Tensor, C: float) -> float:
    from sklearn.svm import LinearSVC

    machine = LinearSVC(C=C, class_weight="balanced", dual=False)
    machine.fit(z[train].numpy(), v[train].numpy())
    return float(machine.score(z[test].numpy(), v[test].numpy()))


def accuracy_gaps(S: Tensor) -> Tensor:
    """The largest minus the second largest of each column of S (D, K): (K,)."""
    first, second = S.topk(2, dim=0).values
    gaps: Tensor = first - second
    return gaps
