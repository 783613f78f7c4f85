"""JSON and files of strangers: what is allowed is read as it was written; hostile ones have tests of their own."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoo_core.untrusted import DEEPEST_JSON, parse_json, read_bytes

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(JSON, st.booleans())
def test_json_is_read_as_it_was_written(value: Any, escaped: bool) -> None:
    assert parse_json(json.dumps(value, ensure_ascii=escaped).encode()) == value


@pytest.mark.parametrize(("begin", "end"), [("[", "]"), ('{"a": ', "}")])
def test_a_hundred_levels_are_allowed(begin: str, end: str) -> None:
    parse_json((begin * DEEPEST_JSON + "1" + end * DEEPEST_JSON).encode())
    with pytest.raises(ValueError, match="no valid JSON: more than 100 levels deep"):
        parse_json((begin * (DEEPEST_JSON + 1) + "1" + end * (DEEPEST_JSON + 1)).encode())


def test_brackets_in_strings_are_no_levels() -> None:
    text = "[" * 1000 + '"\\' + "]"
    assert parse_json(json.dumps({text: text}).encode()) == {text: text}


@pytest.mark.parametrize("size", [9, 10])
def test_a_file_is_read_up_to_its_limit(tmp_path: Path, size: int) -> None:
    (tmp_path / "file").write_bytes(b"x" * 10)
    if size == 10:
        assert read_bytes(tmp_path / "file", size) == b"x" * 10
    else:
        with pytest.raises(ValueError, match="larger than 9 bytes"):
            read_bytes(tmp_path / "file", size)
