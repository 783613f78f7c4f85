"""Side by side: contestants take turns, so that what else the machine does hits them all; ratios are told."""

import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

ROUNDS = 7


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


def race(commands: Mapping[str, Sequence[str]], rounds: int = ROUNDS) -> dict[str, list[Cost]]:
    """Each command once unmeasured, to warm the disk's cache, then in turns."""
    for command in commands.values():
        command_cost(command)
    costs: dict[str, list[Cost]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            costs[name].append(command_cost(command))
    return costs


def tell(title: str, costs: Mapping[str, Sequence[Cost]], reference: str) -> None:
    """Medians, their spread, and the median of the per-round ratios to the reference."""
    load, python = os.getloadavg()[0], sys.version.split()[0]
    print(f"\n{title}   (median of {len(costs[reference])}, load {load:.1f}, python {python})")
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
