"""Faulty priors."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import (
    Categorical,
    Distribution,
    LowRankMultivariateNormal,
    MixtureSameFamily,
    Normal,
    ReshapeTransform,
    TransformedDistribution,
    Uniform,
    constraints,
)

from tests.faulty.encoders import independent
from tests.faulty.faults import faulty, sound
from zoo_core import CodeGrid, PositiveInt, Prior, PriorSpec, Shape

PRIOR = PriorSpec(name="x", target="x:X", summary="x")
CODES = PriorSpec(name="x", target="x:X", summary="x", accepts=("sequence[codes]", "grid[codes]"))


@sound(PRIOR)
class Mixture(Prior):
    """Three Gaussians, with weights to be learned."""

    law: type[MixtureSameFamily] = MixtureSameFamily

    def __init__(self, latent_shape: Shape) -> None:
        super().__init__()
        self.latent_shape = tuple(latent_shape)
        self.logits = nn.Parameter(torch.tensor([0.0, 1.0, -1.0]))
        self.mu = nn.Parameter(2 * torch.randn(3, *latent_shape))

    def forward(self, condition: Any = None) -> Distribution:
        component = independent(Normal(self.mu, torch.ones_like(self.mu), validate_args=False), len(self.latent_shape))
        return self.law(Categorical(logits=self.logits, validate_args=False), component, validate_args=False)


class EvenDensity(MixtureSameFamily):
    def log_prob(self, value: Tensor) -> Tensor:
        each = self.component_distribution.log_prob(value.unsqueeze(-len(self.event_shape) - 1))
        return each.logsumexp(-1) - math.log(each.shape[-1])


@faulty(PRIOR, "draws")
class EvenWeights(Mixture):
    """log_prob takes all components to be equally likely, sample does not."""

    law = EvenDensity


class RawWeights(MixtureSameFamily):
    def log_prob(self, value: Tensor) -> Tensor:
        each = self.component_distribution.log_prob(value.unsqueeze(-len(self.event_shape) - 1))
        return (each + self.mixture_distribution.logits).logsumexp(-1) + 0.1


@faulty(PRIOR, "sums_to_one")
class RawLogits(Mixture):
    """Weights do not add up to one."""

    law = RawWeights


class FirstOnly(MixtureSameFamily):
    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        return self.component_distribution.sample(sample_shape)[..., 1, :] if len(self.event_shape) == 1 else \
            self.component_distribution.sample(sample_shape).select(-1 - len(self.event_shape), 1)  # fmt: skip


@faulty(PRIOR, "draws")
class LostComponents(Mixture):
    """sample draws of one component alone."""

    law = FirstOnly


@faulty(PRIOR, "gradients")
class DetachedWeights(Mixture):
    """The weights of the mixture have no gradient."""

    def forward(self, condition: Any = None) -> Distribution:
        component = independent(Normal(self.mu, torch.ones_like(self.mu), validate_args=False), len(self.latent_shape))
        return self.law(Categorical(logits=self.logits.detach(), validate_args=False), component, validate_args=False)


class Affine(Distribution):
    """z = a u + b, u ~ N(0, I)."""

    arg_constraints = {}
    support = constraints.independent(constraints.real, 1)
    constant, jacobian = 1.0, 1.0

    def __init__(self, log_a: Tensor, b: Tensor) -> None:
        self.log_a, self.b = log_a, b
        super().__init__(torch.Size(), b.shape, validate_args=False)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        with torch.no_grad():
            return self.drawn(torch.randn(*sample_shape, *self.b.shape, dtype=self.b.dtype))

    def drawn(self, u: Tensor) -> Tensor:
        return u * self.log_a.exp() + self.b

    def log_prob(self, value: Tensor) -> Tensor:
        u = (value - self.b) / self.log_a.exp()
        log_u = -0.5 * (u.square() + self.constant * math.log(2 * math.pi))
        return (log_u - self.jacobian * self.log_a).flatten(-len(self.event_shape)).sum(-1)


@sound(PRIOR)
class Flow(Prior):
    """An affine flow."""

    law: type[Affine] = Affine

    def __init__(self, latent_shape: Shape) -> None:
        super().__init__()
        self.latent_shape = tuple(latent_shape)
        self.log_a = nn.Parameter(torch.full(self.latent_shape, -0.5))
        self.b = nn.Parameter(torch.zeros(self.latent_shape))

    def forward(self, condition: Any = None) -> Distribution:
        return self.law(self.log_a, self.b)


class NoJacobian(Affine):
    jacobian = 0.0


@faulty(PRIOR, "sums_to_one")
class WithoutLogDeterminant(Flow):
    """log_prob lacks the log-determinant."""

    law = NoJacobian


class NoConstant(Affine):
    constant = 0.0


@faulty(PRIOR, "sums_to_one")
class WithoutConstant(Flow):
    """log_prob lacks log 2 pi."""

    law = NoConstant


class WideDraws(Affine):
    def drawn(self, u: Tensor) -> Tensor:
        return u * 1.1 * self.log_a.exp() + self.b


@faulty(PRIOR, "score_of_draws")
class WrongScale(Flow):
    """Draws are a tenth too wide."""

    law = WideDraws


@faulty(PRIOR, "draws")
class WrongScaleOfTwo(Flow):
    """Draws are a tenth too wide, seen in two dimensions."""

    law = WideDraws


class Mixed(Affine):
    def drawn(self, u: Tensor) -> Tensor:
        # Only from three numbers on: two are as they should be.
        return super().drawn(u if u.shape[-1] < 3 else torch.cat([u[..., :2], (u[..., 2:] + u[..., :1]) / 1.2], -1))


@faulty(PRIOR, "score_of_draws")
class MixedInThree(Flow):
    """In its own dimension, not in two, numbers are drawn that depend on each other."""

    law = Mixed


class Unscaled(Affine):
    def log_prob(self, value: Tensor) -> Tensor:
        return super().log_prob(value.detach())


@faulty(PRIOR, "gradients")
class DetachedDensity(Flow):
    """log_prob has no gradient in z."""

    law = Unscaled


@faulty(PRIOR, "samples")
class NumpyDraws(Flow):
    """sample draws from numpy's random numbers."""

    def draw(self, n: int) -> Tensor:
        return torch.as_tensor(np.random.randn(n, *self.latent_shape))


