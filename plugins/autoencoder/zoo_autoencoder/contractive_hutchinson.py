"""The contractive penalty, estimated."""

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.func import vjp

from zoo_autoencoder.penalty import Penalized
from zoo_core import Encoder, NonNegativeFloat, PositiveInt


class HutchinsonContractive(Penalized):
    """Omega = 1/K Σ_k ||v_k^T J_f(x)||^2, v_k ~ U{-1, 1}^L: unbiased for ||J_f(x)||_F^2, in K backward passes.

    Contractive auto-encoders: explicit invariance during feature extraction (Rifai et al., 2011)
    https://icml.cc/2011/papers/455_icmlpaper.pdf
    A stochastic estimator of the trace (Hutchinson, 1990) https://doi.org/10.1080/03610919008812866

    Args:
        weight: nats for a unit of Omega.
        samples: K.
    """

    def __init__(self, weight: NonNegativeFloat = 0.1, samples: PositiveInt = 1) -> None:
        super().__init__()
        self.weight, self.samples = weight, samples

    def penalty(self, encoder: Encoder, x: Tensor, q: Distribution) -> Tensor:
        z, pull = vjp(lambda x: encoder(x).mean, x)  # type: ignore[misc]
        norms = [pull(signs(z))[0].flatten(1).square().sum(1) for _ in range(self.samples)]
        return torch.stack(norms).mean(0)


def signs(z: Tensor) -> Tensor:
    """v ~ U{-1, 1}, of the shape of z."""
    return 2 * torch.rand_like(z).round() - 1
