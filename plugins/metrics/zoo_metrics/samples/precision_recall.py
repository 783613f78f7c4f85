"""How much of what is generated is like the data, and how much of the data is like what is generated."""

from torch import Tensor

from zoo_core import Extractor, Measurement, PositiveInt, SampleMetric
from zoo_metrics.samples.means import mean_of
from zoo_metrics.samples.neighbours import crossings, neighbourhoods


def precision_recall(real: Tensor, generated: Tensor, k: int = 3) -> tuple[Tensor, Tensor]:
    """Precision = 1/M Σ_j 1[y_j ∈ ∪_i B(x_i)] and recall = 1/N Σ_i 1[x_i ∈ ∪_j B(y_j)], for features x and y.

    B(x_i) is the ball around x_i whose radius is the distance to its k-th nearest neighbour among the other x. The
    boundary is part of it, d <= radius, as in the paper; the package prdc leaves it out, which makes a difference where
    distances tie: of features that are all equal it counts none, and here all are counted.

    An example that is equal to another is its neighbour, at distance 0. Both values depend on N, M and k.

    Improved precision and recall metric for assessing generative models (Kynkäänniemi et al., 2019)
    https://arxiv.org/abs/1904.06991

    Args:
        real: x, (N, d).
        generated: y, (M, d).

    Returns:
        What they are the means of: whether y_j lies in a ball of the x, bool (M,), and whether x_i lies in one of the
        y, bool (N,).

    Raises:
        ConfigError: there are not more than k of each, they differ in d, or some are not finite.
    """
    in_real, in_generated = crossings(neighbourhoods(real, k), neighbourhoods(generated, k))
    return in_real.holding > 0, in_generated.holding > 0


class PrecisionRecall(SampleMetric):
    """Precision, the share of samples within the manifold of the data, and recall, that of the data within theirs.

    Manifolds are unions of balls around examples, each to its k-th nearest neighbour: see ``precision_recall``. Reports
    ``precision`` and ``recall``. The errors are those of shares of independent examples among given balls: that other
    examples would have made other balls they leave out. One outlier makes a large ball, and is felt: ``density`` and
    ``coverage`` are steadier.

    Args:
        extractor: makes the features.
        k: larger balls make both values larger.
    """

    def __init__(self, extractor: Extractor | None = None, k: PositiveInt = 3) -> None:
        super().__init__(extractor)
        self.k = k

    def compute(self) -> dict[str, Measurement]:
        real, generated = self.real, self.kept("generated")
        precision, recall = precision_recall(real, generated, self.k)
        sizes = {"d": real.shape[1], "real": len(real), "generated": len(generated)}
        about = {**self.features_of.identity, "k": self.k, **sizes}
        return {self.named("precision"): mean_of(precision, about), self.named("recall"): mean_of(recall, about)}
