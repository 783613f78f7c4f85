"""Mixtures of Gaussians against scikit-learn from the same start, and against densities written out."""

import warnings
from typing import Any

import pytest
import torch
from sklearn.decomposition import FactorAnalysis
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from torch import Tensor
from torch.distributions import MultivariateNormal
from zoo_classical.gmm import GMM

from zoo_core import ConfigError

THEIRS = ["full", "tied", "diagonal", "spherical"]
FORMS = [*THEIRS, "low_rank"]
every_form = pytest.mark.parametrize("form", FORMS)
each_of_theirs = pytest.mark.parametrize("form", THEIRS)


def covariances(model: GMM) -> Tensor:
    """Sigma_k, (K, D, D), whatever the form."""
    identity = torch.eye(model.size, dtype=torch.float64)
    roots = [model.covariance.colour(identity, k) for k in range(len(model.pi))]
    return torch.stack([root.T @ root for root in roots])


def blobs(n: int = 600) -> Tensor:
    """Three overlapping Gaussians of different covariances in 4 dimensions, as (n, 1, 2, 2)."""
    A, mu = torch.randn(3, 4, 4) / 2, 1.5 * torch.randn(3, 4)
    k = torch.randint(3, (n,))
    x = torch.einsum("nij,nj->ni", A[k], torch.randn(n, 4)) + mu[k] + 0.3 * torch.randn(n, 4)
    return x.view(n, 1, 2, 2)


def sklearn_start(model: GMM, form: str, iterations: int) -> GaussianMixture:
    precision = torch.linalg.inv(covariances(model))
    precisions = {
        "full": precision,
        "tied": precision[0],
        "diagonal": precision.diagonal(dim1=1, dim2=2),
        "spherical": precision[:, 0, 0],
    }[form]
    return GaussianMixture(
        len(model.pi),
        covariance_type="diag" if form == "diagonal" else form,
        weights_init=(model.pi / model.pi.sum()).numpy(),
        means_init=model.mu.numpy(),
        precisions_init=precisions.numpy(),
        reg_covar=0,
        tol=0,
        max_iter=iterations,
    )


