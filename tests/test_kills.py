"""Runs that are killed, or told to stop, at any moment: what goes on afterwards is the run that nobody disturbed."""

import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import yaml
from torch import Tensor

from tests import tiny
from tests.zygote import Child, Zygote, ends, zygote
from zoo_core import Measurement, Metric, MetricSpec, default_host, from_pretrained, hookimpl
from zoo_core.files import WRITING
from zoo_core.training.checkpoints import checkpoints, read_state, verify

__all__ = ["zygote"]

KILLS, INSIDE_SAVES = 12, 5
STEPS, SAVE_EVERY = 60, 3
VAE: dict[str, Any] = {
    "name": "tiny",
    "model": tiny.VAE,
    "loss": "vae/elbo",
    "data": {"name": "core/digits", "preprocessing": {"binarize": "dynamic"}},
    "training": {
        **{"steps": STEPS, "batch": 32, "micro_batch": 16, "warmup": 5, "schedule": "cosine", "ema": 0.9, "clip": 5.0},
        **{"log_every": 1, "evaluate_every": 4, "save_every": SAVE_EVERY, "sample_every": 8, "publish": "best"},
        "trackers": [],
    },
    "evaluation": {"metrics": ["metrics/elbo"], "examples": 200, "batch": 25},
}
FITS = {
    "gmm": {"type": "classical/gmm", "components": 6, "covariance": "diagonal"},
    "kmeans": {"type": "classical/kmeans", "clusters": 12},
}


class Slow(Metric):
    """Takes its time for each batch, and leaves a file as a sign that it has begun."""

    def reset(self) -> None:
        self.state = {}

    def update(self, model: Any, batch: Any) -> None:
        Path("measuring").touch()
        time.sleep(0.05)
        self.state = {"n": self.state.get("n", torch.zeros(())) + 1}

    def compute(self) -> dict[str, Measurement]:
        return {"slow": Measurement(float(self.state["n"]), 0.0, 1)}


class Plugin:
    @hookimpl
    def zoo_metrics(self) -> Iterator[MetricSpec]:
        yield MetricSpec(
            name="slow", target="tests.test_kills:Slow", summary="Takes its time.", better="lower", unit="s"
        )


def with_slow_metric() -> None:
    default_host().register(Plugin(), "toy")


def with_slow_evaluation() -> None:
    """Each batch on which the loss is measured takes its time."""
    from zoo_core.training.held_out import LossTerms

    update = LossTerms.update

    def slow(self: LossTerms, model: Any, batch: Any) -> None:
        Path("measuring").touch()
        time.sleep(0.03)
        update(self, model, batch)

    LossTerms.update = slow  # type: ignore[method-assign]


class Workplace(NamedTuple):
    """Where one run's processes are started again and again."""

    zygote: Zygote
    place: Path
    world: int = 1
    setup: str = ""

    @property
    def run(self) -> Path:
        return self.place / "run"

    @property
    def steps(self) -> int:
        """How many the log tells of."""
        try:
            return (self.run / "log.jsonl").read_bytes().count(b'"event": "train"')
        except FileNotFoundError:
            return 0

    @property
    def last(self) -> int:
        """The step of the newest checkpoint."""
        return next((int(path.name[5:]) for path in checkpoints(self.run / "checkpoints")), 0)

    def start(self) -> list[Child]:
        arguments = (self.place / "recipe.yaml", "-o", self.run)
        if self.world == 1:
            return [self.zygote.start(*arguments, folder=self.place, setup=self.setup)]
        return self.zygote.start_group(*arguments, folder=self.place, world=self.world, setup=self.setup)

    def finish(self) -> None:
        children = self.start()
        assert ends(children) == [0] * self.world, "\n".join(child.stderr for child in children)

    def has_reached(self, step: int) -> bool:
        return self.steps >= step

    def reaches(self, children: Sequence[Child], step: int) -> None:
        children[0].wait_until(lambda: self.steps >= step)

    def is_at_work(self) -> bool:
        return not (self.run / "model").exists()


Prepare = Callable[..., Workplace]


