"""Who may look at whom: causality, and the paper's masks against their definitions."""

import pytest
import torch
from torch import Tensor
from zoo_dalle.masks import GRIDS, Layout, layer_masks, stream_mask

KINDS = list(GRIDS)
LAYOUTS = [Layout(1, 4, 4), Layout(5, 4, 4), Layout(3, 2, 7), Layout(3, 7, 2), Layout(1, 1, 9), Layout(2, 13, 13)]

everywhere = pytest.mark.parametrize("layout", LAYOUTS, ids=str)
every_kind = pytest.mark.parametrize("kind", KINDS)


@every_kind
@everywhere
def test_no_token_looks_ahead_and_each_looks_at_itself(kind, layout: Layout) -> None:
    mask = stream_mask(kind, layout)
    length = layout.text + layout.rows * layout.columns
    assert mask.shape == (length, length)
    assert not mask.triu(1).any()
    assert mask.diagonal().all()


@every_kind
@everywhere
def test_text_looks_at_text_before_it_and_images_at_all_text(kind, layout: Layout) -> None:
    mask = stream_mask(kind, layout)
    text = layout.text
    assert torch.equal(mask[:text, :text], torch.ones(text, text).tril().bool())
    assert mask[text:, :text].all()


def image_part(kind, rows: int, columns: int) -> Tensor:
    return stream_mask(kind, Layout(0, rows, columns))


@pytest.mark.parametrize(("rows", "columns"), [(4, 4), (3, 5), (6, 2)])
def test_a_row_mask_reaches_back_to_the_same_column_of_the_row_above(rows: int, columns: int) -> None:
    mask = image_part("row", rows, columns)
    for q in range(rows * columns):
        assert mask[q].nonzero().flatten().tolist() == list(range(max(0, q - columns), q + 1))


@pytest.mark.parametrize(("rows", "columns"), [(4, 4), (3, 5), (6, 2)])
def test_a_column_mask_sees_its_column_and_its_neighbour(rows: int, columns: int) -> None:
    mask = image_part("column", rows, columns)
    for r in range(rows):
        for c in range(columns):
            seen = {(i, c) for i in range(r + 1)} | ({(r, c - 1)} if c else set())
            assert mask[r * columns + c].nonzero().flatten().tolist() == sorted(i * columns + j for i, j in seen)


def test_a_column_mask_is_the_row_mask_of_the_transposed_grid_where_that_is_past() -> None:
    rows, columns = 5, 5
    order = torch.arange(25).view(rows, columns).T.reshape(-1)  # place in raster order of each place by columns
    transposed = image_part("row", columns, rows)
    by_columns = image_part("column", rows, columns)[order][:, order]
    past = (order[:, None] >= order)[:, :]
    assert torch.equal(by_columns, transposed & past)


def test_a_convolutional_mask_is_a_window_that_wraps_around() -> None:
    rows, columns = 16, 16
    mask = image_part("convolutional", rows, columns)
    q = 8 * 16 + 8  # far from all sides: a plain window of 11 x 11, its upper half
    window = {(8 + i) * 16 + 8 + j for i in range(-5, 1) for j in range(-5, 6)}
    assert mask[q].nonzero().flatten().tolist() == sorted(k for k in window if k <= q)
    at_the_side = mask[8 * 16]  # its left half lies at the ends of the rows before
    assert at_the_side[7 * 16 + 11 : 8 * 16].all()
    assert not at_the_side[7 * 16 + 6 : 7 * 16 + 11].any()


def test_the_paper_has_a_column_in_four_and_ends_with_a_convolution() -> None:
    kinds = layer_masks("dalle", 64)
    assert len(kinds) == 64
    assert kinds[-1] == "convolutional"
    assert [i for i, kind in enumerate(kinds, 1) if kind == "column"] == list(range(2, 64, 4))
    assert set(kinds[:-1]) == {"row", "column"}
    assert kinds[:4] == ["row", "column", "row", "row"]


@every_kind
def test_one_kind_is_for_all_layers(kind) -> None:
    assert layer_masks(kind, 3) == [kind] * 3
