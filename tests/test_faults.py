"""What goes wrong in a run: numbers that are none, damaged files, full disks. One sentence, and nothing is lost."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import yaml
from torch import Tensor

from tests import tiny
from tests.zygote import Child, Zygote, ends, zygote
from zoo_core import (
    AdversarialLoss,
    Batch,
    DatasetSpec,
    LatentVariableModel,
    Loss,
    LossOutput,
    LossSpec,
    NonNegativeInt,
    TrainingError,
    build,
    default_host,
    from_pretrained,
    hookimpl,
)
from zoo_core.data import InMemory
from zoo_core.files import WRITING
from zoo_core.training import train
from zoo_core.training.checkpoints import State, checkpoint, checkpoints, newest, read_state, verify
from zoo_core.training.log import RunLog
from zoo_core.training.reading import parse_recipe

__all__ = ["zygote"]

VAE: dict[str, Any] = {
    "name": "tiny",
    "model": tiny.VAE,
    "loss": "vae/elbo",
    "data": {"name": "core/digits", "preprocessing": {"binarize": "dynamic"}},
    "training": {
        **{"steps": 12, "batch": 32, "ema": 0.9, "clip": 5.0, "log_every": 1, "evaluate_every": 4, "save_every": 4},
        **{"sample_every": 4, "keep": 3, "trackers": []},
    },
    "evaluation": {"metrics": ["metrics/elbo"], "examples": 100},
}
DISK = 1 << 20  # bytes


class Breaking(Loss):
    """The bound, until at a step of one process something of it is no number."""

    def __init__(
        self, at: NonNegativeInt, what: Literal["loss", "gradient", "hooked"] = "loss", rank: NonNegativeInt = 0
    ) -> None:
        super().__init__()
        self.at, self.what, self.rank = at, what, rank
        self.bound = build("vae/elbo")

    def forward(self, model: LatentVariableModel, batch: Batch) -> LossOutput:
        self.bound.step = self.step
        total, terms = self.bound(model, batch)
        if self.step != self.at or int(os.environ.get("RANK", "0")) != self.rank:
            return LossOutput(total, terms)
        if self.what == "hooked":
            total.register_hook(lambda gradient: gradient)
            return LossOutput(total * torch.nan, terms)
        if self.what == "loss":
            return LossOutput(total * torch.nan, {**terms, "rate": terms["rate"] * torch.nan})
        # The slope of a root at nothing: a loss of this value, and no gradient.
        return LossOutput(total + (0 * next(model.decoder.parameters())).sum().sqrt(), terms)


def floats(split: str, holes: int = 0, examples: int = 96) -> InMemory:
    """Numbers from 0 to 1, and some that are none."""
    image = torch.rand(examples, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    image[:holes, 0, 3, 3] = torch.nan
    return InMemory("floats", split, {"image": image if split == "train" else image[holes:]})


class Plugin:
    @hookimpl
    def zoo_losses(self) -> Iterator[LossSpec]:
        yield LossSpec(name="breaking", target="tests.test_faults:Breaking", summary="Breaks.")

    @hookimpl
    def zoo_datasets(self) -> Iterator[DatasetSpec]:
        yield DatasetSpec(name="floats", target="tests.test_faults:floats", summary="With holes.")


def register() -> None:
    default_host().register(Plugin(), "toy")


@pytest.fixture(scope="module", autouse=True)
def plugin() -> Iterator[None]:
    # The targets of specs are imported by name, under whatever name pytest has imported this file.
    before = sys.modules.get("tests.test_faults")
    sys.modules["tests.test_faults"] = sys.modules[Breaking.__module__]
    register()
    yield
    del default_host().plugins["toy"]
    if before is None:
        del sys.modules["tests.test_faults"]


def recipe(**changes: Any) -> dict[str, Any]:
    """The recipe with other values at ``section__key``, or in place of a section."""
    content: dict[str, Any] = json.loads(json.dumps(VAE))
    for path, value in changes.items():
        section, _, key = path.partition("__")
        if key:
            content[section][key] = value
        else:
            content[section] = value
    return content


def run(folder: Path, resume: str | Path = "auto", **changes: Any) -> Path:
    """In this process."""
    train(parse_recipe(recipe(**changes)), folder, resume=resume)
    return folder


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("undisturbed"))


@pytest.fixture
def half(undisturbed: Path, tmp_path: Path) -> Path:
    """A run that stands at its last step but has no model yet: what was saved at 4, 8 and 12 is there."""
    shutil.copytree(undisturbed, tmp_path / "half")
    shutil.rmtree(tmp_path / "half" / "model")
    return tmp_path / "half"


Start = Callable[..., Child]


@pytest.fixture
def start(zygote: Zygote, tmp_path: Path) -> Start:
    def begin(folder: Path, *more: object, **changes: Any) -> Child:
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(recipe(**changes)))
        return zygote.start(path, "-o", folder, *more, folder=tmp_path, setup="tests.test_faults:register")

    return begin


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small one of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a file system can be mounted by root alone")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill(disk: Path, left: int) -> Path:
    """Leaves so many bytes of a disk."""
    path = disk / "filler"
    path.write_bytes(b"0" * max(0, shutil.disk_usage(disk).free - left))
    return path


def losses(folder: Path, event: str = "train") -> list[tuple[int, str]]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [(line["step"], float(line["loss"]).hex()) for line in lines if line["event"] == event]


def weights(folder: Path) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in from_pretrained(folder / "model").state_dict().items()}


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def assert_same(folder: Path, other: Path) -> None:
    assert losses(folder) == losses(other)
    assert losses(folder, "held_out") == losses(other, "held_out")
    assert equal(weights(folder), weights(other))


def assert_equal_states(a: State, b: State) -> None:
    assert a.step == b.step
    for name, tensors in a.tensors.items():
        assert equal(dict(tensors), dict(b.tensors[name])), name
    for player, state in a.optimizers.items():
        for i, entry in state["state"].items():
            assert equal(entry, b.optimizers[player]["state"][i])


def assert_one_sentence(child: Child, code: int, *parts: str) -> str:
    """It ended with a code, and told why in one line."""
    assert child.wait() == code, child.stderr
    *before, last = child.stderr.strip().splitlines()
    assert "Traceback" not in child.stderr, child.stderr
    assert last.startswith("error: ")
    assert not [line for line in before if line.startswith("error")]
    for part in parts:
        assert part in last
    return last


def assert_clean(folder: Path) -> None:
    """No half of anything, and what is called a checkpoint is one."""
    assert [path for path in folder.rglob("*") if path.name.startswith(WRITING)] == []
    for path in checkpoints(folder / "checkpoints"):
        verify(path)


class TestNoNumbers:
    @pytest.mark.parametrize("at", [0, 6, 8])
    @pytest.mark.parametrize("what", ["loss", "gradient"])
    def test_the_state_before_the_step_is_saved(self, undisturbed: Path, tmp_path: Path, what: str, at: int) -> None:
        name = "the loss is nan" if what == "loss" else "the norm of the gradient is nan"
        broken = {"type": "toy/breaking", "at": at, "what": what}
        with pytest.raises(TrainingError, match=rf"^{name} at step {at} \(distortion .*, rate ") as failure:
            run(tmp_path / "broken", loss=broken)
        assert "\n" not in str(failure.value)
        assert ("rate nan" in str(failure.value)) == (what == "loss")
        if what == "gradient":
            assert "the gradient of 'model.decoder." in str(failure.value)
        # The same run, which ends where the other one broke.
        whole = undisturbed if at == 8 else run(tmp_path / "whole", training__save_every=1, training__keep=13)
        found = newest(tmp_path / "broken" / "checkpoints")
        assert found is not None
        assert found.name == f"step-{at:08d}"
        if at:
            assert_equal_states(read_state(found), read_state(checkpoint(whole / "checkpoints", at)))
        assert_clean(tmp_path / "broken")

    def test_it_goes_on_once_the_cause_is_gone(self, undisturbed: Path, tmp_path: Path) -> None:
        with pytest.raises(TrainingError, match="at step 6"):
            run(tmp_path / "broken", loss={"type": "toy/breaking", "at": 6})
        run(tmp_path / "on", tmp_path / "broken")
        assert losses(tmp_path / "on") == losses(undisturbed)[6:]
        assert equal(weights(tmp_path / "on"), weights(undisturbed))

    @pytest.mark.parametrize("micro_batch", [None, 8])
    def test_the_batch_is_named_as_the_cause(self, tmp_path: Path, micro_batch: int | None) -> None:
        data = {"name": "toy/floats", "options": {"holes": 1}}
        with pytest.raises(TrainingError, match=r"at step \d+ .*: 'image' of the batch holds 1 of \d+ values that are"):
            run(tmp_path, data=data, training__micro_batch=micro_batch)
        assert_clean(tmp_path)

    def test_a_loss_with_hooks_is_diagnosed(self, tmp_path: Path) -> None:
        broken = {"type": "toy/breaking", "at": 3, "what": "hooked"}
        with pytest.raises(
            TrainingError,
            match=r"^the loss is nan at step 3 \(distortion .*, rate .*\): the output of 'loss' holds 1 of 1 ",
        ):
            run(tmp_path, loss=broken)

    def test_the_first_output_is_named_as_the_cause(self, tmp_path: Path) -> None:
        """At such a rate the weights overflow what is computed from them."""
        with pytest.raises(TrainingError, match=r"is (nan|-?inf) at step \d+ .*: the output of 'model\.encoder\.body"):
            run(tmp_path, training__lr=1e30)

    @pytest.mark.parametrize(("rank", "parallel"), [(0, "ddp"), (1, "ddp"), (1, "fsdp")])
    def test_on_one_of_two_processes(self, zygote: Zygote, tmp_path: Path, rank: int, parallel: str) -> None:
        path, shared = tmp_path / "recipe.yaml", {"training__parallel": parallel}
        path.write_text(yaml.safe_dump(recipe(loss={"type": "toy/breaking", "at": 5, "rank": rank}, **shared)))
        children = zygote.start_group(path, "-o", tmp_path / "run", folder=tmp_path, setup="tests.test_faults:register")
        told = {assert_one_sentence(child, 1, "the loss is nan at step 5", "rate nan") for child in children}
        assert len(told) == 1
        found = newest(tmp_path / "run" / "checkpoints")
        assert found is not None
        assert read_state(found).step == 5
        path.write_text(yaml.safe_dump(recipe(training__save_every=1, training__keep=12, **shared)))
        assert ends(zygote.start_group(path, "-o", tmp_path / "whole", folder=tmp_path)) == [0, 0]
        assert_equal_states(read_state(found), read_state(checkpoint(tmp_path / "whole" / "checkpoints", 5)))

    def test_of_the_opponent(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The model has moved by then: that step is not taken for one that was not made."""
        host = default_host()
        (name, kind), *_ = [
            (r.full_name, host.load(r)) for r in host.registrations("loss") if issubclass(host.load(r), AdversarialLoss)
        ]
        loss = {"type": name}
        settings = {"loss": loss, "training__steps": 8}
        whole = run(tmp_path / "whole", **settings, training__save_every=1, training__keep=8)
        oppose = kind.oppose

        def broken(self: Any, *arguments: Any) -> LossOutput:
            output = oppose(self, *arguments)
            return output._replace(total=output.total * torch.nan) if self.step == 5 else output

        monkeypatch.setattr(kind, "oppose", broken)
        with pytest.raises(TrainingError, match="the loss is nan at step 5"):
            run(tmp_path / "broken", **settings)
        found = newest(tmp_path / "broken" / "checkpoints")
        assert found is not None
        assert_equal_states(read_state(found), read_state(whole / "checkpoints" / found.name))
        monkeypatch.undo()
        run(tmp_path / "broken", **settings)
        assert_same(tmp_path / "broken", whole)


