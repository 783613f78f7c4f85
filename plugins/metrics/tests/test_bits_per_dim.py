"""Bits per dimension: known values on every scale, and what has none."""

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
import scipy.stats
import torch
from torch import Tensor, nn
from torch.distributions import Normal, constraints
from zoo_metrics.bits_per_dim import BitsPerDim

from tests.registered import registrations
from zoo_core import ConfigError, GenerativeModel, Measurement, build, evaluate
from zoo_core.data import InMemory, Preprocessing

DATA = (2, 3, 4)
D = 24
UNIFORM = Preprocessing(dequantize="uniform")


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


class Flat(GenerativeModel):
    """p(x) = 1 on [0, 1)^D."""

    data_shape, support = DATA, constraints.unit_interval

    def log_prob(self, x: Tensor) -> Tensor:
        return torch.zeros(len(x))

    def draw(self, n: int) -> Tensor:
        return torch.rand(n, *DATA)


class Pixels(GenerativeModel):
    """The density of independent N(mu, sigma^2) values."""

    support = constraints.real

    def __init__(self, mu: float, sigma: float) -> None:
        super().__init__()
        self.data_shape, self.p = DATA, Normal(torch.tensor(mu).double(), torch.tensor(sigma).double())

    def log_prob(self, x: Tensor) -> Tensor:
        return self.p.log_prob(x.double()).flatten(1).sum(1)

    def draw(self, n: int) -> Tensor:
        return self.p.sample((n, *DATA))


class Bins(Pixels):
    """The probabilities of levels that this density has on [v / 256, (v + 1) / 256)."""

    def __init__(self, mu: float, sigma: float) -> None:
        super().__init__(mu, sigma)
        self.support = build("nets/categorical")(torch.zeros(256), 1).support

    def log_prob(self, x: Tensor) -> Tensor:
        v = (255 * x.double()).round()
        return (self.p.cdf((v + 1) / 256) - self.p.cdf(v / 256)).log().flatten(1).sum(1)


class Silent(GenerativeModel):
    """A model that does not say what its p(x) is about."""

    data_shape = DATA

    def log_prob(self, x: Tensor) -> Tensor:
        return torch.zeros(len(x))

    def draw(self, n: int) -> Tensor:
        return torch.rand(n, *DATA)


def stored(n: int, low: int = 0, high: int = 256) -> Tensor:
    return torch.randint(low, high, (n, *DATA), dtype=torch.uint8)


def bits(model: Any, v: Tensor, preprocessing: Preprocessing | None = None, **arguments: Any) -> Measurement:
    """The value on stored images v, as the model sees them."""
    if preprocessing is not None:
        model.preprocessing = preprocessing
    metric = BitsPerDim(**arguments)
    metric.update(model, model.preprocessing({"image": v}))
    (value,) = metric.compute().values()
    return value


def vae(likelihood: Any, **latent: Any) -> Any:
    """A VAE whose decoder does not look at z, so that log p(x) = log p(x|z) is exact with q(z|x) = p(z)."""
    encoder = {"type": "nets/linear_encoder", "latents": 2, **latent}
    decoder = {"type": "nets/linear_decoder", "likelihood": likelihood}
    config = {"type": "vae/vae", "encoder": encoder, "decoder": decoder, "prior": "nets/standard_normal"}
    model = build(config, data_shape=DATA).double()
    for parameter in (*model.encoder.parameters(), *model.decoder.parameters()):
        nn.init.zeros_(parameter)
    return model


# the scales


def test_a_uniform_density_has_8_bits_exactly() -> None:
    value = bits(Flat(), stored(50), UNIFORM)
    assert value.value == pytest.approx(8, abs=1e-12)
    assert value.error == pytest.approx(0, abs=1e-6)
    assert value.n == 50


def test_uniform_probabilities_have_8_bits_exactly() -> None:
    assert bits(vae("nets/categorical"), stored(50)).value == pytest.approx(8, abs=1e-9)


