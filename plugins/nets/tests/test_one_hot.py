"""One-hot latents against torch's own categorical distributions, and against every value they can have."""

import itertools
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, Normal, OneHotCategorical, kl_divergence
from zoo_nets.one_hot import OneHot
from zoo_nets.posteriors import OneHotPosterior
from zoo_nets.priors import StandardNormal, UniformOneHot

from zoo_core import ConfigError, build, has_closed_form_kl, kl

LAYOUTS = [(), (2,), (2, 3)]  # of positions
layouts = pytest.mark.parametrize("positions", LAYOUTS, ids=str)


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def one_hot(*leading: int, variables: int = 2, classes: int = 3, positions: tuple[int, ...] = ()) -> OneHot:
    return OneHot(normal(*leading, variables * classes, *positions), classes, 1 + len(positions))


def by_torch(q: OneHot) -> Independent:
    """The same with an event of (variables, *positions, classes)."""
    logits = grouped(q, q.logits)
    return Independent(OneHotCategorical(logits=logits), len(q.event_shape))


def grouped(q: OneHot, z: Tensor) -> Tensor:
    return z.unflatten(q.dim, (-1, q.classes)).movedim(q.dim, -1)


def every_value(variables: int, classes: int) -> Tensor:
    """All z of so many one-hot vectors, (classes^variables, L)."""
    unit = torch.eye(classes, dtype=torch.float64)
    return torch.stack([torch.cat(values) for values in itertools.product(unit, repeat=variables)])


# the distribution


@layouts
def test_it_is_torchs_categorical_variable_by_variable(positions: tuple[int, ...]) -> None:
    q = one_hot(5, positions=positions)
    p, z = by_torch(q), q.sample((4,))
    assert (q.batch_shape, q.event_shape) == ((5,), (6, *positions))
    assert torch.allclose(q.log_prob(z), p.log_prob(grouped(q, z)))
    assert torch.allclose(q.entropy(), p.entropy())
    assert torch.allclose(grouped(q, q.mean), p.mean)
    assert torch.allclose(grouped(q, q.variance), p.variance)


