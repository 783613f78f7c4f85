"""The model, its loss and its metric: a bound against the sum it bounds, what is saved, what is refused."""

import copy
import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Independent
from zoo_vqvae.codebook_use import CodebookUse
from zoo_vqvae.independent_codes import IndependentCodes
from zoo_vqvae.nearest import Nearest
from zoo_vqvae.residual import Residual
from zoo_vqvae.uniform_codes import UniformCodes

from zoo_core import (
    Component,
    ConfigError,
    LossOutput,
    build,
    describe,
    evaluate,
    fit_prior,
    from_pretrained,
    save_pretrained,
)
from zoo_core.data import InMemory, load

DATA = (1, 8, 8)
PARTS = {
    "encoder": {"type": "nets/conv_encoder", "latents": 3, "channels": [4, 4], "layout": "grid", "posterior": "dirac"},
    "quantizer": {"type": "vqvae/ema", "codes": 6},
    "decoder": {"type": "nets/conv_decoder", "channels": [4, 4]},
}


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def model(shape: tuple[int, ...] = DATA, **parts: Any) -> Any:
    return build({"type": "vqvae/vqvae", **PARTS, **parts}, "model", data_shape=shape)


def pictures(n: int = 4, shape: tuple[int, ...] = DATA) -> Tensor:
    return torch.rand(n, *shape).round()


def vq(model: Any, x: Tensor) -> LossOutput:
    output: LossOutput = build("vqvae/vq")(model, {"image": x})
    return output


def learn(model: Any, x: Tensor) -> LossOutput:
    """The loss, and what a step of training without a gradient changes."""
    output = vq(model, x)
    for module in model.modules():
        if isinstance(module, Component):
            module.after_step()
    return output


# the bound


@pytest.mark.parametrize("prior", [UniformCodes, IndependentCodes])
@pytest.mark.parametrize("depth", [None, 2])
def test_log_prob_is_a_bound_on_the_sum_over_all_codes(prior: Any, depth: int | None) -> None:
    """Two positions, or two levels, of 4 codes; 6 or 8 binary pixels: every code and every image there is."""
    one: dict[str, Any] = {"type": "vqvae/nearest", "codes": 4}
    quantizer = {"type": "vqvae/residual", "quantizer": one, "depth": depth} if depth else one
    encoder = {"type": "nets/linear_encoder", "latents": 2, "posterior": "dirac"}
    if not depth:  # a grid of two positions
        encoder = {**PARTS["encoder"], "channels": [3]}
    shape = (1, 3, 2) if depth else (1, 4, 2)
    decoder = {"type": "nets/linear_decoder", "likelihood": "nets/bernoulli"}
    vqvae = model(shape, encoder=encoder, quantizer=quantizer, decoder=decoder).double()
    vqvae.prior = prior(vqvae.latent_shape, 4).double()
    for p in vqvae.parameters():
        nn.init.normal_(p)
    every_x = torch.tensor([*itertools.product([0.0, 1.0], repeat=math.prod(shape))]).double().view(-1, *shape)
    every_k = torch.tensor([*itertools.product(range(4), repeat=2)]).view(-1, *vqvae.latent_shape)
    with torch.no_grad():
        p_x_k = vqvae.decoder(vqvae.quantizer.lookup(every_k).unsqueeze(1)).log_prob(every_x)
        exact = torch.logsumexp(vqvae.prior().log_prob(every_k)[:, None] + p_x_k, 0)
        bound = vqvae.log_prob(every_x)
    assert float(exact.exp().sum()) == pytest.approx(1)  # P(k) and p(x|k) are normalised
    assert (bound < exact).all()
    place = (vqvae.encode(every_x).flatten(1) * torch.tensor([4, 1])).sum(1)
    term = p_x_k[place, torch.arange(len(every_x))] + vqvae.prior().log_prob(every_k)[place]
    torch.testing.assert_close(bound, term.detach())


@pytest.mark.parametrize("shape", [(), (3,), (2, 5)], ids=str)
def test_uniform_codes_cost_log_k_each(shape: tuple[int, ...]) -> None:
    prior = UniformCodes(shape, 6)
    k = prior.sample(1000, generator=torch.Generator().manual_seed(0))
    assert k.shape == (1000, *shape)
    assert k.unique().tolist() == [0, 1, 2, 3, 4, 5]
    torch.testing.assert_close(prior.log_prob(k), torch.full((1000,), -math.prod(shape) * math.log(6)))


