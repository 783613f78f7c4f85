"""Modularity of tables of information that were made by hand, and against its definition in numpy."""

import numpy
import pytest
import torch
from zoo_metrics.disentanglement.modularity import modularity


@pytest.mark.parametrize(
    ("information", "expected"),
    [
        ([2.0, 0.0, 0.0], 1),  # of one factor alone
        ([0.3, 0.3, 0.3], 0),  # of all alike
        ([0.0, 0.0, 0.0], 0),  # of nothing
        ([1.0, 1.0, 0.0], 1 / 2),
        ([2.0, 1.0, 0.0], 1 - 1 / (4 * 2)),
        ([1.0, 2.0, 1.0], 1 - 2 / (4 * 2)),
    ],
)
def test_of_one_code(information: list[float], expected: float) -> None:
    assert modularity(torch.tensor([information])).item() == pytest.approx(expected)
    # The unit of information does not matter.
    assert modularity(7 * torch.tensor([information])).item() == pytest.approx(expected)


def test_two_codes_of_one_factor_are_as_modular_as_two_of_two() -> None:
    assert modularity(torch.tensor([[1.0, 0.0], [1.0, 0.0]])).tolist() == [1, 1]
    assert modularity(torch.tensor([[1.0, 0.0], [0.0, 1.0]])).tolist() == [1, 1]


def test_it_is_the_distance_to_a_template_of_one_factor() -> None:
    """As the paper has it: t_ia = m_ia at the largest, 0 elsewhere, and the squares of what differs."""
    m = torch.rand(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    template = numpy.where(m == m.max(1, keepdims=True).values, m, 0)
    deviation = ((m.numpy() - template) ** 2).sum(1) / (template.max(1) ** 2 * 3)
    assert modularity(m).tolist() == pytest.approx((1 - deviation).tolist())
