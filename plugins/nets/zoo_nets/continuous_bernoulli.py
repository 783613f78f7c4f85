"""The continuous Bernoulli, from its logit."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

# Nearer to 0 than this, a series is used: to within the rounding of float64 it is exact there.
NEAR_0 = 0.1


class ContinuousBernoulli(Distribution):
    """p(x) = C(lambda) lambda^x (1 - lambda)^(1 - x) = l e^(l x) / (e^l - 1), l = logit lambda, for x in [0, 1].

    The continuous Bernoulli: fixing a pervasive error in variational autoencoders (Loaiza-Ganem & Cunningham, 2019)
    https://arxiv.org/abs/1907.06845

    Each element of ``logits`` (*batch) is one variable; log_prob is in nats. From the logit, C = l coth(l / 2) keeps
    its digits for every l. That of torch.distributions is computed from lambda: in float32 it is off by 0.01 nats at
    l = 15, and no longer grows from l = 16 on. Values outside of [0, 1] are not looked for, as in torch.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {"logits": constraints.real}
    support = constraints.unit_interval

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits
        super().__init__(logits.shape, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        # d from the end that l favours: no difference of large numbers, whatever l is.
        a, d = self.steepness(), torch.where(self.logits > 0, 1 - value, value)
        steep = -a * d - (-torch.expm1(-a) / a).log()
        t = self.half_logit()
        flat = t * (2 * value - 1) - t**2 / 6 + t**4 / 180 - t**6 / 2835
        return torch.where(self.is_flat(), flat, steep)

    @property
    def mean(self) -> Tensor:
        """E[x] = 1 / (1 - e^-l) - 1 / l."""
        a, t = self.steepness(), self.half_logit()
        d = 1 / a + 1 / torch.expm1(-a) + 1
        steep = torch.where(self.logits > 0, 1 - d, d)
        return torch.where(self.is_flat(), 0.5 + t / 6 - t**3 / 90 + t**5 / 945, steep)

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """x with F(x) = (e^(l x) - 1) / (e^l - 1) uniform."""
        a = self.logits.abs().clamp(min=torch.finfo(self.logits.dtype).eps)
        u = torch.rand(self._extended_shape(torch.Size(sample_shape)), dtype=a.dtype, device=a.device)
        d = (-torch.log1p(u * torch.expm1(-a)) / a).clamp(max=1)
        return torch.where(self.logits > 0, 1 - d, d)

    def is_flat(self) -> Tensor:
        return self.logits.abs() < NEAR_0

    def steepness(self) -> Tensor:
        """|l|, kept away from 0 where the series is used, so that no gradient is nan there."""
        return self.logits.abs().clamp(min=NEAR_0)

    def half_logit(self) -> Tensor:
        """l / 2, kept small where the series is not used."""
        return self.logits.clamp(-NEAR_0, NEAR_0) / 2
