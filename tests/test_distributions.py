"""Properties of zoo_core.distributions with known answers."""

import copy
import io
import itertools
import math
import pickle
from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace

import mpmath
import numpy
import pytest
import scipy.integrate
import scipy.special
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Categorical,
    Distribution,
    Independent,
    Laplace,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    SigmoidTransform,
    TanhTransform,
    TransformedDistribution,
    kl_divergence,
)

from zoo_core.distributions import (
    CodeGrid,
    Dirac,
    DiscretizedLogisticMixture,
    LogitLaplace,
    has_closed_form_kl,
    kl,
    kl_per_dimension,
)
from zoo_core.errors import ConfigError

DTYPES = [torch.float32, torch.float64]
few = settings(max_examples=40, deadline=None, derandomize=True, database=None)


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def f64(values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def normal(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=dtype)


def dirac(dtype: torch.dtype) -> Dirac:
    return Dirac(normal(3, 2, dtype=dtype), 1)


def logit_laplace(dtype: torch.dtype) -> LogitLaplace:
    return LogitLaplace(normal(3, dtype=dtype), normal(3, dtype=dtype))


def discretized(dtype: torch.dtype) -> DiscretizedLogisticMixture:
    logits, mu, log_s = normal(3, 3, 4, 2, dtype=dtype)
    return DiscretizedLogisticMixture(logits, mu, log_s, levels=8, event_dim=1)


def code_grid(dtype: torch.dtype) -> CodeGrid:
    return CodeGrid(normal(3, 2, 2, 5, dtype=dtype))


EVERY = pytest.mark.parametrize("make", [dirac, logit_laplace, discretized, code_grid])
Make = Callable[[torch.dtype], Distribution]


def within_5_standard_errors(samples: Tensor, expected: Tensor | float) -> bool:
    """Of the mean over dimension 0. The tiny term is for samples without any spread."""
    error = samples.std(0) / math.sqrt(len(samples))
    return bool(((samples.mean(0) - expected).abs() <= 5 * error + 1e-12).all())


# Every distribution.


@EVERY
@pytest.mark.parametrize("dtype", DTYPES)
def test_shapes_and_dtypes(make: Make, dtype: torch.dtype) -> None:
    d = make(dtype)
    x = d.sample(torch.Size((4,)))
    assert x.shape == (4, *d.batch_shape, *d.event_shape)
    assert x.dtype == (torch.int64 if isinstance(d, CodeGrid) else dtype)
    assert not x.requires_grad
    assert d.log_prob(x).shape == (4, *d.batch_shape)
    assert d.log_prob(x[0]).dtype == dtype
    assert d.log_prob(x).isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("make", [dirac, logit_laplace, discretized])
def test_mean_has_the_shape_of_a_sample(make: Make, dtype: torch.dtype) -> None:
    d = make(dtype)
    assert d.mean.shape == d.sample().shape
    assert d.mean.dtype == dtype


@EVERY
def test_expand_repeats(make: Make) -> None:
    d = make(torch.float64)
    e = d.expand(torch.Size((5, 3)))
    assert type(e) is type(d)
    assert (e.batch_shape, e.event_shape) == ((5, 3), d.event_shape)
    x = e.sample()
    assert x.shape == (5, 3, *d.event_shape)
    assert torch.equal(e.log_prob(x), d.log_prob(x))
    assert torch.equal(d.expand(d.batch_shape).log_prob(x), d.log_prob(x))


@EVERY
@pytest.mark.parametrize("through", [lambda d: pickle.loads(pickle.dumps(d)), copy.deepcopy])
def test_copies_are_equal_and_apart(make: Make, through: Callable[[object], Distribution]) -> None:
    d = make(torch.float64)
    twin = through(d)
    x = d.sample(torch.Size((2,)))
    assert torch.equal(twin.log_prob(x), d.log_prob(x))
    assert torch.equal(twin.expand(torch.Size((4, 3))).log_prob(x[:1]), d.log_prob(x[:1]).expand(4, 3))
    for value in vars(d).values():
        if isinstance(value, Tensor):
            value.fill_(0)
    if isinstance(d, CodeGrid):
        d.logits.fill_(0)
    assert not torch.equal(twin.log_prob(x), d.log_prob(x))


@EVERY
def test_survives_torch_save(make: Make) -> None:
    d = make(torch.float64)
    buffer = io.BytesIO()
    torch.save(d, buffer)
    buffer.seek(0)
    x = d.sample()
    assert torch.equal(torch.load(buffer, weights_only=False).log_prob(x), d.log_prob(x))


@EVERY
def test_validates_only_when_asked(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Distribution, "_validate_args", True)
    d = make(torch.float64)
    nothing = torch.full_like(d.sample(), -1)
    if isinstance(d, Dirac):
        nothing = nothing * math.nan
    if not isinstance(d, CodeGrid):  # gather() itself refuses an index of -1
        assert d.log_prob(nothing).eq(-math.inf).all()
    checked = copy.deepcopy(d)
    checked._validate_args = True
    if isinstance(checked, CodeGrid):
        checked.base_dist._validate_args = True
    with pytest.raises(ValueError, match="support"):
        checked.log_prob(nothing)
    assert checked.expand(torch.Size((2, 3)))._validate_args is True
    assert d.expand(torch.Size((2, 3)))._validate_args is False


def test_parameters_are_validated_when_asked() -> None:
    nan = torch.tensor([math.nan])
    LogitLaplace(nan, nan)
    with pytest.raises(ValueError, match="mu"):
        LogitLaplace(nan, nan, validate_args=True)
    with pytest.raises(ValueError, match="value"):
        Dirac(nan, 0, validate_args=True)
    with pytest.raises(ValueError, match="logits"):
        CodeGrid(nan, 0, validate_args=True)
    with pytest.raises(ValueError, match="logits"):
        DiscretizedLogisticMixture(nan, nan, nan, validate_args=True)


@pytest.mark.parametrize("event_dim", [-1, 3])
def test_event_dim_out_of_range_is_refused(event_dim: int) -> None:
    x = torch.zeros(2, 3)
    for make in (
        lambda: Dirac(x, event_dim),
        lambda: CodeGrid(x, event_dim),
        lambda: DiscretizedLogisticMixture(x, x, x, event_dim=event_dim),
    ):
        with pytest.raises(ValueError, match="event_dim must be from 0 to"):
            make()


# Dirac.


@pytest.mark.parametrize("event_dim", [0, 1, 2])
def test_dirac_splits_batch_and_event(event_dim: int) -> None:
    d = Dirac(torch.zeros(3, 2), event_dim)
    assert d.batch_shape == (3, 2)[: 2 - event_dim]
    assert d.event_shape == (3, 2)[2 - event_dim :]
    assert d.log_prob(d.value).shape == d.entropy().shape == d.batch_shape


def test_dirac_is_one_point() -> None:
    d = Dirac(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), 1)
    one_element_off = torch.tensor([[1.0, 2.0], [3.0, 5.0]])
    assert d.log_prob(one_element_off).tolist() == [0, -math.inf]
    assert torch.equal(d.mean, d.value)
    assert torch.equal(d.mode, d.value)
    assert torch.equal(d.sample(torch.Size((2,)))[1], d.value)
    assert d.entropy().tolist() == [0, 0]
    assert d.variance.eq(0).all()


