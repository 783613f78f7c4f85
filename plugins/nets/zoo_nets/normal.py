"""The diagonal Gaussian that posteriors, priors and likelihoods share."""

from torch import Tensor
from torch.distributions import Independent, Normal


def normal(mu: Tensor, sigma: Tensor, event_dim: int) -> Independent:
    """N(mu, diag sigma^2), the last ``event_dim`` dimensions being one event; unchecked, for speed."""
    return Independent(Normal(mu, sigma, validate_args=False), event_dim, validate_args=False)
