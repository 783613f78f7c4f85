"""Emoji: their names, which need no font, and their pictures, from a small font made here and from the real one."""

import io
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from fontTools.fontBuilder import FontBuilder
from fontTools.ttLib import TTFont, newTable
from fontTools.ttLib.tables import C_B_D_T_, E_B_L_C_, BitmapGlyphMetrics
from PIL import Image, ImageDraw, features
from torch import Tensor

from zoo_core.data import load
from zoo_core.data.dataset import Batch, Dataset
from zoo_core.data.emoji import Emoji, held_out, names, train
from zoo_core.data.emoji_font import find_font
from zoo_core.errors import ConfigError, DataError

HEART, GRIN, PERSON, ROCKET, FIRE = 0x2764, 0x1F600, 0x1F9D1, 0x1F680, 0x1F525
JOINER, PRESENTATION = 0x200D, 0xFE0F
TONES = range(0x1F3FB, 0x1F400)
TAGS = range(0xE0020, 0xE0080)  # flags of England, Scotland and Wales are a black one and letters
BASE, VARIATIONS = 1377, 2008

joining = pytest.mark.skipif(not features.check("raqm"), reason="Pillow finds no Raqm, which joins characters")


def installed() -> Path | None:
    try:
        return find_font()
    except DataError:
        return None


NOTO = installed()
real = pytest.mark.skipif(NOTO is None, reason="the font Noto Color Emoji is not installed")


