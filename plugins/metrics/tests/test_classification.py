"""The classifier: its loss and its metric against closed forms, what its features depend on, what it refuses."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from zoo_metrics.classification.accuracy import Accuracy
from zoo_metrics.classification.classifier import Classifier
from zoo_metrics.classification.cross_entropy import CrossEntropy, flipped, shifted

from zoo_core import (
    ConfigError,
    DataError,
    GenerativeModel,
    build,
    describe,
    evaluate,
    from_pretrained,
    read_recipe,
    save_pretrained,
    train,
)
from zoo_core.data import InMemory
from zoo_core.evaluation import read_results

SIZE, CLASSES = (3, 8, 8), 5


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def classifier(**changes: Any) -> Classifier:
    encoder = {"type": "nets/conv_encoder", "latents": 6, "channels": [4, 8], "posterior": "nets/dirac"}
    config = {"type": "metrics/classifier", "encoder": {**encoder, **changes}, "classes": CLASSES}
    model: Classifier = build(config, "model", data_shape=SIZE)
    return model.eval()


def batch(n: int = 7) -> dict[str, Tensor]:
    return {"image": torch.rand(n, *SIZE), "label": torch.arange(n) % CLASSES}


class Known(GenerativeModel):
    """A classifier of known logits, whatever the images."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.known, self.classes, self.data_shape = logits, logits.shape[1], SIZE

    def logits(self, x: Tensor) -> Tensor:
        return self.known

    def draw(self, n: int) -> Tensor:
        raise NotImplementedError


class Seen(Known):
    """Keeps the images that it is given."""

    def logits(self, x: Tensor) -> Tensor:
        self.seen = x
        return self.known


# the model


def test_logits_are_affine_in_features_that_are_never_negative() -> None:
    model, x = classifier(), torch.rand(4, *SIZE)
    h = model.features(x)
    assert h.shape == (4, 6)
    assert h.min() == 0 < h.max()
    torch.testing.assert_close(model.logits(x), h @ model.head.weight.T + model.head.bias)
    torch.testing.assert_close(h, model.encoder(2 * x - 1).mean.clamp(min=0))


@pytest.mark.parametrize("posterior", ["nets/dirac", "nets/diagonal_gaussian"])
@pytest.mark.parametrize("layout", ["vector", "grid"])
def test_any_encoder_is_a_body_without_chance(posterior: str, layout: str) -> None:
    model, x = classifier(posterior=posterior, layout=layout), torch.rand(4, *SIZE)
    assert model.features(x).shape == (4, math.prod(model.encoder.latent_shape))
    assert torch.equal(model.logits(x), model.logits(x))


