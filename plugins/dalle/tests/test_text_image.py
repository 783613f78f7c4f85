"""The loss of captions and images, against its formula."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from zoo_dalle.dalle import DALLE

from zoo_core import ConfigError, build

TEXTS = ["a red", "blue", "", "abcdef"]


@pytest.fixture(scope="module")
def model(dalle: Callable[..., DALLE]) -> DALLE:
    return dalle()


def batch(n: int = 4) -> dict[str, Any]:
    codes = torch.randint(7, (n, 4, 4), generator=torch.Generator().manual_seed(0))
    return {"image": codes, "caption": [TEXTS[i % 4] for i in range(n)]}


def loss(model: DALLE, examples: dict[str, Any], seed: int = 0, **arguments: Any) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build({"type": "dalle/text_image", **arguments}, "loss")(model.given(examples), examples)


def nats_per_token(model: DALLE, examples: dict[str, Any]) -> tuple[Tensor, Tensor]:
    log_p = model.token_log_probs(examples["image"], examples["caption"])
    counts = torch.tensor([min(6, len(text) + 1) for text in examples["caption"]])
    return -log_p.text.sum(1) / counts, -log_p.image.sum(1) / 16


def test_it_weighs_text_and_image_by_their_own_tokens(model: DALLE) -> None:
    text, image = nats_per_token(model, batch())
    whole = loss(model, batch(), drop_caption=0.0, bpe_dropout=0.0)
    assert torch.allclose(whole.total, (text / 8 + 7 / 8 * image).mean())
    assert torch.allclose(whole.terms["text"], text.mean())
    assert torch.allclose(whole.terms["image"], image.mean())
    assert torch.allclose(loss(model, batch(), drop_caption=0.0, bpe_dropout=0.0, text_weight=1.0).total, text.mean())


def test_a_hidden_caption_leaves_the_image_alone(model: DALLE) -> None:
    hidden = loss(model, batch(), drop_caption=1.0)
    _, image = nats_per_token(model, {**batch(), "caption": [""] * 4})
    assert torch.allclose(hidden.total, 7 / 8 * image.mean())
    assert hidden.terms["text"] == 0


def test_captions_are_hidden_as_often_as_asked(model: DALLE) -> None:
    """Of examples with one text, the share of the text's term is that of the captions that are seen."""
    examples = {"image": batch(400)["image"], "caption": ["red"] * 400}
    with torch.no_grad():
        seen = nats_per_token(model, examples)[0][0]
    shown = loss(model, examples, drop_caption=0.25, bpe_dropout=0.0).terms["text"] / seen
    assert abs(float(shown) - 0.75) < 5 * (0.25 * 0.75 / 400) ** 0.5


def test_nothing_is_hidden_from_an_evaluation(model: DALLE) -> None:
    with torch.no_grad():
        text, image = nats_per_token(model, batch())
        assert torch.allclose(
            loss(model, batch(), drop_caption=0.9, bpe_dropout=0.9).total, (text / 8 + 7 / 8 * image).mean()
        )


def test_a_batch_is_the_mean_of_its_examples(model: DALLE) -> None:
    plain = {"drop_caption": 0.0, "bpe_dropout": 0.0}
    ones = [loss(model, {k: v[i : i + 1] for k, v in batch().items()}, **plain).total for i in range(4)]
    assert torch.allclose(torch.stack(ones).mean(), loss(model, batch(), **plain).total, atol=1e-5)


def test_images_are_encoded(model: DALLE) -> None:
    x = torch.rand(4, 3, 16, 16)
    plain = {"drop_caption": 0.0, "bpe_dropout": 0.0}
    codes = {"image": model.first_stage.encode(x), "caption": TEXTS}
    assert torch.equal(loss(model, {"image": x, "caption": TEXTS}, **plain).total, loss(model, codes, **plain).total)


def test_all_of_the_stream_learns(model: DALLE) -> None:
    loss(model, batch()).total.backward()
    assert all(p.grad is not None for p in model.stream.parameters())
    assert all(p.grad is None for p in model.first_stage.parameters())
    model.zero_grad()


def test_it_needs_captions_and_a_dalle(model: DALLE) -> None:
    with pytest.raises(ConfigError, match="needs a dalle and captions"):
        loss(model, {"image": batch()["image"]})


def test_it_learns_what_a_caption_says(dalle: Callable[..., DALLE]) -> None:
    """Two captions, two images: after some steps each caption gives its image, and nothing else."""
    torch.manual_seed(0)
    model = dalle(dim=32, heads=4, depth=2)
    for parameter in model.stream.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    codes = torch.stack([torch.zeros(4, 4), torch.arange(16).view(4, 4) % 7]).long()
    examples = {"image": codes.repeat(4, 1, 1), "caption": ["red", "blue"] * 4}
    optimizer = torch.optim.Adam(model.stream.parameters(), lr=1e-2)
    for step in range(60):
        optimizer.zero_grad()
        loss(model, examples, seed=step, drop_caption=0.1).total.backward()
        optimizer.step()
    with torch.no_grad():
        right, wrong = (model.log_prob(codes, text=texts) for texts in (["red", "blue"], ["blue", "red"]))
    assert (right > -0.5).all()
    assert (wrong < right - 3).all()
