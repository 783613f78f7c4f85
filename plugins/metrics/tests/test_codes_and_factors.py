"""What is kept of codes and factors, which columns are factors, and what is refused with which sentence."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from zoo_metrics.disentanglement.codes_and_factors import (
    CodesAndFactors,
    FactorMetric,
    factor_columns,
    mean_codes,
    measurement,
    train_and_test,
)

from tests.registered import coded_model, image, model
from zoo_core import ConfigError, Measurement


class Kept(FactorMetric):
    """Measures nothing."""

    least_codes, least_factors = 2, 2

    def compute(self) -> dict[str, Measurement]:
        return {}


class Encodes:
    """Encodes an image to its pixels, as it is told."""

    def __init__(self, z: Any = None) -> None:
        self.z = z

    def encode(self, x: Tensor) -> Tensor:
        return self.z if self.z is not None else x


def kept(batches: Sequence[dict[str, Any]], **options: Any) -> CodesAndFactors:
    metric = Kept(**options)
    for batch in batches:
        metric.update(Encodes(), batch)
    return metric.kept_pairs()


def batch(n: int = 6, **columns: Any) -> dict[str, Any]:
    z = torch.arange(n * 6.0).view(n, 3, 2)
    return {"image": z, "caption": ["a"] * n, "b": torch.arange(n) % 3 + 5, "a": -(torch.arange(n) // 3), **columns}


# what is kept


def test_codes_are_rows_and_factors_are_places_among_their_values() -> None:
    found = kept([batch()])
    assert found.names == ("a", "b")
    assert torch.equal(found.z, batch()["image"].flatten(1).double())
    assert found.v.tolist() == [[1, 0], [1, 1], [1, 2], [0, 0], [0, 1], [0, 2]]


def test_batches_do_not_matter_nor_does_the_order_of_columns() -> None:
    whole = batch(11)
    pieces = [{name: column[i : i + 4] for name, column in whole.items()} for i in (0, 4, 8)]
    for pieced in (pieces, [dict(reversed(piece.items())) for piece in pieces]):
        assert all(torch.equal(a, b) for a, b in zip(kept([whole])[:2], kept(pieced)[:2], strict=True))
        assert kept(pieced).names == ("a", "b")


def test_factors_that_do_not_vary_are_left_out() -> None:
    assert kept([batch(always=torch.full((6,), 3), never=torch.zeros(6).long())]).names == ("a", "b")


def test_reset_forgets() -> None:
    metric = Kept()
    metric.update(Encodes(), batch(8))
    metric.reset()
    metric.update(Encodes(), batch(6))
    assert len(metric.kept_pairs().z) == 6


def test_no_examples_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"^metric 'Kept' has been given no examples$"):
        kept([])


def test_a_measurement_tells_what_it_depends_on() -> None:
    pairs = kept([batch()])
    found = measurement(torch.tensor(0.25), pairs, bins=20)
    assert (found.value, found.n, found.about) == (0.25, 6, {"factors": ["a", "b"], "bins": 20})
    assert math.isnan(found.error)


# which columns are factors


@pytest.mark.parametrize(
    ("columns", "chosen", "expected"),
    [
        ({"a": torch.arange(3), "b": torch.arange(3)}, None, ["a", "b"]),
        ({"label": torch.arange(3), "b": torch.arange(3)}, None, ["b"]),
        ({"label": torch.arange(3)}, None, ["label"]),
        ({"label": torch.arange(3), "b": torch.arange(3)}, ["label"], ["label"]),
        ({"a": torch.arange(3), "b": torch.arange(3)}, ["b"], ["b"]),
        # Neither text, nor real numbers, nor codes, nor the image of bytes.
        ({"caption": ["x"] * 3, "r": torch.rand(3), "k": torch.ones(3, 2).long(), "b": torch.arange(3)}, None, ["b"]),
    ],
)  # fmt: skip
def test_factors_are_columns_of_integers(columns: Any, chosen: Any, expected: list[str]) -> None:
    found = factor_columns({"image": torch.zeros(3, 1, 2, 2), **columns}, chosen, "metric 'mig'")
    assert list(found) == expected
    assert all(found[name] is columns[name] for name in expected)


def test_data_without_factors_are_refused() -> None:
    with pytest.raises(
        ConfigError,
        match=r"^metric 'mig' needs data whose factors are known, .*; these have image, caption$",
    ):
        factor_columns({"image": torch.zeros(3, 2), "caption": ["a"] * 3}, None, "metric 'mig'")


@pytest.mark.parametrize("missing", ["colour", "caption"])
def test_a_factor_that_the_data_do_not_have_is_refused(missing: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"^metric 'Kept': factors: the data have no .* '{missing}'; there are: b, a$"
    ):
        kept([batch()], factors=["a", missing])


@pytest.mark.parametrize("factors", [["a", "always"], None])
def test_too_few_factors_that_vary_are_refused(factors: list[str] | None) -> None:
    told = batch(always=torch.ones(6).long())
    del told["b"]
    with pytest.raises(
        ConfigError, match=r"^metric 'Kept' needs 2 or more .* vary over these 6 examples are: a\. Meas"
    ):
        kept([told], factors=factors)


def test_too_few_factors_are_refused_before_anything_is_gathered() -> None:
    metric = Kept(factors=["b"])
    with pytest.raises(
        ConfigError, match=r"^metric 'Kept' needs 2 or more factors, and those of the data are: b\. Meas"
    ):
        metric.update(Encodes(), batch())
    assert not metric.rows


# which codes are codes


def test_codes_are_the_models_means() -> None:
    vae, x = model(), image(4)
    assert torch.equal(mean_codes(vae, x, "metric 'mig'"), vae.encoder(x).mean)


def test_a_model_that_does_not_encode_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^metric 'Kept' needs a model that encodes; object does not$"):
        Kept().update(object(), batch())


def test_codes_of_a_codebook_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"^metric 'Kept' needs real codes; VQVAE encodes to labels, torch\.int64"):
        Kept().update(coded_model(), {**batch(4), "image": image(4)})


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_codes_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(ConfigError, match=r"^metric 'Kept' needs finite codes, and Encodes encodes some .* to nan"):
        Kept().update(Encodes(torch.tensor([[0.0], [value]])), batch(2))


def test_a_single_code_is_refused_where_codes_are_compared() -> None:
    with pytest.raises(ConfigError, match=r"^metric 'Kept' compares codes, and the model has only 1$"):
        kept([{**batch(), "image": torch.rand(6, 1)}])


def test_codes_are_kept_without_gradients() -> None:
    metric = Kept()
    metric.update(Encodes(), {**batch(), "image": torch.rand(6, 3, requires_grad=True)})
    assert not metric.kept_pairs().z.requires_grad


# what is learned from, and what is tested on


@pytest.mark.parametrize(
    ("n", "expected"), [(20_000, (10_000, 5_000)), (15_000, (10_000, 5_000)), (9_000, (6_000, 3_000)), (2, (1, 1))]
)
def test_examples_are_split_in_proportion(n: int, expected: tuple[int, int]) -> None:
    train, test = train_and_test(n, 10_000, 5_000, seed=0)
    assert (len(train), len(test)) == expected
    both = torch.cat([train, test])
    assert len(both.unique()) == len(both)
    assert 0 <= both.min() <= both.max() < n


def test_a_split_is_a_shuffle_by_its_seed() -> None:
    first, again, other = (torch.cat(train_and_test(300, 200, 100, seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first, torch.arange(300))


def test_a_single_example_cannot_be_split() -> None:
    with pytest.raises(ConfigError, match=r"^1 examples cannot be split into some to learn from and some to test on"):
        train_and_test(1, 10_000, 5_000, seed=0)
