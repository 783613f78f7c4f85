"""Differences against a loop, and the score against a simulator that draws new examples."""

import numpy
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from zoo_metrics.disentanglement.beta_vae import BetaVAEScore, logistic_accuracy, mean_differences

from zoo_core import ConfigError

VALUES = (3, 4, 6)


class Codes:
    """Encodes each image to itself."""

    def encode(self, x: Tensor) -> Tensor:
        return x


def simulate(v: numpy.ndarray, rng: numpy.random.Generator) -> numpy.ndarray:
    """Codes of factors (n, 3), partly entangled and noisy."""
    z = numpy.stack([v[:, 0] + 0.5 * v[:, 1], 0.5 * v[:, 1], 0.3 * v[:, 2]], 1).astype(float)
    return z + rng.normal(size=z.shape) * numpy.array([0.6, 1.2, 1.0])


def simulated_score(seed: int, votes: int, batch: int) -> float:
    """As the study computes it, one draw after the other, from examples that nobody else sees."""
    rng = numpy.random.default_rng(seed)

    def difference() -> tuple[numpy.ndarray, int]:
        k = int(rng.integers(3))
        first, second = rng.integers(0, VALUES, (2, batch, 3))
        second[:, k] = first[:, k]
        return numpy.abs(simulate(first, rng) - simulate(second, rng)).mean(0), k

    train, test = ([difference() for _ in range(votes)] for _ in range(2))
    x, k = zip(*train, strict=True)
    return float(LogisticRegression().fit(numpy.stack(x), k).score(*map(numpy.array, zip(*test, strict=True))))


@pytest.mark.parametrize("batch", [4, 16])
def test_it_is_the_score_of_a_simulator(batch: int) -> None:
    rng = numpy.random.default_rng(0)
    v = rng.integers(0, VALUES, (10_000, 3))
    metric = BetaVAEScore(batch=batch)
    z = torch.from_numpy(simulate(v, rng))
    metric.update(Codes(), {"image": z, **{f"f{j}": torch.from_numpy(column) for j, column in enumerate(v.T)}})
    expected = simulated_score(1, 3000, batch)
    assert 0.4 < expected < 0.97
    assert metric.compute()["beta_vae_score"].value == pytest.approx(expected, abs=0.035)


def test_differences_are_those_of_a_loop() -> None:
    g = torch.Generator().manual_seed(0)
    z = torch.randn(30, 4, generator=g, dtype=torch.float64)
    rows = torch.randint(0, 30, (6, 5, 2), generator=g)
    expected = [[sum(abs(z[a, i] - z[b, i]) for a, b in pairs) / 5 for i in range(4)] for pairs in rows]
    assert torch.allclose(mean_differences(z, rows), torch.tensor(expected, dtype=torch.float64))


def test_the_classifier_is_tested_on_what_it_has_not_seen() -> None:
    """Where what it learned from says the opposite of what it is tested on, it is always wrong."""
    differences = torch.tensor([0.0, 9.0]).double().repeat(20).unsqueeze(1)
    k = torch.cat([torch.arange(20) % 2, (torch.arange(20) + 1) % 2])
    assert logistic_accuracy(differences, k, train=20) == 0
    assert logistic_accuracy(differences, torch.arange(40) % 2, train=20) == 1


def test_too_few_to_learn_from_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"^among the 2 examples to learn from the factor has only one value"):
        logistic_accuracy(torch.rand(4, 2).double(), torch.tensor([0, 0, 1, 1]), train=2)
