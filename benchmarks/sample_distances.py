"""Fréchet and kernel distances between features: the zoo, torchmetrics, and torch-fidelity.

All have the same float32 features of N real and N generated examples, d = 2,048. The kernel distance of the zoo is that
of all pairs; the peers' is the mean over 100 subsets of 1,000, and so is the zoo's other one. torchmetrics takes the
features 500 at a time, as it does in an evaluation. Each run is a process of its own with two threads; it does a case
of 2,100 examples first, more than features so that all have had matrices (d, d), and is measured after that: seconds by
the clock and of all threads, the highest memory above that of the loaded features, and the value. Without torchmetrics
or torch-fidelity (``pip install torchmetrics``; torch-fidelity in .venv/peers) it says so, and the others are measured
alone.

    python benchmarks/sample_distances.py [fd | kid] [N]
"""

import os

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "2"))

import importlib.util
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from rounds import Cost, in_turns, tell
from torch import Tensor, nn

from tests.peers import FOLDER, fidelity

THREADS, D, ROUNDS, CHUNK, FIRST = 2, 2048, 3, 500, 2100
CASES = [("fd", 1000), ("fd", 10_000), ("kid", 10_000)]
Measure = Callable[[Tensor, Tensor], float]


class Run(NamedTuple):
    """What one process tells."""

    cost: Cost
    megabytes: float
    value: float


def features(n: int) -> tuple[Tensor, Tensor]:
    """Two sets (n, D) about a common mean, of variances that fall with the dimension; the second spreads wider."""
    sigma = torch.arange(1, D + 1).rsqrt()
    real, generated = torch.randn(2, n, D, generator=torch.Generator().manual_seed(0)) * sigma + 0.5
    return real, 0.5 + 1.05 * (generated - 0.5)


def fd_by_zoo() -> Measure:
    from zoo_metrics.samples.frechet import frechet_distance

    return frechet_distance


def fd_by_fidelity() -> Measure:
    metric = fidelity("metric_fid")

    def measure(real: Tensor, generated: Tensor) -> float:
        moments = [metric.fid_features_to_statistics(x) for x in (real, generated)]
        return float(metric.fid_statistics_to_metric(*moments, verbose=False)[metric.KEY_METRIC_FID])

    return measure


class Identity(nn.Module):
    """What torchmetrics takes for a network: the features are given."""

    num_features = D

    def forward(self, x: Tensor) -> Tensor:
        return x


def gathered(metric: Any, real: Tensor, generated: Tensor) -> Any:
    for x, is_real in ((real, True), (generated, False)):
        for chunk in x.split(CHUNK):
            metric.update(chunk, real=is_real)
    return metric.compute()


def fd_by_torchmetrics() -> Measure:
    from torchmetrics.image.fid import FrechetInceptionDistance

    return lambda real, generated: float(gathered(FrechetInceptionDistance(feature=Identity()), real, generated))


def kid_by_zoo() -> Measure:
    from zoo_metrics.samples.kernel_distance import kernel_distance

    return kernel_distance


def kid_subsets_by_zoo() -> Measure:
    from zoo_metrics.samples.kernel_distance import kernel_distance_subsets

    return lambda real, generated: kernel_distance_subsets(real, generated, size=min(1000, len(real)))[0]


def kid_by_fidelity() -> Measure:
    metric = fidelity("metric_kid")

    def measure(real: Tensor, generated: Tensor) -> float:
        size = min(1000, len(real))
        told = metric.kid_features_to_metric(generated, real, kid_subset_size=size, verbose=False)
        return float(told[metric.KEY_METRIC_KID_MEAN])

    return measure


def kid_by_torchmetrics() -> Measure:
    from torchmetrics.image.kid import KernelInceptionDistance

    def measure(real: Tensor, generated: Tensor) -> float:
        metric = KernelInceptionDistance(feature=Identity(), subset_size=min(1000, len(real)))
        return float(gathered(metric, real, generated)[0])

    return measure


CONTESTANTS: dict[str, dict[str, Callable[[], Measure]]] = {
    "fd": {
        "zoo": fd_by_zoo,
        "torch-fidelity": fd_by_fidelity,
        "torchmetrics": fd_by_torchmetrics,
    },
    "kid": {
        "zoo: all pairs": kid_by_zoo,
        "zoo: 100 subsets of 1,000": kid_subsets_by_zoo,
        "torch-fidelity: 100 subsets of 1,000": kid_by_fidelity,
        "torchmetrics: 100 subsets of 1,000": kid_by_torchmetrics,
    },
}
INSTALLED = {
    "zoo": True,
    "torch-fidelity": (FOLDER / "torch_fidelity").is_dir(),
    "torchmetrics": importlib.util.find_spec("torchmetrics") is not None,
}


def child(kind: str, name: str, path: str) -> None:
    """Measures one contestant, and prints it as JSON."""
    torch.set_num_threads(THREADS)
    measure, (real, generated) = CONTESTANTS[kind][name](), torch.load(path)
    measure(real[:FIRST].clone(), generated[:FIRST].clone())
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the highest memory so far is the present one
    wall, cpu = time.perf_counter(), time.process_time()
    value = measure(real, generated)
    cost = Cost(time.perf_counter() - wall, time.process_time() - cpu)
    print(json.dumps([cost, memory("VmHWM") - before, value]))


def memory(field: str) -> float:
    """A line of this process's status, in megabytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def run(kind: str, name: str, path: str) -> Run:
    command = [sys.executable, __file__, "--child", kind, name, path]
    cost, megabytes, value = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return Run(Cost(*cost), megabytes, value)


def compare(kind: str, n: int) -> None:
    names = [name for name in CONTESTANTS[kind] if INSTALLED[name.partition(":")[0]]]
    with TemporaryDirectory() as folder:
        path = str(Path(folder, "features.pt"))
        torch.save(features(n), path)
        runs = in_turns(names, lambda name, _: run(kind, name, path), ROUNDS)
    costs = {name: [r.cost for r in own] for name, own in runs.items()}
    tell(f"{kind}, N = {n:,}, d = {D:,}, {THREADS} threads", costs, reference=names[0])
    for name, own in runs.items():
        print(f"  {name:44}{statistics.median(r.megabytes for r in own):8.0f} MB   {own[0].value:.9g}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(*sys.argv[2:])
    else:
        for peer, installed in INSTALLED.items():
            if not installed:
                print(f"{peer} is not installed: left out")
        chosen = [case for case in CASES if sys.argv[1:2] in ([], [case[0]])]
        for kind, count in chosen if len(sys.argv) < 3 else [(sys.argv[1], int(sys.argv[2]))]:
            compare(kind, count)
