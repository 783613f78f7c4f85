"""Examples that share a value: that they do, that all of them come, and equally often."""

from typing import Any

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor
from zoo_metrics.disentanglement.same_value import (
    VALUES_AT_A_TIME,
    at_a_time,
    batches_of_one_value,
    grouped,
    pairs_of_one_value,
)

from zoo_core import ConfigError

# Of the first factor the least value, 0, is alone; of the second the groups have 3, 2 and 5 examples.
V = torch.tensor([[1, 2, 1, 2, 3, 3, 1, 2, 0, 3], [2, 0, 1, 2, 0, 2, 1, 2, 0, 2]]).T
NAMES = ("first", "second")


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def held(k: Tensor, rows: Tensor) -> Tensor:
    """The values of the factor k, (n,), in examples of rows (n, *)."""
    return V[rows.flatten(1), k.unsqueeze(1)].view_as(rows)


def even(counts: Tensor, expected: Tensor) -> bool:
    return bool(chisquare(counts, expected.double() / expected.sum() * counts.sum()).pvalue > 1e-3)


def test_a_batch_has_one_value_of_its_factor(generator: torch.Generator) -> None:
    k, rows = batches_of_one_value(grouped(V, NAMES), 500, 6, generator)
    assert k.shape == (500,)
    assert rows.shape == (500, 6)
    assert (held(k, rows) == held(k, rows[:, :1])).all()


def test_a_pair_has_one_value_of_its_factor_and_two_examples(generator: torch.Generator) -> None:
    k, rows = pairs_of_one_value(grouped(V, NAMES), 500, 6, generator)
    assert rows.shape == (500, 6, 2)
    values = held(k, rows)
    assert (values[..., 0] == values[..., 1]).all()
    assert (rows[..., 0] != rows[..., 1]).all()
    # Not one value for all pairs, as in a batch.
    assert (values[..., 0] != values[:, :1, 0]).any()


@pytest.mark.parametrize("draw", [batches_of_one_value, pairs_of_one_value])
def test_every_factor_and_every_example_that_is_not_alone_comes_equally_often(
    draw: Any, generator: torch.Generator
) -> None:
    k, rows = draw(grouped(V, NAMES), 6000, 1, generator)
    assert even(k.bincount(minlength=2), torch.ones(2))
    for member in rows.flatten(1).T:
        assert member[k == 0].ne(8).all()
        assert even(member[k == 0].bincount(minlength=10)[[i for i in range(10) if i != 8]], torch.ones(9))
        assert even(member[k == 1].bincount(minlength=10), torch.ones(10))


def test_any_two_of_a_group_meet_equally_often(generator: torch.Generator) -> None:
    k, rows = pairs_of_one_value(grouped(V, NAMES), 3000, 4, generator)
    first, second = rows[k == 1].flatten(0, 1).T
    met = (first * 10 + second).bincount(minlength=100).view(10, 10)
    same = (V[:, 1].unsqueeze(0) == V[:, 1].unsqueeze(1)) & ~torch.eye(10, dtype=torch.bool)
    assert (met[~same] == 0).all()
    # An example meets each of its group's others with the probability of one over their number.
    others = same.sum(1, keepdim=True).expand(10, 10)[same]
    assert even(met[same], 1 / others.double())


def test_members_of_a_batch_are_drawn_independently(generator: torch.Generator) -> None:
    k, rows = batches_of_one_value(grouped(V, NAMES), 20_000, 2, generator)
    largest = rows[(k == 1) & (held(k, rows)[:, 0] == 2)]
    met = (largest[:, 0] * 10 + largest[:, 1]).bincount(minlength=100)
    assert even(met[met > 0], torch.ones(25))


def test_equal_generators_give_equal_draws() -> None:
    for draw in (batches_of_one_value, pairs_of_one_value):
        a, b, c = (draw(grouped(V, NAMES), 50, 3, torch.Generator().manual_seed(s))[1] for s in (1, 1, 2))
        assert torch.equal(a, b)
        assert not torch.equal(a, c)


def test_a_factor_whose_values_no_two_share_is_refused_by_name() -> None:
    v = torch.stack([V[:, 0], torch.arange(10)], 1)
    with pytest.raises(ConfigError, match=r"^no two of 10 examples share a value of 'second': measure on more, or"):
        grouped(v, NAMES)


def test_pieces_are_all_the_rows_and_no_larger_than_is_said() -> None:
    rows = torch.arange(40_000).view(1000, 20, 2)
    pieces = at_a_time(rows, codes=5000)
    assert torch.equal(torch.cat(list(pieces)), rows)
    assert 1 < len(pieces) < 1000
    assert all(piece.numel() * 5000 <= VALUES_AT_A_TIME for piece in pieces)
    assert len(at_a_time(rows, codes=VALUES_AT_A_TIME)) == 1000
