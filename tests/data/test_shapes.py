"""The shapes data set: pure functions of an index, true captions, clean held-out combinations."""

import functools
import itertools
import random
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import zoo_core
from zoo_core.data.dataset import Dataset
from zoo_core.data.shapes import (
    BACKGROUNDS,
    COLOURS,
    FACTORS,
    POSITIONS,
    RELATIONS,
    SHAPES,
    SIZES,
    Shapes,
    canonical_caption,
    held_out,
    render,
)
from zoo_core.data.shapes_captions import WORDINGS, captions
from zoo_core.data.shapes_rendering import MAX_SHIFT, RGB

SPLITS = ("train", "test", "novel")
UNBOUNDED = 2**62
VALUES = {"colour": COLOURS, "shape": SHAPES, "size": SIZES, "position": POSITIONS}

splits = st.sampled_from(SPLITS)
indices = st.lists(st.integers(0, UNBOUNDED - 1), min_size=1, max_size=6).map(torch.tensor)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """On a busy machine, threads that wait for each other take a hundred times as long."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def scenes(split, n=20_000, **arguments):
    return Shapes(split, length=n, **arguments).factors(torch.arange(n))


def rows(factors):
    """Each scene as a dictionary of integers."""
    columns = {name: column.tolist() for name, column in factors.items()}
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def alone(factors, number):
    """The same scenes with one of their objects only, as a first object."""
    names = (*VALUES, "shift_x", "shift_y")
    kept = {f"{name}_1": factors[f"{name}_{number}"] for name in names}
    return {"background": factors["background"], **kept}


def coverage(factors, image_size=32):
    """Where an image differs from its background: bool (B, S, S)."""
    ground = torch.tensor(BACKGROUNDS)[factors["background"]].view(-1, 1, 1, 1)
    return (render(factors, image_size) != ground).any(1)


def all_singles(**fixed):
    """Every colour, shape, size and position, each at the nine extreme shifts."""
    shifts = (-MAX_SHIFT, 0, MAX_SHIFT)
    choices = {name: range(len(values)) for name, values in VALUES.items()}
    choices |= {"shift_x": shifts, "shift_y": shifts} | {k: (v,) for k, v in fixed.items()}
    table = torch.tensor(list(itertools.product(*choices.values())))
    factors = {f"{name}_1": column for name, column in zip(choices, table.unbind(1), strict=True)}
    return factors | {"background": torch.zeros(len(table), dtype=torch.int64)}


# A pure function of (seed, split, index)


@given(splits, indices)
@settings(max_examples=30, deadline=None)
def test_an_example_does_not_depend_on_its_batch(split, indices):
    data = Shapes(split, length=UNBOUNDED)
    together = data.batch(indices)
    for row, index in enumerate(indices):
        single = data.batch(index.unsqueeze(0))
        for name in data.columns:
            assert np.array_equal(together[name][row], single[name][0]), name


def test_images_do_not_depend_on_where_blocks_of_a_large_batch_begin():
    data = Shapes()
    order = torch.randperm(700, generator=torch.Generator().manual_seed(0))
    shuffled = data.batch(order)["image"]
    assert torch.equal(shuffled, data.batch(torch.arange(700))["image"][order])


DIGEST = """
import hashlib, torch
from zoo_core.data.shapes import Shapes
batch = Shapes("novel", seed=3, length=2**50).batch(torch.arange(2**41, 2**41 + 100))
text = repr([v.tolist() if isinstance(v, torch.Tensor) else v for v in batch.values()])
digest = hashlib.sha256(text.encode()).hexdigest()
"""


def test_another_process_draws_the_same():
    here = {}
    exec(DIGEST, here)
    program = f"import torch; torch.manual_seed(7); torch.set_num_threads(1)\n{DIGEST}print(digest)"
    root = Path(zoo_core.__file__).parents[1]
    command = [sys.executable, "-c", program]
    there = subprocess.run(command, capture_output=True, text=True, cwd=root)
    assert there.stdout.strip() == here["digest"], there.stderr


def test_global_random_numbers_are_neither_used_nor_advanced():
    before = torch.get_rng_state(), repr(np.random.get_state()), random.getstate()
    Shapes().batch(torch.arange(10))
    after = torch.get_rng_state(), repr(np.random.get_state()), random.getstate()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


@given(splits, indices, st.integers(0, 2**70), st.sampled_from((1, 2, None)))
@settings(max_examples=20, deadline=None)
def test_length_and_image_size_do_not_change_the_scenes(split, indices, seed, objects):
    short = Shapes(split, seed=seed, objects=objects, length=int(indices.max()) + 1)
    long = Shapes(split, seed=seed, objects=objects, length=UNBOUNDED, image_size=64)
    a, b = short.batch(indices), long.batch(indices)
    assert a["caption"] == b["caption"]
    assert all(torch.equal(a[name], b[name]) for name in FACTORS)


def test_seed_split_and_every_bit_of_the_index_change_the_scenes():
    n = torch.arange(200)
    variants = [
        Shapes("train").factors(n),
        Shapes("test").factors(n),
        Shapes("train", seed=1).factors(n),
        *(Shapes(length=UNBOUNDED).factors(n + 2**bit) for bit in (8, 31, 32, 40, 61)),
    ]
    for a, b in itertools.combinations(variants, 2):
        # Two of 8 x 8 x 2 x ... values agree by chance in one scene of hundreds.
        same = torch.stack([a[name] == b[name] for name in FACTORS]).all(0)
        assert same.float().mean() < 0.05


@pytest.mark.parametrize("objects", [1, 2, None])
def test_every_outcome_is_about_equally_frequent(objects):
    factors = scenes("train", objects=objects)
    present = factors["count"] == 2
    for name in ("colour_1", "shape_1", "size_1", "colour_2", "shape_2", "size_2", "relation"):
        column = factors[name] if name.endswith("_1") else factors[name][present]
        if len(column):
            share = torch.bincount(column).double() / len(column)
            expected = 1 / len(share)
            # Five standard deviations of a binomial share.
            spread = 5 * (expected * (1 - expected) / len(column)) ** 0.5
            assert (share - expected).abs().max() < spread, name


def test_the_draws_of_one_scene_are_independent():
    factors = scenes("train", objects=2)
    names = [name for name in FACTORS if name not in ("count", "position_1", "position_2")]
    table = torch.stack([factors[name].double() for name in names])
    correlation = torch.corrcoef(table).fill_diagonal_(0)
    # The rule itself ties shapes to colours and to each other, a little.
    assert correlation.abs().max() < 0.15
    free = [k for k, name in enumerate(names) if name[:5] in ("size_", "shift", "backg")]
    assert correlation[free].abs().max() < 5 / 20_000**0.5


# Held-out combinations


@pytest.mark.parametrize("objects", [1, 2, None])
def test_train_and_test_hold_nothing_held_out_and_every_novel_scene_does(objects):
    assert not held_out(scenes("train", objects=objects)).any()
    assert not held_out(scenes("test", objects=objects)).any()
    assert held_out(scenes("novel", objects=objects)).all()


@functools.cache
def shown(split):
    """The combinations of objects and of pairs in a split's scenes, as two sets of tuples."""
    objects, pairs = set(), set()
    for row in rows(scenes(split)):
        objects.add((row["colour_1"], row["shape_1"]))
        if row["count"] == 2:
            objects.add((row["colour_2"], row["shape_2"]))
            pairs.add((row["shape_1"], row["relation"], row["shape_2"]))
    return objects, pairs


