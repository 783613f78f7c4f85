"""q(z|x) as an encoder's last layer parameterises it."""

from torch import Tensor
from torch.distributions import Distribution

from zoo_core import Dirac, PositiveInt, Posterior
from zoo_nets.normal import normal
from zoo_nets.one_hot import OneHot, require_multiple
from zoo_nets.precision import widened

# Beyond this, sigma^2 or 1/sigma^2 leaves float32's range in the closed-form KL.
LOG_SIGMA = (-20.0, 20.0)


class DiagonalGaussian(Posterior):
    """q(z|x) = N(mu, diag sigma^2), from h = (mu, log sigma).

    Auto-encoding variational Bayes (Kingma & Welling, 2014) https://arxiv.org/abs/1312.6114
    """

    def channels(self, latents: int) -> int:
        return 2 * latents

    def forward(self, h: Tensor, event_dim: int) -> Distribution:
        mu, log_sigma = widened(h).chunk(2, dim=-event_dim)
        sigma = log_sigma.clamp(*LOG_SIGMA).exp()
        return normal(mu, sigma, event_dim)


class DiracPosterior(Posterior):
    """q(z|x) = delta(z - h): a deterministic code, as a plain autoencoder has it."""

    def channels(self, latents: int) -> int:
        return latents

    def forward(self, h: Tensor, event_dim: int) -> Distribution:
        return Dirac(widened(h), event_dim)


class OneHotPosterior(Posterior):
    """q(z|x) = Π_v softmax(h_v)[k_v]: L latents are variables x classes, each variable a one-hot vector of its class.

    Any decoder takes the vector. Its draws have no gradient: it is trained by a loss that needs none.

    Args:
        classes: how many each variable has; the encoder's latents are a multiple of it.
    """

    def __init__(self, classes: PositiveInt) -> None:
        super().__init__()
        self.classes = classes

    def channels(self, latents: int) -> int:
        require_multiple(latents, self.classes)
        return latents

    def forward(self, h: Tensor, event_dim: int) -> Distribution:
        return OneHot(widened(h), self.classes, event_dim)
