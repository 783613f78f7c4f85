"""The models: what they promise, what they share, and what a checkpoint keeps."""

import copy
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor
from zoo_autoencoder.contractive import Contractive
from zoo_autoencoder.reconstruction import Reconstruction

from zoo_core import ConfigError, Dirac, build, default_host, describe, from_pretrained, save_pretrained

DATA = (1, 8, 8)
PLAIN = {
    "type": "autoencoder/autoencoder",
    "encoder": {"type": "nets/mlp_encoder", "latents": 3, "hidden": [4], "posterior": "autoencoder/sigmoid"},
    "decoder": {"type": "nets/mlp_decoder", "hidden": [4]},
    "prior": {"type": "nets/gaussian_mixture", "components": 2},
}
TIED = [
    {"type": "autoencoder/tied_autoencoder", "latents": 3, "activation": activation, "likelihood": likelihood}
    for activation in ("linear", "sigmoid")
    for likelihood in ("gaussian", "bernoulli")
]
TOLD = [f"{config['activation']}-{config['likelihood']}" for config in TIED]
every_model = pytest.mark.parametrize("config", [PLAIN, *TIED], ids=["plain", *TOLD])
every_tied = pytest.mark.parametrize("config", TIED, ids=TOLD)


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def model_of(config: dict[str, Any]) -> Any:
    return build(config, "model", data_shape=DATA)


@every_model
def test_there_is_no_density(config: dict[str, Any]) -> None:
    with pytest.raises(NotImplementedError, match=r"codes do not follow its prior.*vae/elbo"):
        model_of(config).log_prob(torch.rand(2, *DATA))
    assert default_host().find("model", config["type"]).spec.density == "none"


@every_model
def test_a_code_is_decoded_to_a_picture(config: dict[str, Any]) -> None:
    model, x = model_of(config), torch.rand(5, *DATA)
    assert model.encode(x).shape == (5, 3)
    assert model.reconstruct(x).shape == x.shape
    assert torch.equal(model.reconstruct(x), model.decode(model.encode(x)))
    drawn = model.sample(4)
    assert drawn.shape == (4, *DATA)
    assert 0 <= drawn.min() <= drawn.max() <= 1


@every_model
def test_a_description_builds_the_same_model(config: dict[str, Any]) -> None:
    described = json.loads(json.dumps(describe(model_of(config), data_shape=DATA)))
    assert describe(model_of(described), data_shape=DATA) == described
    assert set(described) == set(config)


@every_model
def test_a_checkpoint_round_trip(config: dict[str, Any], tmp_path: Path) -> None:
    model, x = model_of(config), torch.rand(5, *DATA)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    loaded = from_pretrained(save_pretrained(model, tmp_path / "saved"))
    assert type(loaded) is type(model)
    assert torch.equal(loaded.encode(x), model.encode(x))
    assert torch.equal(loaded.reconstruct(x), model.reconstruct(x))
    assert torch.equal(loaded.sample(3, generator=seed(1)), model.sample(3, generator=seed(1)))


def seed(number: int) -> torch.Generator:
    return torch.Generator().manual_seed(number)


# tied weights


def same_weight(model: Any) -> bool:
    """Whether a change of the encoder's weight changes what the decoder says, as its transpose would."""
    z = torch.randn(2, 3, dtype=model.encoder.weight().dtype)
    before = model.decoder(z).mean
    with torch.no_grad():
        model.encoder.weight().zero_()
    blank = model.decoder(torch.zeros_like(z)).mean
    return torch.equal(model.decoder(z).mean, blank) and not torch.equal(before, blank)


