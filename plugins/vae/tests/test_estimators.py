"""Gradients of the ELBO by several estimators, against closed forms and sums over every value of discrete latents."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.distributions import Bernoulli, Distribution, Independent, MultivariateNormal, Normal, OneHotCategorical
from zoo_vae.elbo import ELBO
from zoo_vae.gumbel_softmax import GumbelSoftmax
from zoo_vae.relaxation import annealed
from zoo_vae.score_function import ScoreFunction, beyond_the_others
from zoo_vae.straight_through import StraightThrough

from tests.ppca import PPCA
from zoo_core import ConfigError, Loss, build

PIXELS, CLASSES, VARIABLES = 4, 3, 2


class Told(nn.Module):
    """A part that tells what a function makes of its input."""

    def __init__(self, function: Callable[..., Distribution]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *given: Any) -> Distribution:
        return self.function(*given)


class Model(nn.Module):
    """Encoder, decoder and prior of which a test says everything."""

    def __init__(self, encoder: Any, decoder: Any, prior: Any) -> None:
        super().__init__()
        self.encoder, self.decoder, self.prior = encoder, decoder, prior


def spread(values: Tensor) -> tuple[Tensor, Tensor]:
    """The mean over the first dimension, and its standard error."""
    return values.mean(0), values.std(0) / math.sqrt(len(values))


def near(values: Tensor, expected: Tensor) -> bool:
    """Within 5 standard errors, of which the estimates tell a good deal more than nothing."""
    mean, error = spread(values)
    assert expected.norm() > 10 * error.norm()
    return bool(((mean - expected).abs() < 5 * error).all())


# a Gaussian q and a Gaussian p(x|z), of which the gradient is known

MU, LOG_SIGMA, S = torch.tensor([0.8, -0.5]).double(), torch.tensor([-0.7, 0.4]).double(), 0.6


def gaussian_gradients(loss: Loss, draws: int) -> Tensor:
    """d loss / d (mu, log sigma), (draws, 4), of q = N(mu, sigma^2), p(z) = N(0, 1), p(x|z) = N(x; z, S^2), x = 0."""
    mu, log_sigma = (p.repeat(draws, 1).requires_grad_() for p in (MU, LOG_SIGMA))
    model = Model(
        Told(lambda x: Independent(Normal(mu, log_sigma.exp()), 1)),
        Told(lambda z: Independent(Normal(z, S), 1)),
        Told(lambda: Independent(Normal(torch.zeros_like(MU), 1.0), 1)),
    )
    loss(model, {"image": torch.zeros(draws, 2, dtype=torch.float64)}).total.backward()
    assert mu.grad is not None
    assert log_sigma.grad is not None
    return draws * torch.cat([mu.grad, log_sigma.grad], 1)


def known() -> Tensor:
    """-ELBO = Σ_j (mu^2 + sigma^2) / 2 S^2 + (mu^2 + sigma^2 - 1) / 2 - log sigma, and a constant."""
    variance = (2 * LOG_SIGMA).exp()
    return torch.cat([MU * (1 / S**2 + 1), variance * (1 / S**2 + 1) - 1])


@pytest.mark.parametrize(
    "loss",
    [ELBO(), ScoreFunction(samples=2), ScoreFunction(samples=5), ScoreFunction(samples=30), StraightThrough()],
    ids=["reparameterised", "score-2", "score-5", "score-30", "straight-through"],
)
def test_on_gaussians_every_estimator_has_the_gradient_worked_out_by_hand(loss: Loss) -> None:
    assert near(gaussian_gradients(loss, 20_000), known())


def test_more_draws_lessen_the_noise_of_the_score_function_alone() -> None:
    """As 1/K and a little more, for the others are a baseline that has noise itself; the ELBO has least."""
    noise = {K: gaussian_gradients(ScoreFunction(samples=K), 20_000).var(0).sum() for K in (2, 4, 16)}
    assert noise[2] / 2 > noise[4] > 3 * noise[16]
    assert noise[4] > 2 * gaussian_gradients(ELBO(), 20_000).var(0).sum()


@pytest.mark.parametrize(("level", "times"), [(0.0, 1.2), (-100.0, 20.0)])
def test_without_its_baseline_the_score_function_drowns(
    level: float, times: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The more so the less likely the picture is at every z: to the baseline only differences between them matter."""
    with_baseline = gaussian_gradients(ScoreFunction(samples=4), 20_000)
    monkeypatch.setattr("zoo_vae.score_function.beyond_the_others", lambda f: f + level)
    without = gaussian_gradients(ScoreFunction(samples=4), 20_000)
    (mean, e), (other, f) = spread(with_baseline), spread(without)
    assert ((mean - other).abs() < 5 * (e.square() + f.square()).sqrt()).all()
    assert without.var(0).sum() > times * with_baseline.var(0).sum()