@pytest.fixture(autouse=True)
def _isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without fonts."""
    for variable, folder in {"HOME": "home", "XDG_DATA_HOME": "data", "XDG_DATA_DIRS": "shared"}.items():
        monkeypatch.setenv(variable, str(tmp_path / folder))
    monkeypatch.delenv("ZOO_EMOJI_FONT", raising=False)


def everything(data: Dataset) -> Batch:
    return data.batch(torch.arange(len(data)))


def picture(draw: Callable[[ImageDraw.ImageDraw], Any]) -> Image.Image:
    """136 x 128 pixels, of which those stay transparent that are not drawn."""
    image = Image.new("RGBA", (136, 128), (0, 0, 0, 0))
    draw(ImageDraw.Draw(image))
    return image


def square(colour: str) -> Image.Image:
    """The whole square between the margins."""
    return picture(lambda d: d.rectangle((4, 0, 131, 127), fill=colour))


PICTURES = {
    "heart": square("#ff0000"),
    "grin": picture(lambda d: d.rectangle((4, 0, 67, 127), fill="#0000ff")),  # the left half
    "person": picture(lambda d: d.rectangle((4, 0, 131, 63), fill=(0, 128, 0, 51))),  # the upper half, a fifth opaque
    "rocket": square("#808080"),
    "astronaut": square("#00ff00"),
}
CHARACTERS = {HEART: "heart", GRIN: "grin", PERSON: "person", ROCKET: "rocket", JOINER: "joiner"}


def make_font(path: Path, characters: Mapping[int, str] = CHARACTERS, pictures: bool = True, size: int = 109) -> str:
    """A font that has its pictures as Noto Color Emoji has them: PNG files in a table CBDT, 109 pixels an em."""
    glyphs = [".notdef", "joiner", *PICTURES]
    builder = FontBuilder(2048)
    builder.setupGlyphOrder(glyphs)
    builder.setupCharacterMap(dict(characters))
    builder.setupHorizontalMetrics(dict.fromkeys(glyphs, (2550, 0)))
    builder.setupHorizontalHeader(ascent=1950, descent=-500)
    builder.setupNameTable({"familyName": "Small", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    if {PERSON, JOINER, ROCKET} <= characters.keys():
        builder.addOpenTypeFeatures("feature ccmp { sub person joiner rocket by astronaut; } ccmp;")
    if pictures:
        _add_pictures(builder.font, size)
    builder.save(path)
    return str(path)


def _add_pictures(font: TTFont, size: int) -> None:
    drawn = {}
    for name, image in PICTURES.items():
        drawn[name] = glyph = C_B_D_T_.cbdt_bitmap_format_17(b"", font)
        glyph.metrics = _metrics(BitmapGlyphMetrics.SmallGlyphMetrics(), BearingX=0, BearingY=101, Advance=136)
        image.save(png := io.BytesIO(), "PNG")
        glyph.imageData = png.getvalue()
    font["CBDT"], font["CBLC"] = newTable("CBDT"), newTable("CBLC")
    font["CBDT"].version = font["CBLC"].version = 3.0
    font["CBDT"].strikeData = [drawn]
    strike = E_B_L_C_.Strike()
    strike.bitmapSizeTable = _size(size)
    index = E_B_L_C_.eblc_index_sub_table_1(b"", font)
    index.names, index.indexFormat, index.imageFormat = list(drawn), 1, 17
    strike.indexSubTables = [index]
    font["CBLC"].strikes = [strike]


def _size(size: int) -> Any:
    table = E_B_L_C_.BitmapSizeTable()
    table.hori, table.vert = E_B_L_C_.SbitLineMetrics(), E_B_L_C_.SbitLineMetrics()
    zero = (
        "caretSlopeNumerator",
        "caretSlopeDenominator",
        "caretOffset",
        "minOriginSB",
        "minAdvanceSB",
        "pad1",
        "pad2",
    )
    for line in (table.hori, table.vert):
        vars(line).update(
            dict.fromkeys((*zero, "maxBeforeBL", "minAfterBL"), 0), ascender=101, descender=-27, widthMax=136
        )
    vars(table).update(colorRef=0, ppemX=size, ppemY=size, bitDepth=32, flags=1)
    return table


def _metrics(metrics: Any, **values: int) -> Any:
    vars(metrics).update(width=136, height=128, **values)
    return metrics


@pytest.fixture
def font(tmp_path: Path) -> str:
    return make_font(tmp_path / "small.ttf")


# the names


def test_there_are_as_many_as_the_documentation_says() -> None:
    assert (len(train()), len(train(variations=True)) + len(held_out())) == (BASE, BASE + VARIATIONS)


def test_names_are_unique_and_in_the_lower_case_that_people_type() -> None:
    told = [e.name for e in names()]
    assert len({*told}) == len(told)
    assert all(name == name.lower() == name.strip() and name for name in told)
    typed = {character for name in told for character in name if not character.isalnum()}
    assert typed <= set(" -'\"&!:,.()")


@pytest.mark.parametrize(("character", "name"), [
    ("❤", "red heart"), ("😀", "grinning face"), ("😍", "smiling face with heart-eyes"), ("🐱", "cat face"),
    ("👒", "woman's hat"), ("🈁", 'japanese "here" button'), ("🧑‍🚀", "astronaut"), ("🐈‍⬛", "black cat"),
    ("👋🏿", "waving hand: dark skin tone"),
])  # fmt: skip
def test_names_are_those_that_unicode_publishes(character: str, name: str) -> None:
    (found,) = (e for e in names() if e.name == name)
    assert [c for c in found.characters if c != PRESENTATION] == [ord(c) for c in character]


def test_a_base_emoji_is_one_character_and_its_label_its_place() -> None:
    for place, e in enumerate(train()):
        first, *rest = e.characters
        assert rest in ([], [PRESENTATION])
        assert e.label == place
        assert not {first, *rest} & {JOINER, *TONES, *TAGS}


def test_a_variation_begins_with_its_base_emoji_and_has_its_label() -> None:
    bases = {e.characters[0]: e.label for e in train()}
    variations = [e for e in names() if not e.is_base]
    assert len(variations) == VARIATIONS
    for e in variations:
        assert e.label == bases[e.characters[0]]
        assert {JOINER, *TONES, *TAGS} & {*e.characters}


def test_what_is_held_out_is_in_no_training() -> None:
    both = {e.name for e in train(variations=True)}
    assert both.isdisjoint(e.name for e in held_out())
    assert {e.name for e in train()} <= both
    assert not any(e.is_base for e in held_out())


def test_every_skin_tone_is_held_out_and_of_no_emoji_all() -> None:
    def stem(e: Emoji) -> tuple[int, ...]:
        return tuple(c for c in e.characters if c not in TONES)

    toned = [e for e in names() if len(e.characters) - len(stem(e)) == 1]
    families, kept = Counter(map(stem, toned)), Counter(stem(e) for e in held_out() if e in toned)
    assert {*families.values()} == {5}
    assert {*kept.values()} == {1}
    assert len(kept) > 0.9 * len(families)
    tones = Counter(c for e in held_out() for c in e.characters if c in TONES)
    assert {*tones} == {*TONES}


def test_a_fifth_is_held_out() -> None:
    assert len(held_out()) == pytest.approx(VARIATIONS / 5, abs=5)


# the pictures


def test_columns(font: str) -> None:
    data = load("core/emoji", font=font)
    batch = everything(data)
    assert (data.name, data.split, data.data_shape, data.columns) == (
        *("emoji", "train", (3, 32, 32)), ("image", "caption", "label"),
    )  # fmt: skip
    assert batch["caption"] == ["grinning face", "red heart", "person", "rocket"]  # in the order of the list
    assert isinstance(batch["image"], Tensor)
    assert isinstance(batch["label"], Tensor)
    assert (batch["image"].dtype, batch["label"].dtype) == (torch.uint8, torch.int64)
    assert [train()[place].name for place in batch["label"].tolist()] == batch["caption"]


def test_at_their_own_size_pictures_are_what_the_font_has(font: str) -> None:
    images = everything(load("core/emoji", font=font, image_size=128))["image"]
    for image, name in zip(images, ["grin", "heart", "person", "rocket"], strict=True):
        drawn = Image.new("RGBA", (136, 128), "white")
        drawn.alpha_composite(PICTURES[name])
        expected = pixels(drawn.convert("RGB").crop((4, 0, 132, 128)))
        assert (image.int() - expected.int()).abs().max() <= 1  # the font has colours times their opacity, rounded


def test_what_is_finer_than_a_pixel_is_averaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Columns of one pixel, black and white in turn, are grey."""
    columns = picture(lambda d: [d.line((x, 0, x, 127), fill="black" if x % 2 else "white") for x in range(4, 132)])
    monkeypatch.setitem(PICTURES, "heart", columns)
    image = everything(load("core/emoji", font=make_font(tmp_path / "fine.ttf")))["image"][1]
    assert (torch.as_tensor(image)[:, :, 2:-2].float() - 127.5).abs().max() < 8


