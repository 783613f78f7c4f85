"""Every registered likelihood is normalised over its support; each one's formula, against an exact one."""

import itertools
import math
from collections.abc import Iterator
from typing import Any

import mpmath
import pytest
import scipy.integrate
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Bernoulli, Normal
from torch.distributions import ContinuousBernoulli as TorchContinuousBernoulli
from zoo_nets.continuous_bernoulli import NEAR_0, ContinuousBernoulli
from zoo_nets.levels import CategoricalLevels, Levels
from zoo_nets.likelihoods import CategoricalLikelihood, ContinuousBernoulliLikelihood, PixelGaussianLikelihood
from zoo_nets.nll import NLL

from tests.registered import by_name, plainest, registrations, small
from zoo_core import ConfigError, build
from zoo_core.host import Registration

DTYPES = [torch.float32, torch.float64]
ALL_LEVELS = torch.arange(256) / 255
few = settings(max_examples=100, deadline=None, derandomize=True, database=None)


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def f64(value: Any) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


# every likelihood


def one_pixel(config: dict[str, Any]) -> Any:
    """p(x) over one value, from features at which scales are below 1."""
    likelihood = build(config, "likelihood").double()
    return likelihood(-0.2 - 0.3 * torch.rand(likelihood.channels(1), dtype=torch.float64), 1)


@pytest.mark.parametrize("config_of", [plainest, small])
@pytest.mark.parametrize("registration", registrations("likelihood"), ids=by_name)
def test_a_likelihood_is_normalised_over_its_support(registration: Registration, config_of: Any) -> None:
    p = one_pixel(config_of(registration))
    if p.support.is_discrete:
        x, width = ALL_LEVELS.double().unsqueeze(1), 1.0
    else:
        # Midpoints of intervals, with the ends of [0, 1] between two of them.
        n, reach = 1_600_000, 40.0
        width = 2 * reach / n
        x = (-reach + (torch.arange(n, dtype=torch.float64) + 0.5) * width).unsqueeze(1)
    x = x[p.support.check(x)]
    total = p.log_prob(x).exp().sum().item() * width
    assert total == pytest.approx(1, abs=1e-12 if p.support.is_discrete else 1e-4)


@pytest.mark.parametrize("registration", registrations("likelihood"), ids=by_name)
def test_samples_of_a_likelihood_lie_in_its_support(registration: Registration) -> None:
    likelihood = build(small(registration))
    for dtype in DTYPES:
        p = likelihood.to(dtype)(2 * torch.randn(likelihood.channels(3), 4, 4).to(dtype), 3)
        x = p.sample((50,))
        assert x.dtype == dtype
        assert not x.requires_grad
        assert p.support.check(x).all()
        assert p.log_prob(x).isfinite().all()


# the continuous Bernoulli


def exact_log_p(l: float, x: float) -> Any:  # noqa: E741
    """log of l e^(l x) / (e^l - 1), in 60 digits."""
    with mpmath.workdps(60):
        l = mpmath.mpf(l)  # noqa: E741
        return mpmath.mpf(0) if l == 0 else l * x + mpmath.log(l / mpmath.expm1(l))


def exact_slope(l: float, x: float) -> float:  # noqa: E741
    """Its derivative by l, x - E[x] = x - 1 / (1 - e^-l) + 1 / l."""
    with mpmath.workdps(60):
        l = mpmath.mpf(l)  # noqa: E741
        return float(x - mpmath.mpf(1) / 2 if l == 0 else x + 1 / mpmath.expm1(-l) + 1 / l)


LOGITS = [0.0, 1e-12, 1e-5, 1e-3, 0.004, 0.05, NEAR_0 * 0.999, NEAR_0, 0.2, 1.0, 7.0, 15.0, 17.0, 90.0, 1e4]
every_logit = pytest.mark.parametrize("logit", [s * l for l in LOGITS for s in (1, -1)])  # noqa: E741


@every_logit
@pytest.mark.parametrize(("dtype", "digits"), [(torch.float32, 1e-5), (torch.float64, 1e-13)])
def test_a_continuous_bernoulli_has_its_digits_at_every_logit(logit: float, dtype: torch.dtype, digits: float) -> None:
    l = torch.tensor(logit, dtype=dtype, requires_grad=True)  # noqa: E741
    p, value = ContinuousBernoulli(l), l.item()
    for x in (0.0, 0.25, 0.5, 1.0):
        log_p = p.log_prob(torch.tensor(x, dtype=dtype))
        (slope,) = torch.autograd.grad(log_p, l, retain_graph=True)
        assert log_p.item() == pytest.approx(float(exact_log_p(value, x)), rel=digits, abs=digits)
        assert slope.item() == pytest.approx(exact_slope(value, x), abs=digits)
    assert p.mean.item() == pytest.approx(-exact_slope(value, 0), abs=digits)


