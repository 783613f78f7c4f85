"""What the named values of a shapes scene look like, and the drawing of whole batches of scenes.

A shape is a signed distance function d(x, y): negative inside, positive outside, with x to the
right and y downwards from the shape's middle, in units of its radius. A pixel is covered by

    coverage = clip(1/2 - d, 0, 1)          with d in pixels,

which anti-aliases an edge over one pixel (https://iquilezles.org/articles/distfunctions2d).
Only operations that IEEE 754 rounds exactly are used (+ - * / sqrt, comparisons): their results
do not depend on where in a batch, or in a vector register, a pixel happens to lie.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated

import torch
from torch import Tensor

from zoo_core.arguments import Bounds, checked

RGB = {
    "red": (230, 30, 40),
    "green": (30, 170, 50),
    "blue": (40, 80, 250),
    "yellow": (255, 235, 50),
    "purple": (175, 50, 215),
    "orange": (255, 130, 0),
    "cyan": (60, 220, 230),
    "white": (250, 250, 250),
}
COLOURS = tuple(RGB)

# The radius is half the side of the box that holds a shape. Radii, shifts and the places below,
# all in units of the image side, leave every object inside the image, and two objects two
# places apart clear of each other.
RADII = {"small": 0.125, "big": 0.19}
SIZES = tuple(RADII)

PLACES = (0.25, 0.5, 0.75)
POSITIONS = (
    *("top left", "top", "top right"),
    *("left", "centre", "right"),
    *("bottom left", "bottom", "bottom right"),
)
# The largest shift of an object from its place, in thousandths of the image side.
MAX_SHIFT = 25

# Dark greys, of 255.
BACKGROUNDS = (8, 24, 40, 56)

ImageSize = Annotated[int, Bounds("an integer of at least 16", low=16)]


def circle(x: Tensor, y: Tensor) -> Tensor:
    return (x * x + y * y).sqrt() - 1


def square(x: Tensor, y: Tensor) -> Tensor:
    return torch.maximum(x.abs(), y.abs()) - 0.86


def triangle(x: Tensor, y: Tensor) -> Tensor:
    """Equilateral, pointing up: the slopes and the base, each a half plane."""
    height = math.sqrt(3) / 2
    slopes = height * x.abs() - (y + height) / 2
    return torch.maximum(slopes, y - height)


def diamond(x: Tensor, y: Tensor) -> Tensor:
    return (x.abs() + y.abs() - 1) * math.sqrt(1 / 2)


def plus(x: Tensor, y: Tensor) -> Tensor:
    x, y = x.abs(), y.abs()
    return torch.maximum(torch.minimum(x, y) - 0.32, torch.maximum(x, y) - 1)


def ring(x: Tensor, y: Tensor) -> Tensor:
    return ((x * x + y * y).sqrt() - 0.75).abs() - 0.25


def star(x: Tensor, y: Tensor) -> Tensor:
    """A pentagram: the points beyond at most one of five lines, so the second largest distance."""
    # Its top is further from the middle than its feet: lowered, it fills its box evenly.
    y = y - 0.1
    first = second = torch.full((), -math.inf, device=x.device)
    for k in range(5):
        angle = math.pi * (0.4 * k - 0.5)
        distance = math.cos(angle) * x + math.sin(angle) * y - 1.05 * math.cos(0.4 * math.pi)
        second = torch.maximum(second, torch.minimum(first, distance))
        first = torch.maximum(first, distance)
    return second


def crescent(x: Tensor, y: Tensor) -> Tensor:
    """A disc less a smaller disc to its right."""
    disc, bite = x - 0.16, x - 0.66
    return torch.maximum((disc * disc + y * y).sqrt() - 1, 0.75 - (bite * bite + y * y).sqrt())


SIGNED_DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    function.__name__: function for function in (circle, square, triangle, diamond, plus, ring, star, crescent)
}
SHAPES = tuple(SIGNED_DISTANCES)

# Scenes drawn at a time: few enough that their planes stay in a processor's cache.
_BLOCK = 256

# An object's columns and the range of each; shifts may be left out.
_LIMITS = {
    "colour": (0, len(COLOURS) - 1),
    "shape": (0, len(SHAPES) - 1),
    "size": (0, len(SIZES) - 1),
    "position": (0, len(POSITIONS) - 1),
    "shift_x": (-MAX_SHIFT, MAX_SHIFT),
    "shift_y": (-MAX_SHIFT, MAX_SHIFT),
}


def render(factors: Mapping[str, Tensor], image_size: ImageSize = 32) -> Tensor:
    """Draw scenes given by their factors: uint8 images of shape (B, 3, image_size, image_size).

    Args:
        factors: int64 columns of shape (B,). `colour_1`, `shape_1`, `size_1` and `position_1` are
            needed; `colour_2` … `position_2` draw a second object (over the first) where
            `shape_2` is not -1; `shift_x_1` … `shift_y_2` (thousandths of the image side, to
            the right and downwards) and `background` are 0 where not given. Other columns, such
            as `relation` or `count`, follow from these and are not looked at.
        image_size: in pixels, at least 16.

    Raises:
        ValueError: a needed column is missing, or a value lies outside its range.
    """
    checked(image_size, ImageSize, "image_size")
    first, second = object_columns(factors, 1), object_columns(factors, 2)
    shade = factors.get("background", torch.zeros_like(first[:, 0]))
    _check(shade.unsqueeze(1), {"background": (0, len(BACKGROUNDS) - 1)})
    shades, firsts, seconds = (torch.split(c, _BLOCK) for c in (shade, first, second))
    blocks = zip(shades, firsts, seconds, strict=True)
    return torch.cat([_draw(*block, image_size) for block in blocks])


def object_columns(factors: Mapping[str, Tensor], number: int) -> Tensor:
    """Colour, shape, size, position and shifts of object 1 or 2: int64 of shape (B, 6).

    All are -1 where there is no second object.

    Raises:
        ValueError: a column is missing, or a value lies outside its range.
    """
    if number == 2 and "shape_2" not in factors:
        return torch.full_like(object_columns(factors, 1), -1)
    columns = torch.stack([_column(factors, f"{name}_{number}") for name in _LIMITS], dim=1)
    absent = (columns[:, 1] == -1) & (number == 2)
    _check(columns[~absent], {f"{name}_{number}": limits for name, limits in _LIMITS.items()})
    return columns.masked_fill(absent.unsqueeze(1), -1)


def _column(factors: Mapping[str, Tensor], name: str) -> Tensor:
    if name in factors:
        return factors[name]
    if name.startswith("shift") and "shape_1" in factors:
        return torch.zeros_like(factors["shape_1"])
    raise ValueError(f"the scene needs the factor {name!r}; got {', '.join(factors) or 'none'}")


def _check(columns: Tensor, limits: Mapping[str, tuple[int, int]]) -> None:
    low, high = torch.tensor(list(limits.values()), device=columns.device).unbind(1)
    wrong = ((columns < low) | (columns > high)).nonzero().tolist()
    for row, k in wrong[:1]:
        name, value = list(limits)[k], int(columns[row, k])
        raise ValueError(f"factor {name!r} must lie in {low[k]}..{high[k]}, got {value}")


def _draw(shade: Tensor, first: Tensor, second: Tensor, image_size: int) -> Tensor:
    """ground + sum_k coverage_k (ink_k - ground): columns (B,), (B, 6), (B, 6) -> images."""
    ground = _look_up(BACKGROUNDS, shade).view(-1, 1, 1, 1)
    ink = _look_up(tuple(RGB.values()), torch.stack([first[:, 0], second[:, 0]]))
    contrast = ink.view(2, -1, 3, 1, 1) - ground
    behind, front = _coverage(torch.cat([first, second]), image_size).chunk(2)
    # In place, because fresh memory costs more than the arithmetic.
    image = behind.mul_(1 - front) * contrast[0]
    image.add_(front * contrast[1]).add_(ground)
    return image.round_().to(torch.uint8)


def _coverage(columns: Tensor, image_size: int) -> Tensor:
    """How much of each pixel an object covers, in [0, 1], of shape (B, 1, S, S)."""
    _, shape, size, position, shift_x, shift_y = columns.unbind(1)
    radius = _look_up(tuple(RADII.values()), size).unsqueeze(1)
    x = _offsets(position % 3, shift_x, image_size) / radius
    y = _offsets(position.div(3, rounding_mode="floor"), shift_y, image_size) / radius
    covered = x.new_zeros(len(x), 1, image_size, image_size)
    for kind in range(len(SHAPES)):
        chosen = (shape == kind).nonzero().squeeze(1)
        edge = _distance(kind, x[chosen].unsqueeze(1), y[chosen].unsqueeze(2))
        pixels = edge.mul_((radius[chosen] * image_size).unsqueeze(2))
        covered[chosen, 0] = pixels.neg_().add_(0.5).clamp_(0, 1)
    return covered


def _distance(kind: int, x: Tensor, y: Tensor) -> Tensor:
    distance = SIGNED_DISTANCES[SHAPES[kind]](x, y)
    # Just outside a sharp corner the distances to its lines are still small: the box ends it.
    return torch.maximum(torch.maximum(distance, x.abs() - 1), y.abs() - 1)


def _offsets(place: Tensor, shift: Tensor, image_size: int) -> Tensor:
    """How far each pixel's middle lies from the object's, along one axis, of shape (B, S)."""
    middle = _look_up(PLACES, place) + shift / 1000
    pixels = (torch.arange(image_size, device=place.device) + 0.5) / image_size
    return pixels - middle.unsqueeze(1)


def _look_up(table: Sequence[float] | Sequence[tuple[int, int, int]], indices: Tensor) -> Tensor:
    return torch.tensor(table, dtype=torch.float32, device=indices.device)[indices]