def test_dirac_passes_the_gradient_to_its_value() -> None:
    mu = torch.zeros(3, requires_grad=True)
    Dirac(mu, 1).rsample(torch.Size((5,))).mean(0).sum().backward()
    assert torch.allclose(mu.grad, torch.ones(3))
    assert not Dirac(mu, 1).sample().requires_grad


def test_dirac_of_codes_has_floating_log_prob() -> None:
    d = Dirac(torch.tensor([3, 4]), 0)
    assert d.log_prob(torch.tensor([3, 5])).tolist() == [0, -math.inf]
    assert d.sample().dtype == torch.int64


# LogitLaplace.


def on_a_fine_grid(mu: float, log_b: float) -> tuple[Tensor, Tensor, LogitLaplace]:
    """y = logit x, fine around the kink of the density, and x."""
    t = torch.linspace(-1, 1, 20001, dtype=torch.float64)
    y = mu + math.exp(log_b) * 32 * t
    return y, y.sigmoid(), LogitLaplace(f64(mu), f64(log_b))


@few
@given(st.floats(-3, 3), st.floats(-9, 0))
def test_logit_laplace_integrates_to_1(mu: float, log_b: float) -> None:
    y, x, d = on_a_fine_grid(mu, log_b)
    # dx = x (1-x) dy, and 1-x from y itself, where x has rounded.
    density = d.log_prob(x).exp() * x * (-y).sigmoid()
    assert torch.trapezoid(density, y).item() == pytest.approx(1, abs=1e-5)


