"""Variational dequantisation against densities whose mass on each level is known."""

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, TransformedDistribution, Uniform
from torch.distributions.transforms import AffineTransform, SigmoidTransform
from zoo_nets.nll import NLL
from zoo_nets.variational_dequantization import VariationalDequantization

from zoo_core import ConfigError, GenerativeModel, build, describe

LOG_256 = math.log(256)


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def logit_logistic(mu: Tensor, s: Tensor) -> TransformedDistribution:
    """The law of sigmoid(mu + s e), e ~ Logistic(0, 1), put together from torch's parts."""
    zero, one = torch.zeros_like(mu), torch.ones_like(mu)
    logistic = [SigmoidTransform().inv, AffineTransform(mu, s), SigmoidTransform()]
    return TransformedDistribution(Uniform(zero, one), logistic, validate_args=False)


class Cells(GenerativeModel):
    """Independent pixels of level v with probability P_v; the place within a level is logit-logistic."""

    def __init__(self) -> None:
        super().__init__()
        self.data_shape = (1, 2, 3)
        self.log_P = torch.randn(256, dtype=torch.float64).log_softmax(0)
        # With s < 1 the density is 0 at the ends of a level.
        self.mu, self.log_s = torch.randn(256, dtype=torch.float64), -0.2 - torch.rand(256, dtype=torch.float64)

    def within(self, v: Tensor) -> TransformedDistribution:
        return logit_logistic(self.mu[v], self.log_s[v].exp())

    def log_prob(self, x: Tensor) -> Tensor:
        v = (256 * x).floor().long()
        return (self.log_P[v] + self.within(v).log_prob(256 * x - v) + LOG_256).flatten(1).sum(1)

    def draw(self, n: int) -> Tensor:
        v = torch.multinomial(self.log_P.exp(), n * 6, replacement=True).view(n, *self.data_shape)
        return (v + self.within(v).sample()) / 256


class Told(nn.Module):
    """The noise that is told mu and log s of each level."""

    def __init__(self, mu: Tensor, log_s: Tensor) -> None:
        super().__init__()
        self.mu, self.log_s = nn.Parameter(mu), nn.Parameter(log_s)

    def forward(self, x: Tensor) -> Tensor:
        v = (255 * (x + 1) / 2).round().long()
        return torch.cat([self.mu[v], self.log_s[v]], 1)


class Pixels(GenerativeModel):
    """Independent N(mu, sigma^2) pixels."""

    def __init__(self, mu: float, sigma: float, data_shape: tuple[int, ...] = (1, 1, 1)) -> None:
        super().__init__()
        self.p, self.data_shape = Normal(mu, sigma), data_shape

    def log_prob(self, x: Tensor) -> Tensor:
        return self.p.log_prob(x).flatten(1).sum(1)

    def draw(self, n: int) -> Tensor:
        return self.p.sample((n, *self.data_shape))

    def log_mass(self, x: Tensor) -> Tensor:
        """log of what the density has on the cube of each image on levels."""
        v = (255 * x).round()
        return (self.p.cdf((v + 1) / 256) - self.p.cdf(v / 256)).log().flatten(1).sum(1)

    def uniform_bound(self, x: Tensor) -> Tensor:
        """E_u[log p((v + u) / 256)] - D log 256 for u uniform, from E[u] = 1/2 and E[(u - 1/2)^2] = 1/12."""
        v = (255 * x).round()
        off = (v + 0.5) / 256 - self.p.mean
        mean_square = off.square() + 1 / (12 * 256**2)
        log_p = -0.5 * mean_square / self.p.variance - self.p.stddev.log() - 0.5 * math.log(2 * math.pi)
        return (log_p - LOG_256).flatten(1).sum(1)


