"""Precision, recall, density and coverage of features: the zoo, prdc, and torch-fidelity's precision and recall.

All have the same features of N real and N generated examples, d = 2,048, and k = 5. Each run is a process of its own on
two cores, with as many threads; it does a small case first, and is measured after that: seconds by the clock and of
both cores, the highest memory above that of the loaded features, and the values. prdc is single-minded about 8 jobs,
which these cores share. torch-fidelity is measured as it is by default, with all distances in memory.
Without prdc or torch-fidelity (``pip install prdc``; torch-fidelity in .venv/peers) the others are measured alone.

    python benchmarks/sample_neighbours.py [N ...]
"""

import contextlib
import importlib.util
import io
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch
from rounds import Cost, in_turns, tell
from torch import Tensor

from tests.peers import FOLDER, fidelity

D, K, ROUNDS, THREADS = 2048, 5, 3, 2
LIMITS = {
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(THREADS)),
    "OMP_WAIT_POLICY": "passive",  # a thread that waits for another, which waits for its core, spends no seconds
}
REPEATS = {1000: 5}  # of what is over at once, in one process: the median counts
Values = dict[str, float]
Measure = Callable[[Tensor, Tensor], Values]


class Run(NamedTuple):
    """What one process tells."""

    cost: Cost
    megabytes: float
    values: Values


def features(n: int) -> tuple[Tensor, Tensor]:
    """Two sets (n, D) about a common mean, of variances that fall with the dimension; the second spreads wider."""
    sigma = torch.arange(1, D + 1).rsqrt()
    real, generated = torch.randn(2, n, D, generator=torch.Generator().manual_seed(0)) * sigma + 0.5
    return real, 0.5 + 1.05 * (generated - 0.5)


def by_zoo() -> Measure:
    from zoo_metrics.samples.density_coverage import prdc

    def measure(real: Tensor, generated: Tensor) -> Values:
        return {name: part.double().mean().item() for name, part in prdc(real, generated, K)._asdict().items()}

    return measure


def by_prdc() -> Measure:
    from prdc import compute_prdc

    def measure(real: Tensor, generated: Tensor) -> Values:
        with contextlib.redirect_stdout(io.StringIO()):
            values = compute_prdc(real.numpy(), generated.numpy(), K)
        return {name: float(value) for name, value in values.items()}

    return measure


def by_fidelity() -> Measure:
    metric = fidelity("metric_prc").prc_features_to_metric

    def measure(real: Tensor, generated: Tensor) -> Values:
        told = metric(generated, real, prc_neighborhood=K, prc_batch_size=10_000, save_cpu_ram=False, verbose=False)
        return {name: told[name] for name in ("precision", "recall")}

    return measure


CONTESTANTS: dict[str, tuple[Callable[[], Measure], bool]] = {
    "zoo: all four": (by_zoo, True),
    "prdc: all four": (by_prdc, importlib.util.find_spec("prdc") is not None),
    "torch-fidelity: precision and recall": (by_fidelity, (FOLDER / "torch_fidelity").is_dir()),
}


def child(name: str, n: int, path: str) -> None:
    """Measures one contestant, and prints it as JSON."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:THREADS])
    torch.set_num_threads(THREADS)
    measure, (real, generated) = CONTESTANTS[name][0](), torch.load(path)
    measure(real[:100].clone(), generated[:100].clone())
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the highest memory so far is the present one
    costs, values = [], {}
    for _ in range(REPEATS.get(n, 1)):
        wall, cpu = time.perf_counter(), time.process_time()
        values = measure(real, generated)
        costs.append((time.perf_counter() - wall, time.process_time() - cpu))
    print(json.dumps([[statistics.median(of) for of in zip(*costs, strict=True)], memory("VmHWM") - before, values]))


def memory(field: str) -> float:
    """A line of this process's status, in megabytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def run(name: str, n: int, path: str) -> Run:
    command = [sys.executable, __file__, "--child", name, str(n), path]
    told = subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, **LIMITS})
    cost, megabytes, values = json.loads(told.stdout)
    return Run(Cost(*cost), megabytes, values)


def compare(n: int) -> None:
    names = [name for name, (_, installed) in CONTESTANTS.items() if installed]
    with TemporaryDirectory() as folder:
        path = str(Path(folder, "features.pt"))
        torch.save(features(n), path)
        runs = in_turns(names, lambda name, _: run(name, n, path), ROUNDS)
    reference = names[0]
    tell(
        f"N = {n:,}, d = {D:,}, k = {K}, {THREADS} threads",
        {name: [r.cost for r in own] for name, own in runs.items()},
        reference,
    )
    most = statistics.median(r.megabytes for r in runs[reference])
    for name, own in runs.items():
        megabytes = statistics.median(r.megabytes for r in own)
        told = "  ".join(f"{value} {own[0].values[value]:.6f}" for value in own[0].values)
        print(f"  {name:44}{megabytes:8.0f} MB, {megabytes / most:5.1f} times   {told}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], int(sys.argv[3]), sys.argv[4])
    else:
        for count in [int(argument) for argument in sys.argv[1:]] or [1000, 10_000]:
            compare(count)
