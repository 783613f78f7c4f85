"""Fits by one process and by two real ones, which are those of scikit-learn from the same start."""

import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from torch import Tensor

from zoo_core import build, from_pretrained, read_recipe, train
from zoo_core.data import Preprocessing, load

STEPS = 6
# 4 x 4 pixels, none of which is the same in all digits: scikit-learn has no floor under variances.
SIZE = 4
MODELS: dict[str, dict[str, Any]] = {
    "kmeans": {"type": "classical/kmeans", "clusters": 12},
    **{
        form: {"type": "classical/gmm", "components": 5, "covariance": form, "min_variance": 1e-9, "rank": 3}
        for form in ("full", "tied", "diagonal", "spherical", "low_rank")
    },
}
# A run ends with its processes; here they live on for the next, for it takes the most time to start them.
TRAIN_ALL = """
import sys
from accelerate import Accelerator, PartialState
from zoo_core import read_recipe, train

Accelerator.end_training = Accelerator.wait_for_everyone
for path in sys.argv[1:]:
    train(read_recipe(path), path.removesuffix(".yaml"))
PartialState().destroy_process_group()
"""


class Fit(NamedTuple):
    """A trained model, and its tensors after the first iteration."""

    model: Any
    first: dict[str, Tensor]


@pytest.fixture(scope="module", params=[1, 2], ids=["one process", "two processes"])
def fits(request: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Fit]:
    folder = tmp_path_factory.mktemp("runs")
    script = folder / "train_all.py"
    script.write_text(TRAIN_ALL)
    for name, model in MODELS.items():
        recipe = {
            "model": model,
            "data": {"name": "core/digits", "preprocessing": {"image_size": SIZE}},
            "training": {"steps": STEPS, "batch": 200, "save_every": 1, "keep": STEPS, "log_every": 1},
        }
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(recipe))
    if request.param == 1:
        for name in MODELS:
            train(read_recipe(folder / f"{name}.yaml"), folder / name)
    else:
        launch(script, *(folder / f"{name}.yaml" for name in MODELS))
    fits = {name: Fit(from_pretrained(folder / name / "model"), first(folder / name)) for name in MODELS}
    assert {fit.model.provenance["processes"] for fit in fits.values()} == {request.param}
    return fits


def launch(*arguments: Path) -> None:
    """Two real processes over gloo."""
    command = [
        *(sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "1"),
        *("--num_processes", "2", "--mixed_precision", "no", "--dynamo_backend", "no"),
        *("--main_process_port", "0", *map(str, arguments)),
    ]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=300)
    assert done.returncode == 0, done.stderr


def first(run: Path) -> dict[str, Tensor]:
    """The model after one iteration."""
    (path,) = (run / "checkpoints" / "step-00000001").glob("objective*.safetensors")
    return {name.removeprefix("model."): t for name, t in load_file(path).items() if name.startswith("model.")}


@pytest.fixture(scope="module")
def x() -> Tensor:
    data = load("digits", "train")
    image: Tensor = Preprocessing(image_size=SIZE)(data.batch(torch.arange(len(data))))["image"]
    return image


def rows(x: Tensor) -> np.ndarray:
    flat: np.ndarray = x.flatten(1).double().numpy()
    return flat


def test_kmeans(fits: dict[str, Fit], x: Tensor) -> None:
    model, start = fits["kmeans"]
    theirs = KMeans(12, init=start["mu"].numpy(), n_init=1, max_iter=STEPS - 1, tol=0, algorithm="lloyd").fit(rows(x))
    J = -model.statistics(x)["objective"].item()
    assert pytest.approx(theirs.inertia_, rel=1e-9) == J
    assert torch.allclose(model.mu, torch.from_numpy(theirs.cluster_centers_), atol=1e-12)


@pytest.mark.parametrize("form", ["full", "tied", "diagonal", "spherical"])
def test_gmm(fits: dict[str, Fit], x: Tensor, form: str) -> None:
    model, start = fits[form]
    theirs = GaussianMixture(
        5,
        covariance_type="diag" if form == "diagonal" else form,
        weights_init=(start["pi"] / start["pi"].sum()).numpy(),
        means_init=start["mu"].numpy(),
        precisions_init=precisions(start).numpy(),
        reg_covar=0,
        tol=0,
        max_iter=STEPS - 1,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        theirs.fit(rows(x))
    assert theirs.n_iter_ == STEPS - 1
    assert model.log_prob(x).mean().item() == pytest.approx(theirs.score(rows(x)), rel=1e-9)
    assert torch.allclose(model.mu, torch.from_numpy(theirs.means_), atol=1e-9)


def precisions(start: dict[str, Tensor]) -> Tensor:
    """As scikit-learn takes them, of a covariance's square root."""
    if "covariance.sigma" in start:
        return start["covariance.sigma"].square().reciprocal().squeeze(1)
    L = start["covariance.L"]
    return torch.linalg.inv(L @ L.mT)


def test_low_rank_is_one_fit_however_many_processes(fits: dict[str, Fit], x: Tensor) -> None:
    """From the first iteration on by hand, all data at once."""
    fitted, start = fits["low_rank"]
    model = build(MODELS["low_rank"], data_shape=(1, SIZE, SIZE))
    model.load_state_dict(start)
    for _ in range(STEPS - 1):
        model.update(model.statistics(x))
    assert torch.allclose(fitted.log_prob(x), model.log_prob(x), rtol=1e-9)
    assert torch.allclose(fitted.covariance.W, model.covariance.W, atol=1e-9)