def test_logit_laplace_integrates_to_1_in_x() -> None:
    d = LogitLaplace(f64(0.7), f64(-0.5))
    f = lambda x: d.log_prob(f64(x)).exp().item()  # noqa: E731
    median = d.median.item()
    total = sum(scipy.integrate.quad(f, *ends)[0] for ends in ((0, median), (median, 1)))
    assert total == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(("mu", "log_b"), [(0.0, 0.0), (2.0, -3.0), (-1.0, 0.5)])
def test_logit_laplace_samples_follow_log_prob(mu: float, log_b: float) -> None:
    y, x, d = on_a_fine_grid(mu, log_b)
    cdf = torch.cumulative_trapezoid(d.log_prob(x).exp() * x * (-y).sigmoid(), y)
    samples = d.sample(torch.Size((20000,))).numpy()
    test = scipy.stats.kstest(samples, lambda at: numpy.interp(at, x[1:].numpy(), cdf.numpy()))
    assert test.pvalue > 1e-3


def exact_logit_laplace_mean(mu: float, log_b: float) -> float:
    """int_0^inf e^-t / 2 [sigmoid(mu + b t) + sigmoid(mu - b t)] dt, split where it is steep."""
    b = math.exp(log_b)
    sigmoid = scipy.special.expit
    f = lambda t: math.exp(-t) / 2 * (sigmoid(mu + b * t) + sigmoid(mu - b * t))  # noqa: E731
    steep = [(abs(mu) + d) / b for d in (-40, -10, -3, 0, 3, 10, 40)]
    cuts = sorted({0.0, 1.0, 4.0, 12.0, 50.0, *(t for t in steep if 0 < t < 50)})
    return sum(scipy.integrate.quad(f, *ends, epsabs=1e-13, epsrel=1e-12)[0] for ends in itertools.pairwise(cuts))


@settings(few, max_examples=150)
@given(st.floats(-60, 60), st.floats(-14, 14))
def test_logit_laplace_mean_is_exact(mu: float, log_b: float) -> None:
    d = LogitLaplace(f64(mu), f64(log_b))
    expected = exact_logit_laplace_mean(mu, log_b)
    assert d.mean.item() == pytest.approx(expected, abs=1e-9)
    single = LogitLaplace(torch.tensor(mu), torch.tensor(log_b))
    assert single.mean.item() == pytest.approx(expected, abs=1e-5)


def test_logit_laplace_mean_and_median_are_what_they_say() -> None:
    d = LogitLaplace(f64([-2.0, 0.0, 1.0, 4.0]), f64(0.5))
    samples = d.sample(torch.Size((200_000,)))
    assert within_5_standard_errors(samples, d.mean)
    assert not within_5_standard_errors(samples, d.median)
    assert within_5_standard_errors((samples < d.median).double(), 0.5)
    assert torch.equal(d.median, d.mu.sigmoid())
    assert d.mean[1].item() == pytest.approx(0.5, abs=1e-15)


def test_logit_laplace_rsample_is_a_location_and_a_scale() -> None:
    mu = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    log_b = torch.tensor(-1.0, dtype=torch.float64, requires_grad=True)
    y = LogitLaplace(mu, log_b).rsample(torch.Size((1000,))).logit()
    d_mu, d_log_b = torch.autograd.grad(y.mean(), [mu, log_b])
    assert d_mu.item() == pytest.approx(1)
    assert d_log_b.item() == pytest.approx((y - mu).mean().item())


@pytest.mark.parametrize("dtype", DTYPES)
def test_logit_laplace_is_finite_at_extremes(dtype: torch.dtype) -> None:
    extremes = [
        torch.tensor(v, dtype=dtype) for v in itertools.product([-1e4, -50, 0, 50, 1e4], [-1e3, -30, -5, 0, 5, 30, 1e3])
    ]
    mu, log_b = torch.stack(extremes).unbind(-1)
    mu.requires_grad_()
    log_b.requires_grad_()
    d = LogitLaplace(mu, log_b)
    tiny = torch.finfo(dtype).tiny
    for x in (0.0, tiny, 1e-6, 0.5, 1 - 1e-6, 1.0):
        log_f = d.log_prob(torch.tensor(x, dtype=dtype))
        assert log_f.isfinite().all()
        for gradient in torch.autograd.grad(log_f.sum(), [mu, log_b], retain_graph=True):
            assert gradient.isfinite().all()
    for quantity in (d.mean, d.rsample(torch.Size((50,)))):
        assert ((quantity >= 0) & (quantity <= 1)).all()
        for gradient in torch.autograd.grad(quantity.sum(), [mu, log_b], retain_graph=True):
            assert gradient.isfinite().all()
    x = d.sample(torch.Size((1000,)))
    assert ((x > 0) & (x < 1)).all()
    assert d.log_prob(torch.tensor(-0.1, dtype=dtype)).eq(-math.inf).all()
    assert d.log_prob(torch.tensor(1.1, dtype=dtype)).eq(-math.inf).all()


