"""Faulty decoders and likelihoods."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Beta, Distribution, Independent, Laplace, Normal, constraints

from tests.faulty.encoders import independent
from tests.faulty.faults import faulty, sound
from zoo_core import Decoder, DecoderSpec, DiscretizedLogisticMixture, Likelihood, LikelihoodSpec, Shape

DECODER = DecoderSpec(name="x", target="x:X", summary="x")
LIKELIHOOD = LikelihoodSpec(name="x", target="x:X", summary="x")


@sound(LIKELIHOOD)
class Binary(Likelihood):
    """Bernoulli, from logits."""

    law: type[Any] = Bernoulli

    def channels(self, data: int) -> int:
        return data

    def forward(self, h: Tensor, event_dim: int) -> Distribution:
        return independent(self.law(logits=h, validate_args=False), event_dim)


class MeanOverPixels(Independent):
    def log_prob(self, value: Tensor) -> Tensor:
        return super().log_prob(value) / math.prod(self.event_shape)


@faulty(LIKELIHOOD, "sums_to_one")
class PixelMean(Binary):
    """log_prob is a mean over pixels."""

    def forward(self, h: Tensor, event_dim: int) -> Distribution:
        return MeanOverPixels(Bernoulli(logits=h, validate_args=False), event_dim, validate_args=False)


class MeanOfChannels(Independent):
    def log_prob(self, value: Tensor) -> Tensor:
        return super().log_prob(value) / self.event_shape[0]


@faulty(LIKELIHOOD, "sums_to_one")
class ChannelMean(Binary):
    """log_prob is a mean over channels."""

    def forward(self, h: Tensor, event_dim: int) -> Distribution:
        return MeanOfChannels(Bernoulli(logits=h, validate_args=False), event_dim, validate_args=False)


@faulty(LIKELIHOOD, "leading_dimensions")
class BatchSum(Binary):
    """log_prob is summed over the batch as well."""

    def forward(self, h: Tensor, event_dim: int) -> Distribution:
        return SumOfAll(Bernoulli(logits=h, validate_args=False), event_dim, validate_args=False)


class SumOfAll(Independent):
    def log_prob(self, value: Tensor) -> Tensor:
        return super().log_prob(value).sum()


@faulty(LIKELIHOOD, "leading_dimensions")
class BatchFirst(Binary):
    """All leading dimensions become one."""

    def forward(self, h: Tensor, event_dim: int) -> Distribution:
        return super().forward(h.reshape(-1, *h.shape[-event_dim:]), event_dim)


class Halved(Bernoulli):
    def log_prob(self, value: Tensor) -> Tensor:
        return super().log_prob(value) / 2


@faulty(LIKELIHOOD, "sums_to_one")
class HalfOfIt(Binary):
    """log_prob has a factor of a half."""

    law = Halved


class TwiceSqueezed(Bernoulli):
    def log_prob(self, value: Tensor) -> Tensor:
        return Bernoulli(logits=self.logits.sigmoid(), validate_args=False).log_prob(value)


@faulty(LIKELIHOOD, "draws")
class DoubleSigmoid(Binary):
    """log_prob takes the sigmoid twice, sample once."""

    law = TwiceSqueezed


class Rounded(Bernoulli):
    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        return super().sample(sample_shape) * 0.5 + 0.25


@faulty(LIKELIHOOD, "draws")
class GreyDraws(Binary):
    """sample draws what log_prob does not know."""

    law = Rounded


class WithoutMean(Bernoulli):
    @property
    def mean(self) -> Tensor:
        raise NotImplementedError


@faulty(LIKELIHOOD, "leading_dimensions")
class NoMean(Binary):
    """There is no mean to show."""

    law = WithoutMean


class OtherMean(Bernoulli):
    @property
    def mean(self) -> Tensor:
        return self.logits


@faulty(LIKELIHOOD, "draws")
class MeanOfLogits(Binary):
    """The mean is the logit."""

    law = OtherMean


class WithoutSupport(Bernoulli):
    @property
    def support(self) -> Any:
        raise NotImplementedError


@faulty(LIKELIHOOD, "sums_to_one")
class NoSupport(Binary):
    """It does not say where its draws lie."""

    law = WithoutSupport


@sound(LIKELIHOOD)
class Real(Likelihood):
    """N(h, 1/4)."""

    law: type[Normal] = Normal

    def channels(self, data: int) -> int:
        return data

    def forward(self, h: Tensor, event_dim: int) -> Distribution:
        return independent(self.law(h, torch.full_like(h, 0.5), validate_args=False), event_dim)


class SquaredError(Normal):
    def log_prob(self, value: Tensor) -> Tensor:
        return -(value - self.loc).square()


@faulty(LIKELIHOOD, "sums_to_one")
class ErrorAsDensity(Real):
    """The squared error is called a log density."""

    law = SquaredError


@sound(LIKELIHOOD)
class Pointed(Likelihood):
    """Laplace, of a scale of its own at each pixel."""

    def channels(self, data: int) -> int:
        return 2 * data

    def forward(self, h: Tensor, event_dim: int) -> Distribution:
        mu, log_b = h.chunk(2, dim=-event_dim)
        return independent(Laplace(mu, log_b.clamp(-8, 8).exp(), validate_args=False), event_dim)


@sound(LIKELIHOOD)
class Interval(Pointed):
    """A Beta distribution, whose density may be infinite at 0 and at 1."""

    def forward(self, h: Tensor, event_dim: int) -> Distribution:
        a, b = h.clamp(-8, 8).exp().chunk(2, dim=-event_dim)
        return independent(Beta(a, b, validate_args=False), event_dim)


class KeptInside(Beta):
    def log_prob(self, value: Tensor) -> Tensor:
        return super().log_prob(value.clamp(1e-3, 1 - 1e-3))


@faulty(LIKELIHOOD, "sums_to_one")
class FlatEnds(Pointed):
    """The density of values near 0 is that of 0.001."""

    def forward(self, h: Tensor, event_dim: int) -> Distribution:
        a, b = h.clamp(-8, 8).exp().chunk(2, dim=-event_dim)
        return independent(KeptInside(a, b, validate_args=False), event_dim)


class Cut(Normal):
    support = constraints.unit_interval

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        return super().sample(sample_shape).clamp(0, 1)


@faulty(LIKELIHOOD, "sums_to_one")
class ClampedGaussian(Real):
    """A Gaussian of values in [0, 1], without what that costs."""

    law = Cut


@sound(LIKELIHOOD)
class Bins(Likelihood):
    """A logistic over 256 levels."""

    law: type[DiscretizedLogisticMixture] = DiscretizedLogisticMixture

    def channels(self, data: int) -> int:
        return 2 * data

    def forward(self, h: Tensor, event_dim: int) -> Distribution:
        mu, log_s = (part.unsqueeze(-event_dim - 1) for part in h.chunk(2, dim=-event_dim))
        return self.law(torch.zeros_like(mu), mu, log_s - 1, event_dim=event_dim)


class WithoutEdges(DiscretizedLogisticMixture):
    def _log_bin(self, i: Tensor) -> Tensor:
        s, half = self.log_s.exp(), 0.5 / (self.levels - 1)
        u, low = ((i / (self.levels - 1) + sign * half - self.mu) / s for sign in (1, -1))
        return (u.sigmoid() - low.sigmoid()).log()


@faulty(LIKELIHOOD, "sums_to_one")
class NoEdgeBins(Bins):
    """The outermost bins lack the tails."""

    law = WithoutEdges


class DensityOfBins(DiscretizedLogisticMixture):
    def _log_bin(self, i: Tensor) -> Tensor:
        t = (i / (self.levels - 1) - self.mu) / self.log_s.exp()
        return nn.functional.logsigmoid(t) + nn.functional.logsigmoid(-t) - self.log_s


@faulty(LIKELIHOOD, "sums_to_one")
class DensityForBins(Bins):
    """A density stands where the mass of a bin must."""

    law = DensityOfBins


@sound(DECODER)
class PlainDecoder(Decoder):
    """One layer, and Bernoulli pixels."""

    law: type[Bernoulli] = Bernoulli

    def __init__(self, data_shape: Shape, latent_shape: Shape) -> None:
        super().__init__()
        self.data_shape, self.latent_shape = tuple(data_shape), tuple(latent_shape)
        self.body = nn.Linear(math.prod(latent_shape), math.prod(data_shape))

    def forward(self, z: Tensor) -> Distribution:
        return self.independent(self.law(logits=self.logits(z), validate_args=False))

    def logits(self, z: Tensor) -> Tensor:
        flat = z.flatten(z.dim() - len(self.latent_shape))
        return self.body(flat).unflatten(-1, self.data_shape)

    def independent(self, p: Distribution) -> Distribution:
        return independent(p, len(self.data_shape))


@faulty(DECODER, "leading_dimensions")
class OneLeading(PlainDecoder):
    """Latents have one leading dimension, it thinks."""

    def logits(self, z: Tensor) -> Tensor:
        return self.body(z.flatten(1)).unflatten(-1, self.data_shape)


@faulty(DECODER, "leading_dimensions")
class Cropped(PlainDecoder):
    """Its data are not of the shape that it tells."""

    def logits(self, z: Tensor) -> Tensor:
        return super().logits(z)[..., :-1]


@faulty(DECODER, "sums_to_one")
class DecodedPixelMean(PlainDecoder):
    """log_prob is a mean over the 64 pixels."""

    def independent(self, p: Distribution) -> Distribution:
        return MeanOverPixels(p, len(self.data_shape), validate_args=False)


@faulty(DECODER, "draws")
class DecodedDoubleSigmoid(PlainDecoder):
    """log_prob takes the sigmoid twice."""

    law = TwiceSqueezed


@faulty(DecoderSpec(name="x", target="x:X", summary="x", accepts=("vector[real]", "grid[real]")), "accepts")
class VectorsOnly(PlainDecoder):
    """Its spec speaks of grids, which it does not take."""

    def logits(self, z: Tensor) -> Tensor:
        return self.body(z).unflatten(-1, self.data_shape)


@sound(DecoderSpec(name="x", target="x:X", summary="x", accepts=("grid[codes]",)))
class DecoderOfCodes(PlainDecoder):
    """Each code has a vector of logits, whatever its place."""

    def __init__(self, data_shape: Shape, latent_shape: Shape) -> None:
        super().__init__(data_shape, latent_shape)
        self.vectors = nn.Embedding(8, math.prod(latent_shape))

    def logits(self, z: Tensor) -> Tensor:
        return super().logits(self.vectors(z.flatten(-2)).mean(-2).unflatten(-1, self.latent_shape))
