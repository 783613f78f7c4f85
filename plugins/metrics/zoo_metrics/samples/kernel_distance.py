"""The kernel distance between two sets of features: the squared maximum mean discrepancy of a cubic kernel."""

import math
import statistics
from collections.abc import Iterator

import torch
from torch import Tensor

from zoo_core import ConfigError, Extractor, Measurement, NonNegativeInt, PositiveInt, SampleMetric
from zoo_metrics.samples.frechet import ROWS, blocks, mean, require_comparable

GROUPS = 11  # of each set, whose means the centre is the median of
CHEAP = 2**30  # so many products of two numbers take no time in float64 either


class KernelDistance(SampleMetric):
    """MMD² of the kernel (x·y/d + 1)³ between features of data and of samples: KID, of whatever features.

    Reports ``kid (EXTRACTOR)`` from all pairs, unbiased for any number of examples, with its standard error by the
    jackknife, see ``kernel_distance_and_error``. A value below zero is a value near zero.

    Args:
        extractor: makes the features; by default the one that is registered for such images.
        subsets: how many random subsets to report ``kid_subsets`` of too, the mean over them, and
            ``kid_subsets_std``, as KID is often quoted (100 of 1000).
        size: how many examples of each set a subset takes.
        seed: of the subsets.

    Raises:
        ConfigError: fewer than two examples, or with subsets than ``size``; or samples with features that are not
            finite.
    """

    def __init__(
        self,
        extractor: Extractor | None = None,
        subsets: NonNegativeInt = 0,
        size: PositiveInt = 1000,
        seed: NonNegativeInt = 0,
    ) -> None:
        super().__init__(extractor)
        self.subsets, self.size, self.seed = subsets, size, seed

    def compute(self) -> dict[str, Measurement]:
        real, generated = self.real, self.kept("generated")
        n = len(generated)
        about = {**self.features_of.identity, "d": real.shape[1], "real": len(real), "generated": n}
        value, error = kernel_distance_and_error(real, generated)
        values = {self.named("kid"): Measurement(value, error, n, about=about)}
        if self.subsets:
            drawn = {"subsets": self.subsets, "size": self.size, "seed": self.seed}
            typical, spread = kernel_distance_subsets(real, generated, **drawn)
            about = {**about, **drawn}
            values[self.named("kid_subsets")] = Measurement(typical, math.nan, n, about=about)
            values[self.named("kid_subsets_std")] = Measurement(spread, math.nan, n, better="neither", about=about)
        return values


def kernel_distance(real: Tensor, generated: Tensor) -> float:
    """MMD² = mean_{i≠j} k(x_i, x_j) + mean_{i≠j} k(y_i, y_j) - 2 mean_{ij} k(x_i, y_j) with k = (x·y/d + 1)³,

    for features x (N, d) and y (M, d): all pairs there are, without a subset's noise. Unbiased for any N and M, so
    that of equal distributions it is negative as often as not.

    Products of float32 features are taken in float32, about a common centre, and summed in float64: what that rounds
    is nothing beside the standard error, however far from zero the features lie. Those of float64 are taken in float64.

    Demystifying MMD GANs (Bińkowski et al., 2018) https://arxiv.org/abs/1801.01401

    Raises:
        ConfigError: a set of fewer than two examples, of other features than the other, or with some not finite.
    """
    return kernel_distance_and_error(real, generated)[0]


@torch.no_grad()
def kernel_distance_and_error(real: Tensor, generated: Tensor) -> tuple[float, float]:
    """``kernel_distance``, and its standard error by the jackknife over both sets; nan for fewer than three examples.

    With h(x_i) = 1/(N-2) Σ_{j≠i} k(x_i, x_j) - 1/M Σ_j k(x_i, y_j) the variance is 4/N var_i h(x_i), divided by N - 1,
    and the like for y. Where the distributions differ it is right for large N; where they are equal the error comes
    out larger, by √2, than it is.

    The jackknife estimate of variance (Efron & Stein, 1981) https://doi.org/10.1214/aos/1176345462
    """
    require_comparable(real, generated)
    x, y, unit = centred(real, generated)
    m, n = len(real), len(generated)
    xx, yy, (xy, yx) = within(x), within(y), between(x, y)
    value = xx.sum() / (m * (m - 1)) + yy.sum() / (n * (n - 1)) - 2 * xy.sum() / (m * n)
    variance = _variance(xx, xy, n) + _variance(yy, yx, m)
    return float(unit * value), float(unit * variance**0.5)


def _variance(own: Tensor, other: Tensor, others: int) -> Tensor:
    n = len(own)
    if n < 3:
        return own.new_tensor(math.nan)
    return 4 / n * (own / (n - 2) - other / others).var()


