"""What all metrics of disentanglement have in common, and what each of them says of codes that are known."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from zoo_core import ConfigError, Measurement, build, evaluate
from zoo_core.components import Batch, GenerativeModel
from zoo_core.data import load

VOTES = {"train_votes": 400, "test_votes": 400}
QUICK: Mapping[str, dict[str, Any]] = {
    "mig": {},
    "dci": {"estimators": 5, "train_examples": 200, "test_examples": 200},
    "sap": {},
    "modularity": {},
    "factor_vae_score": VOTES,
    "beta_vae_score": VOTES,
}
VALUES = (2, 2, 3)
NAMES = ("colour", "shape", "size")
every_metric = pytest.mark.parametrize("name", QUICK)


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


class Codes(GenerativeModel):
    """Encodes each image to itself."""

    data_shape = (len(VALUES),)

    def encode(self, x: Tensor) -> Tensor:
        return x

    def draw(self, n: int) -> Tensor:
        raise NotImplementedError


class Knows(Codes):
    """Encodes each image to its factors, which it is told: a perfect code but for its scale."""

    data_shape = (3, 16, 16)

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.names = names

    def given(self, batch: Batch) -> GenerativeModel:
        view = Codes()
        view.encode = lambda x: 3.0 * torch.stack([batch[name] for name in self.names], 1)  # type: ignore[method-assign]
        return view


def factors(times: int = 40) -> Tensor:
    """Every combination of values, equally often, in any order: exactly independent."""
    every = torch.cartesian_prod(*map(torch.arange, VALUES)).repeat(times, 1)
    return every[torch.randperm(len(every))]


def measured(name: str, z: Tensor, v: Tensor, size: int = 10_000, **options: Any) -> dict[str, Measurement]:
    metric = build({"type": f"metrics/{name}", **QUICK[name], **options})
    batch = {"image": z, **dict(zip(NAMES, v.T, strict=False))}
    for start in range(0, len(z), size):
        metric.update(Codes(), {key: column[start : start + size] for key, column in batch.items()})
    found: dict[str, Measurement] = metric.compute()
    return found


def values(name: str, z: Tensor, v: Tensor, **options: Any) -> list[float]:
    return [m.value for m in measured(name, z, v, **options).values()]


def rotated(z: Tensor, degrees: float) -> Tensor:
    """In the plane of the first two."""
    t = math.radians(degrees)
    turn = torch.tensor([[math.cos(t), -math.sin(t)], [math.sin(t), math.cos(t)]], dtype=z.dtype)
    return torch.cat([z[:, :2] @ turn, z[:, 2:]], 1)


# what they say of known codes


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mig", [1] * 4),
        ("dci", [1, 1, 1]),
        ("modularity", [1]),
        ("factor_vae_score", [1]),
        ("beta_vae_score", [1]),
        # A code that is no factor of v_j says the commonest value; of three values a threshold cannot single out
        # the middle one.
        ("sap", [((1 - 1 / 2) + (1 - 1 / 2) + (2 / 3 - 1 / 3)) / 3]),
    ],
)
def test_of_a_perfect_code_in_any_order_and_scale(name: str, expected: list[float]) -> None:
    v = factors()
    z = v.double()[:, [2, 0, 1]] * torch.tensor([40.0, -30.0, 50.0]) + 7
    assert values(name, z, v) == pytest.approx(expected, abs=0.05 if name == "sap" else 1e-6)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mig", [0] * 4),
        ("dci", [0, 0, 4 / 9]),
        ("sap", [0]),
        ("factor_vae_score", [1 / 3]),
        ("beta_vae_score", [1 / 3]),
    ],
)
def test_of_noise(name: str, expected: list[float]) -> None:
    v = factors(400)
    found = values(name, torch.randn(len(v), 4), v)
    assert found == pytest.approx(expected, abs=0.15 if name == "dci" else 0.07)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mig", [0] * 4),
        ("dci", [0, 0, 4 / 9]),
        ("sap", [0]),
        ("modularity", [0]),
        ("factor_vae_score", [1 / 3]),
        ("beta_vae_score", [1 / 3]),
    ],
)
def test_of_constant_codes(name: str, expected: list[float]) -> None:
    """Nothing, and chance for what guesses; never nan."""
    v = factors()
    found = values(name, torch.full((len(v), 3), 1.5), v)
    chance = name in ("dci", "factor_vae_score", "beta_vae_score")
    assert found == pytest.approx(expected, abs=0.1 if chance else 0)
    if name == "dci":
        assert found[:2] == [0, 0]


@pytest.mark.parametrize("name", ["mig", "sap"])
def test_a_code_that_is_there_twice_has_no_gap(name: str) -> None:
    v = factors()
    z = v.double() + 0.1 * torch.randn(v.shape)
    assert values(name, torch.cat([z, z], 1), v) == [0] * (4 if name == "mig" else 1)


def test_a_code_that_is_there_twice_is_modular_and_disentangled_but_not_complete() -> None:
    v = factors()
    z = 10 * torch.cat([v, v], 1).double()
    assert values("modularity", z, v) == pytest.approx([1])
    d, c, informativeness = values("dci", z, v)
    assert d == pytest.approx(1, abs=1e-6)
    assert informativeness == 1
    assert 1 - math.log(2) / math.log(6) - 0.01 < c < 0.95


def test_a_rotated_code_has_no_gap_but_still_gets_the_highest_scores() -> None:
    v = factors()
    z = rotated(10 * v.double(), 25)
    mig = measured("mig", z, v)
    assert mig["mig_size"].value == pytest.approx(1)
    assert mig["mig_colour"].value < 0.1
    assert mig["mig_shape"].value < 0.1
    assert values("factor_vae_score", z, v) == [1]
    assert values("beta_vae_score", z, v) == [1]


def test_the_codes_of_finer_factors_are_entangled_by_a_rotation() -> None:
    v = torch.cartesian_prod(torch.arange(6), torch.arange(8)).repeat(10, 1)
    straight, turned = (rotated(v.double(), degrees) for degrees in (0, 25))
    assert values("dci", straight, v) == pytest.approx([1, 1, 1], abs=1e-6)
    assert max(values("dci", turned, v)[:2]) < 0.9
    assert values("mig", turned, v)[0] < 0.5 < values("mig", straight, v)[0]
    assert values("sap", turned, v)[0] < values("sap", straight, v)[0] - 0.05
    assert values("modularity", turned, v)[0] < 0.95
    assert values("factor_vae_score", turned, v) == values("beta_vae_score", turned, v) == [1]


@pytest.mark.parametrize("name", ["factor_vae_score", "beta_vae_score"])
def test_halfway_between_two_factors_no_code_tells_them_apart(name: str) -> None:
    """One factor of three is told always, each of the other two half of the time."""
    v = factors(200)
    z = rotated(10 * v.double(), 45) + torch.randn(v.shape)
    assert values(name, z, v) == pytest.approx([2 / 3], abs=0.07)


# what does not matter


@every_metric
def test_the_order_of_codes_does_not_matter(name: str) -> None:
    v = factors()
    z = rotated(v.double(), 20) + 0.3 * torch.randn(v.shape)
    again = values(name, z[:, [2, 0, 1]], v)
    # A tree may take the one or the other of two codes that split as well.
    assert again == pytest.approx(values(name, z, v), abs=0.02 if name == "dci" else 1e-3)


@every_metric
def test_what_the_values_of_a_factor_are_does_not_matter(name: str) -> None:
    v = factors()
    z = v.double() + 0.5 * torch.randn(v.shape)
    assert values(name, z, v * torch.tensor([9, 2, 5]) - 4) == values(name, z, v)


@every_metric
def test_batches_do_not_matter(name: str) -> None:
    v = factors()
    z = v.float() + 0.5 * torch.randn(v.shape)
    whole = measured(name, z, v)
    assert str(measured(name, z, v, size=37)) == str(whole)
    assert all(m.n == len(v) for m in whole.values())


@pytest.mark.parametrize("name", ["dci", "sap", "factor_vae_score", "beta_vae_score"])
def test_what_is_random_is_the_seeds_alone(name: str) -> None:
    v = factors()
    z = v.double() + 1.5 * torch.randn(v.shape)
    first = values(name, z, v, seed=3)
    torch.manual_seed(99)
    assert values(name, z, v, seed=3) == first
    assert values(name, z, v, seed=4) != first


@every_metric
def test_more_noise_is_never_better(name: str) -> None:
    v = factors(200)
    noise = torch.randn(v.shape)
    little, much = (values(name, 4 * v.double() + scale * noise, v) for scale in (0.4, 12.0))
    if name != "modularity":  # noise raises or lowers it
        assert all(a > b for a, b in zip(little, much, strict=True))
    assert all(0 <= value <= 1 for value in little + much)


@every_metric
def test_what_a_value_depends_on_can_be_written_down(name: str) -> None:
    v = factors()
    for m in measured(name, v.double() + torch.randn(v.shape), v).values():
        assert json.loads(json.dumps(m.about))["factors"] == sorted(NAMES)
        assert math.isnan(m.error)


# on the data that they are for


SEEN = ("background", "colour_1", "position_1", "shape_1", "shift_x_1", "shift_y_1", "size_1")


@pytest.fixture(scope="module")
def scenes() -> Any:
    return load("shapes", "test", image_size=16, objects=1)


def test_of_all_that_is_known_of_coloured_shapes(scenes: Any) -> None:
    """Colour and shape tell of each other, since one in eight of their pairs is held out: log(8/7) nats."""
    perfect = {
        name: m.value for name, m in evaluate(Knows(SEEN), [build("metrics/mig")], scenes, examples=3000).items()
    }
    for name in ("background", "position_1", "size_1"):
        assert perfect[f"mig_{name}"] == pytest.approx(1, abs=0.03)
    for name in ("colour_1", "shape_1"):
        assert perfect[f"mig_{name}"] == pytest.approx(1 - math.log(8 / 7) / math.log(8), abs=0.02)
    for name in ("shift_x_1", "shift_y_1"):
        assert perfect[f"mig_{name}"] == pytest.approx(math.log(20) / math.log(51), abs=0.1)
    assert len(perfect) == 1 + len(SEEN)


@pytest.mark.filterwarnings("ignore:metric .* says little of 300 examples")
@every_metric
def test_they_take_part_in_an_evaluation_by_name(scenes: Any, name: str) -> None:
    chosen = ["size_1", "background"]
    metric = build({"type": f"metrics/{name}", **QUICK[name], "factors": chosen})
    first = evaluate(Knows(chosen), [metric], scenes, examples=300, batch=100)
    again = evaluate(Knows(chosen), [metric], scenes, examples=300, batch=77)
    assert str(first) == str(again)
    assert all(m.unit == "1" and m.n == 300 for m in first.values())
    assert all(m.about["factors"] == sorted(chosen) for m in first.values())
    if name != "sap":
        assert [m.value for m in first.values()] == pytest.approx([1] * len(first), abs=0.06)


@every_metric
def test_data_without_factors_are_refused_before_anything_is_gathered(name: str) -> None:
    metric = build(f"metrics/{name}")
    with pytest.raises(ConfigError, match=rf"^metric '{name}' needs data whose factors .*'shapes' with objects: 1"):
        metric.update(Codes(), {"image": torch.rand(4, 3), "caption": ["a"] * 4})


@pytest.mark.parametrize("name", ["dci", "modularity", "factor_vae_score", "beta_vae_score"])
def test_a_single_factor_is_refused_by_what_compares_them(name: str) -> None:
    v = factors()
    with pytest.raises(ConfigError, match=rf"^metric '{name}' needs 2 or more factors, .* are: size\. Measure on"):
        values(name, v.double(), v, factors=["size"])


@pytest.mark.parametrize("name", ["mig", "sap"])
def test_a_single_factor_such_as_a_label_is_enough_for_a_gap(name: str) -> None:
    v = factors()
    found = values(name, 10 * v.double(), v, factors=["colour"])
    assert found == pytest.approx([1, 1] if name == "mig" else [0.5], abs=0.06)


@pytest.mark.parametrize("name", ["mig", "dci", "sap"])
def test_a_single_code_is_refused_by_what_compares_them(name: str) -> None:
    v = factors()
    with pytest.raises(ConfigError, match=r"compares codes, and the model has only 1$"):
        values(name, v[:, :1].double(), v)


@every_metric
def test_one_example_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"those that vary over these 1 examples are: none\. Measure on"):
        values(name, torch.rand(1, 3), factors()[:1])
