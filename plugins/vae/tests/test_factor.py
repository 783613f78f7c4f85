"""The total correlation that an adversary finds, against Gaussians of which it is known."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal
from zoo_vae.elbo import ELBO
from zoo_vae.factor import FactorVAE, halves, permuted

from tests.ppca import PPCA
from zoo_core import ConfigError, build

WORSE = {"shift": 0.3, "stretch": 1.6}


class Given(nn.Module):
    """An encoder that tells q(z|x) = N(x, sigma^2 I): the pictures are the means."""

    def __init__(self, sigma: float) -> None:
        super().__init__()
        self.sigma = sigma

    def forward(self, x: Tensor) -> Distribution:
        return Independent(Normal(x, self.sigma), 1)


class OfCodes(nn.Module):
    """A model that has an encoder, which is all that the adversary asks of it."""

    def __init__(self, sigma: float) -> None:
        super().__init__()
        self.encoder = Given(sigma)


def factor(latents: int = 2, **given: Any) -> FactorVAE:
    return FactorVAE((latents,), **{"hidden": [16, 16], **given})


def seeded_total(loss: Any, model: Any, x: Tensor) -> Tensor:
    torch.manual_seed(3)
    total: Tensor = loss(model, {"image": x}).total
    return total


# permuting


def test_permuting_keeps_the_values_of_each_latent() -> None:
    z = torch.randn(50, 3)
    p = permuted(z)
    assert torch.equal(p.sort(0).values, z.sort(0).values)
    assert not any(torch.equal(p[:, j], z[:, j]) for j in range(3))


def test_permuting_makes_latents_independent_of_each_other() -> None:
    """Of two equal columns no correlation is left, and every place is as likely as any other."""
    z = torch.randn(20_000, 1).repeat(1, 2)
    assert torch.corrcoef(permuted(z).T)[0, 1].abs() < 5 / math.sqrt(20_000)
    few = torch.arange(4.0).view(4, 1).repeat(1, 2)
    places = torch.stack([permuted(few) for _ in range(8000)])
    for j in range(2):
        share = nn.functional.one_hot(places[:, :, j].long(), 4).float().mean(0)
        assert (share - 0.25).abs().max() < 5 * math.sqrt(0.25 * 0.75 / 8000)
    together = (places[:, 0, 0] == places[:, 0, 1]).float().mean()
    assert (together - 0.25).abs() < 5 * math.sqrt(0.25 * 0.75 / 8000)


@pytest.mark.parametrize(("n", "sizes"), [(3, (1, 2)), (4, (2, 2)), (7, (3, 4)), (64, (32, 32))])
def test_a_batch_is_halved(n: int, sizes: tuple[int, int]) -> None:
    x = torch.arange(n)
    first, second = halves(x)
    assert (len(first), len(second)) == sizes
    assert torch.equal(torch.cat([first, second]), x)


# the adversary


def trained_adversary(R: Tensor, sigma: float, steps: int) -> tuple[FactorVAE, Any]:
    """An adversary that has learned q(z) = N(0, R), of means N(0, R - sigma^2 I) and q(z|x) of width sigma."""
    loss, model = factor(len(R), hidden=[64, 64]), OfCodes(sigma)
    means = MultivariateNormal(torch.zeros(len(R)), R - sigma**2 * torch.eye(len(R)))
    optimizer = torch.optim.Adam(loss.adversary.parameters(), lr=2e-3, betas=loss.adversary_betas)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 2e-3 * (1 - step / steps)
        optimizer.zero_grad()
        loss.oppose(model, {"image": means.sample((1024,))}).total.backward()
        optimizer.step()
    return loss, MultivariateNormal(torch.zeros(len(R)), R)


@pytest.mark.parametrize("rho", [0.0, 0.6, 0.85])
def test_a_trained_adversary_tells_the_total_correlation_of_a_gaussian(rho: float) -> None:
    """-1/2 log det R: 0, 0.22 and 0.64 nats; and log q(z) - Σ_j log q(z_j) at each z."""
    R = torch.tensor([[1.0, rho], [rho, 1.0]])
    loss, q = trained_adversary(R, sigma=0.3, steps=400)
    z = q.sample((20_000,))
    with torch.no_grad():
        estimate = loss.total_correlation(z)
    known = -0.5 * R.logdet().item()
    assert estimate.mean().item() == pytest.approx(known, abs=0.03 + 0.06 * known)
    density_ratio = q.log_prob(z) - Normal(0.0, 1.0).log_prob(z).sum(1)
    # Where no z was seen nothing is learned.
    seen = z.abs().max(1).values < 2
    assert (estimate - density_ratio)[seen].square().mean().sqrt() < 0.15


def test_the_loss_of_the_best_adversary_is_the_one_of_the_densities() -> None:
    """-1/2 E_q[log D] - 1/2 E_p[log(1 - D)] with D = q / (q + p), and its accuracy, at known densities."""
    R = torch.tensor([[1.0, 0.85], [0.85, 1.0]])
    loss, model, q = factor(), OfCodes(1e-6), MultivariateNormal(torch.zeros(2), R)

    class Best(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            return q.log_prob(z) - Normal(0.0, 1.0).log_prob(z).sum(1)

    loss.adversary = Best()
    z, p = q.sample((100_000,)), torch.randn(100_000, 2)
    joint, product = Best()(z), Best()(p)
    expected = -(joint.sigmoid().log().mean() + (-product).sigmoid().log().mean()) / 2
    right = ((joint > 0).float().mean() + (product < 0).float().mean()) / 2
    total, terms = loss.oppose(model, {"image": q.sample((200_000,))})
    assert total.item() == pytest.approx(expected.item(), abs=0.01)
    assert terms["accuracy"].item() == pytest.approx(right.item(), abs=0.01)
    assert total < math.log(2)


def test_an_adversary_that_tells_nothing_apart_costs_log_2_and_finds_nothing() -> None:
    loss = factor()
    nn.init.zeros_(loss.adversary.layers[-1].weight)
    nn.init.zeros_(loss.adversary.layers[-1].bias)
    total, _ = loss.oppose(OfCodes(0.5), {"image": torch.randn(10, 2)})
    assert total.item() == pytest.approx(math.log(2))
    assert torch.equal(loss.total_correlation(torch.randn(10, 2)), torch.zeros(10))


def test_the_discriminator_is_that_of_the_paper() -> None:
    """Six layers of 1000, leaky ReLUs of slope 0.2, two logits; Adam at 1e-4 with betas 0.5 and 0.9."""
    loss = FactorVAE((10,))
    linear = [m for m in loss.adversary.modules() if isinstance(m, nn.Linear)]
    leaky = [m for m in loss.adversary.modules() if isinstance(m, nn.LeakyReLU)]
    assert [linear[0].in_features, *(m.out_features for m in linear)] == [10, *[1000] * 6, 2]
    assert [m.negative_slope for m in leaky] == [0.2] * 6
    assert (loss.adversary_lr, loss.adversary_betas) == (1e-4, (0.5, 0.9))


# whose gradient reaches what


def test_the_models_loss_has_no_gradient_for_the_adversary(ppca: PPCA) -> None:
    loss, model = factor(), ppca.model(**WORSE)
    loss(model, {"image": ppca.draw(8)}).total.backward()
    assert all(p.grad is None for p in loss.parameters())
    assert all(p.grad.abs().sum() > 0 for p in model.parameters())


def test_the_adversarys_loss_has_no_gradient_for_the_model(ppca: PPCA) -> None:
    loss, model = factor(), ppca.model(**WORSE)
    loss.oppose(model, {"image": ppca.draw(8)}).total.backward()
    assert all(p.grad is None for p in model.parameters())
    assert all(p.grad is not None for p in loss.parameters())


def test_the_price_reaches_the_encoder_through_z(ppca: PPCA) -> None:
    """gamma times the gradient of the estimate, beside that of the ELBO at the same draws."""
    loss, model, x = factor(gamma=7.0), ppca.model(**WORSE), ppca.draw(8)
    parameters = list(model.encoder.parameters())
    factored = torch.autograd.grad(seeded_total(loss, model, x), parameters)
    elbo = torch.autograd.grad(seeded_total(ELBO(), model, x), parameters)
    torch.manual_seed(3)
    z = model.encoder(x).rsample()
    price = torch.autograd.grad(7 * loss.adversary(z).mean(), parameters)
    assert all(p.abs().sum() > 1e-6 for p in price)
    assert all(torch.allclose(f, e + p) for f, e, p in zip(factored, elbo, price, strict=True))


# the value


@pytest.mark.parametrize("size", [3, 4, 9])
def test_the_loss_is_a_mean_over_examples(ppca: PPCA, size: int) -> None:
    """That of single ones, with a q so narrow that its draws are its mean."""
    x, model, loss = ppca.draw(size), ppca.model(shift=0.3, stretch=1e-8), factor()
    with torch.no_grad():
        singly = torch.stack([loss(model, {"image": x[i : i + 1]}).total for i in range(size)])
    assert torch.allclose(loss(model, {"image": x}).total, singly.mean(), rtol=1e-6)


def test_a_model_with_a_condition_is_trained_under_it() -> None:
    """The condition is of the whole batch, which therefore goes whole through the encoder, for either player."""
    parts = {"encoder": {"type": "nets/mlp_encoder", "latents": 2}, "decoder": "nets/mlp_decoder"}
    config = {"type": "vae/conditional_vae", "classes": 3, **parts, "prior": "nets/standard_normal"}
    model, loss = build(config, data_shape=(1, 8, 8)), factor()
    batch = {"image": torch.rand(5, 1, 8, 8).round(), "label": torch.tensor([0, 1, 2, 0, 1])}
    assert loss(model.given(batch), batch).total.isfinite()
    assert loss.oppose(model.given(batch), batch).total.isfinite()


@pytest.mark.parametrize("gamma", [0.0, 1.0, 35.0])
def test_gamma_weighs_the_total_correlation(ppca: PPCA, gamma: float) -> None:
    total, terms = factor(gamma=gamma)(ppca.model(**WORSE), {"image": ppca.draw(8)})
    charged = terms["distortion"] + terms["rate"] + gamma * terms["total_correlation"]
    assert total.item() == pytest.approx(charged.item())
    assert not any(term.requires_grad or term.shape for term in terms.values())
    assert terms["total_correlation"].abs() > 1e-4


def test_without_a_price_it_is_the_elbo(ppca: PPCA) -> None:
    loss, model, x = factor(gamma=0.0), ppca.model(**WORSE), ppca.draw(8)
    assert torch.equal(seeded_total(loss, model, x), seeded_total(ELBO(), model, x))
    with torch.no_grad():
        assert torch.equal(seeded_total(loss, model, x), seeded_total(ELBO(), model, x))
        assert loss(model, {"image": x[:1]}).total.isfinite()


def test_steps_of_both_players_lower_the_total_correlation_of_the_codes() -> None:
    """A rotation of two unequal latents correlates them; the price alone turns it back."""
    torch.manual_seed(0)
    loss, angle = factor(hidden=[32, 32], gamma=1.0), torch.tensor(0.6, requires_grad=True)
    model_steps = torch.optim.Adam([angle], lr=0.01)
    adversary_steps = torch.optim.Adam(loss.adversary.parameters(), lr=3e-3, betas=loss.adversary_betas)

    def codes(x: Tensor) -> Tensor:
        c, s = angle.cos(), angle.sin()
        return x @ torch.stack([torch.stack([c, -s]), torch.stack([s, c])]).T

    model = OfCodes(0.1)
    for step in range(400):
        x = torch.randn(512, 2) * torch.tensor([2.0, 0.5])
        if step >= 100:
            model_steps.zero_grad()
            loss.total_correlation(codes(x)).mean().backward()
            model_steps.step()
        adversary_steps.zero_grad()
        loss.oppose(model, {"image": codes(x).detach()}).total.backward()
        adversary_steps.step()
    assert angle.abs() < 0.15


# what is refused


@pytest.mark.parametrize("n", [1, 2])
def test_a_batch_with_nothing_to_permute_does_not_train(ppca: PPCA, n: int) -> None:
    batch = {"image": ppca.draw(n)}
    for player in (factor(), factor().oppose):
        with pytest.raises(ConfigError, match=rf"learns nothing from a batch of {n}: raise training\.batch"):
            player(ppca.model(), batch)


@pytest.mark.parametrize("shape", [(2, 3, 3), (2, 3)])
def test_latents_that_are_no_vectors_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=r"^latent_shape: must be \(D,\), since factor permutes one latent at a time"):
        build("vae/factor", latent_shape=shape)


def test_a_posterior_without_a_density_is_refused() -> None:
    encoder = {"type": "nets/linear_encoder", "latents": 2, "posterior": "nets/dirac"}
    parts = {"encoder": encoder, "decoder": "nets/linear_decoder", "prior": "nets/standard_normal"}
    model = build({"type": "vae/vae", **parts}, data_shape=(1, 3, 2))
    with pytest.raises(ConfigError, match="Dirac"):
        factor()(model, {"image": torch.rand(4, 1, 3, 2)})


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_the_adversary_may_have_another_dtype_than_the_latents(dtype: torch.dtype) -> None:
    loss, z = factor().to(dtype), torch.randn(6, 2)
    wide = torch.promote_types(dtype, torch.float32)
    assert loss.total_correlation(z).dtype == wide
    assert loss.total_correlation(z.double()).dtype == torch.float64
