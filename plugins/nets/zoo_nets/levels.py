"""The 256 levels of stored images, 0, 1/255, …, 1, and any distribution over them."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, constraints

from zoo_core import Levels

LEVELS = 256


levels = Levels(LEVELS)


class CategoricalLevels(Distribution):
    """P(x) = Π_j softmax(logits_j)[255 x_j], for x_j in {0, 1/255, …, 1} and logits (*batch, 256, *event).

    The last ``event_dim`` dimensions, one or more, are an event. log_prob is in nats; a value between two levels
    counts as the nearer one, and beyond the last ones it is -inf.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(self, logits: Tensor, event_dim: int) -> None:
        self.dim = -event_dim - 1
        # Along this dimension, and not as the last: a third of the time.
        self.log_P = logits.log_softmax(self.dim)
        super().__init__(logits.shape[: self.dim], logits.shape[self.dim :][1:], validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.independent(levels, len(self.event_shape))  # type: ignore[no-untyped-call]

    def log_prob(self, value: Tensor) -> Tensor:
        i = (value * (LEVELS - 1)).round()
        shape = torch.broadcast_shapes(i.shape, self.batch_shape + self.event_shape)  # type: ignore[no-untyped-call]
        i = i.expand(shape)
        log_P = self.log_P.expand(*shape[: self.dim + 1], LEVELS, *self.event_shape)
        of_i = log_P.gather(self.dim, i.clamp(0, LEVELS - 1).long().unsqueeze(self.dim)).squeeze(self.dim)
        beyond = (i < 0) | (i > LEVELS - 1)
        return of_i.masked_fill(beyond, -torch.inf).flatten(self.dim + 1).sum(-1)

    @property
    def mean(self) -> Tensor:
        values = torch.linspace(0, 1, LEVELS, dtype=self.log_P.dtype, device=self.log_P.device)
        return (self.log_P.exp() * values.view(-1, *[1] * len(self.event_shape))).sum(self.dim)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        P = Categorical(logits=self.log_P.detach().movedim(self.dim, -1), validate_args=False)
        i: Tensor = P.sample(torch.Size(sample_shape))  # type: ignore[no-untyped-call]
        return i.to(self.log_P.dtype) / (LEVELS - 1)
