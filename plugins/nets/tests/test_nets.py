"""Likelihoods are normalised, priors are densities, stages fit any image, and affine maps are affine."""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.distributions import Categorical, Independent, MixtureSameFamily, MultivariateNormal, Normal
from zoo_nets.composition import ACTIVATIONS
from zoo_nets.conv import ConvDecoder, ConvEncoder
from zoo_nets.likelihoods import (
    BernoulliLikelihood,
    CategoricalLikelihood,
    ContinuousBernoulliLikelihood,
    GaussianLikelihood,
    LearnedGaussianLikelihood,
    LogisticMixtureLikelihood,
    LogitLaplaceLikelihood,
    PixelGaussianLikelihood,
)
from zoo_nets.linear import LinearDecoder, LinearEncoder
from zoo_nets.mlp import MLPDecoder, MLPEncoder
from zoo_nets.posteriors import DiagonalGaussian, DiracPosterior
from zoo_nets.priors import GaussianMixture, StandardNormal
from zoo_nets.resnet import ResidualBlock, ResNetDecoder, ResNetEncoder

from zoo_core import ConfigError, Dirac, Likelihood

LIKELIHOODS: dict[str, Callable[[], Likelihood]] = {
    "bernoulli": BernoulliLikelihood,
    "continuous_bernoulli": ContinuousBernoulliLikelihood,
    "gaussian": lambda: GaussianLikelihood(sigma=0.3),
    "learned": LearnedGaussianLikelihood,
    "pixel": PixelGaussianLikelihood,
    "categorical": CategoricalLikelihood,
    "mixture": lambda: LogisticMixtureLikelihood(components=3),
    "logit_laplace": LogitLaplaceLikelihood,
}
every_likelihood = pytest.mark.parametrize("likelihood", [make() for make in LIKELIHOODS.values()], ids=LIKELIHOODS)
sizes = st.integers(1, 40)
few = settings(max_examples=80, deadline=None, derandomize=True, database=None)


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def grid(low: float, high: float, n: int) -> Tensor:
    """Midpoints of n intervals."""
    return low + (torch.arange(n, dtype=torch.float64) + 0.5) * (high - low) / n


# likelihoods


@every_likelihood
@pytest.mark.parametrize(("data_shape", "event_dim"), [((2,), 1), ((3, 4), 2), ((2, 5, 3), 3)])
@pytest.mark.parametrize("leading", [(), (4,), (2, 4)])
def test_features_become_a_distribution_over_data(
    likelihood: Likelihood, data_shape: tuple[int, ...], event_dim: int, leading: tuple[int, ...]
) -> None:
    h = normal(*leading, likelihood.channels(data_shape[0]), *data_shape[1:])
    p = likelihood(h, event_dim)
    assert p.batch_shape == leading
    assert p.event_shape == p.mean.shape[len(leading) :] == data_shape
    assert p.log_prob(torch.zeros(data_shape, dtype=torch.float64)).shape == leading


@every_likelihood
def test_pixels_have_features_of_their_own(likelihood: Likelihood) -> None:
    """log p(x) is a sum over pixels: swapping two places of both h and x changes nothing."""
    h, x = normal(likelihood.channels(2), 3, 4), torch.rand(2, 3, 4, dtype=torch.float64).round()
    together = likelihood(h, 3).log_prob(x)
    singly = [likelihood(h[:, i, j], 1).log_prob(x[:, i, j]) for i in range(3) for j in range(4)]
    assert torch.allclose(together, torch.stack(singly).sum())
    assert torch.allclose(likelihood(h.flip(1), 3).log_prob(x.flip(1)), together)


def test_bernoulli_sums_to_1_over_all_pictures() -> None:
    h = normal(1, 1, 3)
    pictures = torch.tensor(list(itertools.product([0.0, 1.0], repeat=3)), dtype=torch.float64).view(8, 1, 1, 3)
    p = BernoulliLikelihood()(h, 3).log_prob(pictures).exp()
    assert torch.allclose(p.sum(), torch.ones((), dtype=torch.float64))
    assert torch.allclose((p.view(8, 1, 1, 1) * pictures).sum(0), h.sigmoid())


@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0])
def test_the_mixture_of_logistics_sums_to_1_over_256_levels(scale: float) -> None:
    likelihood = LogisticMixtureLikelihood(components=3)
    p = likelihood(scale * normal(4, likelihood.channels(1)), 1)
    levels = (torch.arange(256, dtype=torch.float64) / 255).view(256, 1, 1)
    P = p.log_prob(levels.expand(256, 4, 1)).exp()
    assert torch.allclose(P.sum(0), torch.ones(4, dtype=torch.float64))
    assert torch.allclose((P * levels.squeeze(-1)).sum(0), p.mean.squeeze(-1))


