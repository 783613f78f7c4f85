"""Sparse codes, by how often each unit is active."""

from typing import Annotated

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Distribution, constraints

from zoo_autoencoder.penalty import Penalized
from zoo_core import Bounds, ConfigError, Encoder, NonNegativeFloat, kl

Frequency = Annotated[float, Bounds("a number between 0 and 1", low=0, high=1, open=True)]


class SparseKL(Penalized):
    """Omega = Σ_k KL(B(p) || B(q_k)), q_k the mean over a micro-batch of the code z_k in [0, 1].

    Sparse deep belief net model for visual area V2 (Lee et al., 2007) https://papers.nips.cc/paper/3313
    Sparse autoencoder (Ng, 2011) https://web.stanford.edu/class/cs294a/sparseAutoencoder.pdf

    Args:
        weight: nats for a unit of Omega.
        p: how often a unit shall be active.

    Raises:
        ConfigError: the codes may lie outside [0, 1].
    """

    def __init__(self, weight: NonNegativeFloat = 1.0, p: Frequency = 0.05) -> None:
        super().__init__()
        self.weight, self.p = weight, p

    def penalty(self, encoder: Encoder, x: Tensor, q: Distribution) -> Tensor:
        require_frequencies(q)
        q_k = q.mean.mean(0)
        # A unit that is on, or off, to the last digit in the whole batch would cost infinitely much.
        tiny = torch.finfo(q_k.dtype).eps
        active = Bernoulli(q_k.clamp(tiny, 1 - tiny), validate_args=False)
        return kl(Bernoulli(torch.full_like(q_k, self.p), validate_args=False), active).sum()


def require_frequencies(q: Distribution) -> None:
    """Refuses codes that are not known to lie in [0, 1].

    Raises:
        ConfigError: with the posterior to use.
    """
    support = q.support
    if getattr(support, "base_constraint", support) is not constraints.unit_interval:
        raise ConfigError(
            "sparse_kl counts how often units in [0, 1] are active, but these codes may be any number;"
            " give the encoder the posterior autoencoder/sigmoid, or use autoencoder/sparse_l1"
        )
