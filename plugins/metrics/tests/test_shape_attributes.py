"""Reading pictures of shapes: whole scenes right, through blur and noise too; sentences as the grammar has them."""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv2d, interpolate, pad
from zoo_metrics.shape_attributes import ATTRIBUTES, TRUTH, ShapeAttributes, caption_holds
from zoo_metrics.shape_reading import best_fit, read_scene

from zoo_core import ConfigError, DataError, GenerativeModel, Measurement, build, evaluate
from zoo_core.data import RGB, WORDINGS, InMemory, captions, load, render

Factors = Mapping[str, Tensor]


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    """One thread: on a busy machine, threads that wait for each other take a hundred times as long."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
    torch.set_num_threads(threads)


def scenes(n: int, split: str = "test", seed: int = 7, **options: Any) -> dict[str, Any]:
    """Examples that no other seed of the data set has, with their pictures in [0, 1]."""
    batch = load("shapes", split, length=n, seed=seed, **options).batch(torch.arange(n))
    return {**batch, "image": drawn(batch)} if "image_size" not in options else floats(batch)


def floats(batch: Mapping[str, Any]) -> dict[str, Any]:
    return {**batch, "image": batch["image"] / 255}


def drawn(factors: Mapping[str, Any], image_size: int = 32) -> Tensor:
    return render({name: c for name, c in factors.items() if isinstance(c, Tensor)}, image_size) / 255


def turned(factors: Mapping[str, Any]) -> dict[str, Any]:
    """The same scenes with two objects' numbers exchanged."""
    pair = factors["count"] == 2
    other = {f"{name}_{k}": f"{name}_{3 - k}" for name in (*ATTRIBUTES, "shift_x", "shift_y") for k in (1, 2)}
    exchanged = {name: torch.where(pair, factors[o], factors[name]) for name, o in other.items()}
    relation = torch.where(pair, factors["relation"] ^ 1, factors["relation"])
    return {**factors, **exchanged, "relation": relation}


def whole(read: Factors, truth: Factors) -> Tensor:
    """Whether a scene is read right in every attribute, in either order of its objects, (B,)."""
    same = [torch.stack([read[n] == t[n] for n in (*TRUTH, "background")]).all(0) for t in (truth, turned(truth))]
    return same[0] | same[1]


def share(right: Tensor) -> float:
    return right.double().mean().item()


def blurred(x: Tensor, sigma: float) -> Tensor:
    weights = (-0.5 * (torch.arange(-5, 6) / sigma).square()).exp()
    kernel = (weights / weights.sum()).view(1, 1, 1, -1)
    planes = pad(x.flatten(0, 1).unsqueeze(1), (5, 5, 5, 5), mode="replicate")
    return conv2d(conv2d(planes, kernel), kernel.transpose(2, 3)).view_as(x)


def noisy(x: Tensor, sigma: float) -> Tensor:
    return (x + sigma * torch.randn_like(x)).clamp(0, 1)


def uneven(x: Tensor, sigma: float) -> Tensor:
    """Under soft spots of colour, of about four pixels."""
    return x + sigma * interpolate(torch.randn(len(x), 3, 8, 8), x.shape[2:], mode="bilinear")


def decibels(x: Tensor, y: Tensor) -> float:
    return -10 * (x - y).square().mean().log10().item()


# reading


@pytest.mark.parametrize("split", ["test", "novel"])
@pytest.mark.parametrize("objects", [1, 2])
def test_drawn_scenes_are_read_entirely_right(split: str, objects: int) -> None:
    batch = scenes(60, split, objects=objects)
    assert share(whole(read_scene(batch["image"]), batch)) >= 0.99


WORN: dict[str, tuple[Callable[[Tensor], Tensor], float]] = {
    "blur of 1 pixel": (lambda x: blurred(x, 1), 28.5),
    "noise of 0.05": (lambda x: noisy(x, 0.05), 27),
    "blur of 0.7 and noise of 0.05": (lambda x: noisy(blurred(x, 0.7), 0.05), 25.5),
    "blur of 0.7 and spots of 0.06": (lambda x: uneven(blurred(x, 0.7), 0.06), 29),
}


@pytest.mark.parametrize("wear", WORN)
def test_scenes_are_read_through_blur_and_noise(wear: str) -> None:
    """About as far from the original as a compressing model's decoder gets; the second figure bounds it in dB."""
    change, at_most = WORN[wear]
    batch = scenes(100)
    worn = change(batch["image"])
    assert decibels(worn, batch["image"]) < at_most
    assert share(whole(read_scene(worn), batch)) >= 0.97


