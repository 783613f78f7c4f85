"""Which points lie in the balls that reach from other points to their k-th nearest neighbours.

Squared distances are products of matrices in float32, tile by tile: they are never all held at once. Each is known to
lie between two bounds; where these leave a comparison open, as they do a tie, the sum of squared differences in float64
decides. So every answer is the one of float64, at the price of float32.
"""

import math
from functools import cached_property
from itertools import combinations, combinations_with_replacement, product
from typing import NamedTuple

import torch
from torch import Tensor

from zoo_core import ConfigError

BLOCK = 1000  # rows and columns of a tile
PAIRS = 2**17  # values of the differences that are squared and summed at a time
SPARE = 8  # candidates beyond the k nearest, among which rounding may have hidden one of these
SPARSE = 1 / 128  # the share of a tile that is decided pair by pair, before all of it is made again in float64
LEAST, MOST = 1e-20, 1e37  # of a set's squares that float32 can be trusted with
TIE = 1e-12  # squared distances that differ by less, relatively, are equal


class Balls(NamedTuple):
    """The ball around each point of x (N, d) that reaches to its k-th nearest neighbour, boundary included.

    Attributes:
        centres: x.
        squares: the squared radii, float64 (N,).
    """

    centres: Tensor
    squares: Tensor


class Inside(NamedTuple):
    """Which of M points lie in which of N balls, as counts.

    Attributes:
        held: how many of the points each ball holds, int64 (N,).
        holding: how many of the balls hold each point, int64 (M,).
    """

    held: Tensor
    holding: Tensor


