"""A page as one HTML file that needs nothing else, and that is made for A4 paper."""

import base64
import math
from collections.abc import Iterator, Sequence
from html import escape
from typing import TYPE_CHECKING

from zoo_core.comparison.table import ARROWS, Cell, Column, Group, Table

if TYPE_CHECKING:
    from zoo_core.comparison.page import Page, Picture

# Nothing may be fetched, and nothing can run.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

STYLE = """
@page { size: A4 landscape; margin: 10mm 12mm; }
* { box-sizing: border-box; }
body { font: 9pt/1.35 "Helvetica Neue", Arial, "Liberation Sans", "DejaVu Sans", sans-serif; color: #000;
  background: #fff; max-width: 273mm; margin: 0 auto; padding: 4mm; }
h1 { font-size: 15pt; margin: 0; }
h2 { font-size: 11pt; margin: 3mm 0 1.5mm; }
p { margin: 1mm 0 3mm; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 8pt; line-height: 1.15; font-variant-numeric: tabular-nums; }
th, td { padding: .5mm 1mm; text-align: right; vertical-align: top; }
thead th { font-weight: bold; border-bottom: .3mm solid #000; vertical-align: bottom; }
td, thead th { white-space: nowrap; }
thead small { white-space: normal; }
table small { display: block; font-size: 7pt; font-weight: normal; }
th[scope=row], th[scope=rowgroup], thead th:first-child { text-align: left; }
th[scope=row] { font-weight: normal; overflow-wrap: anywhere; min-width: 24mm; }
th[scope=rowgroup] { padding-top: 1.2mm; font-style: italic; font-weight: normal; border-bottom: .1mm solid #999; }
td.words { text-align: left; }
tbody tr { break-inside: avoid; }
tbody:last-child tr:last-child > * { border-bottom: .3mm solid #000; }
img { display: block; width: 100%; height: auto; }
figure { margin: 0; break-inside: avoid; }
figcaption { font-size: 7.5pt; line-height: 1.2; overflow-wrap: anywhere; }
figcaption b { display: block; font-size: 9pt; }
.plots { display: flex; gap: 2mm; margin-top: 3mm; align-items: flex-start; }
.grids { display: grid; gap: 2mm 3mm; grid-template-columns: repeat(var(--columns), 1fr); }
.grids img { max-width: var(--side); }
.rows { display: grid; gap: 2mm 6mm; grid-template-columns: repeat(2, 1fr); }
.grids img, .rows img { image-rendering: pixelated; border: .1mm solid #999; }
.reading { columns: 3; column-gap: 6mm; font-size: 7.5pt; line-height: 1.25; margin: 0; }
.reading div { break-inside: avoid; }
.reading dt { display: inline; font-weight: bold; }
.reading dd { display: inline; margin: 0; }
.notes { font-size: 7.5pt; margin: 1.5mm 0 0; padding-left: 4mm; }
.remark { font-size: 8pt; margin: 1mm 0 0; }
.failed { font-size: 8.5pt; margin: 2mm 0 0; padding-left: 4mm; }
code { font-size: 7pt; overflow-wrap: anywhere; }
@media screen and (max-width: 700px) {
  .grids { grid-template-columns: repeat(2, 1fr); }
  .plots, .rows, .reading { display: block; columns: 1; }
}
@media print { body { max-width: none; padding: 0; } .scroll { overflow: visible; } h2 { break-after: avoid; } }
"""

MM_PER_PIXEL = 0.155  # of plots: four panels side by side are as wide as the paper
WORDS = ("p(x)", "draws", "latents")  # columns that hold words, and stand on the left


def html(page: "Page") -> str:
    """The page as HTML: its pictures are inside it, every name is escaped."""
    return "\n".join(_lines(page)) + "\n"


