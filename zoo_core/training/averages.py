"""A running mean of the weights, which is often better than the weights."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    """w̄ ← d w̄ + (1 - d) w over what a model learns, in float32; d = min(decay, (1 + t) / (10 + t)).

    Acceleration of stochastic approximation by averaging (Polyak & Juditsky, 1992)
    https://doi.org/10.1137/0330046 ; d rises with the step t, so that the start is soon forgotten.

    Args:
        names: of what is averaged, if it is known from an earlier life: by default what is trained, and buffers.
    """

    def __init__(self, model: nn.Module, decay: float, names: Collection[str] | None = None) -> None:
        self.decay, self.model, self.names = decay, model, _averaged(model) if names is None else names
        self.values = {name: value.detach().float().clone() for name, value in self._state().items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After step t = ``step``."""
        decay = min(self.decay, (1 + step) / (10 + step))
        weights = [value.float() for value in self._state().values()]
        torch._foreach_lerp_(list(self.values.values()), weights, 1 - decay)

    @torch.no_grad()
    def take(self, values: Mapping[str, Tensor]) -> None:
        """What an earlier life had come to."""
        for name, value in self.values.items():
            value.copy_(values[name])

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, the model has these weights; outside its own."""
        own = {name: value.detach().clone() for name, value in self._state().items()}
        self._put(self.values)
        try:
            yield
        finally:
            self._put(own)

    @torch.no_grad()
    def _put(self, values: Mapping[str, Tensor]) -> None:
        for name, value in self._state().items():
            value.copy_(values[name])

    def _state(self) -> dict[str, Tensor]:
        return {name: value for name, value in self.model.state_dict().items() if name in self.names}


def _averaged(model: nn.Module) -> set[str]:
    """What is frozen stays bit for bit; buffers may hold infinity, or more digits than float32."""
    buffers = {
        name
        for name, buffer in model.named_buffers()
        if buffer.is_floating_point() and buffer.dtype != torch.float64 and bool(buffer.isfinite().all())
    }
    return buffers | {name for name, parameter in model.named_parameters() if parameter.requires_grad}