def test_the_mixture_of_logistics_starts_spread_over_the_data() -> None:
    """With features of 0 the components stand at (k + 1/2) / K, so that none starts dead."""
    p = LogisticMixtureLikelihood(components=4)(torch.zeros(12), 1)
    assert torch.allclose(p.mu.flatten(), torch.tensor([0.125, 0.375, 0.625, 0.875]))
    assert torch.allclose(p.log_s.exp(), torch.tensor(math.exp(-1.5)))
    assert torch.allclose(p.logits, torch.zeros(()))


def test_the_channels_of_the_mixture_do_not_mix() -> None:
    """Channel c of component k of parameter i is feature (i, k, c), for any number of channels."""
    likelihood = LogisticMixtureLikelihood(components=2)
    h = normal(likelihood.channels(3), 4)
    p, parameters = likelihood(h, 2), h.view(3, 2, 3, 4)
    assert torch.equal(p.logits, parameters[0])
    start = torch.tensor([0.25, 0.75]).view(2, 1, 1)
    assert torch.equal(p.mu, parameters[1] + start)
    assert torch.equal(p.log_s, parameters[2] - 1.5)


@pytest.mark.parametrize("sigma", [0.05, 1.0])
def test_gaussians_integrate_to_1(sigma: float) -> None:
    learned = LearnedGaussianLikelihood()
    nn.init.constant_(learned.log_sigma, math.log(sigma))
    x = grid(-15, 15, 60_000).view(-1, 1)
    h = normal(1)
    for likelihood in (GaussianLikelihood(sigma=sigma), learned):
        p = likelihood(h, 1)
        log_p = p.log_prob(x)
        assert log_p.exp().mean().item() * 30 == pytest.approx(1)
        # The width, by hand: the density at the mean is 1 / sqrt(2 pi sigma^2).
        assert p.log_prob(h).item() == pytest.approx(-math.log(sigma) - 0.5 * math.log(2 * math.pi), rel=1e-6)


def test_a_learned_sigma_is_learned_by_maximum_likelihood() -> None:
    """d/d log_sigma log p = D (s^2 / sigma^2 - 1): zero where sigma^2 is the mean squared error."""
    likelihood = LearnedGaussianLikelihood().double()
    h, x = normal(5, 1, 3, 4), normal(5, 1, 3, 4)
    s = (x - h).square().mean().sqrt()
    nn.init.constant_(likelihood.log_sigma, 0.3)
    likelihood(h, 3).log_prob(x).sum().backward()
    assert likelihood.log_sigma.grad.item() == pytest.approx(60 * (s.item() ** 2 / math.exp(0.6) - 1))
    likelihood.log_sigma.grad = None
    nn.init.constant_(likelihood.log_sigma, s.log().item())
    likelihood(h, 3).log_prob(x).sum().backward()
    assert likelihood.log_sigma.grad.item() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("epsilon", [0.01, 0.1, 0.4])
@pytest.mark.parametrize(("mu", "log_b"), [(0.0, 0.0), (1.5, -1.0), (-1.0, 0.5)])
def test_logit_laplace_integrates_to_1_over_unmapped_pixels(epsilon: float, mu: float, log_b: float) -> None:
    """x = (y - epsilon) / (1 - 2 epsilon) for y in (0, 1), so the density is over an interval wider than [0, 1]."""
    p = LogitLaplaceLikelihood(epsilon)(torch.tensor([mu, log_b], dtype=torch.float64), 1)
    # In t = logit y the integrand is smooth, with the tails of a Laplace density; further out y rounds to 0 or 1.
    t = grid(-30, 30, 100_000)
    y = t.sigmoid()
    x = ((y - epsilon) / (1 - 2 * epsilon)).unsqueeze(-1)
    dx_dt = y * (1 - y) / (1 - 2 * epsilon)
    density = p.log_prob(x).exp() * dx_dt * 60 / len(t)
    assert density.sum().item() == pytest.approx(1, abs=1e-6)
    assert (density * x.squeeze(-1)).sum().item() == pytest.approx(p.mean.item(), abs=1e-6)


