"""The weights inside the wheel."""

from pathlib import Path

import pytest

from zoo_core import build, from_pretrained
from zoo_core.data import load
from zoo_core.errors import DataError
from zoo_core.evaluation import evaluate, read_results

FOLDERS = sorted(Path(__file__).parents[1].glob("zoo_classical/checkpoints/*"))
every_checkpoint = pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)


@every_checkpoint
def test_it_fits_into_a_wheel(folder: Path) -> None:
    assert sum(path.stat().st_size for path in folder.iterdir()) < 3_000_000


@every_checkpoint
def test_it_measures_what_its_card_says(folder: Path) -> None:
    told = read_results(folder / "results.json")[0]
    try:
        data = load(told["data"], told["split"])
    except DataError as error:
        pytest.skip(str(error))
    metrics = [build(metric, "metric") for metric in told["metrics"]]
    measured = evaluate(from_pretrained(folder.name), metrics, data, batch=told["batch"], seed=told["seed"])
    for name, value in told["values"].items():
        assert measured[name].value == pytest.approx(value["value"], rel=1e-6), name
