"""The training loop: order, schedules, resuming, processes, refusals."""

import itertools
import json
import math
import os
import subprocess
import sys

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests import tiny
from zoo_core import ConfigError, TrainingError, UnknownComponent, from_pretrained
from zoo_core.data import InMemory
from zoo_core.evaluation import read_results
from zoo_core.training import read_recipe, train
from zoo_core.training.checkpoints import newest, read_state
from zoo_core.training.order import Order
from zoo_core.training.reading import parse_recipe, parse_yaml
from zoo_core.training.recipe import Training
from zoo_core.training.schedules import SCHEDULES, learning_rate

RECIPE = {
    "name": "tiny",
    "model": tiny.VAE,
    "loss": "vae/elbo",
    "data": {"name": "core/digits", "preprocessing": {"binarize": "dynamic"}},
    "training": {"steps": 30, "batch": 32, "log_every": 1, "save_every": 10, "warmup": 5, "schedule": "cosine"},
    "evaluation": {"metrics": ["metrics/elbo"]},
}


def recipe(**changes):
    content = json.loads(json.dumps(RECIPE))
    for path, value in changes.items():
        section, _, key = path.partition("__")
        content[section][key] = value
    return parse_recipe(content)


def log(folder, event="train"):
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == event]


def losses(folder):
    return [(line["step"], float(line["loss"]).hex()) for line in log(folder)]


