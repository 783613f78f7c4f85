"""What each option of a run does, against the same done by hand."""

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor

from tests import tiny
from tests.zygote import Zygote, ends, zygote
from zoo_core import TrainingError, build, evaluate, from_pretrained
from zoo_core.data import Preprocessing, load
from zoo_core.images import grid, save_image
from zoo_core.randomness import derived_seed
from zoo_core.training import gradients, train
from zoo_core.training.checkpoints import checkpoint, checkpoints, read_state
from zoo_core.training.gradients import GradientRun
from zoo_core.training.held_out import LossTerms
from zoo_core.training.objective import computes_in_bf16
from zoo_core.training.processes import group
from zoo_core.training.reading import parse_recipe

__all__ = ["zygote"]

AUTOENCODER: dict[str, Any] = {
    "name": "plain",
    "model": {
        "type": "autoencoder/autoencoder",
        "encoder": {"type": "nets/mlp_encoder", "latents": 3, "hidden": [16], "posterior": "nets/dirac"},
        "decoder": {"type": "nets/mlp_decoder", "hidden": [16]},
        "prior": "nets/standard_normal",
    },
    "loss": "autoencoder/reconstruction",
    "data": {"name": "core/digits"},
    "training": {"steps": 6, "batch": 96, "log_every": 1, "precision": "no", "trackers": []},
}
VAE: dict[str, Any] = {
    **AUTOENCODER,
    "name": "tiny",
    "model": tiny.VAE,
    "loss": "vae/elbo",
    "evaluation": {"metrics": ["metrics/elbo"]},
}
CONVOLUTIONS = {
    "encoder": {"type": "nets/conv_encoder", "latents": 2, "channels": [4, 8]},
    "decoder": {"type": "nets/conv_decoder", "channels": [8, 4]},
}


def run(folder: Path, content: dict[str, Any] = VAE, **training: Any) -> Path:
    train(parse_recipe({**content, "training": {**content["training"], **training}}), folder)
    return folder


def told(folder: Path, event: str = "train") -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == event]


def column(folder: Path, name: str, event: str = "train") -> list[float]:
    return [line[name] for line in told(folder, event)]


def weights(folder: Path) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in from_pretrained(folder / "model").state_dict().items()}


def saved(folder: Path, step: int, what: str = "objective") -> dict[str, Tensor]:
    """The model's tensors in a checkpoint."""
    tensors = read_state(checkpoint(folder / "checkpoints", step)).tensors[what]
    return {name.removeprefix("model."): t for name, t in tensors.items() if what != "objective" or "model." in name}


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def model_with(folder: Path, values: dict[str, Tensor]) -> Any:
    model = from_pretrained(folder / "model")
    model.load_state_dict(values)
    return model


class TestMicroBatches:
    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def whole(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return run(tmp_path_factory.mktemp("whole"), AUTOENCODER)

    @pytest.mark.parametrize("micro_batch", [1, 8, 48])
    def test_gradients_are_those_of_the_whole_batch(self, whole: Path, tmp_path: Path, micro_batch: int) -> None:
        run(tmp_path, AUTOENCODER, micro_batch=micro_batch)
        for name in ("loss", "distortion", "gradient_norm"):
            assert column(tmp_path, name) == pytest.approx(column(whole, name), rel=1e-5)

    @pytest.mark.parametrize("world", [1, 2])
    def test_the_rest_of_an_epoch_is_a_step_of_its_own(self, zygote: Zygote, tmp_path: Path, world: int) -> None:
        """1437 = 14 * 100 + 37, and 37 = 10 + 9 + 9 + 9."""
        training = {
            **AUTOENCODER["training"], "steps": None, "epochs": 1, "batch": 100, "micro_batch": 25,
            "drop_last": False, "save_every": 1, "keep": 20, "seed": 3,
        }  # fmt: skip
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({**AUTOENCODER, "training": training}))
        arguments = (tmp_path / "recipe.yaml", "-o", tmp_path / "run")
        children = (
            [zygote.start(*arguments, folder=tmp_path)]
            if world == 1
            else zygote.start_group(*arguments, folder=tmp_path)
        )
        assert ends(children) == [0] * world, children[0].stderr
        lines = told(tmp_path / "run")
        assert len(lines) == 15
        data = load("digits", "train")
        order = data.order(derived_seed(3, 0))
        for line, indices in zip(lines[1:], order.split(100)[1:], strict=True):
            by_hand = self._by_hand(tmp_path / "run", line["step"] - 1, data.batch(indices))
            assert (line["loss"], line["gradient_norm"]) == pytest.approx(by_hand, rel=1e-5)

    def _by_hand(self, folder: Path, step: int, batch: Any) -> tuple[float, float]:
        """The loss of a batch as a whole after a step, and the norm of its gradient."""
        model = model_with(folder, saved(folder, step)).train()
        loss = build("autoencoder/reconstruction")(model, Preprocessing()(batch)).total
        loss.backward()
        return loss.item(), math.sqrt(sum(float(p.grad.square().sum()) for p in model.parameters()))

    def test_the_rest_may_be_left_out(self, tmp_path: Path) -> None:
        run(tmp_path, AUTOENCODER, steps=None, epochs=2, batch=100)
        assert len(told(tmp_path)) == 28