def test_train_shows_all_combinations_but_an_eighth_and_novel_shows_that_eighth():
    objects, pairs = shown("train")
    new_objects, new_pairs = shown("novel")
    assert (len(objects), len(new_objects - objects)) == (56, 8)
    assert (len(pairs), len(new_pairs - pairs)) == (224, 32)


def test_each_colour_and_shape_is_held_out_equally_often():
    objects, pairs = shown("train")
    new_objects, new_pairs = shown("novel")
    missing, missing_pairs = new_objects - objects, new_pairs - pairs
    assert sorted(colour for colour, _ in missing) == list(range(8))
    assert sorted(shape for _, shape in missing) == list(range(8))
    for column in (0, 2):
        assert sorted(pair[column] for pair in missing_pairs) == sorted([*range(8)] * 4)


def test_a_held_out_pair_is_held_out_from_either_side():
    missing = shown("novel")[1] - shown("train")[1]
    inverse = {0: 1, 1: 0, 2: 3, 3: 2}
    assert missing == {(b, inverse[relation], a) for a, relation, b in missing}


def test_a_novel_scene_holds_exactly_one_held_out_combination():
    objects, pairs = shown("train")
    for row in rows(scenes("novel", 3000)):
        new = [(row["colour_1"], row["shape_1"]) not in objects]
        if row["count"] == 2:
            new.append((row["colour_2"], row["shape_2"]) not in objects)
            new.append((row["shape_1"], row["relation"], row["shape_2"]) not in pairs)
        assert sum(new) == 1