# DiscretizedLogisticMixture.


def one_mixture(
    logits: list[float], mu: list[float], log_s: list[float], levels: int, dtype: torch.dtype
) -> DiscretizedLogisticMixture:
    parameters = (torch.tensor(p, dtype=dtype) for p in (logits, mu, log_s))
    return DiscretizedLogisticMixture(*parameters, levels=levels)


def grid(levels: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.arange(levels, dtype=dtype) / (levels - 1)


@st.composite
def mixtures(draw: st.DrawFn) -> tuple[list[float], list[float], list[float]]:
    K = draw(st.integers(1, 3))
    location = st.one_of(st.floats(-1, 2), st.floats(-1e6, 1e6))
    scale = st.one_of(st.floats(-9, 3), st.floats(-1e3, 1e3))
    return tuple(draw(st.lists(s, min_size=K, max_size=K)) for s in (st.floats(-50, 50), location, scale))


@settings(few, max_examples=200)
@given(mixtures(), st.sampled_from([2, 3, 16, 256]))
def test_discretized_logistic_sums_to_1(parameters: tuple[list[float], list[float], list[float]], levels: int) -> None:
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-9)):
        d = one_mixture(*parameters, levels, dtype)
        log_P = d.log_prob(grid(levels, dtype))
        assert not log_P.isnan().any()
        assert log_P.double().exp().sum().item() == pytest.approx(1, abs=tolerance)


@settings(few, max_examples=100)
@given(mixtures(), st.sampled_from([2, 3, 16, 256]))
def test_discretized_logistic_mean_is_the_sum_over_levels(
    parameters: tuple[list[float], list[float], list[float]], levels: int
) -> None:
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-9)):
        d = one_mixture(*parameters, levels, dtype)
        x = grid(levels, dtype)
        assert d.mean.item() == pytest.approx((d.log_prob(x).exp() * x).sum().item(), abs=tolerance)


def exact_log_bin(i: int, levels: int, mu: float, s: float) -> float:
    """log of the difference of two cdfs, in 400 digits."""
    with mpmath.workdps(400):
        cdf = lambda i: 1 / (1 + mpmath.exp((mu - (i + 0.5) / mpmath.mpf(levels - 1)) / s))  # noqa: E731
        upper = cdf(i) if i < levels - 1 else 1
        return float(mpmath.log(upper - (cdf(i - 1) if i > 0 else 0)))


@pytest.mark.parametrize("i", [0, 1, 127, 254, 255])
@pytest.mark.parametrize(("mu", "log_s"), [(0.5, -3.0), (0.0, -5.0), (1.3, -6.0), (-2.0, 2.0), (0.2, 9.0)])
def test_tiny_bins_are_exact(i: int, mu: float, log_s: float) -> None:
    d = one_mixture([0.0], [mu], [log_s], 256, torch.float64)
    log_P = d.log_prob(torch.tensor(i / 255, dtype=torch.float64)).item()
    assert log_P == pytest.approx(exact_log_bin(i, 256, mu, math.exp(log_s)), rel=1e-9)


def test_discretized_logistic_samples_follow_log_prob() -> None:
    d = one_mixture([0.0, 1.0], [0.1, 0.9], [-2.0, -1.0], 8, torch.float64)
    x = d.sample(torch.Size((50_000,)))
    i = (x * 7).round().long()
    assert torch.equal(x, grid(8)[i])
    expected = d.log_prob(grid(8)).exp() * len(x)
    test = scipy.stats.chisquare(i.bincount(minlength=8).numpy(), expected.numpy())
    assert test.pvalue > 1e-3


def test_discretized_logistic_mean_is_the_mean_of_samples() -> None:
    d = discretized(torch.float64)
    assert within_5_standard_errors(d.sample(torch.Size((100_000,))), d.mean)


