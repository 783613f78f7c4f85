"""Chow-Liu trees against every tree there is, and every state."""

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.csgraph import minimum_spanning_tree
from sklearn.metrics import mutual_info_score
from torch import Tensor
from zoo_classical.chow_liu import ChowLiu, mutual_information, pair_probabilities
from zoo_classical.spanning_tree import levels, maximum_spanning_tree

from zoo_core import ConfigError

many = settings(max_examples=40, deadline=None, derandomize=True, database=None)


def states(size: int) -> Tensor:
    return torch.tensor([*itertools.product([0.0, 1.0], repeat=size)])


def chained(n: int, size: int) -> Tensor:
    """Pixels each of which mostly repeats one before it, in an order that is not theirs."""
    x = torch.bernoulli(torch.full((n, 1), 0.4))
    for i in range(1, size):
        copied = x[:, [int(torch.randint(i, ()))]]
        x = torch.cat([x, torch.where(torch.rand(n, 1) < 0.75, copied, 1 - copied)], 1)
    return x[:, torch.randperm(size)]


def trees(size: int) -> list[list[tuple[int, int]]]:
    """All size^(size-2) spanning trees."""
    pairs = [*itertools.combinations(range(size), 2)]
    return [list(t) for t in itertools.combinations(pairs, size - 1) if spans(t, size)]


def spans(edges: Any, size: int) -> bool:
    reached = {0}
    for _ in range(size):
        reached |= {node for edge in edges if reached & {*edge} for node in edge}
    return len(reached) == size


def log_likelihood(x: Tensor, edges: list[tuple[int, int]]) -> float:
    """Σ log P(x) of the most likely model on a tree: Σ_edges log P(x_i, x_j) - Σ_i (degree_i - 1) log P(x_i)."""
    x = x.long()
    total = torch.zeros(len(x), dtype=torch.float64)
    for i, j in edges:
        pair = 2 * x[:, i] + x[:, j]
        total += (pair.bincount(minlength=4).double() / len(x)).log()[pair]
    for i in range(x.shape[1]):
        degree = sum(i in edge for edge in edges)
        total -= (degree - 1) * (x[:, i].bincount(minlength=2).double() / len(x)).log()[x[:, i]]
    return total.sum().item()


@pytest.mark.parametrize("seed", range(5))
def test_no_tree_is_more_likely(seed: int, fit: Any) -> None:
    torch.manual_seed(seed)
    x = chained(300, 5)
    likelihoods = {tuple(tree): log_likelihood(x, tree) for tree in trees(5)}
    assert len(likelihoods) == 125
    model = ChowLiu((5,), smoothing=1e-9)
    fit(model, x, 1)
    found = {tuple(sorted((i, int(p)))) for i, p in enumerate(model.parent.tolist()) if i != p}
    best = max(likelihoods, key=likelihoods.__getitem__)
    assert found == {*best}
    assert model.log_prob(x).sum().item() == pytest.approx(likelihoods[best], rel=1e-9)


def test_probabilities_sum_to_one(fit: Any) -> None:
    model = ChowLiu((2, 4))
    assert fit(model, chained(100, 8).view(100, 2, 4), 1)
    assert model.log_prob(states(8).view(-1, 2, 4)).exp().sum().item() == pytest.approx(1, abs=1e-12)


@many
@given(st.integers(1, 40), st.integers(1, 7), st.floats(1e-3, 10), st.integers(0, 2**32))
def test_they_do_so_for_any_data(n: int, size: int, smoothing: float, seed: int) -> None:
    torch.manual_seed(seed)
    model, x = ChowLiu((size,), smoothing), torch.rand(n, size).round()
    model.begin(x)
    model.update(model.statistics(x))
    p = model.log_prob(states(size)).exp()
    assert p.sum().item() == pytest.approx(1, abs=1e-12)
    assert p.min() > 0
    # Its marginals are the smoothed frequencies, on whatever tree.
    marginal = (p[:, None] * states(size)).sum(0)
    assert torch.allclose(marginal, (x.sum(0).double() + 2 * smoothing) / (n + 4 * smoothing))
    assert model.log_prob(x).sum() >= -n * size * torch.tensor(2.0).log() - 1e-9


