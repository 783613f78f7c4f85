"""Whatever a config asks for, building it on the meta device ends soon and takes little memory."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import nn

from tests.registered import by_name, registrations, shapes, small
from tests.watched import Watched, watched
from zoo_core import ConfigError, ZooError, budget, build
from zoo_core.host import Registration

HUGE = 10**9
SECONDS, MEMORY = 2.0, 200e6
MLP = {
    "type": "vae/vae",
    "encoder": {"type": "nets/mlp_encoder", "latents": 2, "hidden": [8]},
    "decoder": {"type": "nets/mlp_decoder", "hidden": [8]},
    "prior": "nets/standard_normal",
}


def numbers(module: nn.Module) -> int:
    return sum(t.numel() for t in (*module.parameters(), *module.buffers()))


def layers(number: int) -> nn.Module:
    return nn.Sequential(*(nn.Linear(2, 3) for _ in range(number)))


@pytest.mark.parametrize("less", [0, 1])
def test_exactly_the_limit_is_allowed(less: int) -> None:
    model = build(MLP, "model", data_shape=(1, 4, 4))
    limit = numbers(model) - less
    with budget.within(limit):
        if less:
            with pytest.raises(ConfigError, match=f"more than {limit:,} parameters; .* raise max_parameters"):
                build(MLP, "model", data_shape=(1, 4, 4))
        else:
            build(MLP, "model", data_shape=(1, 4, 4))
    build(MLP, "model", data_shape=(1, 4, 4))  # and afterwards all is as before


def test_shared_tensors_and_modules_count_once() -> None:
    with budget.within(9):
        shared = nn.Linear(2, 3)
        both = nn.ModuleDict({"a": shared, "b": shared})
        both["a"].extra = shared.weight
    with budget.within(9), pytest.raises(ConfigError, match="more than 9 parameters"):
        layers(2)


def test_buffers_count() -> None:
    with budget.within(9), pytest.raises(ConfigError, match="more than 9 parameters"):
        nn.Module().register_buffer("table", torch.zeros(10))


def test_pieces_without_numbers_count_too() -> None:
    with budget.within(10**12):
        nn.Sequential(*(nn.Identity() for _ in range(5_001)))
    with budget.within(1e9), pytest.raises(ConfigError, match="more than 5,000 modules and tensors"):
        nn.Sequential(*(nn.Identity() for _ in range(5_001)))


def test_another_thread_is_not_counted() -> None:
    with budget.within(1), ThreadPoolExecutor(1) as others:
        others.submit(layers, 3).result()


def test_an_error_inside_leaves_nothing_behind() -> None:
    with pytest.raises(ConfigError), budget.within(1):
        layers(1)
    layers(1)


@pytest.mark.parametrize(("given", "limit"), [(None, 20_000_000_000), (5, 5), (1e3, 1000), ("7e9", 7_000_000_000)])
def test_the_limit_is_told_or_usual(given: Any, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(budget.VARIABLE, raising=False)
    assert budget.max_parameters(given) == limit
    if given is not None:
        monkeypatch.setenv(budget.VARIABLE, str(given))
        assert budget.max_parameters() == limit


@pytest.mark.parametrize("given", [0, -1, "x", "nan", "inf", ""])
def test_what_is_no_limit_is_refused(given: Any) -> None:
    with pytest.raises(ConfigError, match="max_parameters: must be a number of at least 1"):
        budget.max_parameters(given)


def test_a_part_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(budget.VARIABLE, "10")
    with pytest.raises(ConfigError, match=r"^encoder: more than 10 parameters"):
        budget.require(MLP, "model", data_shape=(1, 4, 4))
    wide = {**MLP, "encoder": {"type": "nets/mlp_encoder", "latents": 2, "hidden": [2**40, 2**40]}}
    monkeypatch.setenv(budget.VARIABLE, "1e30")
    with pytest.raises(ConfigError, match="more parameters than can be counted"):
        budget.require(wide, "model", data_shape=(1, 4, 4))


# --- everything registered ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def process() -> Iterator[Watched]:
    with watched() as running:
        running.call("tests.test_budget:build_huge", config=MLP, shapes={"data_shape": [1, 4, 4]})  # imports
        yield running


def test_the_command_line_sets_the_limit_of_every_command(process: Watched, tmp_path: Any) -> None:
    output = ("--output", tmp_path / "out.png")
    told = process.zoo("--max-parameters", "1000", "sample", "vae-mnist", *output)
    assert told.code == 2
    assert "config.json: encoder: more than 1,000 parameters; if that is meant, raise" in told.err
    assert "--max-parameters" in told.err
    # What one command sets holds in its process, which here is that of the next.
    assert process.zoo("--max-parameters", "2e10", "sample", "vae-mnist", *output).code == 0
    assert process.zoo("--max-parameters", "0", "list").code == 2


def enlarged(config: Any) -> Iterator[tuple[str, Any]]:
    """The config with one integer, or one list of integers, of its own set to 10^9; parts have their turn elsewhere."""
    for name, value in config.items():
        if type(value) is int:
            yield name, {**config, name: HUGE}
        elif isinstance(value, list) and value and all(type(item) is int for item in value):
            yield name, {**config, name: [HUGE] * len(value)}


def build_huge(config: Any, shapes: dict[str, Any]) -> str:
    """Called in the watched process; returns what was said."""
    try:
        with torch.device("meta"), budget.within(budget.max_parameters()):
            build(config, **{name: tuple(v) if isinstance(v, list) else v for name, v in shapes.items()})
    except MemoryError:
        raise
    except ZooError as error:
        return str(error)
    except Exception as error:  # as from_pretrained tells it
        return f"cannot be built on the meta device: {type(error).__name__}: {error}"
    return ""


@pytest.mark.parametrize("registration", registrations(), ids=by_name)
def test_a_huge_argument_ends_soon(registration: Registration, process: Watched) -> None:
    for name, config in enlarged(small(registration)):
        told = process.call("tests.test_budget:build_huge", config=config, shapes=shapes(registration))
        assert told["code"] == 0, (name, told["err"])
        assert told["seconds"] < SECONDS, (name, told["value"])
        assert told["grown"] < MEMORY, (name, told["value"])
        assert len(told["value"]) < 500
