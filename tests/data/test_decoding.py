"""Decoding: every kind of picture to uint8 (N, C, H, W), and what is refused."""

import io
import os
import threading
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from zoo_core.data.decoding import decode_images, map_ahead
from zoo_core.errors import DataError

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (6, 4), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (6, 4, 3), dtype=np.uint8)


def encoded(picture: Image.Image | np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    picture = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def decoded(*items: Any, size: tuple[int, int] | None = None, chunk: int = 2) -> torch.Tensor:
    chunks: list[Sequence[Any]] = [items[i : i + chunk] for i in range(0, len(items), chunk)]
    return decode_images("pictures", chunks, size)


def test_grey_and_colour():
    assert torch.equal(decoded(encoded(GREY)), torch.from_numpy(GREY)[None, None])
    assert torch.equal(decoded(encoded(COLOUR))[0], torch.from_numpy(COLOUR).permute(2, 0, 1))


def test_order_is_kept_over_chunks_and_threads():
    levels = [np.full((70, 70), v, np.uint8) for v in range(50)]
    assert decoded(*map(encoded, levels), chunk=3)[:, 0, 0, 0].tolist() == list(range(50))


@pytest.mark.parametrize("chunk", [1, 5])
def test_grey_among_colour_becomes_colour(chunk):
    images = decoded(encoded(GREY), encoded(COLOUR), encoded(GREY), chunk=chunk)
    assert images.shape == (3, 3, 6, 4)
    assert torch.equal(images[0], torch.from_numpy(GREY).expand(3, -1, -1))


@pytest.mark.parametrize(
    ("mode", "channels"),
    [("1", 1), ("L", 1), ("LA", 1), ("P", 3), ("RGB", 3), ("RGBA", 3), ("CMYK", 3)],
)
def test_every_mode_becomes_grey_or_colour(mode, channels):
    picture = Image.fromarray(COLOUR).convert(mode)
    images = decoded(encoded(picture, "TIFF"))
    assert images.shape == (1, channels, 6, 4)
    expected = np.asarray(picture.convert("L" if channels == 1 else "RGB"))
    assert torch.equal(images[0], torch.from_numpy(expected.copy()).view(6, 4, channels).permute(2, 0, 1))


@pytest.mark.parametrize("item", [None, {"bytes": None, "path": None}, {}])
def test_refuses_a_missing_image(item):
    with pytest.raises(DataError, match="image 1 of pictures cannot be used: it is missing"):
        decoded(encoded(GREY), item)


def test_reads_a_path(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(GREY))
    assert decoded({"bytes": None, "path": str(tmp_path / "a.png")}).shape == (1, 1, 6, 4)


def test_turns_a_photograph_upright():
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned by a quarter
    picture = encoded(COLOUR, "PNG", exif=exif)
    expected = torch.from_numpy(np.rot90(COLOUR, -1).copy()).permute(2, 0, 1)
    assert torch.equal(decoded(picture)[0], expected)


def test_refuses_different_sizes_and_says_what_to_give():
    with pytest.raises(DataError, match=r"6x4 to 9x5.*image_size"):
        decoded(encoded(GREY), encoded(GREY), encoded(np.zeros((9, 5), np.uint8)))


def test_resizes_different_sizes_when_asked():
    images = decoded(encoded(GREY), encoded(np.zeros((9, 5), np.uint8)), size=(3, 2))
    assert images.shape == (2, 1, 3, 2)


def test_resizing_cuts_about_the_centre():
    wide = np.zeros((4, 12), np.uint8)
    wide[:, 4:8] = 255
    assert decoded(encoded(wide), size=(4, 4)).eq(255).all()


@pytest.mark.parametrize("damage", [b"", b"not an image", encoded(COLOUR)[:60]])
def test_refuses_a_damaged_image_by_its_number(damage):
    with pytest.raises(DataError, match="image 2 of pictures cannot be used"):
        decoded(encoded(COLOUR), encoded(COLOUR), damage)


def test_refuses_deep_images():
    deep = Image.fromarray(GREY.astype(np.uint16) * 256)
    with pytest.raises(DataError, match="deeper than 8 bits"):
        decoded(encoded(deep))


def test_refuses_an_image_that_would_fill_the_memory(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with pytest.raises(DataError, match="MAX_IMAGE_PIXELS"):
            decoded(encoded(GREY))
    # Pillow's own warning is an error wherever pictures are decoded, as in a process of its own.
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with pytest.raises(DataError, match="exceeds limit"):
            decoded(encoded(GREY))


@pytest.mark.parametrize("kind", ["EPS", "PDF", "SGI"])
def test_pillow_runs_no_other_program_and_no_rare_decoder(kind):
    file = io.BytesIO()
    Image.fromarray(COLOUR).save(file, kind)
    with pytest.raises(DataError, match="image 0 of pictures cannot be used: cannot identify"):
        decoded(file.getvalue())


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "image.png")
    with pytest.raises(DataError, match="no regular file"):
        decoded({"bytes": None, "path": str(tmp_path / "image.png")})


def test_refuses_nothing_at_all():
    with pytest.raises(DataError, match="no images"):
        decoded()


def test_holds_few_items_at_a_time():
    taken, done = [], threading.Semaphore(0)

    def items():
        for i in range(100):
            taken.append(i)
            yield i

    def work(i: int) -> int:
        done.acquire()
        return i

    results = map_ahead(work, items(), workers=2)
    done.release()
    assert next(results) == 0
    assert len(taken) <= 6
    done.release(99)
    assert list(results) == list(range(1, 100))
