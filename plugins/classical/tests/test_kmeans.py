"""k-means against scikit-learn, and what becomes of empty clusters."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans as TheirKMeans
from torch import Tensor
from zoo_classical.kmeans import KMeans
from zoo_classical.kmeans_plus_plus import kmeans_plus_plus

from zoo_core import ConfigError


def started(mu: list[list[float]]) -> KMeans:
    """Centres of a known place."""
    model = KMeans((len(mu[0]),), len(mu))
    model.mu = torch.tensor(mu, dtype=torch.float64)
    model.pi = torch.full_like(model.mu[:, 0], 1 / len(mu))
    model.started.fill_(True)
    return model


@pytest.mark.parametrize("clusters", [1, 3, 10, 50])
@pytest.mark.parametrize("iterations", [1, 5, 100])
def test_it_is_that_of_scikit_learn_from_the_same_start(
    digits: Tensor, fit: Any, clusters: int, iterations: int
) -> None:
    rows = digits.flatten(1).double().numpy()
    model = KMeans((1, 8, 8), clusters)
    model.begin(digits)
    theirs = TheirKMeans(clusters, init=model.mu.numpy(), n_init=1, max_iter=iterations, tol=0, algorithm="lloyd")
    theirs.fit(rows)
    J = -fit(model, digits, iterations, begun=True)[-1] * len(digits)
    assert pytest.approx(theirs.inertia_, rel=1e-7) == J
    if iterations == 100:
        assert np.array_equal(model.encode(digits).numpy(), theirs.labels_)
        assert torch.allclose(model.mu, torch.from_numpy(theirs.cluster_centers_), atol=1e-9)


def test_it_ends_where_each_centre_is_the_mean_of_its_cluster(digits: Tensor, fit: Any) -> None:
    model = KMeans((1, 8, 8), 10)
    objectives = fit(model, digits, 100)
    assert objectives[-1] == pytest.approx(objectives[-2], rel=1e-12)
    k = model.encode(digits)
    for j in range(10):
        assert torch.allclose(model.mu[j], digits[k == j].double().mean(0).flatten(), atol=1e-9)
    assert torch.allclose(model.pi, k.bincount(minlength=10).double() / len(k))


def test_clusters_that_stand_apart_are_found(fit: Any) -> None:
    centres = torch.cartesian_prod(torch.arange(3.0), torch.arange(3.0)) * 100
    x = centres.repeat(20, 1) + torch.randn(180, 2)
    model = KMeans((2,), 9)
    fit(model, x, 5)
    assert torch.cdist(centres.double(), model.mu).min(1).values.max() < 2


def test_an_empty_cluster_takes_half_of_the_worst_one(sums: Any) -> None:
    """The axis is the one along which the worst cluster is widest; J falls, and every cluster is in use.

    The first update finds the cluster empty, and the second has the sums that say where to put it.
    """
    x = torch.tensor([[-1.0, 9.0], [1.0, 11.0], [-1.0, -9.0], [1.0, -11.0], [90.0, 0.0], [91.0, 0.0]])
    model = started([[0.0, 0.0], [90.0, 0.0], [500.0, 500.0]])
    J = []
    for _ in range(5):
        statistics = sums(model, x)
        J.append(-statistics["objective"].item())
        model.update(statistics)
    assert J[0] > J[1] > J[2] > J[3] == J[4] == pytest.approx(8.5)
    assert sorted(model.mu.tolist()) == [[0.0, -10.0], [0.0, 10.0], [90.5, 0.0]]


def test_an_empty_cluster_keeps_its_place_until_it_is_known_where_it_is_needed(sums: Any) -> None:
    x = torch.tensor([[0.0], [1.0]])
    model = started([[0.0], [9.0]])
    model.update(sums(model, x))
    assert model.mu.tolist() == [[0.5], [9.0]]
    model.update(sums(model, x))
    assert 0.5 < model.mu[1].item() < 1


def test_a_cluster_is_split_although_its_axes_are_anticorrelated(sums: Any) -> None:
    """A centre moved along both axes would be as far from one half as from the other."""
    x = torch.tensor([[-10.0, 10.0], [10.0, -10.0]])
    model = started([[0.0, 0.0], [900.0, 900.0]])
    for _ in range(4):
        model.update(sums(model, x))
    assert sums(model, x)["objective"] == 0


def test_several_empty_clusters_go_to_different_places(sums: Any) -> None:
    x = torch.cat([torch.randn(50, 2), torch.randn(50, 2) + 20, torch.randn(50, 2) - 20])
    model = started([[0.0, 0.0], [20.0, 20.0], [-20.0, -20.0], [900.0, 0.0], [901.0, 0.0], [902.0, 0.0]])
    objectives = []
    for _ in range(15):
        statistics = sums(model, x)
        objectives.append(statistics["objective"].item())
        model.update(statistics)
    assert (model.pi > 0).all()
    assert (torch.tensor(objectives).diff() >= 0).all()
    again = started([[0.0, 0.0], [20.0, 20.0], [-20.0, -20.0], [900.0, 0.0], [901.0, 0.0], [902.0, 0.0]])
    for _ in range(15):
        again.update(sums(again, x))
    assert torch.equal(model.mu, again.mu)


def test_more_clusters_than_can_be_filled_do_no_harm(sums: Any) -> None:
    x = torch.tensor([[0.0], [0.0], [1.0]])
    model = started([[0.0], [1.0], [5.0], [6.0]])
    for _ in range(5):
        model.update(sums(model, x))
    assert sums(model, x)["objective"] == 0
    assert model.mu.isfinite().all()
    assert model.pi.sum().item() == pytest.approx(1)


def test_draws_are_centres_as_often_as_their_clusters_are_large(digits: Tensor, fit: Any) -> None:
    model = KMeans((1, 8, 8), 5)
    fit(model, digits, 5)
    x = model.sample(20_000, generator=torch.Generator().manual_seed(0))
    k = model.encode(x)
    assert torch.equal(x, model.decode(k))
    assert torch.allclose(k.bincount(minlength=5) / len(k), model.pi.float(), atol=0.02)


def test_ties_go_to_the_first_centre_in_every_batch() -> None:
    """Distances that are equal are so to the bit, whatever else is in the batch."""
    x, mu = 100 + torch.rand(500, 30), 100 + torch.rand(30)
    # Single-precision numbers, so that x -+ delta are exact in double precision.
    middle, delta = torch.rand(2).tolist()
    x[:, 0] = middle
    model = started([[middle - delta, *mu[1:].tolist()], [middle + delta, *mu[1:].tolist()]])
    for size in (500, 64, 7, 1):
        assert all((model.encode(batch) == 0).all() for batch in x.split(size))


def test_kmeans_plus_plus_chooses_examples_by_their_squared_distance() -> None:
    x = torch.tensor([[0.0], [1.0], [3.0]], dtype=torch.float64)
    pairs = torch.stack([kmeans_plus_plus(x, 2)[:, 0] for _ in range(20_000)]).long()
    share = torch.zeros(4, 4).index_put_(tuple(pairs.T), torch.tensor(1 / 20_000), accumulate=True)
    # P(first) = 1/3; then 0: 1 and 9, 1: 1 and 4, 3: 9 and 4 squared from it.
    expected = {(0, 1): 0.1, (0, 3): 0.9, (1, 0): 0.2, (1, 3): 0.8, (3, 0): 9 / 13, (3, 1): 4 / 13}
    for (a, b), p in expected.items():
        assert share[a, b].item() == pytest.approx(p / 3, abs=0.015)
    assert share.diagonal().sum() == 0


def test_more_clusters_than_different_examples_are_refused() -> None:
    with pytest.raises(ConfigError, match="needs 3 different examples, one for each centre, got 2"):
        KMeans((1,), 3).begin(torch.tensor([[0.0], [1.0], [1.0], [0.0]]))