def test_the_normaliser_of_a_continuous_bernoulli_is_the_papers() -> None:
    """C(lambda) = 2 artanh(1 - 2 lambda) / (1 - 2 lambda), times the Bernoulli's formula."""
    l, x = 3 * normal(200), torch.rand(200, dtype=torch.float64)  # noqa: E741
    one_2_lambda = 1 - 2 * l.sigmoid()
    log_C = (2 * one_2_lambda.atanh() / one_2_lambda).log()
    by_hand = Bernoulli(logits=l, validate_args=False).log_prob(x) + log_C
    assert torch.allclose(ContinuousBernoulli(l).log_prob(x), by_hand)
    torchs = TorchContinuousBernoulli(logits=l)
    # Its series around 1/2 is cut after two terms.
    assert torch.allclose(ContinuousBernoulli(l).log_prob(x), torchs.log_prob(x), atol=1e-9)
    assert torch.allclose(ContinuousBernoulli(l).mean, torchs.mean, atol=1e-9)


@pytest.mark.parametrize("logit", [-300.0, -3.0, -0.09, 0.0, 0.11, 20.0, 500.0])
def test_a_continuous_bernoulli_integrates_to_1(logit: float) -> None:
    p = ContinuousBernoulli(f64(logit))
    density = lambda x: p.log_prob(f64(x)).exp().item()  # noqa: E731
    near_the_end = [1 / abs(logit), 1 - 1 / abs(logit)] if abs(logit) > 2 else None
    total, _ = scipy.integrate.quad(density, 0, 1, points=near_the_end, epsabs=1e-11)
    mean, _ = scipy.integrate.quad(lambda x: x * density(x), 0, 1, points=near_the_end, epsabs=1e-11)
    assert total == pytest.approx(1, abs=1e-9)
    assert mean == pytest.approx(p.mean.item(), abs=1e-9)


@pytest.mark.parametrize("logit", [-1e4, -40.0, -1.0, -1e-3, 0.0, 1e-9, 0.05, 2.0, 40.0, 1e4])
@pytest.mark.parametrize("dtype", DTYPES)
def test_samples_of_a_continuous_bernoulli_follow_it(logit: float, dtype: torch.dtype) -> None:
    x = ContinuousBernoulli(torch.tensor(logit, dtype=dtype)).sample(torch.Size((5000,))).double()
    assert ((x >= 0) & (x <= 1)).all()
    # (e^(l x) - 1) / (e^l - 1) without overflow; the other end follows by symmetry.
    steep, d = -abs(logit) or -1e-15, (1 - x if logit > 0 else x).numpy()
    # So near to 1, float32 has few values left: 1 - x is a multiple of 2^-24.
    if dtype == torch.float64 or logit < 1e3:
        test = scipy.stats.kstest(d, lambda at: scipy.special.expm1(steep * at) / math.expm1(steep))
        assert test.pvalue > 1e-3


@few
@given(st.floats(-50, 50), st.floats(0, 1))
def test_black_and_white_are_alike(logit: float, x: float) -> None:
    p, mirrored = ContinuousBernoulli(f64(logit)), ContinuousBernoulli(f64(-logit))
    assert p.log_prob(f64(x)).item() == pytest.approx(mirrored.log_prob(1 - f64(x)).item(), abs=1e-9)
    assert p.mean.item() == pytest.approx(1 - mirrored.mean.item(), abs=1e-12)


def test_the_feature_of_a_continuous_bernoulli_is_its_logit() -> None:
    h = normal(4, 2, 3, 3)
    p = ContinuousBernoulliLikelihood()(h, 3)
    x = torch.rand(2, 3, 3, dtype=torch.float64)
    one_by_one = sum(ContinuousBernoulli(h[:, c, i, j]).log_prob(x[c, i, j]) for c, i, j in INDICES)
    assert torch.allclose(p.log_prob(x), one_by_one)
    assert ContinuousBernoulliLikelihood().channels(2) == 2


INDICES = list(itertools.product(range(2), range(3), range(3)))


# the Gaussian with a sigma for each pixel


