"""The parts in models of other plugins' making, combined by name."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from zoo_core import ConfigError, build, describe, from_pretrained, read_recipe, save_pretrained, train
from zoo_core.data import load

RECIPES = ["spherical-vae-digits", "spherical-vae-mnist"]


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def config(encoder: str = "nets/mlp_encoder", latents: int = 3, **changes: Any) -> dict[str, Any]:
    return {
        "type": "vae/vae",
        "encoder": {"type": encoder, "latents": latents, "posterior": "example/power_spherical"},
        "decoder": "nets/mlp_decoder",
        "prior": "example/uniform_sphere",
        **changes,
    }


def built(config: dict[str, Any]) -> Any:
    return build(config, "model", data_shape=(1, 8, 8))


def binary(n: int) -> torch.Tensor:
    return torch.rand(n, 1, 8, 8).round()


@pytest.mark.parametrize(
    "encoder",
    ["nets/linear_encoder", "nets/mlp_encoder", "nets/conv_encoder", "nets/resnet_encoder"],
)
@pytest.mark.parametrize("loss", ["vae/elbo", "vae/iwae", "vae/dreg", "nets/nll"])
def test_any_body_and_any_bound_will_do(encoder: str, loss: str) -> None:
    model = built(config(encoder=encoder))
    out = build(loss, "loss")(model, {"image": binary(6)})
    out.total.backward()
    assert out.total.isfinite()
    gradients = [p.grad for p in model.encoder.parameters() if p.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert gradients[-1].abs().min() > 0  # each of the features: direction and concentration


def test_a_grid_of_latents_has_a_sphere_at_each_position() -> None:
    encoder = {"type": "nets/conv_encoder", "latents": 3, "layout": "grid", "posterior": "example/power_spherical"}
    model = built(config(decoder="nets/conv_decoder") | {"encoder": encoder})
    z = model.encoder(binary(5)).rsample()
    assert z.shape == (5, *model.latent_shape)
    torch.testing.assert_close(z.norm(dim=1), torch.ones(5, *model.latent_shape[1:]))
    assert model.log_prob(binary(5), samples=3).isfinite().all()


def test_the_bound_rises_with_more_samples() -> None:
    model = built(config())
    x = binary(40)
    with torch.no_grad():
        one, many = (model.log_prob(x, samples=k).mean() for k in (1, 200))
    assert many > one


def test_the_bound_reaches_the_likelihood_that_quadrature_finds() -> None:
    """On S^1: log p(x) = log of the mean of p(x|z) over the circle."""
    model = built(config(latents=2))
    last, x = model.encoder.body[-1], binary(5)
    angle = torch.arange(2000) * 2 * math.pi / 2000
    with torch.no_grad():
        last.weight[-1], last.bias[-1] = 0, math.log(0.2)  # so wide that the weights have a variance
        log_p = model.decoder(torch.stack([angle.cos(), angle.sin()], -1)[:, None]).log_prob(x)
        exact = log_p.logsumexp(0) - math.log(2000)
        torch.testing.assert_close(model.log_prob(x, samples=40_000, chunk=4000), exact, atol=0.05, rtol=0)


def test_other_latents_with_this_prior_are_refused() -> None:
    model = built(config() | {"encoder": {"type": "nets/mlp_encoder", "latents": 3}})
    with pytest.raises(ConfigError, match="density of volume, the other of area on a sphere"):
        build("vae/elbo", "loss")(model, {"image": binary(2)})


def test_these_latents_with_another_prior_are_refused() -> None:
    model, x = built(config() | {"prior": "nets/standard_normal"}), binary(2)
    for asked in (lambda: build("vae/elbo", "loss")(model, {"image": x}), lambda: model.log_prob(x)):
        with pytest.raises(ConfigError, match="density of area on a sphere, the other of volume"):
            asked()


def test_the_config_comes_back_as_it_was() -> None:
    described = describe(built(config()))
    assert describe(built(json.loads(json.dumps(described)))) == described


def test_a_saved_model_draws_the_same_again(tmp_path: Path) -> None:
    model = built(config()).eval()
    again: Any = from_pretrained(save_pretrained(model, tmp_path))
    drawn = [m.sample(4, generator=torch.Generator().manual_seed(1)) for m in (model, again)]
    assert torch.equal(*drawn)
    assert torch.equal(model.encode(binary(1) * 0), again.encode(binary(1) * 0))


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_name_what_there_is(recipe: str) -> None:
    assert read_recipe(recipe).model["prior"] == "example/uniform_sphere"


def test_training_lowers_the_loss(tmp_path: Path) -> None:
    recipe = read_recipe("spherical-vae-digits", ["training.steps=120", "evaluation.metrics=[]"])
    model: Any = from_pretrained(train(recipe, tmp_path) or "")
    x = model.preprocessing(load("digits", "test").batch(torch.arange(200)))["image"]
    untrained = build(describe(model), "model", data_shape=model.data_shape)
    with torch.no_grad():
        assert model.log_prob(x).mean() > untrained.log_prob(x).mean() + 5


def test_the_published_weights_are_a_spherical_model() -> None:
    model: Any = from_pretrained("spherical-vae-mnist")
    assert model.latent_shape == (6,)
    z = model.encoder(model.sample(8)).sample()
    torch.testing.assert_close(z.norm(dim=1), torch.ones(8))
    images = model.sample(16, generator=torch.Generator().manual_seed(0))
    assert images.shape == (16, 1, 28, 28)
    assert 0.05 < float(images.mean()) < 0.3  # ink on paper, as in MNIST
