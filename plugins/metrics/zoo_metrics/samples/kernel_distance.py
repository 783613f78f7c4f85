"""The kernel distance between two sets of features: the squared maximum mean discrepancy of a cubic kernel."""

import math
import statistics
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo_core import ConfigError, Extractor, Measurement, NonNegativeInt, PositiveInt, SampleMetric
from zoo_metrics.samples.frechet import mean, require_comparable

ROWS = 768  # of each set, whose pairs are multiplied at a time
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
    return value_and_error(*centred(real, generated))


def value_and_error(x: "Centred", y: "Centred") -> tuple[float, float]:
    """The same of both sets about one centre."""
    m, n = len(x), len(y)
    xx, yy, (xy, yx) = within(x), within(y), between(x, y)
    value = xx.sum() / (m * (m - 1)) + yy.sum() / (n * (n - 1)) - 2 * xy.sum() / (m * n)
    variance = _variance(xx, xy, n) + _variance(yy, yx, m)
    return float(x.unit * value), float(x.unit * variance**0.5)


def _variance(own: Tensor, other: Tensor, others: int) -> Tensor:
    n = len(own)
    if n < 3:
        return own.new_tensor(math.nan)
    return 4 / n * (own / (n - 2) - other / others).var()


@torch.no_grad()
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
    x, y = centred(real, generated)

    def rows(x: Centred) -> Tensor:
        return torch.randperm(len(x), generator=generator)[:size]

    values = [value_and_error(x.subset(rows(x)), y.subset(rows(y)))[0] for _ in range(subsets)]
    return statistics.fmean(values), statistics.pstdev(values)


# With a centre c, α = 1 + c·c/d, β(x) = c·(x - c)/d and g(x, y) = (x - c)·(y - c)/d the kernel is
#     k(x, y) = (α + β(x) + β(y) + g(x, y))³.
# MMD² does not see what depends on x or on y alone. Without (α + β(x))³ + (α + β(y))³ - α³ there is left, with
# w = α + β(x) + β(y),
#     3 w² g + 3 β(x) β(y) (w + α)  +  g² (g + 3 w).
# The first two are sums of products of a function of x and one of y: their sums over all pairs are cheap, in float64.
# The last one is all that needs a product for each pair, and a mean far from zero makes no large numbers cancel in it.


class Centred:
    """Features x (N, d) as u = (x - c)/s; with g = u·v all is in units of s²/d.

    Args:
        u: u, in the type that pairs are multiplied in.
        c: c/s, float64 (d,).
        s: s.

    Attributes:
        alpha: α.
        unit: (s²/d)³, that of k.
        beta: β(x), (N,).
        own: g(x, x), (N,).
        V: Σ_i β(x_i)^p u_i for p = 0, 1, 2, (3, d).
    """

    def __init__(self, u: Tensor, c: Tensor, s: float) -> None:
        self.u, self.c, self.s = u, c, s
        self.alpha, self.unit = len(c) / s**2 + c.square().sum(), (s**2 / len(c)) ** 3
        beta, own, V = zip(*(self._sums(rows.double()) for rows in blocks(u)), strict=True)
        self.beta, self.own, self.V = torch.cat(beta), torch.cat(own), torch.stack(V).sum(0)

    def _sums(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        beta = u @ self.c
        return beta, u.square().sum(1), powers(beta) @ u

    def subset(self, rows: Tensor) -> "Centred":
        """Those rows alone, about the same centre."""
        return Centred(self.u[rows], self.c, self.s)

    def __len__(self) -> int:
        return len(self.u)


def powers(beta: Tensor) -> Tensor:
    """β^p for p = 0, 1, 2, (3, N)."""
    return torch.stack([torch.ones_like(beta), beta, beta.square()])


def centred(real: Tensor, generated: Tensor) -> tuple[Centred, Centred]:
    """Both sets about one centre."""
    d = real.shape[1]
    dtype = torch.promote_types(torch.promote_types(real.dtype, generated.dtype), torch.float32)
    if (len(real) + len(generated)) ** 2 * d <= CHEAP:
        dtype = torch.float64
    c = centre(real, generated).to(dtype)
    u, v = real.to(dtype) - c, generated.to(dtype) - c
    lengths = torch.cat([torch.linalg.vector_norm(rows, 1, dim=1) for rows in (u, v)])
    # What varies that little has a linear kernel: its cubes may vanish, but must not overflow.
    least = 1e-12 * (d + c.double().square().sum()).sqrt()
    # Any unit of that size will do: division by a power of two rounds nothing.
    s = 2.0 ** math.frexp(max(float(lengths.mean(dtype=torch.float64)), float(least)))[1]
    return Centred(u.div_(s), c.double() / s, s), Centred(v.div_(s), c.double() / s, s)


def centre(real: Tensor, generated: Tensor) -> Tensor:
    """A centre of both sets, float64 (d,): any will do, which leaves the pairs' type to round it.

    A far example drags the mean of all away from the others, but that of its own group alone.
    """
    groups = [x[first::GROUPS] for x in (real, generated) for first in range(min(GROUPS, len(x)))]
    return torch.stack([mean(group) for group in groups]).median(0).values


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
    g0, g1, g2 = torch.cat([rows.double() @ y.V.T for rows in blocks(x.u)]).unbind(1)
    p, (_, b1, b2) = x.alpha + x.beta, powers(y.beta).sum(1)
    w2g = p.square() * g0 + 2 * p * g1 + g2
    sums: Tensor = 3 * w2g + 3 * x.beta * ((p + x.alpha) * b1 + b2)
    return sums


def over_pairs(x: Centred, y: Centred) -> tuple[Tensor, Tensor]:
    """Σ_j g² (g + 3 w), (N,), and Σ_i of the same, (M,); of a set with itself each pair i ≠ j once."""
    rows, columns = blocks(torch.zeros_like(x.beta)), blocks(torch.zeros_like(y.beta))
    p, b = blocks((3 * (x.alpha + x.beta)).to(x.u)), blocks((3 * y.beta).to(y.u))
    us = multipliers(x.u)
    vs = us if x is y else multipliers(y.u)
    for i, u in enumerate(us):
        for j in range(i if x is y else 0, len(vs)):
            g = multiplied(u, vs[j])
            if x is y and i == j:
                g.triu_(1)
            cubes = g.square()
            cubes *= g.add_(p[i][:, None]).add_(b[j])
            rows[i].add_(cubes.sum(1))
            columns[j].add_(cubes.sum(0))
    return torch.cat(rows), torch.cat(columns)


def blocks(x: Tensor) -> tuple[Tensor, ...]:
    """x, a block of rows after the other."""
    return torch.split(x, ROWS)


def multipliers(u: Tensor) -> Sequence[Tensor]:
    """Blocks of rows for ``multiplied``, for which oneDNN takes a fifth less time than the usual product."""
    available: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if available and u.dtype == torch.float32 and u.device.type == "cpu":
        return [rows.to_mkldnn() for rows in blocks(u)]
    return blocks(u)


def multiplied(u: Tensor, v: Tensor) -> Tensor:
    """g = u v^T."""
    g = F.linear(u, v)
    return g.to_dense() if g.is_mkldnn else g