@pytest.fixture
def prepare(zygote: Zygote, tmp_path: Path) -> Prepare:
    def workplace(
        recipe: dict[str, Any], world: int = 1, setup: str = "", name: str = "it", **training: Any
    ) -> Workplace:
        place = tmp_path / name
        place.mkdir()
        recipe = {**recipe, "training": {**recipe["training"], **training}}
        (place / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        return Workplace(zygote, place, world, setup)

    return workplace


@pytest.fixture(scope="module")
def undisturbed(zygote: Zygote, tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    place = tmp_path_factory.mktemp("undisturbed")
    (place / "recipe.yaml").write_text(yaml.safe_dump(VAE))
    workplace = Workplace(zygote, place)
    workplace.finish()
    return workplace


@pytest.fixture(scope="module")
def pair(zygote: Zygote, tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    place = tmp_path_factory.mktemp("pair")
    (place / "recipe.yaml").write_text(yaml.safe_dump(VAE))
    workplace = Workplace(zygote, place, 2)
    workplace.finish()
    return workplace


def told(run: Path, event: str) -> list[dict[str, Any]]:
    """What the log holds of an event, but for times, with every number bit for bit."""
    passing = {"seconds", "examples_per_second", "peak_memory_mb"}
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [
        {k: v.hex() if isinstance(v, float) else v for k, v in line.items() if k not in passing}
        for line in lines
        if line["event"] == event
    ]


def weights(run: Path) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in from_pretrained(run / "model").state_dict().items()}


def assert_same(run: Path, undisturbed: Path) -> None:
    """Losses, held-out values, what was measured, pictures, weights and the state of the optimiser."""
    for event in ("train", "held_out", "measured"):
        assert told(run, event) == told(undisturbed, event), event
    ours, theirs = weights(run), weights(undisturbed)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    pictures = {path.name: path.read_bytes() for path in (undisturbed / "samples").glob("*")}
    assert {path.name: path.read_bytes() for path in (run / "samples").glob("*")} == pictures
    assert_same_checkpoints(run, undisturbed)


def assert_same_checkpoints(run: Path, undisturbed: Path) -> None:
    ours, theirs = (checkpoints(folder / "checkpoints") for folder in (run, undisturbed))
    assert [path.name for path in ours] == [path.name for path in theirs]
    for a, b in zip(map(read_state, ours), map(read_state, theirs), strict=True):
        assert a.facts["progress"] == b.facts["progress"]
        for name, tensors in a.tensors.items():
            assert all(torch.equal(t, b.tensors[name][key]) for key, t in tensors.items())
        for player, state in a.optimizers.items():
            for i, entry in state["state"].items():
                assert all(torch.equal(t, b.optimizers[player]["state"][i][key]) for key, t in entry.items())


def assert_whole(run: Path) -> None:
    """Whatever has a checkpoint's name is one."""
    for path in (run / "checkpoints").glob("step-*"):
        verify(path)


def assert_swept(run: Path) -> None:
    assert [path for path in run.rglob("*") if path.name.startswith(WRITING)] == []


def is_saving(run: Path, files: int) -> bool:
    """Whether a checkpoint is being written, and so many of its files are there."""
    return any(len(list(path.glob("*"))) >= files for path in (run / "checkpoints").glob(f"{WRITING}step-*"))


def kill_inside_a_save(child: Child, run: Path, files: int) -> bool:
    """Kills the process if it is saving; otherwise it lives."""
    if not is_saving(run, files):
        return False
    child.send(signal.SIGSTOP)
    inside = is_saving(run, 0)
    child.send(signal.SIGKILL if inside else signal.SIGCONT)
    return inside


class TestKills:
    def test_kills_leave_no_trace(self, undisturbed: Workplace, prepare: Prepare) -> None:
        here, chance = prepare(VAE), random.Random(KILLS)
        inside = set(chance.sample(range(KILLS), INSIDE_SAVES))
        for kill, step in enumerate(moments(chance, KILLS)):
            (child,) = here.start()
            # Later than what earlier lives have told, so that this one is at work.
            child.wait_until(partial(here.has_reached, max(step, here.steps + 1)))
            if kill in inside:
                files = chance.randrange(5)
                child.wait_until(lambda: kill_inside_a_save(child, here.run, files))  # noqa: B023
            else:
                time.sleep(chance.random() * 0.004)
                child.send(signal.SIGKILL)
            assert child.wait() == -signal.SIGKILL
            assert here.is_at_work(), "the run had ended before it was killed"
            assert kill not in inside or is_saving(here.run, 0)
            assert_whole(here.run)
        here.finish()
        assert_same(here.run, undisturbed.run)
        assert_whole(here.run)
        assert_swept(here.run)

    def test_a_kill_while_the_model_is_saved(self, undisturbed: Workplace, prepare: Prepare) -> None:
        here = prepare(VAE)
        (child,) = here.start()
        child.wait_until(lambda: any(here.run.glob(f"{WRITING}model-*")))
        child.send(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
        here.finish()
        assert_same(here.run, undisturbed.run)
        assert_swept(here.run)

    def test_a_checkpoint_that_is_being_deleted_has_no_name(self, prepare: Prepare) -> None:
        """Killed at the first file that goes: what is left of it must not be taken for a checkpoint."""
        here = prepare(VAE, setup="tests.test_kills:with_kill_in_deletion")
        (child,) = here.start()
        assert child.wait() == -signal.SIGKILL
        assert_whole(here.run)
        here._replace(setup="").finish()
        assert_swept(here.run)

    def test_a_finished_run_is_left_as_it_is(self, undisturbed: Workplace, prepare: Prepare) -> None:
        here = prepare(VAE)
        shutil.copytree(undisturbed.run, here.run)
        here.finish()
        assert_same(here.run, undisturbed.run)


class TestKillsOfTwo:
    @pytest.mark.parametrize("rounds", [[(0, 1)] * 3, [(0,), (1,)]], ids=["both", "one"])
    def test_kills_leave_no_trace(self, pair: Workplace, prepare: Prepare, rounds: list[tuple[int, ...]]) -> None:
        here, chance = prepare(VAE, world=2), random.Random(len(rounds))
        for step, victims in zip(moments(chance, len(rounds)), rounds, strict=True):
            children = here.start()
            children[0].wait_until(partial(here.has_reached, max(step, here.steps + 1)))
            time.sleep(chance.random() * 0.01)
            for victim in victims:
                children[victim].send(signal.SIGKILL)
            start = time.monotonic()
            codes = ends(children)
            assert [codes[victim] for victim in victims] == [-signal.SIGKILL] * len(victims)
            assert here.is_at_work()
            assert time.monotonic() - start < 10, "the other one went on, or hung"
            for survivor in {0, 1} - set(victims):
                assert codes[survivor] == 1
                assert "the connection to another process broke" in children[survivor].stderr
                assert "Traceback" not in children[survivor].stderr
            assert_whole(here.run)
        here.finish()
        assert_same(here.run, pair.run)
        assert_swept(here.run)

    def test_weights_that_are_shared_out(self, prepare: Prepare) -> None:
        whole, here = (prepare(VAE, world=2, name=name, parallel="fsdp", steps=30) for name in ("whole", "it"))
        whole.finish()
        for step, number in ((5, signal.SIGKILL), (11, signal.SIGTERM), (17, signal.SIGKILL)):
            children = here.start()
            children[0].wait_until(partial(here.has_reached, step))
            for child in children if number == signal.SIGKILL else children[1:]:
                child.send(number)
            assert ends(children) == [75 if number == signal.SIGTERM else -number] * 2
        here.finish()
        assert_same(here.run, whole.run)

    def test_what_was_begun_by_two_goes_on_alone(self, undisturbed: Workplace, prepare: Prepare) -> None:
        """With micro-batches of a given size it is the same function, to rounding."""
        here = prepare(VAE, world=2)
        children = here.start()
        here.reaches(children, 30)
        for child in children:
            child.send(signal.SIGKILL)
        ends(children)
        here._replace(world=1).finish()
        ours, theirs = ([float.fromhex(e["loss"]) for e in told(w.run, "train")] for w in (here, undisturbed))
        assert ours == pytest.approx(theirs, rel=0.02)  # in bfloat16, sums in another order are others
        assert len(ours) == STEPS


class TestBeingTold:
    def test_it_stops_at_once_and_goes_on(self, undisturbed: Workplace, prepare: Prepare) -> None:
        here, chance = prepare(VAE), random.Random(15)
        for i, step in enumerate(moments(chance, 3)):
            (child,) = here.start()
            child.wait_until(partial(here.has_reached, max(step, here.steps + 1)))
            child.send(signal.SIGINT if i % 3 == 1 else signal.SIGTERM)
            assert child.wait() == 75
            assert_stopped(here, child)
        here.finish()
        assert_same(here.run, undisturbed.run)

    @pytest.mark.parametrize("rank", [0, 1])
    def test_one_of_two_is_told_and_both_stop_at_one_step(self, pair: Workplace, prepare: Prepare, rank: int) -> None:
        here = prepare(VAE, world=2)
        for step in moments(random.Random(rank), 2):
            children = here.start()
            children[0].wait_until(partial(here.has_reached, max(step, here.steps + 1)))
            children[rank].send(signal.SIGTERM)
            assert ends(children, 20) == [75, 75]
            assert sentence(children[0]) == sentence(children[1])
            assert_stopped(here, children[0])
        here.finish()
        assert_same(here.run, pair.run)

    @pytest.mark.parametrize("world", [1, 2])
    def test_during_an_evaluation(self, undisturbed: Workplace, pair: Workplace, prepare: Prepare, world: int) -> None:
        """The checkpoint holds the weights, not their averages, which are in their place meanwhile."""
        whole = undisturbed if world == 1 else pair
        here = prepare(VAE, world=world, setup="tests.test_kills:with_slow_evaluation")
        stopped = []
        for _ in range(2):
            (here.place / "measuring").unlink(missing_ok=True)
            children = here.start()
            children[0].wait_until(lambda: here.steps > max(stopped, default=4))
            (here.place / "measuring").unlink(missing_ok=True)
            children[0].wait_until((here.place / "measuring").exists)
            children[-1].send(signal.SIGTERM)
            start = time.monotonic()
            assert ends(children) == [75] * world
            assert time.monotonic() - start < 2
            stopped.append(here.last)
            assert here.last % 4 == 0, "no evaluation was due"
        here._replace(setup="").finish()
        assert_same(here.run, whole.run)

    def test_while_the_trained_model_is_measured(self, prepare: Prepare) -> None:
        recipe = {**VAE, "evaluation": {"metrics": ["toy/slow"], "batch": 10}}
        here = prepare(recipe, setup="tests.test_kills:with_slow_metric", steps=20)
        (child,) = here.start()
        child.wait_until((here.place / "measuring").exists)
        before = here.last, digests(here.run)
        child.send(signal.SIGTERM)
        assert child.wait(1.5) == 75
        assert (here.last, digests(here.run)) == before
        here.finish()
        assert told(here.run, "measured")[0]["slow"] == (36.0).hex()
        assert len(told(here.run, "measured")) == 1

    def test_a_second_time_ends_it_at_once(self, prepare: Prepare) -> None:
        here = prepare(VAE, setup="tests.test_kills:with_slow_steps")
        (child,) = here.start()
        here.reaches([child], 1)
        child.send(signal.SIGTERM)
        time.sleep(0.05)
        assert child.alive
        child.send(signal.SIGTERM)
        assert child.wait(0.3) == -signal.SIGTERM

    @pytest.mark.parametrize(("name", "world"), [("gmm", 1), ("gmm", 2), ("kmeans", 1)])
    def test_a_fit_by_statistics(self, prepare: Prepare, name: str, world: int) -> None:
        recipe = {
            "name": name,
            "model": FITS[name],
            "data": VAE["data"],
            "training": {"steps": 30, "batch": 300, "log_every": 1, "save_every": 7, "trackers": []},
        }
        whole, here = prepare(recipe, world, name="whole"), prepare(recipe, world)
        whole.finish()
        for step, number in ((5, signal.SIGTERM), (12, signal.SIGKILL), (21, signal.SIGTERM)):
            children = here.start()
            children[0].wait_until(partial(here.has_reached, step))
            for child in children if number == signal.SIGKILL else children[-1:]:
                child.send(number)
            assert ends(children) == [75 if number == signal.SIGTERM else -number] * world
            if number == signal.SIGTERM:
                assert_stopped(here, children[0])
        here.finish()
        assert_same(here.run, whole.run)


def with_kill_in_deletion() -> None:
    """Ends this process once the first file of a checkpoint that is no longer needed is gone."""
    import shutil

    def interrupted(path: Path, **options: Any) -> None:
        files = sorted(Path(path).glob("*"))
        if files:
            files[-1].unlink()
            os.kill(os.getpid(), signal.SIGKILL)

    from zoo_core.training import checkpoints

    checkpoints.shutil = type("Shutil", (), {**vars(shutil), "rmtree": staticmethod(interrupted)})  # type: ignore


def with_slow_steps() -> None:
    from zoo_core.training.gradients import GradientRun

    step = GradientRun.step

    def slow(self: GradientRun, number: int) -> dict[str, Tensor]:
        time.sleep(0.5)
        return step(self, number)

    GradientRun.step = slow  # type: ignore[method-assign]


def moments(chance: random.Random, n: int) -> list[int]:
    """Steps at which to strike, spread over the run."""
    return sorted(chance.sample(range(2, STEPS - 2 * SAVE_EVERY - n), n))


def sentence(child: Child) -> str:
    """The last that was told."""
    return child.stderr.strip().splitlines()[-1]


def assert_stopped(here: Workplace, child: Child) -> None:
    """One sentence names the step, which is the last that was made, and its checkpoint."""
    step = here.last
    where = here.run / "checkpoints" / f"step-{step:08d}"
    assert sentence(child) == (
        f"stopped at step {step} of {steps_of(here)} as it was told to; {where} is written, and the same command goes"
        " on from there"
    )
    assert here.steps == step
    assert "Traceback" not in child.stderr


def steps_of(here: Workplace) -> int:
    steps: int = yaml.safe_load((here.place / "recipe.yaml").read_text())["training"]["steps"]
    return steps


def digests(run: Path) -> dict[str, str]:
    return {path.name: (path / "manifest.json").read_text() for path in checkpoints(run / "checkpoints")}