def test_the_baseline_of_each_draw_is_the_mean_of_the_others() -> None:
    f = torch.randn(5, 3, dtype=torch.float64)
    others = torch.stack([torch.cat([f[:k], f[k + 1 :]]).mean(0) for k in range(5)])
    assert torch.allclose(beyond_the_others(f), f - others)


def test_at_the_exact_posterior_the_score_function_has_no_noise() -> None:
    ppca = PPCA.random()
    model, x = ppca.model(), ppca.draw(5)
    ScoreFunction(samples=4)(model, {"image": x}).total.backward()
    assert all(p.grad.abs().max() < 1e-9 for p in model.encoder.parameters())
    ELBO()(model, {"image": x}).total.backward()
    assert all(p.grad.abs().max() > 1e-3 for p in model.encoder.parameters())


def test_the_score_function_takes_a_posterior_that_is_no_product() -> None:
    """Anything with a log-probability; the gradient of a covariance's factor, against that of the ELBO."""
    grads = {}
    for loss in (ELBO(), ScoreFunction(samples=20)):
        factor = torch.tensor([[0.8, 0.0], [0.5, 0.6]], dtype=torch.float64).repeat(20_000, 1, 1).requires_grad_()
        model = Model(
            Told(lambda x, factor=factor: MultivariateNormal(MU.expand(20_000, 2), scale_tril=factor)),
            Told(lambda z: Independent(Normal(z, S), 1)),
            Told(lambda: MultivariateNormal(torch.zeros_like(MU), torch.eye(2, dtype=torch.float64))),
        )
        loss(model, {"image": torch.zeros(20_000, 2, dtype=torch.float64)}).total.backward()
        assert factor.grad is not None
        grads[type(loss)] = 20_000 * factor.grad.tril().flatten(1)[:, [0, 2, 3]]
    (mean, e), (other, f) = spread(grads[ELBO]), spread(grads[ScoreFunction])
    assert ((mean - other).abs() < 5 * (e.square() + f.square()).sqrt()).all()
    assert mean.norm() > 20 * (e.norm() + f.norm())


# discrete latents, of which every value can be enumerated


def every_value() -> Tensor:
    """All z, (9, 6)."""
    unit = torch.eye(CLASSES, dtype=torch.float64)
    return torch.stack([torch.cat(values) for values in itertools.product(unit, repeat=VARIABLES)])


class Discrete:
    """Two variables of three classes, a decoder of one hidden layer, and one picture of four pixels."""

    def __init__(self) -> None:
        L = VARIABLES * CLASSES
        self.logits = torch.randn(L, dtype=torch.float64)
        self.decoder = nn.Sequential(nn.Linear(L, 8), nn.Tanh(), nn.Linear(8, PIXELS)).double()
        for parameter in self.decoder.parameters():
            nn.init.normal_(parameter)
        self.posterior = build({"type": "nets/one_hot", "classes": CLASSES})
        self.prior = build({"type": "nets/uniform_one_hot", "classes": CLASSES}, latent_shape=(L,)).double()
        self.x = torch.tensor([1.0, 0.0, 0.0, 1.0], dtype=torch.float64)

    def likelihood(self, z: Tensor) -> Distribution:
        return Independent(Bernoulli(logits=self.decoder(z)), 1)

    def model(self, logits: Tensor) -> Model:
        return Model(Told(lambda x: self.posterior(logits, 1)), Told(self.likelihood), self.prior)

    def told(self, loss: Loss, draws: int) -> tuple[float, float]:
        """The mean value of a loss, and its standard error."""
        model = self.model(self.logits.repeat(draws, 1))
        with torch.no_grad():
            values = torch.stack([loss(model, self.batch(draws)).total for _ in range(30)])
        mean, error = spread(values)
        return mean.item(), error.item()

    def batch(self, n: int) -> dict[str, Tensor]:
        return {"image": self.x.expand(n, PIXELS)}

    def gradients(self, loss: Loss, draws: int = 40_000) -> Tensor:
        """d loss / d logits, (draws, L)."""
        logits = self.logits.repeat(draws, 1).requires_grad_()
        loss(self.model(logits), self.batch(draws)).total.backward()
        assert logits.grad is not None
        return draws * logits.grad

    def log_joint(self) -> Tensor:
        """log p(x, z) of every z, (9,)."""
        z = every_value()
        return self.likelihood(z).log_prob(self.x) + self.prior().log_prob(z)

    def negative_elbo(self, logits: Tensor) -> Tensor:
        """Σ_z q(z) (log q(z) - log p(x, z)), with torch's own categoricals."""
        q = Independent(OneHotCategorical(logits=logits.view(VARIABLES, CLASSES)), 1)
        log_q = q.log_prob(every_value().view(-1, VARIABLES, CLASSES))
        return (log_q.exp() * (log_q - self.log_joint())).sum()

    def exact(self) -> Tensor:
        """d -ELBO / d logits, (L,)."""
        logits = self.logits.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(self.negative_elbo(logits), logits)
        return gradient


