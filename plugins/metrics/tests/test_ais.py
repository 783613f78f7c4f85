"""Annealed importance sampling where log p(x) is known: probabilistic PCA, and what needs no integral."""

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy
import pytest
import torch
from scipy.special import expit
from torch import Tensor
from torch.distributions import Independent, Normal
from zoo_metrics.ais import AIS, Path, annealed, drawn, evaluated, path_from, sigmoidal, transition
from zoo_metrics.likelihood import IWAE

from tests.ppca import DATA, PPCA
from tests.registered import coded_model
from zoo_core import ConfigError, GenerativeModel, Measurement, Metric, build, evaluate
from zoo_core.data import InMemory

WORSE = {"shift": 0.3, "stretch": 1.6}


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture
def ppca() -> PPCA:
    return PPCA.random()


def measured(metric: Metric, model: Any, x: Tensor) -> Measurement:
    metric.reset()
    metric.update(model, {"image": x})
    value, *_ = metric.compute().values()
    return value


def log_means(metric: AIS, model: Any, x: Tensor) -> Tensor:
    """The value of each example, (B,)."""
    return torch.tensor([measured(metric, model, x[i : i + 1]).value for i in range(len(x))], dtype=torch.float64)


# the value


@pytest.mark.parametrize("start", ["prior", "posterior"])
def test_it_is_log_p_of_a_linear_gaussian_model(ppca: PPCA, start: Any) -> None:
    """Where importance sampling from the same start misses it by far, or by more."""
    x, model = ppca.draw(200), ppca.model(**WORSE)
    exact = ppca.log_prob(x).mean().item()
    plain, short, value = (
        measured(AIS(chains=16, temperatures=T, leapfrog=4, start=start), model, x).value for T in (1, 10, 100)
    )
    assert plain < exact - 0.1
    assert abs(value - exact) < 0.25 * abs(plain - exact)
    # Of 16 x 200 weights, whose logarithms spread by less than one.
    assert value == pytest.approx(exact, abs=0.06)
    assert value > short - 0.05


def test_a_worse_posterior_does_not_matter_to_chains_from_the_prior(ppca: PPCA) -> None:
    x = ppca.draw(100)
    exact = ppca.log_prob(x).mean().item()
    far = ppca.model(shift=5.0, stretch=0.2)
    assert measured(IWAE(samples=16), far, x).value < exact - 10
    assert measured(AIS(temperatures=100, leapfrog=4), far, x).value == pytest.approx(exact, abs=0.1)