def test_a_pixels_gaussian_is_the_formula() -> None:
    """h = (mu, log sigma), the two halves of the channels."""
    h, x = normal(4, 4, 3, 3), normal(2, 3, 3)
    p = PixelGaussianLikelihood()(h, 3)
    mu, sigma = h[:, :2], h[:, 2:].exp()
    by_hand = (-0.5 * ((x - mu) / sigma) ** 2 - sigma.log() - 0.5 * math.log(2 * math.pi)).sum((1, 2, 3))
    assert torch.allclose(p.log_prob(x), by_hand)
    assert torch.equal(p.mean, mu)
    assert torch.allclose(p.stddev, sigma)
    assert PixelGaussianLikelihood().channels(3) == 6


def test_each_pixels_sigma_is_learned_by_maximum_likelihood() -> None:
    """d log p / d log sigma_i = (x_i - mu_i)^2 / sigma_i^2 - 1: zero where sigma_i is the error of that pixel."""
    mu, x = normal(2, 3, 3), normal(2, 3, 3)
    for sigma in (torch.full_like(mu, 0.7), (x - mu).abs()):
        log_sigma = sigma.log().requires_grad_()
        PixelGaussianLikelihood()(torch.cat([mu, log_sigma]), 3).log_prob(x).backward()
        assert torch.allclose(log_sigma.grad, ((x - mu) / sigma) ** 2 - 1, atol=1e-12)


def test_no_pixels_sigma_leaves_its_limits() -> None:
    h = torch.tensor([[0.0, 0.0], [-100.0, 100.0]])
    assert torch.allclose(PixelGaussianLikelihood()(h, 2).stddev.log(), torch.tensor([[-7.0, 7.0]]))


# the categorical


def test_a_level_has_its_softmax() -> None:
    """Channel c has features (i, c): logit i of its level i / 255, whatever the other channels have."""
    h = 3 * normal(5, 256 * 3, 4)
    p = CategoricalLikelihood()(h, 2)
    log_P = h.view(5, 256, 3, 4).log_softmax(1)
    i = torch.randint(0, 256, (5, 3, 4))
    for levels in (i.float() / 255, i.double() / 255):
        expected = [sum(log_P[b, i[b, c, t], c, t] for c in range(3) for t in range(4)) for b in range(5)]
        assert torch.allclose(p.log_prob(levels), torch.stack(expected))
    assert CategoricalLikelihood().channels(3) == 768


@pytest.mark.parametrize(("leading", "of_x"), [((), (7,)), ((4,), ()), ((4,), (4,)), ((4,), (6, 4)), ((3, 4), (4,))])
def test_values_and_categoricals_broadcast(leading: tuple[int, ...], of_x: tuple[int, ...]) -> None:
    h, x = normal(*leading, 512, 2, 3), torch.randint(0, 256, (*of_x, 2, 2, 3)) / 255
    log_P = CategoricalLikelihood()(h, 3).log_prob(x)
    shape = torch.broadcast_shapes(leading, of_x)
    assert log_P.shape == shape
    hs, xs = h.expand(*shape, 512, 2, 3).reshape(-1, 512, 2, 3), x.expand(*shape, 2, 2, 3).reshape(-1, 2, 2, 3)
    singly = [CategoricalLikelihood()(a, 3).log_prob(b) for a, b in zip(hs, xs, strict=True)]
    assert torch.allclose(log_P.flatten(), torch.stack(singly))


def test_off_the_levels_a_categorical_takes_the_nearest_or_nothing() -> None:
    p = CategoricalLevels(normal(256, 1), 1)
    on, near, beyond, below = p.log_prob(torch.tensor([[0.2], [0.2 + 0.4 / 255], [1.01], [-0.01]]))
    assert on == near
    assert beyond == below == -math.inf
    many = CategoricalLevels(normal(256, 3), 1)
    assert many.log_prob(torch.tensor([0.2, 1.01, 0.4])) == -math.inf


def test_samples_of_a_categorical_are_levels_in_their_proportions() -> None:
    h = torch.full((256, 2), -math.inf, dtype=torch.float64)
    kept = [0, 3, 200, 255]
    h[kept] = normal(4, 2)
    p = CategoricalLikelihood()(h.flatten(), 1)
    x = p.sample((20_000,))
    i = (x * 255).round().long()
    assert torch.equal(x, i.double() / 255)
    for pixel in range(2):
        counts = i[:, pixel].bincount(minlength=256)[kept]
        assert counts.sum() == len(x)
        expected = h[kept, pixel].softmax(0) * len(x)
        assert scipy.stats.chisquare(counts.numpy(), expected.numpy()).pvalue > 1e-3


