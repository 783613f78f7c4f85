"""Votes and majorities against loops in numpy, and the score against a simulator that draws new examples."""

import numpy
import pytest
import torch
from torch import Tensor
from zoo_metrics.disentanglement.factor_vae import FactorVAEScore, active, majorities, majority_accuracy, votes_for

VALUES = (3, 4, 6)


class Codes:
    """Encodes each image to itself."""

    def encode(self, x: Tensor) -> Tensor:
        return x


def simulate(v: numpy.ndarray, rng: numpy.random.Generator) -> numpy.ndarray:
    """Codes of factors (n, 3), partly entangled and noisy: one of two factors, one of one, noise, and a dead one."""
    z = numpy.stack([v[:, 0] + 0.35 * v[:, 1], 0.5 * v[:, 1], 0.4 * v[:, 2], 0 * v[:, 0]], 1).astype(float)
    return z + rng.normal(size=z.shape) * numpy.array([0.6, 1.2, 1.0, 0.01])


def simulated_score(seed: int, votes: int, batch: int, min_std: float) -> float:
    """As the study computes it, one draw after the other, from examples that nobody else sees."""
    rng = numpy.random.default_rng(seed)
    spread = simulate(rng.integers(0, VALUES, (10_000, 3)), rng).var(0, ddof=1)
    taking_part = [i for i in range(4) if numpy.sqrt(spread[i]) >= min_std]

    def vote() -> tuple[int, int]:
        k = int(rng.integers(3))
        v = rng.integers(0, VALUES, (batch, 3))
        v[:, k] = v[0, k]
        z = simulate(v, rng)
        return min(taking_part, key=lambda i: z[:, i].var(ddof=1) / spread[i]), k

    table = numpy.zeros((4, 3))
    for _ in range(votes):
        table[vote()] += 1
    best = table.argmax(1)
    return float(numpy.mean([best[i] == k for i, k in (vote() for _ in range(votes))]))


@pytest.mark.parametrize("batch", [4, 16])
def test_it_is_the_score_of_a_simulator(batch: int) -> None:
    rng = numpy.random.default_rng(0)
    v = rng.integers(0, VALUES, (10_000, 3))
    metric = FactorVAEScore(batch=batch)
    z = torch.from_numpy(simulate(v, rng))
    metric.update(Codes(), {"image": z, **{f"f{j}": torch.from_numpy(column) for j, column in enumerate(v.T)}})
    expected = simulated_score(1, 3000, batch, 0.05)
    assert 0.4 < expected < 0.97
    assert metric.compute()["factor_vae_score"].value == pytest.approx(expected, abs=0.035)


def test_votes_are_those_of_a_loop() -> None:
    g = torch.Generator().manual_seed(0)
    z = torch.randn(200, 5, generator=g, dtype=torch.float64) * torch.tensor([1, 0.01, 3, 0.2, 0])
    rows = torch.randint(0, 200, (50, 7), generator=g)
    found = votes_for(z, rows, min_std=0.05).tolist()
    everything = z.numpy()
    expected = []
    for batch in rows.numpy():
        ratios = {i: everything[batch, i].var(ddof=1) / everything[:, i].var(ddof=1) for i in (0, 2, 3)}
        expected.append(min(ratios, key=ratios.__getitem__))
    assert found == expected
    assert set(found) == {0, 2, 3}


def test_codes_that_hardly_vary_take_no_part() -> None:
    z = torch.linspace(-1, 1, 101, dtype=torch.float64).unsqueeze(1) * torch.tensor([1.0, 0.04, 0.2, 0.0])
    assert active(z, 0.05).tolist() == [True, False, True, False]
    assert active(z, 0.0).tolist() == [True, True, True, False]


def test_no_vote_depends_on_anything_where_no_code_takes_part() -> None:
    """Also where the codes that are too small would tell the factor."""
    z = torch.stack([torch.zeros(40), torch.arange(40) % 2 * 0.01], 1).double()
    rows = torch.tensor([[0, 2, 4], [0, 1, 2], [1, 3, 5]])
    assert votes_for(z, rows, min_std=0.05).tolist() == [0, 0, 0]


def test_a_code_stands_for_the_factor_of_most_votes() -> None:
    voted, k = torch.tensor([0, 0, 0, 2, 2, 2, 3]), torch.tensor([1, 1, 0, 0, 2, 2, 2])
    assert majorities(voted, k, codes=4).tolist() == [1, 0, 2, 2]


def test_the_classifier_is_tested_on_votes_that_it_has_not_seen() -> None:
    """Where what it learned from says the opposite of what it is tested on, it is always wrong."""
    voted, k = torch.arange(40) % 2, torch.cat([torch.arange(20) % 2, (torch.arange(20) + 1) % 2])
    assert majority_accuracy(voted, k, train=20) == 0
    assert majority_accuracy(voted, torch.arange(40) % 2, train=20) == 1


def test_one_vote_makes_a_poor_classifier() -> None:
    """Each code but one then stands for the first factor, whatever it would tell."""
    v = torch.cartesian_prod(*map(torch.arange, VALUES)).repeat(3, 1)
    batch = {"image": v.double(), **{f"f{j}": column for j, column in enumerate(v.T)}}
    few, many = FactorVAEScore(train_votes=1, test_votes=3000), FactorVAEScore(train_votes=300, test_votes=3000)
    for metric in (few, many):
        metric.update(Codes(), batch)
    assert few.compute()["factor_vae_score"].value == pytest.approx(1 / 3, abs=0.35)
    assert many.compute()["factor_vae_score"].value == 1