@pytest.mark.parametrize("seed", range(3))
def test_one_temperature_from_the_prior_is_importance_sampling_exactly(ppca: PPCA, seed: int) -> None:
    """log 1/C Σ_c p(x|z_c) at the same z_c ~ p(z)."""
    x, model = ppca.draw(5), ppca.model()
    p_z = Independent(Normal(torch.zeros(2, dtype=torch.float64), 1), 1)
    torch.manual_seed(seed)
    z = p_z.sample((7, 5))
    path, _ = path_from("prior", model, x)
    by_hand = model.decoder(z).log_prob(x)
    weights = annealed(path, z, sigmoidal(1), leapfrog=3).log_weights
    torch.testing.assert_close(weights, by_hand.detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("start", ["prior", "posterior"])
def test_without_moves_the_weights_are_those_of_importance_sampling(ppca: PPCA, start: Any) -> None:
    """With steps too long for any to be taken the ratios of all temperatures multiply to p(x, z) / f_0(z)."""
    x, model = ppca.draw(5), ppca.model(**WORSE)
    path, first = path_from(start, model, x)
    z = drawn(first, 7, 5)
    run = annealed(path, z, sigmoidal(20), 2, steps=[torch.full((5,), 1e6).double()] * 19)
    assert run.acceptance.max() == 0
    p_z = model.prior()
    by_hand = model.decoder(z).log_prob(x) + p_z.log_prob(z) - first.log_prob(z)
    torch.testing.assert_close(run.log_weights, by_hand.detach(), rtol=1e-12, atol=1e-10)


def test_one_temperature_from_the_posterior_is_the_importance_weighted_bound(ppca: PPCA) -> None:
    x, model = ppca.draw(1).expand(4000, *DATA), ppca.model(**WORSE)
    ais, iwae = measured(AIS(chains=8, temperatures=1, start="posterior"), model, x), measured(IWAE(8), model, x)
    assert abs(ais.value - iwae.value) < 5 * math.hypot(ais.error, iwae.error)
    assert ais.error == pytest.approx(iwae.error, rel=0.1)


def test_from_the_exact_posterior_every_weight_is_p(ppca: PPCA) -> None:
    x = ppca.draw(5)
    value = log_means(AIS(chains=1, temperatures=4, leapfrog=2, start="posterior"), ppca.model(), x)
    torch.testing.assert_close(value, ppca.log_prob(x), rtol=0, atol=1e-9)


@pytest.mark.parametrize("start", ["prior", "posterior"])
@pytest.mark.parametrize("eps", [0.3, 0.7])
def test_weights_are_p_in_expectation(start: Any, eps: float) -> None:
    """E[w] = p(x) for three temperatures with moves in between, also where many are refused."""
    ppca = PPCA.random(sigma=1.0)
    x = ppca.draw(1).expand(40_000, *DATA)
    path, first = path_from(start, ppca.model(**WORSE), x)
    steps = [torch.full((len(x),), eps).double()] * 2
    run = annealed(path, drawn(first, 1, len(x)), sigmoidal(3), 2, steps)
    w = (run.log_weights[0] - ppca.log_prob(x)).exp()
    assert 0.3 < run.acceptance.mean() < 0.995
    assert w.std() > 0.1
    assert w.mean().item() == pytest.approx(1, abs=4 * (w.std() / math.sqrt(len(w))).item())
    assert w.std() / math.sqrt(len(w)) < 0.02


def test_more_temperatures_and_more_chains_bring_it_nearer(ppca: PPCA) -> None:
    """From below: a mean of unbiased weights has a logarithm that is too small on average."""
    x, model = ppca.draw(1).expand(400, *DATA), ppca.model()
    exact = ppca.log_prob(x[:1]).item()
    lows = [measured(AIS(c, t, leapfrog=3), model, x) for c, t in ((1, 1), (1, 10), (1, 60))]
    assert lows[0].value < lows[1].value < lows[2].value < exact + 5 * lows[2].error
    many = [measured(AIS(c, 10, leapfrog=3), model, x) for c in (1, 4, 32)]
    assert many[0].value < many[1].value < many[2].value < exact + 5 * many[2].error


def test_the_importance_weighted_bound_rises_to_the_same_value(ppca: PPCA) -> None:
    """IWAE_K for K up to 3,000 on the same model, to log p(x) from below."""
    x = ppca.draw(1)
    model, many_x = ppca.model(**WORSE), x.expand(300, *DATA)
    exact = ppca.log_prob(x).item()
    values = [measured(IWAE(samples=k, chunk=500), model, many_x) for k in (1, 10, 100, 3000)]
    gaps = [exact - v.value for v in values]
    assert all(a > b for a, b in pairwise(gaps))
    assert gaps[0] == pytest.approx(ppca.gap(**WORSE), abs=5 * values[0].error)
    assert abs(gaps[-1]) < 5 * values[-1].error < 0.02


# the parts


def test_the_schedule_is_a_sigmoid_from_0_to_1() -> None:
    t = numpy.linspace(-4, 4, 11)
    by_hand = (expit(t) - expit(-4)) / (expit(4) - expit(-4))
    torch.testing.assert_close(sigmoidal(10), torch.from_numpy(by_hand))
    assert sigmoidal(1).tolist() == [0, 1]


def quadratic(beta_sigma: float) -> Path:
    """log f_beta of N(0, I) at beta = 0, and of a narrow Gaussian around 1 at beta = 1."""
    log_start = lambda z: -z.square().flatten(2).sum(2) / 2  # noqa: E731
    return Path(log_start, lambda z: -((z - 1) / beta_sigma).square().flatten(2).sum(2) / 2 - log_start(z))


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_a_transition_leaves_its_density_as_it_is(beta: float) -> None:
    """Draws of f_beta, a Gaussian of known mean and variance, still have these after many moves."""
    sigma = 0.5
    precision = (1 - beta) + beta / sigma**2
    mean, std = beta / sigma**2 / precision, precision**-0.5
    path = quadratic(sigma)
    point = evaluated(path, mean + std * torch.randn(1, 40_000, 3, dtype=torch.float64))
    start = point.z
    for _ in range(5):
        point, probability = transition(path, point, beta, torch.full((40_000,), 1.1 * std).double(), 3)
    assert 0.5 < probability.mean() < 0.97
    assert not torch.equal(point.z, start)
    assert point.z.mean().item() == pytest.approx(mean, abs=5 * std / math.sqrt(120_000))
    assert point.z.std().item() == pytest.approx(std, rel=5 / math.sqrt(2 * 120_000))
    again = evaluated(path, point.z)
    for kept, new in zip(point, again, strict=True):
        torch.testing.assert_close(kept, new)


def test_gradients_are_those_of_the_path() -> None:
    path, z = quadratic(0.5), torch.randn(2, 3, 4, 1, dtype=torch.float64)
    point = evaluated(path, z)
    assert not any(part.requires_grad for part in point)
    torch.testing.assert_close(point.gradient(0.0), -z)
    torch.testing.assert_close(point.gradient(1.0), -(z - 1) / 0.25)
    torch.testing.assert_close(point.gradient(0.4), -0.6 * z - 0.4 * (z - 1) / 0.25)


@pytest.mark.parametrize("width", [0.02, 1.0])
def test_steps_are_adapted_to_the_width_of_each_target(width: float) -> None:
    """Two examples side by side, one of N(0, I) all along and one that gets narrow."""
    sigma = torch.tensor([1.0, width], dtype=torch.float64)
    log_start = lambda z: -z.square().sum(2) / 2  # noqa: E731
    path = Path(log_start, lambda z: -(z.square().sum(2) / sigma**2) / 2 - log_start(z))
    run = annealed(path, torch.randn(8, 2, 6, dtype=torch.float64), sigmoidal(200), 5)
    wide, narrow = torch.stack(run.steps)[-30:].log().mean(0).exp()
    assert (narrow / wide).item() == pytest.approx(width, rel=0.4)
    fixed = annealed(path, torch.randn(64, 2, 6, dtype=torch.float64), sigmoidal(200), 5, run.steps)
    assert fixed.steps == run.steps or all(map(torch.equal, fixed.steps, run.steps))
    assert ((fixed.acceptance - 0.65).abs() < 0.15).all()


def test_what_leaves_the_numbers_is_refused_and_weighs_nothing() -> None:
    """A density that is no number for some z."""
    log_start = lambda z: -z.square().sum(2) / 2  # noqa: E731
    path = Path(log_start, lambda z: z.sum(2).log())
    z = torch.randn(4, 50, 1, dtype=torch.float64).abs()
    run = annealed(path, z, sigmoidal(5), 2, [torch.full((50,), 1.0).double()] * 4)
    assert run.log_weights.isfinite().all()
    assert 0 < run.acceptance.mean() < 1


# how it is measured


def test_it_takes_part_in_an_evaluation_by_name(ppca: PPCA) -> None:
    """Where gradients are switched off, and the model is in float32."""
    stored = torch.randint(0, 256, (6, *DATA), dtype=torch.uint8)
    data = InMemory("random", "test", {"image": stored})
    model = ppca.model().float()
    metric = build({"type": "metrics/ais", "chains": 128, "temperatures": 60, "leapfrog": 4})
    before = [p.clone() for p in model.parameters()]
    values = evaluate(model, [metric], data, batch=4)
    assert list(values) == ["ais", "ais_acceptance"]
    value, acceptance = values.values()
    exact = ppca.log_prob(stored.double() / 255)
    assert value.value == pytest.approx(exact.mean().item(), abs=0.15)
    assert value.error == pytest.approx(exact.std().item() / math.sqrt(6), rel=0.2)
    assert (value.n, value.unit, value.better) == (6, "nats", "higher")
    assert 0.4 < acceptance.value < 0.9
    assert (acceptance.unit, acceptance.better) == ("1", "neither")
    assert value.about == {"chains": 128, "temperatures": 60, "leapfrog": 4, "start": "prior"}
    assert evaluate(model, [metric], data, batch=4)["ais"] == value
    assert all(map(torch.equal, model.parameters(), before))
    assert all(p.grad is None for p in model.parameters())
    assert not any(v.requires_grad for v in metric.state.values())


def test_a_model_fitted_without_gradients_is_measured_too() -> None:
    """Probabilistic PCA as a plugin fits it, whose parts are methods."""
    model = build({"type": "classical/ppca", "latents": 3, "min_variance": 0.05}, data_shape=DATA)
    x = torch.rand(400, *DATA)
    model.begin(x)
    model.update(model.statistics(x))
    value = measured(AIS(temperatures=60, leapfrog=4), model, x[:50])
    assert value.value == pytest.approx(model.log_prob(x[:50]).mean().item(), abs=0.05)


@pytest.mark.parametrize(
    "prior", [{"type": "nets/gaussian_mixture", "components": 3}, {"type": "flow/realnvp", "layers": 2, "hidden": [4]}]
)
def test_other_priors_are_followed_too(ppca: PPCA, prior: Any) -> None:
    """Against the importance-weighted bound, of a posterior that is not far off."""
    model = ppca.model(stretch=1.3)
    model.prior = build(prior, latent_shape=(2,), data_shape=(2,)).double()
    x = ppca.draw(20)
    iwae = measured(IWAE(samples=3000, chunk=500), model, x)
    assert measured(AIS(chains=128, temperatures=60, leapfrog=2), model, x).value == pytest.approx(iwae.value, abs=0.1)


def test_chunks_of_the_data_do_not_matter(ppca: PPCA) -> None:
    x, model, metric = ppca.draw(30), ppca.model(), AIS(chains=128, temperatures=60, leapfrog=2)
    whole = measured(metric, model, x)
    metric.reset()
    for part in x.split(13):
        metric.update(model, {"image": part})
    parts = metric.compute()["ais"]
    assert parts.n == 30
    assert parts.value == pytest.approx(whole.value, abs=0.1)


def test_one_temperature_has_no_acceptance_and_nothing_is_nothing(ppca: PPCA) -> None:
    assert AIS().compute() == {}
    metric = AIS(temperatures=1)
    about = measured(metric, ppca.model(), ppca.draw(2)).about
    assert about == {"chains": 16, "temperatures": 1, "leapfrog": 10, "start": "prior"}
    assert list(metric.compute()) == ["ais"]


# what is refused


class Noise(GenerativeModel):
    """A model without latents."""

    data_shape = DATA

    def draw(self, n: int) -> Tensor:
        return torch.rand(n, *DATA)


def dirac() -> Any:
    encoder = {"type": "nets/linear_encoder", "latents": 2, "posterior": "nets/dirac"}
    return {"encoder": encoder, "decoder": "nets/linear_decoder", "prior": "nets/standard_normal"}


def one_hot() -> Any:
    posterior = {"type": "nets/one_hot", "classes": 2}
    encoder = {"type": "nets/linear_encoder", "latents": 4, "posterior": posterior}
    prior = {"type": "nets/uniform_one_hot", "classes": 2}
    return {"encoder": encoder, "decoder": "nets/linear_decoder", "prior": prior}


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (Noise(), r"^metric 'ais' needs a model with a prior p\(z\) and a decoder p\(x\|z\); Noise has none$"),
        ({"type": "vae/vae", **dirac()}, "a Dirac has no density"),
        ({"type": "autoencoder/autoencoder", **dirac()}, "^metric 'ais': Autoencoder has no density"),
        ({"type": "vae/vae", **one_hot()}, "^metric 'ais' follows gradients in z, .* discrete latents of VAE"),
        ({"type": "classical/kmeans", "clusters": 2}, "^metric 'ais'"),
        ("codes", "^metric 'ais' follows gradients in z, .* discrete latents of VQVAE"),
    ],
    ids=str,
)
def test_a_model_without_a_density_of_real_latents_is_refused(model: Any, sentence: str) -> None:
    x = torch.rand(2, *DATA).round()
    if model == "codes":
        model, x = coded_model(), torch.rand(2, 1, 8, 8).round()
    elif isinstance(model, dict):
        model = build(model, data_shape=DATA)
    with pytest.raises(ConfigError, match=sentence):
        AIS(temperatures=3).update(model, {"image": x})
