"""A comparison as one page to print, and as Markdown with its pictures beside it."""

from pathlib import Path

from zoo_core.comparison.comparing import Comparison
from zoo_core.comparison.html import html
from zoo_core.comparison.markdown import markdown
from zoo_core.comparison.page import page
from zoo_core.files import replace_file


def write_page(comparison: Comparison, folder: str | Path, *, command: str = "") -> Path:
    """Writes ``index.html``, one file with everything in it, and ``README.md`` with its PNGs; returns the first.

    Args:
        command: that makes the page again, to be shown on it.

    Raises:
        OSError: a file cannot be written.
    """
    folder, shown = Path(folder), page(comparison, command=command)
    folder.mkdir(parents=True, exist_ok=True)
    for picture in shown.pictures:
        replace_file(folder / picture.file, picture.png)
    replace_file(folder / "README.md", markdown(shown).encode())
    replace_file(folder / "index.html", html(shown).encode())
    return folder / "index.html"
