"""Sparse codes, by their size."""

from torch import Tensor
from torch.distributions import Distribution

from zoo_autoencoder.penalty import Penalized
from zoo_core import Encoder, NonNegativeFloat


class SparseL1(Penalized):
    """Omega = ||z||_1.

    Emergence of simple-cell receptive field properties by learning a sparse code (Olshausen & Field, 1996)
    https://doi.org/10.1038/381607a0

    Args:
        weight: nats for a unit of Omega. It grows with the scale of the codes, which a decoder can undo.
    """

    def __init__(self, weight: NonNegativeFloat = 0.1) -> None:
        super().__init__()
        self.weight = weight

    def penalty(self, encoder: Encoder, x: Tensor, q: Distribution) -> Tensor:
        return q.mean.flatten(1).abs().sum(1)