@pytest.mark.parametrize("size", [8, 31, 32, 64])
def test_a_plain_picture_stays_plain_at_any_size(font: str, size: int) -> None:
    _, heart, _, rocket = everything(load("core/emoji", font=font, image_size=size))["image"]
    assert heart.shape == (3, size, size)
    assert heart.flatten(1).unique(dim=1).flatten().tolist() == [255, 0, 0]
    assert rocket.flatten(1).unique(dim=1).flatten().tolist() == [128, 128, 128]


@pytest.mark.parametrize(
    ("background", "rgb"), [("black", (0, 0, 0)), ("#4060ff", (64, 96, 255)), ("red", (255, 0, 0))]
)
def test_what_is_not_drawn_shows_the_background(font: str, background: str, rgb: tuple[int, ...]) -> None:
    """Half transparent is in between, and at edges no third colour appears: transparent pixels have none."""
    grin, _, person, _ = everything(load("core/emoji", font=font, image_size=16, background=background))["image"]
    ground, blue = torch.tensor(rgb), torch.tensor((0, 0, 255))
    assert (grin[:, :, 12] == ground[:, None]).all()
    assert (grin[:, :, 3] == blue[:, None]).all()
    lowest, highest = torch.minimum(ground, blue), torch.maximum(ground, blue)
    # Lanczos' window overshoots an edge by less than a tenth.
    room = 0.1 * (highest - lowest) + 1
    assert (grin >= (lowest - room)[:, None, None]).all()
    assert (grin <= (highest + room)[:, None, None]).all()
    mixed = 0.8 * ground + 0.2 * torch.tensor((0, 128, 0))
    assert (person[:, 3, :] - mixed[:, None]).abs().max() <= 1.5
    assert (person[:, 12, :] == ground[:, None]).all()


def test_an_emoji_that_the_font_lacks_is_left_out_and_moves_no_label(tmp_path: Path, font: str) -> None:
    characters = {c: name for c, name in CHARACTERS.items() if c != GRIN}
    without = everything(load("core/emoji", font=make_font(tmp_path / "old.ttf", characters)))
    assert without["caption"] == ["red heart", "person", "rocket"]
    whole = everything(load("core/emoji", font=font))
    for name in ("image", "label"):
        assert torch.equal(torch.as_tensor(without[name]), torch.as_tensor(whole[name])[1:])