def test_discretized_logistic_event_is_a_sum_over_elements() -> None:
    logits, mu, log_s = normal(3, 2, 5, 3, 4)  # a batch of 2, 5 components, pictures of 3 x 4
    d = DiscretizedLogisticMixture(logits, mu, log_s, event_dim=2)
    assert (d.batch_shape, d.event_shape) == ((2,), (3, 4))
    x = d.sample(torch.Size((6,)))
    by_hand = sum(
        DiscretizedLogisticMixture(logits[:, :, h, w], mu[:, :, h, w], log_s[:, :, h, w]).log_prob(x[..., h, w])
        for h in range(3)
        for w in range(4)
    )
    assert torch.allclose(d.log_prob(x), by_hand)


def test_discretized_logistic_weights_may_be_shared_by_the_event() -> None:
    logits, (mu, log_s) = normal(2, 5, 1), normal(2, 2, 5, 3)
    shared = DiscretizedLogisticMixture(logits, mu, log_s, event_dim=1)
    repeated = DiscretizedLogisticMixture(logits.expand(2, 5, 3), mu, log_s, event_dim=1)
    x = shared.sample()
    assert torch.equal(shared.log_prob(x), repeated.log_prob(x))


def test_discretized_logistic_off_the_grid() -> None:
    d = one_mixture([0.0], [0.4], [-1.0], 11, torch.float64)
    on, near = d.log_prob(f64([0.3, 0.34]))
    assert on == near
    assert d.log_prob(f64([-0.2, 1.2])).tolist() == [-math.inf, -math.inf]
    assert d.log_prob(f64([-0.01, 1.01])).isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("levels", [2, 8, 256])
def test_discretized_logistic_has_probabilities_of_levels_and_of_nothing_else(levels: int, dtype: torch.dtype) -> None:
    d = one_mixture([0.0], [0.5], [0.0], levels, dtype)
    assert d.support.is_discrete
    assert d.support.check(grid(levels, dtype)).all()
    assert d.support.check(d.sample(torch.Size((50,)))).all()
    between = (grid(levels, dtype)[:-1] + 0.25 / (levels - 1), torch.tensor([-1.0, 1.0 + 1 / (levels - 1), math.nan]))
    assert not any(d.support.check(x).any() for x in between)
    checked = DiscretizedLogisticMixture(d.logits, d.mu, d.log_s, levels, validate_args=True)
    assert torch.equal(checked.log_prob(grid(levels, dtype)), d.log_prob(grid(levels, dtype)))
    with pytest.raises(ValueError, match="support"):
        checked.log_prob(between[0])


@pytest.mark.parametrize("dtype", DTYPES)
def test_discretized_logistic_gradients_are_finite_at_extremes(dtype: torch.dtype) -> None:
    corners = itertools.product([-1e3, 0, 1e3], [-1e5, 0, 0.5, 1, 1e5], [-1e3, -30, -7, 0, 30, 1e3])
    parameters = torch.tensor(list(corners), dtype=dtype).T.unsqueeze(1).repeat(1, 2, 1)
    parameters[:, 1] = torch.tensor([[0.0], [0.5], [0.0]], dtype=dtype)  # (3, K=2, corners)
    parameters.requires_grad_()
    d = DiscretizedLogisticMixture(*parameters, event_dim=1)
    for x in (0.0, 1 / 255, 128 / 255, 1.0):
        log_P = d.log_prob(torch.full(d.event_shape, x, dtype=dtype))
        assert log_P.isfinite()
        (gradient,) = torch.autograd.grad(log_P, parameters, retain_graph=True)
        assert gradient.isfinite().all()
        assert gradient.norm().isfinite()
    (gradient,) = torch.autograd.grad(d.mean.sum(), parameters)
    assert gradient.isfinite().all()
    x = d.sample(torch.Size((20,)))
    assert ((x >= 0) & (x <= 1)).all()


def test_discretized_logistic_ignores_a_component_of_no_weight() -> None:
    logits = torch.tensor([0.0, -math.inf], requires_grad=True)
    d = DiscretizedLogisticMixture(logits, torch.tensor([0.5, 0.1]), torch.zeros(2))
    alone = DiscretizedLogisticMixture(torch.zeros(1), torch.tensor([0.5]), torch.zeros(1))
    x = torch.tensor(0.2)
    d.log_prob(x).backward()
    assert d.log_prob(x).item() == pytest.approx(alone.log_prob(x).item())
    assert logits.grad.isfinite().all()


def test_one_level_is_refused() -> None:
    with pytest.raises(ValueError, match="levels must be at least 2, got 1"):
        one_mixture([0.0], [0.0], [0.0], 1, torch.float32)


# CodeGrid.


def every_grid(*shape: int, codes: int) -> Tensor:
    """All codes ** positions grids, as the leading dimension."""
    return torch.tensor(list(itertools.product(range(codes), repeat=math.prod(shape)))).reshape(-1, *shape)


