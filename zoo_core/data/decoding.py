"""Encoded images to one uint8 tensor, in parallel threads."""

import io
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

from zoo_core.data.sizes import Size
from zoo_core.errors import DataError, plain
from zoo_core.untrusted import require_regular

# Beyond its limit Pillow warns, and decodes all the same.
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)

Pixels = npt.NDArray[np.uint8]
In = TypeVar("In")
Out = TypeVar("Out")

SMALL = 64 * 64  # pixels
GREY = ("1", "L", "LA", "La")
# Not EPS, which Pillow hands to another program, nor what few use and fewer test.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "ICO", "TGA", "JPEG2000", "AVIF")
BEYOND_8_BITS = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")


def decode_images(source: str, chunks: Iterable[Sequence[Any]], size: Size | None) -> Tensor:
    """All images as uint8 (N, C, H, W): C = 1 if every one is grey, else 3.

    Args:
        source: what to call the data set in errors.
        chunks: encoded images, each as bytes or as Hugging Face stores it: ``{"bytes", "path"}``.
        size: (H, W) to which every image is cut about its centre and resized; None keeps them.

    Raises:
        DataError: an image is missing, damaged, too large or deeper than 8 bits, or the images
            differ in size and ``size`` is None.
    """

    def decode(numbered: tuple[int, Sequence[Any]]) -> Pixels:
        start, items = numbered
        images = [_decode(source, start + i, item, size) for i, item in enumerate(items)]
        return _join(source, [image[None] for image in images])

    chunks = iter(chunks)
    first = next(chunks, [])
    if not len(first):
        raise DataError(f"{source} has no images")
    parts = map_ahead(decode, _numbered(chain([first], chunks)), _workers(first[0]))
    return torch.from_numpy(_join(source, list(parts)))


def decode_rows(source: str, numbers: Sequence[int], items: Sequence[Any], size: Size | None) -> Iterator[Pixels]:
    """These images in turn, each as it is: uint8 (1, H, W) if it is grey, else (3, H, W).

    Args:
        numbers: what to call each in errors.
        items, size: as in :func:`decode_images`.

    Raises:
        DataError: an image is missing, damaged, too large or deeper than 8 bits.
    """

    def decode(row: tuple[int, Any]) -> Pixels:
        return _decode(source, *row, size)

    rows = zip(numbers, items, strict=True)
    workers = _workers(items[0]) if items else 1
    return map_ahead(decode, rows, workers) if workers > 1 else map(decode, rows)


def held(items: Iterable[Any]) -> list[Any]:
    """Images that rows hold themselves: a path in a row that a stranger wrote leads wherever the stranger wants."""
    return [{"bytes": item.get("bytes")} if isinstance(item, dict) else item for item in items]


def map_ahead(function: Callable[[In], Out], items: Iterable[In], workers: int) -> Iterator[Out]:
    """``map`` in threads and in order, with few items in memory at a time."""
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[Out]] = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        yield from (future.result() for future in waiting)


def _workers(item: Any) -> int:
    """How many threads pay, by the first image: on small ones they wait for the interpreter."""
    try:
        with opened(_file(item)) as image:
            return torch.get_num_threads() if image.width * image.height >= SMALL else 1
    except Exception:  # told, with its number, when it is decoded
        return 1


def _numbered(chunks: Iterable[Sequence[Any]]) -> Iterator[tuple[int, Sequence[Any]]]:
    first = 0
    for chunk in chunks:
        yield first, chunk
        first += len(chunk)


def _join(source: str, parts: Sequence[Pixels]) -> Pixels:
    """Arrays (n, C, H, W) end to end; among colour images a grey one becomes colour."""
    sizes = sorted({part.shape[2:] for part in parts})
    if len(sizes) > 1:
        (a, b), (c, d) = sizes[0], sizes[-1]
        raise DataError(f"the images of {source} differ in size ({a}x{b} to {c}x{d}); give image_size=(H, W)")
    channels = max(part.shape[1] for part in parts)
    return np.concatenate([np.broadcast_to(p, (len(p), channels, *sizes[0])) for p in parts])


def _decode(source: str, number: int, item: Any, size: Size | None) -> Pixels:
    try:
        with opened(_file(item)) as image:
            return _pixels(image, size)
    except Exception as error:  # on a damaged file Pillow raises whatever its decoder runs into
        reason = plain(str(error)) or type(error).__name__
        raise DataError(f"image {number} of {source} cannot be used: {reason}") from error


def _file(item: Any) -> IO[bytes] | str:
    content = item.get("bytes") if isinstance(item, dict) else item
    if content is not None:
        return io.BytesIO(content)
    if not isinstance(item, dict) or not item.get("path"):
        raise ValueError("it is missing")
    return str(item["path"])


def _pixels(image: Image.Image, size: Size | None) -> Pixels:
    """uint8 (C, H, W)."""
    _require_usable(image)
    # Looking for EXIF in a file without any metadata takes as long as decoding a small image.
    if image.info and image.getexif().get(ExifTags.Base.Orientation):
        image = ImageOps.exif_transpose(image)
    mode = "L" if image.mode in GREY else "RGB"
    image = image if image.mode == mode else image.convert(mode)
    if size:
        image = ImageOps.fit(image, size[::-1], Image.Resampling.BILINEAR)
    pixels = np.asarray(image)
    return pixels[None] if mode == "L" else pixels.transpose(2, 0, 1)


def opened(file: IO[bytes] | str | Path) -> Image.Image:
    """An image of which only the header has been read, and which will not fill the memory.

    Raises:
        Exception: it is none; Pillow raises whatever its decoder runs into.
    """
    if isinstance(file, str | Path):
        require_regular(Path(file))  # a pipe would never end
    image = Image.open(file, formats=FORMATS)
    limit = Image.MAX_IMAGE_PIXELS
    if limit and image.width * image.height > limit:
        image.close()
        raise ValueError(f"{image.width}x{image.height} is above PIL.Image.MAX_IMAGE_PIXELS = {limit}")
    return image


def _require_usable(image: Image.Image) -> None:
    """Refuses what would lose precision."""
    if image.mode in BEYOND_8_BITS:
        raise ValueError(f"it is deeper than 8 bits (mode {image.mode}); convert it first")
