"""Folders of images and parquet files: what is found in them and what is refused."""

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from zoo_core.data.features import find_columns
from zoo_core.data.keys import file_facts
from zoo_core.data.sources import from_path
from zoo_core.errors import ConfigError, DataError

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (9, 5, 6), dtype=np.uint8)
LABELS = [int(v) for v in RNG.integers(0, 7, 9)]
CAPTIONS = [f"picture {i}, ünï" for i in range(9)]


@pytest.fixture(autouse=True)
def _isolated(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def as_struct(pixels: np.ndarray) -> list[dict[str, Any]]:
    return [{"bytes": png(p), "path": None} for p in pixels]


def write_parquet(path: Path, types: dict[str, Any] | None = None, **columns: Any) -> Path:
    """A parquet file; ``types`` are Hugging Face's feature types, written as it writes them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns)
    if types:
        info = {"info": {"features": types}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(info)})
    pq.write_table(table, path)
    return path


IMAGE = {"_type": "Image"}
DIGIT = {"_type": "ClassLabel", "names": [str(i) for i in range(10)]}
TEXT = {"_type": "Value", "dtype": "string"}
NUMBER = {"_type": "Value", "dtype": "int64"}


@pytest.fixture
def hub_layout(tmp_path) -> Path:
    """As the Hub keeps data sets: a folder with one parquet file for each split."""
    types = {"img": IMAGE, "label": DIGIT, "text": TEXT}
    for split, rows in (("train", slice(0, 6)), ("test", slice(6, 9))):
        write_parquet(
            tmp_path / "org" / "name" / "data" / f"{split}-00000-of-00001.parquet",
            types,
            img=as_struct(PIXELS[rows]),
            label=LABELS[rows],
            text=CAPTIONS[rows],
        )
    return tmp_path / "org" / "name"


@pytest.fixture
def image_folder(tmp_path) -> Path:
    for split, kind, pixels in (
        ("train", "cat", PIXELS[0]),
        ("train", "dog", PIXELS[1]),
        ("train", "dog", PIXELS[2]),
        ("test", "cat", PIXELS[3]),
        ("test", "dog", PIXELS[4]),
    ):
        folder = tmp_path / "pictures" / split / kind
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{len(list(folder.iterdir()))}.png")
    return tmp_path / "pictures"


def test_parquet_in_the_layout_of_the_hub(hub_layout):
    train, test = from_path(hub_layout, "train"), from_path(hub_layout, "test")
    assert (len(train), len(test)) == (6, 3)
    assert train.columns == ("image", "label", "caption")
    assert train.data_shape == (1, 5, 6)
    batch = test.batch(torch.arange(3))
    assert torch.equal(batch["image"], torch.from_numpy(PIXELS[6:])[:, None])
    assert batch["label"].dtype == torch.int64
    assert batch["label"].tolist() == LABELS[6:]
    assert batch["caption"] == CAPTIONS[6:]


def test_a_lone_parquet_file(hub_layout):
    file = next(hub_layout.rglob("test-*.parquet"))
    assert len(from_path(file)) == 3
    with pytest.raises(DataError, match="no split 'test'; it has: train"):
        from_path(file, "test")


def test_a_folder_of_images(image_folder):
    train = from_path(image_folder)
    batch = train.batch(torch.arange(3))
    assert torch.equal(batch["image"], torch.from_numpy(PIXELS[:3])[:, None])
    assert batch["label"].tolist() == [0, 1, 1]  # cat, dog, dog
    assert len(from_path(image_folder, "test")) == 2


def test_folders_of_splits_are_no_labels(tmp_path):
    """Of pictures/train and pictures/test datasets makes labels, which the other split then lacks."""
    for split, level in (("train", 10), ("test", 200)):
        (tmp_path / "pictures" / split).mkdir(parents=True)
        for i in range(3):
            content = png(np.full((4, 5), level + i, np.uint8))
            (tmp_path / "pictures" / split / f"{i}.png").write_bytes(content)
    for split, level in (("train", 10), ("test", 200)):
        data = from_path(tmp_path / "pictures", split)
        assert data.columns == ("image",)
        assert data.batch(torch.arange(3))["image"][:, 0, 0, 0].tolist() == [level, level + 1, level + 2]


def test_a_folder_of_images_with_captions(image_folder):
    lines = [
        {"file_name": "cat/0.png", "text": "a cat"},
        {"file_name": "dog/0.png", "text": "a dog"},
    ]
    metadata = image_folder / "train" / "metadata.jsonl"
    metadata.write_text("\n".join(map(json.dumps, lines)))
    data = from_path(image_folder / "train")
    assert data.columns == ("image", "caption")
    assert data.batch(torch.arange(2))["caption"] == ["a cat", "a dog"]


def test_a_zip_of_images_is_to_be_unpacked(image_folder, tmp_path):
    shutil.make_archive(str(tmp_path / "zipped" / "train"), "zip", image_folder / "train")
    with pytest.raises(DataError, match=r"train\.zip: unpack it"):
        from_path(tmp_path / "zipped")


def test_parquet_without_hugging_face_metadata(tmp_path):
    file = write_parquet(tmp_path / "a.parquet", picture=as_struct(PIXELS), label=LABELS)
    data = from_path(file)
    assert torch.equal(data.batch(torch.arange(9))["image"], torch.from_numpy(PIXELS)[:, None])
    assert data.batch(torch.arange(9))["label"].tolist() == LABELS


def test_bare_bytes_when_they_are_named(tmp_path):
    file = write_parquet(tmp_path / "a.parquet", raw=[png(p) for p in PIXELS], n=LABELS)
    data = from_path(file, columns={"image": "raw", "label": "n"})
    assert data.columns == ("image", "label")
    assert data.batch(torch.arange(9))["label"].tolist() == LABELS


def test_hidden_labels_are_minus_one_and_missing_captions_empty(tmp_path):
    file = write_parquet(tmp_path / "a.parquet", image=as_struct(PIXELS[:2]), label=[None, 3], caption=["a", None])
    batch = from_path(file).batch(torch.arange(2))
    assert batch["label"].tolist() == [-1, 3]
    assert batch["caption"] == ["a", ""]


def test_many_chunks_in_order(tmp_path):
    n = 1300
    levels = [np.full((2, 2), i % 256, np.uint8) for i in range(n)]
    file = write_parquet(tmp_path / "a.parquet", image=as_struct(np.stack(levels)), label=range(n))
    batch = from_path(file).batch(torch.arange(n))
    assert torch.equal(batch["image"][:, 0, 0, 0].long(), torch.arange(n) % 256)
    assert torch.equal(batch["label"], torch.arange(n))


def features(**types: str) -> dict[str, Any]:
    """Columns by type: ``image``, ``classes``, ``int64``, ``string``."""
    made: dict[str, Any] = {
        "image": type("Image", (), {})(),
        "classes": type("ClassLabel", (), {"dtype": "int64"})(),
    }
    return {n: made.get(t) or SimpleNamespace(dtype=t) for n, t in types.items()}


@pytest.mark.parametrize(
    ("types", "found"),
    [
        ({"image": "image"}, {"image": "image"}),
        ({"img": "image", "label": "int64"}, {"image": "img", "label": "label"}),
        ({"pixels": "image", "digit": "classes"}, {"image": "pixels", "label": "digit"}),
        ({"image": "image", "mask": "image"}, {"image": "image"}),
        (
            {"image": "image", "fine": "classes", "coarse": "classes"},
            {"image": "image", "label": "fine"},
        ),
        (
            {"image": "image", "a": "classes", "label": "classes"},
            {"image": "image", "label": "label"},
        ),
        ({"image": "image", "label": "string"}, {"image": "image"}),
        ({"image": "image", "label": "float64"}, {"image": "image"}),
        ({"image": "image", "text": "string"}, {"image": "image", "caption": "text"}),
        (
            {"image": "image", "text": "string", "caption": "string"},
            {"image": "image", "caption": "caption"},
        ),
        ({"image": "image", "text": "int64", "id": "int64"}, {"image": "image"}),
    ],
)
def test_columns_are_found_by_type_and_name(types, found):
    assert find_columns("it", features(**types)) == found


@pytest.mark.parametrize(
    ("types", "chosen", "message"),
    [
        ({"a": "int64"}, {}, "no image column.*one of a"),
        ({"a": "image", "b": "image"}, {}, r"several image columns \(a, b\)"),
        ({"image": "image", "fine": "classes"}, {"label": "fin"}, "did you mean 'fine'"),
        ({"image": "image"}, {"image": "zzz"}, "there are: image"),
        ({"image": "image"}, {"mask": "image"}, "none of image, label, caption"),
    ],
)
def test_columns_that_cannot_be_found(types, chosen, message):
    with pytest.raises(DataError, match=message):
        find_columns("it", features(**types), chosen)


def test_chosen_columns_win():
    types = features(a="image", b="image", fine="classes", coarse="classes")
    chosen = {"image": "b", "label": "coarse"}
    assert find_columns("it", types, chosen) == chosen


def test_labels_must_be_integers(tmp_path):
    file = write_parquet(tmp_path / "a.parquet", image=as_struct(PIXELS), kind=["x"] * 9)
    with pytest.raises(DataError, match="holds string, not integers"):
        from_path(file, columns={"label": "kind"})


def test_different_sizes(tmp_path):
    pixels = as_struct(PIXELS[:1]) + as_struct(PIXELS[1:2, :4])
    file = write_parquet(tmp_path / "a.parquet", image=pixels)
    with pytest.raises(DataError, match=r"4x6 to 5x6.*image_size=\(H, W\)"):
        from_path(file)
    assert from_path(file, image_size=(4, 3)).data_shape == (1, 4, 3)
    assert from_path(file, image_size=3).data_shape == (1, 3, 3)
    with pytest.raises(ConfigError, match="image_size: must be"):
        from_path(file, image_size=(4, -3))


def test_options_are_cached_apart(hub_layout):
    whole, small = from_path(hub_layout), from_path(hub_layout, image_size=2)
    assert whole.fingerprint != small.fingerprint
    assert from_path(hub_layout).data_shape == (1, 5, 6)


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "a").write_bytes(b"other length"),
        lambda folder: os.utime(folder / "a", ns=(1, 1)),
        lambda folder: (folder / "a").rename(folder / "b"),
        lambda folder: (folder / "deep" / "c").touch(),
    ],
)
def test_any_change_of_the_files_changes_the_facts(tmp_path, change):
    (tmp_path / "deep").mkdir()
    (tmp_path / "a").write_bytes(b"content")
    before = file_facts(tmp_path)
    (tmp_path / ".hidden").touch()
    assert file_facts(tmp_path) == before
    change(tmp_path)
    assert file_facts(tmp_path) != before


def test_a_changed_file_is_read_again(tmp_path):
    file = write_parquet(tmp_path / "a.parquet", image=as_struct(PIXELS[:3]))
    first = from_path(file).fingerprint
    write_parquet(file, image=as_struct(PIXELS[3:6]))
    os.utime(file, ns=(0, 0))
    assert from_path(file).fingerprint != first


def test_content_and_not_its_place_makes_the_fingerprint(tmp_path):
    one = write_parquet(tmp_path / "one.parquet", image=as_struct(PIXELS), label=LABELS)
    other = write_parquet(tmp_path / "deep" / "other.parquet", image=as_struct(PIXELS), label=LABELS)
    assert from_path(one).fingerprint == from_path(other).fingerprint


@pytest.mark.parametrize("split", ["valid", "train[:2]", ""])
def test_a_bad_split_lists_those_there_are(hub_layout, split):
    with pytest.raises(DataError, match="it has: train, test"):
        from_path(hub_layout, split)


def test_what_is_no_data_set(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("no data")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 no PAR1")
    with pytest.raises(DataError, match="empty cannot be read as a data set"):
        from_path(tmp_path / "empty")
    with pytest.raises(DataError, match=r"give a folder or a \.parquet file"):
        from_path(tmp_path / "notes.txt")
    with pytest.raises(DataError, match=r"broken\.parquet cannot be read"):
        from_path(tmp_path / "broken.parquet")
    with pytest.raises(DataError, match="no such folder or file"):
        from_path(tmp_path / "nowhere")


def test_a_damaged_image_is_told_by_its_number(tmp_path):
    broken = [*as_struct(PIXELS[:2]), {"bytes": b"broken", "path": None}]
    file = write_parquet(tmp_path / "a.parquet", image=broken)
    with pytest.raises(DataError, match=r"image 2 of .*a\.parquet cannot be used"):
        from_path(file)


def test_nothing_is_left_beside_the_data(hub_layout, tmp_path):
    before = sorted(hub_layout.rglob("*"))
    from_path(hub_layout)
    assert sorted(hub_layout.rglob("*")) == before


def test_what_is_cached_needs_neither_datasets_nor_pillow(hub_layout, image_folder):
    made = [from_path(path).fingerprint for path in (hub_layout, image_folder)]
    script = f"""
import sys
from zoo_core.data import load
print([load(path).fingerprint for path in {[str(hub_layout), str(image_folder)]}])
print([name for name in ("datasets", "PIL", "pyarrow", "huggingface_hub") if name in sys.modules])
"""
    output = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    assert output.splitlines() == [str(made), "[]"]