@torch.no_grad()
def neighbourhoods(x: Tensor, k: int) -> Balls:
    """The ball around each x_i (N, d) of radius || x_i - x_j ||, where x_j is the k-th nearest of the other points.

    A point is no neighbour of its own, by its index; another one that is equal to it is.

    Raises:
        ConfigError: there are not more than k points, or one of them is not finite.
    """
    if len(x) <= k:
        raise ConfigError(f"neighbour number {k} needs more than {k} examples, got {len(x)}: measure more, or lower k")
    (cloud,), every = clouds(x), torch.arange(len(x))
    lower, j = candidates(cloud, min(k + SPARE, len(x) - 1))
    squares, upper = kth_squares(cloud, every, j, lower, k)
    # What is no candidate is further than the last of them; and nothing is nearer than an equal point.
    unsure = (lower[:, -1] <= upper) & (squares > 0) & (lower.shape[1] < len(x) - 1)
    for i in torch.split(every[unsure], max(1, BLOCK**2 // len(x))) if unsure.any() else ():
        lower = bounds_to_others(cloud.in_float64, i)
        squares[i] = kth_squares(cloud.in_float64, i, every.expand(len(i), -1), lower, k)[0]
    return Balls(x, squares)


def inside(balls: Balls, points: Tensor) -> Inside:
    """Which of the points (M, d) lie in the balls.

    Raises:
        ConfigError: points and centres differ in d, or one of them is not finite.
    """
    empty = torch.full((len(points),), -math.inf, dtype=torch.float64)
    return crossings(balls, Balls(points, empty))[0]


@torch.no_grad()
def crossings(x: Balls, y: Balls) -> tuple[Inside, Inside]:
    """Which centres of y lie in the balls of x, and which centres of x in those of y: one pass over the distances.

    Raises:
        ConfigError: the centres differ in d, or one of them is not finite.
    """
    if x.centres.shape[1:] != y.centres.shape[1:]:
        raise ConfigError(f"features {tuple(x.centres.shape)} and {tuple(y.centres.shape)} must be of equal d")
    (of_x, of_y), n, m = clouds(x.centres, y.centres), len(x.centres), len(y.centres)
    in_x, in_y = none_inside(n, m), none_inside(m, n)
    for i, j in product(blocks(n), blocks(m)):
        lower = lower_bounds(of_x, of_y, i, j)
        add(in_x, i, j, *pairs_within(x.squares[i], of_x, of_y, i, j, lower))
        add(in_y, j, i, *pairs_within(y.squares[j], of_y, of_x, j, i, lower.T))
    return in_x, in_y


def none_inside(balls: int, points: int) -> Inside:
    return Inside(torch.zeros(balls, dtype=torch.int64), torch.zeros(points, dtype=torch.int64))


def add(into: Inside, balls: slice, points: slice, i: Tensor, j: Tensor) -> None:
    """Counts pairs of a ball and a point that it holds, by their numbers within their blocks."""
    into.held[balls] += i.bincount(minlength=balls.stop - balls.start)
    into.holding[points] += j.bincount(minlength=points.stop - points.start)


def pairs_within(squares: Tensor, x: "Cloud", y: "Cloud", i: slice, j: slice, lower: Tensor) -> tuple[Tensor, Tensor]:
    """The pairs with || x_i - y_j ||^2 <= squares_i, of a tile with these lower bounds: numbers within it, (P,)."""
    limit = squares * (1 + TIE)
    # The number above it, lest what is rounded down lose a tie.
    above = limit.to(lower.dtype).nextafter(lower.new_tensor(math.inf))
    a, b = (lower <= above.unsqueeze(1)).nonzero(as_tuple=True)
    held = lower[a, b] + x.slack[i][a] + y.slack[j][b] <= limit[a]
    unsure = (~held).nonzero().flatten()
    if len(unsure) > SPARSE * lower.numel() and lower.dtype != torch.float64:
        x, y = x.in_float64, y.in_float64
        return pairs_within(squares, x, y, i, j, lower_bounds(x, y, i, j))
    held[unsure] = squared_distances(x.x[i], y.x[j], a[unsure], b[unsure]) <= limit[a[unsure]]
    return a[held], b[held]


def candidates(cloud: "Cloud", count: int) -> tuple[Tensor, Tensor]:
    """To each point the ``count`` others whose lower bounds are least: these bounds, and their numbers, (N, count)."""
    n = len(cloud.x)
    near, index = torch.full((n, count), math.inf, dtype=cloud.dtype), torch.zeros(n, count, dtype=torch.int64)

    def take(i: slice, j: slice, lower: Tensor) -> None:
        own = lower.topk(min(count, lower.shape[1]), largest=False)
        both = torch.cat([near[i], own.values], 1).topk(count, largest=False)
        near[i] = both.values
        index[i] = torch.cat([index[i], own.indices + j.start], 1).gather(1, both.indices)

    for block in blocks(n):
        take(block, block, bounds_within(cloud, block))
    for i, j in combinations(blocks(n), 2):
        lower = lower_bounds(cloud, cloud, i, j)
        take(i, j, lower)
        take(j, i, lower.T)
    return near, index


def kth_squares(cloud: "Cloud", i: Tensor, j: Tensor, lower: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k-th least || x_i - x_j ||^2 among the j (R, C) of each i (R,), and an upper bound of it: (R,) each.

    Only those are summed whose bounds let them be the k-th.
    """
    upper = lower + cloud.slack[i].unsqueeze(1) + cloud.slack[j]
    least, most = (bounds.kthvalue(k, 1, keepdim=True).values for bounds in (lower, upper))
    squares = torch.where(upper < least, 0.0, math.inf).double()
    r, c = ((upper >= least) & (lower <= most)).nonzero(as_tuple=True)
    squares[r, c] = squared_distances(cloud.x, cloud.x, i[r], j[r, c])
    return squares.kthvalue(k, 1).values, most.squeeze(1)


def bounds_within(cloud: "Cloud", block: slice) -> Tensor:
    """Lower bounds of the squared distances within a block, (I, I), infinite from a point to itself."""
    x, low, n = cloud[block], cloud.low[block], block.stop - block.start
    lower = low.new_empty(n, n)
    for i, j in combinations_with_replacement(blocks(n, math.ceil(n / 4)), 2):
        part = bounds(x[i], x[j], low[i], low[j])
        lower[i, j], lower[j, i] = part, part.T
    return lower.fill_diagonal_(math.inf)


def bounds_to_others(cloud: "Cloud", i: Tensor) -> Tensor:
    """Lower bounds of the squared distances from the points i (R,) to all, (R, N), infinite from a point to itself."""
    lower = torch.cat([lower_bounds(cloud, cloud, i, j) for j in blocks(len(cloud.x))], 1)
    return lower.scatter_(1, i.unsqueeze(1), math.inf)


def lower_bounds(x: "Cloud", y: "Cloud", i: slice | Tensor, j: slice) -> Tensor:
    """Of || x_i - y_j ||^2, (I, J); the upper bound is greater by the slack of x_i and that of y_j."""
    return bounds(x[i], y[j], x.low[i], y.low[j])


def bounds(x: Tensor, y: Tensor, low_x: Tensor, low_y: Tensor) -> Tensor:
    return torch.addmm(low_y, x, y.T, alpha=-2).add_(low_x.unsqueeze(1))


def squared_distances(x: Tensor, y: Tensor, i: Tensor, j: Tensor) -> Tensor:
    """|| x_i - y_j ||^2 of pairs i, j (P,), float64 (P,)."""
    chunks = zip(*(torch.split(index, max(1, PAIRS // x.shape[1])) for index in (i, j)), strict=True)
    differences = (x.index_select(0, a).double() - y.index_select(0, b).double() for a, b in chunks)
    return torch.cat([torch.linalg.vector_norm(d, dim=1).square() for d in differences])


def blocks(n: int, size: int | None = None) -> list[slice]:
    size = size or BLOCK
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


def shifted(block: slice, by: int) -> slice:
    return slice(block.start + by, block.stop + by)


def middle(x: Tensor) -> Tensor:
    """A centre (d,) amid points (N, d), float64: distances are the same about any, this one leaves little to rounding.

    Points that are all equal lie there exactly.
    """
    some = x[:: math.ceil(len(x) / 256)].double()
    return some[0] + (some - some[0]).mean(0)


def clouds(*sets: Tensor) -> list["Cloud"]:
    """Sets of points (N, d) about the middle of the first: in float32, or in float64 where float32 would not do.

    Raises:
        ConfigError: a point is not finite.
    """
    centre = middle(sets[0])
    made = [Cloud(x, centre, torch.float32) for x in sets]
    # Where torch may multiply float32 in a shorter format, its products are off by more than the bounds allow for.
    if torch.get_float32_matmul_precision() == "highest" and all(LEAST < x.low.max() < MOST for x in made):
        return made
    made = [x.in_float64 for x in made]
    if not all(x.low.isfinite().all() for x in made):
        raise ConfigError("features must be finite numbers: look at the model's samples, or at the extractor")
    return made


class Cloud:
    """Points x (N, d) about a centre, rounded to ``dtype``, and what rounding leaves uncertain of their distances.

    With u the unit roundoff, c = 2 (d + 32) u and a_i = || x_i ||^2, the computed a_i + a_j - 2 x_i . x_j is off by at
    most c (a_i + a_j), in whatever order the products are summed: Accuracy and stability of numerical algorithms
    (Higham, 2002), section 3.1, https://doi.org/10.1137/1.9780898718027

    Attributes:
        low: (1 - c) a_i, what x_i adds to the lower bound of a squared distance, (N,).
        slack: 2 c a_i, what it adds to the difference of both bounds, (N,).
    """

    def __init__(self, x: Tensor, centre: Tensor, dtype: torch.dtype) -> None:
        self.x, self.centre, self.dtype = x, centre, dtype
        c = (x.shape[1] + 32) * torch.finfo(dtype).eps
        a = torch.cat([torch.linalg.vector_norm(self[i], dim=1) for i in blocks(len(x))]).square()
        self.low, self.slack = (1 - c) * a, 2 * c * a

    def __getitem__(self, i: slice | Tensor) -> Tensor:
        finer = torch.promote_types(self.x.dtype, self.dtype)
        return (self.x[i].to(finer) - self.centre.to(finer)).to(self.dtype)

    @cached_property
    def in_float64(self) -> "Cloud":
        return Cloud(self.x, self.centre, torch.float64)