def test_logit_laplace_is_the_papers_formula() -> None:
    """log f(y) = -log(2 b y (1 - y)) - |logit y - mu| / b at y = 0.8 x + 0.1, with b = exp of the second feature."""
    mu, log_b, x = normal(3, 20)
    x, log_b = x.sigmoid(), log_b.clamp(-7, 7)
    p = LogitLaplaceLikelihood()(torch.stack([mu, log_b], 1).view(20, 2), 1)
    y, b = 0.8 * x + 0.1, log_b.exp()
    log_f = -(2 * b * y * (1 - y)).log() - (y.logit() - mu).abs() / b + math.log(0.8)
    assert torch.allclose(p.log_prob(x.unsqueeze(-1)), log_f)


@pytest.mark.parametrize("epsilon", [0, 0.5, 0.7, 1, -0.1])
def test_logit_laplace_needs_a_margin_that_leaves_something(epsilon: float) -> None:
    with pytest.raises(ConfigError, match=r"epsilon: must be a number between 0 and 0\.5"):
        LogitLaplaceLikelihood(epsilon)


@every_likelihood
def test_the_mean_is_that_of_the_samples(likelihood: Likelihood) -> None:
    h = 0.5 * normal(likelihood.channels(2), 3)
    p = likelihood(h, 2)
    x = p.sample((40_000,))
    error = x.std(0) / math.sqrt(len(x))
    assert ((x.mean(0) - p.mean).abs() < 5 * error).all()


@every_likelihood
def test_densities_are_computed_in_float32_at_least(likelihood: Likelihood) -> None:
    for dtype, wide in [
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.float64, torch.float64),
    ]:
        p = likelihood(torch.randn(likelihood.channels(1), 4, 4).to(dtype), 3)
        assert p.mean.dtype == p.log_prob(torch.zeros(1, 4, 4, dtype=wide)).dtype == wide


@every_likelihood
@pytest.mark.parametrize("scale", [1e2, 1e4])
def test_no_features_are_too_large(likelihood: Likelihood, scale: float) -> None:
    """An untrained network may say anything: the loss and its gradient stay numbers."""
    h = (scale * torch.randn(2, likelihood.channels(1), 8, 8)).requires_grad_()
    log_p = likelihood(h, 3).log_prob(torch.rand(2, 1, 8, 8).round())
    log_p.sum().backward()
    assert log_p.isfinite().all()
    assert h.grad.isfinite().all()


# posteriors


def test_a_diagonal_gaussian_has_mu_and_log_sigma_as_features() -> None:
    h = normal(5, 4, 2, 3)
    q = DiagonalGaussian()(h, 3)
    assert torch.equal(q.mean, h[:, :2])
    assert torch.allclose(q.stddev, h[:, 2:].exp())
    assert q.event_shape == (2, 2, 3)


@pytest.mark.parametrize("extreme", [-1e6, 1e6])
def test_the_kl_of_an_extreme_gaussian_is_finite(extreme: float) -> None:
    h = torch.full((1, 4), extreme).requires_grad_()
    q = DiagonalGaussian()(h, 1)
    rate = torch.distributions.kl_divergence(q.base_dist, Normal(0.0, 1.0)).sum()
    rate.backward()
    assert rate.isfinite()
    assert h.grad.isfinite().all()


def test_a_dirac_is_its_features() -> None:
    h = normal(5, 4)
    q = DiracPosterior()(h, 1)
    assert isinstance(q, Dirac)
    assert DiracPosterior().channels(4) == 4
    assert torch.equal(q.rsample(), h)


# priors: 2-D, where a grid can integrate


def gaussian_mixture() -> GaussianMixture:
    prior = GaussianMixture((2,), components=3).double()
    with torch.no_grad():
        prior.logits.copy_(torch.tensor([0.0, 1.0, -1.0]))
        prior.log_sigma.copy_(torch.tensor([[0.0, -0.5], [-1.0, 0.3], [0.2, 0.0]]))
    return prior


PRIORS: dict[str, Callable[[], Any]] = {
    "standard_normal": lambda: StandardNormal((2,)).double(),
    "gaussian_mixture": gaussian_mixture,
}
every_prior = pytest.mark.parametrize("make", PRIORS.values(), ids=PRIORS)


def plane(n: int = 400, reach: float = 10.0) -> tuple[Tensor, float]:
    """Points (n^2, 2), and the area that each stands for."""
    axis = grid(-reach, reach, n)
    return torch.cartesian_prod(axis, axis), (2 * reach / n) ** 2


@every_prior
def test_a_prior_integrates_to_1(make: Callable[[], Any]) -> None:
    z, area = plane()
    assert make()().log_prob(z).exp().sum().item() * area == pytest.approx(1, abs=1e-9)


