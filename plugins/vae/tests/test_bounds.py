"""Bounds on log p(x) against the log p(x) of probabilistic PCA, which is known exactly."""

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.distributions import kl_divergence
from zoo_vae.elbo import ELBO
from zoo_vae.iwae import IWAE

from tests.ppca import PPCA
from zoo_core import ConfigError, Loss, build, default_host, kl, kl_per_dimension
from zoo_core.host import Registration

many = settings(max_examples=60, deadline=None, derandomize=True, database=None)
WORSE = {"shift": 0.3, "stretch": 1.6}
COPIES = 8  # of a batch that are evaluated at once


def bounds() -> list[Registration]:
    return [r for r in default_host().registrations("loss") if r.spec.bound]


every_bound = pytest.mark.parametrize("bound", bounds(), ids=lambda r: r.full_name)


def repeated(loss: Loss, model: Any, x: Tensor, times: int = 200) -> tuple[float, float]:
    """The mean of so many evaluations of a loss on x, each with draws of its own, and its standard error."""
    batches = times // COPIES
    with torch.no_grad():
        totals = torch.stack([loss(model, {"image": copies(x)}).total for _ in range(batches)])
    return totals.mean().item(), totals.std().item() / math.sqrt(batches)


def copies(x: Tensor) -> Tensor:
    """Each of them has draws of its own."""
    return x.repeat(COPIES, 1, 1, 1)


def near(value: float, expected: float, error: float) -> bool:
    """Within Monte-Carlo error; to 1e-9 where there is none."""
    return abs(value - expected) < 5 * error + 1e-9


# the reference itself


def test_rotating_the_columns_of_w_leaves_the_density_alone() -> None:
    W, b = torch.randn(6, 3, dtype=torch.float64), torch.randn(6, dtype=torch.float64)
    ppca, x = PPCA(W, b, 0.4), torch.randn(4, 1, 3, 2)
    gram = ppca.W.T @ ppca.W
    assert torch.allclose(gram, gram.diagonal().diag(), atol=1e-12)
    assert torch.allclose(ppca.W @ ppca.W.T, W @ W.T)
    joint = ppca.posterior(x).log_prob(z := torch.randn(4, 3, dtype=torch.float64)) + ppca.log_prob(x)
    model = ppca.model()
    # p(z|x) p(x) = p(x|z) p(z): the posterior and the density are those of the model's own parts.
    assert torch.allclose(model.decoder(z).log_prob(x) + model.prior().log_prob(z), joint)


def test_the_linear_encoder_is_the_exact_posterior(ppca: PPCA, x: Tensor) -> None:
    q, p = ppca.model().encoder(x), ppca.posterior(x)
    assert torch.allclose(q.mean, p.mean)
    assert torch.allclose(q.stddev, p.stddev)
    assert torch.allclose(kl(ppca.model(**WORSE).encoder(x), p), torch.tensor(ppca.gap(**WORSE), dtype=torch.float64))


# every bound


@every_bound
def test_every_bound_is_exact_at_the_exact_posterior(bound: Registration, ppca: PPCA, x: Tensor) -> None:
    value, error = repeated(build(bound.full_name), ppca.model(), x)
    assert near(-value, ppca.log_prob(x).mean().item(), error)


@every_bound
def test_every_bound_is_below_with_a_worse_posterior(bound: Registration, ppca: PPCA, x: Tensor) -> None:
    value, error = repeated(build(bound.full_name), ppca.model(shift=1.0, stretch=0.5), x)
    assert -value + 5 * error < ppca.log_prob(x).mean()


@every_bound
def test_every_bound_is_a_mean_over_the_batch(bound: Registration, ppca: PPCA, x: Tensor) -> None:
    """Eight copies of a batch cost what one does: nothing is summed over the batch, or divided by pixels."""
    loss, model = build(bound.full_name), ppca.model(**WORSE)
    (one, e), (eight, f) = (repeated(loss, model, batch) for batch in (x, x.repeat(8, 1, 1, 1)))
    assert near(one, eight, math.hypot(e, f))


@every_bound
def test_every_bound_refuses_a_posterior_without_a_density(bound: Registration) -> None:
    encoder = {"type": "nets/linear_encoder", "latents": 2, "posterior": "nets/dirac"}
    parts = {"encoder": encoder, "decoder": "nets/linear_decoder", "prior": "nets/standard_normal"}
    model = build({"type": "vae/vae", **parts}, data_shape=(1, 3, 2))
    with pytest.raises(ConfigError, match="a Dirac has no density"):
        build(bound.full_name)(model, {"image": torch.rand(2, 1, 3, 2)})


