"""Faulty encoders and posteriors."""

import math
import random
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Laplace, Normal, register_kl

from tests.faulty.faults import faulty, sound
from zoo_core import CodeGrid, Encoder, EncoderSpec, PositiveInt, Posterior, PosteriorSpec, Shape

ENCODER = EncoderSpec(name="x", target="x:X", summary="x")
POSTERIOR = PosteriorSpec(name="x", target="x:X", summary="x")


def independent(q: Distribution, event_dim: int) -> Distribution:
    return Independent(q, event_dim, validate_args=False)


@sound(ENCODER)
class Plain(Encoder):
    """Two layers, and N(mu, sigma²)."""

    def __init__(self, data_shape: Shape, latents: PositiveInt) -> None:
        super().__init__()
        self.data_shape, self.latent_shape = tuple(data_shape), (latents,)
        self.first, self.second = nn.Linear(math.prod(data_shape), 8), nn.Linear(8, 2 * latents)
        self.prepare(latents)

    def prepare(self, latents: int) -> None:
        """What else the constructor does."""

    def forward(self, x: Tensor) -> Distribution:
        mu, log_sigma = self.after(self.second(self.first(self.before(x.flatten(1))).tanh())).chunk(2, 1)
        return self.law(mu, log_sigma)

    def before(self, x: Tensor) -> Tensor:
        return x

    def after(self, h: Tensor) -> Tensor:
        return h

    def law(self, mu: Tensor, log_sigma: Tensor) -> Distribution:
        return independent(Normal(mu, log_sigma.clamp(-8, 8).exp(), validate_args=False), 1)


@faulty(ENCODER, "batch_independence")
class BatchStatistics(Plain):
    """In evaluation mode the mean of the batch is taken off."""

    def before(self, x: Tensor) -> Tensor:
        return x - x.mean(0)


@faulty(ENCODER, "evaluation_is_pure")
class NoiseInEvaluation(Plain):
    """Noise is added in evaluation mode as well."""

    def before(self, x: Tensor) -> Tensor:
        return x + 0.1 * torch.randn_like(x)