@pytest.mark.parametrize("split", SPLITS)
def test_every_single_value_occurs(split):
    factors = scenes(split)
    for name, values in VALUES.items():
        assert set(factors[f"{name}_1"].tolist()) == set(range(len(values)))
        # No second object lies in the centre: it would be next to the first.
        places = set(range(9)) - {4} if name == "position" else set(range(len(values)))
        assert set(factors[f"{name}_2"].tolist()) == places | {-1}
    assert set(factors["relation"].tolist()) == {-1, 0, 1, 2, 3}
    assert set(factors["background"].tolist()) == set(range(len(BACKGROUNDS)))
    assert set(factors["count"].tolist()) == {1, 2}


@pytest.mark.parametrize("objects", [1, 2])
def test_objects_fixes_their_number(objects):
    factors = scenes("novel", 500, objects=objects)
    assert (factors["count"] == objects).all()
    for name in (*(f"{name}_2" for name in VALUES), "relation"):
        assert ((factors[name] == -1) == (objects == 1)).all()


# Captions, read by a grammar of its own

THING = rf"an? (?:(small|little|big|large) )?({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})"
PLACE = r"(?:in|at|on) the ((?:top|bottom) (?:left|right)|top|left|centre|right|bottom)"
RELATION = r"(?:to the )?(left of|right of|above|over|below|under)"
SIDE = r"(?:to its )?(left|right|above it|below it)"
STEPS = {
    "left": (-1, 0),
    "right": (1, 0),
    "above": (0, -1),
    "over": (0, -1),
    "below": (0, 1),
    "under": (0, 1),
}
SENTENCES = {
    "single": re.compile(rf"(?:there is )?{THING}(?: (?:is )?{PLACE})?"),
    "place first": re.compile(rf"{PLACE} there is {THING}"),
    "relation": re.compile(rf"(?:there is )?{THING} (?:is )?{RELATION} {THING}"),
    "side": re.compile(rf"{THING} with {THING} {SIDE}"),
    "places": re.compile(rf"{THING} {PLACE} and {THING} {PLACE}"),
}


def read(caption):
    """A caption's claims, [(size, colour, shape, place), …], and the step to the first of two."""
    kind, match = next((kind, match) for kind, form in SENTENCES.items() if (match := form.fullmatch(caption)))
    words = match.groups()
    if kind == "single":
        return [words], None
    if kind == "place first":
        return [(*words[1:], words[0])], None
    if kind == "relation":
        return [(*words[:3], None), (*words[4:], None)], STEPS[words[3].split()[0]]
    if kind == "side":
        return [(*words[3:6], None), (*words[:3], None)], STEPS[words[6].split()[0]]
    return [words[:4], words[4:]], None


def holds(claim, row, number):
    size, colour, shape, place = claim
    size = {"little": "small", "large": "big"}.get(size, size)
    facts = [values[row[f"{name}_{number}"]] for name, values in VALUES.items()]
    claimed = (colour, shape, size, place)
    return all(c in (None, fact) for c, fact in zip(claimed, facts, strict=True))


def step(a, b):
    """The direction from position b to position a, along the axis that parts them more."""
    (row_a, column_a), (row_b, column_b) = divmod(a, 3), divmod(b, 3)
    x, y = column_a - column_b, row_a - row_b
    return (np.sign(x), 0) if abs(x) > abs(y) else (0, np.sign(y))


def is_true(caption, row):
    claims, direction = read(caption)
    if len(claims) != row["count"]:
        return False
    orders = [(1,)] if row["count"] == 1 else [(1, 2), (2, 1)]
    return any(
        all(holds(claim, row, k) for claim, k in zip(claims, order, strict=True))
        and (direction is None or direction == step(*(row[f"position_{k}"] for k in order)))
        for order in orders
    )


@pytest.mark.parametrize("split", SPLITS)
def test_captions_are_true(split):
    batch = Shapes(split).batch(torch.arange(3000))
    scene_rows = rows({name: batch[name] for name in FACTORS})
    for caption, row in zip(batch["caption"], scene_rows, strict=True):
        assert is_true(caption, row), (caption, row)


def test_the_reader_of_captions_sees_what_is_false():
    (row,) = rows(scenes("train", 1, objects=2))
    names = ("colour_1", "shape_1", "size_1", "position_1")
    true = canonical_caption({name: torch.tensor([value]) for name, value in row.items()})[0]
    assert is_true(true, row)
    for name in names[:3]:
        lie = row | {name: (row[name] + 1) % len(VALUES[name[:-2]])}
        assert not is_true(true, lie)
    assert not is_true(true, row | {"position_1": row["position_2"], "position_2": row["position_1"]})


