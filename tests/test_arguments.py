"""What an annotation admits, and the sentence when a value is something else."""

import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Optional

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from zoo_core import (
    Bounds,
    ConfigError,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Probability,
    Shape,
    errors,
)
from zoo_core.arguments import checked, join, parameters, phrase, shown, signature, unknown_arguments

many = settings(max_examples=300, deadline=None, derandomize=True, database=None)

LARGEST = sys.float_info.max
Margin = Annotated[float, Bounds("a number between 0 and 0.5", low=0, high=0.5, open=True)]
Noted = Annotated[int, "no bounds"]


class Part:
    kind: ClassVar[str] = "encoder"


class Kind(NamedTuple):
    """An annotation, what it admits, and what that is called."""

    annotation: Any
    admits: Callable[[Any], bool]
    phrase: str


def integer(v: Any) -> bool:
    return type(v) is int


def number(v: Any) -> bool:
    return type(v) in (int, float) and -LARGEST <= v <= LARGEST


def listed(v: Any) -> bool:
    return isinstance(v, (list, tuple))


KINDS = {
    "any": Kind(Any, lambda v: True, "anything"),
    "int": Kind(int, integer, "an integer"),
    "float": Kind(float, number, "a number"),
    "str": Kind(str, lambda v: isinstance(v, str), "a string"),
    "bool": Kind(bool, lambda v: isinstance(v, bool), "true or false"),
    "null": Kind(type(None), lambda v: v is None, "null"),
    "class": Kind(Part, lambda v: isinstance(v, Part), "an encoder"),
    "mapping": Kind(Mapping[str, int], lambda v: isinstance(v, dict), "a mapping"),
    "positive int": Kind(PositiveInt, lambda v: integer(v) and 1 <= v < 2**63, "a positive integer"),
    "int from 0": Kind(NonNegativeInt, lambda v: integer(v) and v >= 0, "an integer of at least 0"),
    "positive": Kind(PositiveFloat, lambda v: number(v) and v > 0, "a number above 0"),
    "from 0": Kind(NonNegativeFloat, lambda v: number(v) and v >= 0, "a number of at least 0"),
    "probability": Kind(Probability, lambda v: number(v) and 0 <= v <= 1, "a number from 0 to 1"),
    "open": Kind(Margin, lambda v: number(v) and 0 < v < 0.5, "a number between 0 and 0.5"),
    "note": Kind(Noted, integer, "an integer"),
    "literal": Kind(
        Literal["none", 1, 3],
        lambda v: (isinstance(v, str) and v == "none") or (integer(v) and v in (1, 3)),
        "one of 'none', 1, 3",
    ),
    "literal bool": Kind(Literal[True, 0], lambda v: v is True or (integer(v) and v == 0), "one of True, 0"),
    "shape": Kind(
        Shape,
        lambda v: listed(v) and all(integer(n) and 1 <= n < 2**63 for n in v),
        "a list, each item a positive integer",
    ),
    "list": Kind(list, listed, "a list"),
    "pair": Kind(
        tuple[int, str],
        lambda v: listed(v) and len(v) == 2 and integer(v[0]) and isinstance(v[1], str),
        "a list of 2: an integer, a string",
    ),
    "tuple": Kind(tuple[float, ...], lambda v: listed(v) and all(map(number, v)), "a list, each item a number"),
    "nested": Kind(
        Sequence[Sequence[int]],
        lambda v: listed(v) and all(listed(row) and all(map(integer, row)) for row in v),
        "a list, each item a list, each item an integer",
    ),
    "optional": Kind(
        PositiveInt | None, lambda v: v is None or (integer(v) and 1 <= v < 2**63), "a positive integer or null"
    ),
    "old optional": Kind(Optional[str], lambda v: v is None or isinstance(v, str), "a string or null"),  # noqa: UP045
    "union": Kind(
        bool | Literal["auto"] | Sequence[float],
        lambda v: isinstance(v, bool) or (isinstance(v, str) and v == "auto") or (listed(v) and all(map(number, v))),
        "true or false or one of 'auto' or a list, each item a number",
    ),
}

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-1, 3),
    st.floats(),
    st.floats(-0.5, 1.5),
    st.sampled_from(["", "none", "auto", "1", b"12", 10**400, -(10**400)]),
    st.builds(Part),
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=5,
)
kinds = st.sampled_from(list(KINDS.values()))


def outcome(value: Any, annotation: Any) -> tuple[Any, str]:
    """What ``checked`` returns, and what it says when it refuses."""
    try:
        return checked(value, annotation, "model.width"), ""
    except ConfigError as error:
        return None, str(error)


def plain(value: Any) -> Any:
    """The value with lists for tuples."""
    return [plain(v) for v in value] if listed(value) else value


