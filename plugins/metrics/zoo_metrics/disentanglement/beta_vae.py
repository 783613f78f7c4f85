"""Whether differences of codes tell which factor was held."""

from collections.abc import Sequence

import torch
from torch import Tensor

from zoo_core import Measurement, PositiveInt
from zoo_metrics.disentanglement.codes_and_factors import FactorMetric, measurement, require_values
from zoo_metrics.disentanglement.same_value import at_a_time, grouped, pairs_of_one_value


class BetaVAEScore(FactorMetric):
    """The accuracy of a linear classifier that tells which factor pairs have in common from the codes' differences.

    A factor k is drawn, and 64 pairs of examples, each with one value of it. The classifier (scikit-learn's
    ``LogisticRegression``) sees 1/64 Σ |z - z'|, (D,); it learns k from 10,000 of these and is tested on 5,000 more.

    beta-VAE: learning basic visual concepts with a constrained variational framework (Higgins et al., 2017)
    https://openreview.net/forum?id=Sy2fzU9gl, with the numbers of the study of Locatello et al. (2019)
    https://arxiv.org/abs/1811.12359. Pairs are drawn from the examples of the evaluation, where the study draws new
    ones; the two of a pair differ, and an example that has a value for itself is not drawn.

    From the chance of about 1/K, which it is if all codes are constant, to 1, which perfect codes still reach that are
    rotated in a plane by less than 45 degrees. Values near 1 come early in training.

    Reports ``beta_vae_score``.

    Args:
        train_votes, test_votes: how many differences the classifier learns from, and how many it is tested on.
        batch: pairs to a difference.
        seed: of the draws.

    Raises:
        ConfigError: there are not two factors, or no two examples share a value of one.
    """

    least_factors = 2

    def __init__(
        self,
        factors: Sequence[str] | None = None,
        train_votes: PositiveInt = 10_000,
        test_votes: PositiveInt = 5_000,
        batch: PositiveInt = 64,
        seed: int = 0,
    ) -> None:
        super().__init__(factors)
        self.train_votes, self.test_votes = train_votes, test_votes
        self.batch, self.seed = batch, seed

    def compute(self) -> dict[str, Measurement]:
        pairs = self.kept_pairs()
        generator = torch.Generator().manual_seed(self.seed)
        votes = self.train_votes + self.test_votes
        k, rows = pairs_of_one_value(grouped(pairs.v, pairs.names), votes, self.batch, generator)
        value = logistic_accuracy(mean_differences(pairs.z, rows), k, self.train_votes)
        about = {"train_votes": self.train_votes, "test_votes": self.test_votes, "batch": self.batch}
        return {"beta_vae_score": measurement(value, pairs, classifier="LogisticRegression", **about)}


def mean_differences(z: Tensor, rows: Tensor) -> Tensor:
    """1/L Σ_l |z_a - z_b| for n times L pairs (a, b) of rows (n, L, 2): (n, D)."""
    parts = at_a_time(rows, z.shape[1])
    return torch.cat([(z[some[..., 0]] - z[some[..., 1]]).abs().mean(1) for some in parts])


def logistic_accuracy(differences: Tensor, k: Tensor, train: int) -> float:
    """How often the factor k (n,) is told from differences (n, D), learned from the first ``train``, on the others.

    Raises:
        ConfigError: the first have only one factor.
    """
    from sklearn.linear_model import LogisticRegression

    require_values(k[:train], "the factor")
    classifier = LogisticRegression(max_iter=1000).fit(differences[:train].numpy(), k[:train].numpy())
    return float(classifier.score(differences[train:].numpy(), k[train:].numpy()))
