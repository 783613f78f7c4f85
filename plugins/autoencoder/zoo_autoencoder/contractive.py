"""The contractive penalty, exactly."""

from torch import Tensor
from torch.distributions import Distribution

from zoo_autoencoder.jacobian import jacobian
from zoo_autoencoder.layers import LinearLayer
from zoo_autoencoder.penalty import Penalized
from zoo_core import Encoder, NonNegativeFloat


class Contractive(Penalized):
    """Omega = ||J_f(x)||_F^2, for any encoder; L backward passes, or the closed form of a single layer.

    Contractive auto-encoders: explicit invariance during feature extraction (Rifai et al., 2011)
    https://icml.cc/2011/papers/455_icmlpaper.pdf

    Args:
        weight: nats for a unit of Omega. A linear decoder of its own undoes any scale of the codes, and Omega can
            vanish without contraction; ``tied_autoencoder`` leaves no such way.
    """

    def __init__(self, weight: NonNegativeFloat = 0.1) -> None:
        super().__init__()
        self.weight = weight

    def penalty(self, encoder: Encoder, x: Tensor, q: Distribution) -> Tensor:
        if isinstance(encoder, LinearLayer):
            return encoder.squared_jacobian(q.mean)
        return jacobian(encoder, x).square().sum((1, 2))