def test_colours_that_are_off_or_paler_are_still_those_colours() -> None:
    batch = scenes(50)
    x = batch["image"]
    ground = x[:, :, :1, :1]
    for changed in (ground + 0.7 * (x - ground), x + 0.03 * torch.randn(len(x), 3, 1, 1)):
        read = read_scene(changed)
        assert share(whole({**read, "background": batch["background"]}, batch)) >= 0.97


@pytest.mark.parametrize("image_size", [16, 24, 33, 48])
def test_pictures_of_other_sizes_are_read(image_size: int) -> None:
    batch = scenes(40, image_size=image_size)
    assert share(whole(read_scene(batch["image"]), batch)) >= 0.99


def test_what_is_read_draws_the_picture_again() -> None:
    """The shifts are read to a fraction of a pixel: half a step of the search is 4 thousandths."""
    batch = scenes(50)
    read = read_scene(batch["image"])
    assert decibels(drawn(read), batch["image"]) > 35
    best = turned(batch) | {"count": batch["count"]}
    straight = (read["position_1"] == batch["position_1"]) & (read["colour_1"] == batch["colour_1"])
    for name in ("shift_x_1", "shift_y_1"):
        off = (read[name] - torch.where(straight, batch[name], best[name])).abs().double()
        assert off.mean() < 4
        assert (read[name].abs() <= 25).all()


def test_the_energy_of_a_fit_is_what_it_explains() -> None:
    rest = noisy(scenes(40)["image"], 0.05) - 0.1
    fit = best_fit(rest)
    left = (rest - fit.drawn).square().flatten(1).sum(1)
    # But for the margin of a blurred drawing that lies outside the picture.
    torch.testing.assert_close(fit.energy, rest.square().flatten(1).sum(1) - left, rtol=3e-3, atol=0.03)


def test_an_object_off_its_place_counts_for_the_nearest() -> None:
    batch = scenes(60)
    read = read_scene(batch["image"].roll((2, -2), (2, 3)))
    assert share(whole(read, batch)) >= 0.95
    shifts = torch.stack([read["shift_x_1"], read["shift_y_1"]])
    assert (shifts.abs() <= 25).all()
    assert share(shifts[1] == 25) > 0.5


def test_a_picture_is_read_alike_whatever_its_batch() -> None:
    batch = scenes(60)
    together = read_scene(batch["image"])
    apart = [read_scene(x) for x in torch.split(batch["image"], 25)]
    assert all(torch.equal(column, torch.cat([a[name] for a in apart])) for name, column in together.items())


def test_objects_are_counted() -> None:
    corners = {"colour_1": 0, "shape_1": 1, "size_1": 0, "position_1": 0, "colour_2": 2, "shape_2": 0, "size_2": 0}
    pair = {name: torch.tensor([value]) for name, value in {**corners, "position_2": 2}.items()}
    third = {**pair, "position_1": torch.tensor([6]), "position_2": torch.tensor([8])}
    empty = torch.full((1, 3, 32, 32), 24 / 255)
    single = {name: column for name, column in pair.items() if name.endswith("1")}
    pictures = [empty, drawn(single), drawn(pair), torch.maximum(drawn(pair), drawn(third))]
    read = read_scene(torch.cat(pictures))
    assert read["count"].tolist() == [0, 1, 2, 3]
    assert read["colour_1"][0] == read["shape_1"][0] == read["position_1"][0] == read["relation"][1] == -1


def test_an_ink_that_is_no_colour_has_a_shape_alone() -> None:
    """Pink, which lies between red, purple and white."""
    batch = scenes(60, objects=1)
    ground, white = 8 / 255, 250 / 255
    plain = {**batch, "colour_1": torch.full_like(batch["count"], 7), "background": torch.zeros_like(batch["count"])}
    covered = (drawn(plain) - ground) / (white - ground)
    pink = torch.tensor([255, 105, 180]).view(3, 1, 1) / 255
    read = read_scene(ground + covered * (pink - ground))
    assert (read["colour_1"] == -1).all()
    assert share(whole({**read, "colour_1": plain["colour_1"]}, plain)) >= 0.99
    first = (ground + covered * (pink - ground))[:1].expand(len(RGB), -1, -1, -1)
    told = {name: plain[name][:1].expand(len(RGB)) for name in TRUTH} | {"colour_1": torch.arange(len(RGB))}
    assert not caption_holds(first, captions(told, torch.ones_like(told["count"]))).any()


