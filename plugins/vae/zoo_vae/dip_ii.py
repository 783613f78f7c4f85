"""The ELBO with a price on latents that are correlated over the data."""

from torch import Tensor
from torch.distributions import Distribution

from zoo_core import NonNegativeFloat
from zoo_vae.dip import DIP, covariance
from zoo_vae.factors import factors


class DIPII(DIP):
    """DIP-VAE-II: ``DIP`` with C = Cov_x[mu(x)] + E_x[diag sigma(x)^2], the covariance of z ~ q(z).

    Variational inference of disentangled latent concepts (Kumar et al., 2018) https://arxiv.org/abs/1711.00848
    """

    def __init__(self, lambda_od: NonNegativeFloat = 10.0, lambda_d: NonNegativeFloat = 10.0) -> None:
        super().__init__(lambda_od, lambda_d)

    def covariance(self, q: Distribution) -> Tensor:
        variance = factors(q, "dip_ii").variance
        return covariance(q.mean) + variance.mean(0).diag_embed()
