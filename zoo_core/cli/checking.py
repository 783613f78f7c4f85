"""``zoo check``: whether a plugin keeps the contracts."""

import io
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zoo_core.cli.output import AsJson, print_growing_table, print_json
from zoo_core.host import default_host

if TYPE_CHECKING:
    from zoo_core.testing import Case, Report

COLUMNS = ("", "checks", "passed", "expected failures", "failed", "seconds")


def add_to(app: typer.Typer) -> None:
    app.command()(check)


def complete_plugin(start: str) -> list[str]:
    return [name for name in default_host().plugins if name.startswith(start)]


def check(
    plugin: Annotated[str, typer.Argument(help="The name of an installed one: vae.", autocompletion=complete_plugin)],
    components: Annotated[
        list[str] | None, typer.Argument(metavar="COMPONENT", help="Only these; default all.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check a plugin against the contracts of what it offers; exit with 1 if a check fails.

    Examples: zoo check vae · zoo check nets conv_encoder · zoo check vae --json
    """
    from zoo_core.testing import cases

    found = cases(plugin, components or ())
    reports: list[Report] = []
    if as_json:
        reports += map(_quietly, found)
        print_json([_as_dict(report) for report in reports])
    else:
        print_growing_table(COLUMNS, [case.name for case in found], _rows(found, reports))
        for failure in (failure for report in reports for failure in report.failures):
            print(f"\n{failure}", end="")
        print(f"\n{_summary(reports)}")
    if any(report.failures for report in reports):
        raise typer.Exit(1)


def _rows(found: "Sequence[Case]", reports: "list[Report]") -> Iterator[tuple[str, ...]]:
    for case in found:
        reports.append(_quietly(case))
        yield _row(reports[-1])


def _quietly(case: "Case") -> "Report":
    """The report of a component that may print what it likes, and of libraries that show how far they are."""
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        return case()


def _row(report: "Report") -> tuple[str, ...]:
    counts = (report.count(state) for state in ("passed", "expected failure", "failed"))
    return report.name, str(len(report.outcomes)), *map(str, counts), f"{report.seconds:.1f}"


def _summary(reports: "list[Report]") -> str:
    checks = sum(len(report.outcomes) for report in reports)
    failures = sum(report.count("failed") + report.count("not run") for report in reports)
    return f"{checks} checks: " + (
        f"{failures} failed or did not run" if failures else "all passed or expected to fail"
    )


def _as_dict(report: "Report") -> dict[str, Any]:
    outcomes = [{"check": o.check, "state": o.state, "sentence": o.sentence} for o in report.outcomes]
    return {"name": report.name, "seconds": round(report.seconds, 3), "checks": outcomes}
