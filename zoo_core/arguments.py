"""Constructor arguments: what an annotation admits, and the sentence when a value is something else.

A component's constructor is its config, so its annotations are the config's schema:
``channels: Sequence[PositiveInt]`` refuses ``[32, -3]`` with ``channels[1]: must be a positive integer,
got -3``, before anything is allocated.
"""

import functools
import inspect
import math
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from zoo_core.errors import ConfigError


@dataclass(frozen=True)
class Bounds:
    """A range of numbers, and what to call one that lies in it."""

    phrase: str
    low: float = -math.inf
    high: float = math.inf
    open: bool = False  # whether the ends are left out

    def admit(self, value: float) -> bool:
        return self.low < value < self.high if self.open else self.low <= value <= self.high


PositiveInt = Annotated[int, Bounds("a positive integer", low=1)]
NonNegativeInt = Annotated[int, Bounds("an integer of at least 0", low=0)]
PositiveFloat = Annotated[float, Bounds("a number above 0", low=0, open=True)]
NonNegativeFloat = Annotated[float, Bounds("a number of at least 0", low=0)]
Probability = Annotated[float, Bounds("a number from 0 to 1", low=0, high=1)]
Shape = Sequence[PositiveInt]


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


@functools.cache
def parameters(call: Callable[..., Any]) -> Mapping[str, Parameter]:
    """The parameters of a class's constructor, or of a function, by name and in order."""
    hints = get_type_hints(call.__init__ if isinstance(call, type) else call, include_extras=True)
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
    _, *own = inspect.signature(call.__init__).parameters.values()
    return inspect.Signature(own)


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
        return _accept(any(value is a or value == a for a in get_args(annotation)), value, annotation, path)
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
            near = get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(known) or 'none'}"
            raise ConfigError(f"{join(path, name)}: no such argument; {hint}")


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
    if _is_sequence(annotation):
        return f"a list, each item {phrase(args[0])}" if args else "a list"
    words = {int: "an integer", float: "a number", str: "a string", bool: "true or false", type(None): "null"}
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
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _checked_bounds(value: Any, annotation: Any, path: str) -> Any:
    inner, *extras = get_args(annotation)
    try:
        value = checked(value, inner, path)
    except ConfigError:
        _accept(False, value, annotation, path)
    _accept(all(b.admit(value) for b in extras if isinstance(b, Bounds)), value, annotation, path)
    return value


def _checked_union(value: Any, annotation: Any, path: str) -> Any:
    failures = []
    for option in get_args(annotation):
        try:
            return checked(value, option, path)
        except ConfigError as error:
            failures.append(error)
    # An error inside a list is nearer the culprit than one about the union as a whole.
    inner = [f for f in failures if not str(f).startswith(f"{path}:")]
    raise inner[0] if inner else ConfigError(f"{path}: must be {phrase(annotation)}, got {shown(value)}")


def _checked_sequence(value: Any, annotation: Any, path: str) -> tuple[Any, ...]:
    _accept(isinstance(value, Sequence) and not isinstance(value, str), value, annotation, path)
    item = (get_args(annotation) or (Any,))[0]
    return tuple(checked(v, item, f"{path}[{i}]") for i, v in enumerate(value))


def _is_sequence(annotation: Any) -> bool:
    origin = get_origin(annotation) or annotation
    return isinstance(origin, type) and origin is not str and issubclass(origin, Sequence)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _leaves(annotation: Any) -> list[Any]:
    if get_origin(annotation) is Literal:
        return []
    args = get_args(annotation)
    return [leaf for a in args for leaf in _leaves(a)] if args else [annotation]