@joining
def test_characters_that_the_font_joins_are_one_picture(font: str) -> None:
    batch = both_parts(font)
    assert sorted(batch) == ["astronaut", "grinning face", "person", "red heart", "rocket"]
    image, label = batch["astronaut"]
    assert image.flatten(1).unique(dim=1).flatten().tolist() == [0, 255, 0]
    assert train()[label].name == "person"


@joining
def test_those_that_it_does_not_join_are_left_out_rather_than_drawn_side_by_side(tmp_path: Path) -> None:
    batch = both_parts(make_font(tmp_path / "fire.ttf", {**CHARACTERS, FIRE: "rocket"}))
    assert {"red heart", "fire"} < batch.keys()
    assert "heart on fire" in [e.name for e in names() if {*e.characters} == {HEART, PRESENTATION, JOINER, FIRE}]
    assert "heart on fire" not in batch


def both_parts(font: str) -> dict[str, tuple[Tensor, int]]:
    """All that a font has, by name: image and label."""
    found: dict[str, tuple[Tensor, int]] = {}
    for split, options in {"train": {"variations": True}, "test": {}}.items():
        batch = everything(load("core/emoji", split, font=font, **options))
        rows = zip(torch.as_tensor(batch["image"]), torch.as_tensor(batch["label"]).tolist(), strict=True)
        found |= dict(zip(batch["caption"], rows, strict=True))  # type: ignore[arg-type]
    return found


def test_they_are_drawn_once_and_alike_ever_after(font: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load("core/emoji", font=font)
    monkeypatch.setattr("zoo_core.data.emoji.EmojiFont", None)
    again = load("core/emoji", font=font)
    assert again.fingerprint == first.fingerprint
    assert torch.equal(torch.as_tensor(everything(again)["image"]), torch.as_tensor(everything(first)["image"]))
    assert everything(again)["caption"] == everything(first)["caption"]


def test_another_cache_draws_the_same(font: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load("core/emoji", font=font).fingerprint
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "other"))
    torch.manual_seed(1)
    assert load("core/emoji", font=font).fingerprint == first


def test_what_differs_has_another_fingerprint(font: str, tmp_path: Path) -> None:
    """Also a font that came to the place of another."""
    options: list[dict[str, Any]] = [{}, {"image_size": 33}, {"background": "black"}]
    fingerprints = [load("core/emoji", font=font, **chosen).fingerprint for chosen in options]
    make_font(Path(font), {HEART: "grin", GRIN: "heart"})
    fingerprints.append(load("core/emoji", font=font).fingerprint)
    assert len({*fingerprints}) == 4


def test_equal_fonts_in_other_places_are_one(font: str, tmp_path: Path) -> None:
    copy = tmp_path / "copy.ttf"
    copy.write_bytes(Path(font).read_bytes())
    assert load("core/emoji", font=str(copy)).fingerprint == load("core/emoji", font=font).fingerprint
    assert len([*(tmp_path / "cache" / "data").iterdir()]) == 1


# where the font is


@pytest.mark.usefixtures("nowhere")
def test_without_the_font_a_sentence_says_what_to_install() -> None:
    for split in ("train", "test"):
        with pytest.raises(DataError, match=r"fonts-noto-color-emoji; Fedora: google-noto-color.*ZOO_EMOJI_FONT"):
            load("core/emoji", split)


@pytest.mark.usefixtures("nowhere")
@pytest.mark.parametrize("folder", ["data/fonts", "home/.fonts/deep/down", "shared/fonts/truetype/noto"])
def test_it_is_found_where_systems_keep_fonts(tmp_path: Path, folder: str) -> None:
    place = tmp_path / folder / "NotoColorEmoji.ttf"
    place.parent.mkdir(parents=True)
    make_font(place)
    assert find_font() == place
    assert len(load("core/emoji")) == 4


