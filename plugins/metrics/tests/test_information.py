"""Bins, entropies and mutual information against numpy, scipy and scikit-learn."""

import math
from collections.abc import Iterator

import numpy
import pytest
import torch
from scipy.stats import entropy as scipy_entropy
from sklearn.metrics import mutual_info_score
from torch import Tensor
from zoo_metrics.disentanglement.information import binned, entropy, joint_counts, mutual_information


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def integers(n: int, *values: int) -> Tensor:
    """Columns of that many values each, which depend on each other."""
    shared = torch.rand(n, 1)
    return torch.stack([((shared + torch.rand(n, 1)) / 2 * v).long().squeeze(1) for v in values], 1)


@pytest.mark.parametrize("bins", [2, 7, 20])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_bins_are_those_of_numpys_histogram(bins: int, scale: float) -> None:
    """Also where values lie on edges, as those of a code of a few values do."""
    z = torch.cat([torch.randn(300, 3), torch.randint(0, 21, (300, 2)) + 1.0], 1).double() * scale
    for column, places in zip(z.T.numpy(), binned(z, bins).T, strict=True):
        counts, edges = numpy.histogram(column, bins)
        assert places.bincount(minlength=bins).tolist() == counts.tolist()
        assert (places.numpy() == numpy.digitize(column, edges[:-1]) - 1).all()


def test_a_constant_is_in_one_bin() -> None:
    z = torch.tensor([[3.0, 0.0], [3.0, 1.0], [3.0, 2.0]])
    places = binned(z, 4)
    assert len(places[:, 0].unique()) == 1
    assert places[:, 1].tolist() == [0, 2, 3]


def test_entropy_is_scipys() -> None:
    v = integers(500, 2, 5, 9)
    expected = [scipy_entropy(numpy.unique(column, return_counts=True)[1]) for column in v.T.numpy()]
    assert entropy(v).tolist() == pytest.approx(expected, rel=1e-12)
    assert entropy(torch.arange(8).unsqueeze(1)).item() == pytest.approx(math.log(8))


def test_mutual_information_is_scikit_learns() -> None:
    a, v = integers(400, 3, 7, 20), integers(400, 2, 6)
    a[:200, 0] = v[:200, 0]
    found = mutual_information(a, v)
    assert found.shape == (3, 2)
    for i in range(3):
        for j in range(2):
            assert found[i, j].item() == pytest.approx(mutual_info_score(a[:, i], v[:, j]), rel=1e-9, abs=1e-12)


def test_what_is_known_tells_its_entropy_and_constants_nothing() -> None:
    v = integers(600, 4, 9)
    a = torch.stack([(v[:, 0] * 3 + 1) % 4, v[:, 1], torch.full((600,), 5)], 1)
    found = mutual_information(a, v)
    assert found[0, 0].item() == pytest.approx(entropy(v)[0].item(), rel=1e-12)
    assert found[1, 1].item() == pytest.approx(entropy(v)[1].item(), rel=1e-12)
    assert found[2].tolist() == [0, 0]


def test_independent_columns_seem_to_tell_what_miller_says() -> None:
    a, v = torch.randint(0, 20, (5000, 200)), torch.randint(0, 9, (5000, 1))
    assert mutual_information(a, v).mean().item() == pytest.approx(19 * 8 / (2 * 5000), rel=0.05)


def test_counts_are_those_of_each_pair_of_values() -> None:
    a, v = torch.tensor([[0, 2], [0, 1], [1, 2]]), torch.tensor([1, 1, 0])
    assert joint_counts(a, v).tolist() == [[[0, 2], [1, 0], [0, 0]], [[0, 0], [0, 1], [1, 1]]]
