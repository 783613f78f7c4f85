"""Coloured shapes on a dark ground, with captions: unlimited scenes of which everything is known.

A scene has one or two objects. Each has a colour, a shape, a size and a place in a 3 x 3 grid,
from which it is shifted a little; two objects lie on opposite sides of the grid, so that one is
clearly left of, right of, above or below the other and they never touch.

Scene i of a split is a function of (seed, split, i) alone, by a counter-based hash: nothing is
stored, and any batch of any indices can be drawn in any order, in any process.

Held out are, of every 64 combinations, the 8 on one line of a Latin square:

    an object's (colour, shape)              colour + shape = 0               (mod 8)
    a pair's (shape, relation, shape)        shape_2 = shape_1 + s(relation)  (mod 8)

with s = 1, -1, 3, -3 for left of, right of, above, below. The s of inverse relations are opposite,
so the rule does not depend on which object comes first. Each colour and each shape is held out
equally often. `train` and `test` hold none of these combinations; every scene of `novel` holds
exactly one: a held-out object or, in half of the pairs, a held-out relation.
"""

import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from zoo_core.arguments import PositiveInt, checked
from zoo_core.data.dataset import Batch, Dataset
from zoo_core.data.shapes_captions import RELATIONS, WORDINGS, canonical_caption, captions
from zoo_core.data.shapes_rendering import (
    BACKGROUNDS,
    COLOURS,
    MAX_SHIFT,
    POSITIONS,
    SHAPES,
    SIZES,
    ImageSize,
    render,
)
from zoo_core.errors import DataError

__all__ = [
    "BACKGROUNDS",
    "COLOURS",
    "FACTORS",
    "POSITIONS",
    "RELATIONS",
    "SHAPES",
    "SIZES",
    "Shapes",
    "canonical_caption",
    "held_out",
    "render",
]

# Raise it whenever the same arguments would give other images, captions or factors.
VERSION = 1

LENGTHS = {"train": 100_000, "test": 10_000, "novel": 10_000}

FACTORS = (
    "count",
    *("colour_1", "shape_1", "size_1", "position_1"),
    *("colour_2", "shape_2", "size_2", "position_2"),
    "relation",
    "background",
    *("shift_x_1", "shift_y_1", "shift_x_2", "shift_y_2"),
)

_PARTNER = (1, -1, 3, -3)  # s(relation) of the held-out rule