@pytest.mark.parametrize("objects", [1, 2])
def test_all_wordings_of_a_scene_are_true_and_many(objects):
    few = scenes("train", 20, objects=objects)
    for row in rows(few):
        repeated = {name: torch.full((WORDINGS,), value) for name, value in row.items()}
        texts = captions(repeated, torch.arange(WORDINGS))
        assert all(is_true(text, row) for text in texts)
        assert len(set(texts)) >= 12 * objects**2


def test_a_novel_caption_always_says_what_is_new():
    objects, pairs = shown("train")
    for caption in Shapes("novel").batch(torch.arange(1000))["caption"]:
        claims, direction = read(caption)
        said = {(COLOURS.index(colour), SHAPES.index(shape)) for _, colour, shape, _ in claims}
        if said <= objects:
            direction = direction or step(*(POSITIONS.index(claim[3]) for claim in claims))
            relation = [(-1, 0), (1, 0), (0, -1), (0, 1)].index(direction)
            first, second = (SHAPES.index(claim[2]) for claim in claims)
            assert (first, relation, second) not in pairs, caption


def test_canonical_captions_say_everything_in_one_way():
    factors = scenes("test", 500)
    for caption, row in zip(canonical_caption(factors), rows(factors), strict=True):
        claims, direction = read(caption)
        assert is_true(caption, row)
        assert all(claim[0] in SIZES for claim in claims)
        assert (direction is None) == (row["count"] == 1)
        assert (claims[0][3] is None) == (row["count"] == 2)


# Pixels


def test_images_are_drawings_of_the_factors():
    for size in (16, 32, 64):
        data = Shapes("novel", image_size=size)
        batch = data.batch(torch.arange(100))
        assert batch["image"].shape == (100, *data.data_shape) == (100, 3, size, size)
        assert batch["image"].dtype == torch.uint8
        assert torch.equal(batch["image"], render(data.factors(torch.arange(100)), size))


@pytest.mark.parametrize("image_size", [32, 64])
def test_objects_lie_inside_the_image_with_ground_all_around(image_size):
    covered = coverage(all_singles(colour=7), image_size)
    edges = torch.stack([covered[:, 0], covered[:, -1], covered[:, :, 0], covered[:, :, -1]])
    assert not edges.any()
    assert covered.any((1, 2)).all()


def test_two_objects_never_touch():
    factors = scenes("train", 5000, objects=2)
    first, second = (coverage(alone(factors, number)) for number in (1, 2))
    assert not (first & second).any()
    both = render(factors).flatten(2)
    for number, covered in ((1, first), (2, second)):
        drawn = render(alone(factors, number)).flatten(2)
        assert torch.equal(*(image.mul(covered.flatten(1).unsqueeze(1)) for image in (both, drawn)))


def test_the_relation_follows_from_the_pixels():
    factors = scenes("train", 2000, objects=2)
    extents = []
    for number in (1, 2):
        covered = coverage(alone(factors, number))
        for axis in (1, 2):  # the rows that are covered somewhere, then the columns
            line = covered.any(3 - axis).int()
            extents.append((line.argmax(1), 31 - line.flip(1).argmax(1)))
    (top_1, low_1), (left_1, right_1), (top_2, low_2), (left_2, right_2) = extents
    # Wholly beside each other, not just their middles.
    truth = {"left of": right_1 < left_2, "right of": right_2 < left_1}
    truth |= {"above": low_1 < top_2, "below": low_2 < top_1}
    for k, name in enumerate(RELATIONS):
        assert truth[name][factors["relation"] == k].all()


def test_pixels_have_the_colour_of_the_factor():
    factors = all_singles(shift_x=0, shift_y=0)
    images = render(factors).flatten(2)
    ink = torch.tensor(list(RGB.values()), dtype=torch.uint8)[factors["colour_1"]]
    assert ((images == ink.unsqueeze(2)).all(1).sum(1) >= 4).all()
    # All others are mixtures of ink and ground: 8 + a (ink - 8), with one a for the three channels.
    contrast = ink.double().unsqueeze(2) - BACKGROUNDS[0]
    amount = (images.double() - BACKGROUNDS[0]).mul(contrast).sum(1) / contrast.square().sum(1)
    rest = images.double() - BACKGROUNDS[0] - amount.unsqueeze(1) * contrast
    assert rest.abs().max() < 1


def test_colours_are_far_apart():
    inks = torch.tensor(list(RGB.values())).double()
    assert torch.pdist(inks).min() > 90


def test_small_shapes_cannot_be_mistaken_for_each_other():
    factors = all_singles(colour=7, size=0, position=4)
    images = render(factors)[:, 0].double().flatten(1)
    distance = torch.cdist(images, images)
    shape = factors["shape_1"]
    same = shape.unsqueeze(0) == shape.unsqueeze(1)
    # All pairs of different shapes, wherever they lie, differ by more than three pixels' worth.
    assert distance[~same].min() > 3**0.5 * 240 * 0.95