def test_an_image_is_seen_alone() -> None:
    model, x = classifier(), torch.rand(6, *SIZE)
    one_by_one = torch.cat([model.logits(each) for each in x.split(1)])
    torch.testing.assert_close(model.logits(x), one_by_one, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(model.logits(x.flip(0)), one_by_one.flip(0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_a_moved_model_gives_logits_in_float32_at_least(dtype: torch.dtype) -> None:
    model, x = classifier(), torch.rand(4, *SIZE)
    before, moved = model.logits(x), model.to(dtype).logits(x)
    assert moved.dtype == torch.promote_types(dtype, torch.float32)
    torch.testing.assert_close(moved, before, rtol=0.05, atol=0.05, check_dtype=False)


def test_trained_from_nothing_its_weights_have_he_s_variance() -> None:
    """2/n for n inputs of a unit, of weights that do not start at zero as the residual branches do."""
    model = classifier(type="nets/resnet_encoder", channels=[32, 64], latents=64)
    layers = [layer for layer in model.encoder.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    zeros = [layer for layer in layers if not layer.weight.any()]
    head = model.head.weight.clone()
    model.before_training(InMemory("few", "train", {"image": torch.zeros(2, *SIZE, dtype=torch.uint8)}))
    assert len(zeros) == 4
    assert not any(layer.weight.any() for layer in zeros)
    for layer in set(layers) - set(zeros):
        variance = layer.weight.detach().var() * layer.weight[0].numel()
        assert float(variance) == pytest.approx(2, rel=0.1)  # three standard errors of the smallest layer
        assert not layer.bias.any()
    assert torch.equal(model.head.weight, head)


def test_a_saved_classifier_is_the_same(tmp_path: Path) -> None:
    model, x = classifier(), torch.rand(4, *SIZE)
    loaded = from_pretrained(save_pretrained(model, tmp_path / "model"))
    assert describe(loaded) == describe(model)
    assert torch.equal(loaded.logits(x), model.logits(x))


def test_a_classifier_computes_on_the_meta_device() -> None:
    with torch.device("meta"):
        model = classifier()
    logits = model.logits(torch.rand(4, *SIZE))
    assert logits.is_meta
    assert logits.shape == (4, CLASSES)


def test_what_a_classifier_cannot_do_is_said() -> None:
    model = classifier()
    with pytest.raises(DataError, match=r"must be images \(B, 3, 8, 8\), got \(4, 1, 8, 8\)"):
        model.logits(torch.rand(4, 1, 8, 8))
    with pytest.raises(ConfigError, match="draws no pictures"):
        model.sample(2)
    with pytest.raises(NotImplementedError, match="has no density"):
        model.log_prob(torch.rand(4, *SIZE))
    with pytest.raises(ConfigError, match="classes: must be a positive integer, got 0"):
        build({**describe(model), "classes": 0})


# the loss


def test_the_loss_of_known_logits_is_the_closed_form() -> None:
    """With a at the label and 0 elsewhere, -log p(y|x) = log(1 + (C - 1) exp(-a))."""
    a, data = 1.7, batch()
    logits = a * F.one_hot(data["label"], CLASSES).float()
    total, terms = CrossEntropy()(Known(logits), data)
    expected = math.log(1 + (CLASSES - 1) * math.exp(-a))
    assert float(total) == pytest.approx(expected, rel=1e-6)
    assert float(terms["cross_entropy"]) == pytest.approx(expected, rel=1e-6)
    assert float(terms["accuracy"]) == 1


def test_smoothing_is_the_cross_entropy_with_smoothed_labels_and_ends_with_training() -> None:
    s, data, logits = 0.3, batch(), 2 * torch.randn(7, CLASSES, dtype=torch.float64)
    t = (1 - s) * F.one_hot(data["label"], CLASSES) + s / CLASSES
    smoothed = -(t * logits.log_softmax(1)).sum(1).mean()
    plain = -logits.log_softmax(1).gather(1, data["label"][:, None]).mean()
    total, terms = CrossEntropy(smoothing=s)(Known(logits), data)
    torch.testing.assert_close(total, smoothed)
    torch.testing.assert_close(terms["cross_entropy"], plain)
    with torch.no_grad():
        torch.testing.assert_close(CrossEntropy(smoothing=s)(Known(logits), data).total, plain)


def test_the_loss_does_not_depend_on_how_many_examples_there_are() -> None:
    data, model = batch(5), classifier()
    twice = {name: torch.cat([column, column]) for name, column in data.items()}
    torch.testing.assert_close(CrossEntropy()(model, twice).total, CrossEntropy()(model, data).total)


def test_images_are_varied_in_training_alone() -> None:
    data, model = batch(), Seen(torch.randn(7, CLASSES))
    loss = CrossEntropy(flip=1.0, shift=1)
    with torch.no_grad():
        loss(model, data)
    assert model.seen is data["image"]
    loss(model, data)
    assert not torch.equal(model.seen, data["image"])
    CrossEntropy()(model, data)
    assert model.seen is data["image"]


def test_variation_is_torch_s_chance() -> None:
    x, loss = torch.rand(20, *SIZE), CrossEntropy(flip=0.5, shift=2)
    made = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        made.append(loss.varied(x))
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])


def test_so_many_images_are_mirrored_and_the_others_as_they_were() -> None:
    x = torch.rand(4000, 1, 2, 3)
    y = flipped(x, 0.3)
    mirrored = (y == x.flip(3)).flatten(1).all(1)
    assert torch.equal(y[~mirrored], x[~mirrored])
    assert float(mirrored.float().mean()) == pytest.approx(0.3, abs=0.03)  # four standard errors
    assert torch.equal(flipped(x, 1.0), x.flip(3))


def test_images_are_shifted_by_every_distance_and_their_border_is_repeated() -> None:
    """A picture of its own coordinates tells how far it was moved."""
    most, height, width = 2, 6, 9
    rows, columns = torch.arange(float(height)), torch.arange(float(width))
    x = torch.stack(torch.meshgrid(rows, columns, indexing="ij")).expand(500, 2, height, width)
    y = shifted(x, most)
    moved = y[:, :, 3, 4] - torch.tensor([3, 4])
    assert {tuple(d) for d in moved.int().tolist()} == {(a, b) for a in range(-2, 3) for b in range(-2, 3)}
    down, across = (rows + moved[:, :1]).clamp(0, height - 1), (columns + moved[:, 1:]).clamp(0, width - 1)
    assert torch.equal(y[:, 0], down[:, :, None].expand(-1, height, width))
    assert torch.equal(y[:, 1], across[:, None, :].expand(-1, height, width))


# the metric


def test_accuracy_is_the_share_of_right_classes_with_the_error_of_a_share() -> None:
    n, data = 20, batch(20)
    logits = 3 * F.one_hot(data["label"], CLASSES).double()
    logits[:5] = logits[:5].roll(1, 1)  # five are wrong
    metric = Accuracy()
    for part in (slice(0, 3), slice(3, 20)):
        metric.update(Known(logits[part]), {name: column[part] for name, column in data.items()})
    values = metric.compute()
    p = 15 / n
    assert values["accuracy"][:3] == (p, pytest.approx(math.sqrt(p * (1 - p) / (n - 1))), n)
    right = math.log(1 + (CLASSES - 1) * math.exp(-3))
    assert values["cross_entropy"].value == pytest.approx(right + 5 / n * 3)
    assert (values["cross_entropy"].unit, values["cross_entropy"].better) == ("nats", "lower")


def test_it_is_measured_by_evaluate_where_the_data_have_labels() -> None:
    columns = {"image": torch.randint(0, 256, (9, *SIZE), dtype=torch.uint8), "label": torch.arange(9) % CLASSES}
    model = classifier()
    values = evaluate(model, [Accuracy()], InMemory("few", "test", columns), batch=4)
    right = model.logits(columns["image"] / 255).argmax(1) == columns["label"]
    assert values["accuracy"].value == pytest.approx(float(right.double().mean()))


# refusals


@pytest.mark.parametrize(("name", "ask"), [
    ("loss 'cross_entropy'", CrossEntropy()), ("metric 'accuracy'", Accuracy().update),
])  # fmt: skip
def test_what_is_missing_is_named(name: str, ask: Any) -> None:
    data = batch()
    with pytest.raises(DataError, match=f"{name} needs data with labels; these have caption, image alone"):
        ask(classifier(), {"image": data["image"], "caption": ["a"] * 7})
    with pytest.raises(DataError, match="label: must be from 0 to 4 for 5 classes, got 5"):
        ask(classifier(), {**data, "label": data["label"] + 1})
    with pytest.raises(DataError, match="label: must be from 0 to 4 for 5 classes, got -1"):
        ask(classifier(), {**data, "label": data["label"] - 1})
    parts = {"encoder": {"type": "nets/mlp_encoder", "latents": 2}, "decoder": "nets/mlp_decoder"}
    vae = build({"type": "vae/vae", **parts, "prior": "nets/standard_normal"}, data_shape=SIZE)
    with pytest.raises(ConfigError, match=f"{name} needs a classifier, such as 'metrics/classifier'; got a VAE"):
        ask(vae, data)


# training


def test_a_classifier_learns_digits(tmp_path: Path) -> None:
    """In a few steps it tells most of the held-out digits, of which chance tells a tenth."""
    encoder = {"type": "nets/conv_encoder", "latents": 32, "channels": [16, 32], "posterior": "nets/dirac"}
    recipe = {
        "model": {"type": "metrics/classifier", "encoder": encoder, "classes": 10},
        "loss": {"type": "metrics/cross_entropy", "smoothing": 0.1},
        "data": {"name": "digits"},
        "training": {"steps": 150, "batch": 64, "lr": 3e-3},
        "evaluation": {"metrics": ["metrics/accuracy"]},
    }
    path = tmp_path / "digits.yaml"
    path.write_text(json.dumps(recipe))
    folder = train(read_recipe(path), tmp_path / "run")
    assert folder is not None
    values = read_results(folder / "results.json")[0]["values"]
    assert values["accuracy"]["value"] > 0.8
    assert values["accuracy"]["value"] <= 1


@pytest.mark.parametrize("name", ["classifier-mnist", "classifier-cifar10"])
def test_the_recipes_build(name: str) -> None:
    recipe = read_recipe(name)
    assert build(recipe.loss, "loss").smoothing > 0
    shape = (1, 28, 28) if "mnist" in name else (3, 32, 32)
    model = build(recipe.model, "model", data_shape=shape)
    # In two bytes each, its weights are a file of less than 3 MB.
    assert 2 * sum(p.numel() for p in model.parameters()) < 3e6
    assert model.logits(torch.rand(2, *shape)).shape == (2, 10)
    assert 64 <= model.features(torch.rand(2, *shape)).shape[1] <= 128