@pytest.mark.usefixtures("nowhere")
def test_one_that_is_named_comes_first(tmp_path: Path, font: str, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = tmp_path / "shared/fonts/NotoColorEmoji.ttf"
    usual.parent.mkdir(parents=True)
    make_font(usual, {HEART: "heart"})
    assert len(load("core/emoji")) == 1
    monkeypatch.setenv("ZOO_EMOJI_FONT", font)
    assert len(load("core/emoji")) == 4
    assert len(load("core/emoji", font=str(usual))) == 1


@pytest.mark.parametrize("by", ["option", "variable"])
def test_a_name_that_leads_nowhere_is_told(tmp_path: Path, by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "none.ttf")
    options = {"font": path} if by == "option" else {}
    if by == "variable":
        monkeypatch.setenv("ZOO_EMOJI_FONT", path)
    with pytest.raises(DataError, match=r"there is no font .*none\.ttf; install it"):
        load("core/emoji", **options)


def broken(path: Path) -> None:
    path.write_bytes(b"no font at all")


@pytest.mark.parametrize(("make", "sentence"), [
    (broken, "cannot be read as a font"),
    (lambda path: make_font(path, pictures=False), r"has no pictures \(a table CBDT\).*take the file Noto"),
    (lambda path: make_font(path, size=64), r"has pictures of other sizes; take the file NotoColorEmoji.ttf"),
    (lambda path: make_font(path, {ord("a"): "heart"}), r"has none of the emoji; take the file NotoColorEmoji.ttf"),
])  # fmt: skip
def test_a_font_that_cannot_serve_is_told(tmp_path: Path, make: Callable[[Path], Any], sentence: str) -> None:
    make(tmp_path / "odd.ttf")
    with pytest.raises(DataError, match=sentence):
        load("core/emoji", font=str(tmp_path / "odd.ttf"))


def test_variations_need_what_joins_characters(font: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "check", lambda feature: False)
    for split, options in {"test": {}, "train": {"variations": True}}.items():
        with pytest.raises(DataError, match=r"Raqm.*install FriBiDi .*or load the split 'train' without variations"):
            load("core/emoji", split, font=font, **options)
    assert len(load("core/emoji", font=font)) == 4


@pytest.mark.parametrize(("options", "sentence"), [
    ({"image_size": 7}, "image_size: must be an integer from 8 to 128, got 7"),
    ({"image_size": 129}, "image_size: must be an integer from 8 to 128, got 129"),
    ({"image_size": 32.0}, "image_size: must be an integer from 8 to 128"),
    ({"background": "whitish"}, "background: must be a colour such as 'white' or '#202020', got 'whitish'"),
    ({"background": 3}, "background: must be a string, got 3"),
    ({"variations": 1}, "variations: must be true or false, got 1"),
    ({"font": 3}, "font: must be a string or null, got 3"),
    ({"size": 3}, "core/emoji.size: no such argument"),
])  # fmt: skip
def test_options_are_checked_before_a_font_is_looked_for(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        load("core/emoji", **({"font": "nowhere.ttf"} | options))


def test_other_splits_are_refused() -> None:
    with pytest.raises(DataError, match="it has: train, test"):
        load("core/emoji", "novel")


# the real font


@real
def test_it_has_all_base_emoji_and_they_are_told_apart() -> None:
    data = load("core/emoji")
    batch = everything(data)
    assert len(data) == BASE
    assert batch["caption"] == [e.name for e in train()]
    images = torch.as_tensor(batch["image"])
    assert len(images.flatten(1).unique(dim=0)) == BASE
    assert not (images == 255).flatten(1).all(1).any()  # none is empty


@real
def test_a_red_heart_is_red_and_a_green_one_green() -> None:
    batch = everything(load("core/emoji"))
    images = torch.as_tensor(batch["image"]).float()
    for channel, name in enumerate(("red heart", "green heart", "blue heart")):
        image = images[batch["caption"].index(name)]
        assert image[:, 16, 16].argmax() == channel
        assert (image[:, 0, 0] == 255).all()  # a corner


@real
@joining
def test_variations_are_other_pictures_than_their_base() -> None:
    base, other = everything(load("core/emoji")), load("core/emoji", "test")
    batch = everything(other)
    assert len(other) == len(held_out())
    bases, images = (torch.as_tensor(b["image"]).flatten(1) for b in (base, batch))
    # One picture serves a snowboarder of any skin tone.
    assert (images != bases[torch.as_tensor(batch["label"])]).any(1).float().mean() > 0.99
    assert len(load("core/emoji", variations=True)) == len(train(variations=True))


def pixels(image: Image.Image) -> Tensor:
    return torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(*image.size[::-1], 3).permute(2, 0, 1)
