"""Bits per dimension of held-out data."""

import inspect
import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from zoo_core import Batch, ConfigError, PositiveInt
from zoo_metrics.averages import AverageMetric

LEVELS = 256


class BitsPerDim(AverageMetric):
    """-log P(v) / (D log 2), for a datum of D stored values v: what a code made from the model spends on each value.

    - A model of discrete data has log P(v) as its ``log_prob``: Bernoulli on binarised images, 256 levels on others.
    - A density p of x = (v + u) / 256, u uniform (``preprocessing.dequantize: uniform``), gives those v the mass
      P(v) = 256^-D E_u[p(x)], and log P(v) >= E_u[log p(x)] - D log 256. The value is that bound at one u for each v.
    - A density of data that were not dequantised has no bits: it has no bound on few values, and is refused.

    Reports ``bits_per_dim``, an upper bound where ``log_prob`` is a lower one, as that of a latent-variable model is,
    and where the data are dequantised; otherwise the exact value. With ``samples`` it is ``bits_per_dim_K``.

    A note on the evaluation of generative models (Theis et al., 2016) https://arxiv.org/abs/1511.01844

    Args:
        samples: K importance samples for a model whose ``log_prob`` takes ``samples``; the bound falls with K.
    """

    def __init__(self, samples: PositiveInt | None = None) -> None:
        super().__init__()
        self.samples = samples

    @torch.no_grad()
    def update(self, model: Any, batch: Batch) -> None:
        x = batch["image"]
        # Of what the model is asked for, before it is asked: a refusal says more than an infinity.
        offset = bits_of_scale(model, x)
        bits = -self.log_prob(model, x).double() / (math.prod(x.shape[1:]) * math.log(2))
        self.add(**{"bits_per_dim" + (f"_{self.samples}" if self.samples else ""): bits + offset})

    def log_prob(self, model: Any, x: Tensor) -> Tensor:
        """log p(x), (B,), with the samples asked for."""
        if self.samples and "samples" not in inspect.signature(model.log_prob).parameters:
            raise ConfigError(f"samples: the log_prob of {type(model).__name__} takes none; leave them out")
        options = {"samples": self.samples} if self.samples else {}
        try:
            log_p: Tensor = model.log_prob(x, **options)
        except NotImplementedError as error:
            raise ConfigError(f"metric 'bits_per_dim': {error}") from None
        return log_p


def bits_of_scale(model: Any, x: Tensor) -> int:
    """What -log2 p(x) lacks, per value: 0 if it is a probability of levels, 8 if a density of x = (v + u) / 256.

    Raises:
        ConfigError: it is neither.
    """
    name, of_p = type(model).__name__, support(model, x)
    if not of_p.is_discrete and model.preprocessing.dequantize == "uniform":
        return int(math.log2(LEVELS))
    if not of_p.is_discrete:
        raise ConfigError(
            f"metric 'bits_per_dim': the p(x) of {name} is a density, which has no bits on data that were not "
            "dequantised: train with data.preprocessing.dequantize: uniform, or on a discrete likelihood"
        )
    if not of_p.check(x).all():  # type: ignore[no-untyped-call]
        raise ConfigError(
            f"metric 'bits_per_dim': {name} gives probabilities, but not to values such as these data have: train with "
            "data.preprocessing.binarize for a Bernoulli, and without dequantize for 256 levels"
        )
    return 0


def support(model: Any, x: Tensor) -> constraints.Constraint:
    """The values that p(x) is about: the model's own ``support``, or that of its decoder's p(x|z).

    Raises:
        ConfigError: it has neither.
    """
    if hasattr(model, "support"):
        own: constraints.Constraint = model.support
        return own
    if not hasattr(model, "decoder"):
        raise ConfigError(
            f"metric 'bits_per_dim': {type(model).__name__} does not say whether its p(x) is discrete; give it an "
            "attribute 'support', a constraint of torch.distributions"
        )
    of_decoder: constraints.Constraint = model.decoder(model.encode(x)).support
    return of_decoder