def test_code_grid_sums_to_1_over_all_grids() -> None:
    d = CodeGrid(normal(2, 2, 3))
    assert d.log_prob(every_grid(2, 2, codes=3)).exp().sum().item() == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("event_dim", [0, 1, 2, 3])
def test_code_grid_splits_batch_and_event(event_dim: int) -> None:
    d = CodeGrid(torch.zeros(4, 3, 2, 5), event_dim)
    assert d.batch_shape == (4, 3, 2)[: 3 - event_dim]
    assert d.event_shape == (4, 3, 2)[3 - event_dim :]


def test_code_grid_samples_follow_log_prob() -> None:
    d = CodeGrid(normal(2, 3), 1)
    k = d.sample(torch.Size((50_000,)))
    assert k.dtype == torch.int64
    expected = d.log_prob(every_grid(2, codes=3)).exp() * len(k)
    counts = (k[:, 0] * 3 + k[:, 1]).bincount(minlength=9)
    assert scipy.stats.chisquare(counts.numpy(), expected.numpy()).pvalue > 1e-3


def test_code_grid_entropy_and_kl_are_sums_over_all_grids() -> None:
    q, p = CodeGrid(normal(2, 2, 3)), CodeGrid(normal(2, 2, 3))
    k = every_grid(2, 2, codes=3)
    log_q, log_p = q.log_prob(k), p.log_prob(k)
    assert q.entropy().item() == pytest.approx(-(log_q.exp() * log_q).sum().item())
    assert kl(q, p).item() == pytest.approx((log_q.exp() * (log_q - log_p)).sum().item())
    assert kl_divergence(q, p).item() == pytest.approx(kl(q, p).item())


def test_code_grid_kl_to_uniform_is_missing_entropy() -> None:
    q = code_grid(torch.float64)
    uniform = CodeGrid(torch.zeros(2, 2, 5, dtype=torch.float64))
    assert torch.allclose(kl(q, uniform), 4 * math.log(5) - q.entropy())


def test_code_grid_of_one_code_per_position() -> None:
    logits = torch.tensor([[0.0, -math.inf, -math.inf]] * 4, requires_grad=True)
    q, uniform = CodeGrid(logits, 1), CodeGrid(torch.zeros(4, 3), 1)
    assert kl(q, uniform).item() == pytest.approx(4 * math.log(3))
    assert q.entropy().item() == 0
    assert q.sample().eq(0).all()
    assert q.mode.eq(0).all()
    for quantity in (kl(q, uniform), kl(q, q), q.entropy()):
        (gradient,) = torch.autograd.grad(quantity, logits, retain_graph=True)
        assert gradient.isfinite().all()
    assert kl(uniform, q).item() == math.inf


def test_code_grid_kl_does_not_underflow() -> None:
    far = CodeGrid(torch.tensor([[0.0, -200.0]]), 1)
    near = CodeGrid(torch.tensor([[0.0, 0.0]]), 1)
    assert kl(near, far).item() == pytest.approx(100 - math.log(2))


def test_codes_have_no_mean() -> None:
    with pytest.raises(NotImplementedError, match="use mode"):
        _ = code_grid(torch.float32).mean
    with pytest.raises(NotImplementedError, match="entropy"):
        _ = code_grid(torch.float32).variance


# kl().


def gaussian(mu: Tensor, sigma: Tensor) -> Independent:
    return Independent(Normal(mu, sigma, validate_args=False), 1, validate_args=False)


def standard(d: int) -> Independent:
    return gaussian(torch.zeros(d, dtype=torch.float64), torch.ones(d, dtype=torch.float64))


def gaussians() -> tuple[Distribution, Distribution]:
    return gaussian(normal(3, 2), normal(3, 2).exp()), standard(2)


def full_gaussians() -> tuple[Distribution, Distribution]:
    scale = torch.tensor([[1.0, 0.0], [0.5, 2.0]], dtype=torch.float64)
    return MultivariateNormal(normal(3, 2), scale_tril=scale), MultivariateNormal(
        torch.zeros(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64)
    )


def laplaces() -> tuple[Distribution, Distribution]:
    q, p = Laplace(normal(3, 2), normal(3, 2).exp()), Laplace(normal(2), normal(2).exp())
    return Independent(q, 1), Independent(p, 1)