def bar() -> Tensor:
    """A thin red bar, which is no shape."""
    x = torch.full((1, 3, 32, 32), 8 / 255)
    x[0, :, 13:17, 6:26] = torch.tensor(RGB["red"]).view(3, 1, 1) / 255
    return x


def disc(**changes: int) -> Tensor:
    """A big white disc in the middle, unless something else is asked for, on the darkest ground."""
    usual = {"colour_1": 7, "shape_1": 0, "size_1": 1, "position_1": 4}
    return drawn({name: torch.tensor([value]) for name, value in {**usual, **changes}.items()})


def grey_disc() -> Tensor:
    """White at less than a third of its contrast, which is no colour."""
    return 8 / 255 + 0.3 * (disc() - 8 / 255)


def grey_disc_beside_another() -> Tensor:
    """A small red one, which would be read without the big grey one."""
    return torch.maximum(disc(colour_1=0, size_1=0, position_1=0), grey_disc())


def scrambled() -> Tensor:
    """Scenes cut into squares of 8 pixels, which are laid out anew."""
    squares = scenes(50)["image"].unfold(2, 8, 8).unfold(3, 8, 8).flatten(2, 3)[:, :, torch.randperm(16)]
    return squares.view(-1, 3, 4, 4, 8, 8).transpose(3, 4).reshape(-1, 3, 32, 32)


NOTHING: dict[str, Callable[[], Tensor]] = {
    "noise": lambda: torch.rand(50, 3, 32, 32),
    "black": lambda: torch.zeros(2, 3, 32, 32),
    "white": lambda: torch.ones(2, 3, 32, 32),
    "not a number": lambda: torch.full((2, 3, 32, 32), torch.nan),
    "a bar": bar,
    "a grey disc": grey_disc,
    "a grey disc beside a red one": grey_disc_beside_another,
    "scrambled": scrambled,
    "soft spots": lambda: uneven(torch.full((50, 3, 32, 32), 0.1), 0.5).clamp(0, 1),
    "a scene on a bright ground": lambda: (scenes(20)["image"] + 0.4).clamp(0, 1),
}


@pytest.mark.parametrize("kind", NOTHING)
def test_garbage_is_called_garbage(kind: str) -> None:
    read = read_scene(NOTHING[kind]())
    unreadable = (read["count"] == 0) | (read["count"] == 3) | (read["shape_1"] < 0)
    unreadable |= (read["count"] == 2) & (read["shape_2"] < 0)
    assert share(unreadable | (read["colour_1"] < 0)) >= 0.98


def test_a_ruined_object_does_not_spoil_the_other() -> None:
    """A small one on the left loses every second line of its pixels, beside a big one."""
    batch = scenes(800, objects=2)
    chosen = (batch["relation"] == 0) & (batch["size_1"] == 0) & (batch["size_2"] == 1)
    x = batch["image"][chosen][:40]
    x[:, :, ::2, :15] = x[:, :, :1, :1]
    read = read_scene(x)
    intact = torch.stack([batch[f"{name}_2"][chosen][:40] for name in ATTRIBUTES], 1)
    found = [torch.stack([read[f"{name}_{k}"] for name in ATTRIBUTES], 1) for k in (1, 2)]
    assert len(x) == 40
    assert share((found[0] == intact).all(1) | (found[1] == intact).all(1)) >= 0.95
    assert share((read["shape_1"] < 0) | (read["shape_2"] < 0) | (read["count"] > 2)) >= 0.95
    alone = {f"{name}_1": intact[:, place] for place, name in enumerate(ATTRIBUTES)}
    assert not caption_holds(x, captions(alone, torch.ones(40, dtype=torch.int64))).any()


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 1, 32, 32), (1, 3, 32, 24), (1, 3, 8, 8), (0, 3, 32, 32)])
def test_what_is_no_batch_of_pictures_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=r"\(B, 3, S, S\)"):
        read_scene(torch.zeros(shape))


def test_stored_bytes_are_refused() -> None:
    with pytest.raises(DataError, match="divide these"):
        read_scene(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))


# sentences


def sentences(factors: Factors) -> list[set[str]]:
    """All that the grammar has to say of each scene."""
    told = [captions(factors, torch.full_like(factors["shape_1"], w)) for w in range(WORDINGS)]
    return [set(row) for row in zip(*told, strict=True)]


def test_a_caption_holds_of_its_own_picture() -> None:
    for split in ("test", "novel"):
        batch = scenes(50, split)
        assert share(caption_holds(batch["image"], batch["caption"])) >= 0.99