@faulty(ENCODER, "batch_independence")
class InPlace(Plain):
    """The input is changed where it lies."""

    def before(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return x.sub_(0.1)


@faulty(ENCODER, "rows")
class Squeezed(Plain):
    """A batch of one loses its dimension."""

    def forward(self, x: Tensor) -> Distribution:
        mu, log_sigma = self.second(self.first(x.flatten(1)).tanh()).squeeze(0).chunk(2, -1)
        return self.law(mu, log_sigma)


@faulty(ENCODER, "dtypes")
class Float32(Plain):
    """What comes out is float32, whatever the weights are."""

    def after(self, h: Tensor) -> Tensor:
        return h.float()


@faulty(ENCODER, "gradient_flow")
class UnusedLayer(Plain):
    """A layer is made and never used."""

    def prepare(self, latents: int) -> None:
        self.third = nn.Linear(latents, latents)


@faulty(ENCODER, "gradient_flow")
class DetachedMean(Plain):
    """The mean has no gradient."""

    def law(self, mu: Tensor, log_sigma: Tensor) -> Distribution:
        return super().law(mu.detach(), log_sigma)


@faulty(ENCODER, "gradient_flow")
class DetachedSigma(Plain):
    """Sigma has no gradient."""

    def law(self, mu: Tensor, log_sigma: Tensor) -> Distribution:
        return super().law(mu, log_sigma.detach())


@faulty(ENCODER, "determinism")
class NumpyNoise(Plain):
    """In training the noise is numpy's."""

    def before(self, x: Tensor) -> Tensor:
        return x + float(np.random.rand()) if self.training else x


@faulty(ENCODER, "construction")
class Seeded(Plain):
    """The constructor seeds torch."""

    def prepare(self, latents: int) -> None:
        torch.manual_seed(42)


@faulty(ENCODER, "construction")
class PythonWeights(Plain):
    """The constructor draws from Python's random numbers."""

    def prepare(self, latents: int) -> None:
        nn.init.constant_(self.first.bias, random.random())


@faulty(ENCODER, "evaluation_is_pure")
class Counter(Plain):
    """It counts its calls in evaluation mode."""

    def prepare(self, latents: int) -> None:
        self.register_buffer("calls", torch.zeros(()))

    def before(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x


@faulty(ENCODER, "evaluation_is_pure")
class RunningMean(Plain):
    """A running mean goes on in evaluation mode."""

    def prepare(self, latents: int) -> None:
        self.register_buffer("mean", torch.zeros(64))

    def before(self, x: Tensor) -> Tensor:
        self.mean.lerp_(x.detach().mean(0).to(self.mean.dtype), 0.1)
        return x - self.mean


@faulty(ENCODER, "save_and_load")
class Unregistered(Plain):
    """A tensor of random numbers is neither weight nor buffer."""

    def prepare(self, latents: int) -> None:
        self.shift = torch.randn(64)

    def before(self, x: Tensor) -> Tensor:
        return x + self.shift.to(x)


@faulty(ENCODER, "save_and_load")
class Unsaved(Plain):
    """A buffer is not saved."""

    def prepare(self, latents: int) -> None:
        self.register_buffer("shift", torch.randn(64), persistent=False)

    def before(self, x: Tensor) -> Tensor:
        return x + self.shift


@faulty(ENCODER, "copies")
class LambdaMember(Plain):
    """A function without a name is a member."""

    def prepare(self, latents: int) -> None:
        self.twice = lambda x: 2 * x

    def before(self, x: Tensor) -> Tensor:
        return self.twice(x)


@faulty(ENCODER, "meta_device")
class OnTheCPU(Plain):
    """A tensor is made on the CPU."""

    def before(self, x: Tensor) -> Tensor:
        return x * torch.ones(64, dtype=x.dtype, device="cpu")


@faulty(ENCODER, "compiles")
class Branch(Plain):
    """Which way is taken depends on the data."""

    def before(self, x: Tensor) -> Tensor:
        return x if x.is_meta or float(x.detach().sum()) > 0 else -x


@faulty(ENCODER, "extreme_inputs")
class Unbounded(Plain):
    """The exponential has no bound."""

    def forward(self, x: Tensor) -> Distribution:
        mu, log_sigma = self.second(self.first(x.flatten(1))).chunk(2, 1)
        return independent(Normal(mu, (20 * log_sigma).exp(), validate_args=False), 1)


@faulty(ENCODER, "latent_shape")
class OtherLatents(Plain):
    """Its latents are not of the shape that it tells."""

    def prepare(self, latents: int) -> None:
        self.latent_shape = (latents + 1,)


@faulty(ENCODER, "latent_shape")
class NoEvent(Plain):
    """Each latent is a distribution of its own."""

    def law(self, mu: Tensor, log_sigma: Tensor) -> Distribution:
        return Normal(mu, log_sigma.exp(), validate_args=False)


@faulty(EncoderSpec(name="x", target="x:X", summary="x", emits=("grid[real]",)), "emits")
class NoGrid(Plain):
    """Its spec speaks of a grid."""


@faulty(EncoderSpec(name="x", target="x:X", summary="x", emits=("vector[real]", "grid[real]")), "emits")
class VectorAlone(Plain):
    """Its spec speaks of a grid as well."""


@sound(EncoderSpec(name="x", target="x:X", summary="x", emits=("vector[real]", "sequence[real]")))
class OfEitherLayout(Plain):
    """A vector, or a sequence of two positions."""

    def __init__(self, data_shape: Shape, latents: PositiveInt, layout: Literal["vector", "sequence"] = "vector"):
        super().__init__(data_shape, latents if layout == "vector" else 2 * latents)
        self.latent_shape = (latents,) if layout == "vector" else (latents, 2)

    def law(self, mu: Tensor, log_sigma: Tensor) -> Distribution:
        mu, sigma = (part.unflatten(1, self.latent_shape) for part in (mu, log_sigma.clamp(-8, 8).exp()))
        return independent(Laplace(mu, sigma, validate_args=False), len(self.latent_shape))


@sound(EncoderSpec(name="x", target="x:X", summary="x", emits=("grid[codes]",)))
class OfCodes(Plain):
    """Codes at 2 x 2 positions."""

    def __init__(self, data_shape: Shape, latents: PositiveInt) -> None:
        super().__init__(data_shape, 4 * 4 // 2)
        self.latent_shape = (2, 2)

    def forward(self, x: Tensor) -> Distribution:
        return self.codes(self.second(self.first(x.flatten(1)).tanh()).unflatten(1, (2, 2, 4)))

    def codes(self, logits: Tensor) -> Distribution:
        return CodeGrid(logits)


@faulty(EncoderSpec(name="x", target="x:X", summary="x", emits=("grid[real]",)), "emits")
class UndeclaredCodes(OfCodes):
    """Its spec speaks of numbers, not of codes."""


class Tempered(CodeGrid):
    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        return CodeGrid(2 * self.logits, len(self.event_shape)).sample(sample_shape)


@faulty(EncoderSpec(name="x", target="x:X", summary="x", emits=("grid[codes]",)), "draws")
class ColdCodes(OfCodes):
    """Codes are drawn at another temperature."""

    def codes(self, logits: Tensor) -> Distribution:
        return Tempered(logits)


@faulty(EncoderSpec(name="x", target="x:X", summary="x", emits=("grid[codes]",)), "gradients_of_draws")
class UnsharedCodesOfX(OfCodes):
    """log_prob has no normaliser where it depends on x."""

    def codes(self, logits: Tensor) -> Distribution:
        return Unshared(logits)


class Unshared(CodeGrid):
    def __init__(self, logits: Tensor) -> None:
        super().__init__(logits)
        self.raw = logits

    def log_prob(self, value: Tensor) -> Tensor:
        raw = self.raw.expand(*value.shape, self.raw.shape[-1])
        return raw.gather(-1, value.unsqueeze(-1)).flatten(-3).sum(-1)


@faulty(EncoderSpec(name="x", target="x:X", summary="x", emits=("vector[real]", "sequence[real]")), "emits")
class OneLayoutWrong(OfEitherLayout):
    """As a sequence, its latents are not of the shape that it tells."""

    def __init__(self, data_shape: Shape, latents: PositiveInt, layout: Literal["vector", "sequence"] = "vector"):
        super().__init__(data_shape, latents, layout)
        self.told = self.latent_shape
        self.latent_shape = self.told[::-1]

    def law(self, mu: Tensor, log_sigma: Tensor) -> Distribution:
        mu, b = (part.unflatten(1, self.told) for part in (mu, log_sigma.clamp(-8, 8).exp()))
        return independent(Laplace(mu, b, validate_args=False), len(self.told))


class Gaussian(Posterior):
    """N(mu, sigma²), of a type of its own."""

    law: type[Normal] = Normal

    def channels(self, latents: int) -> int:
        return 2 * latents

    def forward(self, h: Tensor, event_dim: int) -> Distribution:
        mu, log_sigma = h.chunk(2, dim=-event_dim)
        return independent(self.law(mu, log_sigma.clamp(-8, 8).exp(), validate_args=False), event_dim)


class Own(Normal):
    """A normal distribution with a KL of its own."""


@register_kl(Own, Own)
def _kl(q: Own, p: Own) -> Tensor:
    ratio = (q.scale / p.scale).square()
    return 0.5 * (ratio + ((q.loc - p.loc) / p.scale).square() - 1 - ratio.log())


@sound(POSTERIOR)
class OwnKL(Gaussian):
    """A KL of its own, which is right."""

    law = Own


class WithoutOne(Own):
    pass


@register_kl(WithoutOne, WithoutOne)
def _without_one(q: Normal, p: Normal) -> Tensor:
    return _kl(q, p) + 0.5


@faulty(POSTERIOR, "divergence")
class KLOffByHalf(Gaussian):
    """The -1 is missing from the KL."""

    law = WithoutOne


class Negated(Own):
    pass


@register_kl(Negated, Negated)
def _negated(q: Normal, p: Normal) -> Tensor:
    return -_kl(q, p)


@faulty(POSTERIOR, "divergence")
class KLNegated(Gaussian):
    """The KL has the other sign."""

    law = Negated


class Doubled(Own):
    pass


@register_kl(Doubled, Doubled)
def _doubled(q: Normal, p: Normal) -> Tensor:
    return 2 * _kl(q, p)


@faulty(POSTERIOR, "divergence")
class KLWithoutHalf(Gaussian):
    """The KL lacks its factor of a half."""

    law = Doubled


class Meaned(Own):
    pass


@register_kl(Meaned, Meaned)
def _meaned(q: Normal, p: Normal) -> Tensor:
    return _kl(q, p) / q.loc[0].numel()


@faulty(POSTERIOR, "divergence")
class KLMeaned(Gaussian):
    """The KL is a mean over latents."""

    law = Meaned


class LogSigma(Own):
    pass


@register_kl(LogSigma, LogSigma)
def _log_sigma(q: Normal, p: Normal) -> Tensor:
    return _kl(q, p) + 0.5 * (q.scale / p.scale).log()


@faulty(POSTERIOR, "divergence")
class KLOfLogSigma(Gaussian):
    """log sigma has the wrong factor in the KL."""

    law = LogSigma


class Reversed(Own):
    pass


@register_kl(Reversed, Reversed)
def _reversed(q: Normal, p: Normal) -> Tensor:
    return _kl(p, q)


@faulty(POSTERIOR, "divergence")
class KLReversed(Gaussian):
    """The KL is that of p from q."""

    law = Reversed


class Wide(Normal):
    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        return self.loc + self.variance * torch.randn(self._extended_shape(sample_shape), dtype=self.loc.dtype)


@faulty(POSTERIOR, "draws")
class DrawsOfVariance(Gaussian):
    """rsample multiplies by sigma² instead of sigma."""

    law = Wide


class SharedNoise(Normal):
    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        noise = torch.randn((*self._extended_shape(sample_shape)[:-1], 1), dtype=self.loc.dtype)
        return self.loc + self.scale * noise


@faulty(POSTERIOR, "draws")
class OneNoiseForAll(Gaussian):
    """All latents of a draw have the same noise."""

    law = SharedNoise


class Still(Normal):
    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        return self.loc + (super().rsample(sample_shape) - self.loc).detach()


@faulty(POSTERIOR, "gradients_of_draws")
class DrawsWithoutSigma(Gaussian):
    """The gradient through draws knows nothing of sigma."""

    law = Still


class Shifted(Normal):
    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        return super().rsample(sample_shape) + 0.05


@faulty(POSTERIOR, "draws")
class ShiftedDraws(Gaussian):
    """rsample is off by a little."""

    law = Shifted


class Unnormalised(Normal):
    def log_prob(self, value: Tensor) -> Tensor:
        return super().log_prob(value) + self.scale.log()


@faulty(POSTERIOR, "sums_to_one")
class NoLogSigma(Gaussian):
    """log_prob lacks -log sigma."""

    law = Unnormalised


@faulty(POSTERIOR, "latent_shape")
class SecondDimension(Gaussian):
    """The channels are the second dimension, it thinks."""

    def forward(self, h: Tensor, event_dim: int) -> Distribution:
        mu, log_sigma = h.chunk(2, dim=1)
        return independent(self.law(mu, log_sigma.clamp(-8, 8).exp(), validate_args=False), event_dim)