@every_bound
def test_a_step_along_a_bounds_gradient_closes_the_gap(bound: Registration, ppca: PPCA) -> None:
    """From a worse q, training the encoder alone brings -loss up to log p(x), which it cannot pass."""
    x, model, loss = ppca.draw(64), ppca.model(shift=0.5, stretch=2.0), build(bound.full_name)
    optimizer = torch.optim.Adam(model.encoder.parameters())
    for step in range(steps := 120):
        optimizer.param_groups[0]["lr"] = 0.06 * (1 - step / steps)
        optimizer.zero_grad()
        loss(model, {"image": x}).total.backward()
        optimizer.step()
    value, error = repeated(loss, model, x)
    assert ppca.log_prob(x).mean() - 0.1 < -value < ppca.log_prob(x).mean() + 5 * error + 1e-9


# the ELBO


@pytest.mark.parametrize(("shift", "stretch"), [(0.0, 1.0), (0.3, 1.6), (-1.0, 0.2)])
def test_log_p_is_the_elbo_plus_the_kl_to_the_posterior(ppca: PPCA, x: Tensor, shift: float, stretch: float) -> None:
    """log p(x) = ELBO + KL(q || p(z|x)), without any sampling."""
    model = ppca.model(shift, stretch)
    q = model.encoder(x)
    gap = kl_divergence(q.base_dist, ppca.posterior(x).base_dist).sum(1)
    assert torch.allclose(ppca.elbo(x, q) + gap, ppca.log_prob(x), rtol=0, atol=1e-5)
    assert torch.allclose(gap, torch.full_like(gap, ppca.gap(shift, stretch)))


def test_the_elbo_has_the_value_worked_out_by_hand(ppca: PPCA, x: Tensor) -> None:
    model = ppca.model(**WORSE)
    value, error = repeated(ELBO(), model, x, times=2000)
    assert error < 0.05
    assert near(-value, ppca.elbo(x, model.encoder(x)).mean().item(), error)


def test_the_terms_of_the_elbo_are_distortion_and_rate(ppca: PPCA, x: Tensor) -> None:
    model = ppca.model(**WORSE)
    output = ELBO()(model, {"image": x})
    q = model.encoder(x)
    rate = 0.5 * (q.mean.square() + q.variance - 1 - q.variance.log()).sum(1).mean()
    assert output.terms["rate"].item() == pytest.approx(rate.item())
    assert output.total.item() == pytest.approx(sum(term.item() for term in output.terms.values()))
    assert not any(term.requires_grad for term in output.terms.values())


@many
@given(st.floats(0, 10))
def test_beta_weighs_the_rate(beta: float) -> None:
    torch.manual_seed(1)
    ppca = PPCA.random()
    total, terms = ELBO(beta=beta)(ppca.model(**WORSE), {"image": ppca.draw(5)})
    assert total.item() == pytest.approx((terms["distortion"] + beta * terms["rate"]).item())


@pytest.mark.parametrize("size", [1, 2, 7])
def test_the_elbo_does_not_depend_on_the_batch_size(ppca: PPCA, size: int) -> None:
    """The mean of single losses is the loss of the batch, with a q so narrow that its draws are its mean."""
    x, model, loss = ppca.draw(size), ppca.model(shift=0.3, stretch=1e-8), ELBO()
    singly = torch.stack([loss(model, {"image": x[i : i + 1]}).total for i in range(size)])
    assert torch.allclose(loss(model, {"image": x}).total, singly.mean(), rtol=1e-6)


# warm-up


@many
@given(st.integers(1, 1000), st.integers(0, 2000), st.floats(0, 8))
def test_a_warm_up_raises_beta_linearly_from_0(warmup: int, step: int, beta: float) -> None:
    loss = ELBO(beta=beta, warmup=warmup)
    assert loss.weight() == beta  # a loss that no training loop has told a step has ended its schedule
    loss.step = step
    assert loss.weight() == pytest.approx(beta * step / warmup if step < warmup else beta)


