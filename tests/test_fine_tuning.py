"""Training finished models further: which model, which of its numbers, and what stays as it is."""

import copy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from torch import nn

from tests.hub_server import HubServer
from zoo_core import (
    CheckpointError,
    ConfigError,
    ModelSpec,
    PluginHost,
    TrainingError,
    build,
    default_host,
    from_pretrained,
    hookimpl,
    push_to_hub,
    save_pretrained,
)
from zoo_core.data import InMemory, Preprocessing
from zoo_core.ready_parts import build_ready, is_ready, model_for, spelled_out
from zoo_core.training.tuning.fine_tuning import adapt, recipe_from
from zoo_core.training.tuning.freezing import freeze
from zoo_core.training.tuning.lora import Lora, add_lora, has_lora, merge_lora, merged

VAE: dict[str, Any] = {
    "type": "vae/vae",
    "encoder": {"type": "nets/mlp_encoder", "latents": 2, "hidden": [6, 7]},
    "decoder": {"type": "nets/mlp_decoder", "hidden": [5]},
    "prior": "nets/standard_normal",
}
VQVAE: dict[str, Any] = {
    "type": "vqvae/vqvae",
    "encoder": {"type": "nets/conv_encoder", "latents": 4, "channels": [8], "layout": "grid"},
    "quantizer": {"type": "vqvae/ema", "codes": 7},
    "decoder": {"type": "nets/conv_decoder", "channels": [8]},
}
DALLE: dict[str, Any] = {
    "type": "dalle/dalle", "first_stage": VQVAE, "vocabulary": 258, "text_length": 6, "dim": 12, "depth": 2, "heads": 2
}  # fmt: skip
RECIPE = {"name": "small", "loss": "vae/elbo", "data": {"name": "core/digits"}, "training": {"steps": 3}}


def made(config: dict[str, Any], shape: tuple[int, ...] = (1, 8, 8)) -> Any:
    torch.manual_seed(0)
    return build(config, "model", data_shape=shape)


def pictures(count: int = 16, shape: tuple[int, ...] = (1, 8, 8)) -> InMemory:
    images = torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return InMemory("drawn", "train", {"image": images}, "0" * 16)


