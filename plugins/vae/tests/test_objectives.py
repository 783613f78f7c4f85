"""The objectives beside elbo and iwae, against known answers: probabilistic PCA, Gaussians, and small cases by hand."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily, MultivariateNormal, Normal
from zoo_vae.beta_tc import BetaTC
from zoo_vae.capacity import Capacity
from zoo_vae.dip_i import DIPI
from zoo_vae.dip_ii import DIPII
from zoo_vae.dreg import DReG
from zoo_vae.elbo import ELBO
from zoo_vae.info import InfoVAE
from zoo_vae.iwae import IWAE
from zoo_vae.miwae import MIWAE

from tests.ppca import PPCA
from zoo_core import ConfigError, Loss, LossOutput, build

many = settings(max_examples=40, deadline=None, derandomize=True, database=None)
WORSE = {"shift": 0.3, "stretch": 1.6}
OBJECTIVES = {
    "dreg": DReG(samples=5),
    "miwae": MIWAE(bounds=3, samples=2),
    "beta_tc": BetaTC(examples=1000),
    "info": InfoVAE(alpha=0.5, lambda_=10.0),
    "dip_i": DIPI(),
    "dip_ii": DIPII(),
    "capacity": Capacity(gamma=5.0, capacity=3.0),
}
every_objective = pytest.mark.parametrize("loss", OBJECTIVES.values(), ids=OBJECTIVES)


def with_seed(compute: Callable[[], Any], seed: int = 3) -> Any:
    """What is computed from the draws of that seed."""
    torch.manual_seed(seed)
    return compute()


def mean_and_error(values: Tensor) -> tuple[Tensor, Tensor]:
    """Over the first dimension; the error is the standard error of the mean."""
    return values.mean(0), values.std(0) / math.sqrt(len(values))


def near(values: Tensor, expected: Tensor | float) -> bool:
    """Whether independent estimates, along the first dimension, have that mean within 5 standard errors."""
    mean, error = mean_and_error(values)
    return bool(((mean - expected).abs() < 5 * error).all())


def gaussian(mu: Tensor, sigma: Tensor | float) -> Independent:
    """N(mu, diag sigma^2) for mu (*, D)."""
    return Independent(Normal(mu, torch.as_tensor(sigma, dtype=mu.dtype).expand_as(mu)), 1)


class Given(nn.Module):
    """An encoder that tells the same q for whatever x."""

    def __init__(self, q: Distribution) -> None:
        super().__init__()
        self.q = q

    def forward(self, x: Tensor) -> Distribution:
        return self.q


def told(ppca: PPCA, mu: Tensor, sigma: Tensor | float) -> Any:
    """The model of a PPCA with q(z|x_b) = N(mu_b, diag sigma^2), and pictures to go with it."""
    model = ppca.model()
    model.encoder = Given(gaussian(mu, sigma))
    return model, {"image": ppca.draw(len(mu))}


# every objective


@every_objective
def test_an_objective_tells_distortion_and_rate(loss: Loss, ppca: PPCA) -> None:
    """In nats per example, as the ELBO does; estimated from draws, so on a q whose draws are its mean."""
    x, model = ppca.draw(7), ppca.model(shift=0.3, stretch=1e-8)
    total, terms = loss(model, {"image": x})
    expected = ELBO()(model, {"image": x}).terms
    assert total.shape == ()
    assert total.requires_grad
    assert not any(term.requires_grad or term.shape for term in terms.values())
    assert terms["distortion"].item() == pytest.approx(expected["distortion"].item(), rel=1e-6)
    # log q(z|x) of two latents has a variance of 1/2 each; only where the rate is estimated does that show.
    noise = math.sqrt(1 / 7) if isinstance(loss, BetaTC) else 1e-9
    assert abs(terms["rate"] - expected["rate"]) < 5 * noise


@every_objective
def test_an_objective_needs_no_gradient(loss: Loss, ppca: PPCA, x: Tensor) -> None:
    model = ppca.model(**WORSE)
    with torch.no_grad():
        measured = with_seed(lambda: loss(model, {"image": x}))
    trained = with_seed(lambda: loss(model, {"image": x}))
    assert not measured.total.requires_grad
    assert torch.equal(measured.total, trained.total.detach())
    assert all(torch.equal(measured.terms[name], term) for name, term in trained.terms.items())


@every_objective
def test_a_posterior_without_a_density_is_refused(loss: Loss) -> None:
    encoder = {"type": "nets/linear_encoder", "latents": 2, "posterior": "nets/dirac"}
    parts = {"encoder": encoder, "decoder": "nets/linear_decoder", "prior": "nets/standard_normal"}
    model = build({"type": "vae/vae", **parts}, data_shape=(1, 3, 2))
    with pytest.raises(ConfigError, match="Dirac"):
        loss(model, {"image": torch.rand(2, 1, 3, 2)})


@every_objective
def test_gradient_steps_lower_an_objective(loss: Loss, ppca: PPCA) -> None:
    x, model = ppca.draw(64), ppca.model(shift=1.0, stretch=2.5)
    optimizer = torch.optim.Adam(model.encoder.parameters(), lr=0.04)

    def measured() -> Tensor:
        with torch.no_grad():
            return torch.stack([loss(model, {"image": x}).total for _ in range(30)])

    before = measured()
    for _ in range(50):
        optimizer.zero_grad()
        loss(model, {"image": x}).total.backward()
        optimizer.step()
    (higher, e), (lower, f) = mean_and_error(before), mean_and_error(measured())
    assert higher - lower > 5 * math.hypot(e, f)


@pytest.mark.parametrize("name", ["beta_tc", "info", "dip_i", "dip_ii"])
def test_what_compares_the_examples_of_a_batch_does_not_train_on_one(name: str, ppca: PPCA, x: Tensor) -> None:
    with pytest.raises(ConfigError, match=r"learns nothing from one: raise training\.batch"):
        OBJECTIVES[name](ppca.model(), {"image": x[:1]})


@every_objective
def test_held_out_data_may_end_with_a_batch_of_one(loss: Loss, ppca: PPCA, x: Tensor) -> None:
    with torch.no_grad():
        total, terms = loss(ppca.model(**WORSE), {"image": x[:1]})
    assert total.isfinite()
    assert all(term.isfinite() for term in terms.values())
    # It tells no other q(z) than its own q(z|x): there is no information, and nothing to set against p(z).
    for name in {"mutual_information", "total_correlation", "mmd", "off_diagonal"} & set(terms):
        assert abs(terms[name]) < 1e-12


# doubly reparameterised gradients


@pytest.mark.parametrize("K", [1, 2, 50])
def test_dreg_has_the_value_of_iwae(ppca: PPCA, x: Tensor, K: int) -> None:
    model = ppca.model(**WORSE)
    dreg, iwae = (with_seed(lambda loss=loss: loss(model, {"image": x}).total) for loss in (DReG(K), IWAE(K)))
    assert torch.allclose(dreg, iwae, rtol=1e-12)


def test_dreg_leaves_the_gradient_of_decoder_and_prior_alone(ppca: PPCA, x: Tensor) -> None:
    model = ppca.model(**WORSE)
    model.prior = build("nets/gaussian_mixture", latent_shape=(2,)).double()
    parameters = [*model.decoder.parameters(), *model.prior.parameters()]
    losses = DReG(samples=8), IWAE(samples=8)
    dreg, iwae = (
        torch.autograd.grad(with_seed(lambda loss=loss: loss(model, {"image": x}).total), parameters) for loss in losses
    )
    assert all(torch.allclose(a, b, rtol=1e-9, atol=1e-12) for a, b in zip(dreg, iwae, strict=True))
    assert all(a.abs().max() > 1e-6 for a in dreg)


def encoder_gradients(loss: Loss, ppca: PPCA, draws: int, shift: float, stretch: float) -> Tensor:
    """d loss / d (mu, log sigma) of a worse q(z|x) for one x, (draws, 2 D): one gradient for each of so many draws."""
    x = ppca.draw(1)
    mu = (ppca.posterior(x).mean + shift).repeat(draws, 1).requires_grad_()
    log_sigma = (stretch * ppca.s).log().repeat(draws, 1).requires_grad_()
    model = ppca.model()
    model.encoder = Given(gaussian(mu, log_sigma.exp()))
    loss(model, {"image": x.repeat(draws, 1, 1, 1)}).total.backward()
    return draws * torch.cat([mu.grad, log_sigma.grad], 1)


@pytest.mark.parametrize("K", [1, 2, 10])
def test_the_gradient_of_dreg_is_unbiased(ppca: PPCA, K: int) -> None:
    dreg, iwae = (
        with_seed(lambda loss=loss: encoder_gradients(loss, ppca, 20_000, **WORSE)) for loss in (DReG(K), IWAE(K))
    )
    # Of the same draws: their difference is what has the mean 0.
    assert near(dreg - iwae, 0.0)
    mean, error = mean_and_error(dreg)
    assert mean.norm() > 10 * error.norm()


def signal_to_noise(loss: Loss, ppca: PPCA) -> float:
    gradients = with_seed(lambda: encoder_gradients(loss, ppca, 4000, shift=0.1, stretch=1.3))
    return (gradients.mean(0).abs() / gradients.std(0)).mean().item()


def test_the_signal_of_iwae_drowns_with_k_and_that_of_dreg_rises(ppca: PPCA) -> None:
    """As 1/sqrt(K) and as sqrt(K): a factor of 4 for 16 times the samples."""
    assert signal_to_noise(IWAE(64), ppca) < 0.5 * signal_to_noise(IWAE(4), ppca)
    assert signal_to_noise(DReG(64), ppca) > 3 * signal_to_noise(DReG(4), ppca)


def test_at_the_exact_posterior_dreg_has_no_noise(ppca: PPCA, x: Tensor) -> None:
    model = ppca.model()
    parameters = list(model.encoder.parameters())
    dreg, iwae = (
        torch.autograd.grad(loss(model, {"image": x}).total, parameters) for loss in (DReG(samples=5), IWAE(samples=5))
    )
    assert all(g.abs().max() < 1e-9 for g in dreg)
    assert all(g.abs().max() > 1e-3 for g in iwae)


# several importance-weighted bounds


@pytest.mark.parametrize("K", [1, 2, 20])
def test_one_bound_of_miwae_is_iwae(ppca: PPCA, x: Tensor, K: int) -> None:
    model, losses = ppca.model(**WORSE), (MIWAE(bounds=1, samples=K), IWAE(samples=K))
    miwae, iwae = (with_seed(lambda loss=loss: loss(model, {"image": x}).total) for loss in losses)
    assert torch.allclose(miwae, iwae, rtol=1e-12)


@pytest.mark.parametrize("M", [1, 2, 20])
def test_bounds_of_one_sample_are_the_elbo_of_so_many(ppca: PPCA, x: Tensor, M: int) -> None:
    model = ppca.model(**WORSE)
    miwae = with_seed(lambda: MIWAE(bounds=M, samples=1)(model, {"image": x}).total)
    elbo = with_seed(lambda: model.log_weights(x, model.encoder(x), M)).mean()
    assert torch.allclose(miwae, -elbo, rtol=1e-12)


def test_more_bounds_have_the_mean_of_one_and_less_noise(ppca: PPCA, x: Tensor) -> None:
    model, losses = ppca.model(**WORSE), (MIWAE(bounds=9, samples=4), IWAE(samples=4))
    x = x.repeat(4, 1, 1, 1)
    with torch.no_grad():
        nine, one = (torch.stack([loss(model, {"image": x}).total for _ in range(250)]) for loss in losses)
    assert near(nine - one, 0.0)
    assert nine.std().item() == pytest.approx(one.std().item() / 3, rel=0.15)


# total correlation


def of_batch(loss: BetaTC, q: Distribution, p_z: Distribution) -> tuple[Tensor, Tensor, Tensor]:
    return loss.decompose(q, p_z, q.rsample())


@pytest.mark.parametrize("examples", [1, 3, 5, 10**6])
def test_the_three_terms_are_the_rate_of_the_same_draws(ppca: PPCA, x: Tensor, examples: int) -> None:
    model = ppca.model(**WORSE)
    q, p_z = model.encoder(x), model.prior()
    z = q.rsample()
    parts = BetaTC(examples).decompose(q, p_z, z)
    assert all(part.shape == (5,) for part in parts)
    assert torch.allclose(sum(parts), q.log_prob(z) - p_z.log_prob(z), rtol=0, atol=1e-12)


def test_with_weights_of_one_it_is_the_elbo_of_the_same_draws(ppca: PPCA, x: Tensor) -> None:
    model = ppca.model(**WORSE)
    total = with_seed(lambda: BetaTC(1000, beta=1.0)(model, {"image": x}).total)
    assert torch.allclose(total, -with_seed(lambda: model.log_weights(x, model.encoder(x), 1)).mean(), rtol=1e-12)


@many
@given(st.floats(0, 10), st.floats(0, 10), st.floats(0, 10))
def test_each_of_the_three_has_its_weight(alpha: float, beta: float, gamma: float) -> None:
    torch.manual_seed(1)
    ppca = PPCA.random()
    total, terms = BetaTC(1000, alpha, beta, gamma)(ppca.model(**WORSE), {"image": ppca.draw(5)})
    names = ("mutual_information", "total_correlation", "dimension_wise_kl")
    charged = sum(w * terms[name].item() for w, name in zip((alpha, beta, gamma), names, strict=True))
    assert total.item() == pytest.approx(terms["distortion"].item() + charged)
    assert terms["rate"].item() == pytest.approx(sum(terms[name].item() for name in names))


def mixture(mu: Tensor, sigma: float) -> MixtureSameFamily:
    """q(z) = 1/N Σ_n N(z; mu_n, sigma^2 I), as torch has it."""
    return MixtureSameFamily(Categorical(logits=mu.new_zeros(len(mu))), gaussian(mu, sigma))


def test_on_the_whole_data_set_the_densities_are_exact() -> None:
    mu = torch.randn(6, 2, dtype=torch.float64)
    q, p_z = gaussian(mu, 0.5), gaussian(torch.zeros(2, dtype=torch.float64), 1.0)
    z = q.sample()
    information, correlation, separate = BetaTC(examples=6).decompose(q, p_z, z)
    joint = mixture(mu, 0.5).log_prob(z)
    singly = sum(mixture(mu[:, j : j + 1], 0.5).log_prob(z[:, j : j + 1]) for j in range(2))
    assert torch.allclose(information, q.log_prob(z) - joint)
    assert torch.allclose(correlation, joint - singly)
    assert torch.allclose(separate, singly - p_z.log_prob(z))


def test_over_all_batches_with_an_example_the_estimate_of_its_density_is_exact() -> None:
    """Stratified sampling is unbiased: of 6 examples, every batch of 3 that holds the first."""
    mu = torch.randn(6, 2, dtype=torch.float64)
    p_z, z = gaussian(torch.zeros(2, dtype=torch.float64), 1.0), gaussian(mu, 0.5).sample()
    estimates = []
    for others in itertools.combinations(range(1, 6), 2):
        q = gaussian(mu[[0, *others]], 0.5)
        information, *_ = BetaTC(examples=6).decompose(q, p_z, z[[0, *others]])
        estimates.append((q.log_prob(z[[0, *others]]) - information)[0].exp())
    assert len(estimates) == 10
    assert torch.stack(estimates).mean().item() == pytest.approx(mixture(mu, 0.5).log_prob(z[0]).exp().item())


@pytest.mark.parametrize("examples", [1000, 10**6])
def test_the_three_terms_approach_those_of_a_gaussian_with_the_batch(examples: int) -> None:
    """mu ~ N(0, S), q(z|x) = N(mu, s^2 I) make q(z) = N(0, S + s^2 I), of which all three are known."""
    zero, s, S = torch.zeros(2).double(), 0.5, torch.tensor([[1.0, 0.8], [0.8, 1.0]]).double()
    C = S + s**2 * torch.eye(2)
    v = C.diagonal()
    known = [(C / s**2).logdet(), v.log().sum() - C.logdet(), (v - 1 - v.log()).sum()]  # 2.7, 0.53 and 0.05, halved

    def estimated(B: int) -> Tensor:
        batches = MultivariateNormal(zero, S).sample((100, B))
        of_each = [of_batch(BetaTC(examples), gaussian(mu, s), gaussian(zero, 1.0)) for mu in batches]
        return torch.stack([torch.stack(parts).mean(1) for parts in of_each])

    assert near(estimated(400), torch.stack(known) / 2)
    assert not near(estimated(10), torch.stack(known) / 2)  # so few examples tell q(z) badly


@pytest.mark.parametrize("examples", [1, 10, 60_000])
def test_the_information_is_at_most_that_which_tells_examples_apart(examples: int) -> None:
    q, p_z = gaussian(100 * torch.randn(8, 3), 0.1), gaussian(torch.zeros(3), 1.0)
    information, *_ = of_batch(BetaTC(examples), q, p_z)
    assert torch.allclose(information, torch.full((8,), math.log(examples)), atol=1e-4)


def test_one_dimension_has_no_total_correlation() -> None:
    q, p_z = gaussian(torch.randn(8, 1), 0.7), gaussian(torch.zeros(1), 1.0)
    _, correlation, _ = of_batch(BetaTC(100), q, p_z)
    assert torch.allclose(correlation, torch.zeros(8), atol=1e-5)


def test_a_grid_of_latents_is_taken_as_a_vector() -> None:
    mu = torch.randn(5, 2, 3, 4, dtype=torch.float64)
    z = mu + 0.1
    p_z = Independent(Normal(torch.zeros_like(mu[0]), 1.0), 3)
    grid = BetaTC(50).decompose(Independent(Normal(mu, 0.4), 3), p_z, z)
    flat = gaussian(mu.flatten(1), 0.4), gaussian(mu.new_zeros(24), 1.0), z.flatten(1)
    assert all(torch.allclose(a, b) for a, b in zip(grid, BetaTC(50).decompose(*flat), strict=True))


def test_total_correlation_takes_independent_latents(ppca: PPCA, x: Tensor) -> None:
    model = ppca.model()
    model.prior = build("nets/gaussian_mixture", latent_shape=(2,)).double()
    with pytest.raises(ConfigError, match=r"takes independent latents.* MixtureSameFamily"):
        BetaTC(1000)(model, {"image": x})


# maximum mean discrepancy


def test_the_discrepancy_of_a_distribution_with_itself_is_0_on_the_average() -> None:
    """From the smallest batches, where a biased estimate is far too high."""
    a, b = torch.randn(2, 5000, 4, 3, dtype=torch.float64)
    assert near(torch.vmap(InfoVAE().mmd)(a, b), 0.0)


@pytest.mark.parametrize(("shift", "sigma"), [(0.0, 1.0), (0.7, 1.0), (0.0, 0.4), (-1.0, 2.0)])
def test_the_discrepancy_of_two_gaussians_is_the_one_worked_out(shift: float, sigma: float) -> None:
    """E k(a, b) = (1 + v/w)^(-D/2) exp(-||m||^2 / 2 (w + v)) for a - b ~ N(m, v I), w = h^2 D."""
    loss, D = InfoVAE(bandwidths=[0.5, 1.5]), 3

    def kernel(shift: float, v: float) -> float:
        scales = [D * h**2 for h in loss.bandwidths]
        return sum((1 + v / w) ** (-D / 2) * math.exp(-D * shift**2 / (2 * (w + v))) for w in scales)

    known = kernel(0, 2 * sigma**2) + kernel(0, 2) - 2 * kernel(shift, 1 + sigma**2)
    a, b = torch.randn(2, 2000, 10, D, dtype=torch.float64)
    estimates = torch.vmap(loss.mmd)(shift + sigma * a, b)
    assert near(estimates, known)
    assert (known > 10 * mean_and_error(estimates)[1]) == ((shift, sigma) != (0.0, 1.0))


def test_the_kernel_is_a_sum_of_bells() -> None:
    a, b = torch.tensor([[0.0, 0.0], [3.0, 4.0]]), torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 8.0]])
    squared = torch.tensor([[0.0, 9.0, 64.0], [25.0, 16.0, 25.0]])
    expected = torch.exp(-squared / 4) + torch.exp(-squared / 100)  # 2 h^2 D for h = 1 and 5
    assert torch.allclose(InfoVAE(bandwidths=[1.0, 5.0]).kernel(a, b), expected)


@many
@given(st.floats(-5, 1), st.floats(0, 10))
def test_alpha_and_lambda_weigh_rate_and_discrepancy(alpha: float, more: float) -> None:
    torch.manual_seed(1)
    ppca, lambda_ = PPCA.random(), 1.1 - alpha + more
    total, terms = InfoVAE(alpha, lambda_)(ppca.model(**WORSE), {"image": ppca.draw(5)})
    expected = terms["distortion"] + (1 - alpha) * terms["rate"] + (alpha + lambda_ - 1) * terms["mmd"]
    assert total.item() == pytest.approx(expected.item())


def test_without_preference_and_discrepancy_it_is_the_elbo(ppca: PPCA, x: Tensor) -> None:
    losses, model = (InfoVAE(alpha=0.0, lambda_=1.0), ELBO()), ppca.model(**WORSE)
    info, elbo = (with_seed(lambda loss=loss: loss(model, {"image": x}).total) for loss in losses)
    assert torch.allclose(info, elbo, rtol=1e-12)


def test_the_discrepancy_pulls_the_codes_towards_the_prior() -> None:
    z = (1 + 0.2 * torch.randn(64, 2)).requires_grad_()
    optimizer = torch.optim.Adam([z], lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        InfoVAE().mmd(z, torch.randn(64, 2)).backward()
        optimizer.step()
    assert z.mean().abs() < 0.25
    assert 0.8 < z.std() < 1.3


def test_a_discrepancy_takes_a_kernel_and_a_price() -> None:
    with pytest.raises(ConfigError, match=r"^bandwidths: must name at least one, got \[\]$"):
        InfoVAE(bandwidths=[])
    with pytest.raises(ConfigError, match=r"^lambda_: must be at least 1 - alpha = 3\.0, got 1\.0$"):
        InfoVAE(alpha=-2.0, lambda_=1.0)


# disentangled inferred prior

CORNERS = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=3)), dtype=torch.float64)  # their covariance is I


def penalties(output: LossOutput) -> list[float]:
    return [output.terms[name].item() for name in ("off_diagonal", "diagonal")]


@pytest.mark.parametrize("centre", [0.0, 5.0])
def test_whitened_means_cost_nothing_in_dip_i(centre: float) -> None:
    output = DIPI()(*told(PPCA.random(latents=3), CORNERS + centre, 0.3))
    assert penalties(output) == pytest.approx([0, 0], abs=1e-20)
    assert output.total.item() == pytest.approx((output.terms["distortion"] + output.terms["rate"]).item())


@pytest.mark.parametrize("sigma", [0.1, 0.6, 1.0])
def test_whitened_latents_cost_nothing_in_dip_ii(sigma: float) -> None:
    """What the means vary and what q(z|x) is wide add up to 1."""
    ppca = PPCA.random(latents=3)
    assert penalties(DIPII()(*told(ppca, math.sqrt(1 - sigma**2) * CORNERS, sigma))) == pytest.approx([0, 0], abs=1e-20)
    assert penalties(DIPII()(*told(ppca, CORNERS, sigma))) == pytest.approx([0, 3 * sigma**4])


@many
@given(st.floats(-3, 3), st.floats(0, 50), st.floats(0, 50))
def test_the_penalties_worked_out_by_hand(a: float, lambda_od: float, lambda_d: float) -> None:
    """mu = ±(1, a) has the covariance ((1, a), (a, a^2))."""
    ppca, mu, sigma = PPCA.random(), torch.tensor([[1.0, a], [-1.0, -a]]).double(), torch.tensor([0.5, 2.0]).double()
    off, on_i, on_ii = 2 * a**2, (a**2 - 1) ** 2, 0.25**2 + (a**2 + 3) ** 2
    for loss, on in ((DIPI(lambda_od, lambda_d), on_i), (DIPII(lambda_od, lambda_d), on_ii)):
        output = loss(*told(ppca, mu, sigma))
        assert penalties(output) == pytest.approx([off, on])
        elbo = output.terms["distortion"] + output.terms["rate"]
        assert output.total.item() == pytest.approx(elbo.item() + lambda_od * off + lambda_d * on)


def test_the_covariance_of_dip_ii_is_that_of_the_draws() -> None:
    mu, sigma = torch.randn(10, 3, dtype=torch.float64), torch.rand(10, 3, dtype=torch.float64)
    q = gaussian(mu, sigma)
    assert torch.allclose(DIPI().covariance(q), torch.cov(mu.T, correction=0))
    z = q.sample((20_000,)).flatten(0, 1) - mu.mean(0)
    assert near(z.unsqueeze(2) * z.unsqueeze(1), DIPII().covariance(q))


@pytest.mark.parametrize("loss", [DIPI(), DIPII()], ids=["dip_i", "dip_ii"])
def test_a_dip_does_not_depend_on_how_often_a_batch_is_repeated(loss: Loss) -> None:
    mu = torch.randn(5, 2, dtype=torch.float64)
    once, often = (penalties(loss(*told(PPCA.random(), mu.repeat(n, 1), 0.5))) for n in (1, 8))
    assert once == pytest.approx(often)


@pytest.mark.parametrize("loss", ["vae/dip_i", "vae/dip_ii"])
def test_a_dip_takes_vectors(loss: str) -> None:
    encoder = {"type": "nets/conv_encoder", "latents": 2, "channels": [2, 2], "layout": "grid"}
    decoder = {"type": "nets/conv_decoder", "channels": [2, 2]}
    parts = {"encoder": encoder, "decoder": decoder, "prior": "nets/standard_normal"}
    model = build({"type": "vae/vae", **parts}, data_shape=(1, 8, 8))
    with pytest.raises(ConfigError, match=r"take latents that are vectors.* got shape \(2, 2, 2\)"):
        build(loss)(model, {"image": torch.rand(3, 1, 8, 8)})


def test_dip_ii_takes_independent_latents_and_dip_i_any() -> None:
    mu = torch.randn(5, 2)
    q = MultivariateNormal(mu, torch.tensor([[1.0, 0.5], [0.5, 1.0]]))
    assert torch.allclose(DIPI().covariance(q), torch.cov(mu.T, correction=0))
    with pytest.raises(ConfigError, match=r"dip_ii takes independent latents.* MultivariateNormal"):
        DIPII().covariance(q)


# capacity


@many
@given(st.integers(1, 1000), st.integers(0, 2000), st.floats(0, 50))
def test_the_capacity_rises_linearly_from_0(warmup: int, step: int, capacity: float) -> None:
    loss = Capacity(capacity=capacity, warmup=warmup)
    assert loss.reached() == capacity  # a loss that no training loop has told a step has ended its schedule
    loss.step = step
    assert loss.reached() == pytest.approx(capacity * step / warmup if step < warmup else capacity)
    assert Capacity(capacity=capacity, warmup=0).reached() == capacity


MU = torch.tensor([[0.0, 0.0], [2.0, 0.0]], dtype=torch.float64)  # KL(N(mu, I) || N(0, I)) = 0 and 2 nats


@pytest.mark.parametrize(("step", "charged"), [(0, 1.0), (2, 1.0), (9, 2.6), (10, 3.0), (99, 3.0), (None, 3.0)])
def test_each_example_pays_for_its_distance_from_the_capacity(step: int | None, charged: float) -> None:
    """C = 0, 0.8, 3.6, 4 against rates of 0 and 2: 1/2 (|0 - C| + |2 - C|), which no mean rate would tell."""
    loss = Capacity(gamma=7.0, capacity=4.0, warmup=10)
    loss.step = step
    total, terms = loss(*told(PPCA.random(), MU, 1.0))
    assert (total - terms["distortion"]).item() == pytest.approx(7 * charged)
    assert terms["rate"].item() == pytest.approx(1)
    assert terms["capacity"].item() == pytest.approx(loss.reached())


@pytest.mark.parametrize(("capacity", "sign"), [(1.0, 1.0), (3.0, -1.0)])
def test_the_rate_is_drawn_to_the_capacity_from_either_side(capacity: float, sign: float) -> None:
    """The gradient of gamma |KL - C| is gamma mu above C and -gamma mu below, meaned over the batch."""
    mu = MU[1:].clone().requires_grad_()
    ppca = PPCA.random()
    model, batch = told(ppca, mu, 1.0)
    losses = Capacity(gamma=100.0, capacity=capacity), ELBO(beta=0.0)
    with_rate, without = (torch.autograd.grad(with_seed(lambda f=f: f(model, batch).total), mu)[0] for f in losses)
    assert torch.allclose(with_rate - without, sign * 100 * mu.detach())
