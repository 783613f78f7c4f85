"""Extractors: what their features depend on, that they are those of the networks behind them, what they refuse."""

import builtins
import hashlib
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from zoo_metrics.classification.classifier import Classifier
from zoo_metrics.extractors import inception
from zoo_metrics.extractors.classifier import CIFAR10Classifier, ClassifierFeatures, MNISTClassifier
from zoo_metrics.extractors.clip import CLIPFeatures
from zoo_metrics.extractors.dinov2 import DINOv2Features
from zoo_metrics.extractors.inception import InceptionFeatures
from zoo_metrics.extractors.pixels import Pixels
from zoo_metrics.extractors.published import side_of
from zoo_metrics.extractors.trained import sha256_of

from zoo_core import (
    CheckpointError,
    ConfigError,
    Extractor,
    UnknownComponent,
    build,
    default_host,
    describe,
    from_pretrained,
    save_pretrained,
)
from zoo_core.data import load

SIZE, CLASSES = (3, 8, 8), 5
SIDE, PATCH = 28, 7


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def levels(n: int = 6, size: tuple[int, ...] = SIZE) -> Tensor:
    return torch.randint(0, 256, (n, *size), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def loud(network: Any) -> Any:
    """Random weights so large that everything about an image shows."""
    for p in network.parameters():
        nn.init.normal_(p, std=0.3) if p.dim() > 1 else None
    return network


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    encoder = {"type": "nets/conv_encoder", "latents": 6, "channels": [4, 8], "posterior": "nets/diagonal_gaussian"}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = {"type": "metrics/classifier", "encoder": encoder, "classes": CLASSES}
        model = loud(build(config, data_shape=SIZE))
    return save_pretrained(model, tmp_path_factory.mktemp("classifier") / "model")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP of random weights with its image processor, as the Hub has them."""
    transformers = pytest.importorskip("transformers")
    path = tmp_path_factory.mktemp("clip")
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.CLIPConfig(
        text_config={**size, "vocab_size": 40, "max_position_embeddings": 8},
        vision_config={**size, "image_size": SIDE, "patch_size": PATCH},
        projection_dim=9,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        loud(transformers.CLIPModel(config)).save_pretrained(path)
    crop = {"height": SIDE, "width": SIDE}
    transformers.CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=crop).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def dinov2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DINOv2 of random weights, whose processor crops the middle of a larger image as the published ones do."""
    transformers = pytest.importorskip("transformers")
    path = tmp_path_factory.mktemp("dinov2")
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_ratio": 2}
    config = transformers.Dinov2Config(**size, image_size=2 * SIDE, patch_size=PATCH)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        loud(transformers.Dinov2Model(config)).save_pretrained(path)
    processor = transformers.BitImageProcessor(
        size={"shortest_edge": SIDE + 4},
        crop_size={"height": SIDE, "width": SIDE},
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    )
    processor.save_pretrained(path)
    return path


@pytest.fixture(params=["pixels", "classifier", "clip", "dinov2", "inception"])
def extractor(request: pytest.FixtureRequest, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Extractor:
    """Each of them, on a network of random weights."""
    name = request.param
    if name == "pixels":
        return Pixels()
    if name == "classifier":
        return ClassifierFeatures(str(checkpoint))
    if name == "inception":
        path = request.getfixturevalue("stub")
        return InceptionFeatures(str(path))
    made = {"clip": CLIPFeatures, "dinov2": DINOv2Features}[name]
    return made(str(request.getfixturevalue(name)))


# what holds for each


def test_bytes_and_floats_have_the_same_features(extractor: Extractor) -> None:
    x = levels()
    features = extractor.features(x)
    assert features.dim() == 2
    assert len(features) == len(x)
    assert features.isfinite().all()
    assert torch.equal(extractor.features(x.float() / 255), features)
    assert torch.equal(extractor.features(x.double() / 255), features)
    assert torch.equal(extractor.features((x.float() + 0.4) / 255), features)  # as it would be stored


def test_each_image_is_seen_alone_and_matters(extractor: Extractor) -> None:
    x = levels()
    features = extractor.features(x)
    one_by_one = torch.cat([extractor.features(each) for each in x.split(1)])
    torch.testing.assert_close(features, one_by_one, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(extractor.features(x.flip(0)), features.flip(0), rtol=1e-4, atol=1e-4)
    assert (torch.pdist(features) > 1e-2).all()
    changed = x.clone()
    changed[0, :, 3:5, 3:5] = 255 - changed[0, :, 3:5, 3:5]
    assert (extractor.features(changed)[0] - features[0]).norm() > 1e-3


def test_chance_and_gradients_have_no_part(extractor: Extractor) -> None:
    x = levels()
    first = extractor.features(x)
    before = torch.random.get_rng_state()
    extractor.train()
    again = extractor.features(x.clone())
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(again, first)
    assert not first.requires_grad
    assert not any(p.requires_grad for p in extractor.parameters())
    assert not any(module.training for module in extractor.modules())


def test_what_is_described_is_built_again_with_the_same_features(extractor: Extractor) -> None:
    x = levels()
    config = describe(extractor)
    twin: Any = build(config, "extractor")
    assert describe(twin) == config
    assert not list(twin.parameters())  # nothing is loaded before it is used
    assert twin.identity == extractor.identity
    assert torch.equal(twin.features(x), extractor.features(x))


def test_its_identity_names_what_decides_the_features(extractor: Extractor) -> None:
    known = default_host().name_of(type(extractor))
    assert known is not None
    assert extractor.identity["extractor"] == known.full_name
    assert extractor.label == known.spec.name
    assert extractor.is_fid is False
    assert len(extractor.identity["weights"]) in (0, 64)


# pixels


def test_pixels_are_the_image_in_one_row() -> None:
    x = torch.arange(24, dtype=torch.uint8).view(2, 1, 3, 4)
    assert torch.equal(Pixels().features(x), torch.arange(24).view(2, 12) / 255)
    assert Pixels().identity == {"extractor": "metrics/pixels", "weights": ""}
    with pytest.raises(ConfigError, match="extractor 'pixels' is no classifier"):
        Pixels().class_logits(x)


# classifiers


def test_features_of_a_checkpoint_are_those_of_its_model(checkpoint: Path) -> None:
    x, model = levels(), from_pretrained(checkpoint)
    extractor = ClassifierFeatures(str(checkpoint))
    with torch.no_grad():
        assert torch.equal(extractor.features(x), model.features(x.float() / 255))
        assert torch.equal(extractor.class_logits(x), model.logits(x.float() / 255))
        halved = ClassifierFeatures(str(checkpoint), scale=0.5)
        assert torch.equal(2 * halved.features(x), extractor.features(x))
        assert torch.equal(halved.class_logits(x), extractor.class_logits(x))
        assert halved.identity == {**extractor.identity, "scale": 0.5}
    weight, bias = model.head.weight.detach(), model.head.bias.detach()
    torch.testing.assert_close(extractor.class_logits(x), extractor.features(x) @ weight.T + bias)


def test_equal_weights_have_one_hash_and_others_another(checkpoint: Path, tmp_path: Path) -> None:
    model = from_pretrained(checkpoint)
    copy = save_pretrained(model, tmp_path / "copy", max_shard_size="1KB")
    model.head.bias.data[0] += 1e-3
    changed = save_pretrained(model, tmp_path / "changed")
    first, second, third = (ClassifierFeatures(str(path)).weights for path in (checkpoint, copy, changed))
    assert first == second != third
    assert len(first) == 64


def test_a_hash_tells_names_shapes_and_dtypes_apart() -> None:
    def of(**tensors: Tensor) -> str:
        module = nn.Module()
        for name, tensor in tensors.items():
            module.register_buffer(name, tensor)
        return sha256_of(module)

    a = torch.arange(4.0)
    different = [of(a=a), of(b=a), of(a=a.view(2, 2)), of(a=a.view(torch.int32)), of(a=-a), of(a=a.bfloat16()), of()]
    assert len(set(different)) == len(different)
    assert of(a=a, b=-a) == of(b=-a, a=a)
    assert of(a=a.view(2, 2).T) == of(a=a.view(2, 2).T.contiguous())


@pytest.mark.parametrize(("made", "message"), [
    (MNISTClassifier, r"'mnist_classifier' was trained on images \(1, 28, 28\), these are \(3, 8, 8\)"),
    (CIFAR10Classifier, r"'cifar10_classifier' was trained on images \(3, 32, 32\), these are \(3, 8, 8\)"),
])  # fmt: skip
def test_images_of_another_shape_are_refused_before_anything_is_loaded(made: Any, message: str) -> None:
    extractor = made()
    with pytest.raises(ConfigError, match=message):
        extractor.features(levels())
    with pytest.raises(ConfigError, match=message):
        extractor.class_logits(levels())
    assert not list(extractor.parameters())


def test_what_is_no_classifier_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'classifier_features' was trained on images \(3, 8, 8\)"):
        ClassifierFeatures(str(checkpoint)).features(levels(size=(1, 8, 8)))
    with pytest.raises(UnknownComponent, match="classifier-nothing"):
        ClassifierFeatures("classifier-nothing").features(levels())
    parts = {"encoder": {"type": "nets/mlp_encoder", "latents": 2}, "decoder": "nets/mlp_decoder"}
    vae = build({"type": "vae/vae", **parts, "prior": "nets/standard_normal"}, data_shape=SIZE)
    with pytest.raises(CheckpointError, match="Classifier"):
        ClassifierFeatures(str(save_pretrained(vae, tmp_path / "vae"))).features(levels())


@pytest.mark.parametrize(("made", "name", "data", "least"), [
    (MNISTClassifier, "classifier-mnist", "ylecun/mnist", 0.98),
    (CIFAR10Classifier, "classifier-cifar10", "uoft-cs/cifar10", 0.75),
])  # fmt: skip
def test_the_classifiers_that_come_along_know_their_data(made: Any, name: str, data: str, least: float) -> None:
    extractor: ClassifierFeatures = made()
    model = from_pretrained(name)
    assert isinstance(model, Classifier)
    known = default_host().name_of(made)
    assert known is not None
    assert known.spec.data_shape == model.data_shape == extractor.data_shape  # type: ignore[attr-defined]
    x = levels(4, model.data_shape)
    with torch.no_grad():
        assert torch.equal(extractor.features(x), extractor.scale * model.features(x.float() / 255))
    assert extractor.identity["scale"] == extractor.scale
    try:
        examples = load(data, "test").batch(torch.arange(500))
    except Exception as error:
        pytest.skip(f"the data set {data} is not here: {error}")
    assert 0.5 < float(extractor.features(examples["image"]).square().mean()) < 2  # as a kernel distance has use for
    right = extractor.class_logits(examples["image"]).argmax(1) == torch.as_tensor(examples["label"])
    assert float(right.float().mean()) > least


# Inception


class StubNetwork(nn.Module):
    """Takes torch-fidelity's place: unpickles its file, keeps what it is given, and makes a few features of it."""

    def __init__(self, name: str, layers: list[str], feature_extractor_weights_path: str) -> None:
        super().__init__()
        torch.load(feature_extractor_weights_path, weights_only=False)
        self.layers, self.path, self.seen = layers, feature_extractor_weights_path, torch.empty(0)
        self.register_buffer("w", torch.randn(3 * 64, 7, generator=torch.Generator().manual_seed(0)))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self.seen = x
        h = (x.float() / 255).flatten(1) @ self.w
        return h, h[:, :3]


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of weights, and a network that needs none."""
    monkeypatch.setattr(inception, "network_class", lambda: StubNetwork)
    torch.save({"w": torch.zeros(2)}, tmp_path / "weights.pth")
    return tmp_path / "weights.pth"


@pytest.mark.parametrize("channels", [1, 3])
def test_inception_sees_colour_images_of_256_levels(stub: Path, channels: int) -> None:
    extractor, x = InceptionFeatures(str(stub)), levels(size=(channels, 8, 8))
    features, logits = extractor.features(x.float() / 255), extractor.class_logits(x)
    network = extractor.network
    assert network.seen.dtype == torch.uint8
    assert torch.equal(network.seen, x.expand(-1, 3, -1, -1))
    assert (network.layers, network.path) == (["2048", "logits_unbiased"], str(stub))
    assert torch.equal(logits, features[:, :3])
    assert (features.shape, logits.shape) == ((6, 7), (6, 3))


def test_inception_refuses_other_channels(stub: Path) -> None:
    with pytest.raises(ConfigError, match=r"'inception' sees grey or colour images, these are \(2, 8, 8\)"):
        InceptionFeatures(str(stub)).features(levels(size=(2, 8, 8)))


def test_its_weights_are_those_of_the_file_wherever_it_lies(stub: Path, tmp_path: Path) -> None:
    found = hashlib.sha256(stub.read_bytes()).hexdigest()
    (tmp_path / "moved.pth").write_bytes(stub.read_bytes())
    extractor, moved = InceptionFeatures(str(stub)), InceptionFeatures(str(tmp_path / "moved.pth"))
    assert extractor.weights == found
    assert extractor.identity == moved.identity == {"extractor": "metrics/inception", "weights": found}


def test_only_the_original_is_called_fid(stub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert InceptionFeatures(str(stub)).is_fid is False
    monkeypatch.setattr(inception, "ORIGINAL", hashlib.sha256(stub.read_bytes()).hexdigest()[:8])
    assert InceptionFeatures(str(stub)).is_fid is True


def test_a_file_that_is_not_what_its_name_says_is_refused(stub: Path) -> None:
    digits = hashlib.sha256(stub.read_bytes()).hexdigest()[:8]
    right = stub.with_name(f"weights-inception-{digits}.pth")
    right.write_bytes(stub.read_bytes())
    assert InceptionFeatures(str(right)).features(levels()).shape == (6, 7)
    wrong = stub.with_name("pt_inception-2015-12-05-6726825d.pth")
    wrong.write_bytes(stub.read_bytes())
    message = f"damaged or renamed: its SHA-256 begins with {digits}, not 6726825d"
    with pytest.raises(ConfigError, match=message):
        InceptionFeatures(str(wrong)).features(levels())
    with pytest.raises(ConfigError, match=message):
        _ = InceptionFeatures(str(wrong)).is_fid


class Bad:
    """Unpickling it would do harm."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("harm"),))


@pytest.mark.parametrize("lifted", ["", "1"])
@pytest.mark.parametrize("content", [{"w": Bad()}, [Bad()], b"nonsense", b""], ids=["among", "alone", "noise", "empty"])
def test_a_file_with_more_than_tensors_is_not_loaded(
    stub: Path, content: Any, lifted: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", lifted)
    stub.write_bytes(content) if isinstance(content, bytes) else torch.save(content, stub)
    before = dict(os.environ)
    with pytest.raises(
        ConfigError, match="does not hold the tensors of torch-fidelity's Inception-v3 and nothing else"
    ):
        InceptionFeatures(str(stub)).features(levels())
    assert not (tmp_path / "harm").exists()
    assert dict(os.environ) == before
    if not isinstance(content, bytes):  # the file is a bad one indeed
        StubNetwork("unguarded", [], str(stub))
        assert (tmp_path / "harm").exists()


def test_tensors_are_loaded_whatever_the_user_has_switched(stub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    assert InceptionFeatures(str(stub)).features(levels()).shape == (6, 7)
    assert os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] == "1"
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


def test_a_missing_file_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file or directory; name the file pt_inception-2015-12-05-6726825d"):
        InceptionFeatures(str(tmp_path / "nothing.pth")).features(levels())


@pytest.mark.parametrize("error", [ImportError, RuntimeError])
def test_missing_packages_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Any) -> None:
    torch.save({"w": torch.zeros(2)}, tmp_path / "weights.pth")
    missing(monkeypatch, "torch_fidelity", error)
    with pytest.raises(ConfigError, match=r"pip install torch-fidelity torchvision \(no torch_fidelity"):
        InceptionFeatures(str(tmp_path / "weights.pth")).features(levels())


@pytest.fixture
def torch_fidelity(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """torch-fidelity's own network, with nothing in torchvision's place where that is missing."""
    before = set(sys.modules)
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError):
        for name in ("", ".datasets", ".transforms", ".transforms.functional", ".models"):
            module: Any = ModuleType(f"torchvision{name}")
            module.CIFAR10 = module.CIFAR100 = module.STL10 = module.vgg16 = object
            monkeypatch.setitem(sys.modules, f"torchvision{name}", module)
    try:
        yield pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    finally:
        for name in set(sys.modules) - before:
            if name.partition(".")[0] in ("torch_fidelity", "torchvision"):
                del sys.modules[name]


def test_a_network_of_random_weights_is_torch_fidelity_s(torch_fidelity: Any, tmp_path: Path) -> None:
    """Given a file of its weights, features and logits are those that it has for the same bytes."""
    saved = tmp_path / "random.pth"
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        # Without a path it would download the weights.
        patch.setattr(torch_fidelity, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(torch_fidelity.FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        whole = torch_fidelity.FeatureExtractorInceptionV3("random", ["2048", "logits_unbiased"])
    torch.save(whole.state_dict(), saved)
    extractor, x = InceptionFeatures(str(saved)), levels(2)
    with torch.no_grad():
        features, logits = whole(x)
    torch.testing.assert_close(extractor.features(x), features)
    torch.testing.assert_close(extractor.class_logits(x.float() / 255), logits)
    assert (features.shape, logits.shape) == ((2, 2048), (2, 1008))
    torch.save({"Conv2d_1a_3x3.conv.weight": torch.zeros(2)}, saved)
    with pytest.raises(ConfigError, match="does not hold the tensors of torch-fidelity's Inception-v3"):
        InceptionFeatures(str(saved)).features(x)


# published networks


def missing(monkeypatch: pytest.MonkeyPatch, package: str, error: Any = ImportError) -> None:
    found = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.partition(".")[0] == package:
            raise error(f"no {package}")
        return found(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)


@pytest.mark.parametrize("size", [(SIDE, SIDE), (12, 12), (60, 60)], ids=str)
def test_clip_sees_what_its_own_processor_makes_of_square_images(clip: Path, size: tuple[int, int]) -> None:
    """To the rounding that a processor does between rows, columns and normalising."""
    transformers = pytest.importorskip("transformers")
    processor, extractor = transformers.AutoImageProcessor.from_pretrained(clip), CLIPFeatures(str(clip))
    x = 80 + levels(size=(3, *size)) // 3  # nothing that it would cut at black or white on the way
    expected = processor(list(x.numpy()), return_tensors="pt", input_data_format="channels_first")["pixel_values"]
    pixels = extractor.pixels(x.float() / 255)
    assert pixels.shape == (6, 3, SIDE, SIDE)
    level = max(1 / (255 * std) for std in processor.image_std)
    torch.testing.assert_close(pixels, expected, rtol=0, atol=2.2 * level)
    assert float((pixels - expected).abs().mean()) < 0.5 * level


def test_clip_features_are_the_projected_ones(clip: Path) -> None:
    transformers = pytest.importorskip("transformers")
    extractor, x = CLIPFeatures(str(clip)), levels()
    whole = transformers.CLIPModel.from_pretrained(clip).eval()
    with torch.no_grad():
        pooled = whole.vision_model(pixel_values=extractor.pixels(x.float() / 255)).pooler_output
        expected = whole.visual_projection(pooled)
    assert expected.shape == (6, 9)
    torch.testing.assert_close(extractor.features(x), expected)


def test_dinov2_features_are_the_token_of_the_whole_image(dinov2: Path) -> None:
    transformers = pytest.importorskip("transformers")
    extractor, x = DINOv2Features(str(dinov2)), levels(size=(3, SIDE, SIDE))
    network = transformers.Dinov2Model.from_pretrained(dinov2).eval()
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    normalised = (x.float() / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    with torch.no_grad():
        expected = network(pixel_values=normalised).pooler_output  # which is that token in this network
    torch.testing.assert_close(extractor.features(x), expected)


def test_resizing_makes_nothing_whiter_than_white(dinov2: Path) -> None:
    extractor, white = DINOv2Features(str(dinov2)), torch.ones(1, 3, SIDE, SIDE)
    edges = torch.rand(6, 3, 12, 12).round()
    highest, lowest = extractor.pixels(white).amax((0, 2, 3)), extractor.pixels(0 * white).amin((0, 2, 3))
    torch.testing.assert_close(extractor.pixels(edges).amax((0, 2, 3)), highest)
    torch.testing.assert_close(extractor.pixels(edges).amin((0, 2, 3)), lowest)


def test_nothing_at_the_border_goes_unseen(dinov2: Path) -> None:
    extractor, x = DINOv2Features(str(dinov2)), levels()
    framed = x.clone()
    framed[:, :, 0] = framed[:, :, -1] = 255 - framed[:, :, 0]
    assert ((extractor.features(framed) - extractor.features(x)).norm(dim=1) > 1e-2).all()


@pytest.mark.parametrize("made", [CLIPFeatures, DINOv2Features])
def test_grey_images_are_three_equal_channels(made: Any, clip: Path, dinov2: Path) -> None:
    extractor, x = made(str(clip if made is CLIPFeatures else dinov2)), levels(size=(1, 8, 8))
    assert torch.equal(extractor.features(x), extractor.features(x.repeat(1, 3, 1, 1)))
    with pytest.raises(ConfigError, match=r"sees grey or colour images, these are \(2, 8, 8\)"):
        extractor.features(levels(size=(2, 8, 8)))
    with pytest.raises(ConfigError, match="is no classifier"):
        extractor.class_logits(x)


def test_the_side_is_that_of_the_crop_or_of_the_size() -> None:
    def processor(**attributes: Any) -> Any:
        return type("Processor", (), attributes)()

    crop = {"height": 224, "width": 224}
    assert side_of(processor(size={"shortest_edge": 256}, crop_size=crop)) == 224
    assert side_of(processor(size={"shortest_edge": 256}, crop_size=crop, do_center_crop=False)) == 256
    assert side_of(processor(size={"height": 336, "width": 336}, crop_size=None)) == 336


def test_a_model_of_another_kind_is_refused(clip: Path, dinov2: Path) -> None:
    """transformers would fill it with random weights."""
    with pytest.raises(ConfigError, match=r"^model: extractor 'clip' takes a clip; '.*' is a dinov2"):
        CLIPFeatures(str(dinov2)).features(levels())
    with pytest.raises(
        ConfigError, match=r"^model: extractor 'dinov2' takes a dinov2 or dinov2_with_registers; '.*' is a clip"
    ):
        DINOv2Features(str(clip)).features(levels())


def test_a_model_without_all_of_its_weights_is_refused(dinov2: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    part = tmp_path / "part"
    shutil.copytree(dinov2, part)
    tensors = load_file(part / "model.safetensors")
    save_file({k: v for k, v in tensors.items() if k != "layernorm.bias"}, part / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigError, match=r"is not whole: it has no layernorm\.bias"):
        DINOv2Features(str(part)).features(levels())


@pytest.mark.parametrize("made", [CLIPFeatures, DINOv2Features])
def test_a_folder_without_a_model_is_refused(made: Any, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    with pytest.raises(ConfigError, match="cannot be loaded"):
        made(str(tmp_path)).features(levels())


@pytest.mark.parametrize("made", [CLIPFeatures, DINOv2Features])
def test_missing_transformers_are_asked_for(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    missing(monkeypatch, "transformers")
    label = made("any/thing").label
    with pytest.raises(ConfigError, match=f"extractor '{label}' needs transformers: pip install transformers"):
        made("any/thing").features(levels())


def test_a_revision_is_handed_on(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transformers, asked = pytest.importorskip("transformers"), []
    for name in ("AutoImageProcessor", "CLIPModel"):
        found = getattr(transformers, name).from_pretrained

        def spy(*args: Any, found: Any = found, **options: Any) -> Any:
            asked.append(options.pop("revision", None))
            return found(*args, **options)

        monkeypatch.setattr(getattr(transformers, name), "from_pretrained", spy)
    CLIPFeatures(str(clip), revision="v2").features(levels())
    assert asked == ["v2", "v2"]
    assert CLIPFeatures(str(clip), revision="v2").identity["revision"] == "v2"