def inside(value: Any, path: str) -> Any:
    """The value at a path such as ``a.b[1][0]``, from the value at ``a.b``."""
    for index in re.findall(r"\[(\d+)\]", path):
        value = value[int(index)]
    return value


@many
@given(kinds, values)
@example(KINDS["float"], math.nan)
@example(KINDS["float"], math.inf)
@example(KINDS["float"], 10**400)
@example(KINDS["int"], True)
@example(KINDS["literal"], True)
@example(KINDS["literal bool"], 1)
@example(KINDS["shape"], b"12")
@example(KINDS["pair"], [1, "a", 2])
def test_a_value_is_admitted_or_refused_with_its_path(kind: Kind, value: Any) -> None:
    seen, error = outcome(value, kind.annotation)
    assert (error == "") == kind.admits(value)
    if not error:
        assert seen is value or plain(seen) == plain(value)
        return
    path = error.partition(": ")[0]
    assert re.fullmatch(r"model\.width(\[\d+\])*", path)
    # The culprit is shown as it was given.
    assert error.endswith(f", got {shown(inside(value, path))}")
    if path == "model.width":
        assert error == f"model.width: must be {kind.phrase}, got {shown(value)}"


@many
@given(kinds, values)
def test_what_was_checked_is_admitted_again_unchanged(kind: Kind, value: Any) -> None:
    """A description holds checked values, and building from it must give the same."""
    if kind.admits(value):
        once = checked(value, kind.annotation, "a")
        again = checked(once, kind.annotation, "a")
        assert repr(again) == repr(once)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_a_phrase_says_what_is_admitted(kind: Kind) -> None:
    assert phrase(kind.annotation) == kind.phrase


@many
@given(st.integers(-(2**53), 2**53), st.sampled_from([float, Annotated[float, Bounds("any")], float | None]))
def test_integers_become_floats(value: int, annotation: Any) -> None:
    seen = checked(value, annotation, "a")
    assert type(seen) is float
    assert seen == value


@many
@given(st.integers(-3, 3), st.sampled_from([int, int | float, int | None, Any]))
def test_integers_stay_where_they_are_admitted(value: int, annotation: Any) -> None:
    assert type(checked(value, annotation, "a")) is int


@pytest.mark.parametrize("value", [True, False])
@pytest.mark.parametrize("annotation", [int, float, PositiveInt, NonNegativeFloat, Probability, Literal[0, 1]])
def test_true_and_false_are_no_numbers(value: bool, annotation: Any) -> None:
    with pytest.raises(ConfigError, match=f"got {value}"):
        checked(value, annotation, "a")
    with pytest.raises(ConfigError, match=rf"^a\[1\]: .*got {value}"):
        checked([1, value], Sequence[annotation], "a")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 10**400, -(10**309)])
@pytest.mark.parametrize("annotation", [float, PositiveFloat, NonNegativeFloat, Probability, float | None])
def test_numbers_are_finite(value: float, annotation: Any) -> None:
    with pytest.raises(ConfigError, match=r"^a: must be a number"):
        checked(value, annotation, "a")


@pytest.mark.parametrize(
    "annotation", [PositiveInt, NonNegativeInt, PositiveFloat, NonNegativeFloat, Probability, Margin]
)
def test_the_ends_of_a_range(annotation: Any) -> None:
    bounds: Bounds = annotation.__metadata__[0]
    for end in {bounds.low, bounds.high} - {math.inf}:
        if bounds.open:
            with pytest.raises(ConfigError):
                checked(end, annotation, "a")
        else:
            assert checked(end, annotation, "a") == end


@many
@given(st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=4), min_size=1, max_size=4), st.data())
def test_an_error_in_a_list_names_the_index(rows: list[list[int]], data: st.DataObject) -> None:
    i = data.draw(st.integers(0, len(rows) - 1))
    j = data.draw(st.integers(0, len(rows[i]) - 1))
    wrong = data.draw(st.sampled_from([0, -3, True, "wide", None, 1.5]))
    assert checked(rows, Sequence[Shape], "grid") == tuple(map(tuple, rows))
    rows[i][j] = wrong
    with pytest.raises(ConfigError) as caught:
        checked(rows, Sequence[Shape], "grid")
    assert str(caught.value) == f"grid[{i}][{j}]: must be a positive integer, got {wrong!r}"