@layouts
def test_a_draw_is_made_of_one_hot_vectors(positions: tuple[int, ...]) -> None:
    q = one_hot(5, positions=positions)
    z = q.sample((7,))
    assert z.shape == (7, 5, 6, *positions)
    assert set(z.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(grouped(q, z).sum(-1), torch.ones(7, 5, 2, *positions, dtype=z.dtype))
    assert q.support.check(z).all()
    assert not z.requires_grad


def test_probabilities_of_all_values_add_up_to_1() -> None:
    q, z = one_hot(variables=3, classes=4), every_value(3, 4)
    P = q.log_prob(z).exp()
    assert P.sum().item() == pytest.approx(1)
    assert torch.allclose(P @ z, q.mean)
    assert q.entropy().item() == pytest.approx(-(P * P.log()).sum().item())


@layouts
@pytest.mark.parametrize("temperature", [0.1, 1.0, 3.0])
def test_draws_and_rounded_relaxed_ones_follow_the_probabilities(
    positions: tuple[int, ...], temperature: float
) -> None:
    q, n = one_hot(positions=positions), 20_000
    for z in (q.sample((n,)), q.rounded(q.relaxed(temperature, (n,)))):
        error = (q.variance / n).sqrt()
        assert ((z.mean(0) - q.mean).abs() < 5 * error).all()
        # Two variables, and two positions, know nothing of each other.
        flat = z.flatten(1) - q.mean.flatten()
        covariance = (flat[:, :1] * flat[:, 3:]) if not positions else flat[:, :1] * flat[:, 1 : positions[-1]]
        assert (covariance.mean(0).abs() < 5 * covariance.std(0) / math.sqrt(n)).all()


@pytest.mark.parametrize("temperature", [0.3, 1.0])
def test_a_relaxed_draw_has_the_density_of_the_concrete_distribution(temperature: float) -> None:
    """Of two classes, logit z_1 is logistic of location (h_1 - h_2) / tau and scale 1 / tau."""
    h = torch.tensor([0.7, -0.4], dtype=torch.float64)
    z = OneHot(h, 2).relaxed(temperature, (20_000,))
    assert torch.allclose(z.sum(-1), torch.ones(20_000, dtype=torch.float64))
    uniform = (temperature * (z[:, 0].log() - z[:, 1].log()) - 1.1).sigmoid().sort().values
    ranks = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    # Kolmogorov and Smirnov: beyond 2.2 / sqrt(n) once in 15 000 times.
    assert (uniform - ranks).abs().max() < 2.2 / math.sqrt(20_000)


def test_a_relaxed_draw_sharpens_as_the_temperature_falls() -> None:
    q = one_hot(500)

    def blur(temperature: float) -> float:
        z = q.relaxed(temperature)
        return (z - q.rounded(z)).abs().sum(1).mean().item()

    assert blur(0.01) < 0.1 < blur(0.3) < blur(1.0) < blur(10.0)


def test_a_relaxed_draw_has_a_gradient_and_a_draw_refuses_to() -> None:
    h = normal(4, 6).requires_grad_()
    q = OneHot(h, 3)
    (weight := normal(4, 6)).mul(q.relaxed(0.5)).sum().backward()
    assert h.grad is not None
    assert (h.grad != 0).all()
    assert weight.shape == h.grad.shape
    assert not q.has_rsample
    with pytest.raises(ConfigError, match=r"no gradient.*score_function.*gumbel_softmax.*straight_through.*no_grad"):
        q.rsample()
    with torch.no_grad():
        assert q.support.check(q.rsample((3,))).all()
    assert OneHot(h.detach(), 3).rsample().shape == (4, 6)


def test_no_features_are_too_large() -> None:
    h = (1e4 * torch.randn(3, 6)).requires_grad_()
    q = OneHot(h, 3)
    (kl(q, OneHot(torch.zeros(6), 3)) + q.log_prob(q.sample()) + q.entropy() + q.relaxed(0.1).sum(1)).sum().backward()
    assert h.grad is not None
    assert h.grad.isfinite().all()


@pytest.mark.parametrize("wrong", [[0.5, 0.5, 0], [1, 1, 0], [0, 0, 0], [2, -1, 0]], ids=str)
def test_what_is_not_made_of_one_hot_vectors_has_no_probability(wrong: list[float]) -> None:
    q, z = one_hot(), torch.tensor([*wrong, 0, 1, 0], dtype=torch.float64)
    assert not q.support.check(z)
    with pytest.raises(ConfigError, match="not made of one-hot vectors"):
        q.log_prob(z)


def test_expanding_changes_nothing_but_the_batch() -> None:
    q = one_hot(positions=(2,))
    wide = q.expand((4, 5))
    z = wide.sample()
    assert (wide.batch_shape, wide.event_shape, z.shape) == ((4, 5), (6, 2), (4, 5, 6, 2))
    assert torch.equal(wide.log_prob(z), q.log_prob(z))
    assert torch.equal(wide.entropy(), q.entropy().expand(4, 5))


# the KL


@layouts
def test_the_kl_is_torchs(positions: tuple[int, ...]) -> None:
    q, p = one_hot(5, positions=positions), one_hot(5, positions=positions)
    assert has_closed_form_kl(q, p)
    assert torch.allclose(kl(q, p), kl_divergence(by_torch(q), by_torch(p)))


def test_the_kl_is_the_mean_of_the_log_ratio_over_all_values() -> None:
    q, p, z = one_hot(), one_hot(), every_value(2, 3)
    P = q.log_prob(z).exp()
    assert kl(q, p).item() == pytest.approx((P * (q.log_prob(z) - p.log_prob(z))).sum().item())
    assert kl(q, q).item() == pytest.approx(0, abs=1e-12)


@layouts
def test_the_kl_to_the_uniform_is_what_entropy_is_missing(positions: tuple[int, ...]) -> None:
    q = one_hot(5, positions=positions)
    p = UniformOneHot((6, *positions), classes=3).double()()
    variables = 2 * math.prod(positions)
    assert kl(q, p).shape == (5,)
    assert torch.allclose(kl(q, p), variables * math.log(3) - q.entropy())


def test_classes_of_another_number_are_another_distribution() -> None:
    with pytest.raises(ConfigError, match="the posterior has 3 and the prior 2"):
        kl(one_hot(4), UniformOneHot((6,), classes=2).double()())


def test_a_gaussian_and_one_hot_vectors_have_no_kl() -> None:
    z = normal(4, 6)
    with pytest.raises(ConfigError, match="density of volume, the other of counted values"):
        kl(Independent(Normal(z, 1.0), 1), UniformOneHot((6,), classes=3).double()(), z)


# posterior and prior


def test_the_prior_is_uniform_over_all_values() -> None:
    p = UniformOneHot((6,), classes=3).double()
    assert torch.allclose(p().log_prob(every_value(2, 3)).exp(), torch.full((9,), 1 / 9, dtype=torch.float64))
    assert torch.allclose(p.log_prob(p.draw(5)), torch.full((5,), -2 * math.log(3), dtype=torch.float64))
    assert p().batch_shape == ()


def test_the_posterior_has_the_logits_as_features() -> None:
    h = normal(4, 6, 2)
    q = OneHotPosterior(classes=3)(h, 2)
    assert torch.allclose(q.mean, h.unflatten(1, (2, 3)).softmax(2).flatten(1, 2))
    assert OneHotPosterior(classes=3).channels(6) == 6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_probabilities_are_computed_in_float32(dtype: torch.dtype) -> None:
    q = OneHotPosterior(classes=3)(normal(4, 6).to(dtype), 1)
    assert q.mean.dtype == q.sample().dtype == q.log_prob(q.sample()).dtype == torch.float32
    assert UniformOneHot((6,), classes=3).to(dtype)().sample().dtype == torch.float32


@pytest.mark.parametrize(("latents", "near"), [(7, 10), (3, 5), (11, 15)])
def test_latents_that_the_classes_do_not_fill_are_refused(latents: int, near: int) -> None:
    posterior = {"type": "nets/one_hot", "classes": 5}
    told = rf"latents: must be a multiple of the 5 classes of a one-hot vector, such as {near}; got {latents}"
    with pytest.raises(ConfigError, match=rf"^{told}$"):
        build({"type": "nets/mlp_encoder", "latents": latents, "posterior": posterior}, data_shape=(1, 8, 8))
    with pytest.raises(ConfigError, match=told):
        build({"type": "nets/uniform_one_hot", "classes": 5}, latent_shape=(latents,))


def discrete(layout: str) -> Any:
    encoder = {"type": "nets/conv_encoder", "latents": 6, "channels": [4, 4], "layout": layout}
    parts = {
        "encoder": {**encoder, "posterior": {"type": "nets/one_hot", "classes": 3}},
        "decoder": {"type": "nets/conv_decoder", "channels": [4, 4]},
        "prior": {"type": "nets/uniform_one_hot", "classes": 3},
    }
    return build({"type": "vae/vae", **parts}, data_shape=(1, 8, 8))


@pytest.mark.parametrize("layout", ["vector", "grid"])
def test_a_model_of_discrete_latents_samples_and_is_measured(layout: str) -> None:
    model, x = discrete(layout), torch.rand(5, 1, 8, 8).round()
    assert model.sample(3, noise=True).shape == (3, 1, 8, 8)
    with torch.no_grad():
        few, many = (model.log_prob(x.repeat(200, 1, 1, 1), samples=k).mean().item() for k in (1, 20))
    assert few < many
    metric = build({"type": "metrics/elbo", "samples": 100})
    metric.update(model, {"image": x})
    assert metric.compute()["elbo"].value == pytest.approx(few, abs=0.5)


@pytest.mark.parametrize("loss", ["elbo", "iwae", "dreg", "miwae", "info", "dip_i", "dip_ii", "capacity", "factor"])
def test_losses_that_need_a_gradient_of_z_name_those_that_do_not(loss: str) -> None:
    model, batch = discrete("vector"), {"image": torch.rand(5, 1, 8, 8).round()}
    with pytest.raises(ConfigError, match="vae/score_function, vae/gumbel_softmax or vae/straight_through"):
        build(f"vae/{loss}", latent_shape=(6,))(model, batch)


@pytest.mark.parametrize("loss", ["score_function", "gumbel_softmax", "straight_through"])
def test_losses_of_discrete_latents_want_a_prior_of_them(loss: str) -> None:
    model, batch = discrete("vector"), {"image": torch.rand(5, 1, 8, 8).round()}
    assert build(f"vae/{loss}")(model, batch).total.isfinite()
    model.prior = StandardNormal((6,))
    with pytest.raises(ConfigError, match="let posterior and prior be nets/one_hot and nets/uniform_one_hot"):
        build(f"vae/{loss}")(model, batch)
