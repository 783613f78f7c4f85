"""A prior over codes: probabilities that sum to one, draws that follow them, labels."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor
from zoo_dalle.autoregressive import Autoregressive

from zoo_core import ConfigError, DataError, build


def prior(classes: int = 0, shape: tuple[int, ...] = (2, 2), **arguments: Any) -> Autoregressive:
    config = {"type": "dalle/autoregressive", "dim": 12, "depth": 2, "heads": 3, "classes": classes, **arguments}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: Autoregressive = build(config, "model", data_shape=shape, codebook_size=3).eval()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.4)
    return model


def every(places: int) -> Tensor:
    return torch.tensor(list(itertools.product(range(3), repeat=places)))


def draws(model: Any, n: int, **options: Any) -> Tensor:
    return model.sample(n, generator=torch.Generator().manual_seed(0), **options)


def shares(k: Tensor) -> Tensor:
    """How often each of all images of four codes was drawn."""
    number = (k.flatten(1) * torch.tensor([27, 9, 3, 1])).sum(1)
    return torch.bincount(number, minlength=81) / len(k)


def near(share: Tensor, p: Tensor, n: int) -> bool:
    p = p.double()
    return bool(((share - p).abs() < 5 * (p * (1 - p) / n).sqrt() + 1e-9).all())


@pytest.mark.parametrize("shape", [(2, 2), (4,), (2, 1, 2), (1, 4)], ids=str)
@pytest.mark.parametrize("classes", [0, 3])
def test_probabilities_sum_to_one(shape: tuple[int, ...], classes: int) -> None:
    model, k = prior(classes, shape), every(4).view(-1, *shape)
    labels = range(classes) if classes else [None]
    for label in labels:
        assert torch.allclose(model.log_prob(k, label=label).logsumexp(0), torch.zeros(()), atol=1e-5)
    assert torch.allclose(model.log_prob(k).logsumexp(0), torch.zeros(()), atol=1e-5)


def test_a_single_code_is_an_image_too() -> None:
    model = prior(shape=())
    assert torch.allclose(model.log_prob(torch.arange(3)).logsumexp(0), torch.zeros(()), atol=1e-6)
    assert draws(model, 5).shape == (5,)


def test_draws_follow_the_probabilities() -> None:
    model = prior()
    assert near(shares(draws(model, 20_000)), model.log_prob(every(4).view(-1, 2, 2)).exp(), 20_000)


def test_under_a_label_too() -> None:
    model, k = prior(3), every(4).view(-1, 2, 2)
    assert near(shares(draws(model, 20_000, label=2)), model.log_prob(k, label=2).exp(), 20_000)
    assert near(shares(draws(model, 20_000)), model.log_prob(k).exp(), 20_000)
    assert not torch.allclose(model.log_prob(k, label=1), model.log_prob(k, label=2), atol=0.1)


def test_without_a_label_it_is_the_mean_over_labels() -> None:
    model, k = prior(3), every(4).view(-1, 2, 2)
    mean = torch.stack([model.log_prob(k, label=y).exp() for y in range(3)]).mean(0)
    assert torch.allclose(model.log_prob(k).exp(), mean)


def test_under_a_batch_it_knows_its_labels() -> None:
    model, k = prior(3), every(4).view(-1, 2, 2)[:6]
    labels = torch.tensor([0, 1, 2, 2, 1, 0])
    view = model.given({"label": labels})
    one_by_one = torch.cat([model.log_prob(k[i : i + 1], label=int(y)) for i, y in enumerate(labels)])
    assert torch.allclose(view.log_prob(k), one_by_one, atol=1e-5)
    assert view.sample(8).shape == (8, 2, 2)
    assert prior().given({"label": labels}).log_prob(k).shape == (6,)  # one without classes knows no labels
    assert model.given({}) is model


def test_labels_that_are_none_are_refused() -> None:
    model, k = prior(3), every(4).view(-1, 2, 2)[:2]
    for label in (3, -1, [0, 3]):
        with pytest.raises(DataError, match="from 0 to 2"):
            model.log_prob(k, label=label)
    for label in (0.5, [0, 1, 2], True):
        with pytest.raises(DataError, match="must be one integer, or 2 of them"):
            model.log_prob(k, label=label)


def test_what_is_no_code_is_refused() -> None:
    for x in (torch.rand(2, 2, 2), torch.zeros(2, 4, dtype=torch.long)):
        with pytest.raises(ConfigError, match="models codes"):
            prior().log_prob(x)


def vqvae(classes: int) -> Any:
    config = {
        "type": "vqvae/vqvae",
        "encoder": {"type": "nets/conv_encoder", "latents": 4, "channels": [8, 8], "layout": "grid"},
        "quantizer": {"type": "vqvae/nearest", "codes": 5},
        "decoder": {"type": "nets/conv_decoder", "channels": [8, 8], "likelihood": "nets/bernoulli"},
        "prior": {"type": "dalle/autoregressive", "classes": classes, "dim": 12, "depth": 1, "heads": 3},
    }
    return build(config, "model", data_shape=(1, 8, 8)).eval()


def test_it_is_the_prior_of_a_model_with_a_quantizer() -> None:
    model, x = vqvae(4), torch.rand(3, 1, 8, 8).round()
    k = model.encode(x)
    distortion = model.decoder(model.quantizer.lookup(k)).log_prob(x)
    assert torch.allclose(model.log_prob(x), distortion + model.prior.log_prob(k), atol=1e-4)
    given = model.given({"label": torch.tensor([0, 1, 3])})
    assert torch.allclose(given.log_prob(x), distortion + model.prior.log_prob(k, label=[0, 1, 3]), atol=1e-4)
    assert draws(model, 2, label=3).shape == draws(model, 2, label=[0, 3]).shape == (2, 1, 8, 8)


def test_a_label_needs_a_prior_that_is_given_one() -> None:
    with pytest.raises(ConfigError, match="label: the prior Autoregressive is given none"):
        vqvae(0).sample(2, label=1)
    with pytest.raises(ConfigError, match="one, or as many as the 3 draws"):
        vqvae(4).sample(3, label=[1, 2])