@pytest.fixture
def discrete() -> Discrete:
    return Discrete()


@pytest.mark.parametrize("K", [2, 5])
def test_the_score_function_has_the_gradient_of_the_sum_over_every_value(discrete: Discrete, K: int) -> None:
    assert near(discrete.gradients(ScoreFunction(samples=K)), discrete.exact())


def test_the_score_function_has_the_gradient_of_the_decoder_too(discrete: Discrete) -> None:
    parameters = list(discrete.decoder.parameters())
    exact = torch.autograd.grad(discrete.negative_elbo(discrete.logits), parameters)
    estimates = []
    for _ in range(300):
        total = ScoreFunction(samples=4)(discrete.model(discrete.logits.repeat(50, 1)), discrete.batch(50)).total
        estimates.append(torch.cat([g.flatten() for g in torch.autograd.grad(total, parameters)]))
    assert near(torch.stack(estimates), torch.cat([g.flatten() for g in exact]))


@pytest.mark.parametrize("loss", [ScoreFunction(samples=3), StraightThrough()], ids=["score", "straight-through"])
def test_an_elbo_has_the_value_of_the_sum_over_every_value(discrete: Discrete, loss: Loss) -> None:
    """Which is below log p(x) by KL(q(z|x) || p(z|x))."""
    value, error = discrete.told(loss, 2000)
    assert abs(value - discrete.negative_elbo(discrete.logits).item()) < 5 * error
    assert -value + 5 * error < discrete.log_joint().logsumexp(0).item()


def test_the_value_at_relaxed_draws_is_another(discrete: Discrete) -> None:
    """And tends to that of the ELBO as the temperature falls."""
    exact = discrete.negative_elbo(discrete.logits).item()
    (warm, error), (cold, f) = (discrete.told(GumbelSoftmax(temperature=tau), 2000) for tau in (2.0, 0.02))
    assert abs(warm - exact) > 10 * error
    assert abs(cold - exact) < 5 * f + 0.1 * abs(warm - exact)


def test_a_falling_temperature_trades_bias_for_noise(discrete: Discrete) -> None:
    exact, bias, noise = discrete.exact(), {}, {}
    for tau in (3.0, 1.0, 0.3, 0.1):
        gradients = discrete.gradients(GumbelSoftmax(temperature=tau), 200_000)
        mean, error = spread(gradients)
        bias[tau], noise[tau] = (mean - exact).norm().item(), gradients.var(0).sum().item()
        assert bias[tau] > 5 * error.norm() or tau == 0.1
    assert bias[3.0] > bias[1.0] > bias[0.3] > bias[0.1]
    assert bias[0.1] < 0.15 * exact.norm()
    assert noise[3.0] < noise[1.0] < noise[0.3] < noise[0.1]


def test_a_straight_gradient_is_that_of_the_relaxed_draw_at_the_rounded_one(discrete: Discrete) -> None:
    """J' g: of z = softmax((logits + g) / tau) the Jacobian, of log p(x|z) the gradient at the one-hot vectors."""
    logits = discrete.logits.unsqueeze(0).requires_grad_()
    torch.manual_seed(3)
    StraightThrough(temperature=0.7)(discrete.model(logits), discrete.batch(1)).total.backward()
    torch.manual_seed(3)
    q = discrete.posterior(logits, 1)
    relaxed = q.relaxed(0.7)
    hard = q.rounded(relaxed.detach()).requires_grad_()
    (at_hard,) = torch.autograd.grad(-discrete.likelihood(hard).log_prob(discrete.x).sum(), hard)
    rate = (q.mean * (q.logits + math.log(CLASSES))).sum()
    (expected,) = torch.autograd.grad((relaxed * at_hard).sum() + rate, logits)
    assert torch.allclose(logits.grad, expected)
    assert set(hard.unique().tolist()) == {0.0, 1.0}


def test_the_decoder_sees_one_hot_vectors_only_when_they_are_rounded(discrete: Discrete) -> None:
    seen: dict[str, Tensor] = {}
    for name, loss in {"relaxed": GumbelSoftmax(), "rounded": StraightThrough()}.items():
        model = discrete.model(discrete.logits.repeat(100, 1).requires_grad_())
        model.decoder = Told(lambda z, name=name: seen.update({name: z}) or discrete.likelihood(z))
        loss(model, discrete.batch(100))
    assert set(seen["rounded"].unique().tolist()) == {0.0, 1.0}
    assert 0 < seen["relaxed"].min() < seen["relaxed"].max() < 1
    assert seen["rounded"].requires_grad
    assert seen["relaxed"].requires_grad