def bits() -> tuple[Distribution, Distribution]:
    return (
        Independent(Bernoulli(logits=normal(3, 2)), 1),
        Independent(Bernoulli(logits=normal(2)), 1),
    )


def codes() -> tuple[Distribution, Distribution]:
    return CodeGrid(normal(3, 2, 2, 5)), CodeGrid(normal(2, 2, 5))


def a_mixture() -> MixtureSameFamily:
    return MixtureSameFamily(
        Categorical(logits=torch.zeros(4, dtype=torch.float64)),
        gaussian(normal(4, 2), torch.ones(4, 2, dtype=torch.float64)),
    )


CLOSED = pytest.mark.parametrize("pair", [gaussians, full_gaussians, laplaces, bits, codes])
Pair = Callable[[], tuple[Distribution, Distribution]]


@CLOSED
def test_closed_form_is_the_mean_of_the_estimate(pair: Pair) -> None:
    q, p = pair()
    z = q.sample(torch.Size((100_000,)))
    assert has_closed_form_kl(q, p)
    assert kl(q, p).shape == (3,)
    assert within_5_standard_errors(q.log_prob(z) - p.log_prob(z), kl(q, p))
    assert torch.equal(kl(q, p, z[0]), kl(q, p))


@CLOSED
def test_kl_is_zero_for_equals_and_positive_otherwise(pair: Pair) -> None:
    q, p = pair()
    assert torch.allclose(kl(q, q), torch.zeros(3, dtype=torch.float64), atol=1e-12)
    assert (kl(q, p) > 1e-6).all()


@few
@given(*[st.floats(-5, 5)] * 4)
def test_kl_of_gaussians_is_positive_unless_equal(mu: float, log_sigma: float, m: float, log_s: float) -> None:
    vector = lambda v: torch.tensor([v], dtype=torch.float64)  # noqa: E731
    q, p = gaussian(vector(mu), vector(log_sigma).exp()), gaussian(vector(m), vector(log_s).exp())
    assert kl(q, p).item() >= -1e-9
    if max(abs(mu - m), abs(log_sigma - log_s)) > 1e-2:
        assert kl(q, p).item() > 1e-10
    assert kl(q, q).item() == pytest.approx(0, abs=1e-12)


def test_kl_of_a_shifted_gaussian_is_half_the_square() -> None:
    ones = torch.ones(7, 3, dtype=torch.float64)
    q = gaussian(2 * ones, ones)
    assert torch.allclose(kl(q, standard(3)), torch.full((7,), 3 * 2.0**2 / 2, dtype=torch.float64))


@pytest.mark.parametrize(
    ("q_batch", "p_batch", "expected"),
    [
        ((), (), ()),
        ((5,), (), (5,)),
        ((), (5,), (5,)),
        ((4, 5), (5,), (4, 5)),
        ((4, 1), (5,), (4, 5)),
    ],
)
def test_kl_broadcasts_batches(q_batch: tuple[int, ...], p_batch: tuple[int, ...], expected: tuple[int, ...]) -> None:
    def bernoulli(*batch: int) -> Independent:
        return Independent(Bernoulli(logits=normal(*batch, 3)), 1)

    for q, p in (
        (gaussian(normal(*q_batch, 3), normal(*q_batch, 3).exp()), standard(3).expand(p_batch)),
        (bernoulli(*q_batch), bernoulli(*p_batch)),
        (CodeGrid(normal(*q_batch, 3, 2), 1), CodeGrid(normal(*p_batch, 3, 2), 1)),
    ):
        assert kl(q, p).shape == expected
        assert kl_per_dimension(q, p).shape == (*expected, 3)
        full = kl(q.expand(expected), p.expand(expected))
        assert torch.allclose(kl(q, p), full)


def test_kl_looks_through_nested_independents() -> None:
    mu, sigma = normal(4, 3, 2), normal(4, 3, 2).exp()
    flat = Independent(Normal(mu, sigma), 2)
    nested = Independent(Independent(Normal(mu, sigma), 1), 1)
    p = Independent(Independent(Normal(mu[0] * 0, sigma[0] * 0 + 1), 1), 1)
    assert has_closed_form_kl(nested, p)
    assert torch.equal(kl(nested, p), kl(flat, p))
    assert kl(flat, p).shape == (4,)


def test_kl_to_a_mixture_is_estimated_at_z() -> None:
    (q, _), p = gaussians(), a_mixture()
    assert not has_closed_form_kl(q, p)
    z = q.sample(torch.Size((20_000,)))
    assert torch.equal(kl(q, p, z), q.log_prob(z) - p.log_prob(z))
    assert kl(q, p, z[0]).shape == (3,)
    with pytest.raises(ValueError, match=r"KL\(Normal \|\| MixtureSameFamily\).*pass z"):
        kl(q, p)


