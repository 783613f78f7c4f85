"""Reading ahead: what is given is what the data give, errors come where they belong, and a program can always end."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

from zoo_core.data import InMemory
from zoo_core.data.background import Begun, in_threads
from zoo_core.data.dataset import Batch, Dataset
from zoo_core.data.prefetch import Ahead
from zoo_core.errors import DataError

ROOT = Path(__file__).resolve().parents[2]


class Squares(Dataset):
    """i² at place i, none at place 13; remembers who asked for what. In the background it waits for ``go``."""

    name, split, data_shape, fingerprint, columns = "squares", "train", (1,), "0", ("image",)
    prefetch = True

    def __init__(self) -> None:
        self.asked: list[tuple[list[int], bool]] = []
        self.go = threading.Event()
        self.go.set()

    def __len__(self) -> int:
        return 100

    def batch(self, indices: Tensor) -> Batch:
        in_main = threading.current_thread() is threading.main_thread()
        self.asked.append((indices.tolist(), in_main))
        assert in_main or self.go.wait(30)
        if 13 in indices:
            raise DataError("there is nothing at 13")
        return {"image": indices.float().square()[:, None]}


@pytest.fixture
def data() -> Squares:
    return Squares()


def places(*indices: int) -> Tensor:
    return torch.tensor(indices)


def squares(batch: Batch) -> list[float]:
    return batch["image"].flatten().tolist()  # type: ignore[union-attr]


def test_batches_are_those_of_the_data_each_read_once_and_in_the_background(data):
    ahead, order = Ahead(data), torch.randperm(12).view(4, 3)
    for step in range(4):
        following = order[step + 1] if step < 3 else None
        assert squares(ahead.batch(order[step], following)) == [float(i * i) for i in order[step]]
    ahead.close()
    assert [asked for asked, _ in data.asked] == order.tolist()
    assert [in_main for _, in_main in data.asked] == [True, False, False, False]


def test_a_batch_does_not_wait_for_the_following_one(data):
    ahead = Ahead(data)
    data.go.clear()
    assert squares(ahead.batch(places(2), places(3))) == [4.0]
    data.go.set()
    assert squares(ahead.batch(places(3))) == [9.0]


def test_what_was_begun_for_others_is_dropped(data):
    ahead = Ahead(data)
    ahead.batch(places(1), places(2, 3))
    for other in (places(3, 2), places(2), places(2, 3, 4), torch.zeros(0, dtype=torch.int64)):
        assert squares(ahead.batch(other, places(2, 3))) == [float(i * i) for i in other]
    assert squares(ahead.batch(torch.tensor([2, 3], dtype=torch.int32))) == [4.0, 9.0]
    assert data.asked[-1] == ([2, 3], False)


def test_indices_may_be_overwritten_once_they_are_given(data):
    ahead, following = Ahead(data), places(5, 6)
    ahead.batch(places(1), following)
    while len(data.asked) < 2:
        time.sleep(0.01)
    time.sleep(0.05)
    following.zero_()
    assert squares(ahead.batch(places(0, 0))) == [0.0, 0.0]


def test_an_error_is_raised_where_its_batch_is_asked_for(data):
    ahead = Ahead(data)
    assert squares(ahead.batch(places(1), places(13))) == [1.0]
    with pytest.raises(DataError, match="nothing at 13"):
        ahead.batch(places(13), places(2))
    assert squares(ahead.batch(places(2), places(13))) == [4.0]
    assert squares(ahead.batch(places(3))) == [9.0]  # nobody asked for 13
    ahead.batch(places(1), places(13))
    ahead.close()


def test_closing_ends_the_thread_and_what_comes_then_is_read_anew(data):
    ahead, before = Ahead(data), threading.active_count()
    data.go.clear()
    threading.Timer(0.05, data.go.set).start()
    ahead.batch(places(1), places(2))
    ahead.close()
    ahead.close()
    assert threading.active_count() <= before
    assert squares(ahead.batch(places(2))) == [4.0]
    assert [asked for asked, _ in data.asked] == [[1], [2], [2]]


def test_data_in_memory_need_no_thread(monkeypatch):
    monkeypatch.setattr(Begun, "__init__", lambda *_: pytest.fail("a thread"))
    data = InMemory("small", "train", {"image": torch.arange(5)[:, None]})
    ahead = Ahead(data)
    assert squares(ahead.batch(places(1, 2), places(3))) == [1, 2]
    assert squares(ahead.batch(places(3))) == [3]
    ahead.close()


def test_calls_in_threads_come_back_in_order_and_so_does_the_first_error():
    def call(i: int) -> int:
        time.sleep(0.002 * (7 - i % 7))
        if i in (11, 17):
            raise DataError(f"no {i}")
        return -i

    for threads in (1, 4, 99):
        assert in_threads(call, 10, threads) == [-i for i in range(10)]
        assert in_threads(call, 0, threads) == []
        with pytest.raises(DataError, match="no 11"):
            in_threads(call, 20, threads)


EXIT = """
import sys, time
import torch
from tests.data.test_prefetch import Squares, places
from zoo_core.data.prefetch import Ahead

class Stuck(Squares):
    def batch(self, indices):
        if len(indices) == 2:
            time.sleep(1000)
        return {{"image": torch.cat([torch.randn(300, 300) @ torch.randn(300, 300) for _ in range(3)])}}

ahead = Ahead(Stuck())
ahead.batch(places(1), {following})
print("last line")
{end}
"""


@pytest.mark.parametrize(
    ("following", "end", "code"),
    [("places(1, 2)", "", 0), ("places(1, 2)", "raise RuntimeError('x')", 1), ("places(3)", "sys.exit(3)", 3)],
)
def test_a_program_that_ends_does_not_hang_on_it(following, end, code):
    script = EXIT.format(following=following, end=end)
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=30)
    assert (done.returncode, done.stdout) == (code, "last line\n"), done.stderr
    assert "Fatal" not in done.stderr