def test_a_warm_up_weighs_the_loss(ppca: PPCA, x: Tensor) -> None:
    loss, model = ELBO(beta=2.0, warmup=10), ppca.model(**WORSE)
    for step, weight in [(0, 0.0), (5, 1.0), (10, 2.0), (99, 2.0), (None, 2.0)]:
        loss.step = step
        total, terms = loss(model, {"image": x})
        assert total.item() == pytest.approx((terms["distortion"] + weight * terms["rate"]).item())
    assert ELBO(warmup=0).weight() == 1


# free bits


def constant_posterior(mu: list[float], sigma: list[float]) -> Any:
    """A model whose q(z|x) is the same for every x, with a KL known for each dimension."""
    model = PPCA.random(latents=len(mu)).model()
    weight, bias = model.encoder.parameters()
    nn.init.zeros_(weight)
    with torch.no_grad():
        bias.copy_(torch.tensor(mu + [math.log(s) for s in sigma]))
    return model


def rates(mu: list[float], sigma: list[float]) -> list[float]:
    return [0.5 * (m**2 + s**2 - 1 - 2 * math.log(s)) for m, s in zip(mu, sigma, strict=True)]


MU, SIGMA = [0.1, 2.0, 0.0], [0.9, 0.3, 1.0]  # 0.01, 2.75 and 0 nats


@pytest.mark.parametrize("bits", [0.001, 0.5, 1.0, 3.0, 100.0])
def test_free_bits_charge_each_dimension_its_floor_at_least(bits: float) -> None:
    floor = bits * math.log(2)
    total, terms = ELBO(free_bits=bits)(constant_posterior(MU, SIGMA), {"image": torch.rand(4, 1, 3, 2)})
    charged = sum(max(rate, floor) for rate in rates(MU, SIGMA))
    assert (total - terms["distortion"]).item() == pytest.approx(charged)
    assert terms["rate"].item() == pytest.approx(sum(rates(MU, SIGMA)))


def test_free_bits_pull_nothing_under_the_floor() -> None:
    model, x = constant_posterior(MU, SIGMA), torch.rand(4, 1, 3, 2)
    ELBO(free_bits=1.0).above_free_bits(model.encoder(x), model.prior()).backward()
    _, bias = model.encoder.parameters()
    mu_grad, log_sigma_grad = bias.grad.chunk(2)
    # d KL_j / d mu_j = mu_j and d KL_j / d log sigma_j = sigma_j^2 - 1, for the one dimension above the floor.
    assert torch.allclose(mu_grad, torch.tensor([0.0, 2.0, 0.0], dtype=torch.float64))
    assert torch.allclose(log_sigma_grad, torch.tensor([0.0, 0.3**2 - 1, 0.0], dtype=torch.float64))


def test_free_bits_are_counted_on_the_mean_over_the_batch(ppca: PPCA, x: Tensor) -> None:
    """A dimension that is used by some examples only is charged for what it costs on the average."""
    model = ppca.model()
    q, p_z = model.encoder(10 * x), model.prior()
    mean = kl_per_dimension(q, p_z).mean(0)
    bits = mean.mean().item() / math.log(2)
    expected = mean.clamp(min=mean.mean()).sum()
    assert torch.allclose(ELBO(free_bits=bits).above_free_bits(q, p_z), expected)
    assert expected > mean.sum()


def test_free_bits_are_weighted_by_beta_and_its_warm_up() -> None:
    model, x = constant_posterior(MU, SIGMA), torch.rand(4, 1, 3, 2)
    loss = ELBO(beta=3.0, free_bits=2.0, warmup=4)
    loss.step = 2
    total, terms = loss(model, {"image": x})
    charged = sum(max(rate, 2 * math.log(2)) for rate in rates(MU, SIGMA))
    assert (total - terms["distortion"]).item() == pytest.approx(1.5 * charged)


def test_free_bits_need_a_rate_per_dimension(ppca: PPCA, x: Tensor) -> None:
    model = ppca.model()
    model.prior = build("nets/gaussian_mixture", latent_shape=(2,)).double()
    assert ELBO()(model, {"image": x}).total.isfinite()
    with pytest.raises(ConfigError, match="does not split into dimensions"):
        ELBO(free_bits=1.0)(model, {"image": x})


# importance weights


