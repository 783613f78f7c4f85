"""A comparison as a table of words: what every page and the terminal show alike.

Likelihoods of different data are no rivals: a density of dequantised pixels, a probability of binarised ones and one
given a label have different scales. So models stand in groups, and the best of a column is the best of its rivals.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from zoo_core.comparison.comparing import Comparison, Entry
from zoo_core.comparison.traits import Traits
from zoo_core.data import Preprocessing
from zoo_core.evaluation.results import rounded

ARROWS = {"higher": "↑", "lower": "↓"}
NOTHING = "–"
NO_LIKELIHOOD = "No likelihood"
# What a preprocessing makes of stored values, by its ``binarize`` and ``dequantize``.
WORDS = {
    ("dynamic", "none"): "binarised pixels",
    ("threshold", "none"): "pixels binarised at a threshold",
    ("none", "uniform"): "dequantised pixels",
    ("none", "none"): "pixels without noise",
}


class Column(NamedTuple):
    """``title`` says what, ``detail`` of what or how, in smaller letters; ``better``: higher, lower or neither."""

    title: str
    detail: str = ""
    better: str = "neither"


class Cell(NamedTuple):
    """What stands in a table, with a detail in smaller letters; whether no rival is better by more than chance."""

    text: str
    detail: str = ""
    best: bool = False

    @property
    def words(self) -> str:
        """Both, on one line."""
        return f"{self.text} {self.detail}".rstrip()


class Group(NamedTuple):
    """Models whose likelihoods speak of the same data."""

    title: str
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]


class Table(NamedTuple):
    """Groups of rows, each a model's name and as many cells as there are columns."""

    columns: tuple[Column, ...]
    groups: tuple[Group, ...]


def table(comparison: Comparison) -> Table:
    """What was measured of every model that did not fail."""
    entries = [e for e in comparison.entries if e.traits]
    measured = _value_columns(entries)
    columns = (*(column for column, _ in FIXED), *(column for column, _ in _likelihoods(entries)), *measured.values())
    groups = []
    for title, members in likelihood_groups(comparison).items():
        rows = tuple((e.name, _row(e, entries, measured)) for e in members)
        groups.append(Group(title, rows))
    return Table(columns, tuple(groups))


def likelihood_groups(comparison: Comparison) -> dict[str, list[Entry]]:
    """Models by what their likelihood speaks of, the likeliest first; those without one last."""
    entries = [e for e in comparison.entries if e.traits]
    groups: dict[str, list[Entry]] = {}
    for entry in sorted(entries, key=lambda e: not e.likelihood):
        groups.setdefault(speaks_of(entry), []).append(entry)
    return {title: sorted(found, key=_falling) for title, found in groups.items()}


def _falling(entry: Entry) -> float:
    value = entry.values[entry.likelihood]["value"] if entry.likelihood else None
    return -value if value is not None else math.inf


def speaks_of(entry: Entry) -> str:
    """What an entry's likelihood is about: ``Density of dequantised pixels``, …"""
    assert entry.traits
    if not entry.likelihood:
        return NO_LIKELIHOOD
    told = f", given the {' and '.join(entry.traits.given)}" if entry.traits.given else ""
    return f"{entry.stored['likelihood'].capitalize()} of {seen(entry)}{told}"


def seen(entry: Entry) -> str:
    """The data as a model sees them."""
    settings = Preprocessing.from_dict(entry.stored["settings"]["model"]["preprocessing"])
    return WORDS[settings.binarize, settings.dequantize]


# --- columns ------------------------------------------------------------------------------------------------


def _density(traits: Traits) -> Cell:
    return Cell(traits.density.kind)


def _sampling(traits: Traits) -> Cell:
    steps = f"{traits.sampling.steps:,} steps" if traits.sampling.kind == "sequential" else ""
    return Cell(f"{traits.sampling.kind}{',' * bool(steps)}", steps)


def _milliseconds(traits: Traits, n: int) -> Cell:
    seconds = traits.sampling.seconds.get(str(n))
    if seconds is None:
        return Cell(NOTHING)
    return Cell(f"{1000 * seconds:.2g}" if seconds < 0.1 else f"{1000 * seconds:,.0f}")


def _latent(traits: Traits) -> Cell:
    found = traits.latent
    if found.kind == "none":
        return Cell("none")
    if found.kind == "real":
        return Cell(f"{found.size:,} of {found.data:,}")
    codes = "1 code" if found.size == 1 else f"{found.size:,} codes"
    if not found.codes:
        return Cell(f"{codes} of {found.data:,}")
    return Cell(f"{codes} of {found.codes:,}", f"({_bits(found.bits)}) of {found.data:,}")