class Ramps(GenerativeModel):
    """p((v + u) / 256) = 1 + a_v (2u - 1): all levels alike, the dark ones falling and the bright ones rising."""

    data_shape = (1, 2, 2)

    def log_prob(self, x: Tensor) -> Tensor:
        v = (256 * x).floor()
        return (self.slope(v) * (2 * (256 * x - v) - 1)).log1p().flatten(1).sum(1)

    def slope(self, v: Tensor) -> Tensor:
        return torch.where(v < 128, -0.95, 0.95)

    def draw(self, n: int) -> Tensor:
        raise NotImplementedError

    def uniform_gap(self) -> float:
        """-E_u[log(1 + a (2u - 1))] for u uniform, of each pixel, whatever the sign of a."""
        a = 0.95
        return 1 - ((1 + a) * math.log(1 + a) - (1 - a) * math.log(1 - a)) / (2 * a)


class Flat(GenerativeModel):
    """p(x) = 1 on [0, 1)^D."""

    data_shape = (2, 3, 4)

    def log_prob(self, x: Tensor) -> Tensor:
        return torch.zeros(len(x), dtype=x.dtype)

    def draw(self, n: int) -> Tensor:
        return torch.rand(n, *self.data_shape)


def images(n: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randint(0, 256, (n, *shape)).to(dtype) / 255


def mean(values: Tensor) -> tuple[float, float]:
    return values.mean().item(), values.std().item() / math.sqrt(len(values))


# the bound


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_starts_as_uniform_dequantisation(dtype: torch.dtype) -> None:
    """r(u|v) = 1, at every u: the bound of the flat density is log 256^-D each time."""
    model, x = VariationalDequantization(Flat()).to(dtype), images(50, *Flat.data_shape, dtype=dtype)
    assert torch.allclose(model.log_prob(x), torch.tensor(-24 * LOG_256, dtype=dtype), atol=1e-4)
    narrow = Pixels(0.4, 0.6 / 256)
    x = torch.full((20_000, 1, 1, 1), 102 / 255, dtype=dtype)
    value, error = mean(VariationalDequantization(narrow).to(dtype).log_prob(x).double())
    assert abs(value - narrow.uniform_bound(x[:1]).item()) < 5 * error
    assert value + 5 * error < narrow.log_mass(x[:1]).item()


def test_it_is_exact_where_the_noise_is_the_densitys_own() -> None:
    """p((v + u) / 256) = 256 P(v) r(u|v), so that each draw of u tells P(v), without any error."""
    cells, x = Cells(), images(200, 1, 2, 3)
    model = VariationalDequantization(cells).double()
    model.noise = Told(cells.mu, cells.log_s)
    exact = cells.log_P[(255 * x).round().long()].flatten(1).sum(1)
    for samples in (1, 3):
        assert torch.allclose(model.log_prob(x, samples=samples), exact, atol=1e-6)
    # No draw is told what r(u|v) is by accident: with another r it misses.
    model.noise = Told(cells.mu + 0.5, cells.log_s)
    assert not torch.allclose(model.log_prob(x), exact, atol=0.1)


def test_the_gap_is_the_kl_from_the_densitys_own_noise() -> None:
    """log P(v) - E[bound] = KL(r(u|v) || p(u|v)), by quadrature."""
    cells, n = Cells(), 20_000
    cells.data_shape = (1, 1, 1)
    model = VariationalDequantization(cells).double()
    model.noise = Told(cells.mu + 0.3, cells.log_s - 0.2)
    v = 77
    u = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    r = logit_logistic(cells.mu[v] + 0.3, (cells.log_s[v] - 0.2).exp())
    gap = (r.log_prob(u).exp() * (r.log_prob(u) - cells.within(torch.tensor(v)).log_prob(u))).mean().item()
    value, error = mean(model.log_prob(torch.full((n, 1, 1, 1), v / 255, dtype=torch.float64)))
    assert abs(cells.log_P[v].item() - gap - value) < 5 * error
    assert gap > 10 * error


def test_more_samples_tighten_it() -> None:
    cells, n = Cells(), 1000
    model = VariationalDequantization(cells).double()
    x = images(1, 1, 2, 3).expand(n, -1, -1, -1)
    exact = cells.log_P[(255 * x[:1]).round().long()].sum().item()
    values = [mean(model.log_prob(x, samples=samples)) for samples in (1, 4, 12)]
    for (low, low_error), (high, high_error) in pairwise(values):
        assert low + 5 * low_error < high - 5 * high_error
    assert values[-1][0] < exact + 5 * values[-1][1]


def test_probabilities_of_all_levels_sum_to_1() -> None:
    """E[weight] = P(v), whatever r is, and the P(v) of a density on [0, 1) sum to 1."""
    cells = Cells()
    cells.data_shape = (1, 1, 1)
    model = VariationalDequantization(cells).double()
    model.noise = Told(cells.mu + 0.3, cells.log_s + 0.3)
    x = (torch.arange(256, dtype=torch.float64) / 255).view(256, 1, 1, 1)
    with torch.no_grad():
        weights = torch.stack([model.log_weights(x).exp().sum() for _ in range(300)])
    total, error = mean(weights)
    assert error < 0.01
    assert abs(total - 1) < 5 * error


def test_training_tightens_it_from_uniform_towards_the_exact_value() -> None:
    ramps = Ramps()
    model = VariationalDequantization(ramps, channels=[8])
    x = images(128, *Ramps.data_shape, dtype=torch.float32)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    bounds = []
    for _ in range(200):
        loss = NLL()(model, {"image": x}).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        bounds.append(-loss.detach())
    exact, gap = -4 * LOG_256, 4 * ramps.uniform_gap()
    value, error = mean(torch.stack(bounds[-40:]))
    assert bounds[0].item() == pytest.approx(exact - gap, abs=0.2 * gap)
    # It closes more than half of the gap, and does not pass.
    assert exact - 0.4 * gap < value - 5 * error
    assert value < exact + 5 * error


def test_the_gradient_is_that_of_the_value_at_the_same_noise() -> None:
    cells, x = Cells(), images(3, 1, 2, 3)
    model = VariationalDequantization(cells).double()
    model.noise = noise = Told(torch.zeros(256, dtype=torch.float64), torch.zeros(256, dtype=torch.float64))
    v = (255 * x).round().long().flatten()[0]

    def total() -> Tensor:
        torch.manual_seed(5)
        return NLL()(model, {"image": x}).total

    for parameter, gradient in zip(noise.parameters(), torch.autograd.grad(total(), noise.parameters()), strict=True):
        around = []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                parameter[v] += step
                around.append(total().item())
                parameter[v] -= step
        assert gradient[v].item() == pytest.approx((around[0] - around[1]) / 2e-5, rel=1e-4)


# samples and codes


def test_samples_are_the_models_own_on_levels() -> None:
    cells = Cells()
    model = VariationalDequantization(cells)
    y = cells.sample(2000, generator=torch.Generator().manual_seed(3))
    x = model.sample(2000, generator=torch.Generator().manual_seed(3))
    assert model.support.check(x).all()
    assert torch.equal((255 * x).round(), (256 * y).floor())
    counts = (255 * x).round().long().flatten().bincount(minlength=256).double()
    expected = cells.log_P.exp() * x.numel()
    assert ((counts - expected).square() / expected).sum() < 256 + 5 * math.sqrt(2 * 256)


def test_samples_beyond_the_data_take_the_last_level() -> None:
    x = VariationalDequantization(Pixels(1.0, 0.5, (1, 4, 4))).sample(100)
    assert x.min() == 0
    assert x.max() == 1


def test_the_models_own_options_reach_it() -> None:
    gmm = build({"type": "classical/gmm", "components": 2, "covariance": "spherical"}, data_shape=(1, 2, 2))
    gmm.begin(torch.rand(20, 1, 2, 2))
    model = VariationalDequantization(gmm)
    assert model.sample(3, clip=False).shape == (3, 1, 2, 2)
    with pytest.raises(TypeError, match="noise"):
        model.sample(3, noise=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nothing_is_lost_by_dequantising(dtype: torch.dtype) -> None:
    model = VariationalDequantization(Pixels(0.5, 0.3, (1, 16, 16))).to(dtype)
    every_level = (torch.arange(256).to(dtype) / 255).view(1, 1, 16, 16)
    for shift in (-40.0, 0.0, 40.0):
        nn.init.constant_(model.noise[-1].bias, shift)
        y = model.encode(every_level)
        assert torch.equal((256 * y).floor().flatten(), torch.arange(256).to(dtype))
        assert y.max() < 1
        assert torch.equal(model.reconstruct(every_level), every_level)


@pytest.mark.parametrize("extreme", [-1e4, -20.0, 20.0, 1e4])
def test_no_noise_is_too_extreme(extreme: float) -> None:
    model = VariationalDequantization(Pixels(0.5, 0.3, (1, 4, 4)))
    nn.init.constant_(model.noise[-1].bias, extreme)
    total = NLL()(model, {"image": images(20, 1, 4, 4, dtype=torch.float32)}).total
    total.backward()
    assert total.isfinite()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("drawn", [0.0, 1 - 2**-24])
def test_no_draw_is_too_extreme(drawn: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The least and the largest number that torch draws uniformly, of which neither has an infinite logit."""
    monkeypatch.setattr(torch, "rand_like", lambda like: torch.full_like(like, drawn))
    model = VariationalDequantization(Pixels(0.5, 0.3, (1, 4, 4)))
    total = NLL()(model, {"image": images(20, 1, 4, 4, dtype=torch.float32)}).total
    total.backward()
    assert total.isfinite()
    assert all(p.grad.isfinite().all() for p in model.parameters())


# models from plugins


def vae(likelihood: str) -> dict[str, Any]:
    encoder = {"type": "nets/mlp_encoder", "latents": 2, "hidden": [8]}
    decoder = {"type": "nets/mlp_decoder", "hidden": [8], "likelihood": likelihood}
    return {"type": "vae/vae", "encoder": encoder, "decoder": decoder, "prior": "nets/standard_normal"}


DENSITIES = ["gaussian", "gaussian_learned_sigma", "gaussian_pixel_sigma", "logit_laplace", "continuous_bernoulli"]


@pytest.mark.parametrize("likelihood", DENSITIES)
def test_noise_and_density_are_trained_together(likelihood: str) -> None:
    config = {"type": "nets/variational_dequantization", "model": vae(f"nets/{likelihood}"), "channels": [4]}
    model = build(config, "model", data_shape=(3, 4, 5))
    assert describe(model, data_shape=(3, 4, 5))["model"]["type"] == "vae/vae"
    x = images(10, 3, 4, 5, dtype=torch.float32)
    for _ in range(2):  # the last layer of the noise starts at 0, and lets no gradient past at first
        NLL()(model, {"image": x}).total.backward()
        with torch.no_grad():
            for parameter in model.noise.parameters():
                parameter -= 0.01 * parameter.grad
    assert all(p.grad.abs().sum() > 0 for p in model.parameters())
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("likelihood", ["bernoulli", "categorical", "discretized_logistic_mixture"])
def test_a_model_that_gives_probabilities_is_no_density(likelihood: str) -> None:
    model = VariationalDequantization(build(vae(f"nets/{likelihood}"), data_shape=(1, 4, 5)))
    with pytest.raises(ConfigError, match=r"^model: must have a density .* choose a likelihood"):
        model.log_prob(images(2, 1, 4, 5, dtype=torch.float32))


def test_a_model_without_a_density_stays_without() -> None:
    kmeans = build("classical/kmeans", data_shape=(1, 4, 4))
    with pytest.raises(ConfigError, match="KMeans has no density"):
        NLL()(VariationalDequantization(kmeans), {"image": images(2, 1, 4, 4)})


@pytest.mark.parametrize("x", [(torch.arange(256) + 0.5) / 256, torch.full((256,), 1.5)])
def test_data_that_are_not_on_levels_are_refused(x: Tensor) -> None:
    model = VariationalDequantization(Pixels(0.5, 0.3, (1, 16, 16)))
    for use in (model.log_prob, model.encode):
        with pytest.raises(
            ConfigError, match=r"dequantises levels v / 255 itself: set data\.preprocessing\.dequantize"
        ):
            use(x.view(1, 1, 16, 16))


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ConfigError, match="samples: must be a positive integer, got 0"):
        VariationalDequantization(Flat()).log_prob(images(1, *Flat.data_shape), samples=0)
    with pytest.raises(ConfigError, match="channels: must name at least one stage"):
        VariationalDequantization(Flat(), channels=[])
