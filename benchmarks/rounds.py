"""Side by side: contestants take turns, so that what else the machine does hits them all; ratios are told."""

import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, TypeVar

ROUNDS = 7
Result = TypeVar("Result")


class Cost(NamedTuple):
    """Seconds of one run: by the clock, and of all cores together."""

    wall: float
    cpu: float


def command_cost(command: Sequence[str]) -> Cost:
    """What a whole process costs; it must succeed."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return Cost(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def in_turns(names: Iterable[str], measured: Callable[[str, int], Result], rounds: int) -> dict[str, list[Result]]:
    """``measured(name, round)`` for each name, round by round."""
    results: dict[str, list[Result]] = {name: [] for name in names}
    for number in range(rounds):
        for name, own in results.items():
            own.append(measured(name, number))
    return results


def race(commands: Mapping[str, Sequence[str]], rounds: int = ROUNDS) -> dict[str, list[Cost]]:
    """Each command once unmeasured, to warm the disk's cache, then in turns."""
    for command in commands.values():
        command_cost(command)
    return in_turns(commands, lambda name, _: command_cost(commands[name]), rounds)


def conditions(rounds: int) -> str:
    """Under which medians were taken."""
    return f"median of {rounds}, load {os.getloadavg()[0]:.1f}, python {sys.version.split()[0]}"


def tell(title: str, costs: Mapping[str, Sequence[Cost]], reference: str) -> None:
    """Medians, their spread, and the median of the per-round ratios to the reference."""
    print(f"\n{title}   ({conditions(len(costs[reference]))})")
    print(f"  {'':44}{'wall s':>8}{'cpu s':>8}{'min-max':>14}{'wall ratio':>12}{'cpu ratio':>11}")
    for name, own in costs.items():
        wall, cpu = [c.wall for c in own], [c.cpu for c in own]
        ratios = [
            statistics.median(getattr(a, kind) / getattr(b, kind) for a, b in zip(own, costs[reference], strict=True))
            for kind in ("wall", "cpu")
        ]
        spread = f"{min(wall):.2f}-{max(wall):.2f}"
        print(
            f"  {name:44}{statistics.median(wall):8.3f}{statistics.median(cpu):8.3f}{spread:>14}"
            f"{ratios[0]:12.2f}{ratios[1]:11.2f}"
        )