# Places across the axis of a relation: less far apart than along it, which makes it unambiguous.
_ACROSS = ((0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (2, 1), (2, 2))


class Shapes(Dataset):
    """Scenes of one split, rendered when they are asked for.

    Args:
        split: `train`, `test`, or `novel` (held-out combinations of attributes).
        length: how many examples; 100,000 for `train`, else 10,000. It does not change the scenes.
        image_size: side S of the images in pixels, at least 16.
        seed: another seed, other scenes; the held-out combinations stay the same.
        objects: 1 or 2 for scenes of that many objects; None for both, half and half.

    Raises:
        ConfigError: a ValueError that says what the argument must be.
    """

    def __init__(
        self,
        split: str = "train",
        *,
        length: PositiveInt | None = None,
        image_size: ImageSize = 32,
        seed: int = 0,
        objects: int | None = None,
    ) -> None:
        self.name = "shapes"
        self.split: str = checked(split, Literal["train", "test", "novel"], "split")
        self.length: int = checked(length, PositiveInt | None, "length") or LENGTHS[split]
        self.image_size: int = checked(image_size, ImageSize, "image_size")
        self.seed: int = checked(seed, int, "seed")
        self.objects: int | None = checked(objects, Literal[1, 2] | None, "objects")
        self.data_shape = (3, image_size, image_size)
        self.columns = ("image", "caption", *FACTORS)
        self.fingerprint = _digest(VERSION, split, self.length, image_size, seed, objects).hex()

    def __len__(self) -> int:
        return self.length

    def __repr__(self) -> str:
        return (
            f"Shapes({self.split!r}, length={self.length}, image_size={self.image_size}, "
            f"seed={self.seed}, objects={self.objects})"
        )

    def batch(self, indices: Tensor) -> Batch:
        """The examples at these places, integers (B,) in [0, length).

        Returns:
            `image`: uint8 (B, 3, S, S). `caption`: B strings. The factors: int64 (B,).

        Raises:
            DataError: the indices are not integers of shape (B,).
            IndexError: an index lies outside the data set.
        """
        drawn = self._drawn(indices)
        factors = self._factors(drawn)
        return {
            "image": render(factors, self.image_size),
            "caption": captions(factors, drawn["wording"]),
            **factors,
        }

    def factors(self, indices: Tensor) -> Mapping[str, Tensor]:
        """The ground truth of these examples, without drawing them: int64 columns of shape (B,).

        `count` is 1 or 2; `colour_k`, `shape_k`, `size_k`, `position_k`, `relation` (of the first
        object to the second) and `background` are places in COLOURS, SHAPES, SIZES, POSITIONS,
        RELATIONS and BACKGROUNDS, -1 where there is no second object; `shift_x_k` and `shift_y_k`
        are in thousandths of the image side, to the right and downwards, 0 where there is none.
        """
        return self._factors(self._drawn(indices))

    def _drawn(self, indices: Tensor) -> dict[str, Tensor]:
        _check_indices(indices, self.length)
        key = int.from_bytes(_digest(self.seed, self.split)[:8], "big", signed=True)
        return _choose(key, indices.to("cpu", torch.int64))

    def _factors(self, drawn: Mapping[str, Tensor]) -> dict[str, Tensor]:
        objects = self.objects or drawn["count"] + 1
        count = torch.zeros_like(drawn["count"]) + objects
        scene = _scene(drawn, count, novel=self.split == "novel")
        return {name: scene[name] for name in FACTORS}


def held_out(factors: Mapping[str, Tensor]) -> Tensor:
    """Whether each scene holds a combination that `train` and `test` do not have: bool (B,)."""
    relation = factors["relation"]
    partner = _take(_PARTNER, relation) + factors["shape_1"]
    novel_relation = (relation >= 0) & ((partner - factors["shape_2"]) % 8 == 0)
    return novel_relation | _held_out_object(factors, 1) | _held_out_object(factors, 2)


def _held_out_object(factors: Mapping[str, Tensor], number: int) -> Tensor:
    colour, shape = factors[f"colour_{number}"], factors[f"shape_{number}"]
    return (shape >= 0) & ((colour + shape) % 8 == 0)


def _scene(drawn: Mapping[str, Tensor], count: Tensor, novel: bool) -> dict[str, Tensor]:
    """Factors of scenes with that many objects, (B,): exactly one thing is held out, or nothing."""
    single = count == 1
    relation = drawn["relation"]
    novelty = drawn["novelty"].masked_fill(single, 0)
    shape_1 = drawn["shape_1"]
    partner = shape_1 + _take(_PARTNER, relation)
    shape_2 = _residue(partner, drawn["shape_2"], equal=(novelty >= 2) & novel)
    first = _object(drawn, 1, shape_1, novel=(novelty == 0) & novel)
    second = _object(drawn, 2, shape_2, novel=(novelty == 1) & novel)
    place_1, place_2 = _opposite_places(relation, drawn["across"])
    return {
        **first,
        **{name: _blank(name, column, single) for name, column in second.items()},
        "count": count,
        "position_1": torch.where(single, drawn["position"], place_1),
        "position_2": place_2.masked_fill(single, -1),
        "relation": relation.masked_fill(single, -1),
        "background": drawn["background"],
    }


def _object(drawn: Mapping[str, Tensor], number: int, shape: Tensor, novel: Tensor) -> dict[str, Tensor]:
    """An object's factors but for its position."""
    return {
        f"colour_{number}": _residue(-shape, drawn[f"colour_{number}"], equal=novel),
        f"shape_{number}": shape,
        f"size_{number}": drawn[f"size_{number}"],
        f"shift_x_{number}": drawn[f"shift_x_{number}"] - MAX_SHIFT,
        f"shift_y_{number}": drawn[f"shift_y_{number}"] - MAX_SHIFT,
    }


def _blank(name: str, column: Tensor, absent: Tensor) -> Tensor:
    return column.masked_fill(absent, 0 if name.startswith("shift") else -1)


def _residue(held: Tensor, other: Tensor, equal: Tensor) -> Tensor:
    """`held` modulo 8 where `equal`; elsewhere the one of the other seven that `other` picks."""
    return (held + (other + 1).masked_fill(equal, 0)) % 8


def _opposite_places(relation: Tensor, across: Tensor) -> tuple[Tensor, Tensor]:
    """Positions of two objects on opposite sides of the grid, as their relation asks."""
    along = 2 * (relation % 2)
    across_1, across_2 = _take(_ACROSS, across).unbind(1)
    horizontal = relation < 2
    first = torch.where(horizontal, 3 * across_1 + along, 3 * along + across_1)
    second = torch.where(horizontal, 3 * across_2 + 2 - along, 3 * (2 - along) + across_2)
    return first, second


# Every random choice of a scene and the number of its outcomes, all equally likely.
_CHOICES = {
    "count": 2,
    "relation": len(RELATIONS),
    "novelty": 4,  # of a pair: its first object, its second, or (half of them) its relation
    "position": len(POSITIONS),
    "across": len(_ACROSS),
    "background": len(BACKGROUNDS),
    "shape_1": len(SHAPES),
    "shape_2": len(SHAPES) - 1,
    **dict.fromkeys(("colour_1", "colour_2"), len(COLOURS) - 1),
    **dict.fromkeys(("size_1", "size_2"), len(SIZES)),
    **dict.fromkeys(("shift_x_1", "shift_y_1", "shift_x_2", "shift_y_2"), 2 * MAX_SHIFT + 1),
    "wording": WORDINGS,
}


def _choose(key: int, indices: Tensor) -> dict[str, Tensor]:
    """An outcome (B,) of every choice: a pure function of key, index and the choice's name.

    They are outputs of SplitMix64 (Steele, Lea and Flood, 2014,
    https://doi.org/10.1145/2714064.2660195), each at a place in its sequence that the name gives;
    the sequence starts from a hash of index and key.
    """
    places = [_signed(zlib.crc32(name.encode()) * _GOLDEN) for name in _CHOICES]
    bits = _mix(torch.tensor(places).unsqueeze(1) + (_mix(indices) ^ key))
    # The upper 31 bits as a fraction in [0, 1), times the number of outcomes.
    outcomes = (_shift(bits, 33) * torch.tensor(list(_CHOICES.values())).unsqueeze(1)) >> 31
    return dict(zip(_CHOICES, outcomes.unbind(0), strict=True))


def _signed(bits: int) -> int:
    """The int64 with the same lower 64 bits as this number."""
    return (bits + 2**63) % 2**64 - 2**63


_GOLDEN = 0x9E3779B97F4A7C15
_MULTIPLIERS = _signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB)


