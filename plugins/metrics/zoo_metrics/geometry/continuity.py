"""Whether near examples have near codes, and near codes belong to near examples."""

import math
from typing import Any

import torch
from torch import Tensor

from zoo_core import Batch, ConfigError, Measurement, Metric, PositiveInt
from zoo_metrics.geometry.codes import real_codes


class Continuity(Metric):
    """Continuity and trustworthiness of the codes z_i of examples x_i, for k neighbours, at most 1:

        continuity      = 1 - c Σ_i Σ_{j in X_k(i), not in Z_k(i)} (rank_z(i, j) - k),  c = 2 / (N k (2 N - 3 k - 1)),
        trustworthiness = 1 - c Σ_i Σ_{j in Z_k(i), not in X_k(i)} (rank_x(i, j) - k),

    X_k(i) and Z_k(i) being the k nearest neighbours of i among the x and among the z, and rank_x(i, j) and rank_z(i, j)
    the places of j among all neighbours of i, by Euclidean distance. Continuity falls where neighbours are torn apart
    by the encoder, trustworthiness where strangers become neighbours. Codes that keep the order of all distances have
    1; codes that know nothing of x have 1/2, nearly.

    Neighborhood preservation in nonlinear projection methods (Venna & Kaski, 2001)
    https://doi.org/10.1007/3-540-44668-0_68

    No standard fixes k: here it is 12, of the first 2,000 examples, with x as the model sees it and z = E_q[z|x].
    Both depend on k and on N, and take time and memory with N^2.

    Args:
        k: neighbours.
        examples: N, at most.

    Raises:
        ConfigError: there are not more than 2 k examples, all x or all z are equal, or the model has no real latents.
    """

    def __init__(self, k: PositiveInt = 12, examples: PositiveInt = 2000) -> None:
        super().__init__()
        self.k, self.examples = k, examples

    @torch.no_grad()
    def update(self, model: Any, batch: Batch) -> None:
        room = max(0, self.examples - sum(map(len, self.rows.get("z", []))))
        x = batch["image"][:room]
        z = real_codes("continuity", model, batch["image"])[:room]
        self.keep(x=x.flatten(1).cpu(), z=z.flatten(1).cpu())

    def compute(self) -> dict[str, Measurement]:
        # Each process has kept as many.
        x, z = (self.kept(name)[: self.examples] for name in ("x", "z"))
        require_neighbours(x, z, self.k)
        values = {"continuity": continuity(x, z, self.k), "trustworthiness": trustworthiness(x, z, self.k)}
        return {name: Measurement(value, math.nan, len(z), about={"k": self.k}) for name, value in values.items()}


def continuity(x: Tensor, z: Tensor, k: int) -> float:
    """How far the k nearest of each row of x (N, D) are among the nearest in z (N, L) too, for N > 2 k."""
    return trustworthiness(z, x, k)


def trustworthiness(x: Tensor, z: Tensor, k: int) -> float:
    """How far the k nearest of each row of z (N, L) are among the nearest in x (N, D) too, for N > 2 k."""
    import sklearn.manifold

    return float(sklearn.manifold.trustworthiness(centred(x), centred(z), n_neighbors=k))


def centred(x: Tensor) -> Any:
    """Rows of x about their mean, in float64, as an array: squares of what is far from 0 would hide what is near."""
    x = x.double()
    return (x - x.mean(0)).numpy()


def require_neighbours(x: Tensor, z: Tensor, k: int) -> None:
    """Refuses rows of which too few have neighbours.

    Raises:
        ConfigError: there are not more than 2 k, or those of x or of z are all equal.
    """
    if len(x) <= 2 * k:
        few = f"needs more than {2 * k} examples, got {len(x)}: raise examples, or lower k"
        raise ConfigError(f"metric 'continuity' with {k} neighbours {few}")
    for of, rows in {"examples": x, "codes": z}.items():
        if bool((rows == rows[0]).all()):
            raise ConfigError(f"metric 'continuity': all {len(rows)} {of} are equal, so that none are neighbours")