@pytest.mark.parametrize(
    ("annotation", "value", "message"),
    [
        (int | Sequence[int], [1, "x"], "a[1]: must be an integer, got 'x'"),
        (Sequence[int] | None, [1, None], "a[1]: must be an integer, got None"),
        (Sequence[int] | Sequence[Sequence[int]], [[1, "x"]], "a[0][1]: must be an integer, got 'x'"),
        (Sequence[Sequence[int]] | Sequence[int], [[1, "x"]], "a[0][1]: must be an integer, got 'x'"),
        (Sequence[int | Sequence[int]], [1, [2, "x"]], "a[1][1]: must be an integer, got 'x'"),
        (int | Sequence[int], "x", "a: must be an integer or a list, each item an integer, got 'x'"),
        (Sequence[int | str], [1, 2.5], "a[1]: must be an integer or a string, got 2.5"),
        (Annotated[Sequence[int], "channels"], [1, "x"], "a[1]: must be an integer, got 'x'"),
        (tuple[int, str], [1, 2], "a[1]: must be a string, got 2"),
        (tuple[int, str] | None, [1], "a: must be a list of 2: an integer, a string or null, got [1]"),
        (PositiveFloat, -1, "a: must be a number above 0, got -1"),
    ],
)
def test_the_innermost_culprit_is_told(annotation: Any, value: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        checked(value, annotation, "a")
    assert str(caught.value) == message


@many
@given(values)
def test_a_value_is_shown_on_one_line(value: Any) -> None:
    assert len(shown(value)) <= 80
    assert "\n" not in shown(value)


def test_what_prints_itself_on_several_lines_is_shown_on_one() -> None:
    class Tall:
        def __repr__(self) -> str:
            return "Tall(\n  1,\n)"

    assert shown(Tall()) == "Tall(   1, )"


def test_unknown_arguments_suggest_the_nearest_name() -> None:
    unknown_arguments(["latents"], ["latents", "hidden"], "encoder")
    with pytest.raises(ConfigError) as caught:
        unknown_arguments(["hidden", "latnets"], ["latents", "hidden"], "encoder")
    assert str(caught.value) == "encoder.latnets: no such argument; did you mean 'latents'?"


@pytest.mark.parametrize(
    ("known", "hint"), [(["latents", "hidden"], "there are: latents, hidden"), ([], "there are: none")]
)
def test_unknown_arguments_list_what_there_is_when_nothing_is_near(known: list[str], hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        unknown_arguments(["zebra"], known, "")
    assert str(caught.value) == f"zebra: no such argument; {hint}"


@many
@given(st.lists(st.sampled_from(["beta", "warmup", "samples", "chunk"]), unique=True), st.text(min_size=1))
def test_exactly_the_names_that_are_not_there_are_refused(known: list[str], name: str) -> None:
    unknown_arguments(known, known, "loss")
    if name not in known:
        with pytest.raises(ConfigError, match="no such argument") as caught:
            unknown_arguments([*known, name], known, "loss")
        assert str(caught.value).startswith(f"loss.{errors.plain(name, 80)}: ")


def test_paths_join_with_a_dot_unless_they_begin() -> None:
    assert join("", "encoder") == "encoder"
    assert join("model", "encoder") == "model.encoder"


class Plain:
    def __init__(self, width: PositiveInt, *rest: int, name: "str | None" = None, part=None, **more: Any) -> None: ...


def test_parameters_are_those_of_the_constructor_in_order() -> None:
    known = parameters(Plain)
    assert list(known) == ["width", "name", "part"]
    assert [p.required for p in known.values()] == [True, False, False]
    assert [p.default for p in known.values()][1:] == [None, None]
    assert known["width"].annotation is PositiveInt
    assert known["name"].annotation == str | None
    assert known["part"].annotation is Any
    assert list(signature(Plain).parameters) == ["width", "rest", "name", "part", "more"]


def test_parameters_of_a_function() -> None:
    def load(split: str, size: Shape = (8, 8)) -> None: ...

    assert {name: p.required for name, p in parameters(load).items()} == {"split": True, "size": False}


@pytest.mark.parametrize(
    ("annotation", "alone", "listed"),
    [
        (Part, True, False),
        (Part | None, True, False),
        (Sequence[Part], False, True),
        (Sequence[Part] | None, False, True),
        (Part | Sequence[Part], True, True),
        (Annotated[Part, "noted"], True, False),
    ],
)
def test_a_parameter_knows_its_parts_and_whether_they_come_in_a_list(
    annotation: Any, alone: bool, listed: bool
) -> None:
    def build(part: annotation) -> None: ...

    parameter = parameters(build)["part"]
    assert set(parameter.component_types()) == {Part}
    assert parameter.admits_list(False) is alone
    assert parameter.admits_list(True) is listed


def test_a_literal_is_no_part() -> None:
    def build(kind: Literal["encoder"], width: int) -> None: ...

    assert [p.component_types() for p in parameters(build).values()] == [(), ()]


def test_a_list_is_no_longer_than_people_write() -> None:
    assert len(checked([1] * 10_000, Shape, "hidden")) == 10_000
    with pytest.raises(ConfigError, match=r"^hidden: has 10001 items; 10000 at most$"):
        checked([1] * 10_001, Shape, "hidden")