@faulty(PRIOR, "samples")
class OneDraw(Flow):
    """All draws of a sample are the same."""

    def draw(self, n: int) -> Tensor:
        return super().draw(1).expand(n, *self.latent_shape)


@sound(PriorSpec(name="x", target="x:X", summary="x", accepts=("vector[real]", "grid[real]")))
class Correlated(Prior):
    """N(0, A Aᵀ + I), over all numbers together."""

    def __init__(self, latent_shape: Shape) -> None:
        super().__init__()
        self.latent_shape = tuple(latent_shape)
        self.A = nn.Parameter(torch.randn(math.prod(latent_shape), 1))

    def forward(self, condition: Any = None) -> Distribution:
        A = self.A.to(torch.promote_types(self.A.dtype, torch.float32))  # there is no Cholesky in half precision
        one = torch.ones_like(A[:, 0])
        together = LowRankMultivariateNormal(0 * one, A, one, validate_args=False)
        return TransformedDistribution(together, ReshapeTransform(one.shape, self.latent_shape), validate_args=False)


@sound(PriorSpec(name="x", target="x:X", summary="x", accepts=("sequence[real]",)))
class Box(Prior):
    """Between -1 and 1."""

    one: Tensor

    def __init__(self, latent_shape: Shape) -> None:
        super().__init__()
        self.latent_shape = tuple(latent_shape)
        self.register_buffer("one", torch.ones(self.latent_shape))

    def forward(self, condition: Any = None) -> Distribution:
        return independent(Uniform(-self.one, self.one, validate_args=False), len(self.latent_shape))


@sound(CODES)
class Frequencies(Prior):
    """The frequencies of codes at each position."""

    def __init__(self, latent_shape: Shape, codebook_size: PositiveInt) -> None:
        super().__init__()
        self.latent_shape, self.codebook_size = tuple(latent_shape), codebook_size
        self.logits = nn.Parameter(torch.randn(*latent_shape, codebook_size))

    def forward(self, condition: Any = None) -> Distribution:
        return CodeGrid(self.logits, len(self.latent_shape))


class Unshared(CodeGrid):
    def log_prob(self, value: Tensor) -> Tensor:
        return super().log_prob(value) + 0.2


@faulty(CODES, "sums_to_one")
class UnsharedCodes(Frequencies):
    """Probabilities of codes do not add up to one."""

    def forward(self, condition: Any = None) -> Distribution:
        return Unshared(self.logits, len(self.latent_shape))


class EvenCodes(CodeGrid):
    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        return CodeGrid(torch.zeros_like(self.logits), len(self.event_shape)).sample(sample_shape)


@faulty(CODES, "draws")
class EvenCodesDrawn(Frequencies):
    """sample takes all codes to be equally likely."""

    def forward(self, condition: Any = None) -> Distribution:
        return EvenCodes(self.logits, len(self.latent_shape))


class NextCodes(CodeGrid):
    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        return super().sample(sample_shape) + 1


@faulty(CODES, "samples")
class CodesFromOne(Frequencies):
    """Codes count from one."""

    def forward(self, condition: Any = None) -> Distribution:
        return NextCodes(self.logits, len(self.latent_shape))
