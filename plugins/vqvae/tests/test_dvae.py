"""The discrete VAE: its categorical against torch's, its relaxation against its limits, its schedules."""

import itertools
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, kl_divergence
from zoo_vqvae.dvae import DVAE, cosine
from zoo_vqvae.gumbel import Gumbel
from zoo_vqvae.independent_codes import IndependentCodes

from zoo_core import ConfigError, LossOutput, build

DATA = (1, 8, 8)
SHAPE = (5, 2, 3)
PARTS = {
    "encoder": {"type": "nets/conv_encoder", "latents": 6, "channels": [4, 4], "layout": "grid", "posterior": "dirac"},
    "quantizer": "vqvae/gumbel",
    "decoder": {"type": "nets/conv_decoder", "channels": [4, 4]},
}


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def model(**parts: Any) -> Any:
    return build({"type": "vqvae/vqvae", **PARTS, **parts}, "model", data_shape=DATA)


def pictures(n: int = 4) -> Tensor:
    return torch.rand(n, *DATA).round()


def dvae(model: Any, x: Tensor, step: int | None = None, **arguments: Any) -> LossOutput:
    loss = DVAE(**arguments)
    loss.step = step
    return loss(model, {"image": x})


# the categorical


@pytest.mark.parametrize("shape", [(7,), (5, 4), (5, 2, 3)], ids=str)
def test_the_kl_is_that_of_categoricals_at_every_position(shape: tuple[int, ...]) -> None:
    z = 3 * torch.randn(4, *shape, dtype=torch.float64)
    q = Categorical(logits=z.movedim(1, -1))
    expected = kl_divergence(q, Categorical(logits=torch.zeros_like(q.logits)))
    torch.testing.assert_close(Gumbel(shape).kl(z), expected.reshape(4, -1).sum(1))


def test_a_categorical_at_its_limits() -> None:
    """0 nats for even logits, log K for each position where one code is certain."""
    quantizer = Gumbel(SHAPE)
    certain = 1000.0 * quantizer.lookup(torch.randint(5, (3, 2, 3)))
    assert quantizer.kl(torch.full((3, *SHAPE), 2.5)).tolist() == pytest.approx([0.0] * 3, abs=1e-5)
    assert quantizer.kl(certain).tolist() == pytest.approx([6 * math.log(5)] * 3)
    z = certain.requires_grad_()
    assert torch.autograd.grad(quantizer.kl(z).sum(), z)[0].isfinite().all()


def test_codes_and_one_hot_vectors_are_inverse() -> None:
    quantizer = Gumbel(SHAPE)
    codes = torch.randint(5, (2, 3, 4, 2, 3))
    z = quantizer.lookup(codes)
    assert (z.shape, z.dtype) == ((2, 3, 4, *SHAPE), torch.float32)
    for place in itertools.product(*map(range, codes.shape)):
        assert z[(*place[:3], slice(None), *place[3:])].tolist() == [float(j == codes[place]) for j in range(5)]
    assert torch.equal(quantizer.encode(z.reshape(24, *SHAPE)), codes.reshape(24, 2, 3))


def test_afterwards_one_code_is_taken_without_noise() -> None:
    quantizer, z = Gumbel(SHAPE).eval(), torch.randn(4, *SHAPE, requires_grad=True)
    one, two = quantizer(z), quantizer(z)
    assert torch.equal(one.z_q, two.z_q)
    assert torch.equal(one.z_q, quantizer.lookup(z.argmax(1)))
    w = torch.randn(4, *SHAPE)
    (grad,) = torch.autograd.grad((w * one.z_q).sum(), z)
    torch.testing.assert_close(grad, torch.autograd.grad((w * z.softmax(1)).sum(), z)[0])


def test_its_own_loss_is_the_kl_with_its_weight() -> None:
    z = torch.randn(4, *SHAPE)
    torch.testing.assert_close(Gumbel(SHAPE, beta=2.5).train()(z).loss, 2.5 * Gumbel(SHAPE).kl(z))


# the relaxation


def test_relaxed_draws_are_draws_in_the_limit() -> None:
    """The largest entry is at k with softmax(z)_k, whatever tau; the smaller tau, the nearer it is to 1."""
    n, p = 40_000, torch.tensor([0.05, 0.15, 0.3, 0.5])
    z = (p.log() + 7)[:, None].expand(n, 4, 1)
    for tau, sharp in ((1e-3, 0.99), (2.0, 0.0)):
        relaxed = Gumbel((4, 1)).relax(z, tau)
        torch.testing.assert_close(relaxed.sum(1), torch.ones(n, 1))
        drawn = relaxed.argmax(1).flatten().bincount(minlength=4) / n
        assert ((drawn - p).abs() < 4 * (p * (1 - p) / n).sqrt()).all()  # 4 standard errors
        assert (relaxed.amax(1) > 0.999).float().mean() >= sharp