def test_fair_coins_have_1_bit_exactly() -> None:
    for binarize in ("dynamic", "threshold"):
        value = bits(vae("nets/bernoulli"), stored(50), Preprocessing(binarize=binarize))
        assert value.value == pytest.approx(1, abs=1e-6)


def test_a_flat_density_wrapped_as_a_model_of_levels_has_8_bits_too() -> None:
    config = {"type": "nets/variational_dequantization", "model": vae_config("continuous_bernoulli")}
    model = build(config, data_shape=DATA)
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    assert bits(model, stored(20)).value == pytest.approx(8, abs=1e-5)


def vae_config(likelihood: str) -> dict[str, Any]:
    encoder = {"type": "nets/linear_encoder", "latents": 2}
    decoder = {"type": "nets/linear_decoder", "likelihood": f"nets/{likelihood}"}
    return {"type": "vae/vae", "encoder": encoder, "decoder": decoder, "prior": "nets/standard_normal"}


def test_the_best_code_of_a_source_spends_its_entropy() -> None:
    """Pixels that are white with probability 0.1, in the model that knows it."""
    model = vae("nets/bernoulli")
    nn.init.constant_(bias(model), math.log(0.1 / 0.9))
    v = (torch.rand(4000, *DATA) < 0.1).to(torch.uint8) * 255
    value = bits(model, v, Preprocessing(binarize="threshold"))
    entropy = scipy.stats.bernoulli(0.1).entropy() / math.log(2)
    assert abs(value.value - entropy) < 5 * value.error
    assert value.error == pytest.approx(math.sqrt(0.09 / D / 4000) * math.log2(9), rel=0.1)


def bias(model: Any) -> nn.Parameter:
    """Of the decoder's last layer."""
    return [p for p in model.decoder.parameters() if p.dim() == 1][-1]


def test_the_discretised_logistic_is_in_bits_of_levels() -> None:
    """One component at 1/2, of scale e^-1.5, integrated over bins of 1/255 by scipy."""
    model = vae({"type": "nets/discretized_logistic_mixture", "components": 1})
    v = stored(30)
    logistic = scipy.stats.logistic(0.5, math.exp(-1.5))
    i = v.double().numpy()
    upper, lower = logistic.cdf((i + 0.5) / 255), logistic.cdf((i - 0.5) / 255)
    upper[i == 255], lower[i == 0] = 1, 0
    by_hand = -torch.tensor(upper - lower).log2().mean().item()
    assert bits(model, v).value == pytest.approx(by_hand)


def test_a_gaussian_density_is_in_bits_of_levels() -> None:
    """-log2 N((v + u) / 256; mu, sigma) + 8, by scipy, at the same u."""
    v, model = stored(30), vae({"type": "nets/gaussian", "sigma": 0.3})
    model.preprocessing = UNIFORM
    torch.manual_seed(4)
    x = UNIFORM({"image": v})["image"].double().numpy()
    torch.manual_seed(4)
    by_hand = 8 - scipy.stats.norm(0, 0.3).logpdf(x).mean() / math.log(2)
    assert bits(model, v).value == pytest.approx(by_hand, rel=1e-6)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_it_does_not_depend_on_how_many_dimensions_or_images_there_are(n: int) -> None:
    v = stored(4).repeat(n, 1, 1, 1)
    assert bits(Bins(0.5, 0.2), v).value == pytest.approx(bits(Bins(0.5, 0.2), v[:4]).value)


# the bound of dequantisation


