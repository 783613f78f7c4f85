"""How much of what is generated is like the data, and how much of the data is generated: by balls of the data alone."""

from typing import NamedTuple

from torch import Tensor

from zoo_core import Extractor, Measurement, PositiveInt, SampleMetric
from zoo_metrics.samples.means import mean_of
from zoo_metrics.samples.neighbours import crossings, inside, neighbourhoods


class PRDC(NamedTuple):
    """What precision, recall, density and coverage are the means of, for features x (N, d) and y (M, d).

    Attributes:
        precision: whether y_j lies in a ball of the x, bool (M,).
        recall: whether x_i lies in a ball of the y, bool (N,).
        density: in how many balls of the x y_j lies, divided by k, float32 (M,).
        coverage: whether the ball of x_i holds some y, bool (N,).
    """

    precision: Tensor
    recall: Tensor
    density: Tensor
    coverage: Tensor


def density_coverage(real: Tensor, generated: Tensor, k: int = 5) -> tuple[Tensor, Tensor]:
    """Density = 1/kM Σ_j Σ_i 1[y_j ∈ B(x_i)] and coverage = 1/N Σ_i 1[some y_j ∈ B(x_i)], for features x and y.

    B(x_i) is the ball around x_i whose radius is the distance to its k-th nearest neighbour among the other x. The
    boundary is part of it, d <= radius, as it is for precision and recall; the paper's own package, prdc, leaves it
    out, which makes a difference where distances tie: of features that are all equal its values are 0, and here density
    is N/k and coverage 1; of samples that are the data themselves its density is 1, and here (k + 1)/k.

    If x and y are of one distribution, the expected density is 1 and the expected coverage
    1 - Π_{i=1..k} (N - i)/(M + N - i). Density can exceed 1, where samples keep to what is most common in the data;
    coverage grows with M, and its expectation tells how much of it is for k alone to explain.

    Reliable fidelity and diversity metrics for generative models (Naeem et al., 2020) https://arxiv.org/abs/2002.09797

    Args:
        real: x, (N, d).
        generated: y, (M, d).

    Returns:
        What they are the means of: the number of balls in which y_j lies over k, float32 (M,), and whether the ball of
        x_i holds some y, bool (N,).

    Raises:
        ConfigError: there are not more than k real ones, they differ in d, or some are not finite.
    """
    in_real = inside(neighbourhoods(real, k), generated)
    return in_real.holding / k, in_real.held > 0


def prdc(real: Tensor, generated: Tensor, k: int = 5) -> PRDC:
    """``precision_recall`` and ``density_coverage`` of one k, for one pass over the distances.

    Raises:
        ConfigError: as they do.
    """
    in_real, in_generated = crossings(neighbourhoods(real, k), neighbourhoods(generated, k))
    return PRDC(in_real.holding > 0, in_generated.holding > 0, in_real.holding / k, in_real.held > 0)


class DensityCoverage(SampleMetric):
    """Density, how many balls of the data hold a sample, against k; and coverage, the share of them that hold one.

    The balls reach from each example of the data to its k-th nearest neighbour: see ``density_coverage``. Reports
    ``density`` and ``coverage``. The errors are those of means over independent examples among given balls, and, of
    coverage, given samples: that others would have made other balls, or fallen elsewhere, they leave out.

    Args:
        extractor: makes the features.
        k: coverage grows with it.
    """

    def __init__(self, extractor: Extractor | None = None, k: PositiveInt = 5) -> None:
        super().__init__(extractor)
        self.k = k

    def compute(self) -> dict[str, Measurement]:
        real, generated = self.real, self.kept("generated")
        density, coverage = density_coverage(real, generated, self.k)
        sizes = {"d": real.shape[1], "real": len(real), "generated": len(generated)}
        about = {**self.features_of.identity, "k": self.k, **sizes}
        return {self.named("density"): mean_of(density, about), self.named("coverage"): mean_of(coverage, about)}
