"""How much a picture changes with a small step of its code."""

import math
from typing import Any

import torch
from torch import Tensor

from zoo_core import Batch, ConfigError, Measurement, Metric, PositiveFloat
from zoo_metrics.geometry.codes import real_codes

PERCENTILES = (5, 50, 95)


class DecoderStep(Metric):
    """The 5th, 50th and 95th percentile over examples of

        || g(z + eps u) - g(z) || / eps,  z = E_q[z|x],

    with u a random direction, uniform among vectors of length 1, and g(z) the mean of p(x|z), in [0, 1] for images: how
    far pictures move, in Euclidean distance over pixels, for each unit of z. Where the decoder is linear, g(z) = W z,
    it is || W u ||. A 95th percentile far above the median tells of edges in latent space, a 5th far below of plateaus.

    No standard fixes eps: here it is 1e-3, at which neither the curvature of trained decoders nor rounding in float32
    changes a step by more than some thousandths. One direction is drawn for each example.

    Reports ``decoder_step_5``, ``decoder_step_50`` and ``decoder_step_95``.

    Raises:
        ConfigError: the model has no real latents, or does not decode.
    """

    def __init__(self, eps: PositiveFloat = 1e-3) -> None:
        super().__init__()
        self.eps = eps

    @torch.no_grad()
    def update(self, model: Any, batch: Batch) -> None:
        z = real_codes("decoder_step", model, batch["image"])
        if not hasattr(model, "decode"):
            raise ConfigError(f"metric 'decoder_step' needs a model that decodes; {type(model).__name__} does not")
        u = directions(z)
        change = (model.decode(z + self.eps * u).double() - model.decode(z).double()).flatten(1)
        self.keep(step=change.norm(dim=1).cpu() / self.eps)

    def compute(self) -> dict[str, Measurement]:
        step = self.kept("step")
        about = {"eps": self.eps}
        return {
            f"decoder_step_{p}": Measurement(float(step.quantile(p / 100)), math.nan, len(step), about=about)
            for p in PERCENTILES
        }


def directions(z: Tensor) -> Tensor:
    """One vector of length 1 for each z (B, *latent_shape), uniform on the sphere."""
    u = torch.randn_like(z)
    length: Tensor = u.flatten(1).norm(dim=1)
    return u / length.view(-1, *[1] * (z.dim() - 1))
