"""What a run tells: a line of JSON for every report, a bar for a person, plain lines for a file."""

import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from zoo_core.files import replace_file


class RunLog:
    """Reports of the main process; all other processes are silent.

    Args:
        path: the file of JSON lines, ``log.jsonl``; lines after ``start`` are of a life that was lost.
        track: what else is told: values, and their step.
    """

    def __init__(
        self,
        path: Path,
        *,
        steps: int,
        start: int,
        main: bool,
        track: Callable[[Mapping[str, float], int], None] = lambda values, step: None,
    ) -> None:
        self.path, self.main, self.step, self.track = path, main, start, track
        self.console = Console(stderr=True, quiet=not main)
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[report]}"),
            console=self.console,
            disable=not (main and sys.stderr.isatty()),
        )
        self.task = self.bar.add_task("training", total=steps, completed=start, report="")
        self.clock, self.clocked = time.perf_counter(), start
        self.born = time.perf_counter() - (_forget_after(path, start) if main else 0.0)

    def __enter__(self) -> "RunLog":
        self.bar.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self.bar.stop()

    def advance(self, step: int) -> None:
        self.step = step
        if not self.bar.disable:
            self.bar.update(self.task, completed=step)

    def seconds(self) -> float:
        """How long the run has taken, over all its lives but what was lost in each."""
        return time.perf_counter() - self.born

    def steps_per_second(self) -> float:
        """Since the last call."""
        now = time.perf_counter()
        rate = (self.step - self.clocked) / max(now - self.clock, 1e-9)
        self.clock, self.clocked = now, self.step
        return rate

    def report(self, event: str, values: Mapping[str, Any]) -> None:
        """One line of the log, and its numbers for a person."""
        if not (self.main and values):
            return
        line = {"event": event, "step": self.step, "seconds": round(self.seconds(), 1), **values}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        numbers = {name: value for name, value in values.items() if isinstance(value, float)}
        self.track({f"{event}/{name}": value for name, value in numbers.items()}, self.step)
        told = "  ".join(f"{name} {value:.4g}" for name, value in numbers.items())
        if self.bar.disable:
            self.console.print(f"{event} {self.step}  {told}", highlight=False, soft_wrap=True)
        elif event == "train":
            self.bar.update(self.task, report=told)
        else:
            self.bar.print(f"{event} {self.step}  {told}")


def _forget_after(path: Path, step: int) -> float:
    """Drops the lines after a step; returns how long the run had taken by the last one that stays."""
    if not path.exists():
        return 0.0
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    # What was measured at the end will be again.
    kept = [line for line in map(_line, lines) if line and line["step"] <= step and line["event"] != "measured"]
    text = "".join(json.dumps(line) + "\n" for line in kept)
    if text != "".join(lines):
        replace_file(path, text.encode())
    return float(kept[-1]["seconds"]) if kept else 0.0


def _line(text: str) -> dict[str, Any]:
    """A line of the log; an empty one if it was torn by a kill or a full disk."""
    try:
        line = json.loads(text)
    except ValueError:
        return {}
    whole = isinstance(line, dict) and text.endswith("\n") and {"event", "step", "seconds"} <= line.keys()
    return line if whole else {}
