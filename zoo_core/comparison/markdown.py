"""A page as Markdown, its pictures in files beside it."""

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from zoo_core.comparison.table import ARROWS, Cell, Column, Table

if TYPE_CHECKING:
    from zoo_core.comparison.page import Page, Picture


def markdown(page: "Page") -> str:
    """The page as Markdown that GitHub and the Hub show."""
    return "\n".join(_lines(page)) + "\n"


def _lines(page: "Page") -> Iterator[str]:
    yield f"# {plain(page.title)}\n"
    yield f"{plain(page.subtitle)}.\n"
    yield from _table(page.table)
    yield f"\n{plain(page.remark)}.\n" if page.remark else ""
    yield from (f"- **{plain(name)}** {plain(reason)}" for name, reason in page.failed)
    yield from (f"\n![{picture.file.removesuffix('.png')}]({picture.file})" for picture in page.plots)
    if page.samples:
        yield "\n## Samples\n"
        yield from _pictures(page.samples)
    if page.reconstructions:
        yield "\n## Reconstructions\n"
        yield from _pictures(page.reconstructions)
    yield "\n## How to read this\n"
    yield from (f"- **{plain(term)}**: {plain(meaning)}." for term, meaning in page.reading)
    yield from (f"- {plain(note)}" for note in page.notes)
    if page.command:
        yield f"\n```console\n$ {page.command}\n```"


def plain(text: Any) -> str:
    """Text in which nothing is Markdown or HTML."""
    return re.sub(r"([\\`*_{}\[\]<>|#&])", r"\\\1", " ".join(str(text).split()))


def _table(table: Table) -> Iterator[str]:
    yield _row(["", *(_heading(column) for column in table.columns)])
    yield _row(["---"] * (1 + len(table.columns)))
    for group in table.groups:
        yield _row([f"*{plain(group.title)}*", *[""] * len(table.columns)])
        for name, cells in group.rows:
            yield _row([plain(name), *map(_cell, cells)])


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _heading(column: Column) -> str:
    return " ".join(filter(None, (plain(column.title), plain(column.detail), ARROWS.get(column.better, ""))))


def _cell(cell: Cell) -> str:
    return f"**{plain(cell.words)}**" if cell.best else plain(cell.words)


def _pictures(pictures: "Sequence[Picture]") -> Iterator[str]:
    for picture in pictures:
        caption = f": {plain(picture.caption)}" if picture.caption else ""
        yield f"**{plain(picture.title)}**{caption}\n\n![{plain(picture.title)}]({picture.file})\n"