@every_prior
def test_a_prior_satisfies_steins_identity(make: Callable[[], Any]) -> None:
    """E[z_i d/dz_i log p(z)] = -1, by parts, for every density that vanishes at infinity."""
    z, area = plane()
    z.requires_grad_()
    log_p = make()().log_prob(z)
    (score,) = torch.autograd.grad(log_p.sum(), z)
    expected = (log_p.exp().unsqueeze(-1) * z * score).sum(0) * area
    assert torch.allclose(expected, torch.full((2,), -1.0, dtype=torch.float64))


@every_prior
def test_samples_of_a_prior_follow_its_density(make: Callable[[], Any]) -> None:
    p = make()()
    torch.manual_seed(1)
    z = p.sample((20_000,))
    points, area = plane()
    density = p.log_prob(points).exp() * area
    mean = (density.unsqueeze(-1) * points).sum(0)
    # The entropy -E[log p(z)] and the mean, from samples and from the grid.
    surprise = -p.log_prob(z)
    entropy = -(density * p.log_prob(points)).sum()
    assert abs(surprise.mean() - entropy) < 5 * surprise.std() / math.sqrt(len(z))
    assert ((z.mean(0) - mean).abs() < 5 * z.std(0) / math.sqrt(len(z))).all()


def test_a_mixture_is_the_formula() -> None:
    prior, z = gaussian_mixture(), normal(7, 2)
    parts = [
        pi.log() + MultivariateNormal(mu, torch.diag(log_sigma.exp() ** 2)).log_prob(z)
        for pi, mu, log_sigma in zip(prior.logits.softmax(0), prior.mu, prior.log_sigma, strict=True)
    ]
    assert torch.allclose(prior().log_prob(z), torch.stack(parts).logsumexp(0))


@pytest.mark.parametrize("latent_shape", [(2,), (2, 3), (2, 3, 2)])
def test_responsibilities_are_bayes_rule(latent_shape: tuple[int, ...]) -> None:
    """p(k|z) = pi_k N(z; mu_k, sigma_k) / p(z), for z with any leading dimensions."""
    prior = GaussianMixture(latent_shape, components=4).double()
    nn.init.normal_(prior.logits)
    nn.init.normal_(prior.log_sigma, std=0.3)
    z = normal(5, 3, *latent_shape)
    r = prior.responsibilities(z)
    assert r.shape == (5, 3, 4)
    for k, pi in enumerate(prior.logits.softmax(0)):
        component = Independent(Normal(prior.mu[k], prior.log_sigma[k].exp()), len(latent_shape))
        bayes = (pi.log() + component.log_prob(z) - prior().log_prob(z)).exp()
        assert torch.allclose(r[..., k], bayes)
    assert torch.allclose(r.sum(-1), torch.ones(5, 3, dtype=torch.float64))


def test_a_mixture_of_one_at_the_origin_is_the_standard_normal() -> None:
    one = GaussianMixture((3, 2), components=1, spread=0.0).double()
    z = normal(4, 3, 2)
    assert torch.allclose(one().log_prob(z), StandardNormal((3, 2)).double()().log_prob(z))
    assert torch.allclose(one().log_prob(z), -z.square().sum((1, 2)) / 2 - 3 * math.log(2 * math.pi))


def test_the_first_means_of_a_mixture_are_as_wide_as_asked() -> None:
    assert GaussianMixture((50,), components=200, spread=3.0).mu.std().item() == pytest.approx(3, rel=0.03)
    assert isinstance(GaussianMixture((2,))(), MixtureSameFamily)
    assert isinstance(GaussianMixture((2,))().mixture_distribution, Categorical)


# bodies


STAGED = {"conv": (ConvEncoder, ConvDecoder), "resnet": (ResNetEncoder, ResNetDecoder)}


@few
@given(sizes, sizes, st.integers(1, 4), st.sampled_from(list(STAGED)), st.sampled_from(["vector", "grid"]))
def test_stages_fit_pictures_of_any_size(height: int, width: int, stages: int, body: str, layout: Any) -> None:
    """Halving rounds up, and doubling undoes it exactly: the picture comes back H x W."""
    encoder_type, decoder_type = STAGED[body]
    x = torch.rand(2, 1, height, width)
    encoder = encoder_type(x.shape[1:], 2, channels=[2] * stages, hidden=[], layout=layout)
    q = encoder(x)
    assert q.event_shape == encoder.latent_shape
    if layout == "grid":
        assert encoder.latent_shape == (2, math.ceil(height / 2**stages), math.ceil(width / 2**stages))
    decoder = decoder_type(x.shape[1:], encoder.latent_shape, channels=[2] * stages, hidden=[])
    assert decoder(q.mean).mean.shape == x.shape