def test_what_is_relaxed_is_a_softmax_of_noisy_logits() -> None:
    """Of two codes: tau log(y_1 / y_2) - (z_1 - z_2) is the difference of two Gumbels, which is a logistic."""
    z = torch.randn(1, 2, 1, dtype=torch.float64)
    relaxed = Gumbel((2, 1)).relax(z.expand(40_000, 2, 1), 0.7)
    x = 0.7 * (relaxed[:, 0] / relaxed[:, 1]).log().flatten() - float(z[0, 0] - z[0, 1])
    p = torch.sigmoid(x).sort().values  # uniform, if x is logistic
    even = (torch.arange(40_000) + 0.5) / 40_000
    assert (p - even).abs().max() < 1.95 / 200  # Kolmogorov-Smirnov at 0.001


def test_the_gradient_is_that_of_the_formula() -> None:
    """d/dz softmax((z + g) / tau) = (diag(y) - y y^T) / tau, at whatever g gave y."""
    z, w = torch.randn(3, *SHAPE, dtype=torch.float64, requires_grad=True), torch.randn(3, *SHAPE).double()
    y = Gumbel(SHAPE).relax(z, 0.6)
    (grad,) = torch.autograd.grad((w * y).sum(), z)
    expected = y * (w - (w * y).sum(1, keepdim=True)) / 0.6
    torch.testing.assert_close(grad, expected.detach())
    assert grad.abs().max() > 1e-3


def test_noise_differs_between_positions_and_examples() -> None:
    y = Gumbel(SHAPE).relax(torch.zeros(6, *SHAPE), 1.0).movedim(1, -1).reshape(-1, 5)
    assert torch.pdist(y).min() > 1e-4


# the schedules


@pytest.mark.parametrize(("first", "last"), [(1.0, 1 / 16), (0.0, 6.6)])
def test_a_cosine_has_its_ends_and_its_middle(first: float, last: float) -> None:
    values = [cosine(step, first, last, 1000) for step in (0, 500, 1000, 1500, 5000, None)]
    assert values == pytest.approx([first, (first + last) / 2, last, last, last, last])
    assert cosine(250, first, last, 1000) == pytest.approx(last + (first - last) * (1 + math.sqrt(0.5)) / 2)
    assert cosine(0, first, last, 0) == last


def test_each_schedule_has_its_own_length() -> None:
    arguments = {"temperature": 0.25, "temperature_steps": 400, "beta": 3.0, "beta_steps": 100}
    found = {}
    for step in (0, 50, 100, 200, 400, None):
        _, terms = dvae(model(), pictures(), step, **arguments)
        found[step] = (float(terms["temperature"]), float(terms["beta"]))
    assert found[0] == pytest.approx((1.0, 0.0))
    assert found[50][1] == pytest.approx(1.5)
    assert found[200] == pytest.approx((0.625, 3.0))
    assert found[100][1] == found[400][1] == 3.0
    assert found[400] == found[None] == pytest.approx((0.25, 3.0))


def test_the_defaults_are_those_of_the_paper() -> None:
    loss = DVAE()
    loss.step = 75_000
    assert loss.scheduled() == pytest.approx(((1 + 1 / 16) / 2, 6.6))
    loss.step = 2_500
    assert loss.scheduled()[1] == pytest.approx(3.3)


# the loss


def test_the_loss_is_distortion_and_beta_times_the_kl() -> None:
    discrete, x = model(), pictures()
    with torch.no_grad():
        discrete.encoder.body[-1].weight.mul_(1e4)  # certain codes: noise and tau decide nothing
    total, terms = dvae(discrete, x, beta=1.7, temperature=1e-3)
    z = discrete.encoder(x).mean
    expected = -discrete.decoder(discrete.quantizer.lookup(discrete.encode(x))).log_prob(x).mean()
    q = Categorical(logits=z.movedim(1, -1).double())
    kl = (math.log(6) - q.entropy()).sum((1, 2)).mean()
    assert float(terms["distortion"]) == pytest.approx(float(expected.detach()), rel=1e-3)
    assert float(terms["kl"]) == pytest.approx(float(kl.detach()), rel=1e-3)
    assert float(total.detach()) == pytest.approx(float(terms["distortion"] + 1.7 * terms["kl"]), rel=1e-5)
    counts = discrete.encode(x).flatten().bincount(minlength=6).double()
    p = counts / counts.sum()
    assert float(terms["perplexity"]) == pytest.approx(float(torch.special.entr(p).sum().exp()), rel=1e-5)


