"""Disentanglement and completeness of importances made by hand, and what trees find in known codes."""

import math

import pytest
import torch
from scipy.stats import entropy
from sklearn.ensemble import GradientBoostingClassifier
from torch import Tensor
from zoo_metrics.disentanglement.codes_and_factors import CodesAndFactors, train_and_test
from zoo_metrics.disentanglement.dci import DCI, boosted, disentanglement

from zoo_core import ConfigError

NAMES = ("a", "b")


def known(n: int) -> CodesAndFactors:
    """Two factors of three and two values, and codes: of the second, of nothing, of the first."""
    g = torch.Generator().manual_seed(0)
    v = torch.stack([torch.randint(0, 3, (n,), generator=g), torch.randint(0, 2, (n,), generator=g)], 1)
    noise = torch.randn(n, 3, generator=g, dtype=torch.float64)
    z = torch.stack([-5.0 * v[:, 1], torch.zeros(n), 3.0 * v[:, 0]], 1).double()
    return CodesAndFactors(z + 0.1 * noise, v, NAMES)


@pytest.mark.parametrize(
    ("R", "d", "c"),
    [
        ([[1.0, 0.0], [0.0, 1.0]], 1, 1),
        ([[1.0, 1.0], [1.0, 1.0]], 0, 0),
        ([[0.0, 0.0], [0.0, 0.0]], 0, 0),
        # Two codes for each factor: disentangled, but only half as complete as four codes can be.
        ([[0.5, 0.0], [0.5, 0.0], [0.0, 0.5], [0.0, 0.5]], 1, 1 - math.log(2) / math.log(4)),
        # One code for all factors: complete, and as entangled as can be.
        ([[1.0, 1.0], [0.0, 0.0]], 0, 1),
        # A code has the weight of what it matters: three quarters of all to the first, which has both alike.
        ([[1.5, 1.5], [1.0, 0.0]], 1 / 4, None),
    ],
)
def test_of_known_importances(R: list[list[float]], d: float, c: float | None) -> None:
    importances = torch.tensor(R, dtype=torch.float64)
    assert disentanglement(importances).item() == pytest.approx(d, abs=1e-8)
    if c is not None:
        assert disentanglement(importances.T).item() == pytest.approx(c, abs=1e-8)


def test_it_is_its_definition_in_scipy() -> None:
    R = torch.rand(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    concentrations = 1 - entropy(R.T.numpy() + 1e-11, base=3)
    expected = (R.sum(1).numpy() / R.sum().item() * concentrations).sum()
    assert disentanglement(R).item() == pytest.approx(expected, rel=1e-12)


def test_trees_find_the_code_of_each_factor() -> None:
    pairs = known(300)
    train, test = train_and_test(300, 200, 100, seed=0)
    R, accuracies = boosted(pairs, train, test, estimators=10, seed=0)
    assert R.shape == (3, 2)
    assert R.argmax(0).tolist() == [2, 0]
    assert R.sum(0).tolist() == pytest.approx([1, 1])
    assert accuracies.tolist() == [1, 1]
    assert disentanglement(R).item() == pytest.approx(1, abs=0.01)
    assert disentanglement(R.T).item() == pytest.approx(1, abs=0.01)


def test_accuracies_are_those_on_what_was_not_learned_from() -> None:
    """Labels that are drawn anew for each example: learned by heart where they are seen, by chance elsewhere."""
    g = torch.Generator().manual_seed(0)
    v = torch.randint(0, 2, (120, 2), generator=g)
    pairs = CodesAndFactors(torch.randn(120, 4, generator=g, dtype=torch.float64), v, NAMES)
    train, test = train_and_test(120, 80, 40, seed=0)
    assert boosted(pairs, train, train, 50, 0).accuracies.tolist() == pytest.approx([1, 1], abs=0.02)
    assert boosted(pairs, train, test, 50, 0).accuracies.mean().item() == pytest.approx(0.5, abs=0.2)


def test_a_seed_tells_everything() -> None:
    pairs = known(90)
    noisy = pairs._replace(z=pairs.z + 3 * torch.randn(90, 3, generator=torch.Generator().manual_seed(1)))
    rows = train_and_test(90, 60, 30, seed=0)
    first, again = (boosted(noisy, *rows, estimators=3, seed=-1) for _ in range(2))
    assert torch.equal(first.importances, again.importances)


def test_the_metric_is_that_of_the_split_and_the_trees_of_its_seed() -> None:
    pairs = known(90)
    noisy = pairs._replace(z=pairs.z + 3 * torch.randn(90, 3, generator=torch.Generator().manual_seed(1)))
    metric = DCI(estimators=3, train_examples=60, test_examples=20, seed=5)
    metric.keep(codes=noisy.z, **{f"factor: {name}": v for name, v in zip(NAMES, noisy.v.T, strict=True)})
    R, accuracies = boosted(noisy, *train_and_test(90, 60, 20, seed=5), estimators=3, seed=5)
    expected = [disentanglement(R).item(), disentanglement(R.T).item(), accuracies.mean().item()]
    assert [m.value for m in metric.compute().values()] == expected


def test_the_number_of_trees_is_that_of_the_argument(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    fit = GradientBoostingClassifier.fit

    def watched(self: GradientBoostingClassifier, X: Tensor, y: Tensor) -> GradientBoostingClassifier:
        seen.append(self.n_estimators)
        return fit(self, X, y)

    monkeypatch.setattr(GradientBoostingClassifier, "fit", watched)
    boosted(known(30), *train_and_test(30, 20, 10, seed=0), estimators=2, seed=0)
    assert seen == [2, 2]
    assert DCI().estimators == 100


def test_a_factor_that_does_not_vary_where_it_is_learned_is_refused_by_name() -> None:
    pairs = known(30)
    train = (pairs.v[:, 1] == 0).nonzero().squeeze(1)
    with pytest.raises(ConfigError, match=r"^among the \d+ examples to learn from 'b' has only one value; measure on"):
        boosted(pairs, train, train, estimators=2, seed=0)