def truncate(folder: Path) -> str:
    path = folder / "objective.safetensors"
    path.write_bytes(path.read_bytes()[:-7])
    return path.name


def flip(folder: Path) -> str:
    path = folder / "average.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 16
    path.write_bytes(content)
    return path.name


def empty(folder: Path) -> str:
    (folder / "optimizer-model.safetensors").write_bytes(b"")
    return "optimizer-model.safetensors"


def without_manifest(folder: Path) -> str:
    (folder / "manifest.json").unlink()
    return "manifest.json"


def torn_manifest(folder: Path) -> str:
    (folder / "manifest.json").write_text('{"state.json": {"by')
    return ""


def without_state(folder: Path) -> str:
    (folder / "state.json").unlink()
    return "state.json"


def without_optimizer(folder: Path) -> str:
    (folder / "optimizer-model.safetensors").unlink()
    return "optimizer-model.safetensors"


def nothing_in_it(folder: Path) -> str:
    shutil.rmtree(folder)
    folder.mkdir()
    return "manifest.json"


DAMAGES = [
    truncate, flip, empty, without_manifest, torn_manifest, without_state, without_optimizer, nothing_in_it
]  # fmt: skip


class TestDamage:
    @pytest.mark.parametrize("damage", DAMAGES)
    def test_the_one_before_is_used(
        self, half: Path, undisturbed: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], str]
    ) -> None:
        newest_one = checkpoint(half / "checkpoints", 12)
        name = damage(newest_one)
        run(half)
        (warning,) = caplog.messages
        assert warning.startswith(f"checkpoint {newest_one} is damaged: ")
        assert name in warning
        assert "using the one before" in warning
        assert_same(half, undisturbed)
        assert_clean(half)

    def test_two_are_damaged(self, half: Path, undisturbed: Path, caplog: pytest.LogCaptureFixture) -> None:
        truncate(checkpoint(half / "checkpoints", 12))
        flip(checkpoint(half / "checkpoints", 8))
        run(half)
        assert len(caplog.messages) == 2
        assert_same(half, undisturbed)
        assert_clean(half)

    def test_none_is_whole(self, half: Path) -> None:
        for path in checkpoints(half / "checkpoints"):
            truncate(path)
        before = contents(half)
        with pytest.raises(
            TrainingError, match=rf"^no checkpoint in {half}/checkpoints is whole; to begin anew, choose"
        ):
            run(half)
        assert contents(half).items() >= {k: v for k, v in before.items() if k != ".lock"}.items()

    def test_a_damaged_one_of_a_later_step_displaces_no_whole_one(self, half: Path) -> None:
        """As long as it is there, it does not count among those that are kept."""
        truncate(checkpoint(half / "checkpoints", 12))
        with pytest.raises(TrainingError, match="at step 11"):
            run(half, loss={"type": "toy/breaking", "at": 11}, **forget_recipe(half))
        whole = [path.name for path in checkpoints(half / "checkpoints") if is_whole(path)]
        assert whole == ["step-00000011", "step-00000008", "step-00000004"]

    def test_a_torn_log(self, half: Path, undisturbed: Path) -> None:
        shutil.rmtree(checkpoint(half / "checkpoints", 12))
        with (half / "log.jsonl").open("a") as file:
            file.write('{"event": "train", "step": 8, "lo')
        run(half)
        assert_same(half, undisturbed)

    @pytest.mark.parametrize("line", ["\0\0\0\0\n", '{"event": "train", "st\n', "7\n", "\xff\n"])
    def test_a_line_of_the_log_that_is_none(self, half: Path, undisturbed: Path, line: str) -> None:
        lines = (half / "log.jsonl").read_text().splitlines(keepends=True)
        (half / "log.jsonl").write_bytes("".join([*lines[:3], line, *lines[3:]]).encode("latin-1"))
        run(half)
        assert_same(half, undisturbed)

    @pytest.mark.parametrize("content", ["", '{"name": "tiny", "mod', "[1, 2]", "\0\0\0"])
    def test_the_recipe_of_the_run(self, start: Start, half: Path, content: str) -> None:
        (half / "recipe.json").write_text(content)
        before = contents(half)
        child = start(half)
        assert_one_sentence(child, 1, str(half))
        assert contents(half).items() >= before.items()


