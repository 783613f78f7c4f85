"""What commands print: a table for a person, JSON for a script."""

import json
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Aligned columns; the last one is never cut, so that a pipe sees whole lines."""
    rows = [tuple(map(str, row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    if title:
        print(title)
    for row in (columns, *rows) if any(columns) else rows:
        _print_row(row, widths)


def print_growing_table(columns: Sequence[str], names: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table whose rows come one by one: each is printed when it is there.

    Args:
        names: what will stand in the first column; the others are as wide as their heads.
    """
    widths = [max(map(len, (columns[0], *names))), *map(len, columns[1:])]
    _print_row(columns, widths)
    for row in rows:
        _print_row(row, widths)


def _print_row(row: Sequence[str], widths: Sequence[int]) -> None:
    line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
    print(f"  {line}".rstrip(), flush=True)
