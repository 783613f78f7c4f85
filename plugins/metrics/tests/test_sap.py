"""How well single codes predict factors: cases with known answers, and scikit-learn's machine by itself."""

import pytest
import torch
from sklearn.svm import LinearSVC
from zoo_metrics.disentanglement.codes_and_factors import CodesAndFactors, train_and_test
from zoo_metrics.disentanglement.sap import SAP, accuracy_gaps, predictability

from zoo_core import ConfigError


def binary(n: int) -> torch.Tensor:
    """Every combination of two factors of two values, equally often."""
    return torch.cartesian_prod(torch.arange(2), torch.arange(2)).repeat(n // 4, 1)


def test_the_gap_is_between_the_two_best() -> None:
    S = torch.tensor([[0.5, 0.9], [1.0, 0.2], [0.75, 0.9]])
    assert accuracy_gaps(S).tolist() == pytest.approx([0.25, 0])


def test_a_code_that_is_a_factor_predicts_it_and_no_other() -> None:
    v = binary(400)
    pairs = CodesAndFactors(10.0 * v.double(), v, ("a", "b"))
    rows = torch.arange(400)
    S = predictability(pairs, rows[:200], rows[200:], C=0.01)
    assert S.tolist() == [[1, 0.5], [0.5, 1]]


def test_a_threshold_cannot_single_out_values_in_the_middle() -> None:
    """Of three values in a row: the two outer ones are told apart from the rest, the inner one is not."""
    v = torch.arange(3).repeat(100).unsqueeze(1)
    pairs = CodesAndFactors(10.0 * v.double(), v, ("a",))
    rows = torch.arange(300)
    assert predictability(pairs, rows, rows, C=0.01).item() == pytest.approx(2 / 3)


@pytest.mark.parametrize("C", [0.01, 1.0])
def test_accuracies_are_those_of_scikit_learns_machine(C: float) -> None:
    g = torch.Generator().manual_seed(0)
    v = torch.stack([torch.randint(0, 4, (400,), generator=g), torch.rand(400, generator=g).gt(0.8).long()], 1)
    z = v.double() @ torch.tensor([[1.0, 0.3], [0.4, -2.0]]).double() + torch.randn(400, 2, generator=g)
    train, test = train_and_test(400, 200, 100, seed=0)
    found = predictability(CodesAndFactors(z, v, ("a", "b")), train, test, C)
    for i in range(2):
        for j in range(2):
            machine = LinearSVC(C=C, class_weight="balanced", dual=True, max_iter=100_000, tol=1e-8, random_state=0)
            machine.fit(z[train][:, [i]].numpy(), v[train, j].numpy())
            guessed = torch.from_numpy(machine.predict(z[test][:, [i]].numpy()))
            # The dual problem has the same solution, but for rounding: one example may lie on a threshold.
            assert found[i, j].item() == pytest.approx((guessed == v[test, j]).double().mean().item(), abs=0.011)


def test_a_factor_that_does_not_vary_where_it_is_learned_is_refused_by_name() -> None:
    v = binary(8)
    with pytest.raises(ConfigError, match=r"^among the 2 examples to learn from 'a' has only one value; measure on"):
        predictability(CodesAndFactors(v.double(), v, ("a", "b")), torch.tensor([0, 1]), torch.tensor([2]), C=1.0)


def test_defaults_are_the_studys() -> None:
    assert SAP().arguments == {
        "factors": None, "C": 0.01, "train_examples": 10_000, "test_examples": 5_000, "seed": 0,
    }  # fmt: skip
