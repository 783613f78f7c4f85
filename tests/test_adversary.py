"""A loss with an adversary in the training loop: whose steps move what, resuming, processes."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor
from zoo_vae.factor import FactorVAE

from tests.test_training import log, losses, weights
from zoo_core import Batch, ConfigError, LossOutput, LossSpec, PluginHost, hookimpl
from zoo_core.training import train
from zoo_core.training.checkpoints import State, newest, read_state
from zoo_core.training.gradients import GradientRun
from zoo_core.training.reading import parse_recipe
from zoo_core.training.recipe import Recipe

RECIPE: dict[str, Any] = {
    "name": "tiny",
    "model": {
        "type": "vae/vae",
        "encoder": {"type": "nets/mlp_encoder", "latents": 3, "hidden": [16]},
        "decoder": {"type": "nets/mlp_decoder", "hidden": [16]},
        "prior": "nets/standard_normal",
    },
    "loss": {"type": "vae/factor", "gamma": 10.0, "hidden": [16, 16], "adversary_lr": 3.0e-3},
    "data": {"name": "core/digits", "preprocessing": {"binarize": "dynamic"}},
    "training": {"steps": 30, "batch": 32, "log_every": 1, "save_every": 10},
}
NOTHING = 1e-30  # a learning rate that is allowed, and moves no weight


class Leaky(FactorVAE):
    """Holds no gradient back: each player's loss reaches the parameters of both."""

    def forward(self, model: Any, batch: Batch) -> LossOutput:
        output = super().forward(model, batch)
        return output._replace(total=output.total + self.adversary(model.encoder(batch["image"]).rsample()).mean())

    def oppose(self, model: Any, batch: Batch) -> LossOutput:
        output = super().oppose(model, batch)
        return output._replace(total=output.total + self(model, batch).total)


class Plugin:
    @hookimpl
    def zoo_losses(self) -> Iterator[LossSpec]:
        yield LossSpec(name="leaky", target=f"{__name__}:Leaky", summary="Holds no gradient back.")


HOST = PluginHost()
HOST.register(Plugin(), "leaks")
whichever_loss = pytest.mark.parametrize("loss", ["vae/factor", "leaks/leaky"])


def content(**changes: Any) -> dict[str, Any]:
    changed: dict[str, Any] = json.loads(json.dumps(RECIPE))
    for path, value in changes.items():
        section, _, key = path.partition("__")
        changed[section][key] = value
    return changed


def recipe(**changes: Any) -> Recipe:
    return parse_recipe(content(**changes), host=HOST)


def written(folder: Path, **changes: Any) -> Path:
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(content(**changes)))
    return path


def trained(folder: Path, **changes: Any) -> dict[str, dict[str, Tensor]]:
    """The weights of both players after a run, as its newest checkpoint has them."""
    train(recipe(**changes), folder, host=HOST)
    return players(folder)


def players(folder: Path) -> dict[str, dict[str, Tensor]]:
    told: dict[str, dict[str, Tensor]] = {"model": {}, "adversary": {}}
    for name, value in state(folder).tensors["objective"].items():
        told["adversary" if name.startswith("loss.adversary.") else "model"][name] = value
    assert len(told["model"]) > len(told["adversary"]) == 6
    return told


def state(folder: Path) -> State:
    found = newest(folder / "checkpoints")
    assert found is not None
    return read_state(found)


def changed(a: dict[str, Tensor], b: dict[str, Tensor]) -> set[str]:
    """The names of the weights that differ."""
    assert a.keys() == b.keys()
    return {name for name in a if not torch.equal(a[name], b[name])}


def learned(a: dict[str, Tensor]) -> set[str]:
    """The names of the weights that a player learns; the prior's buffer is a scalar."""
    return {name for name, weight in a.items() if weight.dim()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    train(recipe(), folder)
    return folder


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Tensor]]:
    """The weights with which every run of this seed begins."""
    return trained(tmp_path_factory.mktemp("untrained"), training__lr=NOTHING, loss__adversary_lr=NOTHING)