@pytest.mark.parametrize("decoder", [ConvDecoder, ResNetDecoder])
@pytest.mark.parametrize("latent_shape", [(2, 7, 7), (2, 4), (2, 7, 4, 4), (2, 4, 7)])
def test_latents_that_the_stages_cannot_start_from_are_refused(decoder: Any, latent_shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=r"latent_shape: must be \(D,\), or \(L, 4, 4\)"):
        decoder((1, 28, 28), latent_shape, channels=[4, 4, 4])


@pytest.mark.parametrize("body", [ConvEncoder, ResNetEncoder])
def test_stages_want_pictures_and_at_least_one_stage(body: Any) -> None:
    with pytest.raises(ConfigError, match=r"data_shape: must be \(channels, height, width\), got \(64,\)"):
        body((64,), 2)
    with pytest.raises(ConfigError, match=r"channels: must name at least one stage, got \[\]"):
        body((1, 8, 8), 2, channels=[])


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_residual_block_starts_as_the_identity(activation: Any) -> None:
    block, x = ResidualBlock(3, activation), torch.randn(2, 3, 5, 4)
    assert torch.equal(block(x), x)
    # It does not stay so: the last layer has a gradient at once, and then the others.
    block(x).square().sum().backward()
    assert block.branch[-1].weight.grad.abs().sum() > 0
    with torch.no_grad():
        block.branch[-1].weight.add_(0.1)
    assert not torch.equal(block(x), x)


def test_blocks_are_counted_per_stage() -> None:
    encoder = ResNetEncoder((1, 8, 8), 2, channels=[2, 2, 2], blocks=3)
    assert sum(isinstance(m, ResidualBlock) for m in encoder.modules()) == 9


def is_affine(f: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> bool:
    """f(a x + (1 - a) y) = a f(x) + (1 - a) f(y), also outside of [0, 1]."""
    x, y = normal(2, 4, *shape)
    weights = (-1.5, 0.3, 2.0)
    return all(torch.allclose(f(a * x + (1 - a) * y), a * f(x) + (1 - a) * f(y)) for a in weights)


def test_linear_bodies_are_affine_and_others_are_not() -> None:
    shape, latents = (2, 3, 2), (3,)
    encoder, decoder = LinearEncoder(shape, 3).double(), LinearDecoder(shape, latents).double()
    assert is_affine(lambda x: encoder(x).mean, shape)
    assert is_affine(lambda x: encoder(x).stddev.log(), shape)
    assert is_affine(lambda z: decoder(z).mean, latents)
    assert not is_affine(lambda x: MLPEncoder(shape, 3).double()(x).mean, shape)
    assert not is_affine(
        lambda z: MLPDecoder(shape, latents, likelihood=GaussianLikelihood()).double()(z).mean, latents
    )


def test_a_linear_decoder_is_probabilistic_pca() -> None:
    """p(x|z) = N(W z + b, I), and its columns are what moving along one latent adds."""
    decoder = LinearDecoder((1, 2, 2), (3,)).double()
    W, b = (p.detach() for p in decoder.parameters())
    z = normal(5, 3)
    p = decoder(z)
    assert torch.allclose(p.mean.flatten(1), z @ W.T + b)
    assert torch.equal(p.stddev, torch.ones(5, 1, 2, 2, dtype=torch.float64))


@pytest.mark.parametrize(("body", "widths"), [(MLPEncoder, [12, 7, 5, 6]), (MLPDecoder, [3, 7, 5, 12])])
def test_hidden_layers_have_the_widths_asked_for(body: Any, widths: list[int]) -> None:
    latents = 3 if body is MLPEncoder else (3,)
    linear = [m for m in body((3, 2, 2), latents, hidden=[7, 5]).modules() if isinstance(m, nn.Linear)]
    assert [linear[0].in_features, *(m.out_features for m in linear)] == widths


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_activation_asked_for_is_used_and_never_last(activation: Any) -> None:
    kind = type(ACTIVATIONS[activation]())
    for body in (MLPEncoder((4,), 2, [3], activation), ConvEncoder((1, 8, 8), 2, [3], [3], activation=activation)):
        used = [m for m in body.modules() if type(m) in {type(make()) for make in ACTIVATIONS.values()}]
        assert {type(m) for m in used} == {kind}
        assert list(body.body.modules())[-1] not in used
