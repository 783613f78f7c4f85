"""Models of any families side by side, on the same data: all of it measured, on a page to print."""

from zoo_core.comparison.comparing import compare, require_comparable
from zoo_core.comparison.writing import write_page

__all__ = ["compare", "require_comparable", "write_page"]
