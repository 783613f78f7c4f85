"""The mutual information gap."""

from collections.abc import Sequence
from typing import Annotated

from torch import Tensor

from zoo_core import Bounds, Measurement
from zoo_metrics.disentanglement.codes_and_factors import FactorMetric, measurement
from zoo_metrics.disentanglement.information import binned, entropy, mutual_information

Bins = Annotated[int, Bounds("an integer of at least 2", low=2)]


class MIG(FactorMetric):
    """1/K Σ_j (I(z_a; v_j) - I(z_b; v_j)) / H(v_j), where codes a and b tell most and second most of factor v_j.

    Isolating sources of disentanglement in variational autoencoders (Chen et al., 2018)
    https://arxiv.org/abs/1802.04942, as the study of Locatello et al. (2019) https://arxiv.org/abs/1811.12359 computes
    it, on 10,000 examples: mean codes in bins of equal width, frequencies as probabilities. Values are comparable
    with that study's alone; Chen et al. integrate over q(z|x) instead, and there are other binnings.

    From 0 to 1: 1 if one code has all of each factor and no other code has any. A code in 20 bins cannot tell more
    than log 20 nats, so a factor with more values than bins has a gap below 1 whatever the code.

    Reports ``mig``, and the gap of each factor as ``mig_<factor>``.

    Args:
        bins: of each code, from its least to its largest value.

    Raises:
        ConfigError: there is only one code, or no factor.
    """

    least_codes = 2

    def __init__(self, factors: Sequence[str] | None = None, bins: Bins = 20) -> None:
        super().__init__(factors)
        self.bins = bins

    def compute(self) -> dict[str, Measurement]:
        pairs = self.kept_pairs()
        gaps = information_gaps(mutual_information(binned(pairs.z, self.bins), pairs.v), entropy(pairs.v))
        named = {"mig": gaps.mean(), **{f"mig_{name}": gap for name, gap in zip(pairs.names, gaps, strict=True)}}
        return {name: measurement(value, pairs, bins=self.bins) for name, value in named.items()}


def information_gaps(information: Tensor, h: Tensor) -> Tensor:
    """The two largest of I(z_i; v_j), (D, K), their difference over H(v_j), (K,): the gap of each factor, (K,)."""
    first, second = information.topk(2, dim=0).values
    gaps: Tensor = (first - second) / h
    return gaps