class TestAverage:
    @pytest.fixture(scope="class")
    @classmethod
    def averaged(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        folder = tmp_path_factory.mktemp("averaged")
        return run(folder, steps=24, ema=0.6, save_every=1, keep=30, evaluate_every=6, sample_every=6, lr=0.01)

    def test_it_follows_its_recursion(self, averaged: Path) -> None:
        mean = saved(averaged, 1, "average")
        for step in range(2, 25):
            d = min(0.6, step / (9 + step))
            mean = {name: d * value + (1 - d) * saved(averaged, step)[name] for name, value in mean.items()}
            average = saved(averaged, step, "average")
            assert all(torch.allclose(mean[name], average[name], rtol=1e-5, atol=1e-6) for name in mean)

    def test_it_begins_where_the_weights_do(self, averaged: Path, tmp_path: Path) -> None:
        """At a rate of next to nothing these are still the first weights."""
        run(tmp_path, steps=1, lr=1e-12, ema=0.6, save_every=1)
        first, after, mean = saved(tmp_path, 1), saved(averaged, 1), saved(averaged, 1, "average")
        assert all(torch.allclose(0.1 * first[n] + 0.9 * after[n], mean[n], atol=1e-6) for n in first)

    def test_it_is_published(self, averaged: Path) -> None:
        assert equal(weights(averaged), saved(averaged, 24, "average"))
        assert not equal(weights(averaged), saved(averaged, 24))

    def test_it_is_measured(self, averaged: Path) -> None:
        (line,) = told(averaged, "measured")
        data, metric = load("digits", "test"), [build("metrics/elbo")]
        assert line["elbo"] == evaluate(from_pretrained(averaged / "model"), metric, data)["elbo"].value
        own = evaluate(model_with(averaged, saved(averaged, 24)), metric, data)["elbo"].value
        assert abs(line["elbo"] - own) > 1e-3

    def test_it_is_measured_on_the_way(self, averaged: Path) -> None:
        for line in told(averaged, "held_out"):
            model = model_with(averaged, saved(averaged, line["step"], "average"))
            again = evaluate(model, [LossTerms(build("vae/elbo"))], load("digits", "test"))
            assert line["loss"] == again["loss"].value

    def test_pictures_are_drawn_from_it_with_equal_noise(self, averaged: Path, tmp_path: Path) -> None:
        drawn = sorted((averaged / "samples").iterdir())
        assert [path.name for path in drawn] == [f"step-{step:08d}.png" for step in (6, 12, 18, 24)]
        assert len({path.read_bytes() for path in drawn}) == 4
        for path in drawn:
            model = model_with(averaged, saved(averaged, int(path.stem[5:]), "average"))
            images = model.sample(64, generator=torch.Generator().manual_seed(0))
            assert path.read_bytes() == save_image(grid(images), tmp_path / "again.png").read_bytes()
            with Image.open(path) as picture:
                assert picture.format == "PNG"
                assert picture.size == (82, 82)  # 8 images of 8 pixels, and gaps of 2


class TestPictures:
    def test_they_are_drawn_as_of_a_trained_model(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A model that trains may drop out units, and gather what it sees."""
        modes = []
        kind = type(build(VAE["model"], data_shape=(1, 8, 8)))
        draw = kind.draw
        monkeypatch.setattr(kind, "draw", lambda self, n: modes.append(self.training) or draw(self, n))
        step = GradientRun.step

        def checked(self: GradientRun, number: int) -> dict[str, Tensor]:
            assert all(module.training for module in self.objective.modules())
            return step(self, number)

        monkeypatch.setattr(GradientRun, "step", checked)
        run(tmp_path, sample_every=2)
        assert modes == [False] * 3


class TestBest:
    EVERY, PATIENCE = 4, 3
    SETTINGS = {
        **{"steps": 400, "lr": 0.05, "evaluate_every": EVERY, "patience": PATIENCE, "publish": "best"},
        **{"save_every": EVERY, "ema": 0.5},
    }

    @pytest.fixture(scope="class")
    @classmethod
    def best(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return run(tmp_path_factory.mktemp("best"), **cls.SETTINGS, keep=100)

    def test_it_ends_after_so_many_evaluations_without_gain(self, best: Path) -> None:
        losses = column(best, "loss", "held_out")
        waited = [i - min(range(i + 1), key=losses.__getitem__) for i in range(len(losses))]
        assert waited[-1] == self.PATIENCE
        assert max(waited[:-1]) < self.PATIENCE
        assert told(best)[-1]["step"] == self.EVERY * len(losses) < 400

    def test_the_best_is_published(self, best: Path) -> None:
        step = self._best(best)
        assert step == told(best)[-1]["step"] - self.EVERY * self.PATIENCE
        assert equal(weights(best), saved(best, step, "average"))
        model = from_pretrained(best / "model")
        assert model.provenance["steps"] == step
        data = load("digits", "test")
        assert column(best, "elbo", "measured") == [evaluate(model, [build("metrics/elbo")], data)["elbo"].value]

    def test_the_last_is_published_if_asked_for(self, best: Path, tmp_path: Path) -> None:
        run(tmp_path, **{**self.SETTINGS, "publish": "last"})
        assert column(tmp_path, "loss") == column(best, "loss")
        assert equal(weights(tmp_path), saved(best, told(best)[-1]["step"], "average"))

    @pytest.mark.parametrize("waited", [1, 2, 3])
    def test_a_run_taken_up_again_has_not_lost_count(self, best: Path, tmp_path: Path, waited: int) -> None:
        folder = shutil.copytree(best, tmp_path / "cut")
        shutil.rmtree(folder / "model")
        for path in checkpoints(folder / "checkpoints"):
            if int(path.name[5:]) > self._best(best) + self.EVERY * waited:
                shutil.rmtree(path)
        run(folder, **self.SETTINGS, keep=100)
        assert column(folder, "loss") == column(best, "loss")
        assert column(folder, "loss", "held_out") == column(best, "loss", "held_out")
        assert equal(weights(folder), weights(best))

    def test_the_best_is_kept_beside_the_newest(self, best: Path, tmp_path: Path) -> None:
        run(tmp_path, **self.SETTINGS, keep=2)
        last = told(best)[-1]["step"]
        steps = [int(path.name[5:]) for path in checkpoints(tmp_path / "checkpoints")]
        assert steps == [last, last - self.EVERY, self._best(best)]
        assert equal(weights(tmp_path), weights(best))

    def test_the_newest_are_kept(self, tmp_path: Path) -> None:
        run(tmp_path, steps=10, save_every=2, keep=3)
        assert [int(path.name[5:]) for path in checkpoints(tmp_path / "checkpoints")] == [10, 8, 6]

    def test_another_term_may_tell(self, best: Path, tmp_path: Path) -> None:
        run(tmp_path, **{**self.SETTINGS, "monitor": "rate", "patience": 2})
        rates = column(tmp_path, "rate", "held_out")
        assert len(rates) == rates.index(min(rates)) + 3
        with pytest.raises(
            TrainingError, match=r"training\.monitor: no 'nope' is measured; there are: loss, distortion"
        ):
            run(tmp_path / "nope", **{**self.SETTINGS, "monitor": "nope"})

    def _best(self, folder: Path) -> int:
        return int(min(told(folder, "held_out"), key=lambda line: line["loss"])["step"])


class TestTrackers:
    def test_tensorboard_holds_what_the_log_holds(self, tmp_path: Path) -> None:
        run(tmp_path, trackers=["tensorboard"], evaluate_every=2)
        self._assert_as_the_log(tmp_path)

    def test_no_step_is_there_twice_after_a_kill(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        step, settings = (
            GradientRun.step,
            {"trackers": ["tensorboard"], "save_every": 2, "steps": 8, "evaluate_every": 2},
        )

        def killed(self: GradientRun, number: int) -> dict[str, Tensor]:
            if number == 5:
                self.processes.accelerator.trackers[0].writer.flush()
                raise KeyboardInterrupt
            return step(self, number)

        monkeypatch.setattr(GradientRun, "step", killed)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, **settings)
        assert self._events(tmp_path)["train/loss"][-1][0] == 5
        monkeypatch.undo()
        run(tmp_path, **settings)
        self._assert_as_the_log(tmp_path)

    def test_none_is_asked_for(self, tmp_path: Path) -> None:
        run(tmp_path, trackers=[])
        assert not list(tmp_path.rglob("*tfevents*"))

    def test_an_unknown_one_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(TrainingError, match=r"^training\.trackers: no tracker 'wandbb'; there are: .*wandb"):
            run(tmp_path, trackers=["wandbb"])
        assert not (tmp_path / "recipe.json").exists()

    def test_one_that_is_not_installed_is_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(group, "get_available_trackers", list)
        with pytest.raises(TrainingError, match=r"^training\.trackers: 'wandb' is not installed: pip install wandb$"):
            run(tmp_path, trackers=["wandb"])
        run(tmp_path, trackers=None)
        assert not list(tmp_path.rglob("*tfevents*"))

    def _events(self, folder: Path) -> dict[str, list[tuple[int, float]]]:
        event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
        (place,) = {path.parent for path in folder.rglob("*tfevents*")}
        events = event_accumulator.EventAccumulator(str(place))
        events.Reload()
        return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}

    def _assert_as_the_log(self, folder: Path) -> None:
        there = self._events(folder)
        wanted: dict[str, list[tuple[int, Any]]] = {}
        for event in ("train", "held_out", "measured"):
            for line in told(folder, event):
                for name in line.keys() - {"event", "step", "seconds"}:
                    number = pytest.approx(line[name], rel=1e-6)
                    wanted.setdefault(f"{event}/{name}", []).append((line["step"], number))
        assert there == wanted


class TestPrecision:
    @pytest.fixture(scope="class")
    @classmethod
    def losses(cls, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[float]]:
        place = tmp_path_factory.mktemp("precision")
        return {name: column(run(place / name, precision=name), "loss") for name in ("auto", "bf16", "no")}

    def test_auto_is_what_the_hardware_computes_in(self, losses: dict[str, list[float]]) -> None:
        assert losses["auto"] == losses["bf16" if computes_in_bf16(torch.device("cpu")) else "no"]

    @pytest.mark.parametrize("able", [True, False])
    def test_auto_takes_either(
        self, losses: dict[str, list[float]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, able: bool
    ) -> None:
        monkeypatch.setattr(gradients, "computes_in_bf16", lambda device: able)
        assert column(run(tmp_path, precision="auto"), "loss") == losses["bf16" if able else "no"]

    def test_they_differ_in_rounding_alone(self, losses: dict[str, list[float]]) -> None:
        assert losses["bf16"] != losses["no"]
        assert losses["bf16"] == pytest.approx(losses["no"], rel=0.02)


class TestLayout:
    def test_channels_last_changes_no_value(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        content = {**VAE, "model": {**VAE["model"], **CONVOLUTIONS}}
        layouts = []
        step = GradientRun.step

        def seen(self: GradientRun, number: int) -> dict[str, Tensor]:
            layouts.extend(
                parameter.is_contiguous(memory_format=torch.channels_last)
                for parameter in self.objective.parameters()
                if parameter.dim() == 4 and min(parameter.shape[1:]) > 1
            )
            return step(self, number)

        monkeypatch.setattr(GradientRun, "step", seen)
        plain = run(tmp_path / "plain", content)
        assert layouts
        assert not any(layouts)
        layouts.clear()
        last = run(tmp_path / "last", content, channels_last=True, save_every=3)
        assert layouts
        assert all(layouts)
        assert column(last, "loss") == pytest.approx(column(plain, "loss"), rel=1e-4)
        ours, theirs = weights(last), weights(plain)
        assert all(torch.allclose(ours[name], theirs[name], atol=1e-4) for name in ours)
        # Taken up again, bit for bit, though what is saved is laid out plainly.
        cut = shutil.copytree(last, tmp_path / "cut")
        shutil.rmtree(cut / "model")
        shutil.rmtree(checkpoint(cut / "checkpoints", 6))
        run(cut, content, channels_last=True, save_every=3)
        assert column(cut, "loss") == column(last, "loss")
        assert equal(weights(cut), ours)

    @pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="there is no compiler")
    def test_compiled_networks_change_no_value(self, tmp_path: Path) -> None:
        from torch._dynamo.utils import counters

        counters.clear()
        # As many examples at a time in all that is done, for each number is a compilation.
        content = {**VAE, "evaluation": {"batch": 64, "examples": 64}}
        plain = run(tmp_path / "plain", content, steps=3, batch=64)
        assert not counters["stats"]
        compiled = run(tmp_path / "compiled", content, steps=3, batch=64, compile=True)
        assert counters["stats"]["unique_graphs"] >= 2
        assert column(compiled, "loss") == pytest.approx(column(plain, "loss"), rel=1e-4)
        assert weights(compiled).keys() == weights(plain).keys()
        torch._dynamo.reset()


class TestReports:
    def test_a_line_of_training(self, tmp_path: Path) -> None:
        lines = told(run(tmp_path, clip=1.0, log_every=2, steps=7))
        assert [line["step"] for line in lines] == [2, 4, 6, 7]
        for line in lines:
            assert line.keys() == {
                *("event", "step", "seconds", "loss", "distortion", "rate", "gradient_norm", "learning_rate"),
                *("examples_per_second", "peak_memory_mb"),
            }
            assert all(math.isfinite(value) for name, value in line.items() if name != "event")
            assert line["learning_rate"] == pytest.approx(1e-3)
            assert 50 < line["peak_memory_mb"] < 20_000
            assert 10 < line["examples_per_second"] < 1e7

    def test_throughput_is_that_of_the_batch(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from zoo_core.training import log

        clock = iter(range(1000))
        monkeypatch.setattr(log.time, "perf_counter", lambda: next(clock))
        monkeypatch.setattr(log.RunLog, "seconds", lambda self: 1.0)
        lines = told(run(tmp_path, log_every=2))
        # One tick of the clock between two reports, of two steps.
        assert [line["examples_per_second"] for line in lines][1:] == [2 * 96.0] * 2

    def test_where_and_how_it_was_run(self, tmp_path: Path) -> None:
        told = json.loads((run(tmp_path) / "environment.json").read_text())
        assert told["versions"]["torch"] == torch.__version__
        assert told["processes"] == 1
        assert told["device"].startswith("cpu")
        assert {"command", "started", "host", "system"} <= told.keys()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Sums in another order are others."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
