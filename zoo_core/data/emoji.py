"""Colour emoji and their names, drawn from a font that is installed: words and the pictures they mean.

The pictures are those of Noto Color Emoji (Google, SIL Open Font Licence 1.1, https://github.com/googlefonts/noto-emoji),
which is drawn from where it is installed. The names are the English ones that Unicode publishes with its list of emoji
(Unicode Technical Standard 51, https://www.unicode.org/reports/tr51/), in lower case: "red heart", "grinning face".

A base emoji is one character. A variation begins with a base emoji and goes on: another skin tone, a gender, hair, a
profession ("astronaut" is a person and a rocket), a colour ("black cat"). Keycaps, which begin with a digit, and flags
that are pairs of letters are neither.
"""

import functools
import hashlib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated, NamedTuple

import torch

from zoo_core.arguments import Bounds, checked
from zoo_core.data.cache import cached
from zoo_core.data.dataset import InMemory
from zoo_core.data.emoji_font import SIDE, TAKE_IT, EmojiFont, find_font, require_joining
from zoo_core.data.keys import cache_key
from zoo_core.data.strings import Strings
from zoo_core.errors import ConfigError, DataError

# Raise it whenever the same font would give other pictures.
VERSION = 1

NAMES = "emoji_names.txt"
HELD_OUT = 5  # every fifth variation is for the test
PRESENTATION = 0xFE0F  # "as a picture, not as text": invisible

ImageSize = Annotated[int, Bounds(f"an integer from 8 to {SIDE}", low=8, high=SIDE)]


class Emoji(NamedTuple):
    """One line of Unicode's list.

    Attributes:
        characters: its code points.
        name: in lower case; no two emoji have the same.
        label: the place of its base emoji among all of these.
    """

    characters: tuple[int, ...]
    name: str
    label: int

    @property
    def is_base(self) -> bool:
        return len(without_presentation(self.characters)) == 1


def emoji(
    split: str = "train",
    *,
    image_size: ImageSize = 32,
    background: str = "white",
    variations: bool = False,
    font: str | None = None,
) -> InMemory:
    """Colour emoji with their names as captions.

    The split ``train`` is the 1,377 base emoji; with ``variations`` also four fifths of their 2,008 variations.
    ``test`` is the other fifth, held out from both: other pictures, under captions of their own. A model that is to
    draw what it has seen is measured on ``train``. An old font may lack the newest: they are left out.

    Columns: ``image`` uint8 (N, 3, S, S); ``caption``; ``label`` int64, the place of the base emoji among all base
    emoji, which its variations share.

    Args:
        image_size: side S of the pictures in pixels, 8 to 128; the font has them with 128.
        background: the colour behind them, as CSS writes it: ``white``, ``#202020``.
        font: the file NotoColorEmoji.ttf; default that of the variable ``ZOO_EMOJI_FONT``, else the installed one.

    Raises:
        ConfigError: an option is none of what it can be.
        DataError: there is no such split, no font, or nothing that draws variations.
    """
    if split not in ("train", "test"):
        raise DataError(f"emoji has no split {split!r}; it has: train, test")
    size = checked(image_size, ImageSize, "image_size")
    ground = colour(checked(background, str, "background"))
    wanted = train(checked(variations, bool, "variations")) if split == "train" else held_out()
    path = find_font(checked(font, str | None, "font"))
    key = cache_key("emoji", VERSION, _digest(path), wanted, size, ground)
    return InMemory("emoji", split, *cached(key, lambda: _draw(wanted, path, size, ground)))


def train(variations: bool = False) -> list[Emoji]:
    """The base emoji; with ``variations`` also those that are not held out."""
    apart = {e.name for e in held_out()}
    return [e for e in names() if e.is_base or (variations and e.name not in apart)]


def held_out() -> list[Emoji]:
    """Every fifth variation, in the order of Unicode's list: of an emoji in several skin tones it is seldom two."""
    return [e for e in names() if not e.is_base][HELD_OUT - 1 :: HELD_OUT]


@functools.cache
def names() -> tuple[Emoji, ...]:
    """All emoji of the list that are one character or begin with one, in the order of the list."""
    lines = [line.split("; ") for line in _names_text().splitlines() if not line.startswith("#")]
    found = [(tuple(int(c, 16) for c in characters.split()), name) for characters, name in lines]
    bases = [c[0] for c, _ in found if len(without_presentation(c)) == 1]
    place = {character: i for i, character in enumerate(bases)}
    return tuple(Emoji(characters, name, place[characters[0]]) for characters, name in found)


def without_presentation(characters: Sequence[int]) -> tuple[int, ...]:
    return tuple(c for c in characters if c != PRESENTATION)


def colour(text: str) -> tuple[int, int, int]:
    """Red, green and blue, 0 to 255, of a colour in CSS notation.

    Raises:
        ConfigError: it is none.
    """
    from PIL import ImageColor

    try:
        red, green, blue, *_ = ImageColor.getrgb(text)
    except ValueError:
        raise ConfigError(f"background: must be a colour such as 'white' or '#202020', got {text!r}") from None
    return red, green, blue


def _draw(
    wanted: Sequence[Emoji], path: Path, size: int, ground: tuple[int, int, int]
) -> dict[str, torch.Tensor | Strings]:
    font = EmojiFont(path)
    if not all(e.is_base for e in wanted):
        require_joining(font)
    drawn = [e for e in wanted if font.has(without_presentation(e.characters))]
    if not drawn:
        raise DataError(f"emoji: the font {path} has none of the emoji; {TAKE_IT}")
    pictures = [font.draw(without_presentation(e.characters), size, ground) for e in drawn]
    return {
        "image": torch.stack(pictures),
        "caption": Strings.of(e.name for e in drawn),
        "label": torch.tensor([e.label for e in drawn]),
    }


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _names_text() -> str:
    return (files("zoo_core.data") / NAMES).read_text(encoding="utf-8")
