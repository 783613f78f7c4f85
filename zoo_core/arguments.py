"""Constructor arguments: what an annotation admits, and the sentence when a value is something else.

A component's constructor is its config, so its annotations are the config's schema:
``channels: Sequence[PositiveInt]`` refuses ``[32, -3]`` with ``channels[1]: must be a positive integer,
got -3``, before anything is allocated.
"""

import functools
import inspect
import math
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from zoo_core.errors import ConfigError, plain


@dataclass(frozen=True)
class Bounds:
    """A range of numbers, and what to call one that lies in it."""

    phrase: str
    low: float = -math.inf
    high: float = math.inf
    open: bool = False  # whether the ends are left out

    def admit(self, value: float) -> bool:
        return self.low < value < self.high if self.open else self.low <= value <= self.high


PositiveInt = Annotated[int, Bounds("a positive integer", low=1, high=2**63 - 1)]  # as torch counts
NonNegativeInt = Annotated[int, Bounds("an integer of at least 0", low=0)]
PositiveFloat = Annotated[float, Bounds("a number above 0", low=0, open=True)]
NonNegativeFloat = Annotated[float, Bounds("a number of at least 0", low=0)]
Probability = Annotated[float, Bounds("a number from 0 to 1", low=0, high=1)]
Shape = Sequence[PositiveInt]

LONGEST_LIST = 10_000  # items of an argument: a config is written by people


@dataclass(frozen=True)
class Parameter:
    """One constructor parameter: its annotation, and its default (``inspect.Parameter.empty`` if none)."""

    name: str
    annotation: Any
    default: Any

    @property
    def required(self) -> bool:
        return self.default is inspect.Parameter.empty

    def component_types(self) -> tuple[type, ...]:
        """The component contracts that the annotation admits, also inside a sequence."""
        return tuple(t for t in _leaves(self.annotation) if isinstance(t, type) and hasattr(t, "kind"))

    def admits_list(self, listed: bool) -> bool:
        """Whether the annotation admits a list, or with False something other than a list."""
        union = get_origin(self.annotation) in (Union, types.UnionType)
        options = get_args(self.annotation) if union else (self.annotation,)
        return any(_is_sequence(option) is listed for option in options if option is not type(None))

    def admits(self, value: Any) -> bool:
        """Whether the annotation admits a value that is no component."""
        try:
            checked(value, self.annotation, self.name)
        except ConfigError:
            return False
        return True

    @property
    def literals(self) -> list[Any]:
        """The values that the annotation lists, also inside a sequence."""
        return _literals(self.annotation)


@functools.cache
def parameters(call: Callable[..., Any]) -> Mapping[str, Parameter]:
    """The parameters of a class's constructor, or of a function, by name and in order."""
    hints = get_type_hints(_function(call), include_extras=True)
    return {
        p.name: Parameter(p.name, hints.get(p.name, Any), p.default)
        for p in signature(call).parameters.values()
        if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    }


@functools.cache
def signature(call: Callable[..., Any]) -> inspect.Signature:
    """Like ``inspect.signature``, which for a class with a metaclass shows the metaclass's call."""
    if not isinstance(call, type):
        return inspect.signature(call)
    _, *own = inspect.signature(_function(call)).parameters.values()
    return inspect.Signature(own)


def _function(call: Callable[..., Any]) -> Callable[..., Any]:
    return call.__init__ if isinstance(call, type) else call  # type: ignore[misc]


def checked(value: Any, annotation: Any, path: str) -> Any:
    """The value as the constructor will see it: integers become floats, lists tuples where asked.

    Raises:
        ConfigError: the annotation does not admit it; the message starts with ``path``.
    """
    origin = get_origin(annotation)
    if origin is Annotated:
        return _checked_bounds(value, annotation, path)
    if origin in (Union, types.UnionType):
        return _checked_union(value, annotation, path)
    if _is_sequence(annotation):
        return _checked_sequence(value, annotation, path)
    if origin is Literal:
        # Equality alone would take True for 1.
        same = (value == a and type(value) is type(a) for a in get_args(annotation))
        return _accept(any(same), value, annotation, path)
    if annotation is float:
        return float(_accept(_is_number(value), value, annotation, path))
    if annotation is int:
        return _accept(isinstance(value, int) and not isinstance(value, bool), value, annotation, path)
    if annotation is Any or not isinstance(origin or annotation, type):
        return value
    return _accept(isinstance(value, origin or annotation), value, annotation, path)


