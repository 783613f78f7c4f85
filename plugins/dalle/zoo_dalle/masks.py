"""Which tokens of a stream may look at which: text first, then image tokens in raster order.

A mask is bool (T, T): row q is a query, and True where it may look at key k. Text tokens look at all text before them,
image tokens at all text; the masks differ in which earlier image tokens an image token looks at.

Zero-shot text-to-image generation (Ramesh et al., 2021), section 2.2 and figure 11 https://arxiv.org/abs/2102.12092
"""

import functools
from collections.abc import Callable
from typing import Annotated, Literal, NamedTuple

import torch
from torch import Tensor

from zoo_core import Bounds

Depth = Annotated[int, Bounds("an integer from 1 to 1000", low=1, high=1000)]  # a mask is listed for each layer
Mask = Literal["full", "row", "column", "convolutional"]
Masks = Literal["full", "row", "column", "convolutional", "dalle"]

REACH = 5  # of the paper's convolutional mask, which is 11 x 11


class Layout(NamedTuple):
    """How many tokens of text there are, and the grid of the image tokens after them."""

    text: int
    rows: int
    columns: int


def stream_mask(kind: Mask, layout: Layout) -> Tensor:
    """The mask of a whole stream, bool (T, T) for T = text + rows · columns."""
    text, rows, columns = layout
    length = text + rows * columns
    mask = torch.ones(length, length, dtype=torch.bool).tril()
    mask[text:, text:] &= GRIDS[kind](rows, columns)
    return mask


@functools.lru_cache(maxsize=16)
def mask_on(device: torch.device, kind: Mask, layout: Layout) -> Tensor:
    """The same on a device, where it is kept: all layers and all steps share it."""
    with torch.device("cpu"), torch.inference_mode(False):
        mask = stream_mask(kind, layout)
    return mask.to(device)


def layer_masks(masks: Masks, depth: int) -> list[Mask]:
    """The kind of mask of each layer.

    ``dalle`` is the paper's order: of layers 1 to depth - 1, layer i is ``column`` where (i - 2) mod 4 = 0, else
    ``row``; the last is ``convolutional``. Any other is the same in all layers.
    """
    if masks != "dalle":
        return [masks] * depth
    sparse: list[Mask] = ["column" if (i - 2) % 4 == 0 else "row" for i in range(1, depth)]
    return [*sparse, "convolutional"]


def full(rows: int, columns: int) -> Tensor:
    """All before it."""
    return torch.ones(rows * columns, rows * columns, dtype=torch.bool)


def row(rows: int, columns: int) -> Tensor:
    """Those before it in raster order, back to the same column of the row above."""
    places = torch.arange(rows * columns)
    behind = places[:, None] - places
    return (behind >= 0) & (behind <= columns)


def column(rows: int, columns: int) -> Tensor:
    """As ``row`` on the transposed grid: its own column above it, and its neighbour on the left."""
    transposed = torch.arange(rows * columns).view(columns, rows).T.reshape(-1)
    behind = transposed[:, None] - transposed
    return (behind >= 0) & (behind <= rows)


def convolutional(rows: int, columns: int) -> Tensor:
    """A window of 11 x 11 around it, which at the sides goes on in the rows above and below."""
    offsets = torch.arange(-REACH, REACH + 1)
    window = (offsets[:, None] * columns + offsets).flatten()
    places = torch.arange(rows * columns)
    return torch.isin(places - places[:, None], window)


GRIDS: dict[str, Callable[[int, int], Tensor]] = {
    "full": full,
    "row": row,
    "column": column,
    "convolutional": convolutional,
}