@pytest.mark.parametrize(("mu", "sigma"), [(0.5, 0.2), (0.4, 0.01), (0.4, 1 / 256), (0.4, 0.4 / 256)])
def test_the_dequantised_value_is_an_upper_bound_on_the_discrete_one(mu: float, sigma: float) -> None:
    """Theis et al.: of one density, and its mass on each level. The gap is worked out for a Gaussian.

    E_u[-log p] - (-log E_u[p]) per value, by averages over u: large for a density that is narrow within a level.
    """
    v = (256 * Normal(mu, sigma).sample((600, *DATA))).floor().clamp(0, 255).to(torch.uint8)
    discrete, dequantised = bits(Bins(mu, sigma), v), bits(Pixels(mu, sigma), v, UNIFORM)
    u = (torch.arange(200, dtype=torch.float64) + 0.5) / 200
    log_p = Normal(mu, sigma).log_prob((v.double().unsqueeze(-1) + u) / 256)
    gap = ((log_p.exp().mean(-1).log() - log_p.mean(-1)) / math.log(2)).mean().item()
    paired = math.hypot(discrete.error, dequantised.error)
    assert gap > 0
    assert dequantised.value - discrete.value == pytest.approx(gap, abs=5 * paired)
    if gap > 0.05:
        assert dequantised.value > discrete.value + 0.02