@torch.no_grad()
def test_the_decoder_sees_a_draw_at_the_temperature_of_the_step() -> None:
    discrete, x = model(), pictures()
    for step, tau in ((0, 1.0), (50, 0.55), (None, 0.1)):
        torch.manual_seed(1)
        _, terms = dvae(discrete, x, step, temperature=0.1, temperature_steps=100)
        torch.manual_seed(1)
        z_q = discrete.quantizer.relax(discrete.encoder(x).mean, tau)
        expected = -discrete.decoder(z_q).log_prob(x).mean()
        assert float(terms["distortion"]) == pytest.approx(float(expected), rel=1e-6)
    different = discrete.quantizer.relax(discrete.encoder(x).mean, 1.0)
    assert float(terms["distortion"]) != pytest.approx(float(-discrete.decoder(different).log_prob(x).mean()), rel=1e-6)


@torch.no_grad()
def test_the_loss_does_not_depend_on_the_batch() -> None:
    """64 pictures at once, or each alone: KLs to the digit; distortions too where noise decides nothing."""
    discrete, x = model(), pictures(64)
    discrete.encoder.body[-1].weight.mul_(1e5)
    together, alone = dvae(discrete, x), [dvae(discrete, x[i : i + 1]) for i in range(64)]
    for name in ("distortion", "kl"):
        mean = sum(float(one.terms[name]) for one in alone) / 64
        assert float(together.terms[name]) == pytest.approx(mean, rel=1e-4)
    assert float(together.total) == pytest.approx(sum(float(one.total) for one in alone) / 64, rel=1e-4)


def test_every_weight_has_a_gradient() -> None:
    for loss in (build("vqvae/vq"), DVAE()):
        discrete = model()
        loss(discrete.train(), {"image": pictures()}).total.backward()
        assert [name for name, p in discrete.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("loss", [{"type": "vqvae/dvae", "temperature_steps": 150, "beta": 0.5}, "vqvae/vq"])
def test_it_learns(loss: Any) -> None:
    x = torch.zeros(64, *DATA)
    x[:, :, :4, :4] = torch.randint(0, 2, (64, 1, 1, 1)).float()
    x[:, :, 4:, 4:] = torch.randint(0, 2, (64, 1, 1, 1)).float()
    # Without a schedule, an even q is where it stays at a high tau or beta.
    discrete, loss = model(quantizer={"type": "vqvae/gumbel", "temperature": 0.3, "beta": 0.1}).train(), build(loss)
    optimizer = torch.optim.Adam(discrete.parameters(), 1e-2)
    first = None
    for loss.step in range(250):
        optimizer.zero_grad()
        output = loss(discrete, {"image": x})
        output.total.backward()
        optimizer.step()
        first = first or float(output.total.detach())
    assert output.total < first / 2
    assert output.terms["distortion"] < 10  # log 2 for each of 32 pixels is 22: what no code could tell
    assert (discrete.eval().reconstruct(x) - x).abs().mean() < 0.15


# what is refused, and what is allowed


@pytest.mark.parametrize("quantizer", ["ema", "fsq", {"type": "vqvae/residual", "quantizer": "vqvae/gumbel"}])
def test_what_cannot_be_relaxed_is_refused(quantizer: Any) -> None:
    quantizer = f"vqvae/{quantizer}" if isinstance(quantizer, str) else quantizer
    with pytest.raises(ConfigError, match=r"needs a quantizer that can be relaxed, as vqvae/gumbel; \w+ cannot"):
        dvae(model(quantizer=quantizer), pictures())


def test_what_would_not_be_trained_is_refused() -> None:
    parts = {"encoder": {"type": "nets/mlp_encoder", "latents": 2}, "decoder": "nets/mlp_decoder"}
    vae = build({"type": "vae/vae", **parts, "prior": "nets/standard_normal"}, data_shape=DATA)
    with pytest.raises(ConfigError, match=r"loss 'dvae' needs a model with a quantizer.*VAE has none"):
        dvae(vae, pictures())
    discrete = model()
    discrete.prior = IndependentCodes((2, 2), 6)
    with pytest.raises(ConfigError, match="prior IndependentCodes has parameters, which loss 'dvae' does not train"):
        dvae(discrete, pictures())


def test_the_number_of_codes_is_that_of_the_channels() -> None:
    discrete = model()
    assert (discrete.quantizer.codebook_size, discrete.latent_shape) == (6, (2, 2))
    assert discrete.decoder.latent_shape == (6, 2, 2)
    x = discrete.sample(3, generator=torch.Generator().manual_seed(0))
    assert x.shape == (3, *DATA)
    assert float(discrete.prior.log_prob(discrete.encode(x))[0]) == pytest.approx(-4 * math.log(6))


def test_shapes_are_known_without_memory() -> None:
    with torch.device("meta"):
        quantizer = Gumbel((8192, 32, 32))
        z = torch.empty(64, 8192, 32, 32)
        for quantized in (quantizer.train()(z), quantizer.eval()(z)):
            assert [v.shape for v in quantized] == [z.shape, (64, 32, 32), (64,), ()]
        assert quantizer.lookup(torch.empty(2, 7, 32, 32, dtype=torch.long)).shape == (2, 7, 8192, 32, 32)