def test_sizes_differ_in_area():
    small, big = (coverage(all_singles(colour=7, size=k)).sum((1, 2)).double() for k in (0, 1))
    assert (big / small).min() > 1.4


def test_a_larger_image_is_the_same_scene():
    factors = scenes("train", 300)
    coarse = render(factors, 32).double()
    fine = torch.nn.functional.avg_pool2d(render(factors, 64).double(), 2)
    # They may differ at edges alone, where both are approximations of the covered area.
    assert (coarse - fine).abs().mean() < 1
    assert ((coarse - fine).abs() > 64).double().mean() < 0.002


def test_render_needs_only_the_first_object():
    one = {name: torch.tensor([0, 1]) for name in ("colour_1", "shape_1", "size_1", "position_1")}
    assert render(one).shape == (2, 3, 32, 32)
    assert canonical_caption(one) == [
        "a small red circle in the top left",
        "a big green square at the top",
    ]


# The interface


def test_it_is_a_data_set():
    data = Shapes("test")
    batch = data.batch(torch.tensor([5, 5, 0]))
    assert isinstance(data, Dataset)
    assert (data.name, data.split, data.data_shape, len(data)) == (
        "shapes",
        "test",
        (3, 32, 32),
        10_000,
    )
    assert tuple(batch) == data.columns == ("image", "caption", *FACTORS)
    assert all(len(column) == 3 for column in batch.values())
    assert all(batch[name].dtype == torch.int64 for name in FACTORS)
    assert all(len(column) == 0 for column in data.batch(torch.tensor([], dtype=torch.int64)).values())


def test_the_fingerprint_tells_arguments_apart():
    arguments = [
        {},
        {"split": "test"},
        {"length": 7},
        {"image_size": 64},
        {"seed": 1},
        {"objects": 1},
    ]
    fingerprints = {Shapes(**a).fingerprint for a in arguments}
    assert len(fingerprints) == len(arguments)
    assert all(re.fullmatch("[0-9a-f]{64}", text) for text in fingerprints)
    assert Shapes().fingerprint == Shapes("train", length=100_000).fingerprint


def test_the_fingerprint_follows_the_version_of_the_code(monkeypatch):
    before = Shapes().fingerprint
    monkeypatch.setattr("zoo_core.data.shapes.VERSION", 2)
    assert Shapes().fingerprint != before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "valid"}, "split: must be one of 'train', 'test', 'novel', got 'valid'"),
        ({"length": 0}, "length: must be a positive integer or null, got 0"),
        ({"image_size": 8}, "image_size: must be an integer of at least 16, got 8"),
        ({"image_size": 32.0}, "image_size: must be an integer of at least 16, got 32.0"),
        ({"seed": "a"}, "seed: must be an integer, got 'a'"),
        ({"objects": 3}, "objects: must be one of 1, 2 or null, got 3"),
    ],
)
def test_bad_arguments_are_refused_with_what_is_allowed(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Shapes(**arguments)


@pytest.mark.parametrize("places", [[-1], [100], [0, 1000]])
def test_indices_outside_are_refused(places):
    with pytest.raises(IndexError, match=r"must lie in \[0, 100\)"):
        Shapes(length=100).batch(torch.tensor(places))


@pytest.mark.parametrize("places", [torch.tensor(0), torch.tensor([0.0]), torch.tensor([True])])
def test_indices_that_are_no_list_of_integers_are_refused(places):
    with pytest.raises(Exception, match=r"indices must be integers of shape \(B,\)"):
        Shapes().batch(places)


def test_bad_factors_are_refused():
    good = {name: column[:1] for name, column in scenes("train", 1, objects=2).items()}
    with pytest.raises(ValueError, match=r"'colour_1' must lie in 0\.\.7, got 8"):
        render(good | {"colour_1": torch.tensor([8])})
    with pytest.raises(ValueError, match=r"'size_2' must lie in 0\.\.1, got -1"):
        render(good | {"size_2": torch.tensor([-1])})
    with pytest.raises(ValueError, match=r"'background' must lie in 0\.\.3, got 4"):
        render(good | {"background": torch.tensor([4])})
    with pytest.raises(ValueError, match="needs the factor 'shape_1'"):
        render({"colour_1": torch.tensor([0])})
    with pytest.raises(ValueError, match=r"'relation' must lie in 0\.\.3"):
        canonical_caption(good | {"relation": torch.tensor([-1])})
