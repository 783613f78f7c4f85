"""What the models here share: flat rows, and the refusal to answer before there are parameters."""

import math

import torch
from torch import Tensor

from zoo_core import ConfigError, Shape, StatisticalModel


class StartedModel(StatisticalModel):
    """A model of rows x (B, D), D the product of ``data_shape``, which has no parameters until ``begin``.

    Parameters are float64 buffers, and computed with in float64: close to its end a fit gains less in an
    iteration than float32 can tell.
    """

    started: Tensor

    def __init__(self, data_shape: Shape) -> None:
        super().__init__()
        self.data_shape = tuple(data_shape)
        self.size = math.prod(self.data_shape)
        self.register_buffer("started", torch.tensor(False))

    def parameter(self, name: str, *shape: int) -> None:
        """Registers a parameter that ``begin`` will set."""
        self.register_buffer(name, torch.zeros(shape, dtype=torch.float64))

    def rows(self, x: Tensor) -> Tensor:
        """x (*, *data_shape) → (*, D), in float64."""
        return x.flatten(-len(self.data_shape)).double()

    def images(self, rows: Tensor) -> Tensor:
        """(*, D) → (*, *data_shape), in float32 as images are."""
        return rows.unflatten(-1, self.data_shape).float()

    def require_start(self) -> None:
        """Raises ConfigError if there has been no ``begin``."""
        if not self.started:
            raise ConfigError(
                f"{type(self).__name__} has no parameters yet: fit it with a recipe, or load it with from_pretrained"
            )