def test_a_registered_pair_that_declines_is_estimated() -> None:
    q = TransformedDistribution(standard(2), [SigmoidTransform()])
    p = TransformedDistribution(standard(2), [TanhTransform()])
    assert has_closed_form_kl(q, q)
    assert not has_closed_form_kl(q, p)
    z = q.sample()
    assert torch.equal(kl(q, p, z), q.log_prob(z) - p.log_prob(z))


def test_factors_of_different_size_are_estimated() -> None:
    q, p = (
        standard(2).expand(torch.Size((3,))),
        MultivariateNormal(f64([[0.0] * 2] * 3), f64([[1.0, 0.0], [0.0, 1.0]])),
    )
    assert not has_closed_form_kl(q, p)
    assert torch.allclose(kl(q, p, q.sample()), f64([0.0] * 3))


def test_kl_gradient_reaches_q_and_p() -> None:
    mu, m = normal(3, 2).requires_grad_(), normal(2).requires_grad_()
    one = torch.ones(2, dtype=torch.float64)
    kl(gaussian(mu, one), gaussian(m, one)).sum().backward()
    assert torch.allclose(mu.grad, mu - m)
    assert torch.allclose(m.grad, -(mu - m).sum(0))


@pytest.mark.parametrize("q", [Dirac(torch.zeros(2, 2), 1), Independent(Dirac(torch.zeros(2, 2), 0), 1)])
def test_kl_of_a_dirac_names_the_losses_that_fit(q: Distribution) -> None:
    assert not has_closed_form_kl(q, standard(2))
    for divergence in (kl, kl_per_dimension):
        with pytest.raises(ValueError, match="loss without a KL term"):
            divergence(q, standard(2))
    with pytest.raises(ValueError, match="loss without a KL term"):
        kl(q, standard(2), normal(2, 2))


# A density that says of what it is one, as far as a KL asks for it.
OF_AREA = SimpleNamespace(measure="area on a sphere", event_shape=torch.Size((2,)))


@pytest.mark.parametrize(
    ("q", "p"),
    [
        (CodeGrid(torch.zeros(1, 2, 3), 1), standard(2)),
        (standard(2), Independent(Bernoulli(f64([0.5, 0.5])), 1)),
        (standard(2), OF_AREA),
        (OF_AREA, standard(2)),
    ],
)
def test_densities_of_different_things_have_no_kl(q: Distribution, p: Distribution) -> None:
    for divergence in (partial(kl, z=torch.zeros(2)), kl_per_dimension):
        with pytest.raises(ConfigError, match=r"the one is a density of .*, the other of"):
            divergence(q, p)


def test_kl_refuses_different_event_shapes() -> None:
    q = standard(3)
    for p in (standard(2), standard(1), Normal(f64([0.0] * 3), f64([1.0] * 3))):
        assert not has_closed_form_kl(q, p)
        for divergence in (kl, kl_per_dimension):
            with pytest.raises(ValueError, match=r"event shape \(3,\) against"):
                divergence(q, p)


@pytest.mark.parametrize("pair", [gaussians, laplaces, bits, codes])
def test_kl_per_dimension_sums_to_kl(pair: Pair) -> None:
    q, p = pair()
    parts = kl_per_dimension(q, p)
    assert parts.shape == (3, *q.event_shape)
    assert (parts >= 0).all()
    assert torch.allclose(parts.flatten(1).sum(1), kl(q, p))


def test_kl_per_dimension_names_the_dimension() -> None:
    q = gaussian(f64([0.0, 2.0, 0.0]), f64([1.0] * 3))
    assert kl_per_dimension(q, standard(3)).tolist() == [0, 2, 0]


def test_kl_per_dimension_refuses_what_does_not_split() -> None:
    for q, p in (full_gaussians(), (standard(2), a_mixture())):
        with pytest.raises(ValueError, match="does not split into dimensions"):
            kl_per_dimension(q, p)


def test_kl_works_in_float32() -> None:
    q = gaussian(torch.ones(2, 3), torch.ones(2, 3))
    p = gaussian(torch.zeros(3), torch.ones(3))
    assert kl(q, p).dtype == torch.float32
    assert kl(CodeGrid(torch.zeros(2, 2, 3)), CodeGrid(torch.ones(2, 2, 3))).dtype == torch.float32