def unknown_arguments(given: Sequence[str], known: Sequence[str], path: str) -> None:
    """Refuses names that a constructor does not have.

    Raises:
        ConfigError: with the nearest name there is.
    """
    for name in given:
        if name not in known:
            near = get_close_matches(name[:80], known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(known) or 'none'}"
            raise ConfigError(f"{join(path, plain(name, 80))}: no such argument; {hint}")


def join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def phrase(annotation: Any) -> str:
    """What an annotation admits, in words: ``a positive integer or null``."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return next((a.phrase for a in args[1:] if isinstance(a, Bounds)), phrase(args[0]))
    if origin in (Union, types.UnionType):
        return " or ".join(phrase(a) for a in args)
    if origin is Literal:
        return "one of " + ", ".join(map(repr, args))
    if _is_tuple_of_places(annotation):
        return f"a list of {len(args)}: {', '.join(map(phrase, args))}"
    if _is_sequence(annotation):
        return f"a list, each item {phrase(args[0])}" if args else "a list"
    words = {
        int: "an integer", float: "a number", str: "a string", bool: "true or false", type(None): "null",
        Any: "anything",
    }  # fmt: skip
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return "a mapping"
    return words.get(annotation) or _article(getattr(annotation, "kind", None) or _name(annotation))


def _article(noun: str) -> str:
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"


def _name(annotation: Any) -> str:
    return str(getattr(get_origin(annotation) or annotation, "__name__", annotation))


def _accept(condition: bool, value: Any, annotation: Any, path: str) -> Any:
    if not condition:
        raise ConfigError(f"{path}: must be {phrase(annotation)}, got {shown(value)}")
    return value


def shown(value: Any) -> str:
    """A value as an error shows it: quoted, and never longer than a line."""
    text = repr(value).replace("\n", " ")
    return text if len(text) <= 80 else text[:77] + "..."


def _checked_bounds(value: Any, annotation: Any, path: str) -> Any:
    inner, *extras = get_args(annotation)
    try:
        seen = checked(value, inner, path)
    except ConfigError as error:
        _accept(not _is_about(error, path), value, annotation, path)
        raise
    _accept(all(b.admit(seen) for b in extras if isinstance(b, Bounds)), value, annotation, path)
    return seen


def _checked_union(value: Any, annotation: Any, path: str) -> Any:
    failures = []
    for option in get_args(annotation):
        try:
            return checked(value, option, path)
        except ConfigError as error:
            failures.append(error)
    # The error deepest inside a list is nearer the culprit than one about the union as a whole.
    inner = [f for f in failures if not _is_about(f, path)]
    _accept(bool(inner), value, annotation, path)
    raise max(inner, key=lambda f: str(f).partition(": ")[0].count("["))


def _is_about(error: ConfigError, path: str) -> bool:
    """Whether an error is about the value at this path, rather than about one inside it."""
    return str(error).startswith(f"{path}:")


def _checked_sequence(value: Any, annotation: Any, path: str) -> tuple[Any, ...]:
    _accept(is_list(value), value, annotation, path)
    if len(value) > LONGEST_LIST:
        raise ConfigError(f"{path}: has {len(value)} items; {LONGEST_LIST} at most")
    items = get_args(annotation) or (Any,)
    if not _is_tuple_of_places(annotation):
        items = items[:1] * len(value)
    _accept(len(items) == len(value), value, annotation, path)
    return tuple(checked(v, item, f"{path}[{i}]") for i, (v, item) in enumerate(zip(value, items, strict=True)))


def is_list(value: Any) -> bool:
    """Whether a value is what JSON calls a list; text is not, although it is a sequence."""
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes, bytearray))


def _is_tuple_of_places(annotation: Any) -> bool:
    """``tuple[int, str]``, which has an item of its own for each place; not ``tuple[int, ...]``."""
    return get_origin(annotation) is tuple and Ellipsis not in get_args(annotation)


def _is_sequence(annotation: Any) -> bool:
    origin = get_origin(annotation) or annotation
    return isinstance(origin, type) and origin is not str and issubclass(origin, Sequence)


def _is_number(value: Any) -> bool:
    # Neither nan, nor infinite, nor an integer that no float can hold.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _literals(annotation: Any) -> list[Any]:
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    return [value for a in get_args(annotation) for value in _literals(a)]


def _leaves(annotation: Any) -> list[Any]:
    if get_origin(annotation) is Literal:
        return []
    args = get_args(annotation)
    return [leaf for a in args for leaf in _leaves(a)] if args else [annotation]
