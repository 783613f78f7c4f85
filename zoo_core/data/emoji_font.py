"""The pictures of a font of colour emoji: which file it is, what it has, how one is drawn."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from zoo_core.errors import DataError

FONT = "NotoColorEmoji.ttf"
STRIKE = 109  # the one size at which the font has its pictures, each 128 pixels high
SIDE, MARGIN = 128, 4  # a picture of 136 x 128 has 4 empty columns on either side of its square

GET_IT = (
    "install it (Debian, Ubuntu: fonts-noto-color-emoji; Fedora: google-noto-color-emoji-fonts), or name the file, "
    "with the option font or the variable ZOO_EMOJI_FONT"
)
TAKE_IT = f"take the file {FONT} of https://github.com/googlefonts/noto-emoji"


def find_font(font: str | None = None) -> Path:
    """The file of the font: the one that is named, that of ``ZOO_EMOJI_FONT``, or the first NotoColorEmoji.ttf in the
    folders where systems keep fonts.

    Raises:
        DataError: there is none, with where to get it.
    """
    named = font or os.environ.get("ZOO_EMOJI_FONT")
    if named:
        return _existing(Path(named).expanduser())
    found = next((path for folder in font_folders() for path in sorted(folder.rglob(FONT))), None)
    if found is None:
        raise DataError(f"emoji are drawn from the font Noto Color Emoji, and {FONT} is nowhere here: {GET_IT}")
    return found


def font_folders() -> Iterator[Path]:
    """The user's folders of fonts, then the system's: https://specifications.freedesktop.org/basedir-spec"""
    home = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    shared = os.environ.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share"
    yield Path(home).expanduser() / "fonts"
    yield Path("~/.fonts").expanduser()
    yield from (Path(folder) / "fonts" for folder in shared.split(":") if folder)


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise DataError(f"emoji: there is no font {path}; {GET_IT}")
    return path


class EmojiFont:
    """What a font with colour pictures of one size can draw.

    Args:
        path: a font with a table CBDT, such as Noto Color Emoji has in its usual form.

    Raises:
        DataError: it is no such font.
    """

    def __init__(self, path: Path) -> None:
        from PIL import ImageFont, features

        self.characters = _characters(path)
        self.joins = bool(features.check("raqm"))
        try:
            self._font = ImageFont.truetype(str(path), STRIKE)
        except OSError:
            raise DataError(f"emoji: {path} has pictures of other sizes; {TAKE_IT}") from None

    def has(self, characters: Sequence[int]) -> bool:
        """Whether the code points are all there and make one picture."""
        return self.characters.issuperset(characters) and self._width(characters) == self._width(characters[:1])

    def draw(self, characters: Sequence[int], side: int, background: tuple[int, int, int]) -> Tensor:
        """The picture of one emoji on a plain ground: uint8 (3, side, side).

        It is laid over the ground first and scaled then: transparent pixels have no colour that could bleed.
        """
        from PIL import Image, ImageDraw

        canvas = Image.new("RGB", (SIDE, SIDE), background)
        ImageDraw.Draw(canvas).text((-MARGIN, 0), _text(characters), font=self._font, embedded_color=True)
        small = canvas.resize((side, side), Image.Resampling.LANCZOS)
        return torch.frombuffer(bytearray(small.tobytes()), dtype=torch.uint8).view(side, side, 3).permute(2, 0, 1)

    def _width(self, characters: Sequence[int]) -> float:
        return self._font.getlength(_text(characters))


def require_joining(font: EmojiFont) -> None:
    """Refuses to draw emoji of several characters where nothing joins them.

    Raises:
        DataError: Pillow is without Raqm.
    """
    if not font.joins:
        raise DataError(
            "emoji: those of several characters are drawn with Raqm, which Pillow does not find here: install FriBiDi "
            "(Debian, Ubuntu: libfribidi0; Fedora: fribidi), or load the split 'train' without variations"
        )


def _text(characters: Sequence[int]) -> str:
    return "".join(map(chr, characters))


def _characters(path: Path) -> frozenset[int]:
    from fontTools.ttLib import TTFont, TTLibError  # type: ignore[import-untyped]

    try:
        with TTFont(path, lazy=True, fontNumber=0) as font:
            drawn = "CBDT" in font
            characters = frozenset(font.getBestCmap() or ()) if drawn else frozenset()
    except (TTLibError, OSError) as error:
        raise DataError(f"emoji: {path} cannot be read as a font ({error}); {GET_IT}") from None
    if not drawn:
        raise DataError(f"emoji: {path} has no pictures (a table CBDT), but outlines; {TAKE_IT}")
    return characters