def test_pairs_along_the_tree_have_their_smoothed_frequencies(fit: Any) -> None:
    model, x = ChowLiu((6,), smoothing=2.0), chained(200, 6)
    fit(model, x, 1)
    every, p = states(6), model.log_prob(states(6)).exp()
    for i, j in ((i, j) for i, j in enumerate(model.parent.tolist()) if i != j):
        for a, b in itertools.product([0, 1], repeat=2):
            there = p[(every[:, i] == a) & (every[:, j] == b)].sum()
            count = ((x[:, i] == a) & (x[:, j] == b)).sum()
            assert there.item() == pytest.approx((count.item() + 2) / (200 + 8))


def test_smoothing_is_noise_seen_before(fit: Any) -> None:
    """A quarter of an example in each state of two pixels is what every pair sees of uniform noise."""
    x = chained(64, 4)
    smoothed, plain = ChowLiu((4,), smoothing=4.0), ChowLiu((4,), smoothing=1e-12)
    fit(smoothed, x, 1)
    fit(plain, torch.cat([x, states(4)]), 1)  # 16 states: 4 in each state of a pair
    assert torch.allclose(smoothed.log_prob(states(4)), plain.log_prob(states(4)))


def test_mutual_information_is_that_of_scikit_learn() -> None:
    x = chained(150, 6)
    joint = pair_probabilities(torch.tensor(150.0).double(), (x.T @ x).double(), 1e-15)
    found = mutual_information(joint)
    for i, j in itertools.permutations(range(6), 2):
        assert found[i, j].item() == pytest.approx(mutual_info_score(x[:, i], x[:, j]), abs=1e-10)


@many
@given(st.integers(1, 30), st.integers(0, 2**32))
def test_the_spanning_tree_is_as_heavy_as_that_of_scipy(size: int, seed: int) -> None:
    torch.manual_seed(seed)
    weight = torch.rand(size, size, dtype=torch.float64) + 0.1
    weight = weight + weight.T
    parent = maximum_spanning_tree(weight)
    mine = sum(weight[i, p].item() for i, p in enumerate(parent.tolist()) if i != p)
    assert mine == pytest.approx(-minimum_spanning_tree(-weight.numpy()).sum())
    order = torch.cat([*levels(parent)]).tolist()
    assert sorted(order) == list(range(size))
    assert all(order.index(p) <= order.index(i) for i, p in enumerate(parent.tolist()))


def test_levels_hold_all_nodes_of_one_distance() -> None:
    parent = torch.tensor([0, 0, 1, 1, 0, 4, 5])
    assert [level.tolist() for level in levels(parent)] == [[0], [1, 4], [2, 3, 5], [6]]
    # A damaged file may hold a circle: it must not hang.
    assert [*levels(torch.tensor([1, 0]))] == []


def test_draws_are_as_frequent_as_their_probability(fit: Any) -> None:
    model = ChowLiu((1, 2, 3))
    fit(model, chained(200, 6).view(200, 1, 2, 3), 1)
    n = 100_000
    x = model.sample(n, generator=torch.Generator().manual_seed(0)).flatten(1)
    code = (x @ 2.0 ** torch.arange(5, -1, -1)).long()
    share, p = code.bincount(minlength=64) / n, model.log_prob(states(6).view(-1, 1, 2, 3)).exp()
    assert ((share - p).abs() < 5 * (p / n).sqrt()).all()


def test_what_it_gains_over_independent_pixels_is_the_mutual_information_along_the_tree(
    digits: Tensor, fit: Any
) -> None:
    x = digits.round()
    model = ChowLiu((1, 8, 8), smoothing=1e-12)
    _, first, second = fit(model, x, 2)
    assert first == second
    p, rows = x.double().mean(0).flatten(), x.flatten(1).numpy()
    independent = (torch.xlogy(p, p) + torch.xlogy(1 - p, 1 - p)).sum().item()
    gain = sum(mutual_info_score(rows[:, i], rows[:, j]) for i, j in enumerate(model.parent.tolist()) if i != j)
    assert gain > 4
    assert first == pytest.approx(independent + gain, rel=1e-9)


def test_pixels_between_0_and_1_are_refused(digits: Tensor, fit: Any) -> None:
    model = ChowLiu((1, 8, 8))
    for ask in (model.begin, model.statistics):
        with pytest.raises(ConfigError, match="ChowLiu needs pixels that are 0 or 1: set data"):
            ask(digits)
    fit(model, digits.round(), 1)
    with pytest.raises(ConfigError, match="0 or 1"):
        model.log_prob(digits)
    with pytest.raises(ConfigError, match="0 or 1"):
        model.log_prob(torch.full((1, 1, 8, 8), torch.nan))
