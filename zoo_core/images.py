"""Pictures: from tensors to PNG files and back. Images are (N, C, H, W), values in [0, 1]."""

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy
import torch
from torch import Tensor

from zoo_core.errors import DataError
from zoo_core.files import replace_file

if TYPE_CHECKING:
    from PIL.Image import Image

GAP = 2  # pixels between images of a grid


def grid(images: Tensor, columns: int | None = None) -> Tensor:
    """N images in rows of ``columns`` (default: about a square), with gaps: (C, H', W')."""
    n, c, h, w = images.shape
    columns = min(columns or math.ceil(math.sqrt(n)), n)
    rows = math.ceil(n / columns)
    canvas = images.new_ones(c, rows * (h + GAP) + GAP, columns * (w + GAP) + GAP)
    for i, image in enumerate(images):
        top, left = GAP + (i // columns) * (h + GAP), GAP + (i % columns) * (w + GAP)
        canvas[:, top : top + h, left : left + w] = image
    return canvas


def save_image(image: Tensor, path: str | Path, *, enlarge: int = 1) -> Path:
    """Writes one image (C, H, W) as a PNG, each pixel as ``enlarge`` x ``enlarge``.

    Raises:
        DataError: the file cannot be written.
    """
    from PIL import Image

    picture = to_picture(image)
    picture = picture.resize((picture.width * enlarge, picture.height * enlarge), Image.Resampling.NEAREST)
    png = io.BytesIO()
    picture.save(png, format="PNG")
    return save_png(png.getvalue(), path)


def save_png(png: bytes, path: str | Path) -> Path:
    """Writes a picture's file: whole, or not at all; one that was there before stays until then.

    Raises:
        DataError: the file cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_whole(png, path.resolve())
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror or error}") from None
    return path


def _write_whole(content: bytes, path: Path) -> None:
    if path.exists() and not path.is_file():  # a pipe or a device has no content that could be replaced
        path.write_bytes(content)
        return
    replace_file(path, content)


def to_picture(image: Tensor) -> "Image":
    """A Pillow image from (C, H, W) with one channel or three."""
    from PIL import Image

    levels = (image.detach().float().clamp(0, 1) * 255).round().to("cpu", torch.uint8)
    pixels = levels.permute(1, 2, 0).squeeze(-1).numpy()
    return Image.fromarray(numpy.ascontiguousarray(pixels))


def read_images(paths: Sequence[str | Path]) -> list[Tensor]:
    """Image files as uint8 (C, H, W), grey or RGB.

    Raises:
        DataError: a file is missing or holds no image; it is named.
    """
    return [_read(Path(path)) for path in paths]


def _read(path: Path) -> Tensor:
    from zoo_core.data.decoding import opened

    try:
        with opened(path) as picture:
            pixels = numpy.array(picture.convert("L" if picture.mode in ("1", "L", "I;16") else "RGB"))
    except Exception as error:  # on a damaged file Pillow raises whatever its decoder runs into
        raise DataError(f"cannot read an image from {path}: {getattr(error, 'strerror', None) or error}") from None
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1)).permute(2, 0, 1)
