"""The real MNIST, where there is a copy of it."""

import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from zoo_core.data import InMemory, load
from zoo_core.host import PluginHost

BESIDE = Path(__file__).resolve().parents[3] / "shared" / "data"
FOLDERS = [Path(p) for p in os.environ.get("ZOO_DATA", "").split(os.pathsep) if p] or [BESIDE]
FOLDER = next((f for f in FOLDERS if (f / "ylecun" / "mnist").is_dir()), None)

pytestmark = pytest.mark.skipif(
    FOLDER is None, reason="no copy of ylecun/mnist: name a folder that has one in ZOO_DATA"
)


@pytest.fixture(scope="module")
def mnist(tmp_path_factory) -> InMemory:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZOO_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("ZOO_DATA", str(FOLDER))
        return load("ylecun/mnist", "test", host=PluginHost(discover=False))  # type: ignore[return-value]


def test_shape(mnist):
    assert len(mnist) == 10_000
    assert mnist.data_shape == (1, 28, 28)
    assert mnist.columns == ("image", "label")


def test_labels_are_those_of_the_file(mnist):
    table = pq.read_table(FOLDER / "ylecun" / "mnist" / "data" / "test-00000-of-00001.parquet")
    labels = mnist.batch(torch.arange(len(mnist)))["label"]
    assert labels.tolist() == table["label"].to_pylist()


def test_pixels(mnist):
    """The known statistics of the test images: mean 0.1325, deviation 0.3105."""
    x = mnist.batch(torch.arange(len(mnist)))["image"].double() / 255
    assert x.mean().item() == pytest.approx(0.1325, abs=5e-4)
    assert x.std().item() == pytest.approx(0.3105, abs=5e-4)
