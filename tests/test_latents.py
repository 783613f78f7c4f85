"""Movements in latent space, and the pictures of them."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from zoo_core import DataError, build
from zoo_core.images import GAP, grid, read_images, save_image, to_picture
from zoo_core.latents import interpolate, linear, spherical


def pair(seed, shape=(3, 5)):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, *shape, generator=generator, dtype=torch.float64)


@given(st.integers(0, 1000), st.integers(2, 9))
def test_both_paths_begin_and_end_at_their_ends(seed, steps):
    z_0, z_1 = pair(seed)
    for path in (linear, spherical):
        z = path(z_0, z_1, steps)
        assert z.shape == (steps, 3, 5)
        torch.testing.assert_close(z[0], z_0)
        torch.testing.assert_close(z[-1], z_1)


@given(st.integers(0, 1000))
def test_spherical_keeps_length_and_turns_evenly(seed):
    z_0, z_1 = torch.nn.functional.normalize(pair(seed, (1, 4)), dim=-1)
    z = spherical(z_0, z_1, 5)[:, 0]
    torch.testing.assert_close(z.norm(dim=1), torch.ones(5, dtype=torch.float64))
    cosines = (z[:-1] * z[1:]).sum(1)
    torch.testing.assert_close(cosines, cosines[:1].expand(4))


@pytest.mark.parametrize("other", [1.0, 2.0, -1.0])
def test_spherical_is_linear_where_there_is_no_arc(other):
    z = torch.tensor([[3.0, 4.0]])
    torch.testing.assert_close(spherical(z, other * z, 4), linear(z, other * z, 4))


def test_linear_by_hand():
    assert linear(torch.zeros(1, 1), torch.ones(1, 1), 5).flatten().tolist() == [0, 0.25, 0.5, 0.75, 1]


def test_interpolation_decodes_the_path_between_the_codes():
    vae = build(
        {
            "type": "vae/vae",
            "encoder": {"type": "nets/mlp_encoder", "latents": 2, "hidden": [4]},
            "decoder": {"type": "nets/mlp_decoder", "hidden": [4]},
            "prior": "nets/standard_normal",
        },
        data_shape=(1, 3, 3),
    )
    x_0, x_1 = torch.rand(2, 4, 1, 3, 3)
    strip = interpolate(vae, x_0, x_1, 3, path="linear")
    torch.testing.assert_close(strip[0], vae.reconstruct(x_0))
    torch.testing.assert_close(strip[1], vae.decode((vae.encode(x_0) + vae.encode(x_1)) / 2))
    torch.testing.assert_close(strip[2], vae.reconstruct(x_1))


@given(st.integers(1, 20), st.sampled_from([1, 3]), st.integers(1, 6), st.integers(1, 6), st.integers(1, 8))
def test_a_grid_holds_every_image_once(n, channels, height, width, columns):
    images = torch.rand(n, channels, height, width)
    canvas = grid(images, columns)
    columns = min(columns, n)
    assert canvas.shape == (channels, math.ceil(n / columns) * (height + GAP) + GAP, columns * (width + GAP) + GAP)
    for i, image in enumerate(images):
        top, left = GAP + i // columns * (height + GAP), GAP + i % columns * (width + GAP)
        assert torch.equal(canvas[:, top : top + height, left : left + width], image)


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_survive_the_way_to_disk_and_back(tmp_path, channels):
    levels = torch.randint(0, 256, (channels, 5, 7), dtype=torch.uint8)
    path = save_image(levels / 255, tmp_path / "deep" / "x.png")
    assert torch.equal(read_images([path])[0], levels)
    save_image(levels / 255, path, enlarge=3)
    assert read_images([path])[0].shape == (channels, 15, 21)
    assert torch.equal(read_images([path])[0][:, 1::3, 1::3], levels)


def test_colour_and_transparency_are_read_as_three_channels(tmp_path):
    Image.new("RGBA", (2, 2), (255, 0, 0, 128)).save(tmp_path / "a.png")
    Image.new("P", (2, 2)).save(tmp_path / "b.png")
    assert [image.shape[0] for image in read_images([tmp_path / "a.png", tmp_path / "b.png"])] == [3, 3]


def test_a_file_that_is_no_image_is_named(tmp_path):
    (tmp_path / "x.png").write_text("hello")
    with pytest.raises(DataError, match=r"x\.png"):
        read_images([tmp_path / "x.png"])


def test_values_outside_the_range_are_cut():
    assert to_picture(torch.tensor([[[-1.0, 2.0]]])).tobytes() == bytes([0, 255])
