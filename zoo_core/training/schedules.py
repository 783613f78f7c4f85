"""Learning rates as pure functions of the step."""

import math
from collections.abc import Callable


def constant(progress: float) -> float:
    return 1.0


def linear(progress: float) -> float:
    """From 1 to 0 in a straight line."""
    return 1.0 - progress


def cosine(progress: float) -> float:
    """From 1 to 0 along half a cosine. SGDR (Loshchilov & Hutter, 2017) https://arxiv.org/abs/1608.03983"""
    return 0.5 * (1 + math.cos(math.pi * progress))


def burda(progress: float) -> float:
    """10^(-i/7) for i = 0 … 7, each three times as long as the one before, as in IWAE (Burda et al., 2016)."""
    passes = progress * sum(3**i for i in range(8))
    i = next((i for i in range(8) if passes < sum(3**j for j in range(i + 1))), 7)
    return 10 ** (-i / 7)


SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": constant,
    "linear": linear,
    "cosine": cosine,
    "burda": burda,
}


def learning_rate(step: int, *, steps: int, peak: float, warmup: int, schedule: str) -> float:
    """The rate at a step: linear up to ``peak`` over ``warmup`` steps, then the schedule's share of it."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * SCHEDULES[schedule]((step - warmup) / max(1, steps - warmup))