def weights(folder):
    return {k: v.clone() for k, v in from_pretrained(folder / "model").state_dict().items()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    train(recipe(), folder)
    return folder


def order(examples, batch, *, world=1, **training):
    data = InMemory("plain", "train", {"image": torch.zeros(examples, 1, 1, 1, dtype=torch.uint8)})
    return Order(data, Training(steps=1, batch=batch, **training), world)


class TestOrder:
    @given(st.integers(1, 200), st.data(), st.integers(0, 10), st.booleans())
    def test_an_epoch_sees_no_example_twice_and_leaves_out_less_than_a_batch(self, examples, data, seed, drop_last):
        batch = data.draw(st.integers(1, examples))
        plan = order(examples, batch, seed=seed, drop_last=drop_last)
        epoch = data.draw(st.integers(0, 3)) * plan.steps_per_epoch
        seen = torch.cat([plan.step(epoch + s) for s in range(plan.steps_per_epoch)])
        assert len(seen) == len(set(seen.tolist())) == (examples - examples % batch if drop_last else examples)
        assert int(seen.min()) >= 0
        assert int(seen.max()) < examples

    def test_epochs_and_seeds_differ(self):
        orders = {tuple(order(50, 50, seed=seed).step(step).tolist()) for step in range(5) for seed in range(5)}
        assert len(orders) == 25

    def test_steps_may_be_asked_for_in_any_order(self):
        plan = order(50, 20)
        backwards = [plan.step(step).tolist() for step in reversed(range(6))]
        assert backwards == [plan.step(step).tolist() for step in range(6)][::-1]

    @pytest.mark.parametrize("world", [1, 2, 4])
    def test_micro_batches_are_the_same_however_many_processes(self, world):
        assert order(100, 32, world=world, micro_batch=8).parts == 4

    def test_a_rest_too_small_for_the_micro_batches_is_left_out(self):
        assert order(34, 32, micro_batch=8, drop_last=False).steps_per_epoch == 1
        assert order(36, 32, micro_batch=8, drop_last=False).steps_per_epoch == 2

    def test_epochs_are_counted_in_steps(self):
        assert order(100, 32).steps(Training(epochs=2.5, batch=32)) == 8
        assert order(100, 32, drop_last=False).steps(Training(epochs=2.5, batch=32)) == 10

    def test_processes_that_cannot_share_are_refused(self):
        with pytest.raises(TrainingError, match="33 cannot be shared by 2 processes; use a multiple of 2"):
            order(100, 33, world=2)
        with pytest.raises(
            TrainingError, match="24 cannot be shared by 2 processes in micro-batches of 8; use a multiple of 16"
        ):
            order(100, 24, world=2, micro_batch=8)


class TestSchedules:
    @pytest.mark.parametrize("schedule", SCHEDULES)
    def test_rises_to_the_peak_and_never_rises_again(self, schedule):
        rates = [learning_rate(s, steps=100, peak=0.5, warmup=10, schedule=schedule) for s in range(100)]
        assert rates[:10] == pytest.approx([0.05 * (s + 1) for s in range(10)])
        assert max(rates) == pytest.approx(0.5)
        assert all(a >= b for a, b in itertools.pairwise(rates[10:]))

    def test_cosine_ends_at_nothing_and_is_half_way_in_the_middle(self):
        assert learning_rate(100, steps=100, peak=1, warmup=0, schedule="cosine") == pytest.approx(0)
        assert learning_rate(50, steps=100, peak=1, warmup=0, schedule="cosine") == pytest.approx(0.5)

    def test_burda_spends_three_times_as_long_on_each_rate(self):
        total = sum(3**i for i in range(8))
        rates = [learning_rate(s, steps=total, peak=1, warmup=0, schedule="burda") for s in range(total)]
        assert [rates.count(r) for r in sorted(set(rates), reverse=True)] == [3**i for i in range(8)]
        assert min(rates) == pytest.approx(0.1)


class TestRun:
    def test_the_loss_falls_and_the_model_loads(self, undisturbed):
        told = log(undisturbed)
        assert told[-1]["loss"] < told[0]["loss"]
        model = from_pretrained(undisturbed / "model")
        assert model.provenance["recipe"] == recipe().as_dict()
        assert model.preprocessing.binarize == "dynamic"
        assert model.sample(3).shape == (3, 1, 8, 8)

    def test_terms_add_up_to_the_loss(self, undisturbed):
        for line in (*log(undisturbed), *log(undisturbed, "held_out")):
            assert line["loss"] == pytest.approx(line["distortion"] + line["rate"], rel=1e-5)

    def test_results_hold_what_was_measured(self, undisturbed):
        results = read_results(undisturbed / "model" / "results.json")[0]
        assert results["values"]["elbo"]["n"] == 360
        assert results["values"]["elbo"]["value"] == log(undisturbed, "measured")[0]["elbo"]

    def test_the_same_seed_gives_the_same_weights_and_another_does_not(self, undisturbed, tmp_path):
        train(recipe(), tmp_path / "same")
        train(recipe(training__seed=1), tmp_path / "other")
        same, other, first = weights(tmp_path / "same"), weights(tmp_path / "other"), weights(undisturbed)
        assert all(torch.equal(first[k], same[k]) for k in first)
        assert not any(torch.equal(first[k], other[k]) for k in first if k.endswith("weight"))

    def test_a_measurement_that_is_refused_costs_no_model(self, tmp_path):
        twice = ["metrics/elbo", {"type": "metrics/elbo", "samples": 2}]
        with pytest.raises(ConfigError, match="more than one of the metrics reports"):
            train(recipe(evaluation__metrics=twice, training__steps=2), tmp_path)
        assert from_pretrained(tmp_path / "model").provenance["steps"] == 2

    def test_only_the_newest_checkpoints_stay(self, undisturbed):
        assert [p.name for p in sorted((undisturbed / "checkpoints").iterdir())] == ["step-00000020", "step-00000030"]

    def test_clipping_bounds_the_step(self, tmp_path):
        train(recipe(training__clip=0.01, training__steps=3), tmp_path)
        assert all(line["gradient_norm"] > 0.01 for line in log(tmp_path))

    def test_bf16_trains(self, tmp_path):
        train(recipe(training__precision="bf16"), tmp_path)
        told = log(tmp_path)
        assert told[-1]["loss"] < told[0]["loss"]
        assert all(v.dtype == torch.float32 for v in weights(tmp_path).values() if v.is_floating_point())


class TestResume:
    def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(self, undisturbed, tmp_path, caplog):
        train(recipe(), tmp_path)
        damaged = tmp_path / "checkpoints" / "step-00000030" / "objective.safetensors"
        damaged.write_bytes(damaged.read_bytes()[:-1])
        found = newest(tmp_path / "checkpoints")
        assert found is not None
        assert read_state(found).step == 20
        assert "step-00000030 is damaged" in caplog.text
        train(recipe(), tmp_path)
        assert losses(tmp_path) == losses(undisturbed)

    def test_another_recipe_is_refused_and_nothing_is_lost(self, tmp_path):
        train(recipe(training__steps=2), tmp_path)
        before = weights(tmp_path)
        with pytest.raises(TrainingError, match=r"training\.lr was 0\.001, is 0\.1"):
            train(recipe(training__steps=2, training__lr=0.1), tmp_path)
        assert all(torch.equal(before[k], v) for k, v in weights(tmp_path).items())


class TestProcesses:
    def test_processes_that_do_not_know_of_each_other_are_refused(self, tmp_path):
        path = tmp_path / "tiny.yaml"
        path.write_text(yaml.safe_dump(RECIPE))
        environment = {**os.environ, "WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "-1"}
        done = _run_module(path, tmp_path / "run", env=environment)
        assert done.returncode == 1
        assert "2 processes were launched but each trains alone" in done.stderr
        assert not (tmp_path / "run" / "log.jsonl").exists()


class TestRefusals:
    def test_a_batch_larger_than_the_data(self, tmp_path):
        with pytest.raises(TrainingError, match="5000 is more than the 1437 examples"):
            train(recipe(training__batch=5000), tmp_path)

    def test_a_loss_that_is_not_finite_stops_before_the_weights_change(self, tmp_path):
        with pytest.raises(TrainingError, match=r"the loss is (nan|inf) at step \d+ \(distortion"):
            train(recipe(training__lr=1e30, training__save_every=1), tmp_path)
        assert newest(tmp_path / "checkpoints") is not None

    @pytest.mark.parametrize(
        ("override", "sentence"),
        [
            ("training.lr=-1", r"training\.lr: must be a number above 0, got -1"),
            ("training.steps=0", r"training\.steps: must be a positive integer or null, got 0"),
            ("training.steps=null", r"training\.steps: give either 'steps' or 'epochs'"),
            ("training.learning_rate=1", r"training\.learning_rate: no such argument"),
            ("model.encoder.hidden=[16,-2]", r"model\.encoder\.hidden\[1\]: must be a positive integer, got -2"),
            ("loss=vae/elbow", r"loss: no loss 'vae/elbow'; did you mean: vae/elbo\?"),
            ("evaluation.metrics=[nope]", r"evaluation\.metrics\[0\]: no metric 'nope'"),
            ("model=5", r"model: must be a mapping"),
            ("nonsense", "use key=value"),
            ("training.lr=[", "no valid YAML"),
            ("data.name.x=1", "is a string|no such argument|must be a string"),
        ],
    )
    def test_bad_overrides_name_their_path(self, tmp_path, override, sentence):
        path = tmp_path / "tiny.yaml"
        path.write_text(yaml.safe_dump(RECIPE))
        with pytest.raises((ConfigError, UnknownComponent), match=sentence):
            read_recipe(path, [override])

    def test_overrides_reach_a_component_written_as_a_name(self, tmp_path):
        path = tmp_path / "tiny.yaml"
        path.write_text(yaml.safe_dump(RECIPE))
        assert read_recipe(path, ["loss.beta=4", "training.lr=3e-4"]).loss == {"type": "vae/elbo", "beta": 4}
        assert math.isclose(read_recipe(path, ["training.lr=3e-4"]).training.lr, 3e-4)

    def test_yaml_means_what_people_mean(self, tmp_path):
        path = tmp_path / "tiny.yaml"
        path.write_text("a: 1e-3\nb: no\nc: true\nd: off\ne: null\nf: 'no'\n")
        assert parse_yaml(path.read_text(), "here") == {
            "a": 1e-3,
            "b": "no",
            "c": True,
            "d": "off",
            "e": None,
            "f": "no",
        }

    def test_of_steps_and_epochs_one_replaces_the_other(self, tmp_path):
        path = tmp_path / "tiny.yaml"
        path.write_text(yaml.safe_dump(RECIPE))
        assert read_recipe(path, ["training.epochs=2"]).training.steps is None
        with pytest.raises(ConfigError, match="give either 'steps' or 'epochs'"):
            read_recipe(path, ["training.epochs=2", "training.steps=5"])

    def test_missing_files_and_fields(self, tmp_path):
        with pytest.raises(UnknownComponent, match="no recipe file"):
            read_recipe(tmp_path / "none.yaml")
        with pytest.raises(UnknownComponent, match=r"there are: .*vae/vae-mnist"):
            read_recipe("none")
        with pytest.raises(ConfigError, match="model: is required"):
            parse_recipe({"name": "x", "loss": "vae/elbo", "data": {"name": "digits"}, "training": {"steps": 1}})


def _run_module(path, folder, env=None):
    command = [sys.executable, "-m", "zoo_core.training", str(path), "-o", str(folder)]
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=120)
