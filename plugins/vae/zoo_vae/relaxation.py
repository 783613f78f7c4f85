"""Draws of a discrete q(z|x) that a gradient can pass, and how sharp they are."""

import math
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor
from torch.distributions import Distribution

from zoo_core import ConfigError


@runtime_checkable
class Relaxable(Protocol):
    """A discrete distribution that offers draws with a gradient, as ``nets/one_hot`` gives it."""

    def relaxed(self, temperature: float, sample_shape: Sequence[int] = ()) -> Tensor:
        """A draw (*sample, *batch, *event) between the values that z can have, the nearer the lower the temperature."""

    def rounded(self, z: Tensor) -> Tensor:
        """The nearest value that z can have; of a relaxed draw, a draw of the distribution itself."""


def relaxed(q: Distribution, temperature: float, needed_by: str) -> Tensor:
    """z with a gradient: a relaxed draw, or ``rsample`` where q has it.

    Raises:
        ConfigError: q has neither.
    """
    if isinstance(q, Relaxable):
        return q.relaxed(temperature)
    if q.has_rsample:
        return q.rsample()
    raise ConfigError(
        f"{needed_by} takes a q(z|x) that can be relaxed, such as nets/one_hot: {type(q).__name__} cannot. "
        "vae/score_function takes any with a density"
    )


def annealed(step: int | None, first: float, last: float, over: int) -> float:
    """From ``first`` at step 0 to ``last``, by the same factor at each of so many steps; None: they have ended."""
    if step is None or step >= over:
        return last
    return first * math.pow(last / first, step / over)


def require_alike(q: Distribution, p_z: Distribution, needed_by: str) -> None:
    """Refuses a probability of q(z|x) against a density of p(z), and the other way round.

    Raises:
        ConfigError: naming parts that go together.
    """
    if is_discrete(q) is not is_discrete(p_z) and None not in (is_discrete(q), is_discrete(p_z)):
        raise ConfigError(
            f"{needed_by} compares q(z|x) with p(z), but one is discrete and the other is not: "
            "let posterior and prior be nets/one_hot and nets/uniform_one_hot, or neither of them"
        )


def is_discrete(d: Distribution) -> bool | None:
    """Whether it gives probabilities; None where it does not say."""
    try:
        return bool(d.support.is_discrete) if d.support is not None else None
    except NotImplementedError:
        return None
