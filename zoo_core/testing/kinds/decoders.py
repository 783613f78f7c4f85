"""What is asked of p(x|z): of decoders, and of the likelihoods that are their last layer."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from zoo_core.testing.checks import check, require, unfit
from zoo_core.testing.exercises import EVENT
from zoo_core.testing.kinds.encoders import require_shapes
from zoo_core.testing.kinds.support import name_of
from zoo_core.testing.subjects import CODES, Subject, drawing

LEADING = (2, 3)


@check("decoder", "likelihood", structural=True)
def leading_dimensions(subject: Subject) -> None:
    """z or features with any leading dimensions, also none, give as many distributions of one datum."""
    with drawing(0), torch.no_grad():
        made = subject.make().eval().double()
        given, event, law = _exercise(subject, made)
        for leading in ((6,), LEADING, ()):
            p = law(given[: math.prod(leading)].reshape(*leading, *given.shape[1:]))
            require_shapes(p, leading, event)
            _require_mean(p, (*leading, *event))
        _require_rows(given, law)


def _exercise(subject: Subject, made: Any) -> tuple[Tensor, tuple[int, ...], Callable[[Tensor], Distribution]]:
    """Six rows of what it takes, the shape of one datum, and p(x|z)."""
    if subject.spec.kind == "likelihood":
        h = torch.randn(6, made.channels(EVENT[0]), *EVENT[1:], dtype=torch.float64)
        return h, EVENT, lambda h: made(h, len(EVENT))
    shape = (6, *made.latent_shape)
    coded = all(latent.endswith("[codes]") for latent in subject.spec.accepts)
    z = torch.randint(CODES, shape) if coded else torch.randn(shape, dtype=torch.float64)
    return z, tuple(made.data_shape), made


def _require_mean(p: Distribution, wanted: tuple[int, ...]) -> None:
    """Reconstructions and samples for the eye are means."""
    try:
        found = tuple(p.mean.shape)
    except NotImplementedError:
        unfit(f"{name_of(p)} has no mean, which is what reconstructions show")
    require(found == wanted, f"the mean of {name_of(p)} has the shape {found}, not {wanted}")


def _require_rows(given: Tensor, law: Callable[[Tensor], Distribution]) -> None:
    """Which leading dimensions there are changes nothing for a row."""
    x = law(given).sample()
    one = law(given).log_prob(x)
    other = law(given.reshape(*LEADING, *given.shape[1:])).log_prob(x.reshape(*LEADING, *x.shape[1:]))
    # A density may be 0 somewhere: two infinities are equal.
    off = float(torch.where(one == other.flatten(), 0.0, one - other.flatten()).abs().max())
    require(
        off <= 1e-9 * (1 + float(one.abs().max())),
        f"with leading dimensions {LEADING}, log_prob differs by {off:.2g} from that of 6 rows",
    )
