"""Preprocessing: stored bytes to values in [0, 1], and its form as JSON."""

import json
from dataclasses import FrozenInstanceError

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo_core.data import Preprocessing
from zoo_core.errors import ConfigError, DataError

SIZES = st.tuples(st.integers(1, 9), st.integers(1, 9))

noises = st.sampled_from(
    [
        {},
        {"binarize": "dynamic"},
        {"binarize": "threshold"},
        {"dequantize": "uniform"},
    ]
)
preprocessings = st.builds(
    lambda noise, **shape: Preprocessing(**noise, **shape),
    noises,
    image_size=st.none() | SIZES,
    channels=st.sampled_from([None, 1, 3]),
)


@st.composite
def images(draw):
    shape = (draw(st.integers(0, 3)), draw(st.sampled_from([1, 3])), *draw(SIZES))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def values(image: torch.Tensor, **how: object) -> torch.Tensor:
    return Preprocessing(**how)({"image": image})["image"]  # type: ignore[arg-type]


EVERY = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)


@settings(max_examples=60, deadline=None)
@given(images(), preprocessings)
def test_values_type_and_shape(image, preprocessing):
    before = image.clone()
    x = preprocessing({"image": image})["image"]
    assert x.dtype == torch.float32
    assert tuple(x.shape) == (len(image), *preprocessing.data_shape(tuple(image.shape[1:])))
    assert ((x >= 0) & (x <= 1)).all()
    assert torch.equal(image, before)


@settings(deadline=None)
@given(images(), preprocessings)
def test_follows_the_device(image, preprocessing):
    x = preprocessing({"image": image.to("meta")})["image"]
    assert x.device.type == "meta"
    assert tuple(x.shape[1:]) == preprocessing.data_shape(tuple(image.shape[1:]))


@given(images(), preprocessings, st.integers(0, 99))
@settings(deadline=None)
def test_the_global_seed_decides_the_noise(image, preprocessing, seed):
    draws = []
    for _ in range(2):
        torch.manual_seed(seed)
        draws.append(preprocessing({"image": image})["image"])
    assert torch.equal(*draws)


@given(preprocessings)
def test_json_round_trip(preprocessing):
    assert Preprocessing.from_dict(json.loads(json.dumps(preprocessing.as_dict()))) == preprocessing


def test_leaves_other_columns_alone():
    batch = {"image": EVERY, "label": torch.tensor([1]), "caption": ["one"]}
    out = Preprocessing()(batch)
    assert out["label"] is batch["label"]
    assert out["caption"] is batch["caption"]
    assert batch["image"] is EVERY


def test_plain_values_are_v_over_255():
    assert torch.equal(values(EVERY), EVERY.float() / 255)


def test_dequantised_values_keep_their_level():
    torch.manual_seed(0)
    x = values(EVERY.expand(1000, -1, -1, -1), dequantize="uniform")
    assert torch.equal((x * 256).floor(), EVERY.expand_as(x).float())
    # u ~ U[0, 1) has mean 1/2 and deviation sqrt(1/12) = 0.29.
    u = x * 256 - EVERY
    assert u.mean().sub(0.5).abs() < 5 * 0.29 / u.numel() ** 0.5


def test_dynamic_binarisation_has_the_mean_of_the_image():
    torch.manual_seed(0)
    n = 4000
    x = values(EVERY.expand(n, -1, -1, -1), binarize="dynamic")
    assert set(x.unique().tolist()) == {0.0, 1.0}
    p = EVERY[0].double() / 255
    error = (x.double().mean(0) - p).abs()
    assert (error <= 5 * (p * (1 - p) / n).sqrt()).all()


def test_dynamic_binarisation_is_drawn_anew():
    grey = torch.full((8, 1, 8, 8), 128, dtype=torch.uint8)
    how = Preprocessing(binarize="dynamic")
    assert not torch.equal(how({"image": grey})["image"], how({"image": grey})["image"])


def test_threshold():
    assert torch.equal(values(EVERY, binarize="threshold"), (EVERY >= 128).float())


@given(images())
@settings(deadline=None)
def test_grey_to_colour_and_back_changes_nothing(image):
    grey = image[:, :1]
    colour = values(grey, channels=3)
    assert torch.equal(colour, values(grey).expand(-1, 3, -1, -1))
    assert torch.equal(values((colour * 255).round().byte(), channels=1), values(grey))


def test_grey_is_weighted_as_the_eye_does():
    primaries = (torch.eye(3) * 255).byte().view(3, 3, 1, 1)
    assert (values(primaries, channels=1).flatten() * 255).tolist() == pytest.approx([76, 150, 29])


@given(st.integers(0, 255), SIZES)
@settings(deadline=None)
def test_resizing_keeps_a_constant(v, size):
    image = torch.full((1, 1, 7, 5), v, dtype=torch.uint8)
    assert torch.equal(values(image, image_size=size), values(image[:, :, :1, :1]).expand(1, 1, *size))


def test_resizing_is_antialiased():
    stripes = (torch.arange(64) % 4 == 0).byte().mul(255).expand(1, 1, 64, 64)
    inner = values(stripes, image_size=(8, 8))[..., 1:-1]
    assert inner.sub(0.25).abs().max() < 0.02


def test_a_number_is_the_side_of_a_square():
    assert Preprocessing(image_size=8) == Preprocessing(image_size=(8, 8))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"binarise": "dynamic"}, "did you mean 'binarize'"),
        ({"image_size": [0, 4]}, "image_size: must be"),
        ({"image_size": [4]}, "image_size: must be"),
        ({"image_size": True}, "image_size: must be"),
        ({"image_size": "32"}, "image_size: must be"),
        ({"channels": 2}, "channels: must be"),
        ({"channels": "1"}, "channels: must be"),
        ({"binarize": "static"}, "'dynamic'"),
        ({"binarize": None}, "binarize: must be"),
        ({"dequantize": True}, "dequantize: must be"),
        ({"binarize": "dynamic", "dequantize": "uniform"}, "one of them"),
    ],
)
def test_refuses_settings_that_mean_nothing(settings, message):
    with pytest.raises(ConfigError, match=message):
        Preprocessing.from_dict(settings)


@pytest.mark.parametrize("batch", [{}, {"image": EVERY.double()}, {"image": EVERY[0]}, {"image": ["a"]}])
def test_refuses_what_is_no_stored_image(batch):
    with pytest.raises(DataError, match="uint8"):
        Preprocessing()(batch)


@pytest.mark.parametrize("shape", [(4,), (1, 8, 8), (6, 2)])
def test_numbers_that_are_no_stored_images_stay_as_they_are(shape):
    for z in (torch.randn(3, *shape) * 9, torch.randint(512, (3, *shape))):
        assert Preprocessing()({"image": z})["image"] is z
    assert Preprocessing().data_shape(shape) == shape


@pytest.mark.parametrize("how", [{"binarize": "dynamic"}, {"image_size": (8, 8)}, {"channels": 1}])
def test_no_setting_applies_to_them(how):
    with pytest.raises(DataError, match="no stored images, so no setting applies to them; leave it out"):
        Preprocessing(**how)({"image": torch.randn(3, 1, 8, 8)})
    with pytest.raises(DataError, match=r"takes images \(C, H, W\), not examples of shape \(4,\)"):
        Preprocessing(**how).data_shape((4,))


def test_is_frozen():
    with pytest.raises(FrozenInstanceError):
        Preprocessing().channels = 1  # type: ignore[misc]