def _mix(z: Tensor) -> Tensor:
    """SplitMix64's bijection of 64-bit words, on int64, whose products wrap around."""
    z = (z ^ _shift(z, 30)) * _MULTIPLIERS[0]
    z = (z ^ _shift(z, 27)) * _MULTIPLIERS[1]
    return z.bitwise_xor(_shift(z, 31))


def _shift(z: Tensor, bits: int) -> Tensor:
    """To the right with zeros moving in; torch repeats the sign bit."""
    return (z >> bits).bitwise_and(2 ** (64 - bits) - 1)


def _digest(*facts: int | str | None) -> bytes:
    return hashlib.sha256(json.dumps(["shapes", *facts]).encode()).digest()


def _take(table: Sequence[int] | Sequence[tuple[int, int]], places: Tensor) -> Tensor:
    return torch.tensor(table)[places]


def _check_indices(indices: Tensor, length: int) -> None:
    if indices.ndim != 1 or indices.is_floating_point() or indices.dtype == torch.bool:
        raise DataError(f"indices must be integers of shape (B,), got {indices.dtype} {tuple(indices.shape)}")
    if len(indices) and not 0 <= int(indices.min()) <= int(indices.max()) < length:
        lowest, highest = int(indices.min()), int(indices.max())
        raise IndexError(f"indices must lie in [0, {length}); got {lowest} to {highest}")