@every_tied
def test_the_decoder_is_the_encoders_transpose(config: dict[str, Any]) -> None:
    model, z = model_of(config).double(), torch.randn(2, 3).double()
    W, c = model.encoder.weight(), model.decoder.c
    torch.nn.init.normal_(c)
    h = (z @ W + c).reshape(2, *DATA)
    mean = h if config["likelihood"] == "gaussian" else torch.sigmoid(h)
    assert torch.allclose(model.decoder(z).mean, mean, rtol=1e-12)
    assert sum(p.numel() for p in model.state_dict().values()) == 3 * 64 + 3 + 64 + 1  # W, b, c, the prior's place


@every_tied
def test_weights_stay_tied_wherever_the_model_goes(config: dict[str, Any], tmp_path: Path) -> None:
    model = model_of(config)
    loaded = from_pretrained(save_pretrained(model, tmp_path / "saved"))
    with safe_open(tmp_path / "saved" / "model.safetensors", "pt") as file:
        assert sum(math.prod(file.get_slice(name).get_shape()) == 3 * 64 for name in file.keys()) == 1  # noqa: SIM118
    for twin in (copy.deepcopy(model), copy.deepcopy(model).double(), loaded, moved(model)):
        assert same_weight(twin)


def moved(model: Any) -> Any:
    """To another device and back, where parameters are made anew."""
    twin = copy.deepcopy(model).to("meta").to_empty(device="cpu")
    twin.load_state_dict(model.state_dict())
    return twin


@every_tied
def test_both_sides_train_the_weight(config: dict[str, Any]) -> None:
    model, x = model_of(config), torch.rand(5, *DATA)
    Reconstruction()(model, {"image": x}).total.backward()
    with_both = model.encoder.weight().grad.clone()
    model.zero_grad()
    z = model.encode(x).detach()
    (-model.decoder(z).log_prob(x).mean()).backward()
    assert not torch.allclose(model.encoder.weight().grad, with_both)
    assert all(p.grad.abs().sum() > 0 for p in (model.decoder.c, model.encoder.weight()))


@every_tied
@pytest.mark.parametrize("leading", [(), (4,), (3, 1, 2)], ids=str)
def test_a_transposed_decoder_takes_any_leading_dimensions(config: dict[str, Any], leading: tuple[int, ...]) -> None:
    p = model_of(config).decoder(torch.randn(*leading, 3))
    assert p.batch_shape == leading
    assert p.event_shape == DATA


@every_tied
def test_half_precision_computes_densities_in_float32(config: dict[str, Any]) -> None:
    model, x = model_of(config).to(torch.bfloat16), torch.rand(4, *DATA)
    assert model.encoder(x).mean.dtype == model.prior().sample().dtype == torch.float32
    total = Contractive()(model, {"image": x}).total
    assert total.dtype == torch.float32
    assert total.isfinite()


@every_tied
def test_codes_are_drawn_where_codes_can_lie(config: dict[str, Any]) -> None:
    model = model_of(config)
    z = model.prior().sample((1000,))
    inside = ((z >= 0) & (z <= 1)).all().item()
    assert inside == (config["activation"] == "sigmoid")
    assert model.prior().log_prob(z).shape == (1000,)


def test_an_unknown_activation_is_refused() -> None:
    with pytest.raises(ConfigError, match="activation: must be one of 'linear', 'sigmoid', got 'tanh'"):
        model_of({**TIED[0], "activation": "tanh"})


# units in [0, 1]


def test_a_sigmoid_posterior_is_a_dirac_between_off_and_on() -> None:
    encoder = build({"type": "nets/linear_encoder", "latents": 3, "posterior": "autoencoder/sigmoid"}, data_shape=DATA)
    q, h = encoder(torch.rand(5, *DATA)), Tensor([-200.0, 0.0, 200.0])
    assert isinstance(q, Dirac)
    assert q.batch_shape == (5,)
    assert torch.equal(encoder.posterior(h, 1).mean, torch.tensor([0.0, 0.5, 1.0]))
    assert q.support.check(q.mean).all()
    assert not q.support.check(q.mean + 1).any()
    assert q.expand((2, 5)).support.check(q.mean).all()
