"""How many latents tell one example from another."""

import math
from typing import Any

import torch
from torch import Tensor

from zoo_core import Batch, ConfigError, Measurement, Metric, PositiveFloat
from zoo_metrics.geometry.codes import real_codes


class ActiveUnits(Metric):
    """#{j : Var_x(E_q[z_j|x]) > 0.01}, of the variance over all examples, in float64.

    Importance-weighted autoencoders (Burda et al., 2016) https://arxiv.org/abs/1509.00519

    Reports ``active_units``, and ``latent_units``, how many there are: all dimensions of z, at all places of a grid.

    Args:
        threshold: above which variance a unit is active.

    Raises:
        ConfigError: the model has no real latents, or there are fewer than two examples.
    """

    def __init__(self, threshold: PositiveFloat = 0.01) -> None:
        super().__init__()
        self.threshold = threshold

    @torch.no_grad()
    def update(self, model: Any, batch: Batch) -> None:
        z = real_codes("active_units", model, batch["image"]).flatten(1).cpu()
        # One row for each batch, which needs no common centre with those of other batches and processes.
        self.keep(moments=moments(z).unsqueeze(0))

    def compute(self) -> dict[str, Measurement]:
        n, _, squares = merged(self.kept("moments"))
        if (examples := int(n.max())) < 2:
            raise ConfigError(f"metric 'active_units' needs two examples at least, got {examples}: raise examples")
        active = int((squares / n > self.threshold).sum())
        return {
            "active_units": Measurement(float(active), math.nan, examples, about={"threshold": self.threshold}),
            "latent_units": Measurement(float(len(n)), math.nan, examples, better="neither"),
        }


def moments(z: Tensor) -> Tensor:
    """n, mean and Σ (z - mean)^2 of each column of z (B, D): float64 (3, D)."""
    z = z.double()
    # Of no rows the mean is 0, which then weighs nothing.
    mean = z.sum(0) / max(1, len(z))
    return torch.stack([torch.full_like(mean, len(z)), mean, (z - mean).square().sum(0)])


def merged(parts: Tensor) -> Tensor:
    """The moments (3, D) of all rows together, from those of parts of them (P, 3, D).

    Updating formulae and a pairwise algorithm for computing sample variances (Chan et al., 1979)
    https://doi.org/10.1007/978-3-642-51461-6_3 : exact also where the means are large.
    """
    n, mean, squares = parts.unbind(1)
    total = n.sum(0)
    centre = (n * mean).sum(0) / total
    return torch.stack([total, centre, (squares + n * (mean - centre).square()).sum(0)])