def test_levels_are_those_of_stored_images_bit_by_bit() -> None:
    """What preprocessing makes of v is what a sample of level v is."""
    logits = torch.full((256, 256), -1e4).fill_diagonal_(0.0)
    assert torch.equal(CategoricalLevels(logits, 1).sample(), torch.arange(256).float() / 255)


@pytest.mark.parametrize("level", [0, 100, 255])
def test_the_mean_of_a_sure_categorical_is_its_level(level: int) -> None:
    h = torch.zeros(256, 1)
    h[level] = 100
    mean = CategoricalLevels(h, 1).mean
    assert mean.item() == pytest.approx(level / 255)
    assert 0 <= mean <= 1


@pytest.mark.parametrize("dtype", DTYPES)
def test_levels_are_told_from_what_lies_between(dtype: torch.dtype) -> None:
    levels, x = Levels(), ALL_LEVELS.to(dtype)
    assert levels.is_discrete
    assert levels.check(x).all()
    assert not levels.check((torch.arange(256, dtype=dtype) + 0.5) / 256).any()
    assert not levels.check(torch.tensor([-1 / 255, 256 / 255, math.nan, math.inf], dtype=dtype)).any()


# the negative log-likelihood


def fitted(name: str, x: Tensor) -> Any:
    model = build({"type": f"classical/{name}", **({"latents": 2} if name == "ppca" else {})}, data_shape=x.shape[1:])
    model.begin(x)
    model.update(model.statistics(x))
    return model


@pytest.mark.parametrize("name", ["ppca", "gmm"])
def test_the_nll_is_the_mean_of_minus_log_p(name: str) -> None:
    x = torch.rand(40, 1, 3, 2)
    model = fitted(name, x)
    total, terms = NLL()(model, {"image": x})
    assert total.item() == pytest.approx(-model.log_prob(x).mean().item())
    assert terms == {}
    singly = torch.stack([NLL()(model, {"image": x[i : i + 1]}).total for i in range(40)])
    assert total.item() == pytest.approx(singly.mean().item())


def test_the_nll_trains_whatever_has_a_density() -> None:
    """A mixture of Gaussians by gradient: of one component, it ends at the mean and the variance of the data."""
    model = build({"type": "nets/gaussian_mixture", "components": 1}, latent_shape=(2,)).double()
    x = normal(500, 2) * f64([0.5, 2.0]) + f64([1.0, -1.0])
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=60, line_search_fn="strong_wolfe")

    def total() -> Tensor:
        optimizer.zero_grad()
        loss = NLL()(model, {"image": x}).total
        loss.backward()
        return loss

    optimizer.step(total)
    assert torch.allclose(model.mu[0], x.mean(0), atol=1e-3)
    assert torch.allclose(model.log_sigma[0].exp(), x.std(0, correction=0), atol=1e-3)
    entropy = -Normal(x.mean(0), x.std(0, correction=0)).log_prob(x).sum(1).mean()
    assert NLL()(model, {"image": x}).total.item() == pytest.approx(entropy.item(), abs=1e-4)


def test_a_model_without_a_density_has_no_nll() -> None:
    x = torch.rand(30, 1, 3, 2)
    with pytest.raises(ConfigError, match=r"^loss 'nll' needs a model with a density: KMeans has no density$"):
        NLL()(fitted("kmeans", x), {"image": x})


def test_an_encoder_that_would_stay_as_it_is_is_refused() -> None:
    """Behind codes log p(x) has no gradient in the encoder, which is refused unless it is to stay as it is."""
    encoder = {"type": "nets/mlp_encoder", "latents": 2, "hidden": [3], "posterior": "nets/dirac"}
    parts = {"encoder": encoder, "quantizer": {"type": "vqvae/nearest", "codes": 4}, "decoder": "nets/mlp_decoder"}
    model = build({"type": "vqvae/vqvae", **parts}, data_shape=(1, 2, 2))
    batch = {"image": torch.rand(3, 1, 2, 2).round()}
    assert all(p.grad is None for p in _after_backward(-model.log_prob(batch["image"]).mean(), model.encoder))
    with pytest.raises(ConfigError, match=r"train the decoder of VQVAE alone.*as vqvae/vq, or freeze the encoder"):
        NLL()(model, batch)
    model.encoder.requires_grad_(False)
    assert all(p.grad is not None for p in _after_backward(NLL()(model, batch).total, model.decoder))


def _after_backward(total: Tensor, part: torch.nn.Module) -> list[torch.nn.Parameter]:
    total.backward()
    return list(part.parameters())