@pytest.mark.parametrize("k", [1, 2, 7, 50])
def test_at_the_exact_posterior_every_importance_weight_is_p_of_x(ppca: PPCA, x: Tensor, k: int) -> None:
    model, exact = ppca.model(), ppca.log_prob(x)
    log_w = model.log_weights(x, model.encoder(x), k)
    assert log_w.shape == (k, 5)
    assert torch.allclose(log_w, exact.expand(k, 5), rtol=0, atol=1e-4)
    assert torch.allclose(model.log_prob(x, samples=k), exact, rtol=0, atol=1e-9)
    total, terms = IWAE(samples=k)(model, {"image": x})
    assert -total.item() == pytest.approx(exact.mean().item(), abs=1e-9)
    assert terms["elbo"].item() == pytest.approx(exact.mean().item(), abs=1e-9)


def test_the_bound_rises_with_k_towards_log_p(ppca: PPCA, x: Tensor) -> None:
    model = ppca.model(**WORSE)
    exact, measured = ppca.log_prob(x).mean().item(), []
    for K in (1, 4, 16, 64):
        value, error = repeated(IWAE(samples=K), model, x, times=1000)
        measured.append((-value, error))
    assert near(measured[0][0], exact - ppca.gap(**WORSE), measured[0][1])
    for (lower, e), (higher, f) in itertools.pairwise(measured):
        assert higher - lower > 5 * math.hypot(e, f)
    value, error = measured[-1]
    assert exact - 0.1 < value < exact + 5 * error


def test_one_importance_weight_is_the_elbo(ppca: PPCA, x: Tensor) -> None:
    """In expectation; the term ``elbo`` is so for any number of them."""
    model = ppca.model(**WORSE)
    exact = ppca.elbo(x, model.encoder(x)).mean().item()
    value, error = repeated(IWAE(samples=1), model, x, times=2000)
    assert near(-value, exact, error)
    with torch.no_grad():
        elbos = torch.stack([IWAE(samples=10)(model, {"image": copies(x)}).terms["elbo"] for _ in range(125)])
    assert near(elbos.mean().item(), exact, elbos.std().item() / math.sqrt(125))


@pytest.mark.parametrize("size", [1, 2, 7])
def test_importance_weights_do_not_depend_on_the_batch_size(ppca: PPCA, size: int) -> None:
    x, model, loss = ppca.draw(size), ppca.model(), IWAE(samples=3)
    singly = torch.stack([loss(model, {"image": x[i : i + 1]}).total for i in range(size)])
    assert torch.allclose(loss(model, {"image": x}).total, singly.mean(), rtol=1e-9)


@many
@given(st.integers(1, 20), st.integers(1, 25))
def test_chunks_of_weights_are_put_together_exactly(samples: int, chunk: int) -> None:
    """log 1/K Σ w from chunks, the last of which may be smaller, is that of all weights at once."""
    torch.manual_seed(2)
    ppca = PPCA.random()
    x, model = ppca.draw(3), ppca.model(**WORSE)
    drawn: list[Tensor] = []

    def remembered(x: Tensor, q: Any, k: int) -> Tensor:
        drawn.append(type(model).log_weights(model, x, q, k))
        return drawn[-1]

    model.log_weights = remembered
    value = model.log_prob(x, samples=samples, chunk=chunk)
    every = torch.cat(drawn)
    assert every.shape == (samples, 3)
    assert max(map(len, drawn)) <= chunk
    assert torch.allclose(value, every.exp().mean(0).log())


def test_chunks_change_the_draws_but_not_what_they_estimate(ppca: PPCA, x: Tensor) -> None:
    model, many_x = ppca.model(**WORSE), x.repeat(1000, 1, 1, 1)
    with torch.no_grad():
        whole, parts = (model.log_prob(many_x, samples=12, chunk=chunk).view(1000, len(x)).mean(1) for chunk in (12, 5))
    error = math.hypot(whole.std().item(), parts.std().item()) / math.sqrt(1000)
    assert near(whole.mean().item(), parts.mean().item(), error)
    assert parts.std().item() == pytest.approx(whole.std().item(), rel=0.2)


def test_weights_too_small_for_float32_keep_their_logarithm() -> None:
    """On large pictures p(x, z) / q(z|x) underflows; its logarithm must not."""
    parts = {"encoder": {"type": "nets/linear_encoder", "latents": 2}, "decoder": "nets/linear_decoder"}
    model = build({"type": "vae/vae", **parts, "prior": "nets/standard_normal"}, data_shape=(1, 40, 40))
    x = 10 * torch.randn(2, 1, 40, 40)
    value = model.log_prob(x, samples=6, chunk=4)
    assert value.isfinite().all()
    assert (value < -10_000).all()