# the model


def test_codes_decode_to_reconstructions() -> None:
    vqvae, x = model(), pictures()
    k = vqvae.encode(x)
    assert (k.shape, k.dtype) == ((4, *vqvae.latent_shape), torch.int64)
    assert vqvae.latent_shape == (2, 2)
    z = vqvae.encoder(x).mean
    expected = vqvae.decoder(vqvae.quantizer.lookup(vqvae.quantizer.encode(z))).mean
    torch.testing.assert_close(vqvae.reconstruct(x), expected)
    torch.testing.assert_close(vqvae.decode(k.view(2, 2, 2, 2)), expected.view(2, 2, *DATA))


def test_only_the_loss_in_training_teaches_the_codebook() -> None:
    vqvae, x = model().train(), pictures()
    before = copy.deepcopy(vqvae.state_dict())
    for call in (vqvae.encode, vqvae.reconstruct, vqvae.log_prob):
        call(x)
    vqvae.sample(3)
    learn(vqvae.eval(), x)
    assert all(torch.equal(value, before[name]) for name, value in vqvae.state_dict().items())
    learn(vqvae.train(), x)
    assert not torch.equal(vqvae.quantizer.e, before["quantizer.e"])


def test_samples_are_pictures_of_drawn_codes() -> None:
    vqvae = model()
    x = vqvae.sample(50, generator=torch.Generator().manual_seed(0))
    assert x.shape == (50, *DATA)
    assert 0 <= x.min() <= x.max() <= 1
    assert set(vqvae.sample(3, noise=True).unique().tolist()) <= {0.0, 1.0}
    with torch.no_grad():
        vqvae.prior = IndependentCodes((2, 2), 6)
        vqvae.prior.logits.copy_(1000.0 * torch.nn.functional.one_hot(torch.tensor([[1, 2], [3, 4]]), 6))
        torch.testing.assert_close(vqvae.sample(1)[0], vqvae.decode(torch.tensor([[1, 2], [3, 4]])))


@pytest.mark.parametrize("quantizer", [
    {"type": "vqvae/ema", "codes": 6}, {"type": "vqvae/simvq", "codes": 6}, {"type": "vqvae/fsq", "levels": 3},
    {"type": "vqvae/residual", "quantizer": {"type": "vqvae/ema", "codes": 6}, "depth": 2},
])  # fmt: skip
def test_a_saved_model_is_the_same_again(quantizer: Any, tmp_path: Path) -> None:
    vqvae, x = model(quantizer=quantizer).train(), pictures()
    learn(vqvae, x)
    save_pretrained(vqvae, tmp_path / "model")
    again: Any = from_pretrained(tmp_path / "model")
    assert describe(again) == describe(vqvae)
    vqvae.eval()
    assert torch.equal(again.encode(x), vqvae.encode(x))
    torch.testing.assert_close(again.log_prob(x), vqvae.log_prob(x), rtol=0, atol=0)
    # It goes on learning where it was, instead of starting again.
    learn(again.train(), x), learn(vqvae.train(), x)
    states = zip(again.state_dict().values(), vqvae.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in states)


def test_no_shape_is_repeated_in_a_config() -> None:
    for prior in (None, "vqvae/uniform_codes"):
        described = describe(model(prior=prior), data_shape=DATA)
        assert described["prior"] == {"type": "vqvae/uniform_codes"}
        assert "shape" not in str(described)
        assert "codebook_size" not in str(described)


def test_what_is_no_density_of_these_codes_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"quantizer 'ema' emits codes, but prior 'standard_normal' accepts"):
        model(prior="nets/standard_normal")
    with pytest.raises(ConfigError, match=r"^prior: must be a density of 6 codes of shape \(2, 2\).*GMM.*real latents"):
        model(prior={"type": "classical/gmm", "components": 2})
    with pytest.raises(ConfigError, match=r"is one of 5 codes of shape \(2, 2\)"):
        model(prior={"type": "vqvae/uniform_codes", "codebook_size": 5})
    with pytest.raises(ConfigError, match=r"of shape \(4,\)"):
        model(prior={"type": "vqvae/uniform_codes", "latent_shape": [4]})
    with pytest.raises(ConfigError, match=r"differ in latent_shape: encoder \(3, 2, 2\), quantizer .*, decoder \(3,\)"):
        model(decoder={"type": "nets/linear_decoder", "latent_shape": [3]})


