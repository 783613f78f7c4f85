"""The conformance kit finds what it is for: parts with one fault each, and the check that is meant for it."""

import pytest
import torch
from torch import Tensor
from torch.distributions import (
    Beta,
    Cauchy,
    Dirichlet,
    Distribution,
    Gamma,
    Independent,
    Kumaraswamy,
    Laplace,
    LogNormal,
    MultivariateNormal,
    Normal,
    OneHotCategorical,
    Poisson,
    StudentT,
    TanhTransform,
    TransformedDistribution,
    Uniform,
)

from tests.faulty import decoders, encoders, priors, quantizers  # noqa: F401
from tests.faulty.faults import PARTS, Part, Plugin
from zoo_core import PluginHost
from zoo_core.host import Registration
from zoo_core.testing.checks import Unfit
from zoo_core.testing.kinds.densities import require_own_draws, require_sum_of_one
from zoo_core.testing.running import report

FAULTS = [part for part in PARTS if part.check]
SOUND = [part for part in PARTS if not part.check]


@pytest.fixture(scope="module")
def host() -> PluginHost:
    host = PluginHost(discover=False)
    host.register(Plugin(), "faulty")
    return host


@pytest.mark.parametrize("part", SOUND, ids=str)
def test_a_sound_part_passes_everything(part: Part, host: PluginHost) -> None:
    found = report(Registration(part.spec, "faulty"), host)
    assert found.failures == []
    assert found.count("passed") == len(found.outcomes)


@pytest.mark.parametrize("part", FAULTS, ids=str)
def test_a_fault_is_found_by_the_check_that_is_meant_for_it(part: Part, host: PluginHost) -> None:
    found = report(Registration(part.spec, "faulty"), host, only=[part.check])
    failed = {outcome.check: outcome.sentence for outcome in found.outcomes if outcome.state == "failed"}
    assert part.check in failed, found.failures
    assert failed[part.check]


ONE = torch.ones(2, dtype=torch.float64)
NARROW = torch.tensor([1e-3, 1e3], dtype=torch.float64)
LOWER = torch.tensor([[1.0, 0, 0], [0.5, 0.6, 0], [0.3, -0.8, 0.3]], dtype=torch.float64)


def independent(p: Distribution) -> Distribution:
    return Independent(p, 1)


# What is smooth and what has a corner, with ends on both sides, on one or on none, at which it may be infinite, narrow
# and wide at once, without a mean, of numbers that depend on each other, of few numbers and of many.
KNOWN = {
    "laplace": independent(Laplace(ONE, NARROW)),
    "cauchy": independent(Cauchy(ONE, ONE)),
    "student_t": independent(StudentT(3 * ONE, ONE, NARROW)),
    "uniform": independent(Uniform(-ONE, ONE)),
    "beta": independent(Beta(0.3 * ONE, 3 * ONE)),
    "kumaraswamy": independent(Kumaraswamy(0.5 * ONE, 2 * ONE)),
    "log_normal": independent(LogNormal(ONE, ONE)),
    "gamma": independent(Gamma(0.7 * ONE, ONE)),
    "tanh": TransformedDistribution(independent(Normal(ONE, ONE)), [TanhTransform()]),
    "correlated": MultivariateNormal(torch.zeros(3).double(), scale_tril=LOWER),
    "many": independent(Laplace(torch.randn(40, generator=torch.Generator().manual_seed(0)).double(), 1.0)),
    "one_hot": OneHotCategorical(logits=torch.tensor([0.0, 1.0, -2.0]).double()),
}
UNTOLD = {
    "simplex": (Dirichlet(torch.ones(3).double()), "cannot change one by one"),
    "counts": (independent(Poisson(ONE)), "cannot tell of which values"),
    "many_that_depend": (MultivariateNormal(torch.zeros(8).double(), torch.eye(8).double() + 0.1), "too many"),
}


@pytest.mark.parametrize("name", KNOWN)
def test_a_distribution_of_any_support_is_one(name: str) -> None:
    torch.manual_seed(0)
    require_sum_of_one(KNOWN[name])
    require_own_draws(KNOWN[name])


class Off(Independent):
    """Its log density is nine tenths of what it should be."""

    def log_prob(self, value: Tensor) -> Tensor:
        return 0.9 * super().log_prob(value)


@pytest.mark.parametrize("name", KNOWN)
def test_one_that_is_none_is_seen(name: str) -> None:
    torch.manual_seed(0)
    with pytest.raises(Unfit, match="not 1"):
        require_sum_of_one(Off(KNOWN[name], 0, validate_args=False))


@pytest.mark.parametrize("name", UNTOLD)
def test_what_cannot_be_told_is_said(name: str) -> None:
    torch.manual_seed(0)
    p, words = UNTOLD[name]
    with pytest.raises(Unfit, match=words):
        require_sum_of_one(p)