def copied(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def changed(model: nn.Module, before: dict[str, torch.Tensor]) -> set[str]:
    """The names of what is no longer bit for bit the same."""
    after = model.state_dict()
    assert list(after) == list(before)
    return {name for name in before if before[name].numpy().tobytes() != after[name].numpy().tobytes()}


def trained(model: nn.Module, loss: str | dict[str, Any], batch: dict[str, Any], steps: int = 3) -> None:
    """A few steps with a large decay of weights, which would move whatever an optimiser is given."""
    objective = build(loss, "loss").train()
    moved = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(moved, lr=0.05, weight_decay=0.5)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        objective(model.given(batch), batch).total.backward()
        optimizer.step()
        for module in model.modules():
            if module.training and hasattr(module, "after_step"):
                module.after_step()


def images(shape: tuple[int, ...] = (1, 8, 8)) -> dict[str, Any]:
    x = torch.rand(9, *shape, generator=torch.Generator().manual_seed(1))
    return {"image": x, "caption": ["red", "a dog", "", "b", "c", "d", "e", "f", "g"]}


@pytest.fixture(scope="module")
def vae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = made(VAE)
    model.preprocessing = Preprocessing(image_size=(8, 8), binarize="dynamic")
    model.provenance = {"recipe": {**RECIPE, "model": VAE}, "steps": 3}
    return save_pretrained(model, tmp_path_factory.mktemp("vae") / "model")


@pytest.fixture(scope="module")
def dalle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a tokenizer that knows a word."""
    model = made(DALLE)
    columns = {"image": torch.zeros(4, 1, 8, 8, dtype=torch.uint8), "caption": ["red", "red", "red", "red red"]}
    model.before_training(InMemory("words", "train", columns, "0" * 16))
    return save_pretrained(model, tmp_path_factory.mktemp("dalle") / "model")


class TestReadyModel:
    def test_is_loaded_as_it_is(self, vae: Path) -> None:
        config = {"pretrained": str(vae)}
        assert is_ready(config)
        assert not is_ready(VAE)
        assert not is_ready("vae/vae")
        model = build_ready(config, "model", data_shape=(1, 8, 8))
        assert changed(model, copied(from_pretrained(vae))) == set()
        assert all(parameter.requires_grad for parameter in model.parameters())
        assert spelled_out(config)["type"] == "vae/vae"

    def test_its_preprocessing_holds_where_the_recipe_says_nothing(self, vae: Path) -> None:
        config, data = {"pretrained": str(vae)}, pictures(shape=(3, 20, 20))
        assert model_for(config, data, {"channels": 1}).preprocessing == Preprocessing((8, 8), 1, "dynamic")
        chosen = {"channels": 1, "binarize": "none"}
        assert model_for(config, data, chosen).preprocessing == Preprocessing((8, 8), 1)

    def test_data_that_do_not_fit_are_told_what_would_make_them(self, vae: Path) -> None:
        with pytest.raises(ConfigError, match=r"^model: .* takes data of shape \(1, 8, 8\), and these are \(3, 8, 8\)"):
            model_for({"pretrained": str(vae)}, pictures(shape=(3, 20, 20)), {})
        with pytest.raises(ConfigError) as caught:
            build_ready({"pretrained": str(vae)}, "model", data_shape=(3, 20, 30))
        remedy = str(caught.value).partition("set data.preprocessing to ")[2]
        assert remedy == "{image_size: [8, 8], channels: 1}"
        with pytest.raises(ConfigError) as caught:
            build_ready({"pretrained": str(vae)}, "model", data_shape=(5,))
        assert str(caught.value).endswith("these are (5,)")

    def test_it_takes_its_own_words_and_no_others(self, dalle: Path) -> None:
        blank = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
        data = InMemory("others", "train", {"image": blank, "caption": ["blue", "blue"]}, "0" * 16)
        ready = model_for({"pretrained": str(dalle)}, data, {})
        assert ready.files() == {"tokenizer.json": (dalle / "tokenizer.json").read_bytes()}
        anew, bare = model_for(DALLE, data, {}), made(DALLE)
        for model, word in ((ready, "red"), (anew, "blue")):
            assert len(model.token_rows([word])[0]) < len(bare.token_rows([word])[0])

    def test_a_ready_part_keeps_its_files(self, dalle: Path, tmp_path: Path) -> None:
        class Plugin:
            @hookimpl
            def zoo_models(self) -> Iterator[ModelSpec]:
                yield ModelSpec(
                    name="wrapped", target="tests.wrapped:Wrapped", summary=".",
                    density="none", sampling="parallel", latent="none",
                )  # fmt: skip

        host = PluginHost()
        host.register(Plugin(), "wrapping")
        model = build_ready({"type": "wrapping/wrapped", "inner": {"pretrained": str(dalle)}}, "model", host=host)
        again = from_pretrained(save_pretrained(model, tmp_path / "wrapped", host=host), host=host)
        assert model.inner.files() == again.inner.files() == from_pretrained(dalle).files()
        assert changed(again.inner, copied(from_pretrained(dalle))) == set()

    @pytest.mark.parametrize(
        ("config", "sentence"),
        [
            ({"pretrained": 3}, "^model.pretrained: must be the name of a model, got 3"),
            ({"pretrained": "vae-mnist", "sha": "0"}, "^model.sha: no such argument; did you mean 'sha256'"),
        ],
    )
    def test_a_wrong_one_is_told_its_place(self, config: dict[str, Any], sentence: str) -> None:
        with pytest.raises(ConfigError, match=sentence):
            build_ready(config, "model")

    def test_other_weights_of_that_name_are_refused(self, vae: Path) -> None:
        with pytest.raises(CheckpointError, match="exchanged"):
            build_ready({"pretrained": str(vae), "sha256": "0" * 64}, "model")


class TestRecipe:
    def test_without_another_it_is_the_models_own(self, vae: Path) -> None:
        content = recipe_from(vae)
        own = from_pretrained(vae).provenance["recipe"]
        assert content["data"] == own["data"]
        assert content["loss"] == {"type": own["loss"], "warmup": 0}
        assert content["training"] == {**own["training"], "warmup": 0}
        assert content["name"] == "small-fine-tuned"
        assert content["model"].keys() == {"pretrained", "sha256"}
        assert changed(build_ready(content["model"], "model"), copied(from_pretrained(vae))) == set()

    def test_what_the_model_began_with_is_over(self, tmp_path: Path) -> None:
        model = made(VAE)
        for loss in ({"type": "vae/elbo", "warmup": 7, "beta": 2.0}, "vae/capacity"):
            recipe = {**RECIPE, "loss": loss, "training": {"steps": 3, "warmup": 5}}
            model.provenance = {"recipe": recipe}
            folder = save_pretrained(model, tmp_path / "model")
            content = recipe_from(folder)
            assert content["training"] == {"steps": 3, "warmup": 0}
            assert content["loss"]["warmup"] == 0
            assert recipe_from(folder, recipe)["loss"] == loss
        assert content["loss"]["type"] == "vae/capacity"

    def test_another_keeps_all_but_its_model(self, vae: Path) -> None:
        given = {**RECIPE, "name": "other", "loss": "vae/iwae", "model": {"type": "nothing"}}
        content = recipe_from(str(vae), given)
        assert content["loss"] == "vae/iwae"
        assert content["model"]["pretrained"] == str(vae)
        assert content["model"].keys() == {"pretrained", "sha256"}
        assert given["model"] == {"type": "nothing"}

    def test_a_model_that_does_not_say_how_it_was_trained_needs_one(self, tmp_path: Path) -> None:
        folder = save_pretrained(made(VAE), tmp_path / "bare")
        with pytest.raises(ConfigError, match="does not record how it was trained; name a recipe"):
            recipe_from(folder)
        assert recipe_from(folder, RECIPE)["name"] == "bare-fine-tuned"

    def test_on_the_hub_the_commit_is_kept(self, vae: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with HubServer() as server:
            url = "/{repo_id}/resolve/{revision}/{filename}"
            for name, value in {
                "ENDPOINT": server.url, "HUGGINGFACE_CO_URL_TEMPLATE": server.url + url,
                "HF_HUB_CACHE": str(tmp_path), "HF_HUB_DISABLE_XET": True, "HF_HUB_OFFLINE": False,
            }.items():  # fmt: skip
                monkeypatch.setattr(constants, name, value)
            monkeypatch.setenv("HF_TOKEN", server.token)
            monkeypatch.setenv("NO_PROXY", "127.0.0.1")
            commit = push_to_hub(vae, "me/small", revision="next")
            config = recipe_from("me/small", revision="next")["model"]
            assert config == {"pretrained": "me/small", "revision": commit}
            assert changed(build_ready(config, "model"), copied(from_pretrained(vae))) == set()

    def test_an_installed_model_is_named_as_it_is(self) -> None:
        content = recipe_from("vae-mnist")
        assert content["name"] == "vae-mnist-fine-tuned"
        assert content["model"]["pretrained"] == "vae-mnist"
        assert content["data"]["name"] == "ylecun/mnist"


class TestFreeze:
    @pytest.mark.parametrize(
        ("patterns", "frozen"),
        [
            (["encoder"], {"encoder"}),
            (["decoder.*"], {"decoder"}),
            (["encoder", "decoder.body.1.bias"], {"encoder", "decoder.body.1.bias"}),
            (["*.weight"], {name for name in made(VAE).state_dict() if name.endswith("weight")}),
            ([], set[str]()),
        ],
    )
    def test_what_is_named_stays_bit_for_bit_and_all_else_learns(self, patterns: list[str], frozen: set[str]) -> None:
        model = made(VAE)
        before = copied(model)
        freeze(model, patterns)
        trained(model, "vae/elbo", images())
        stay = {name for name in before if any(name == f or name.startswith(f"{f}.") for f in frozen)}
        assert changed(model, before) == {name for name, _ in model.named_parameters()} - stay

    def test_a_frozen_codebook_does_not_learn(self) -> None:
        free, frozen = made(VQVAE), made(VQVAE)
        before = copied(frozen)
        freeze(frozen, ["encoder", "quantizer"])
        for model in (free, frozen):
            trained(model, "vqvae/vq", images())
        assert {"quantizer.e", "quantizer.N"} <= changed(free, before)
        assert changed(frozen, before) == {name for name in before if name.startswith("decoder.")}

    def test_frozen_modules_stay_in_evaluation_mode_alone(self) -> None:
        model, other = nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.Dropout()), nn.Linear(2, 1)), nn.Dropout()
        freeze(model, ["0"])
        for again in (model.train(), copy.deepcopy(model).train()):
            assert [m.training for m in again.modules()] == [True, False, False, False, True]
        assert other.train().training
        assert not any(m.training for m in model.eval().modules())
        free = copy.deepcopy(model)
        freeze(free, ["1.bias"])
        assert free.train()[1].training

    @pytest.mark.parametrize(
        ("patterns", "sentence"),
        [
            (["decoder", "encodr"], r"^training.freeze\[1\]: the model has no part 'encodr'; did you mean: encoder"),
            (["xyz"], "no part 'xyz'; there are: encoder, decoder, prior"),
            (["*"], "^training.freeze: leaves nothing to train"),
        ],
    )
    def test_a_wrong_pattern_is_one_sentence_and_freezes_nothing(self, patterns: list[str], sentence: str) -> None:
        model = made(VAE)
        with pytest.raises(ConfigError, match=sentence):
            freeze(model, patterns)
        assert all(parameter.requires_grad for parameter in model.parameters())
        assert all(module.training for module in model.train().modules())

    def test_a_fit_by_sums_has_no_such_settings(self) -> None:
        mixture = build({"type": "classical/gmm", "components": 2}, "model", data_shape=(3,))
        for settings, name in (({"freeze": ["mu"]}, "freeze"), ({"lora": {}}, "lora")):
            with pytest.raises(ConfigError, match=f"^training.{name}: GMM is fitted by sums"):
                adapt(mixture, **settings)


def disturbed(model: nn.Module) -> None:
    """Adapters far from nothing."""
    generator = torch.Generator().manual_seed(2)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter, std=0.2, generator=generator)


@torch.no_grad()
def seen(model: Any) -> torch.Tensor:
    """What a model makes of data, all its linear layers taking part."""
    batch = images((3, 16, 16) if model.data_shape[0] == 3 else (1, 8, 8))
    if hasattr(model, "stream"):
        return model.given(batch).log_prob(batch["image"])
    return model.reconstruct(batch["image"])


class TestLora:
    @pytest.mark.parametrize(
        ("config", "targets", "count"),
        [
            (VAE, ["*"], 3 * ((64 + 6) + (6 + 7) + (7 + 4) + (2 + 5) + (5 + 64))),
            (VAE, ["decoder", "encoder.body.1"], 3 * ((64 + 6) + (2 + 5) + (5 + 64))),
            (DALLE, ["stream.transformer"], 2 * 3 * ((12 + 36) + (12 + 12) + 2 * (12 + 48))),
            (DALLE, ["*.attention.qkv", "stream.next_code"], 3 * (2 * (12 + 36) + (12 + 7))),
        ],
    )
    def test_so_many_numbers_are_trained_as_the_formula_says(
        self, config: dict[str, Any], targets: list[str], count: int
    ) -> None:
        model = made(config)
        add_lora(model, {"rank": 3, "targets": targets})
        assert sum(p.numel() for p in model.parameters() if p.requires_grad) == count

    @pytest.mark.parametrize("config", [VAE, {**VQVAE, "decoder": "nets/mlp_decoder"}, DALLE], ids=lambda c: c["type"])
    def test_new_adapters_change_nothing_and_merging_them_neither(self, config: dict[str, Any]) -> None:
        model = made(config).eval()
        with torch.no_grad():
            next(iter(model.parameters())).view(-1)[0] = -0.0
        before, y = copied(model), seen(model)
        add_lora(model, {"rank": 2})
        assert has_lora(model)
        assert torch.equal(seen(model), y)
        assert merge_lora(model) is model
        assert not has_lora(model)
        assert changed(model, before) == set()
        assert torch.equal(seen(model), y)

    @pytest.mark.parametrize("config", [VAE, DALLE], ids=lambda c: c["type"])
    def test_merged_it_computes_the_same_and_is_saved_as_any_model(
        self, config: dict[str, Any], tmp_path: Path
    ) -> None:
        model = made(config).eval()
        names, y = list(model.state_dict()), seen(model)
        learning = [p.requires_grad for p in model.parameters()]
        add_lora(model, {"rank": 2, "alpha": 3})
        disturbed(model)
        with_adapters = seen(model)
        assert not torch.allclose(with_adapters, y, atol=1e-2)
        copied_and_merged = merge_lora(copy.deepcopy(model))
        assert torch.equal(seen(model), with_adapters)
        merge_lora(model)
        for whole in (model, copied_and_merged, from_pretrained(save_pretrained(model, tmp_path / "merged"))):
            assert torch.allclose(seen(whole), with_adapters, rtol=1e-4, atol=1e-4)
            assert list(whole.state_dict()) == names
            assert [p.requires_grad for p in whole.parameters()] == learning
            assert type(whole.get_submodule(names[0].rpartition(".")[0])) in (nn.Linear, nn.Conv2d, nn.Embedding)

    def test_merged_for_a_while_it_is_bit_for_bit_what_it_was_afterwards(self, tmp_path: Path) -> None:
        model = made(VAE)
        names = list(model.state_dict())
        add_lora(model, {"rank": 2})
        disturbed(model)
        before, y = copied(model), seen(model)
        with merged(model):
            assert list(model.state_dict()) == names
            assert torch.allclose(seen(model), y, atol=1e-5)
            again = from_pretrained(save_pretrained(model, tmp_path / "on-the-way"))
        with pytest.raises(KeyError), merged(model):
            raise KeyError
        assert torch.allclose(seen(again), y, atol=1e-5)
        assert changed(model, before) == set()
        trained(model, "vae/elbo", images())
        assert all("lora_" in name for name in changed(model, before))
        untouched = made(VAE)
        with merged(untouched):
            pass
        assert changed(untouched, copied(made(VAE))) == set()

    def test_the_adapter_is_alpha_over_rank_b_a(self) -> None:
        model = made(VAE)
        linear = model.decoder.body[1]
        before = linear.weight.clone()
        add_lora(model, {"rank": 2, "alpha": 5, "targets": ["decoder.body.1"]})
        disturbed(model)
        a, b = (dict(model.named_parameters())[f"decoder.body.1.lora_{x}.default.weight"] for x in "AB")
        expected = before + 5 / 2 * b @ a
        assert torch.allclose(merge_lora(model).decoder.body[1].weight, expected)

    @pytest.mark.parametrize(("config", "loss"), [(VAE, "vae/elbo"), (DALLE, "dalle/text_image")])
    def test_training_moves_the_adapters_alone(self, config: dict[str, Any], loss: str) -> None:
        model = made(config)
        before = {name.replace(".base_layer", ""): value for name, value in copied(model).items()}
        add_lora(model, {"rank": 2, "dropout": 0.1})
        first = copied(model)
        trained(model, loss, images())
        moved = changed(model, first)
        assert moved
        assert all("lora_" in name for name in moved)
        own = {n.replace(".base_layer", ""): v for n, v in model.state_dict().items() if "lora_" not in n}
        assert own.keys() == before.keys()
        assert all(torch.equal(own[name], before[name]) for name in before)

    def test_what_learns_in_the_forward_pass_stays_too(self) -> None:
        config = {**VQVAE, "decoder": {"type": "nets/mlp_decoder", "hidden": [5]}}
        model = made(config)
        before = copied(model)
        add_lora(model, {"rank": 2})
        trained(model, "vqvae/vq", images())
        merge_lora(model)
        assert changed(model, before) == {"decoder.body.1.weight", "decoder.body.3.weight"}
        trained(model, "vqvae/vq", images())
        assert "quantizer.e" in changed(model, before)

    def test_frozen_layers_get_none_and_others_stay_frozen_afterwards(self) -> None:
        model = made(VAE)
        freeze(model, ["encoder"])
        add_lora(model, {"targets": ["*"]})
        assert all("encoder" not in name for name, p in model.named_parameters() if p.requires_grad)
        merge_lora(model)
        assert [p.requires_grad for p in model.encoder.parameters()] == [False] * 6
        assert all(p.requires_grad for p in model.decoder.parameters())
        assert not model.train().encoder.training

    def test_dropout_drops_in_training_alone(self) -> None:
        model = made(VAE).eval()
        add_lora(model, {"dropout": 0.5})
        disturbed(model)
        assert torch.equal(seen(model), seen(model))
        model.train()
        assert not torch.equal(seen(model), seen(model))

    def test_a_weight_that_is_looked_at_is_the_adapted_one(self) -> None:
        """A tied decoder multiplies by the encoder's weight without calling its layer."""
        config = {"type": "autoencoder/tied_autoencoder", "latents": 3}
        model = made(config).eval()
        add_lora(model, {"rank": 2})
        disturbed(model)
        y = seen(model)
        assert torch.allclose(seen(merge_lora(model)), y, atol=1e-5)

    def test_layers_that_do_more_than_multiply_get_none(self) -> None:
        flow = build("flow/maf", "model", data_shape=(4,))
        with pytest.raises(ConfigError, match=r"^training.lora.targets\[0\]: no linear layer that is trained"):
            add_lora(flow, {})

    def test_its_state_is_taken_up_by_a_model_that_is_made_alike(self) -> None:
        models = [made(VAE), made(VAE)]
        for seed, model in enumerate(models):
            torch.manual_seed(seed)
            add_lora(model, {"rank": 2})
        disturbed(models[0])
        models[1].load_state_dict(models[0].state_dict())
        assert torch.equal(seen(models[0].eval()), seen(models[1].eval()))

    @pytest.mark.parametrize(
        ("settings", "sentence"),
        [
            ({"rank": 0}, "^training.lora.rank: must be a positive integer, got 0"),
            ({"dropout": 2}, "^training.lora.dropout: must be a number from 0 to 1"),
            ({"ranks": 3}, "^training.lora.ranks: no such argument; did you mean 'rank'"),
            ({"targets": ["decoder", "encodr.*"]}, r"^training.lora.targets\[1\]: no linear layer .* fits 'encodr"),
            ({"targets": []}, "^training.lora.targets: names no layer"),
        ],
    )
    def test_wrong_settings_are_one_sentence(self, settings: dict[str, Any], sentence: str) -> None:
        model = made(VAE)
        before = copied(model)
        with pytest.raises(ConfigError, match=sentence):
            add_lora(model, settings)
        assert changed(model, before) == set()
        assert all(p.requires_grad for p in model.parameters())

    def test_adapters_are_added_once_and_saved_only_when_merged(self, tmp_path: Path) -> None:
        model = made(VAE)
        add_lora(model, Lora())
        with pytest.raises(TrainingError, match="merge_lora"):
            add_lora(model, Lora())
        with pytest.raises(CheckpointError, match="no longer what its config makes"):
            save_pretrained(model, tmp_path / "adapted")

    def test_without_peft_the_sentence_says_what_to_install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "peft", None)
        model = made(VAE)
        before = copied(model)
        with pytest.raises(
            TrainingError, match=r"^training.lora: needs the package peft: pip install 'zoo-core\[lora\]'"
        ):
            add_lora(model, {})
        assert changed(model, before) == set()
        assert merge_lora(model) is model


def test_every_model_that_the_plugins_ship_can_be_a_start() -> None:
    for registration in default_host().registrations("checkpoint"):
        content = recipe_from(registration.full_name)
        assert content["model"].keys() >= {"pretrained"}
