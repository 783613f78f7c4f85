"""What ``results.json`` holds, how evaluations are told apart, and when a repetition agrees."""

import json
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.tiny import vae
from zoo_core import CheckpointError, ConfigError, Measurement
from zoo_core.data import InMemory, load
from zoo_core.evaluation import measure, read_results, rounded
from zoo_core.evaluation.results import compared, document, results, tolerance, with_evaluation
from zoo_core.files import write_json

SHAPE = (1, 8, 8)


@pytest.fixture(scope="module")
def data() -> InMemory:
    image = torch.randint(0, 256, (30, *SHAPE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return InMemory("noise", "test", {"image": image})


def evaluation(data: InMemory, value: float = 1.0, error: float = 0.5, **settings: Any) -> dict[str, Any]:
    measured = {"elbo": Measurement(value, error, 30, "nats", "higher", {"k": 3})}
    return results(measured, data, **{"seed": 0, "batch": 100, "metrics": ["elbo"], "device": "cpu", **settings})


def test_a_value_is_told_with_all_that_decides_it(data: InMemory) -> None:
    told = measure(vae(SHAPE), ["elbo", {"type": "mse"}], data, batch=7, examples=20, seed=3)
    assert told["metrics"] == ["metrics/elbo", "metrics/mse"]
    assert (told["batch"], told["examples"], told["seed"], told["processes"]) == (7, 20, 3, 1)
    assert told["data_fingerprint"] == data.fingerprint
    assert told["seconds"] >= 0
    assert {"zoo-core", "zoo-metrics", "torch"} == set(told["versions"])
    value = told["values"]["distortion"]
    assert (value["n"], value["unit"], value["better"]) == (20, "nats", "lower")
    assert told["values"]["elbo"]["better"] == "higher"


def test_what_one_metric_draws_does_not_depend_on_the_others(data: InMemory) -> None:
    alone = measure(vae(SHAPE), ["metrics/iwae"], data)["values"]["iwae_500"]
    together = measure(vae(SHAPE), ["metrics/elbo", "metrics/mse", "metrics/iwae"], data)["values"]["iwae_500"]
    assert alone == together


def test_the_file_comes_back_and_has_no_infinities(data: InMemory, tmp_path: Any) -> None:
    told = evaluation(data, math.inf, math.nan)
    assert told["values"]["elbo"]["value"] is told["values"]["elbo"]["error"] is None
    write_json(tmp_path / "results.json", document([told]))
    assert read_results(tmp_path / "results.json") == [told]
    assert read_results(tmp_path / "none.json") == []


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", "no valid JSON"),
        ("[]", "format 1"),
        (json.dumps({"format": 2, "evaluations": []}), "format 1"),
        (json.dumps({"values": {}}), "format 1"),
        (json.dumps({"format": 1}), "evaluations: must be a list"),
        (json.dumps({"format": 1, "evaluations": [{"data": "x"}]}), "evaluations: must be a list"),
    ],
)
def test_a_damaged_file_is_refused_by_name(content: str, sentence: str, tmp_path: Any) -> None:
    path = tmp_path / "results.json"
    path.write_text(content)
    with pytest.raises(CheckpointError, match=f"results.json: .*{sentence}"):
        read_results(path)


def test_an_evaluation_takes_the_place_of_the_one_with_its_settings(data: InMemory) -> None:
    first, second = evaluation(data), evaluation(data, seed=1)
    again = {**evaluation(data, 2.0), "seconds": 9.0}
    assert with_evaluation([first, second], again) == [again, second]
    assert with_evaluation([first], second) == [first, second]
    for setting in (
        {"batch": 5},
        {"examples": 3},
        {"extractor": "pixels"},
        {"options": {"a": 1}},
        {"metrics": ["mse"]},
    ):
        assert len(with_evaluation([first], evaluation(data, **setting))) == 2


@given(value=st.floats(-1e6, 1e6), error=st.floats(1e-6, 1e3))
def test_a_repetition_agrees_within_a_tenth_of_the_error(value: float, error: float) -> None:
    told = {"value": value, "error": error}
    assert tolerance(told) == pytest.approx(error / 10)
    assert tolerance(told, same_device=False) == pytest.approx(4 * math.sqrt(2) * error)


@given(value=st.floats(-1e6, 1e6))
def test_without_an_error_it_agrees_within_a_thousandth(value: float) -> None:
    for error in (None, 0.0):
        assert tolerance({"value": value, "error": error}) == pytest.approx(max(abs(value), 1e-3) / 1000)


def test_what_agrees_and_what_does_not(data: InMemory) -> None:
    claimed = evaluation(data, 1.0, 0.5)
    for value, agrees in ((1.0, True), (1.049, True), (0.951, True), (1.06, False), (0.94, False), (math.inf, False)):
        (pair,) = compared(claimed, evaluation(data, value, 0.5))
        assert pair.agrees is agrees
    (pair,) = compared(claimed, evaluation(data, 2.0, 0.5, device="cuda"))
    assert pair.agrees
    infinite = evaluation(data, math.inf, math.nan)
    assert compared(infinite, infinite)[0].agrees


def test_other_data_and_missing_values_are_refused(data: InMemory) -> None:
    other = InMemory("noise", "test", {"image": torch.zeros(3, *SHAPE, dtype=torch.uint8)})
    with pytest.raises(ConfigError, match="'noise', split 'test', are not those of the claim: fingerprint"):
        compared(evaluation(data), evaluation(other))
    with pytest.raises(ConfigError, match="what is claimed as 'elbo' is not measured by"):
        compared(evaluation(data), {**evaluation(data), "values": {}})


def test_values_are_rounded_by_their_errors() -> None:
    assert rounded(-88.3711, 0.2311) == "-88.37"
    assert rounded(10.0, None) == "10"
    assert rounded(None, None) == "none"


def test_fewer_examples_than_a_metric_takes_are_warned_of() -> None:
    with pytest.warns(UserWarning, match="'fd' says little of 12 examples: it takes"):
        measure(vae((1, 8, 8)), ["metrics/fd"], load("digits", "test"), examples=12, extractor="metrics/pixels")
