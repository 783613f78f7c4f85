"""Fits of k-means and of Gaussian mixtures: the zoo and scikit-learn from the same start, one thread each."""

import os

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))

import math
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping

import numpy as np
import torch
import yaml
from rounds import Cost, tell
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from torch import Tensor

from zoo_core import build, read_recipe, train
from zoo_core.data import load

CLUSTERS, ITERATIONS, ROUNDS, BATCH = 50, 20, 5, 5000
COMPONENTS, PIXELS = 10, 20_000
SHAPE = (1, 28, 28)
Start = dict[str, Tensor]


def pictures() -> Tensor:
    """The training images of MNIST in [0, 1], (60000, 1, 28, 28)."""
    data = load("ylecun/mnist", "train")
    image: Tensor = data.batch(torch.arange(len(data)))["image"]
    return image.float() / 255


def started(config: Mapping[str, object], x: Tensor) -> Start:
    torch.manual_seed(0)
    model = build(config, "model", data_shape=tuple(x.shape[1:]))
    model.begin(x[:10_000])
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@torch.no_grad()
def fitted(config: Mapping[str, object], x: Tensor, start: Start, iterations: int) -> float:
    """What ``statistics`` and ``update`` take; returns the objective before the last update."""
    model = build(config, "model", data_shape=tuple(x.shape[1:]))
    model.load_state_dict(start)
    for _ in range(iterations):
        parts = [model.statistics(batch) for batch in x.split(BATCH)]
        sums = {name: torch.stack([part[name] for part in parts]).sum(0) for name in parts[0]}
        model.update(sums)
    return float(sums["objective"])


def trained(config: Mapping[str, object]) -> float:
    """A whole recipe, from bytes: with its own start, preprocessing, log and checkpoint."""
    recipe = {
        "model": config,
        "data": {"name": "ylecun/mnist"},
        "training": {"steps": ITERATIONS, "batch": BATCH, "log_every": ITERATIONS, "save_every": 0},
    }
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "recipe.yaml")
        with open(path, "w") as file:
            yaml.safe_dump(recipe, file)
        train(read_recipe(path), os.path.join(folder, "run"))
    return math.nan


def cost(run: Callable[[], float]) -> Cost:
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return Cost(time.perf_counter() - wall, time.process_time() - cpu)


def compete(title: str, contestants: Mapping[str, Callable[[], float]], reference: str) -> None:
    """Once unmeasured, for what each returns, then in turns."""
    told = {name: run() for name, run in contestants.items()}
    costs: dict[str, list[Cost]] = {name: [] for name in contestants}
    for _ in range(ROUNDS):
        for name, run in contestants.items():
            costs[name].append(cost(run))
    tell(title, costs, reference)
    for name, value in told.items():
        print(f"  {name:44}{value:24.12g}")


def kmeans(x: Tensor) -> None:
    config = {"type": "classical/kmeans", "clusters": CLUSTERS}
    start = started(config, x)

    def theirs(dtype: type[np.floating]) -> Callable[[], float]:
        rows = x.flatten(1).numpy().astype(dtype)
        mu = start["mu"].numpy().astype(dtype)
        model = KMeans(CLUSTERS, init=mu, n_init=1, max_iter=ITERATIONS, tol=0, algorithm="lloyd")
        return lambda: -float(model.fit(rows).inertia_)

    compete(
        f"k-means, {CLUSTERS} clusters of 60,000 x 784, {ITERATIONS} iterations, and -J",
        {
            "scikit-learn, float64": theirs(np.float64),
            "scikit-learn, float32": theirs(np.float32),
            # One more for J at the end, as scikit-learn assigns once more for its labels.
            "zoo: statistics and update": lambda: fitted(config, x, start, ITERATIONS + 1),
            "zoo: train, from bytes to a checkpoint": lambda: trained(config),
        },
        reference="scikit-learn, float64",
    )


def gmm(x: Tensor, form: str) -> None:
    x = x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    config = {"type": "classical/gmm", "components": COMPONENTS, "covariance": form, "min_variance": 1e-9}
    start = started(config, x)
    rows = x.flatten(1).double().numpy()
    model = GaussianMixture(
        COMPONENTS,
        covariance_type={"diagonal": "diag"}.get(form, form),
        weights_init=(start["pi"] / start["pi"].sum()).numpy(),
        means_init=start["mu"].numpy(),
        precisions_init=precisions(start).numpy(),
        reg_covar=0,
        tol=0,
        max_iter=5,
    )
    compete(
        f"{form} mixture, {COMPONENTS} components of {len(x):,} x {rows.shape[1]}, 5 iterations, and log p(x)",
        {
            "scikit-learn, float64": lambda: float(model.fit(rows).lower_bound_) * len(rows),
            "zoo: statistics and update": lambda: fitted(config, x, start, 5),
        },
        reference="scikit-learn, float64",
    )


def precisions(start: Start) -> Tensor:
    if "covariance.sigma" in start:
        return start["covariance.sigma"].square().reciprocal()
    L = start["covariance.L"]
    return torch.linalg.inv(L @ L.mT)


torch.set_num_threads(1)
warnings.simplefilter("ignore", ConvergenceWarning)
mnist = pictures()
kmeans(mnist)
small = torch.nn.functional.avg_pool2d(mnist[:PIXELS], 2)
for covariance in ("diagonal", "full"):
    gmm(small, covariance)