def test_learned_noise_is_at_least_as_tight_as_uniform_noise() -> None:
    """At first it is uniform; trained, it lies between the uniform bound and the exact value."""
    mu, sigma = 0.4, 1.0 / 256
    v = (256 * Normal(mu, sigma).sample((300, *DATA))).floor().to(torch.uint8)
    wrapper = build({"type": "nets/variational_dequantization", "model": "classical/gmm"}, data_shape=DATA)
    wrapper.model = Pixels(mu, sigma)  # whose mass on each level is known
    x = Preprocessing()({"image": v})
    # In units in which neighbouring levels differ for the convolutions.
    wrapper.noise = nn.Sequential(Zoom(mu, sigma), wrapper.noise)
    first, uniform, exact = bits(wrapper, v), bits(Pixels(mu, sigma), v, UNIFORM), bits(Bins(mu, sigma), v)
    assert abs(first.value - uniform.value) < 5 * math.hypot(first.error, uniform.error)
    loss, optimizer = build("nets/nll"), torch.optim.Adam(wrapper.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        loss(wrapper, x).total.backward()
        optimizer.step()
    trained = bits(wrapper, v)
    assert trained.value < uniform.value - 0.3 * (uniform.value - exact.value)
    assert trained.value > exact.value - 5 * math.hypot(trained.error, exact.error)
    more = bits(wrapper, v, samples=8)
    assert exact.value - 5 * exact.error < more.value < trained.value


class Zoom(nn.Module):
    def __init__(self, mu: float, sigma: float) -> None:
        super().__init__()
        self.mu, self.sigma = mu, sigma

    def forward(self, x: Tensor) -> Tensor:
        return ((x + 1) / 2 - self.mu) / self.sigma


# what has no bits


def two_level(n: int) -> Tensor:
    """Four pictures of 24 pixels, each black or white: 2 bits in all, 1/12 for each value."""
    patterns = (torch.rand(4, *DATA, generator=torch.Generator().manual_seed(1)) < 0.5).to(torch.uint8)
    return 255 * patterns[torch.arange(n) % 4]


def fitted(name: str, x: Tensor, **arguments: Any) -> Any:
    model = build({"type": f"classical/{name}", **arguments}, data_shape=DATA)
    model.begin(x)
    for _ in range(5):
        model.update(model.statistics(x))
    return model


DENSITIES: dict[str, tuple[dict[str, int], float]] = {
    # The floor is reached along D - 3 axes by PPCA, which spends three on the four pictures, ...
    "ppca": ({"latents": 3}, D - 3),
    # ... and along all by a mixture of one component for each.
    "gmm": ({"components": 4}, D),
}
VARIANCES = [1e-2, 1e-4, 1e-6, 1e-8]


@pytest.mark.parametrize("name", DENSITIES)
def test_without_dequantisation_a_density_runs_away_on_few_values(name: str) -> None:
    """log p(x) rises by 1/2 log(1 / variance) for each flat axis, without end: beyond every code there can be."""
    arguments, flat = DENSITIES[name]
    x = Preprocessing()({"image": two_level(200)})["image"]
    densities = [fitted(name, x, min_variance=v, **arguments).log_prob(x).mean().item() for v in VARIANCES]
    for low, high in pairwise(densities):
        assert high - low == pytest.approx(flat * math.log(10), rel=0.02)
    # Read as bits of 256 levels, this would be less than the 2 bits that tell the picture, and less than nothing.
    assert 8 * D - densities[-1] / math.log(2) < -50


@pytest.mark.parametrize("name", DENSITIES)
def test_dequantised_it_stays_above_the_entropy(name: str) -> None:
    arguments, _ = DENSITIES[name]
    v = two_level(1000)
    x = UNIFORM({"image": v})["image"]
    values = [bits(fitted(name, x, min_variance=v_, **arguments), v, UNIFORM) for v_ in VARIANCES]
    for value in values:
        assert value.value > 2 / D - 5 * value.error
    # Below the variance of the noise, 1 / (12 256^2) = 1e-6, the floor no longer matters.
    assert values[-1].value == pytest.approx(values[-2].value, abs=0.05)


@pytest.mark.parametrize("likelihood", ["gaussian_learned_sigma", "gaussian_pixel_sigma"])
def test_a_learned_sigma_runs_away_too(likelihood: str) -> None:
    """On black pictures log p(x) grows by one nat for each value and nat of sigma, down to where sigma is stopped."""
    model, x = vae(f"nets/{likelihood}"), torch.zeros(5, *DATA, dtype=torch.float64)
    densities = []
    for log_sigma in (0.0, -2.0, -4.0, -6.0):
        with torch.no_grad():
            if likelihood == "gaussian_pixel_sigma":
                bias(model).view(4, 3, 4)[2:] = log_sigma
            else:
                model.decoder.likelihood.log_sigma.fill_(log_sigma)
        densities.append(model.log_prob(x).mean().item())
    for low, high in pairwise(densities):
        assert high - low == pytest.approx(2 * D)


GAUSSIANS = ["gaussian", "gaussian_learned_sigma", "gaussian_pixel_sigma", "logit_laplace", "continuous_bernoulli"]


@pytest.mark.parametrize("likelihood", GAUSSIANS)
@pytest.mark.parametrize(
    "preprocessing", [Preprocessing(), Preprocessing(binarize="dynamic")], ids=["levels", "binary"]
)
def test_a_density_of_data_that_are_not_dequantised_is_refused(likelihood: str, preprocessing: Preprocessing) -> None:
    model = vae(f"nets/{likelihood}")
    sentence = r"^metric 'bits_per_dim': the p\(x\) of VAE is a density, .*dequantize: uniform"
    with pytest.raises(ConfigError, match=sentence):
        bits(model, stored(3), preprocessing)
    assert math.isfinite(bits(model, stored(3), UNIFORM).value)


@pytest.mark.parametrize(
    ("likelihood", "preprocessing"),
    [
        ("bernoulli", Preprocessing()),
        ("bernoulli", UNIFORM),
        ("categorical", UNIFORM),
        ("discretized_logistic_mixture", UNIFORM),
    ],
)
def test_probabilities_of_other_values_than_the_data_have_are_refused(
    likelihood: str, preprocessing: Preprocessing
) -> None:
    with pytest.raises(ConfigError, match=r"^metric 'bits_per_dim': VAE gives probabilities, but not to"):
        bits(vae(f"nets/{likelihood}"), stored(3), preprocessing)


def test_every_likelihood_has_bits_with_some_preprocessing() -> None:
    settings = [Preprocessing(), Preprocessing(binarize="threshold"), UNIFORM]
    for registration in registrations("likelihood"):
        model = vae(registration.full_name)
        assert any(math.isfinite(value) for s in settings if (value := tried(model, s)) is not None)


def tried(model: Any, preprocessing: Preprocessing) -> float | None:
    try:
        return bits(model, stored(3), preprocessing).value
    except ConfigError:
        return None


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (Silent(), r"Silent does not say whether its p\(x\) is discrete; give it an attribute 'support'"),
        ("kmeans", "KMeans has no density"),
        ("dirac", "a Dirac has no density"),
    ],
    ids=str,
)
def test_a_model_without_p_is_refused_with_a_sentence(model: Any, sentence: str) -> None:
    if model == "kmeans":
        model = build("classical/kmeans", data_shape=DATA)
        model.support = constraints.real
    if model == "dirac":
        model = vae("nets/gaussian", posterior="nets/dirac")
    with pytest.raises(ConfigError, match=sentence):
        bits(model, stored(3), UNIFORM)


