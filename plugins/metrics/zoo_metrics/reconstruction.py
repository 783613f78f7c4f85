"""How near a model's reconstructions come to held-out data; pixels in [0, 1]."""

import math
from typing import Any

import torch
from torch import Tensor

from zoo_core import Batch, ConfigError, Measurement
from zoo_metrics.averages import AverageMetric


class MSE(AverageMetric):
    """1/D || x - r(x) ||^2 for r = ``reconstruct``, the mean over the D values of a datum, per datum."""

    @torch.no_grad()
    def update(self, model: Any, batch: Batch) -> None:
        self.add(mse=squared_error("mse", model, batch["image"]))


class PSNR(AverageMetric):
    """10 log10(1 / MSE) in decibels, where white is 1.

    Reports ``psnr``, the mean over the images of the value of each, and ``psnr_pooled``, that of the mean of all
    squared errors, which is never larger (Jensen); papers report either under one name. ``psnr`` of a data set with
    an image that is reconstructed without error is infinite.
    """

    @torch.no_grad()
    def update(self, model: Any, batch: Batch) -> None:
        error = squared_error("psnr", model, batch["image"]).double()
        self.add(psnr=decibels(error), psnr_pooled=error)

    def compute(self) -> dict[str, Measurement]:
        values = super().compute()
        mse, error, n, *_ = values["psnr_pooled"]
        # To first order, a relative error of the MSE moves its logarithm by as much.
        spread = 10 / math.log(10) * error / mse if mse > 0 else math.nan
        pooled = float(decibels(torch.tensor(mse, dtype=torch.float64)))  # float32 would lose what Jensen promises
        return {**values, "psnr_pooled": Measurement(pooled, spread, n)}


def decibels(error: Tensor) -> Tensor:
    return -10 * error.log10()


def squared_error(metric: str, model: Any, x: Tensor) -> Tensor:
    """1/D || x - r(x) ||^2 for x (B, *data_shape), (B,).

    Raises:
        ConfigError: the model does not reconstruct.
    """
    if not hasattr(model, "reconstruct"):
        raise ConfigError(f"metric {metric!r} needs a model that reconstructs; {type(model).__name__} does not")
    error: Tensor = (x - model.reconstruct(x)).square().flatten(1).mean(1)
    return error