def kernel_distance_subsets(
    real: Tensor, generated: Tensor, *, subsets: int = 100, size: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Mean and standard deviation, divided by ``subsets``, of ``kernel_distance`` over random subsets of both sets.

    The deviation tells how far apart subsets are, not how sure the mean is.

    Raises:
        ConfigError: a set has fewer than ``size`` examples.
    """
    require_comparable(real, generated)
    few = min(len(real), len(generated))
    if few < size:
        raise ConfigError(f"subsets of {size} need as many examples of each, got {few}: take more, or a smaller size")
    generator = torch.Generator().manual_seed(seed)

    def subset(x: Tensor) -> Tensor:
        return x[torch.randperm(len(x), generator=generator)[:size]]

    values = [kernel_distance(subset(real), subset(generated)) for _ in range(subsets)]
    return statistics.fmean(values), statistics.pstdev(values)


# With a centre c, α = 1 + c·c/d, β(x) = c·(x - c)/d and g(x, y) = (x - c)·(y - c)/d the kernel is
#     k(x, y) = (α + β(x) + β(y) + g(x, y))³.
# MMD² does not see what depends on x or on y alone. Without (α + β(x))³ + (α + β(y))³ - α³ there is left, with
# w = α + β(x) + β(y),
#     3 w² g + 3 β(x) β(y) (w + α)  +  g² (g + 3 w).
# The first two are sums of products of a function of x and one of y: their sums over all pairs are cheap, in float64.
# The last one is all that needs a product for each pair, and a mean far from zero makes no large numbers cancel in it.


class Centred:
    """Features x (N, d) as u = (x - c)/s, in blocks of rows; with g = u·v all is in units of s²/d.

    Attributes:
        alpha: α.
        beta: β(x), (N,).
        own: g(x, x), (N,).
    """

    def __init__(self, x: Tensor, c: Tensor, s: Tensor, dtype: torch.dtype) -> None:
        self.x, self.c, self.s = x, c, s
        self.alpha = (len(c) + c.square().sum()) / s**2
        self.beta, self.own = torch.cat([torch.stack([u @ c / s, u.square().sum(1)]) for u in self.exactly()], 1)
        self.near = c.to(dtype)

    def exactly(self) -> Iterator[Tensor]:
        """The rows u in float64."""
        return (torch.sub(rows, self.c).div_(self.s) for rows in blocks(self.x))

    def rounded(self, first: int) -> Tensor:
        """The block of rows u from ``first``, in the type that pairs are multiplied in."""
        x = self.x[first : first + ROWS].to(self.near.dtype)
        # The rounding of c does no harm: the farther it is from zero, the less is g beside w.
        return x.sub(self.near).div_(self.s.to(x))

    def __len__(self) -> int:
        return len(self.x)


def centred(real: Tensor, generated: Tensor) -> tuple[Centred, Centred, float]:
    """Both sets about one centre, and the unit (s²/d)³ of their kernel."""
    m, n = len(real), len(generated)
    # Any centre will do. A far example drags the mean of all away from the others, but that of its own group alone.
    groups = [x[first::GROUPS] for x in (real, generated) for first in range(min(GROUPS, len(x)))]
    c = torch.stack([mean(group) for group in groups]).median(0).values
    squares = [torch.sub(rows, c).square().sum() for x in (real, generated) for rows in blocks(x)]
    # What varies that little has a linear kernel: its cubes may vanish, but must not overflow.
    least = 1e-24 * (len(c) + c.square().sum())
    s = torch.maximum(torch.stack(squares).sum() / (m + n), least).sqrt()
    dtype = torch.promote_types(torch.promote_types(real.dtype, generated.dtype), torch.float32)
    if (m + n) ** 2 * len(c) <= CHEAP:
        dtype = torch.float64
    return Centred(real, c, s, dtype), Centred(generated, c, s, dtype), float(s**2 / len(c)) ** 3


def within(x: Centred) -> Tensor:
    """Σ_{j≠i} k(x_i, x_j) without what cancels, (N,)."""
    w = x.alpha + 2 * x.beta
    own = 3 * w.square() * x.own + 3 * x.beta.square() * (w + x.alpha)
    rows, columns = over_pairs(x, x)
    sums: Tensor = products(x, x) - own + rows + columns
    return sums


def between(x: Centred, y: Centred) -> tuple[Tensor, Tensor]:
    """Σ_j k(x_i, y_j), (N,), and Σ_i k(x_i, y_j), (M,), without what cancels."""
    rows, columns = over_pairs(x, y)
    return products(x, y) + rows, products(y, x) + columns


def products(x: Centred, y: Centred) -> Tensor:
    """Σ_j 3 w² g + 3 β(x_i) β(y_j) (w + α), (N,); w² = p² + 2 p β(y) + β(y)² with p = α + β(x)."""
    powers = torch.stack([torch.ones_like(y.beta), y.beta, y.beta.square()], 1)  # (M, 3)
    V = torch.stack([v.T @ b for v, b in zip(y.exactly(), blocks(powers), strict=True)]).sum(0)  # (d, 3)
    g = torch.cat([u @ V for u in x.exactly()])
    p = x.alpha + x.beta
    w2g = p.square() * g[:, 0] + 2 * p * g[:, 1] + g[:, 2]
    _, b1, b2 = powers.sum(0)
    sums: Tensor = 3 * w2g + 3 * x.beta * ((p + x.alpha) * b1 + b2)
    return sums


def over_pairs(x: Centred, y: Centred) -> tuple[Tensor, Tensor]:
    """Σ_j g² (g + 3 w), (N,), and Σ_i of the same, (M,); of a set with itself each pair i ≠ j once."""
    rows, columns = torch.zeros_like(x.beta), torch.zeros_like(y.beta)
    p, b = 3 * (x.alpha + x.beta).to(x.near), 3 * y.beta.to(x.near)
    for i in range(0, len(x), ROWS):
        u = x.rounded(i)
        for j in range(i if x is y else 0, len(y), ROWS):
            g = u @ (u if x is y and i == j else y.rounded(j)).T
            if x is y and i == j:
                g.triu_(1)
            cubes = g.square()
            cubes *= g.add_(p[i : i + ROWS, None]).add_(b[j : j + ROWS])
            rows[i : i + ROWS] += cubes.sum(1)
            columns[j : j + ROWS] += cubes.sum(0)
    return rows, columns
