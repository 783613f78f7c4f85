"""A distribution by points that stand for all that can be drawn: what is discrete is summed, the rest integrated.

D is how many numbers a draw has.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.nn.functional import logsigmoid

from zoo_core.testing.checks import require
from zoo_core.testing.kinds.support import (
    allowed,
    depends,
    ends,
    is_discrete,
    log_prob,
    log_prob_within,
    name_of,
    replaced,
)

CELLS = 2**17  # of a table of all that can be drawn
# Points of a density for each of 1, 2 or 3 numbers together, and how exact that is; for each by itself.
NODES = {1: (2000, 1e-3), 2: (300, 1e-3), 3: (64, 3e-2)}
NODES_ALONE = 400
WIDTHS = 9.0  # the outermost points lie sinh(9) = 4,000 widths from the middle


@dataclass(frozen=True)
class Table:
    """A distribution by points that stand for all that can be drawn.

    Attributes:
        x: (points, *batch, D).
        log_mass: log p(x), and of a density the log of what x stands for: (points, *batch); of each number by
            itself, the others staying as they are, (points, *batch, D).
    """

    x: Tensor
    log_mass: Tensor

    @property
    def total(self) -> Tensor:
        return self.log_mass.logsumexp(0).exp()

    def expect(self, f: Callable[[Tensor], Tensor]) -> Tensor:
        """E[f(x)] for f from (points, *batch, D) to (points, *batch, F)."""
        mass = self.log_mass.softmax(0)
        return ((mass if mass.dim() == self.x.dim() else mass.unsqueeze(-1)) * f(self.x)).sum(0)


def fits_a_table(p: Distribution, x: Tensor) -> bool:
    """Whether all that can be drawn together is to be written down, and can be."""
    D = x.shape[-1]
    if is_discrete(p):
        return bool(len(_values(p, x)) ** D <= CELLS)
    return D in NODES and (D in (1, 2) or depends(p, x))


def table_of(p: Distribution, x: Tensor) -> Table:
    """log p at all that a few numbers can be together; x (N, *batch, D) are draws.

    Raises:
        Unfit: they can be too many things.
    """
    points, log_w = (_values(p, x), None) if is_discrete(p) else _nodes(p, x, NODES[x.shape[-1]][0])
    places = torch.cartesian_prod(*[torch.arange(len(points))] * x.shape[-1]).reshape(-1, x.shape[-1])
    together = torch.stack([points[places[:, i], ..., i] for i in range(x.shape[-1])], -1)
    if log_w is not None:
        weights = torch.stack([log_w[places[:, i], ..., i] for i in range(x.shape[-1])], -1).sum(-1)
        return Table(together, log_prob(p, together) + weights)
    return Table(together, log_prob_within(p, together))


def table_alone(p: Distribution, x: Tensor) -> Table:
    """log p at all that each number can be by itself, while the others are those of the first draw of x."""
    points, log_w = (_values(p, x), torch.zeros(())) if is_discrete(p) else _nodes(p, x, NODES_ALONE)
    log_p = [log_prob(p, replaced(x[:1], i, points)) for i in range(x.shape[-1])]
    return Table(points, torch.stack(log_p, -1) + log_w)


def _values(p: Distribution, x: Tensor) -> Tensor:
    """All that one number can be, (points, *batch, D), of a discrete p with draws x."""
    found = _codes(p, x) if not x.is_floating_point() else _levels(p, x)
    return found.reshape(-1, *[1] * (x.dim() - 1)).expand(-1, *x.shape[1:])


def _codes(p: Distribution, x: Tensor) -> Tensor:
    candidates = torch.arange(CELLS // x[0].numel())
    line = candidates.reshape(-1, *[1] * (x.dim() - 1)).expand(-1, *x.shape[1:])
    good = allowed(p, replaced(x[:1], 0, line)).reshape(len(line), -1).all(1)
    return candidates[good]


def _levels(p: Distribution, x: Tensor) -> Tensor:
    """k / (2^bits - 1) for the most bits that the support has; 0 and 1 where one number alone cannot change."""
    for bits in range(8, 0, -1):
        candidates = torch.linspace(0, 1, 2**bits, dtype=x.dtype)
        line = candidates.reshape(-1, *[1] * (x.dim() - 1)).expand(-1, *x.shape[1:])
        if bool(allowed(p, replaced(x[:1], 0, line)).all()):
            break
    near = (x * (len(candidates) - 1)).round() / (len(candidates) - 1)
    require(
        bool(((x - near).abs() < 1e-4).all() and (x.abs() <= 1).all()),
        f"{name_of(p)} is discrete, but the kit cannot tell of which values: they are neither codes (int64),"
        " nor 0 and 1, nor the levels k / (2^bits - 1) for up to 8 bits",
    )
    return candidates


def _nodes(p: Distribution, x: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Points of each number of a density with draws x, denser where the draws are, and the logs of their widths.

    An end of the support is put at infinity; there the double exponential rule of Takahasi and Mori (1974) adds up
    whatever has an integral. https://doi.org/10.2977/prims/1195192451
    """
    low, high = ends(p, x)
    require(
        (high - low).min() > 1e-5,
        f"the numbers of a draw of {name_of(p)} cannot change one by one, as on a sphere or where they add up to 1:"
        " the kit cannot integrate there, so let the plugin's module conformance expect this failure",
    )
    y = _stretched(x, low, high)
    middle, width = middle_and_width(y)
    t = torch.linspace(-WIDTHS, WIDTHS, n, dtype=y.dtype).reshape(-1, *[1] * (y.dim() - 1))
    y = middle + width * t.sinh()
    log_dy = width.log() + t.cosh().log() + math.log(2 * WIDTHS / (n - 1))
    points, log_slope = _shrunk(y, low, high)
    return points, log_dy + log_slope


def middle_and_width(y: Tensor) -> tuple[Tensor, Tensor]:
    """The median of rows of draws, and half of what lies between their quartiles."""
    quarters = y[:4000].sort(0).values
    n = len(quarters)
    width = (quarters[3 * n // 4] - quarters[n // 4]) / 2
    return quarters[n // 2], width.where(width > 1e-12, 1.0)


def _stretched(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """x between its ends, as numbers without ends."""
    tiny = torch.finfo(x.dtype).tiny
    below, above = (x - low).clamp(min=tiny).log(), (high - x).clamp(min=tiny).log()
    return torch.where(
        low.isfinite(), below - torch.where(high.isfinite(), above, 0.0), torch.where(high.isfinite(), -above, x)
    )


def _shrunk(y: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """The inverse of ``_stretched``, and the log of its slope."""
    within = logsigmoid(y) + logsigmoid(-y)
    has_low, has_high = low.isfinite(), high.isfinite()
    a, b = low.where(has_low, 0.0), high.where(has_high, 0.0)
    both = a + (b - a) * y.sigmoid()
    x = torch.where(has_low, torch.where(has_high, both, a + y.exp()), torch.where(has_high, b - (-y).exp(), y))
    steep = torch.where(has_low & has_high, (b - a).abs().clamp(min=1e-300).log() + within, 0.0)
    return x, torch.where(has_low ^ has_high, torch.where(has_low, y, -y), steep)