class TestSteps:
    def test_both_players_learn(self, undisturbed: Path, untrained: Any) -> None:
        now = players(undisturbed)
        assert all(changed(now[player], untrained[player]) == learned(now[player]) for player in now)

    @whichever_loss
    def test_the_models_steps_move_no_adversary(self, loss: str, untrained: Any, tmp_path: Path) -> None:
        now = trained(tmp_path, loss__type=loss, loss__adversary_lr=NOTHING)
        assert changed(now["adversary"], untrained["adversary"]) == set()
        assert changed(now["model"], untrained["model"]) == learned(now["model"])

    @whichever_loss
    def test_the_adversarys_steps_move_no_model(self, loss: str, untrained: Any, tmp_path: Path) -> None:
        now = trained(tmp_path, loss__type=loss, training__lr=NOTHING)
        assert changed(now["model"], untrained["model"]) == set()
        assert changed(now["adversary"], untrained["adversary"]) == learned(now["adversary"])

    def test_a_model_that_does_not_heed_it_is_trained_as_if_it_stood_still(self, tmp_path: Path) -> None:
        """Not even the model's optimiser hears of the adversary's steps: its momentum would show."""
        learning = trained(tmp_path / "learning", loss__gamma=0.0)
        still = trained(tmp_path / "still", loss__gamma=0.0, loss__adversary_lr=NOTHING)
        assert changed(learning["model"], still["model"]) == set()
        assert changed(learning["adversary"], still["adversary"]) == learned(still["adversary"])

    def test_a_model_that_heeds_it_is_trained_otherwise(self, undisturbed: Path, tmp_path: Path) -> None:
        still = trained(tmp_path, loss__adversary_lr=NOTHING)
        assert changed(players(undisturbed)["model"], still["model"]) == learned(still["model"])

    def test_each_optimiser_has_what_its_player_moves(self, undisturbed: Path) -> None:
        optimizers = state(undisturbed).optimizers
        now = players(undisturbed)
        for player, optimizer in optimizers.items():
            moved = [now[player][name] for name in learned(now[player])]
            (group,) = optimizer["param_groups"]
            assert len(group["params"]) == len(optimizer["state"]) == len(moved)
            moments = [entry["exp_avg"].shape for entry in optimizer["state"].values()]
            assert sorted(moments) == sorted(weight.shape for weight in moved)
            assert all(int(entry["step"]) == 30 for entry in optimizer["state"].values())
        model, adversary = (optimizers[player]["param_groups"][0] for player in ("model", "adversary"))
        assert (model["lr"], model["betas"]) == (1e-3, [0.9, 0.999])
        assert (adversary["lr"], adversary["betas"]) == (3e-3, [0.5, 0.9])

    def test_the_finished_model_has_no_adversary(self, undisturbed: Path) -> None:
        assert not any("adversary" in name for name in weights(undisturbed))

    def test_the_adversarys_rate_follows_the_schedule(self, tmp_path: Path) -> None:
        train(recipe(training__warmup=10, training__schedule="cosine", training__clip=0.01), tmp_path)
        told = log(tmp_path)
        assert [line["adversary_learning_rate"] for line in told] == pytest.approx(
            [3 * line["learning_rate"] for line in told]
        )
        assert told[0]["learning_rate"] == pytest.approx(1e-4)
        assert all(line["gradient_norm"] > 0 < line["adversary_gradient_norm"] for line in told)

    def test_bf16_trains(self, tmp_path: Path) -> None:
        train(recipe(training__precision="bf16"), tmp_path)
        told = log(tmp_path)
        assert told[-1]["distortion"] < told[0]["distortion"]
        assert all(math.isfinite(line["adversary_loss"]) for line in told)

    def test_a_batch_without_enough_to_permute_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"learns nothing from a batch of 2: raise training\.batch"):
            train(recipe(training__batch=2), tmp_path)


class TestResume:
    def test_a_run_that_was_cut_goes_on_bit_for_bit(
        self, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder, make = tmp_path / "run", GradientRun.step
        for stop in (8, 17):

            def cut(run: GradientRun, step: int, stop: int = stop) -> Any:
                if step == stop:
                    raise KeyboardInterrupt
                return make(run, step)

            monkeypatch.setattr(GradientRun, "step", cut)
            with pytest.raises(KeyboardInterrupt):
                train(recipe(), folder, host=HOST)
            assert not (folder / "model").exists()
        monkeypatch.setattr(GradientRun, "step", make)
        train(recipe(), folder, host=HOST)
        assert losses(folder) == losses(undisturbed)
        assert opposed(folder) == opposed(undisturbed)
        assert all(changed(players(folder)[player], w) == set() for player, w in players(undisturbed).items())


def opposed(folder: Path) -> list[str]:
    return [float(line["adversary_loss"]).hex() for line in log(folder)]