# trees, bounds, and how it is gathered


def test_a_tree_of_binary_pixels_has_bits() -> None:
    """Chow-Liu, on the data that it was fitted to: the entropy of a tree, which is at least that of the data."""
    v = two_level(1000)
    x = Preprocessing(binarize="threshold")({"image": v})["image"]
    tree = fitted("chow_liu", x, smoothing=1e-3)
    value = bits(tree, v, Preprocessing(binarize="threshold"))
    assert value.value == pytest.approx(-tree.log_prob(x).mean().item() / (D * math.log(2)))
    assert 2 / D - 1e-3 < value.value < 0.5


def test_more_samples_lower_the_bound_and_are_told_in_the_name() -> None:
    model, v, binary = vae("nets/bernoulli"), stored(400), Preprocessing(binarize="threshold")
    # q(z|x) = N(1, I) instead of p(z|x) = N(0, I) costs 1 nat of the exact bit for each value.
    nn.init.constant_(next(p for p in model.encoder.parameters() if p.dim() == 1)[:2], 1.0)
    one, many = bits(model, v, binary), bits(model, v, samples=16)
    assert abs(one.value - 1 - 1 / (D * math.log(2))) < 5 * one.error
    assert 1 - 5 * many.error < many.value < one.value - 5 * one.error
    metric = BitsPerDim(samples=16)
    metric.update(model, binary({"image": v}))
    assert list(metric.compute()) == ["bits_per_dim_16"]


def test_samples_are_for_models_that_take_them() -> None:
    with pytest.raises(ConfigError, match="samples: the log_prob of Flat takes none; leave them out"):
        bits(Flat(), stored(3), UNIFORM, samples=5)


def test_batches_do_not_matter() -> None:
    model, v, metric = Bins(0.5, 0.3), stored(50), BitsPerDim()
    for part in v.split(7):
        metric.update(model, Preprocessing()({"image": part}))
    parts, whole = metric.compute()["bits_per_dim"], bits(model, v)
    assert (parts.value, parts.error, parts.n) == pytest.approx((whole.value, whole.error, whole.n))


def test_an_evaluation_reports_it() -> None:
    model, v = Flat(), stored(23)
    model.preprocessing = UNIFORM
    values = evaluate(model, [BitsPerDim()], InMemory("random", "test", {"image": v}), batch=5)
    assert values["bits_per_dim"].value == pytest.approx(8)
    assert values["bits_per_dim"].n == 23


def test_asking_moves_no_generator() -> None:
    """The values of the metrics beside it are as they would be without it; of a VAE, log p(x) itself is drawn."""
    x = Preprocessing(binarize="threshold")({"image": stored(3)})
    for model in (Bins(0.5, 0.3), vae("nets/bernoulli")):
        torch.manual_seed(1)
        model.log_prob(x["image"])
        after = torch.random.get_rng_state()
        torch.manual_seed(1)
        metric = BitsPerDim()
        metric.update(model, x)
        assert torch.equal(torch.random.get_rng_state(), after)


def test_nothing_is_measured_with_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    enabled, log_prob = [], Flat.log_prob
    monkeypatch.setattr(Flat, "log_prob", lambda m, x: (enabled.append(torch.is_grad_enabled()), log_prob(m, x))[1])
    bits(Flat(), stored(3), UNIFORM)
    assert enabled == [False]
