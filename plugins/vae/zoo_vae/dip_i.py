"""The ELBO with a price on posterior means that are correlated over the data."""

from torch import Tensor
from torch.distributions import Distribution

from zoo_core import NonNegativeFloat
from zoo_vae.dip import DIP, covariance


class DIPI(DIP):
    """DIP-VAE-I: ``DIP`` with C = Cov_x[mu(x)], of the means of q(z|x).

    Variational inference of disentangled latent concepts (Kumar et al., 2018) https://arxiv.org/abs/1711.00848
    """

    def __init__(self, lambda_od: NonNegativeFloat = 10.0, lambda_d: NonNegativeFloat = 100.0) -> None:
        super().__init__(lambda_od, lambda_d)

    def covariance(self, q: Distribution) -> Tensor:
        return covariance(q.mean)