def test_bits_are_counted_on_levels_and_refused_for_densities() -> None:
    """The model says what its p(x) is about; its codes, which are no z, cannot be asked."""
    data = InMemory("random", "test", {"image": torch.randint(0, 256, (6, *DATA), dtype=torch.uint8)})
    levels = model(decoder={**PARTS["decoder"], "likelihood": "nets/discretized_logistic_mixture"})
    values = evaluate(levels, [build("metrics/bits_per_dim"), build("metrics/log_prob")], data)
    assert values["bits_per_dim"].value == pytest.approx(-values["log_prob"].value / (64 * math.log(2)))
    density = model(decoder={**PARTS["decoder"], "likelihood": "nets/gaussian"})
    with pytest.raises(ConfigError, match=r"p\(x\) of VQVAE is a density"):
        evaluate(density, [build("metrics/bits_per_dim")], data)


def test_a_prior_is_fitted_to_the_codes(tmp_path: Path) -> None:
    """The best that independent codes can do is Σ_j H(k_j), from their frequencies at each position."""
    x = load("core/digits", "train").batch(torch.arange(500))["image"].float() / 255
    vqvae = model()
    learn(vqvae, x)
    save_pretrained(vqvae.eval(), tmp_path / "base")
    training = {"steps": 150, "batch": 500, "lr": 0.1, "schedule": "cosine"}
    folder = fit_prior(
        tmp_path / "base", "vqvae/independent_codes", tmp_path, data={"name": "core/digits"}, training=training
    )
    fitted: Any = from_pretrained(folder)
    x = load("core/digits", "train").batch(torch.arange(1400))["image"].float() / 255
    k = vqvae.encode(x)
    assert torch.equal(fitted.encode(x), k)
    p = torch.nn.functional.one_hot(k, 6).double().mean(0)
    best = float(torch.special.entr(p).sum())
    assert best < 0.9 * 4 * math.log(6)  # there is something to learn
    with torch.no_grad():
        assert -float(fitted.prior.log_prob(k).mean()) == pytest.approx(best, rel=0.02)
        gain = float((fitted.log_prob(x) - vqvae.log_prob(x)).mean())
    assert gain == pytest.approx(4 * math.log(6) - best, rel=0.03)


# the loss


@torch.no_grad()
def test_the_loss_does_not_depend_on_the_batch() -> None:
    vqvae, x = model(), pictures(8)
    learn(vqvae, x)
    vqvae.eval()
    together, alone = vq(vqvae, x), [vq(vqvae, x[i : i + 1]) for i in range(8)]
    assert float(together.total) == pytest.approx(sum(float(one.total) for one in alone) / 8, rel=1e-5)
    for name in ("distortion", "quantization"):
        assert float(together.terms[name]) == pytest.approx(sum(float(one.terms[name]) for one in alone) / 8, rel=1e-5)


@torch.no_grad()
def test_the_loss_is_distortion_and_quantization() -> None:
    vqvae, x = model(quantizer={"type": "vqvae/nearest", "codes": 6, "beta": 0.5}), pictures()
    total, terms = vq(vqvae, x)
    z = vqvae.encoder(x).mean
    z_q = vqvae.quantizer.lookup(vqvae.encode(x))
    p_x = Independent(Bernoulli(vqvae.decoder(z_q).mean, validate_args=False), 3)
    assert float(terms["distortion"]) == pytest.approx(-float(p_x.log_prob(x).mean()), rel=1e-4)
    assert float(terms["quantization"]) == pytest.approx(
        1.5 * float((z - z_q).square().sum((1, 2, 3)).mean()), rel=1e-4
    )
    assert float(total) == pytest.approx(float(terms["distortion"] + terms["quantization"]))
    bound = -vqvae.log_prob(x).mean()
    assert float(bound) == pytest.approx(float(terms["distortion"]) + 4 * math.log(6), rel=1e-5)


