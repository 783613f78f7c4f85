"""Data sets that strangers packed: they lead nowhere, and run nothing."""

import io
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from zoo_core.data import load
from zoo_core.errors import DataError

GREY = np.zeros((8, 8), np.uint8)
FEATURES = {"huggingface": json.dumps({"info": {"features": {"image": {"_type": "Image"}}}})}


class Executed:
    def __reduce__(self):
        return os.abort, ()


def picture(path: Path) -> Path:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(GREY).save(path)
    return path


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


@pytest.fixture
def private(tmp_path) -> Path:
    """A picture of the user's, in no data set."""
    return picture(tmp_path / "private" / "photo.png")


@pytest.fixture
def folder(tmp_path) -> Path:
    picture(tmp_path / "folder" / "a.png")
    return tmp_path / "folder"


def parquet(folder: Path, **cell: object) -> Path:
    folder.mkdir()
    cells = pa.array(
        [{"bytes": None, "path": None, **cell}], pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    )
    pq.write_table(pa.table({"image": cells}).replace_schema_metadata(FEATURES), folder / "train.parquet")
    return folder


@pytest.mark.parametrize("streaming", [False, True])
def test_a_row_leads_to_no_file(tmp_path, private, streaming):
    leading = parquet(tmp_path / "parquet", path=str(private))
    with pytest.raises(DataError, match=r"image 0 of .* cannot be used: it is missing"):
        load(str(leading), streaming=streaming)
    whole = parquet(tmp_path / "whole", path=str(private), bytes=encoded(Image.fromarray(GREY + 9)))
    assert torch.equal(
        load(str(whole), streaming=streaming).batch(torch.tensor([0]))["image"].unique(), torch.tensor([9])
    )


def test_a_folder_names_no_files_beside_it(folder, private):
    (folder / "README.md").write_text("---\nconfigs:\n- config_name: x\n  data_files: ../private/*.png\n---\n")
    with pytest.raises(DataError, match=r"folder names a file beside it, .*photo.png"):
        load(str(folder))


def test_its_metadata_names_none_either(folder, private):
    (folder / "metadata.jsonl").write_text(json.dumps({"file_name": "../private/photo.png", "text": "x"}) + "\n")
    with pytest.raises(DataError, match="folder cannot be read as a data set"):
        load(str(folder))


def test_its_owner_may_link_to_what_lies_elsewhere(folder, private):
    (folder / "b.png").symlink_to(private)
    (folder.parent / "link").symlink_to(folder)
    assert len(load(str(folder))) == len(load(str(folder.parent / "link"))) == 2


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")  # an error outside of pytest
@pytest.mark.parametrize("bomb", [(30_000, 30_000), (10_000, 9_000)])
def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded(tmp_path, bomb):
    small = encoded(Image.new("1", bomb))
    assert len(small) < 200_000
    with pytest.raises(DataError, match=r"image 0 of .* cannot be used: .*(MAX_IMAGE_PIXELS|exceeds limit)"):
        load(str(parquet(tmp_path / "parquet", bytes=small)), image_size=8)


@pytest.mark.parametrize(
    "plant",
    [
        lambda folder: (folder / "folder.py").write_text("import os; os.abort()"),
        lambda folder: (folder / "data.pkl").write_bytes(pickle.dumps(Executed())),
        lambda folder: np.save(folder / "data.npy", np.array([Executed()], dtype=object)),
        lambda folder: (folder / "dataset_info.json").write_text("[" * 100_000),
        lambda folder: os.mkfifo(folder / "c.png"),
    ],
    ids=["script", "pickle", "array", "deep", "pipe"],
)
def test_what_lies_beside_pictures_is_not_run(folder: Path, plant: Callable[[Path], object]):
    plant(folder)
    try:
        read = len(load(str(folder)))
    except DataError as error:
        read = "\n" not in str(error)
    assert read == 1
