"""Whether the latents that are drawn are those that examples have."""

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from zoo_core import Batch, ConfigError, Measurement, Metric, PositiveInt
from zoo_metrics.geometry.codes import prior_draws, real_codes
from zoo_metrics.geometry.mmd import median_distance, mmd
from zoo_metrics.samples.neighbours import inside, neighbourhoods


class Completeness(Metric):
    """The share of decoded draws of p(z) that lie among the data, and how far q(z) = E_x[q(z|x)] is from p(z).

        completeness = 1/N Σ_i 1[ there is a j: || g(z_i) - x_j || <= r_k(x_j) ],  z_i ~ p(z),

    with r_k(x_j) the distance of x_j to its k-th nearest other example and g(z) the mean of p(x|z): precision
    (Kynkäänniemi et al., 2019) https://arxiv.org/abs/1904.06991 in the space of pixels. An encoder that leaves holes in
    p(z) shows as draws beside the data.

        latent_mmd = 1/(N(N-1)) Σ_{i≠j} k(z_i, z_j) + 1/(N(N-1)) Σ_{i≠j} k(z'_i, z'_j) - 2/N^2 Σ_ij k(z_i, z'_j)

    for draws z of p(z) and z'_i ~ q(z|x_i), with k(a, b) = exp(-|| a - b ||^2 / (2 s^2)), s the median distance among
    all of them: the unbiased estimate of MMD^2, negative at times, and 0 in expectation where q(z) = p(z).
    A kernel two-sample test (Gretton et al., 2012) https://jmlr.org/papers/v13/gretton12a.html

    No standard fixes the setting: here k is 3, of the first 2,000 examples and as many draws. Both depend on N.

    Args:
        k: which neighbour bounds the surroundings of an example.
        examples: N, at most.

    Raises:
        ConfigError: there are too few examples, the model has no real latents, or these hardly differ.
    """

    draws: ClassVar[bool] = True

    def __init__(self, k: PositiveInt = 3, examples: PositiveInt = 2000) -> None:
        super().__init__()
        self.k, self.examples = k, examples

    @torch.no_grad()
    def update(self, model: Any, batch: Batch) -> None:
        require_latents(model, batch)
        x = batch["image"]
        rows = {"real": batch["original"], "drawn": batch["sample"], "code": model.encoder(x).sample()}
        rows |= {"prior": prior_draws("completeness", model, len(x))}
        room = max(0, self.examples - sum(map(len, self.rows.get("prior", []))))
        self.keep(**{name: value[:room].flatten(1).cpu() for name, value in rows.items()})

    def compute(self) -> dict[str, Measurement]:
        # Each process has kept as many.
        real, drawn, code, prior = (self.kept(name)[: self.examples] for name in ("real", "drawn", "code", "prior"))
        scale = median_distance(torch.cat([code, prior]))
        discrepancy = Measurement(mmd(prior, code, scale), math.nan, len(code), better="lower")
        return {"completeness": among(real, drawn, self.k), "latent_mmd": discrepancy}


def among(real: Tensor, drawn: Tensor, k: int) -> Measurement:
    """The share of rows drawn (M, D) within the distance of some row of real (N, D) to its k-th nearest other one.

    Raises:
        ConfigError: there are not more than k real ones, or fewer than two draws.
    """
    hits = (inside(neighbourhoods(real, k), drawn).holding > 0).double()
    return Measurement(float(hits.mean()), float(hits.std() / math.sqrt(len(hits))), len(hits), about={"k": k})


def require_latents(model: Any, batch: Batch) -> None:
    """Refuses a model without q(z|x) and p(z) over real latents, and draws that cannot be compared with the data.

    Raises:
        ConfigError: naming what is missing.
    """
    if not hasattr(model, "encoder"):
        raise ConfigError(f"metric 'completeness' needs a model with q(z|x); {type(model).__name__} has none")
    real_codes("completeness", model, batch["image"])
    if batch["sample"].shape != batch["original"].shape:
        drawn, real = (tuple(batch[name].shape[1:]) for name in ("sample", "original"))
        raise ConfigError(f"metric 'completeness': the model draws data of shape {drawn}, and the data have {real}")