ESTIMATORS = {"score": ScoreFunction(samples=8), "gumbel": GumbelSoftmax(), "straight-through": StraightThrough()}


@pytest.mark.parametrize("loss", ESTIMATORS.values(), ids=ESTIMATORS)
def test_every_estimator_finds_the_posterior(discrete: Discrete, loss: Loss) -> None:
    """From a q of its own, close to the best product of two categoricals; the biased ones less close."""
    found, best = (discrete.logits.clone().requires_grad_() for _ in range(2))
    descend(found, lambda: loss(discrete.model(found.expand(30, -1)), discrete.batch(30)).total)
    descend(best, lambda: discrete.negative_elbo(best))
    before, now, least = (discrete.negative_elbo(logits).item() for logits in (discrete.logits, found, best))
    assert before - now > 0.8 * (before - least) > 0


def descend(logits: Tensor, loss: Callable[[], Tensor]) -> None:
    optimizer = torch.optim.Adam([logits], lr=0.1)
    for _ in range(120):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()


@pytest.mark.parametrize("loss", ESTIMATORS.values(), ids=ESTIMATORS)
def test_an_estimator_tells_distortion_and_rate(discrete: Discrete, loss: Loss) -> None:
    logits = discrete.logits.repeat(7, 1).requires_grad_()
    output = loss(discrete.model(logits), discrete.batch(7))
    assert output.total.shape == ()
    assert not any(term.requires_grad or term.shape for term in output.terms.values())
    rate = VARIABLES * math.log(CLASSES) - discrete.posterior(discrete.logits, 1).entropy().item()
    assert output.terms["rate"].item() == pytest.approx(rate)
    assert output.total.item() == pytest.approx(sum(output.terms[name].item() for name in ("distortion", "rate")))


@pytest.mark.parametrize("loss", ESTIMATORS.values(), ids=ESTIMATORS)
def test_eight_copies_of_a_batch_cost_what_one_does(discrete: Discrete, loss: Loss) -> None:
    (one, e), (eight, f) = discrete.told(loss, 500), discrete.told(loss, 4000)
    assert abs(one - eight) < 5 * math.hypot(e, f)


# temperature, and what is refused


@given(st.floats(0.05, 5), st.floats(0.05, 5), st.integers(1, 1000), st.integers(0, 2000))
def test_the_temperature_falls_by_the_same_factor_at_each_step(first: float, last: float, over: int, step: int) -> None:
    assert annealed(None, first, last, over) == annealed(over, first, last, over) == last
    assert annealed(0, first, last, over) == pytest.approx(first)
    factor = annealed(1, first, last, over) / annealed(0, first, last, over)
    assert annealed(step, first, last, over) == pytest.approx(first * factor ** min(step, over))


@pytest.mark.parametrize(("step", "tau"), [(0, 4.0), (1, 2.0), (2, 1.0), (3, 1.0), (None, 1.0)])
@pytest.mark.parametrize("kind", [GumbelSoftmax, StraightThrough])
def test_the_temperature_of_the_step_is_used_and_told(discrete: Discrete, kind: Any, step: Any, tau: float) -> None:
    loss, fixed = kind(temperature=1.0, start=4.0, annealing=2), kind(temperature=tau)
    loss.step = step
    gradients = []
    for each in (loss, fixed):
        torch.manual_seed(5)
        gradients.append(discrete.gradients(each, 3))
    assert torch.equal(*gradients)
    assert loss(discrete.model(discrete.logits.repeat(3, 1)), discrete.batch(3)).terms["temperature"] == tau


def test_a_discrete_posterior_that_cannot_be_relaxed_is_told_what_can() -> None:
    model = Model(
        Told(lambda x: Independent(Bernoulli(logits=torch.zeros(3, 2)), 1)),
        Told(lambda z: Independent(Bernoulli(logits=z), 1)),
        Told(lambda: Independent(Bernoulli(logits=torch.zeros(2)), 1)),
    )
    batch = {"image": torch.ones(3, 2)}
    for kind in (GumbelSoftmax, StraightThrough):
        with pytest.raises(ConfigError, match=r"takes a q\(z\|x\) that can be relaxed.* vae/score_function takes any"):
            kind()(model, batch)
    assert ScoreFunction()(model, batch).total.isfinite()


def test_a_baseline_takes_two_draws() -> None:
    with pytest.raises(ConfigError, match="samples: must be an integer of at least 2, got 1"):
        ScoreFunction(samples=1)
