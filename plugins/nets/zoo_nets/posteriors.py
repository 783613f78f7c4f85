"""q(z|x) as an encoder's last layer parameterises it."""

from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from zoo_core import Dirac, Posterior

# Beyond this, sigma^2 or 1/sigma^2 leaves float32's range in the closed-form KL.
LOG_SIGMA = (-20.0, 20.0)


class DiagonalGaussian(Posterior):
    """q(z|x) = N(mu, diag sigma^2), from h = (mu, log sigma).

    Auto-encoding variational Bayes (Kingma & Welling, 2014) https://arxiv.org/abs/1312.6114
    """

    def channels(self, latents: int) -> int:
        return 2 * latents

    def forward(self, h: Tensor, event_dim: int) -> Distribution:
        mu, log_sigma = h.float().chunk(2, dim=-event_dim)
        sigma = log_sigma.clamp(*LOG_SIGMA).exp()
        return Independent(Normal(mu, sigma, validate_args=False), event_dim, validate_args=False)


class DiracPosterior(Posterior):
    """q(z|x) = delta(z - h): a deterministic code, as a plain autoencoder has it."""

    def channels(self, latents: int) -> int:
        return latents

    def forward(self, h: Tensor, event_dim: int) -> Distribution:
        return Dirac(h.float(), event_dim)
