"""The mutual information gap against its definition, written out in numpy, scipy and scikit-learn."""

import math

import numpy
import pytest
import torch
from scipy.stats import entropy as scipy_entropy
from sklearn.metrics import mutual_info_score
from torch import Tensor
from zoo_metrics.disentanglement.information import entropy
from zoo_metrics.disentanglement.mig import MIG, information_gaps

from zoo_core import ConfigError


class Codes:
    """Encodes each image to itself."""

    def encode(self, x: Tensor) -> Tensor:
        return x


def gaps(z: Tensor, v: Tensor, **options: int) -> dict[str, float]:
    metric = MIG(**options)
    metric.update(Codes(), {"image": z, **{f"f{j}": column for j, column in enumerate(v.T)}})
    return {name: m.value for name, m in metric.compute().items()}


def by_hand(z: Tensor, v: Tensor, bins: int) -> list[float]:
    """The gap of each factor as the study defines it."""
    found = []
    for factor in v.T.numpy():
        told = []
        for code in z.T.numpy():
            edges = numpy.histogram(code, bins)[1]
            told.append(mutual_info_score(numpy.digitize(code, edges[:-1]), factor))
        first, second = sorted(told)[::-1][:2]
        found.append((first - second) / scipy_entropy(numpy.unique(factor, return_counts=True)[1]))
    return found


@pytest.mark.parametrize("bins", [5, 20])
def test_it_is_its_definition(bins: int) -> None:
    g = torch.Generator().manual_seed(0)
    v = torch.stack([torch.randint(0, n, (700,), generator=g) for n in (2, 4, 9)], 1)
    mix = torch.randn(3, 5, generator=g, dtype=torch.float64)
    z = v.double() @ mix + 0.3 * torch.randn(700, 5, generator=g)
    expected = by_hand(z, v, bins)
    found = gaps(z, v, bins=bins)
    assert [found[f"mig_f{j}"] for j in range(3)] == pytest.approx(expected, rel=1e-9)
    assert found["mig"] == pytest.approx(sum(expected) / 3, rel=1e-9)
    assert min(expected) > 0


def test_known_gaps() -> None:
    information = torch.tensor([[1.0, 0.2], [0.25, 0.2], [0.5, 0.0]])
    assert information_gaps(information, torch.tensor([2.0, 0.5])).tolist() == [0.25, 0]


def test_a_factor_of_more_values_than_bins_has_a_gap_below_1() -> None:
    v = torch.cartesian_prod(torch.arange(80), torch.arange(2))
    z = v.double()
    found = gaps(z, v, bins=20)
    assert found["mig_f0"] == pytest.approx(math.log(20) / math.log(80))
    assert found["mig_f1"] == pytest.approx(1)
    assert entropy(v)[0].item() == pytest.approx(math.log(80))


def test_one_bin_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^MIG\.bins: must be an integer of at least 2, got 1$"):
        MIG(bins=1)
