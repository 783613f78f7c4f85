"""What a distribution says of where its draws lie. D is how many numbers a draw has; x is (*sample, *batch, D)."""

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent

from zoo_core.distributions import Dirac
from zoo_core.testing.checks import require, unfit

FAR = 1e6  # what reaches so far has no end


def support_of(p: Distribution) -> Any:
    try:
        return p.support
    except (AttributeError, NotImplementedError):
        unfit(
            f"{name_of(p)} does not say where its draws lie, by which the kit tells sums from integrals:"
            " give it a property support, such as torch.distributions.constraints.unit_interval"
        )


def is_discrete(p: Distribution) -> bool:
    return bool(support_of(p).is_discrete)


def is_point(p: Distribution) -> bool:
    """Whether all mass is at one point, so that log p knows only equal and different."""
    return isinstance(factors_of(p), Dirac)


def factors_of(p: Distribution) -> Distribution:
    while isinstance(p, Independent):
        p = p.base_dist
    return p


def name_of(p: Distribution) -> str:
    return type(factors_of(p)).__name__


def flat(p: Distribution, value: Tensor) -> Tensor:
    """value (*sample, *batch, *event) as (*sample, *batch, D)."""
    return value.reshape(*value.shape[: value.dim() - len(p.event_shape)], -1)


def as_event(p: Distribution, x: Tensor) -> Tensor:
    """x (*, D) as (*, *event)."""
    return x.reshape(*x.shape[:-1], *p.event_shape)


def log_prob(p: Distribution, x: Tensor) -> Tensor:
    """log p at x (*sample, *batch, D), (*sample, *batch)."""
    value = as_event(p, x)
    found, wanted = p.log_prob(value), x.shape[:-1]
    require(
        found.shape == wanted,
        f"log_prob of values {tuple(value.shape)} has the shape {tuple(found.shape)}, not {tuple(wanted)}:"
        " one number for each, summed over the whole of it",
    )
    return found.double()


def log_prob_within(p: Distribution, x: Tensor) -> Tensor:
    """log p at x (*sample, *batch, D), -inf where the support has it not: some refuse to be asked about such."""
    good, somewhere = allowed(p, x), flat(p, p.sample()).to(x.dtype)
    return log_prob(p, torch.where(good.unsqueeze(-1), x, somewhere)).where(good, -torch.inf)


def is_inside(p: Distribution, x: Tensor) -> Tensor:
    """Whether x (*sample, *batch, D) can be drawn, (*sample, *batch)."""
    return log_prob_within(p, x) > -torch.inf


def allowed(p: Distribution, x: Tensor) -> Tensor:
    """Whether the support has x (*sample, *batch, D), (*sample, *batch)."""
    within: Tensor = support_of(p).check(as_event(p, x))
    while within.dim() >= x.dim():
        within = within.all(-1)
    return within


def replaced(x: Tensor, i: int, points: Tensor) -> Tensor:
    """x (1, *batch, D) with its number i as it is in each of the points (N, *batch, D)."""
    many = x.expand(points.shape).clone()
    many[..., i] = points[..., i]
    return many


def depends(p: Distribution, x: Tensor) -> bool:
    """Whether numbers depend on each other: what two changes do is not what each does; x are draws."""
    a, b = x[:1], x[1:2]
    D = x.shape[-1]
    first = log_prob(p, a)
    for step in {1, max(1, D // 2), max(1, D // 3)}:
        for i in range(D):
            one, other = replaced(a, i, b), replaced(a, (i + step) % D, b)
            both = replaced(one, (i + step) % D, b)
            off = log_prob_within(p, both) - log_prob_within(p, one) - log_prob_within(p, other) + first
            if D > 1 and not bool((off.abs() <= 1e-6 * (1 + first.abs())).all()):
                return True
    return False


def ends(p: Distribution, x: Tensor) -> tuple[Tensor, Tensor]:
    """Between which two each number can be, (*batch, D) each, of a density with draws x; they may be infinite."""
    return _end(p, x, -1.0), _end(p, x, 1.0)


def _end(p: Distribution, x: Tensor, sign: float) -> Tensor:
    """Where the support ends on one side of the first draw, for each number by itself, (*batch, D); may be inf."""
    start = x[0].double()
    near, far = start.clone(), start + sign * FAR
    endless = _can_be(p, x, far)
    for _ in range(0 if endless.all() else 64):
        middle = (near + far) / 2
        good = _can_be(p, x, middle)
        near, far = near.where(~good, middle), far.where(good, middle)
    return near.where(~endless, sign * torch.inf)


def _can_be(p: Distribution, x: Tensor, at: Tensor) -> Tensor:
    """Whether each number of the first draw can be changed, by itself, to what it is in ``at`` (*batch, D)."""
    changed, each = x[:1].double().expand(x.shape[-1], *x.shape[1:]).clone(), torch.arange(x.shape[-1])
    changed[each, ..., each] = at.movedim(-1, 0)
    return is_inside(p, changed).movedim(0, -1)
