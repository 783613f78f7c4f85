"""p(x|z) as a decoder's last layer parameterises it; data x in [0, 1]."""

from typing import Annotated

import torch
from torch import Tensor, nn
from torch.distributions import (
    AffineTransform,
    Bernoulli,
    Distribution,
    Independent,
    TransformedDistribution,
)

from zoo_core import Bounds, DiscretizedLogisticMixture, Likelihood, LogitLaplace, PositiveFloat, PositiveInt
from zoo_nets.continuous_bernoulli import ContinuousBernoulli
from zoo_nets.levels import LEVELS, CategoricalLevels
from zoo_nets.normal import normal
from zoo_nets.precision import widened

# exp(-7) = 0.0009 is under a quarter of a grey level: a sharper pixel is a density running away.
LOG_SCALE = (-7.0, 7.0)

Margin = Annotated[float, Bounds("a number between 0 and 0.5", low=0, high=0.5, open=True)]


class BernoulliLikelihood(Likelihood):
    """p(x|z) = Π_i p_i^x_i (1 - p_i)^(1 - x_i), h = logit p, for binary data."""

    def channels(self, data: int) -> int:
        return data

    def forward(self, h: Tensor, event_dim: int) -> Distribution:
        return Independent(Bernoulli(logits=widened(h), validate_args=False), event_dim, validate_args=False)


class ContinuousBernoulliLikelihood(Likelihood):
    """p(x|z) = Π_i C(lambda_i) lambda_i^x_i (1 - lambda_i)^(1 - x_i), h = logit lambda, a density of grey values.

    The Bernoulli's formula with the constant that makes it a density on [0, 1].

    The continuous Bernoulli: fixing a pervasive error in variational autoencoders (Loaiza-Ganem & Cunningham, 2019)
    https://arxiv.org/abs/1907.06845
    """

    def channels(self, data: int) -> int:
        return data

    def forward(self, h: Tensor, event_dim: int) -> Distribution:
        return Independent(ContinuousBernoulli(widened(h)), event_dim, validate_args=False)


class GaussianLikelihood(Likelihood):
    """p(x|z) = N(x; h, sigma^2 I): squared error with a scale.

    Args:
        sigma: standard deviation of a pixel, where white is 1.
    """

    def __init__(self, sigma: PositiveFloat = 1.0) -> None:
        super().__init__()
        self.sigma = sigma

    def channels(self, data: int) -> int:
        return data

    def forward(self, h: Tensor, event_dim: int) -> Distribution:
        mu = widened(h)
        return normal(mu, torch.full_like(mu, self.sigma), event_dim)


class LearnedGaussianLikelihood(Likelihood):
    """p(x|z) = N(x; h, sigma^2 I) with one sigma, learned with the weights.

    sigma-VAE (Rybkin et al., 2021) https://arxiv.org/abs/2006.13202
    """

    def __init__(self) -> None:
        super().__init__()
        self.log_sigma = nn.Parameter(torch.zeros(()))

    def channels(self, data: int) -> int:
        return data

    def forward(self, h: Tensor, event_dim: int) -> Distribution:
        mu = widened(h)
        sigma = widened(self.log_sigma).clamp(*LOG_SCALE).exp().expand_as(mu)
        return normal(mu, sigma, event_dim)


class PixelGaussianLikelihood(Likelihood):
    """p(x|z) = Π_i N(x_i; mu_i, sigma_i^2), from h = (mu, log sigma): the decoder tells where it is sure.

    Auto-encoding variational Bayes (Kingma & Welling, 2014), appendix C.2 https://arxiv.org/abs/1312.6114

    log sigma is kept within +-7. On data that take few values, such as black, a sigma falls there: the density of a
    constant has no bound. Dequantise such data.
    """

    def channels(self, data: int) -> int:
        return 2 * data

    def forward(self, h: Tensor, event_dim: int) -> Distribution:
        mu, log_sigma = widened(h).chunk(2, dim=-event_dim)
        return normal(mu, log_sigma.clamp(*LOG_SCALE).exp(), event_dim)


class CategoricalLikelihood(Likelihood):
    """P(x|z) = Π_i softmax(h_i)[255 x_i]: any distribution over the 256 levels of each pixel and channel.

    Pixel recurrent neural networks (van den Oord et al., 2016) https://arxiv.org/abs/1601.06759, whose softmax this
    is, without its order of pixels.
    """

    def channels(self, data: int) -> int:
        return LEVELS * data

    def forward(self, h: Tensor, event_dim: int) -> Distribution:
        logits = widened(h).unflatten(-event_dim, (LEVELS, -1))  # type: ignore[no-untyped-call]
        return CategoricalLevels(logits, event_dim)


class LogisticMixtureLikelihood(Likelihood):
    """p(x|z): K logistics per pixel and channel, integrated over the bins of 256 levels.

    PixelCNN++ (Salimans et al., 2017) https://arxiv.org/abs/1701.05517, without its channel coupling.

    Args:
        components: K.
    """

    def __init__(self, components: PositiveInt = 5) -> None:
        super().__init__()
        self.components = components

    def channels(self, data: int) -> int:
        return 3 * self.components * data

    def forward(self, h: Tensor, event_dim: int) -> Distribution:
        h = widened(h).unflatten(-event_dim, (3, self.components, -1))
        logits, mu, log_s = h.unbind(-event_dim - 2)
        # At first, means spread over [0, 1] and scales of e^-1.5 = 0.22, so that each level has some mass.
        mu = mu + self._start(h).view(-1, *[1] * event_dim)
        return DiscretizedLogisticMixture(logits, mu, log_s - 1.5, event_dim=event_dim)

    def _start(self, h: Tensor) -> Tensor:
        return (torch.arange(self.components, device=h.device) + 0.5) / self.components


class LogitLaplaceLikelihood(Likelihood):
    """y = (1 - 2 epsilon) x + epsilon follows a logit-Laplace with h = (mu, log b); p(x|z) is its density in x.

    Zero-shot text-to-image generation (Ramesh et al., 2021) https://arxiv.org/abs/2102.12092

    Args:
        epsilon: how far pixels are kept from 0 and 1, where the density is infinite; the paper's is 0.1.
    """

    def __init__(self, epsilon: Margin = 0.1) -> None:
        super().__init__()
        self.epsilon = epsilon

    def channels(self, data: int) -> int:
        return 2 * data

    def forward(self, h: Tensor, event_dim: int) -> Distribution:
        mu, log_b = widened(h).chunk(2, dim=-event_dim)
        y = LogitLaplace(mu, log_b.clamp(*LOG_SCALE))
        return Independent(Unmapped(y, self.epsilon), event_dim, validate_args=False)


class Unmapped(TransformedDistribution):
    """x = (y - epsilon) / (1 - 2 epsilon), with the mean that torch leaves out."""

    def __init__(self, y: Distribution, epsilon: float) -> None:
        self.epsilon, self.scale = epsilon, 1 - 2 * epsilon
        super().__init__(y, AffineTransform(-epsilon / self.scale, 1 / self.scale), validate_args=False)

    @property
    def mean(self) -> Tensor:
        return (self.base_dist.mean - self.epsilon) / self.scale