@each_of_theirs
@pytest.mark.parametrize("iterations", [1, 2, 15])
def test_em_is_that_of_scikit_learn_from_the_same_start(form: str, iterations: int, fit: Any) -> None:
    x = blobs()
    rows = x.flatten(1).double().numpy()
    model = GMM((1, 2, 2), 3, form, min_variance=1e-12)
    model.begin(x)
    theirs = sklearn_start(model, form, iterations)
    objectives = fit(model, x, iterations, begun=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        theirs.fit(rows)
    assert theirs.n_iter_ == iterations
    assert objectives[-2] == pytest.approx(theirs.lower_bound_, rel=1e-9)
    assert objectives[-1] == pytest.approx(theirs.score(rows), rel=1e-9)
    assert torch.allclose(model.log_prob(x), torch.from_numpy(theirs.score_samples(rows)), rtol=1e-8)
    assert torch.allclose(model.encoder(x).probs, torch.from_numpy(theirs.predict_proba(rows)), atol=1e-8)
    assert torch.allclose(model.mu, torch.from_numpy(theirs.means_), rtol=1e-8)


@each_of_theirs
def test_on_digits_it_is_that_of_scikit_learn_from_the_same_start(form: str, digits: Tensor, fit: Any) -> None:
    """With noise, for pixels that are always black would be at the floor, which scikit-learn has not."""
    x = digits + 0.1 * torch.randn_like(digits)
    model = GMM((1, 8, 8), 10, form, min_variance=1e-9)
    model.begin(x)
    theirs = sklearn_start(model, form, 10)
    objective = fit(model, x, 10, begun=True)[-1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        theirs.fit(x.flatten(1).double().numpy())
    assert objective == pytest.approx(theirs.score(x.flatten(1).double().numpy()), rel=1e-6)


@every_form
def test_log_prob_is_the_density_written_out(form: str, fit: Any) -> None:
    x = blobs()
    model = GMM((1, 2, 2), 3, form)
    fit(model, x, 3)
    component = MultivariateNormal(model.mu, covariances(model))
    joint = model.pi.log() + component.log_prob(x.flatten(1).double()[:, None])
    assert torch.allclose(model.log_prob(x), joint.logsumexp(1), rtol=1e-9)
    assert torch.allclose(model.encoder(x).probs, joint.softmax(1), atol=1e-10)
    assert torch.equal(model.encode(x), joint.argmax(1))


@every_form
def test_whitening_undoes_colouring_and_measures_distances(form: str, fit: Any) -> None:
    x = blobs()
    model = GMM((1, 2, 2), 3, form, rank=2)
    fit(model, x, 3)
    e, d = torch.randn(7, 4, dtype=torch.float64), x.flatten(1).double()
    squares = model.covariance.squares(d, model.mu)
    for k, mu in enumerate(model.mu):
        assert torch.allclose(model.covariance.whiten(model.covariance.colour(e, k), k), e)
        assert torch.allclose(model.covariance.whiten(d - mu, k).square().sum(1), squares[:, k])


@every_form
def test_log_prob_integrates_to_one(form: str, fit: Any) -> None:
    x = blobs().flatten(1)[:, :2]
    model = GMM((2,), 3, form, min_variance=0.05)
    fit(model, x, 5)
    axis = torch.linspace(-15, 15, 601, dtype=torch.float64)
    assert model.log_prob(torch.cartesian_prod(axis, axis)).exp().sum().item() * 0.05**2 == pytest.approx(1, abs=1e-8)


@each_of_theirs
def test_one_component_is_the_gaussian_of_the_data(form: str, fit: Any) -> None:
    x = blobs()
    model = GMM((1, 2, 2), 1, form)
    fit(model, x, 1)
    S = x.flatten(1).double().T.cov(correction=0)
    expected = {"full": S, "tied": S, "diagonal": S.diagonal().diag(), "spherical": S.trace() / 4 * torch.eye(4)}[form]
    assert torch.allclose(covariances(model)[0], expected.double())
    assert torch.allclose(model.mu[0], x.flatten(1).double().mean(0))


def test_forms_that_can_say_more_fit_better(digits: Tensor, fit: Any) -> None:
    scores = {}
    for form in FORMS:
        torch.manual_seed(0)
        scores[form] = fit(GMM((1, 8, 8), 5, form, min_variance=1e-3), digits, 20)[-1]
    assert scores["full"] > scores["tied"] > scores["spherical"]
    assert scores["full"] > scores["low_rank"] > scores["diagonal"] > scores["spherical"]


@every_form
def test_a_component_on_one_example_stops_at_the_floor(form: str, fit: Any) -> None:
    """Without a floor the likelihood is unbounded; with it, it rises to an end and never falls."""
    x = torch.cat([torch.randn(30, 2), torch.full((1, 2), 50.0), torch.full((5, 2), -50.0)])
    model = GMM((2,), 3, form, min_variance=1e-2)
    objectives = torch.tensor(fit(model, x, 40), dtype=torch.float64)
    assert (objectives.diff() > -1e-11).all()
    assert torch.linalg.eigvalsh(covariances(model)).min() >= 0.01 - 1e-9
    assert model.log_prob(x).isfinite().all()


@pytest.mark.parametrize("form", ["full", "tied"])
def test_the_floor_gives_the_most_likely_covariance_that_respects_it(form: str, fit: Any) -> None:
    """No covariance with variances of at least the floor is more likely than the fitted one."""
    x = (torch.randn(80, 3) * torch.tensor([2.0, 1.0, 0.1])) @ torch.linalg.qr(torch.randn(3, 3))[0]
    model = GMM((3,), 1, form, min_variance=0.25)
    best = fit(model, x, 1)[-1]
    variances, axes = torch.linalg.eigh(covariances(model)[0])
    assert variances[0].item() == pytest.approx(0.25)
    for _ in range(200):
        turn = torch.linalg.qr(torch.eye(3) + 0.1 * torch.randn(3, 3, dtype=torch.float64))[0]
        other = (variances * (0.2 * torch.randn(3)).exp()).clamp(min=0.25)
        rival = MultivariateNormal(model.mu[0], (axes @ turn * other) @ (axes @ turn).T)
        assert rival.log_prob(x.double()).mean() < best + 1e-12


@every_form
def test_draws_have_the_moments_of_the_mixture(form: str, fit: Any) -> None:
    x = blobs()
    model = GMM((1, 2, 2), 3, form)
    fit(model, x, 10)
    drawn = model.draw(200_000, clip=False).flatten(1).double()
    mean = model.pi @ model.mu
    between = (model.mu - mean).T @ (model.pi[:, None] * (model.mu - mean))
    assert torch.allclose(drawn.mean(0), mean, atol=0.03)
    assert torch.allclose(drawn.T.cov(), (model.pi[:, None, None] * covariances(model)).sum(0) + between, atol=0.08)
    # A fit matches the mean of the data, so its draws do.
    assert torch.allclose(mean, x.flatten(1).double().mean(0), atol=1e-9)


def test_one_component_of_low_rank_is_factor_analysis(fit: Any) -> None:
    """EM ends where scikit-learn's does, which finds W from an eigenproblem for each sigma."""
    x = torch.randn(400, 2) @ torch.randn(2, 6) + torch.rand(6) * torch.randn(400, 6) + torch.randn(6)
    model = GMM((6,), 1, "low_rank", min_variance=1e-9, rank=2)
    objective = fit(model, x, 400)[-1]
    rows = x.double().numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        theirs = FactorAnalysis(2, tol=1e-9, max_iter=400, svd_method="lapack").fit(rows)
    assert objective == pytest.approx(theirs.score(rows), rel=1e-5)
    assert torch.allclose(covariances(model)[0], torch.from_numpy(theirs.get_covariance()), atol=5e-3)
    assert torch.allclose(model.mu[0], x.double().mean(0))


def test_low_rank_is_any_covariance_when_its_rank_is_not_low(fit: Any) -> None:
    x = blobs()
    low_rank = fit(GMM((1, 2, 2), 1, "low_rank", min_variance=1e-9, rank=4), x, 200)[-1]
    full = fit(GMM((1, 2, 2), 1, "full", min_variance=1e-9), x, 1)[-1]
    assert full - 1e-3 < low_rank <= full + 1e-12


def test_draws_fall_where_the_density_says(fit: Any) -> None:
    """The share of draws in each cell of a grid, against the integral of the density over it."""
    model = GMM((2,), 3, "full")
    fit(model, blobs().flatten(1)[:, :2], 10)
    axis = torch.linspace(-5, 5, 201, dtype=torch.float64)
    grid = torch.cartesian_prod(axis + 0.025, axis + 0.025)
    mass = (model.log_prob(grid).exp() * 0.05**2).view(201, 201)[:200, :200].reshape(10, 20, 10, 20).sum((1, 3))
    n = 100_000
    cells = (model.draw(n, clip=False) + 5).floor().long()
    inside = ((cells >= 0) & (cells < 10)).all(1)
    share = torch.zeros(10, 10, dtype=torch.float64)
    share.index_put_(tuple(cells[inside].T), torch.tensor(1 / n, dtype=torch.float64), accumulate=True)
    assert ((share - mass).abs() < 5 * (mass / n).sqrt() + 1e-4).all()


def test_a_component_without_examples_does_no_harm(sums: Any) -> None:
    x = blobs()
    model = GMM((1, 2, 2), 3)
    model.begin(x)
    model.mu[2] = 1e6
    objectives = []
    for _ in range(5):
        statistics = sums(model, x)
        objectives.append(statistics["objective"])
        model.update(statistics)
    assert model.pi[2] == 0
    assert model.pi.sum().item() == pytest.approx(1)
    assert (torch.stack(objectives).diff() > -1e-9).all()
    assert model.log_prob(x).isfinite().all()
    assert 2 not in model.prior().sample((1000,))


def test_a_density_far_away_keeps_its_logarithm(fit: Any) -> None:
    model = GMM((1, 2, 2), 3)
    fit(model, blobs(), 3)
    far = model.log_prob(torch.full((1, 1, 2, 2), 1e6))
    assert far.isfinite().all()
    assert far < -1e6


def test_more_components_than_different_examples_are_refused() -> None:
    with pytest.raises(ConfigError, match="k-means\\+\\+ needs 5 different examples, one for each centre, got 4"):
        GMM((2,), 5).begin(torch.rand(4, 2))
    with pytest.raises(ConfigError, match="got 1"):
        GMM((2,), 2).begin(torch.ones(100, 2))
    with pytest.raises(
        ConfigError, match="covariance: must be one of 'full', 'tied', 'diagonal', 'spherical', 'low_rank'"
    ):
        GMM((2,), 2, "diag")
