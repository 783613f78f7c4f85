"""A density as a model of 256 levels."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from zoo_core import ConfigError, GenerativeModel, PositiveInt
from zoo_nets.composition import ACTIVATIONS, Activation
from zoo_nets.levels import LEVELS, levels
from zoo_nets.precision import as_weights, widened
from zoo_nets.stages import require_image

# exp(-7) = 0.0009 of a level is narrower than float32 can place a value within one of the upper levels.
LOG_SCALE = (-7.0, 7.0)


class VariationalDequantization(GenerativeModel):
    """log P(v) >= E[log p((v + u) / 256) - D log 256 - log r(u|v)], u ~ r(u|v), for levels v and a density p.

    P(v) is the mass that p has on the cube of v, and x = v / 255 are the data, not dequantised. In the noise
    u = sigmoid(mu + s e), e ~ Logistic(0, 1), mu and log s are convolutions of x. They start as 0: u is then uniform,
    and the bound that of uniform dequantisation. It is exact where r(u|v) is p given its cube.

    Flow++ (Ho et al., 2019) https://arxiv.org/abs/1902.00275

    Args:
        model: p, with a density on [0, 1)^D; where that is a lower bound, so is this.
        channels: of the hidden layers of the noise, convolutions of 3 x 3 at the size of the image.
    """

    support = levels

    def __init__(
        self, model: GenerativeModel, channels: Sequence[PositiveInt] = (32, 32), activation: Activation = "silu"
    ) -> None:
        super().__init__()
        require_image(model.data_shape, channels)
        self.model, self.data_shape = model, tuple(model.data_shape)
        self.noise = nn.Sequential(*convolutions([self.data_shape[0], *channels, 2 * self.data_shape[0]], activation))

    def log_prob(self, x: Tensor, *, samples: int = 1) -> Tensor:
        """log 1/K Σ_k 256^-D p((v + u_k) / 256) / r(u_k|v) for u_k ~ r(u|v), in nats, (B,): a bound on log P(v).

        Args:
            samples: K; the bound rises with K.

        Raises:
            ConfigError: x is not on the levels v / 255, the model has no density, or there are no samples.
        """
        if samples < 1:
            raise ConfigError(f"samples: must be a positive integer, got {samples}")
        require_levels(x)
        log_w = torch.stack([self.log_weights(x) for _ in range(samples)])
        return torch.logsumexp(log_w, 0) - math.log(samples)

    def log_weights(self, x: Tensor) -> Tensor:
        """log p((v + u) / 256) - D log 256 - log r(u|v) for one u ~ r(u|v), (B,)."""
        mu, log_s = self.noise_parameters(x)
        e = torch.logit(torch.rand_like(mu), eps=2**-25)
        h = mu + log_s.exp() * e
        # Of a logistic e and of u = sigmoid(h), whose slope is u (1 - u).
        log_r = logsigmoid(e) + logsigmoid(-e) - log_s - logsigmoid(h) - logsigmoid(-h)
        y = self.dequantized(x, h.sigmoid())
        require_no_probabilities(self.model, y)
        log_p: Tensor = self.model.log_prob(y)
        return log_p - log_r.flatten(1).sum(1) - math.prod(self.data_shape) * math.log(LEVELS)

    def noise_parameters(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """mu and log s of r(u|v), each like x."""
        mu, log_s = widened(self.noise(as_weights(2 * x - 1, self.noise))).chunk(2, 1)
        return mu, log_s.clamp(*LOG_SCALE)

    def dequantized(self, x: Tensor, u: Tensor) -> Tensor:
        """(v + u) / 256 for x = v / 255."""
        v = (x * (LEVELS - 1)).round()
        # 255 + u would round up to 256 for a larger u.
        return (v + u.clamp(max=1 - LEVELS / 2 * torch.finfo(u.dtype).eps)) / LEVELS

    def encode(self, x: Tensor) -> Tensor:
        """(v + u) / 256 at the median u of r(u|v), (B, *data_shape)."""
        require_levels(x)
        mu, _ = self.noise_parameters(x)
        return self.dequantized(x, mu.sigmoid())

    def decode(self, y: Tensor) -> Tensor:
        """The level v / 255 in whose cube y (*, *data_shape) lies, or which is nearest."""
        return (y * LEVELS).floor().clamp(0, LEVELS - 1) / (LEVELS - 1)

    def reconstruct(self, x: Tensor) -> Tensor:
        """x itself: nothing is lost by dequantising."""
        return self.decode(self.encode(x))

    def draw(self, n: int, **options: Any) -> Tensor:
        """y ~ p(y), as the model draws it with its own options, then its level."""
        return self.decode(self.model.draw(n, **options))


def convolutions(channels: Sequence[int], activation: Activation) -> list[nn.Module]:
    """Convolutions of 3 x 3 with the activation between them, the last of which gives 0 at first."""
    *hidden, last = (nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(channels))
    for parameter in last.parameters():
        nn.init.zeros_(parameter)
    return [m for layer in hidden for m in (layer, ACTIVATIONS[activation]())] + [last]


def require_levels(x: Tensor) -> None:
    if not levels.check(x).all():
        raise ConfigError(
            "variational_dequantization dequantises levels v / 255 itself: set data.preprocessing.dequantize to 'none'"
        )


@torch.no_grad()
def require_no_probabilities(model: Any, y: Tensor) -> None:
    """Refuses a model whose decoder gives probabilities, which as a density would mean nothing."""
    if not hasattr(model, "decoder"):
        return
    p_x_z = model.decoder(model.encode(y[:1]))
    if p_x_z.support.is_discrete:
        raise ConfigError(
            f"model: must have a density on [0, 1), and the decoder of {type(model).__name__} gives probabilities; "
            "choose a likelihood with a density, such as gaussian_pixel_sigma or logit_laplace"
        )