def _bits(bits: float) -> str:
    return f"{bits:.3g} bits" if bits < 100 else f"{bits:,.0f} bits"


FIXED = (
    (Column("p(x)"), _density),
    (Column("draws"), _sampling),
    (Column("ms/image", "alone"), lambda t: _milliseconds(t, 1)),
    (Column("ms/image", "64 at once"), lambda t: _milliseconds(t, 64)),
    (Column("latents", "of data"), _latent),
    (Column("parameters", "and buffers"), lambda t: Cell(f"{t.numbers:,}")),
)


def _likelihoods(entries: Sequence[Entry]) -> list[tuple[Column, Any]]:
    """The columns of log p(x) and of bits, where any model has them; with the way to a value's name."""
    found = []
    if any(e.likelihood for e in entries):
        found.append((Column("log p(x)", "nats", "higher"), lambda e: e.likelihood))
    if any(_bits_name(e) for e in entries):
        found.append((Column("bits per", "dimension", "lower"), _bits_name))
    return found


def _bits_name(entry: Entry) -> str:
    return next((name for name in entry.values if name.startswith("bits_per_dim")), "")


def _value_columns(entries: Sequence[Entry]) -> dict[str, Column]:
    """Columns of all other values, by name."""
    columns: dict[str, Column] = {}
    for entry in entries:
        for name, value in entry.values.items():
            if name not in (entry.likelihood, _bits_name(entry)):
                columns.setdefault(name, _column(name, value))
    return columns


def _column(name: str, value: Mapping[str, Any]) -> Column:
    title, _, extractor = name.partition(" (")
    unit = value.get("unit", "")
    detail = ", ".join(filter(None, (extractor.removesuffix(")"), "" if unit == "1" else unit)))
    return Column(title.replace("_", " "), detail, value.get("better", ""))


# --- cells --------------------------------------------------------------------------------------------------


def _row(entry: Entry, entries: Sequence[Entry], measured: Mapping[str, Column]) -> tuple[Cell, ...]:
    assert entry.traits
    cells = [cell(entry.traits) for _, cell in FIXED]
    for column, name_of in _likelihoods(entries):
        rivals = [e.values[name_of(e)] for e in entries if name_of(e) and speaks_of(e) == speaks_of(entry)]
        cells.append(_cell(entry.values.get(name_of(entry)), rivals, column.better, _sign(entry, column)))
    for name, column in measured.items():
        rivals = [e.values[name] for e in entries if name in e.values and _rivals(e, entry, name)]
        cells.append(_cell(entry.values.get(name), rivals, column.better))
    return tuple(cells)


def _sign(entry: Entry, column: Column) -> str:
    """A bound is on the worse side of what it bounds."""
    assert entry.traits
    if entry.traits.density.kind != "bound":
        return ""
    return "≥ " if column.better == "higher" else "≤ "


def _rivals(a: Entry, b: Entry, name: str) -> bool:
    """Samples are compared with the data as they are stored, everything else with what a model sees of them."""
    return of_samples(a.values[name]) or seen(a) == seen(b)


def of_samples(value: Mapping[str, Any]) -> bool:
    """Whether a value was measured on samples, in the features of an extractor."""
    return "extractor" in (value.get("about") or {})


def _cell(value: Mapping[str, Any] | None, rivals: Sequence[Mapping[str, Any]], better: str, sign: str = "") -> Cell:
    if value is None or value["value"] is None:
        return Cell(NOTHING)
    error = value["error"]
    spread = f"± {rounded(error, error)}" if error else ""
    text = f"{sign}{rounded(value['value'], error)}"
    return Cell(text.replace("-", "−"), spread.replace("-", "−"), is_best(value, rivals, better))


def is_best(value: Mapping[str, Any], rivals: Iterable[Mapping[str, Any]], better: str) -> bool:
    """Whether no rival is better by more than two of the standard errors of their difference; one needs rivals."""
    known = [r for r in rivals if r["value"] is not None]
    sign = {"higher": 1, "lower": -1}.get(better)
    if sign is None or len(known) < 2:
        return False
    return all(
        sign * (rival["value"] - value["value"]) <= 2 * math.hypot(value["error"] or 0, rival["error"] or 0)
        for rival in known
    )
