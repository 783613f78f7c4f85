"""Diagonal Gaussians over vectors, as layers of latents are."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from zoo_core import ConfigError

# Wide enough for what is flat and for what is sharp beside N(0, I); one layer's spread is the next one's input, so
# that without a limit they drive each other up.
LOG_SIGMA = 7.0


def gaussian(mu: Tensor, sigma: Tensor) -> Distribution:
    """N(mu, diag sigma^2), for mu and sigma (*, D)."""
    return Independent(Normal(mu, sigma, validate_args=False), 1, validate_args=False)


def flat_gaussian(q: Distribution) -> Distribution:
    """A diagonal Gaussian with its event as a vector.

    Raises:
        ConfigError: q is something else, whose precision is not known.
    """
    if not (isinstance(q, Independent) and isinstance(q.base_dist, Normal)):
        raise ConfigError(
            f"hierarchical_vae takes an encoder of a diagonal Gaussian, not of a {type(q).__name__}; "
            "let its posterior be nets/diagonal_gaussian"
        )
    event_dim = len(q.event_shape)
    return gaussian(q.mean.flatten(-event_dim), q.stddev.flatten(-event_dim))


def product(a: Distribution, b: Distribution) -> Distribution:
    """The Gaussian ∝ N(z; mu_a, sigma_a^2) N(z; mu_b, sigma_b^2): precisions add up, and weigh the means."""
    precision_a, precision_b = a.variance.reciprocal(), b.variance.reciprocal()
    variance = (precision_a + precision_b).reciprocal()
    return gaussian((precision_a * a.mean + precision_b * b.mean) * variance, variance.sqrt())


def features(told: Distribution) -> Tensor:
    """What N(z; mu^, sigma^^2) tells of z, as numbers, (*, 2 D): the mean and log sigma of it weighed with N(0, I).

    Unlike mu^ and log sigma^ themselves they have a limit where it tells nothing: 0.
    """
    standard = gaussian(torch.zeros_like(told.mean), torch.ones_like(told.mean))
    q = product(told, standard)
    return torch.cat([q.mean, q.stddev.log()], -1)


class GaussianLayer(nn.Module):
    """h (*, n) → N(mu(h), diag sigma(h)^2) over ``latents`` numbers, by fully connected layers with SiLU between."""

    def __init__(self, n: int, latents: int, hidden: Sequence[int]) -> None:
        super().__init__()
        widths = [n, *hidden, 2 * latents]
        layers = [layer for a, b in pairwise(widths) for layer in (nn.SiLU(), nn.Linear(a, b))]
        self.body = nn.Sequential(*layers[1:])

    def forward(self, h: Tensor) -> Distribution:
        out: Tensor = self.body(h.to(next(self.parameters()).dtype))
        # In float32 at least: densities lose their digits in half precision.
        mu, log_sigma = out.to(torch.promote_types(out.dtype, torch.float32)).chunk(2, -1)
        return gaussian(mu, (LOG_SIGMA * torch.tanh(log_sigma / LOG_SIGMA)).exp())
