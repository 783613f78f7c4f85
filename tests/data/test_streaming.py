"""Streamed data sets: what they give is what the same data give in memory, at any place, in any order, at any time."""

import io
import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from zoo_core.data import Dataset, load
from zoo_core.data.byte_ranges import Fetched, LocalFiles
from zoo_core.data.prefetch import Ahead
from zoo_core.data.row_groups import RowGroups, merged, read_footers, windowed_order
from zoo_core.data.sources import from_path
from zoo_core.errors import ConfigError, DataError
from zoo_core.training.order import Order
from zoo_core.training.recipe import Training

RNG = np.random.default_rng(0)
N = 23
PIXELS = RNG.integers(0, 256, (N, 5, 6, 3), dtype=np.uint8)
LABELS = [None if i == 4 else int(v) for i, v in enumerate(RNG.integers(0, 7, N))]
CAPTIONS = [None if i == 7 else f"picture {i}, ünï" for i in range(N)]
TYPES = {
    "img": {"_type": "Image"},
    "label": {"_type": "ClassLabel", "names": [str(i) for i in range(10)]},
    "text": {"_type": "Value", "dtype": "string"},
}


@pytest.fixture(autouse=True)
def _isolated(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))


def encoded(pixels: np.ndarray, form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


def as_struct(images: Any, form: str = "PNG") -> list[dict[str, Any]]:
    return [{"bytes": encoded(pixels, form), "path": None} for pixels in images]


def write(path: Path, groups: list[int], types: bool = True, **columns: Any) -> Path:
    """A parquet file with row groups of these sizes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns)
    if types:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": TYPES}})})
    with pq.ParquetWriter(path, table.schema) as writer:
        for start, rows in zip(itertools.accumulate([0, *groups]), groups, strict=False):
            writer.write_table(table.slice(start, rows), row_group_size=max(1, rows))
    return path


def columns_of(rows: slice) -> dict[str, Any]:
    return {"img": as_struct(PIXELS[rows]), "label": LABELS[rows], "text": CAPTIONS[rows]}


@pytest.fixture(scope="module")
def several_files(tmp_path_factory) -> Path:
    """Three files, with row groups of one row, of many, of none."""
    folder = tmp_path_factory.mktemp("several")
    parts = {"a": (slice(0, 9), [4, 1, 0, 4]), "b": (slice(9, 10), [1]), "c": (slice(10, N), [7, 6])}
    for k, (rows, groups) in enumerate(parts.values()):
        write(folder / "data" / f"train-0000{k}-of-00003.parquet", groups, **columns_of(rows))
    return folder


@pytest.fixture(scope="module")
def pair(several_files, tmp_path_factory) -> tuple[Dataset, Dataset]:
    """Streamed, and in memory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZOO_CACHE", str(tmp_path_factory.mktemp("cache")))
        return from_path(several_files, streaming=True), from_path(several_files)


def all_of(data: Dataset) -> torch.Tensor:
    return torch.arange(len(data))


def require_equal(one: Dataset, other: Dataset, indices: torch.Tensor) -> None:
    got, expected = one.batch(indices), other.batch(indices)
    assert list(got) == list(expected) == list(one.columns)
    for name, values in expected.items():
        if isinstance(values, torch.Tensor):
            assert got[name].dtype == values.dtype
            assert torch.equal(got[name], values)
        else:
            assert got[name] == values


def require_equal_sets(streamed: Dataset, held: Dataset) -> None:
    facts = [(d.name, d.split, d.data_shape, d.columns, len(d)) for d in (streamed, held)]
    assert facts[0] == facts[1]
    require_equal(streamed, held, all_of(held).flip(0))


class TestParquet:
    def test_is_what_it_is_in_memory(self, pair):
        require_equal_sets(*pair)
        assert len(pair[0]) == N
        assert torch.equal(pair[0].batch(all_of(pair[0]))["image"], torch.from_numpy(PIXELS).permute(0, 3, 1, 2))

    @given(st.lists(st.integers(0, N - 1), max_size=40))
    def test_at_any_places_in_any_order_with_repetitions(self, pair, places):
        require_equal(*pair, torch.tensor(places, dtype=torch.int64))

    def test_however_little_is_kept(self, pair, several_files, monkeypatch):
        monkeypatch.setattr(RowGroups, "kept", 0)
        data = from_path(several_files, streaming=True)
        require_equal(data, pair[1], data.order(3))

    def test_a_row_group_is_read_once_while_it_is_kept(self, several_files, monkeypatch):
        reads = []
        monkeypatch.setattr(
            LocalFiles, "read", lambda files, *a, read=LocalFiles.read: reads.append(a) or read(files, *a)
        )
        data = from_path(several_files, streaming=True)
        data.batch(all_of(data))
        before = len(reads)
        data.batch(all_of(data).flip(0))
        assert len(reads) == before
        monkeypatch.setattr(RowGroups, "kept", 0)
        data = from_path(several_files, streaming=True)
        before = len(reads)
        data.batch(torch.tensor([0, 22, 1, 21, 2]))  # first and last group, in turns
        assert len(reads) == before + 2

    def test_of_row_groups_those_used_last_are_kept(self, tmp_path, monkeypatch):
        file = write(tmp_path / "a.parquet", [20] * 3, types=False, image=as_struct(PIXELS[:20]) * 3)
        data = from_path(file, streaming=True)
        reads, read = [], RowGroups._read
        monkeypatch.setattr(RowGroups, "_read", lambda rows, *a: reads.append(a[1]) or read(rows, *a))
        monkeypatch.setattr(RowGroups, "kept", 2 * sum(len(encoded(p)) for p in PIXELS[:20]) + 1000)
        for place in (0, 20, 0, 40, 0, 20):
            data.batch(torch.tensor([place]))
        assert reads == [1, 2, 1]  # the first was read when the set was opened

    def test_files_that_store_the_same_otherwise(self, tmp_path):
        """As datasets, all become what the first file says."""
        write(tmp_path / "train-0.parquet", [3], types=False, image=as_struct(PIXELS[:3]), label=range(3))
        images = [{"path": None, "bytes": encoded(p)} for p in PIXELS[3:5]]
        label = pa.array([3, 4], type=pa.int16())
        write(tmp_path / "train-1.parquet", [2], types=False, label=label, image=images)
        require_equal_sets(*(from_path(tmp_path, streaming=s) for s in (True, False)))

    def test_shares_of_a_batch_are_the_batch(self, pair):
        streamed, held = pair
        indices = streamed.order(5)[:10]
        whole = held.batch(indices)
        for k in (0, 1):
            share = streamed.batch(indices[k::2])
            assert torch.equal(share["image"], whole["image"][k::2])
            assert share["caption"] == whole["caption"][k::2]

    def test_read_ahead_they_are_the_same(self, pair):
        streamed, held = pair
        assert streamed.prefetch
        assert not held.prefetch
        ahead, batches = Ahead(streamed), torch.split(streamed.order(6), 5)
        for indices, following in itertools.pairwise(batches):
            assert torch.equal(ahead.batch(indices, following)["image"], held.batch(indices)["image"])
        ahead.close()

    def test_refuses_places_as_any_set_does(self, pair):
        with pytest.raises(IndexError, match=rf"\[0, {N}\)"):
            pair[0].batch(torch.tensor([N]))
        with pytest.raises(DataError, match="integers of shape"):
            pair[0].batch(torch.ones(2))

    def test_a_lone_file_without_metadata_and_with_chosen_columns(self, tmp_path):
        columns = {"raw": [encoded(p) for p in PIXELS], "n": range(N), "img": as_struct(PIXELS), "more": ["x" * 99] * N}
        file = write(tmp_path / "a.parquet", [20, 3], types=False, **columns)
        for chosen in ({"image": "raw", "label": "n"}, {"image": "img"}, None):
            require_equal_sets(*(from_path(file, columns=chosen, streaming=s) for s in (True, False)))

    def test_resized(self, several_files):
        require_equal_sets(*(from_path(several_files, image_size=(4, 3), streaming=s) for s in (True, False)))

    def test_grey_among_colour(self, tmp_path):
        images = [PIXELS[0, :, :, 0], *PIXELS[1:5], PIXELS[5, :, :, 0]]
        file = write(tmp_path / "a.parquet", [2, 4], types=False, image=as_struct(images))
        require_equal_sets(*(from_path(file, streaming=s) for s in (True, False)))

    def test_colour_after_many_grey_ones_is_told_by_its_number(self, tmp_path):
        images = [*PIXELS[:20, :, :, 0], PIXELS[20]]
        data = from_path(write(tmp_path / "a.parquet", [21], types=False, image=as_struct(images)), streaming=True)
        assert data.data_shape == (1, 5, 6)
        with pytest.raises(DataError, match=r"image 20 of .*a\.parquet is in colour"):
            data.batch(torch.tensor([3, 20]))

    def test_another_size_is_told_by_its_number(self, tmp_path):
        images = [*PIXELS[:4], PIXELS[4, :4]]
        file = write(tmp_path / "a.parquet", [2, 3], types=False, image=as_struct(images))
        data = from_path(file, streaming=True)
        data.batch(torch.arange(4))
        with pytest.raises(DataError, match=r"image 4 of .*a\.parquet is 4x6, the first is 5x6; give image_size"):
            data.batch(torch.tensor([1, 4]))
        require_equal_sets(*(from_path(file, image_size=3, streaming=s) for s in (True, False)))

    def test_big_images_in_threads(self, tmp_path, monkeypatch):
        images = RNG.integers(0, 256, (9, 80, 70, 3), dtype=np.uint8)
        file = write(tmp_path / "a.parquet", [5, 4], types=False, image=as_struct(images))
        monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
        require_equal_sets(*(from_path(file, streaming=s) for s in (True, False)))

    def test_nothing_is_cached_nor_left_beside_the_data(self, several_files, tmp_path):
        before = sorted(several_files.rglob("*"))
        data = from_path(several_files, streaming=True)
        data.batch(all_of(data))
        assert sorted(several_files.rglob("*")) == before
        assert not (tmp_path / "cache").exists()

    def test_through_load_and_a_copy_in_zoo_data(self, several_files, pair, tmp_path, monkeypatch):
        shutil.copytree(several_files, tmp_path / "org" / "name")
        monkeypatch.setenv("ZOO_DATA", str(tmp_path))
        data = load("org/name", "train", streaming=True)
        require_equal(data, pair[1], all_of(data))
        assert data.name == "org/name"
        assert "Streamed('org/name', 'train': 23 x 3x5x6" in repr(data)


class TestImageFolder:
    @pytest.fixture
    def folder(self, tmp_path) -> Path:
        for i, (split, kind) in enumerate(itertools.product(("train", "test"), ("cat", "dog", "dog", "eel"))):
            place = tmp_path / "pictures" / split / kind / f"{i}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(PIXELS[i]).save(place)
        return tmp_path / "pictures"

    @pytest.mark.parametrize("split", ["train", "test"])
    def test_is_what_it_is_in_memory(self, folder, split):
        streamed, held = (from_path(folder, split, streaming=s) for s in (True, False))
        require_equal_sets(streamed, held)
        assert streamed.batch(all_of(streamed))["label"].tolist() == [0, 1, 1, 2]

    def test_with_captions(self, folder):
        lines = [{"file_name": "eel/3.png", "text": "an eel"}, {"file_name": "cat/0.png", "text": "a cat"}]
        (folder / "train" / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
        streamed, held = (from_path(folder / "train", streaming=s) for s in (True, False))
        require_equal_sets(streamed, held)
        assert streamed.batch(torch.tensor([1, 0]))["caption"] == ["a cat", "an eel"]
        with pytest.raises(DataError, match=r"column 'text' of .* holds no images"):
            from_path(folder / "train", columns={"image": "text"}, streaming=True)

    def test_order_is_a_permutation_of_its_own_for_each_seed(self, folder):
        data = from_path(folder, streaming=True)
        orders = {tuple(data.order(seed).tolist()) for seed in range(9)}
        assert len(orders) > 1
        assert {tuple(sorted(order)) for order in orders} == {(0, 1, 2, 3)}

    def test_a_file_that_vanished_is_named(self, folder):
        data = from_path(folder, streaming=True)
        (folder / "train" / "eel" / "3.png").unlink()
        data.batch(torch.arange(3))
        with pytest.raises(DataError, match=r"eel/3\.png cannot be read: No such file"):
            data.batch(torch.tensor([0, 3]))

    def test_a_file_that_changed_is_named(self, folder):
        data = from_path(folder, streaming=True)
        os.utime(folder / "train" / "cat" / "0.png", ns=(1, 1))
        with pytest.raises(DataError, match=r"cat/0\.png has changed since"):
            data.batch(torch.tensor([0]))

    def test_a_damaged_image_is_told_by_its_number(self, folder):
        (folder / "train" / "eel" / "3.png").write_bytes(b"broken")
        with pytest.raises(DataError, match=r"image 3 of .*pictures cannot be used"):
            from_path(folder, streaming=True)

    def test_archives_are_to_be_unpacked(self, folder, tmp_path):
        shutil.make_archive(str(tmp_path / "zipped" / "train"), "zip", folder / "train")
        with pytest.raises(DataError, match=r"train\.zip: unpack it"):
            from_path(tmp_path / "zipped", streaming=True)

    def test_fingerprint_knows_names_sizes_and_labels_but_not_the_place(self, folder, tmp_path):
        def fingerprint(place: Path) -> str:
            return from_path(place, streaming=True).fingerprint

        first = fingerprint(folder)
        shutil.copytree(folder, tmp_path / "deep" / "copy")
        assert fingerprint(tmp_path / "deep" / "copy") == first
        (folder / "train" / "cat" / "0.png").rename(folder / "train" / "cat" / "1.png")
        second = fingerprint(folder)
        with (folder / "train" / "cat" / "1.png").open("ab") as file:
            file.write(b"more")
        third = fingerprint(folder)
        (folder / "train" / "cat").rename(folder / "train" / "bat")
        assert len({first, second, third, fingerprint(folder)}) == 4


class TestOrder:
    @given(
        st.lists(st.tuples(st.integers(0, 9), st.integers(0, 30)), max_size=12),
        st.integers(0, 2**63 - 1),
        st.integers(0, 60),
    )
    def test_is_a_permutation_for_any_row_groups(self, groups, seed, window):
        counts, sizes = torch.tensor([n for n, _ in groups], dtype=torch.int64), [size for _, size in groups]
        order = windowed_order(counts, sizes, seed, window)
        assert order.dtype == torch.int64
        assert order.sort().values.tolist() == list(range(sum(n for n, _ in groups)))
        assert torch.equal(order, windowed_order(counts, sizes, seed, window))

    def test_stays_within_few_row_groups_at_a_time(self):
        """100 groups of 10 rows and 1 byte, four to a window: rows of other groups never come in between."""
        order = windowed_order(torch.full((100,), 10), [1] * 100, 7, window=4)
        windows = (order // 10).view(25, 40)
        assert {len(window.unique()) for window in windows} == {4}
        # Within one, groups are mixed: ten rows in a row of one group would be odd.
        assert all(len(part.unique()) > 1 for part in (order // 10).view(100, 10))

    def test_a_group_larger_than_the_window_stands_alone(self):
        order = windowed_order(torch.tensor([3, 4, 2]), [9, 99, 99], 1, window=10)
        groups = torch.bucketize(order, torch.tensor([3, 7]), right=True)
        assert len(torch.unique_consecutive(groups)) == 3

    def test_every_row_comes_everywhere(self):
        """Each of 12 rows in 4 groups at each place: 300 seeds, 25 expected times, 5 standard deviations."""
        orders = torch.stack([windowed_order(torch.full((4,), 3), [1] * 4, seed, window=2) for seed in range(300)])
        times = torch.stack([(orders == row).sum(0) for row in range(12)])
        assert (times - 25).abs().max() < 5 * 25**0.5

    def test_differs_between_seeds_and_not_between_openings(self, several_files, pair):
        one, other = pair[0], from_path(several_files, streaming=True)
        assert torch.equal(one.order(1), other.order(1))
        assert not torch.equal(one.order(1), one.order(2))

    def test_of_a_set_in_memory_is_a_plain_permutation(self, pair):
        expected = torch.randperm(N, generator=torch.Generator().manual_seed(11))
        assert torch.equal(pair[1].order(11), expected)

    def test_a_run_that_goes_on_sees_what_an_undisturbed_one_sees(self, several_files):
        settings = Training(steps=12, batch=4, seed=3)

        def batches(steps: range) -> list[Any]:
            data = from_path(several_files, streaming=True)
            order = Order(data, settings, 1)
            return [data.batch(order.step(step)) for step in steps]

        undisturbed = batches(range(12))  # five to an epoch
        for stopped in (1, 5, 7):
            for got, expected in zip(batches(range(stopped, 12)), undisturbed[stopped:], strict=True):
                assert torch.equal(got["image"], expected["image"])
                assert got["caption"] == expected["caption"]


class TestFingerprint:
    def test_is_that_of_the_content_and_not_of_its_place(self, several_files, pair, tmp_path):
        shutil.copytree(several_files, tmp_path / "elsewhere")
        assert from_path(tmp_path / "elsewhere", streaming=True).fingerprint == pair[0].fingerprint
        assert len(pair[0].fingerprint) == 64

    def test_changes_with_content_options_and_row_groups(self, tmp_path):
        def fingerprint(groups: list[int], content: dict[str, Any], **options: Any) -> str:
            file = write(tmp_path / "a.parquet", groups, **content)
            return from_path(file, streaming=True, **options).fingerprint

        columns = columns_of(slice(0, 9))
        other = {**columns, "label": columns_of(slice(1, 10))["label"]}
        made = [
            fingerprint([9], columns),
            fingerprint([5, 4], columns),
            fingerprint([9], other),
            fingerprint([9], columns, image_size=3),
            fingerprint([9], columns, columns={"label": "label", "caption": "text", "image": "img"}),
        ]
        assert len(set(made)) == 4
        assert made[0] == made[-1]


class TestBadInput:
    @pytest.fixture
    def file(self, tmp_path) -> Path:
        return write(tmp_path / "set" / "train.parquet", [18, 5], **columns_of(slice(0, N)))

    @pytest.mark.parametrize("kept", [0, 3, 100, -8, -1])
    def test_a_truncated_file_is_named(self, file, kept):
        file.write_bytes(file.read_bytes()[:kept])
        for place in (file, file.parent):
            with pytest.raises(DataError, match=r"train\.parquet") as told:
                from_path(place, streaming=True)
            assert "\n" not in str(told.value)

    @pytest.mark.parametrize("length", [0, 7, 2**31 - 1, 2**32 - 1])
    def test_a_footer_that_is_none_is_told(self, file, length):
        file.write_bytes(file.read_bytes()[:-8] + length.to_bytes(4, "little") + b"PAR1")
        with pytest.raises(DataError, match=r"train\.parquet"):
            from_path(file, streaming=True)

    def test_a_file_that_vanished_is_named(self, file):
        data = from_path(file, streaming=True)
        file.unlink()
        data.batch(torch.arange(18))  # read when it was opened
        with pytest.raises(DataError, match=r"train\.parquet cannot be read: No such file"):
            data.batch(torch.tensor([0, 18]))

    def test_a_file_that_changed_is_named(self, file):
        data = from_path(file, streaming=True)
        write(file, [9], **columns_of(slice(9, 18)))
        with pytest.raises(DataError, match=r"train\.parquet has changed since"):
            data.batch(torch.tensor([22]))

    def test_a_damaged_page_is_told_with_the_file(self, file):
        content = bytearray(file.read_bytes())
        column = pq.read_metadata(file).row_group(1).column(0)
        content[column.data_page_offset : column.data_page_offset + 40] = b"\xff" * 40
        file.write_bytes(content)
        data = from_path(file, streaming=True)
        with pytest.raises(DataError, match=r"train\.parquet cannot be read"):
            data.batch(torch.tensor([20]))

    def test_a_damaged_image_is_told_by_its_number(self, tmp_path):
        broken = [*as_struct(PIXELS[:20]), {"bytes": b"broken", "path": None}]
        data = from_path(write(tmp_path / "a.parquet", [21], types=False, image=broken), streaming=True)
        with pytest.raises(DataError, match=r"image 20 of .*a\.parquet cannot be used"):
            data.batch(torch.tensor([0, 20]))

    def test_one_file_that_is_none_among_several(self, file):
        (file.parent / "train-2.parquet").write_bytes(b"PAR1 no PAR2")
        with pytest.raises(DataError, match=r"train-2\.parquet is no whole parquet file"):
            from_path(file.parent, streaming=True)

    def test_what_is_no_parquet_and_no_images(self, tmp_path):
        (tmp_path / "lines").mkdir()
        (tmp_path / "lines" / "train.jsonl").write_text('{"image": "a"}\n')
        with pytest.raises(DataError, match=r"consists of json files.*leave out streaming"):
            from_path(tmp_path / "lines", streaming=True)

    def test_no_rows(self, tmp_path):
        file = write(tmp_path / "a.parquet", [1], types=False, image=as_struct(PIXELS[:1]))
        pq.write_table(pq.read_table(file).slice(0, 0), file)
        with pytest.raises(DataError, match="has no images"):
            from_path(file, streaming=True)

    def test_splits_and_options(self, file):
        with pytest.raises(DataError, match="no split 'test'; it has: train"):
            from_path(file.parent, "test", streaming=True)
        with pytest.raises(ConfigError, match=r"streaming: .*'yes'"):
            from_path(file, streaming="yes")  # type: ignore[arg-type]
        with pytest.raises(DataError, match="no such folder or file"):
            from_path(file.parent / "nowhere", streaming=True)
        with pytest.raises(DataError, match="holds string, not integers"):
            from_path(file, columns={"label": "text"}, streaming=True).batch(torch.arange(2))


class TestParts:
    @given(st.lists(st.tuples(st.integers(0, 10**7), st.integers(1, 10**7)), max_size=8))
    def test_merged_ranges_cover_what_was_asked_for_and_lie_apart(self, asked):
        ranges = [(start, start + length) for start, length in asked]
        joined = merged(ranges)
        assert all(any(a <= start and stop <= b for a, b in joined) for start, stop in ranges)
        assert {p for r in joined for p in r} <= {p for r in ranges for p in r}
        assert all(b[0] - a[1] > 1 << 20 for a, b in itertools.pairwise(joined))

    @given(st.lists(st.tuples(st.integers(0, 100), st.integers(-1, 100)), max_size=9))
    def test_a_fetched_file_reads_as_the_file_itself(self, tmp_path_factory, reads):
        place = tmp_path_factory.mktemp("parts") / "file"
        content = bytes(RNG.integers(0, 256, 90, dtype=np.uint8))
        place.write_bytes(content)
        fetched = Fetched(LocalFiles([str(place)]), 0, [(10, content[10:40]), (60, content[60:])])
        with place.open("rb") as file:
            for start, length in reads:
                assert fetched.seek(start) == file.seek(start)
                assert fetched.read(length) == file.read(length)
                assert fetched.tell() == file.tell()
            assert fetched.seek(-20, io.SEEK_END) == file.seek(-20, io.SEEK_END)
            assert fetched.seek(5, io.SEEK_CUR) == file.seek(5, io.SEEK_CUR)
            assert fetched.read() == file.read()

    def test_only_the_columns_in_question_are_read(self, tmp_path, monkeypatch):
        other = [RNG.bytes(3 << 20) for _ in range(2)]  # more than is read for the sake of fewer reads
        columns = {"image": as_struct(PIXELS[:2]), "other": other, "label": [1, 2]}
        file = write(tmp_path / "a.parquet", [2], types=False, **columns)
        read, told = LocalFiles.read, []

        def counted(files: LocalFiles, *range: int) -> bytes:
            told.append(len(read(files, *range)))
            return read(files, *range)

        monkeypatch.setattr(LocalFiles, "read", counted)
        require_equal(from_path(file, streaming=True), from_path(file), torch.arange(2))
        assert sum(told) < 1 << 20

    def test_a_footer_larger_than_the_first_guess(self, tmp_path):
        columns = {"image": as_struct(PIXELS[:1]) * 600, **{f"c{i}": [i] * 600 for i in range(4)}}
        file = write(tmp_path / "a.parquet", [1] * 600, types=False, **columns)
        assert int.from_bytes(file.read_bytes()[-8:-4], "little") > 1 << 16
        (footer,) = read_footers(LocalFiles([str(file)]))
        assert footer.metadata.num_row_groups == 600


MEMORY = """
import sys
import torch
import PIL.Image, datasets, pyarrow.parquet  # what both need
from zoo_core.data.row_groups import RowGroups
from zoo_core.data.sources import from_path

def peak():
    lines = dict(line.split(":", 1) for line in open("/proc/self/status") if ":" in line)
    return int(lines["VmHWM"].split()[0]) / 1024

RowGroups.kept = 16 << 20
before = peak()
data = from_path(sys.argv[1], streaming=sys.argv[2] == "streamed")
total = 0
for indices in torch.split(torch.arange(len(data)), 64):  # all of it
    total += int(data.batch(indices)["image"].sum())
for indices in torch.split(data.order(1)[:640], 64):
    data.batch(indices)
print(total, peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not tell a process's peak memory")
def test_memory_stays_bounded(tmp_path):
    """200 MB, in row groups of 2 MB of which 16 MB are kept."""
    pixels = RNG.integers(0, 256, (40, 128, 128, 3), dtype=np.uint8)
    table = pa.table({"image": as_struct(np.roll(pixels, 1, 0), "BMP")})
    with pq.ParquetWriter(tmp_path / "a.parquet", table.schema, compression="none", use_dictionary=False) as writer:
        for _ in range(106):
            writer.write_table(table)
    totals, peaks = {}, {}
    for kind in ("streamed", "held"):
        command = [sys.executable, "-c", MEMORY, str(tmp_path / "a.parquet"), kind]
        root = Path(__file__).resolve().parents[2]
        done = subprocess.run(command, capture_output=True, text=True, cwd=root, timeout=120)
        assert done.returncode == 0, done.stderr
        totals[kind], peaks[kind] = map(float, done.stdout.split())
    assert totals["streamed"] == totals["held"]
    assert peaks["held"] > 200  # MB
    assert peaks["streamed"] < 150