@pytest.mark.parametrize("quantizer", ["nearest", "ema", "simvq", "fsq"])
@pytest.mark.parametrize("posterior", ["nets/dirac", "nets/diagonal_gaussian"])
def test_every_weight_has_a_gradient(quantizer: str, posterior: str) -> None:
    vqvae = model(quantizer=f"vqvae/{quantizer}", encoder={**PARTS["encoder"], "posterior": posterior})
    vq(vqvae, pictures()).total.backward()
    assert [name for name, p in vqvae.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
    assert sum(float(p.grad.abs().sum()) for p in vqvae.encoder.parameters()) > 0


def test_it_learns() -> None:
    x = torch.zeros(64, *DATA)
    x[:, :, :4, :4] = torch.randint(0, 2, (64, 1, 1, 1)).float()
    x[:, :, 4:, 4:] = torch.randint(0, 2, (64, 1, 1, 1)).float()
    vqvae = model().train()
    optimizer = torch.optim.Adam(vqvae.parameters(), 1e-2)
    for _ in range(200):
        optimizer.zero_grad()
        loss = learn(vqvae, x)
        loss.total.backward()
        optimizer.step()
    assert loss.terms["distortion"] < 10  # log 2 for each of 32 pixels is 22: what no code could tell
    assert (vqvae.eval().reconstruct(x) - x).abs().mean() < 0.15


def test_a_loss_refuses_what_it_would_not_train() -> None:
    parts = {"encoder": {"type": "nets/mlp_encoder", "latents": 2}, "decoder": "nets/mlp_decoder"}
    vae = build({"type": "vae/vae", **parts, "prior": "nets/standard_normal"}, data_shape=DATA)
    with pytest.raises(ConfigError, match=r"loss 'vq' needs a model with a quantizer.*VAE has none"):
        vq(vae, pictures())
    vqvae = model()
    vqvae.prior = IndependentCodes((2, 2), 6)
    with pytest.raises(ConfigError, match="prior IndependentCodes has parameters, which loss 'vq' does not train"):
        vq(vqvae, pictures())
    vqvae.prior.requires_grad_(False)
    assert vq(vqvae, pictures()).total.isfinite()
    with pytest.raises(ConfigError, match="Dirac"):
        build("vae/elbo")(model(), {"image": pictures()})


# the metric


class Given(nn.Module):
    """Its codes are its data."""

    def __init__(self, quantizer: Any) -> None:
        super().__init__()
        self.quantizer = quantizer

    def encode(self, x: Tensor) -> Tensor:
        return x


def measured(quantizer: Any, *batches: Tensor) -> dict[str, Any]:
    metric = CodebookUse()
    for codes in batches:
        metric.update(Given(quantizer), {"image": codes})
    return metric.compute()


def test_perplexity_is_that_of_all_data_together() -> None:
    """Each batch has one code alone, so that the mean of their perplexities is 1."""
    batches = [torch.full((n, 1), k) for k, n in [(0, 4), (1, 2), (2, 1), (3, 1)]]
    values = measured(Nearest((2, 1), 8), *batches)
    p = torch.tensor([4, 2, 1, 1]).double() / 8
    assert values["codebook_perplexity"].value == pytest.approx(math.prod(q**-q for q in p.tolist()), rel=1e-12)
    assert values["codebook_used"][0] == 0.5
    assert (values["codebook_perplexity"].n, values["codebook_used"].unit) == (8, "1")


def test_each_codebook_of_a_stack_is_measured_by_itself() -> None:
    codes = torch.stack([torch.zeros(8, dtype=torch.long), torch.arange(8) % 4], 1)
    values = measured(Residual(Nearest((2,), 4), depth=2), codes[:3], codes[3:])
    assert values["codebook_perplexity"].value == pytest.approx((1 + 4) / 2)
    assert values["codebook_used"].value == pytest.approx((1 / 4 + 1) / 2)


def test_the_metric_in_an_evaluation() -> None:
    data = InMemory("random", "test", {"image": torch.randint(0, 256, (10, *DATA), dtype=torch.uint8)})
    vqvae = model()
    learn(vqvae, pictures(30))
    singly, together = (evaluate(vqvae, [build("vqvae/codebook")], data, batch=batch) for batch in (1, 10))
    assert 1 < together["codebook_perplexity"].value <= 6
    assert singly["codebook_perplexity"][0] == together["codebook_perplexity"][0]
    assert (together["codebook_perplexity"].unit, together["codebook_perplexity"].n) == ("codes", 10)
    with pytest.raises(ConfigError, match="metric 'codebook' needs a model with a quantizer"):
        CodebookUse().update(build({"type": "classical/ppca", "latents": 1}, data_shape=DATA), {"image": pictures()})
