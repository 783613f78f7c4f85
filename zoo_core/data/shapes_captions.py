"""English for shapes scenes: a small grammar of sentences, each of them true of its scene.

A wording is an integer in [0, WORDINGS) that settles every choice: which object is named first,
the sentence, the words for the relation and for the sizes, which may also be left out. Colour and
shape are always said, and for two objects always how they lie to each other.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from zoo_core.data.shapes_rendering import COLOURS, SHAPES, object_columns

# Neighbours are each other's inverse: the relation r of a to b is r ^ 1 of b to a.
RELATIONS = ("left of", "right of", "above", "below")

_RELATION_WORDS = (
    ("left of", "to the left of"),
    ("right of", "to the right of"),
    ("above", "over"),
    ("below", "under"),
)
_SIDES = ("to its left", "to its right", "above it", "below it")
_SIZE_WORDS = (("small ", "little ", ""), ("big ", "large ", ""))
_PLACES = (
    *("in the top left", "at the top", "in the top right"),
    *("on the left", "in the centre", "on the right"),
    *("in the bottom left", "at the bottom", "in the bottom right"),
)
_SINGLES = (
    "{one} {place}",
    "{one}",
    "there is {one} {place}",
    "{one} is {place}",
    "{place} there is {one}",
)
_PAIRS = (
    "{one} {relation} {two}",
    "there is {one} {relation} {two}",
    "{one} is {relation} {two}",
    "{two} with {one} {side}",
    "{one} {place} and {two} {place_two}",
)
# First object, sentence, words for the relation, for the first size, for the second size.
WORDINGS = 2 * 5 * 2 * 3 * 3


class _Thing(NamedTuple):
    colour: int
    shape: int
    size: int
    position: int


def canonical_caption(factors: Mapping[str, Tensor]) -> list[str]:
    """The plainest full caption of each scene: "a small red circle above a big blue square".

    Args:
        factors: int64 columns of shape (B,): `colour_1`, `shape_1`, `size_1`, `position_1`; where
            there is a second object also `colour_2` … `position_2` and `relation`.

    Raises:
        ValueError: a needed column is missing, or a value lies outside its range.
    """
    return captions(factors, torch.zeros_like(object_columns(factors, 1)[:, 0]))


def captions(factors: Mapping[str, Tensor], wording: Tensor) -> list[str]:
    """One caption for each scene, in the given wordings: integers in [0, WORDINGS), (B,)."""
    first, second = (object_columns(factors, number)[:, :4] for number in (1, 2))
    relation = factors.get("relation", torch.full_like(wording, -1))
    if bool(((second[:, 1] >= 0) & ((relation < 0) | (relation >= len(RELATIONS)))).any()):
        raise ValueError("factor 'relation' must lie in 0..3 where there are two objects")
    rows = zip(first.tolist(), second.tolist(), relation.tolist(), wording.tolist(), strict=True)
    return [_caption(_Thing(*one), _Thing(*two), r, w) for one, two, r, w in rows]


def _caption(one: _Thing, two: _Thing, relation: int, wording: int) -> str:
    wording, turned = divmod(wording, 2)
    wording, sentence = divmod(wording, 5)
    wording, longer = divmod(wording, 2)
    if two.shape < 0:
        return _SINGLES[sentence].format(one=_name(one, wording % 3), place=_PLACES[one.position])
    if turned:
        one, two, relation = two, one, relation ^ 1
    return _PAIRS[sentence].format(
        one=_name(one, wording % 3),
        two=_name(two, wording // 3),
        relation=_RELATION_WORDS[relation][longer],
        side=_SIDES[relation],
        place=_PLACES[one.position],
        place_two=_PLACES[two.position],
    )


def _name(thing: _Thing, word: int) -> str:
    """A noun phrase such as "an orange star" or "a little red ring"."""
    words = f"{_SIZE_WORDS[thing.size][word]}{COLOURS[thing.colour]} {SHAPES[thing.shape]}"
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"