class TestAnotherRecipe:
    def test_it_is_refused(self, start: Start, half: Path) -> None:
        before = contents(half)
        child = start(half, training__lr=0.1, training__batch=64)
        assert_one_sentence(child, 1, "training.batch was 32, is 64, training.lr was 0.001, is 0.1", f"--resume {half}")
        assert contents(half) == before

    @pytest.mark.parametrize("place", ["run", "checkpoint"])
    def test_going_on_elsewhere_is_going_on(self, half: Path, undisturbed: Path, tmp_path: Path, place: str) -> None:
        shutil.rmtree(checkpoint(half / "checkpoints", 12))
        start = half if place == "run" else checkpoint(half / "checkpoints", 4)
        run(tmp_path / "on", start)
        begun = 8 if place == "run" else 4
        assert losses(tmp_path / "on") == losses(undisturbed)[begun:]
        assert equal(weights(tmp_path / "on"), weights(undisturbed))
        # The same command, again: now from what it has saved itself.
        shutil.rmtree(checkpoint(tmp_path / "on" / "checkpoints", 12))
        run(tmp_path / "on", start)
        assert losses(tmp_path / "on") == losses(undisturbed)[begun:]

    def test_a_warning_tells_what_has_changed(
        self, half: Path, undisturbed: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        start = checkpoint(half / "checkpoints", 8)
        run(tmp_path / "on", start, training__lr=0.01)
        assert caplog.messages == [f"going on from {start} with another recipe: training.lr was 0.001, is 0.01"]
        assert [step for step, _ in losses(tmp_path / "on")] == [9, 10, 11, 12]
        assert losses(tmp_path / "on")[0] == losses(undisturbed)[8]
        assert losses(tmp_path / "on")[1:] != losses(undisturbed)[9:]

    @pytest.mark.parametrize(("name", "value"), [("betas", [0.5, 0.9]), ("eps", 0.1), ("weight_decay", 1.0)])
    def test_all_settings_of_the_optimiser_are_the_new_ones(
        self, half: Path, undisturbed: Path, tmp_path: Path, name: str, value: Any
    ) -> None:
        run(tmp_path / "on", checkpoint(half / "checkpoints", 8), **{f"training__{name}": value})
        assert not equal(weights(tmp_path / "on"), weights(undisturbed))

    def test_the_best_so_far_may_be_the_one_it_began_from(self, half: Path, tmp_path: Path) -> None:
        """A rate at which nothing gets better: what is published is the beginning."""
        changed = {"training__publish": "best", "training__lr": 3.0, "training__ema": None, "training__clip": None}
        start = checkpoint(half / "checkpoints", 12)
        run(tmp_path / "on", start, **changed, training__steps=24)
        begun = {k.removeprefix("model."): v for k, v in read_state(start).tensors["objective"].items()}
        assert equal(weights(tmp_path / "on"), begun)

    @pytest.mark.parametrize(
        ("changed", "part"),
        [
            ({"model": {**VAE["model"], "decoder": {"type": "nets/mlp_decoder", "hidden": [8]}}}, "decoder"),
            ({"loss": None, "model": {"type": "classical/kmeans"}}, ""),
        ],
        ids=["other sizes", "another kind"],
    )
    def test_what_does_not_fit_is_refused(
        self, start: Start, half: Path, tmp_path: Path, changed: dict[str, Any], part: str
    ) -> None:
        child = start(tmp_path / "on", "--resume", half, **changed)
        where = checkpoint(half / "checkpoints", 12)
        assert_one_sentence(child, 1, f"checkpoint {where} does not fit", part)

    def test_an_average_that_was_not_kept_begins_anew(self, tmp_path: Path) -> None:
        run(tmp_path / "plain", training__ema=None)
        run(tmp_path / "on", tmp_path / "plain", training__steps=14)
        last = read_state(checkpoint(tmp_path / "on" / "checkpoints", 14))
        own = {k.removeprefix("model."): v for k, v in last.tensors["objective"].items()}
        assert not equal(own, dict(last.tensors["average"]))

    def test_there_is_no_such_place(self, start: Start, half: Path, tmp_path: Path) -> None:
        assert_one_sentence(start(tmp_path / "on", "--resume", "nowhere"), 1, "nowhere")
        shutil.rmtree(half / "checkpoints")
        (half / "checkpoints").mkdir()
        assert_one_sentence(start(tmp_path / "on", "--resume", half), 1, f"--resume {half}: there is no checkpoint")


class TestFullDisk:
    def test_a_checkpoint_that_finds_no_room(self, start: Start, undisturbed: Path, disk: Path) -> None:
        self._runs_full(start, undisturbed, disk, left=90_000, part="cannot write the checkpoint")

    @pytest.mark.parametrize("left", [0, 4096, 12288, 40960])
    def test_whatever_finds_no_room(self, start: Start, undisturbed: Path, disk: Path, left: int) -> None:
        """So much room at step 5 that the next writes fail here or there: the log, the pictures, the checkpoint."""
        shutil.copytree(undisturbed, disk / "run")
        self._back_to(disk / "run", 4)
        fill(disk, left)
        child = start(disk / "run")
        assert_one_sentence(child, 1, str(disk / "run"), "No space left on device")
        assert_clean(disk / "run")
        found = newest(disk / "run" / "checkpoints")
        assert found is not None
        (disk / "filler").unlink()
        assert start(disk / "run").wait() == 0
        assert_same(disk / "run", undisturbed)
        assert pictures(disk / "run") == pictures(undisturbed)

    def test_all_of_two_processes_tell_the_same(self, zygote: Zygote, disk: Path, tmp_path: Path) -> None:
        fill(disk, 90_000)
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe()))
        arguments = (tmp_path / "recipe.yaml", "-o", disk / "run")
        children = zygote.start_group(*arguments, folder=tmp_path)
        told = {assert_one_sentence(child, 1, "cannot write the checkpoint", "No space left") for child in children}
        assert len(told) == 1
        assert_clean(disk / "run")
        (disk / "filler").unlink()
        assert ends(zygote.start_group(*arguments, folder=tmp_path)) == [0, 0]

    def test_a_line_of_the_log_finds_no_room(
        self, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is torn then."""
        report = RunLog.report

        def torn(self: RunLog, event: str, values: Any) -> None:
            if self.step == 7:
                with self.path.open("a") as file:
                    file.write('{"event": "train", "step": 7, "lo')
                raise OSError(errno.ENOSPC, "No space left on device")
            report(self, event, values)

        with monkeypatch.context() as patch:
            patch.setattr(RunLog, "report", torn)
            with pytest.raises(TrainingError, match=f"^{tmp_path}: No space left on device; whole checkpoints stay"):
                run(tmp_path)
        assert_clean(tmp_path)
        run(tmp_path)
        assert_same(tmp_path, undisturbed)

    @pytest.mark.parametrize("name", ["recipe.json", "log.jsonl"])
    def test_what_is_written_anew_is_not_lost(self, half: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        shutil.rmtree(checkpoint(half / "checkpoints", 12))
        before = (half / name).read_bytes()

        def full(path: Path, target: Path) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            replace = Path.replace
            patch.setattr(Path, "replace", lambda p, target: (full if target.name == name else replace)(p, target))
            with pytest.raises(TrainingError, match="No space left on device"):
                run(half)
        assert (half / name).read_bytes() == before
        assert_clean(half)

    def test_the_model_finds_no_room(self, start: Start, half: Path, undisturbed: Path, disk: Path) -> None:
        shutil.copytree(half, disk / "run")
        fill(disk, 12288)
        assert_one_sentence(start(disk / "run"), 1, f"cannot write {disk / 'run' / 'model'}", "No space left on device")
        assert_clean(disk / "run")
        (disk / "filler").unlink()
        assert start(disk / "run").wait() == 0
        assert_same(disk / "run", undisturbed)

    def _runs_full(self, start: Start, undisturbed: Path, disk: Path, left: int, part: str) -> None:
        fill(disk, left)
        child = start(disk / "run")
        assert_one_sentence(child, 1, part, "No space left on device")
        assert_clean(disk / "run")
        assert [read_state(path).step for path in checkpoints(disk / "run" / "checkpoints")][-1:] == [4]
        (disk / "filler").unlink()
        assert start(disk / "run").wait() == 0
        assert_same(disk / "run", undisturbed)

    def _back_to(self, folder: Path, step: int) -> None:
        """As if it had been killed after a step."""
        shutil.rmtree(folder / "model")
        for path in checkpoints(folder / "checkpoints"):
            if path.name > f"step-{step:08d}":
                shutil.rmtree(path)
                (folder / "samples" / f"{path.name}.png").unlink()


class TestFolder:
    def test_it_cannot_be_written(self, start: Start, disk: Path) -> None:
        (disk / "run").mkdir()
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        assert_one_sentence(start(disk / "run"), 1, str(disk / "run"), "Read-only file system")
        assert_one_sentence(start(disk / "new"), 1, str(disk / "new"), "Read-only file system")

    def test_it_cannot_be_written_by_two(self, zygote: Zygote, disk: Path, tmp_path: Path) -> None:
        (disk / "run").mkdir()
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe()))
        children = zygote.start_group(tmp_path / "recipe.yaml", "-o", disk / "run", folder=tmp_path)
        told = {assert_one_sentence(child, 1, str(disk / "run"), "Read-only file system") for child in children}
        assert len(told) == 1

    def test_it_is_a_file(self, start: Start, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("mine")
        assert_one_sentence(start(tmp_path / "file"), 1, f"--output {tmp_path / 'file'}: ")
        assert (tmp_path / "file").read_text() == "mine"

    def test_two_runs_in_one(self, start: Start, tmp_path: Path, undisturbed: Path) -> None:
        first = start(tmp_path / "run")
        first.wait_until((tmp_path / "run" / "log.jsonl").exists)
        first.send(signal.SIGSTOP)
        second = start(tmp_path / "run")
        assert_one_sentence(second, 1, f"process {first.pid} on ", f"is at work in {tmp_path / 'run'}")
        first.send(signal.SIGCONT)
        assert first.wait() == 0
        assert_same(tmp_path / "run", undisturbed)
        assert start(tmp_path / "run").wait() == 0
        assert_same(tmp_path / "run", undisturbed)

    def test_a_lock_that_a_killed_run_left_is_none(self, start: Start, tmp_path: Path, undisturbed: Path) -> None:
        child = start(tmp_path / "run")
        child.wait_until((tmp_path / "run" / "log.jsonl").exists)
        child.send(signal.SIGKILL)
        child.wait()
        assert (tmp_path / "run" / ".lock").read_text().startswith(f"process {child.pid} on ")
        assert start(tmp_path / "run").wait() == 0
        assert_same(tmp_path / "run", undisturbed)


class TestData:
    def test_fewer_than_a_batch(self, start: Start, tmp_path: Path) -> None:
        child = start(tmp_path / "run", training__batch=1438)
        assert_one_sentence(child, 1, "training.batch: 1438 is more than the 1437 examples there are")

    def test_others_than_before(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        data = {"name": "toy/floats"}
        folder = run(tmp_path / "run", data=data)
        before = contents(folder)
        monkeypatch.setattr(floats, "__defaults__", (0, 95))
        with pytest.raises(TrainingError, match=r"the data '.*floats' are others than those that .* choose another"):
            run(folder, data=data)
        after = contents(folder)
        assert {k: v for k, v in after.items() if k != ".lock"} == {k: v for k, v in before.items() if k != ".lock"}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def pictures(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "samples").iterdir()}


def is_whole(folder: Path) -> bool:
    try:
        verify(folder)
    except TrainingError:
        return False
    return True


def forget_recipe(folder: Path) -> dict[str, Any]:
    """Lets a run go on under another recipe."""
    (folder / "recipe.json").unlink()
    return {}