def test_every_sentence_of_a_scene_holds_in_either_order_of_its_objects() -> None:
    batch = scenes(3)
    for i, told in enumerate(sentences(batch)):
        assert caption_holds(batch["image"][i].expand(len(told), -1, -1, -1), sorted(told)).all()
    assert sentences(batch) == sentences(turned(batch))


def next_of(values: int) -> Callable[[Factors, str], Factors]:
    """Another value of one attribute, in all scenes."""
    return lambda factors, name: {name: (factors[name] + 1) % values}


def mirrored(factors: Factors, _: str = "") -> Factors:
    """Pairs with the objects' sides exchanged: the relation is the inverse, the places too are others."""
    across, down = factors["relation"] < 2, factors["relation"] >= 2
    changed = {}
    for k in (1, 2):
        row, column = factors[f"position_{k}"] // 3, factors[f"position_{k}"] % 3
        mirror = 3 * torch.where(down, 2 - row, row) + torch.where(across, 2 - column, column)
        changed[f"position_{k}"] = torch.where(factors["count"] == 2, mirror, factors[f"position_{k}"])
    return {**changed, "relation": torch.where(factors["count"] == 2, factors["relation"] ^ 1, -1)}


CHANGES: dict[str, Callable[[Factors, str], Factors]] = {
    "colour_1": next_of(8),
    "shape_1": next_of(8),
    "size_1": next_of(2),
    "position_1": next_of(9),
    "relation": mirrored,
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_makes_the_sentences_wrong_that_say_it(name: str) -> None:
    batch = scenes(60, objects=2 if name == "relation" else 1)
    changed = {**batch, **CHANGES[name](batch, name)}
    expected = [said in told for said, told in zip(batch["caption"], sentences(changed), strict=True)]
    holds = caption_holds(drawn(changed), batch["caption"])
    assert share(holds == torch.tensor(expected)) >= 0.99
    # Of two objects of one name it holds either way round.
    always_said = name in ("colour_1", "shape_1", "relation")
    assert (sum(expected) > 0.05 * len(expected)) != always_said
    assert sum(expected) < 0.9 * len(expected)


@pytest.mark.parametrize("attribute", ["colour", "shape", "size"])
def test_attributes_that_are_exchanged_between_two_objects_are_found_wrong(attribute: str) -> None:
    batch = scenes(60, objects=2)
    a, b = f"{attribute}_1", f"{attribute}_2"
    changed = {**batch, a: batch[b], b: batch[a]}
    expected = [said in told for said, told in zip(batch["caption"], sentences(changed), strict=True)]
    assert share(caption_holds(drawn(changed), batch["caption"]) == torch.tensor(expected)) >= 0.99
    assert sum(expected) < 0.7 * len(expected)


def test_a_second_object_makes_the_sentence_of_one_wrong_and_one_that_of_two() -> None:
    batch = scenes(40, objects=2)
    first = {**batch, "shape_2": torch.full_like(batch["shape_2"], -1), "count": torch.ones_like(batch["count"])}
    said = captions({**first, "relation": torch.full_like(batch["count"], -1)}, torch.ones_like(batch["count"]))
    assert share(caption_holds(drawn(first), said)) >= 0.98
    assert not caption_holds(batch["image"], said).any()
    assert not caption_holds(drawn(first), batch["caption"]).any()


def test_of_what_cannot_be_read_and_of_what_the_grammar_does_not_say_nothing_holds() -> None:
    batch = scenes(20)
    assert not caption_holds(torch.zeros(20, 3, 32, 32), batch["caption"]).any()
    assert not caption_holds(batch["image"], [f"{said}!" for said in batch["caption"]]).any()


def test_as_many_sentences_as_pictures_are_needed() -> None:
    with pytest.raises(DataError, match="got 2 and 1"):
        caption_holds(torch.zeros(2, 3, 32, 32), ["a red circle"])


# the metric


class Painter(GenerativeModel):
    """Draws the scene of each example after a change: p(x|caption) that knows the answer, or another one."""

    def __init__(self) -> None:
        super().__init__()
        self.data_shape = (3, 32, 32)
        self.change: Callable[[dict[str, Any]], Factors] = dict
        self.told: Mapping[str, Any] = {}

    def given(self, batch: Mapping[str, Any]) -> "Painter":
        self.told = batch
        return self

    def draw(self, n: int) -> Tensor:
        assert n == len(self.told["caption"])
        return drawn(self.change(dict(self.told)))


def painter(change: Callable[[dict[str, Any]], Factors] = dict) -> Painter:
    model = Painter()
    model.change = change
    return model


def update(metric: ShapeAttributes, model: Painter, batch: Mapping[str, Any]) -> None:
    view = model.given(batch)
    metric.update(view, {**batch, "sample": view.sample(len(batch["caption"]))})


def measured(model: Painter, batch: Mapping[str, Any]) -> dict[str, Measurement]:
    metric = ShapeAttributes()
    update(metric, model, batch)
    return metric.compute()


def values(measurements: Mapping[str, Measurement]) -> dict[str, float]:
    return {name.removesuffix("_accuracy"): m.value for name, m in measurements.items()}


ALL = {"caption", "caption_accuracy_one", "caption_accuracy_two", "count", *ATTRIBUTES, "relation"}


def test_a_model_that_draws_what_is_said_is_right_in_all() -> None:
    data = load("shapes", "novel", length=100, seed=9)
    found = evaluate(painter(), [build("metrics/shape_attributes")], data, batch=40)
    assert values(found) == pytest.approx(dict.fromkeys(ALL, 1), abs=0.005)
    assert {m.unit for m in found.values()} == {"1"}


def test_each_value_is_over_the_examples_that_say_it() -> None:
    batch = scenes(100)
    n = {name.removesuffix("_accuracy"): m.n for name, m in measured(painter(), batch).items()}
    said = batch["caption"]
    sized = sum(bool(re.search("small|little|big|large", sentence)) for sentence in said)
    placed = sum(bool(re.search(r"\b(in|at|on) the ", sentence)) for sentence in said)
    two = int((batch["count"] == 2).sum())
    halves = {"caption_accuracy_one": 100 - two, "caption_accuracy_two": two, "relation": two}
    every = dict.fromkeys(("caption", "count", "colour", "shape"), 100)
    assert n == {**every, **halves, "size": sized, "position": placed}
    assert 0 < placed < sized < 100


def test_a_model_that_shuffles_pictures_gets_what_the_exact_comparison_gives() -> None:
    """Of two values of each attribute, so that many a shuffled picture fits many a sentence."""
    batch = scenes(100, objects=1)
    few = {f"{name}_1": batch[f"{name}_1"] % 2 for name in ATTRIBUTES}
    batch = {**batch, **few}
    batch["caption"] = captions({n: c for n, c in batch.items() if n in TRUTH}, torch.arange(100) % WORDINGS)
    order = torch.randperm(100)
    shuffled = {name: column[order] for name, column in batch.items() if isinstance(column, Tensor)}
    found = values(measured(painter(lambda _: shuffled), batch))
    expected = [said in told for said, told in zip(batch["caption"], sentences(shuffled), strict=True)]
    assert 0.05 < sum(expected) / 100 < 0.5
    assert found["caption"] == found["caption_accuracy_one"] == pytest.approx(sum(expected) / 100, abs=0.01)
    for name in ("colour", "shape"):
        same = share(shuffled[f"{name}_1"] == batch[f"{name}_1"])
        assert found[name] == pytest.approx(same, abs=0.01)
    assert found["count"] == 1
    assert "relation" not in found
    assert "caption_accuracy_two" not in found


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_a_wrong_attribute_is_wrong_in_its_own_accuracy_alone(attribute: str) -> None:
    name = f"{attribute}_1"
    batch = scenes(60, objects=1)
    found = values(measured(painter(lambda told: {**told, **CHANGES[name](told, name)}), batch))
    others = {"count", *ATTRIBUTES} - {attribute}
    assert found[attribute] == 0
    assert {other: found[other] for other in others} == pytest.approx(dict.fromkeys(others, 1), abs=0.01)


def rows(batch: Mapping[str, Any], order: Tensor) -> dict[str, Any]:
    return {name: c[order] if isinstance(c, Tensor) else [c[i] for i in order] for name, c in batch.items()}


def unlike_pairs() -> dict[str, Any]:
    """Pairs in which there is no doubt which object is which, even if the colour of the first is the next one."""
    batch = scenes(100, objects=2)
    unlike = (batch["shape_1"] != batch["shape_2"]) & ((batch["colour_2"] - batch["colour_1"]) % 8 > 1)
    return rows(batch, unlike.nonzero().squeeze(1))


def test_one_wrong_object_of_two_is_half() -> None:
    batch = unlike_pairs()
    found = values(measured(painter(lambda told: {**told, **CHANGES["colour_1"](told, "colour_1")}), batch))
    assert found["colour"] == 0.5
    assert found["caption"] == found["caption_accuracy_two"] == 0
    assert {n: found[n] for n in ("shape", "size", "position", "relation")} == pytest.approx(
        {"shape": 1, "size": 1, "position": 1, "relation": 1}, abs=0.02
    )


def test_mirrored_pairs_have_the_inverse_relation_and_else_what_they_had() -> None:
    found = values(measured(painter(lambda told: {**told, **mirrored(told)}), unlike_pairs()))
    assert found["relation"] == found["caption"] == found["position"] == 0
    assert {found[name] for name in ("colour", "shape", "size", "count")} == {1}


def test_a_missing_object_is_wrong_in_all_its_attributes() -> None:
    batch = scenes(60, objects=2)
    absent = torch.full_like(batch["count"], -1)
    found = values(measured(painter(lambda told: {**told, "shape_2": absent}), batch))
    assert found["count"] == found["relation"] == found["caption"] == 0
    assert found["colour"] == found["shape"] == pytest.approx(0.5, abs=0.01)


def test_which_object_is_the_first_makes_no_difference() -> None:
    batch = scenes(40, objects=2)
    for change in (dict, lambda told: {**told, **CHANGES["colour_1"](told, "colour_1")}):
        pictures = drawn(change(batch))
        model = painter()
        model.draw = lambda n, x=pictures: x  # type: ignore[method-assign, misc]
        assert measured(model, turned(batch)) == measured(model, batch)


def test_two_like_objects_stand_in_the_order_that_is_right() -> None:
    """A red ring left of a red ring: no attribute tells them apart, and the relation is right all the same."""
    batch = {name: c for name, c in scenes(30, objects=2).items() if name in TRUTH}
    batch |= {f"{name}_2": batch[f"{name}_1"] for name in ("colour", "shape", "size")}
    for wording in (0, 1, 90):
        said = captions(batch, torch.full_like(batch["count"], wording))
        found = values(measured(painter(), {**batch, "caption": said}))
        assert found["relation"] == found["caption"] == found["colour"] == 1


def test_states_of_two_halves_add_up_to_that_of_the_whole() -> None:
    batch = scenes(60)
    # The first half has no pairs, and the second has nothing else.
    batch = rows(batch, torch.argsort(batch["count"], stable=True))
    one = int((batch["count"] == 1).sum())
    model, metrics = painter(lambda told: {**told, "size_1": 1 - told["size_1"]}), [ShapeAttributes() for _ in range(3)]
    for metric, half in zip(metrics, (slice(None), slice(0, one), slice(one, None)), strict=True):
        part = {name: column[half] for name, column in batch.items()}
        update(metric, model, part)
    both, first, second = (metric.state for metric in metrics)
    assert "relation_accuracy" not in first
    assert both.keys() == first.keys() | second.keys()
    for name, state in both.items():
        torch.testing.assert_close(sum(part[name] for part in (first, second) if name in part), state)
    metrics[0].reset()
    assert metrics[0].compute() == {}


# refusals


@pytest.mark.parametrize("name", ["caption", "colour_2", "relation"])
def test_data_without_the_columns_are_refused(name: str) -> None:
    batch = scenes(4)
    del batch[name]
    with pytest.raises(ConfigError, match=f"the data set 'shapes'.* no '{name}'"):
        ShapeAttributes().update(painter(), batch)


def test_other_data_sets_are_refused() -> None:
    images = torch.zeros(4, 3, 32, 32, dtype=torch.uint8)
    data = InMemory("blank", "test", {"image": images, "caption": ["nothing"] * 4})
    with pytest.raises(ConfigError, match="the data set 'shapes'"):
        evaluate(painter(lambda told: scenes(4)), [ShapeAttributes()], data)


def test_captions_of_another_grammar_are_refused() -> None:
    batch = scenes(4)
    batch["caption"][2] = "un cercle rouge"
    with pytest.raises(DataError, match="'un cercle rouge' is none of them"):
        ShapeAttributes().update(painter(), batch)


@pytest.mark.parametrize("shape", [(1, 32, 32), (3, 8, 8), (3, 32, 16), (5,)])
def test_a_model_of_other_data_is_refused(shape: tuple[int, ...]) -> None:
    model = painter()
    model.data_shape = shape
    with pytest.raises(ConfigError, match="Painter"):
        ShapeAttributes().update(model, scenes(2))