def _lines(page: "Page") -> Iterator[str]:
    yield '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">'
    yield f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<title>{escape(page.title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>"
    yield f"<h1>{escape(page.title)}</h1>\n<p>{escape(page.subtitle)}.</p>"
    yield from _table(page.table)
    yield from ([f'<p class="remark">{escape(page.remark)}.</p>'] if page.remark else [])
    yield from _list("failed", [f"<b>{escape(name)}</b> {escape(reason)}" for name, reason in page.failed])
    yield from _pictures("", "plots", page.plots)
    yield from _pictures("Samples", "grids", page.samples)
    yield from _pictures("Reconstructions", "rows", page.reconstructions)
    yield '<h2>How to read this</h2>\n<dl class="reading">'
    yield from (f"<div><dt>{escape(a)}</dt><dd>: {escape(b)}.</dd></div>" for a, b in page.reading)
    yield "</dl>"
    yield from _list("notes", [escape(note) for note in page.notes])
    if page.command:
        yield f"<p><code>$ {escape(page.command)}</code></p>"
    yield "</body>\n</html>"


def _table(table: Table) -> Iterator[str]:
    yield '<div class="scroll"><table>\n<thead><tr><th scope="col">model</th>'
    yield "".join(map(_heading, table.columns))
    yield "</tr></thead>"
    for group in table.groups:
        yield from _group(group, table.columns)
    yield "</table></div>"


def _heading(column: Column) -> str:
    arrow = f" {ARROWS[column.better]}" if column.better in ARROWS else ""
    kind = ' class="words" style="text-align: left"' if column.title in WORDS else ""
    detail = f" <small>{escape(column.detail).replace('_', '_<wbr>')}</small>" if column.detail else ""
    return f'<th scope="col"{kind}>{escape(column.title)}{arrow}{detail}</th>'


def _group(group: Group, columns: Sequence[Column]) -> Iterator[str]:
    yield f'<tbody>\n<tr><th scope="rowgroup" colspan="{1 + len(columns)}">{escape(group.title)}</th></tr>'
    for name, cells in group.rows:
        shown = "".join(_cell(cell, column) for cell, column in zip(cells, columns, strict=True))
        yield f'<tr><th scope="row">{escape(name)}</th>{shown}</tr>'
    yield "</tbody>"


def _cell(cell: Cell, column: Column) -> str:
    kind = ' class="words"' if column.title in WORDS else ""
    text = f"<strong>{escape(cell.text)}</strong>" if cell.best else escape(cell.text)
    # The space is for those who copy, or hear, the page.
    detail = f" <small>{escape(cell.detail)}</small>" if cell.detail else ""
    return f"<td{kind}>{text}{detail}</td>"


def _list(kind: str, items: Sequence[str]) -> Iterator[str]:
    if items:
        yield f'<ul class="{kind}">'
        yield from (f"<li>{item}</li>" for item in items)
        yield "</ul>"


def _pictures(title: str, kind: str, pictures: "Sequence[Picture]") -> Iterator[str]:
    if not pictures:
        return
    # One row of large ones, or two rows.
    columns = len(pictures) if len(pictures) <= 4 else max(4, math.ceil(len(pictures) / 2))
    side = 62 if len(pictures) <= 4 else 46
    style = f' style="--columns: {columns}; --side: {side}mm"' if kind == "grids" else ""
    yield f"<section>{f'<h2>{escape(title)}</h2>' if title else ''}\n" + f'<div class="{kind}"{style}>'
    yield from (_picture(picture, kind) for picture in pictures)
    yield "</div></section>"


def _picture(picture: "Picture", kind: str) -> str:
    data = base64.b64encode(picture.png).decode()
    # Pictures side by side have one height if their widths are as those of their pixels.
    style = (
        f' style="flex: {picture.width} 1 0; max-width: {MM_PER_PIXEL * picture.width:.0f}mm"'
        if kind == "plots"
        else ""
    )
    name = escape(picture.title or picture.file.removesuffix(".png"))
    words = f"<b>{escape(picture.title)}</b>{escape(picture.caption)}"
    caption = f"<figcaption>{words}</figcaption>" if picture.title else ""
    return f'<figure{style}><img alt="{name}" src="data:image/png;base64,{data}">{caption}</figure>'
