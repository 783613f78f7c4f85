"""InMemory: batches by index, the identity of content, and what it refuses."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zoo_core.data import InMemory
from zoo_core.data.strings import Strings
from zoo_core.errors import DataError

IMAGE = torch.arange(5 * 3 * 2 * 4, dtype=torch.uint8).view(5, 3, 2, 4)
LABEL = torch.tensor([3, 1, 4, 1, 5])
CAPTION = ["a", "", "ünï", "two words", "🦓"]


def small(**columns: object) -> InMemory:
    return InMemory("small", "train", {"image": IMAGE, **columns})  # type: ignore[arg-type]


def test_describes_itself():
    data = small(label=LABEL, caption=CAPTION)
    assert (data.name, data.split, data.data_shape, len(data)) == ("small", "train", (3, 2, 4), 5)
    assert data.columns == ("image", "label", "caption")
    assert "small" in repr(data)


@given(st.lists(st.integers(0, 4)))
def test_a_batch_is_the_rows_asked_for(places):
    batch = small(label=LABEL, caption=CAPTION).batch(torch.tensor(places, dtype=torch.int64))
    assert torch.equal(batch["image"], IMAGE[places])
    assert batch["image"].dtype == torch.uint8
    assert batch["label"].tolist() == [LABEL[i] for i in places]
    assert batch["caption"] == [CAPTION[i] for i in places]


def test_a_batch_is_a_copy():
    data = small()
    data.batch(torch.arange(5))["image"].zero_()
    assert torch.equal(data.batch(torch.arange(5))["image"], IMAGE)


def test_indices_of_any_integer_type():
    for dtype in (torch.uint8, torch.int32, torch.int64):
        assert len(small().batch(torch.tensor([1, 2], dtype=dtype))["image"]) == 2


@pytest.mark.parametrize("places", [[5], [-1], [0, 1, 99]])
def test_refuses_places_outside(places):
    with pytest.raises(IndexError, match=r"\[0, 5\)"):
        small().batch(torch.tensor(places))


@pytest.mark.parametrize("indices", [torch.tensor(1), torch.tensor([True] * 5), torch.ones(2), torch.ones(2, 2).long()])
def test_refuses_what_are_no_indices(indices):
    with pytest.raises(DataError, match="integers of shape"):
        small().batch(indices)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"label": LABEL}, "column 'image'"),
        ({"image": IMAGE.double()}, "uint8"),
        ({"image": torch.zeros(5)}, "uint8"),
        ({"image": IMAGE[0]}, "uint8"),
        ({"image": IMAGE, "label": LABEL[:4]}, "differ in length"),
    ],
)
def test_refuses_columns_that_are_no_data_set(columns, message):
    with pytest.raises(DataError, match=message):
        InMemory("bad", "train", columns)


@pytest.mark.parametrize("shape", [(4,), (2, 3, 3), (6, 2)])
def test_examples_may_be_numbers_of_any_shape(shape):
    for z in (torch.randn(5, *shape), torch.randint(512, (5, *shape))):
        data = InMemory("latents", "train", {"image": z, "label": LABEL})
        assert data.data_shape == shape
        assert torch.equal(data.batch(torch.tensor([3, 0]))["image"], z[[3, 0]])


def test_equal_content_has_an_equal_fingerprint():
    one, other = small(label=LABEL), InMemory("copy", "test", {"label": LABEL, "image": IMAGE})
    assert one.fingerprint == other.fingerprint
    assert int(one.fingerprint, 16) >= 0


@pytest.mark.parametrize(
    "columns",
    [
        {},
        {"label": LABEL + 1},
        {"label": LABEL.int()},
        {"other": LABEL},
        {"label": LABEL, "caption": CAPTION},
        {"label": LABEL, "caption": CAPTION[::-1]},
        {"label": LABEL, "image": IMAGE.view(5, 3, 4, 2)},
        {"label": LABEL, "image": IMAGE.flip(0)},
    ],
)
def test_other_content_has_another_fingerprint(columns):
    assert small(**columns).fingerprint != small(label=LABEL).fingerprint


@given(st.lists(st.text()))
def test_strings_come_back(texts):
    packed = Strings.of(texts)
    expected = [text.encode(errors="replace").decode() for text in texts]
    assert len(packed) == len(texts)
    assert packed.take(torch.arange(len(texts))) == expected
    assert packed.take(torch.arange(len(texts)).flip(0)) == expected[::-1]
