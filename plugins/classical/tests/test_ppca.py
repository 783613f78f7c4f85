"""Probabilistic PCA against Bayes' rule, the D x D Gaussian, and scikit-learn."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence
from zoo_classical.ppca import PPCA
from zoo_classical.ppca_em import PPCAEM

from zoo_core import ConfigError, build, has_closed_form_kl, kl

SHAPE = (1, 3, 2)


def random(latents: int = 2, variance: float = 0.2) -> PPCA:
    """Parameters of a known model, set by hand."""
    model = PPCA(SHAPE, latents)
    model.W, model.mu = torch.randn(6, latents, dtype=torch.float64), torch.randn(6, dtype=torch.float64)
    model.variance = torch.tensor(variance, dtype=torch.float64)
    model.started.fill_(True)
    return model


def marginal(model: PPCA) -> MultivariateNormal:
    """N(mu, W W' + sigma^2 I), D x D."""
    return MultivariateNormal(model.mu, model.W @ model.W.T + model.variance * torch.eye(6, dtype=torch.float64))


def noisy(n: int) -> Tensor:
    """n examples of a 3-dimensional subspace with noise."""
    axes = torch.linalg.qr(torch.randn(6, 6))[0][:3]
    return (torch.randn(n, 3) * torch.tensor([3.0, 2.0, 1.5]) @ axes + 0.3 * torch.randn(n, 6) + 1).view(n, *SHAPE)


@settings(max_examples=30, deadline=None, derandomize=True, database=None)
@given(st.integers(1, 5), st.floats(1e-4, 10), st.integers(0, 2**32))
def test_log_prob_is_that_of_the_marginal(latents: int, variance: float, seed: int) -> None:
    torch.manual_seed(seed)
    model, x = random(latents, variance), torch.randn(7, *SHAPE)
    assert torch.allclose(model.log_prob(x), marginal(model).log_prob(x.flatten(1).double()), rtol=1e-8)


def test_the_posterior_is_that_of_bayes_rule() -> None:
    model, x, z = random(), torch.randn(7, *SHAPE), torch.randn(7, 2)
    joint = model.decoder(z).log_prob(x) + model.prior().log_prob(z)
    assert torch.allclose(model.encoder(x).log_prob(z), joint - marginal(model).log_prob(x.flatten(1).double()))
    # The conditional of a joint Gaussian: cov(z, x) cov(x)^-1 (x - mu), I - cov(z, x) cov(x)^-1 cov(x, z).
    gain = model.W.T @ marginal(model).precision_matrix
    assert torch.allclose(model.encode(x), (x.flatten(1) - model.mu) @ gain.T)
    assert torch.allclose(model.encoder(x).covariance_matrix, torch.eye(2) - gain @ model.W)


def test_log_p_is_the_elbo_at_the_exact_posterior() -> None:
    """E_q[log p(x|z)] in closed form minus KL(q || p(z)), for q = p(z|x); every draw alone gives it too."""
    model, x = random(), torch.randn(7, *SHAPE)
    q = model.encoder(x)
    error = (x.flatten(1) - model.decoder(q.mean).mean.flatten(1)).square().sum(1)
    error = error + (model.W @ q.covariance_matrix @ model.W.T).diagonal(dim1=1, dim2=2).sum(1)
    distortion = 0.5 * (6 * torch.log(2 * math.pi * model.variance) + error / model.variance)
    assert has_closed_form_kl(q, model.prior())
    assert torch.allclose(-distortion - kl(q, model.prior()), model.log_prob(x))
    z = q.rsample((10,))
    log_w = model.decoder(z).log_prob(x) + model.prior().log_prob(z) - q.log_prob(z)
    assert torch.allclose(log_w, model.log_prob(x).expand(10, -1))


def test_a_bound_computed_on_it_is_exact() -> None:
    elbo = pytest.importorskip("zoo_vae.elbo").ELBO()
    model, x = random(), torch.randn(7, *SHAPE)
    totals = torch.stack([elbo(model, {"image": x}).total for _ in range(3000)])
    error = totals.std() / len(totals) ** 0.5
    assert (-totals.mean() - model.log_prob(x).mean()).abs() < 5 * error


def test_log_prob_integrates_to_one() -> None:
    model = PPCA((2,), 1)
    model.begin(torch.randn(50, 2))
    model.update(model.statistics(torch.randn(50, 2) @ torch.tensor([[2.0, 1.0], [0.0, 0.5]])))
    axis = torch.linspace(-15, 15, 601, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    assert model.log_prob(grid).exp().sum().item() * 0.05**2 == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("latents", [1, 2, 10, 40])
def test_the_closed_form_is_that_of_scikit_learn(digits: Tensor, fit: Any, latents: int) -> None:
    model, rows = PPCA((1, 8, 8), latents), digits.flatten(1).double().numpy()
    # A start from fewer examples has another mean, which the update must move.
    model.begin(digits[:100])
    fit(model, digits, 1, begun=True)
    pca = PCA(latents).fit(rows)
    # scikit-learn divides the covariance by n - 1.
    scale = (len(rows) - 1) / len(rows)
    assert model.variance.item() == pytest.approx(pca.noise_variance_ * scale, rel=1e-9)
    pca.explained_variance_, pca.noise_variance_ = pca.explained_variance_ * scale, pca.noise_variance_ * scale
    assert torch.allclose(model.log_prob(digits), torch.from_numpy(pca.score_samples(rows)), rtol=1e-8, atol=1e-8)


def test_one_update_is_the_maximum_and_more_stay_there(digits: Tensor, fit: Any) -> None:
    model = PPCA((1, 8, 8), 10)
    start, *rest = fit(model, digits, 4)
    assert max(rest) - min(rest) < 1e-10
    best = rest[0]
    assert start < best
    for name in ("W", "mu", "variance"):
        value = getattr(model, name)
        for _ in range(5):
            setattr(model, name, value * (1 + 0.01 * torch.randn_like(value)))
            assert model.log_prob(digits).mean() < best
        setattr(model, name, value)


def test_em_converges_to_the_closed_form(fit: Any) -> None:
    x = noisy(400)
    closed, em = PPCA(SHAPE, 3), PPCAEM(SHAPE, 3)
    best = fit(closed, x, 1)[-1]
    em.begin(x[:20])
    objectives = torch.tensor(fit(em, x, 2000, begun=True), dtype=torch.float64)
    assert (objectives.diff() > -1e-12).all()
    assert objectives[-1].item() == pytest.approx(best, rel=1e-11)
    assert torch.allclose(em.mu, closed.mu)
    assert torch.allclose(em.variance, closed.variance, rtol=1e-8)
    assert torch.allclose(em.W @ em.W.T, closed.W @ closed.W.T, atol=1e-6)


def test_an_em_step_is_the_maximum_of_the_expected_log_joint(fit: Any) -> None:
    """Q(W, sigma^2) = Σ E_q[log p(x, z)] with q from before the step, written out over examples."""
    x = noisy(100)
    model = PPCAEM(SHAPE, 2)
    fit(model, x, 1)
    q = model.encoder(x)
    second = q.covariance_matrix + q.mean[:, :, None] * q.mean[:, None, :]

    def expected(W: Tensor, variance: Tensor) -> Tensor:
        d = x.flatten(1).double() - model.mu
        square = d.square().sum(1) - 2 * ((d @ W) * q.mean).sum(1) + (W.T @ W * second).sum((1, 2))
        return -0.5 * (6 * variance.log() + square / variance).sum()

    model.update(model.statistics(x))
    W, variance = model.W.clone().requires_grad_(), model.variance.clone().requires_grad_()
    for gradient in torch.autograd.grad(expected(W, variance), (W, variance)):
        assert gradient.abs().max() < 1e-8


def test_an_em_step_first_moves_mu_to_the_mean_of_the_data(sums: Any) -> None:
    """Its sums around another mu are turned into those around the mean, as if it had been there before."""
    x = noisy(200)
    far, there = PPCAEM(SHAPE, 2), PPCAEM(SHAPE, 2)
    far.begin(x[:10])
    there.load_state_dict(far.state_dict())
    there.mu = x.flatten(1).double().mean(0)
    assert (far.mu - there.mu).norm() > 0.5
    for model in (far, there):
        model.update(sums(model, x))
    for name in ("W", "mu", "variance"):
        assert torch.allclose(getattr(far, name), getattr(there, name)), name


@pytest.mark.parametrize("kind", [PPCA, PPCAEM])
def test_sigma_has_a_floor(kind: type[PPCA], fit: Any) -> None:
    """Data within the subspace itself: sigma^2 would be 0, and the density infinite."""
    x = (torch.randn(50, 2) @ torch.randn(2, 6)).view(50, *SHAPE)
    model = kind(SHAPE, 2, min_variance=1e-4)
    objectives = torch.tensor(fit(model, x, 30))
    assert model.variance.item() == 1e-4
    assert (objectives.diff() > -1e-4).all()
    assert model.log_prob(x).isfinite().all()


def test_draws_have_the_moments_of_the_marginal() -> None:
    model = random()
    x = model.draw(200_000, noise=True).flatten(1).double()
    assert torch.allclose(x.mean(0), model.mu, atol=0.03)
    assert torch.allclose(x.T.cov(), marginal(model).covariance_matrix, atol=0.1)
    assert model.draw(2).min() >= 0


def test_the_density_of_draws_is_minus_the_entropy() -> None:
    model = random()
    log_p = model.log_prob(model.draw(50_000, noise=True))
    assert log_p.mean().item() == pytest.approx(-marginal(model).entropy().item(), abs=0.04)


def test_a_reconstruction_is_near_and_better_with_more_latents(digits: Tensor, fit: Any) -> None:
    errors = []
    for latents in (2, 10, 40):
        model = build({"type": "classical/ppca", "latents": latents}, data_shape=(1, 8, 8))
        fit(model, digits, 1)
        errors.append((model.reconstruct(digits) - digits).square().mean())
    assert errors[0] > 2 * errors[1] > 4 * errors[2]


def test_the_latents_of_the_data_are_like_the_prior(digits: Tensor, fit: Any) -> None:
    """At the maximum the posteriors of all examples together have mean 0 and variance 1."""
    model = PPCA((1, 8, 8), 5)
    fit(model, digits, 1)
    q = model.encoder(digits)
    aggregate = MultivariateNormal(q.mean.mean(0), q.covariance_matrix[0] + q.mean.T.cov(correction=0))
    assert kl_divergence(aggregate, model.prior()).item() == pytest.approx(0, abs=1e-10)


def test_too_many_latents_are_refused() -> None:
    with pytest.raises(ConfigError, match="latents: must be fewer than the 6 dimensions of the data, got 6"):
        PPCA(SHAPE, 6)
    with pytest.raises(ConfigError, match="latents: must be fewer than the examples, got 5 for 4"):
        PPCA(SHAPE, 5).begin(torch.rand(4, *SHAPE))
