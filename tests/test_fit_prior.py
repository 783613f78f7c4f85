"""Priors fitted after the fact: the latents they are fitted to, what the fit changes, and what it leaves alone."""

import hashlib
import json
import re
import shlex
import signal
from pathlib import Path

import pytest
import torch
from torch.distributions import Independent, Normal
from typer.testing import CliRunner

from tests.zygote import ends, zygote
from zoo_core import (
    CheckpointError,
    ConfigError,
    DataError,
    TrainingError,
    UnknownComponent,
    build,
    default_host,
    evaluate,
    fit_prior,
    from_pretrained,
    save_pretrained,
    train,
)
from zoo_core.cards import card
from zoo_core.cli.main import app
from zoo_core.data import Preprocessing, load
from zoo_core.evaluation import read_results
from zoo_core.randomness import derived_seed, seed_everything
from zoo_core.training.reading import parse_recipe

__all__ = ["zygote"]

LATENTS = 4
ZOO = "zoo_core.cli.main:main"
GMM = {"type": "classical/gmm", "components": 5}


def base_recipe(model, posterior, loss, **data):
    return parse_recipe(
        {
            "name": f"{model.rpartition('/')[2]}-digits",
            "model": {
                "type": model,
                "encoder": {"type": "nets/mlp_encoder", "latents": LATENTS, "hidden": [64], "posterior": posterior},
                "decoder": {"type": "nets/mlp_decoder", "hidden": [64]},
                "prior": "nets/standard_normal",
            },
            "loss": loss,
            "data": {"name": "core/digits", **data},
            "training": {"steps": 300, "batch": 64, "lr": 5e-3, "log_every": 300},
            "evaluation": {"metrics": ["metrics/elbo"]} if model == "vae/vae" else {},
        }
    )


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    # With so small a weight of the rate the codes do not follow N(0, I), which leaves something to a fit.
    loss = {"type": "vae/elbo", "beta": 0.2}
    recipe = base_recipe("vae/vae", "nets/diagonal_gaussian", loss, preprocessing={"binarize": "dynamic"})
    return train(recipe, tmp_path_factory.mktemp("vae"))


@pytest.fixture(scope="module")
def ae(tmp_path_factory):
    recipe = base_recipe("autoencoder/autoencoder", "nets/dirac", "autoencoder/reconstruction")
    return train(recipe, tmp_path_factory.mktemp("ae"))


@pytest.fixture(scope="module")
def fitted(vae, tmp_path_factory):
    """The VAE with a mixture as its prior."""
    return fit_prior(vae, GMM, tmp_path_factory.mktemp("fitted"), draws=3)


def images(split="train"):
    data = load("digits", split)
    return Preprocessing()(data.batch(torch.arange(len(data))))["image"]


def latents(model, split="train", **options):
    data = load("core/latents", split, model=str(model), **options)
    return data.batch(torch.arange(len(data)))["image"]


def state(folder, *, prior):
    """The tensors of a checkpoint that are, or are not, of its prior."""
    tensors = from_pretrained(folder).state_dict()
    return {name: tensor for name, tensor in tensors.items() if name.startswith("prior.") == prior}


def same(a, b):
    assert a.keys() == b.keys()
    assert a
    return all(torch.equal(tensor, b[name]) for name, tensor in a.items())


class TestLatents:
    @pytest.mark.parametrize("split", ["train", "test"])
    def test_of_a_dirac_they_are_the_codes(self, ae, split):
        x = images(split)
        data = load("core/latents", split, model=str(ae))
        assert (data.name, data.split, data.data_shape, len(data)) == ("core/latents", split, (LATENTS,), len(x))
        torch.testing.assert_close(latents(ae, split), from_pretrained(ae).encode(x))

    def test_of_a_gaussian_they_are_draws(self, vae):
        """(z - mu) / sigma has mean 0 and variance 1 over all examples."""
        clean = {"name": "digits", "preprocessing": {}}
        with torch.no_grad():
            q = from_pretrained(vae).encoder(images()).base_dist
        e = (latents(vae, data=clean) - q.loc) / q.scale
        assert e.mean().abs() < 5 / e.numel() ** 0.5
        assert (e.var() - 1).abs() < 5 * (2 / e.numel()) ** 0.5
        assert not (e[:400] - e[500:900]).abs().max(1).values.lt(1e-3).any()  # another batch, other noise

    def test_of_a_codebook_they_are_the_codes(self, tmp_path):
        if not {"vqvae/vqvae", "vqvae/nearest"} <= {r.full_name for r in default_host().registrations()}:
            pytest.skip("no model with a codebook is installed")
        torch.manual_seed(0)
        config = {
            "type": "vqvae/vqvae",
            "encoder": {"type": "nets/conv_encoder", "latents": 3, "layout": "grid", "posterior": "nets/dirac"},
            "quantizer": "vqvae/nearest",
            "decoder": "nets/conv_decoder",
        }
        model = build(config, data_shape=(1, 8, 8)).eval()
        folder = save_pretrained(model, tmp_path / "model")
        k = latents(folder, data={"name": "digits"})
        assert k.dtype == torch.int64
        assert k.unique().numel() > 1
        assert torch.equal(k, model.encode(images()))

    def test_what_the_model_was_trained_on_is_what_it_encodes(self, vae):
        """Dynamic binarisation is part of the model: the codes of grey images are others."""
        own, clean = latents(vae), latents(vae, data={"name": "digits", "preprocessing": {}})
        assert own.shape == clean.shape
        assert (own - clean).square().mean() > 0.01

    def test_other_data_get_the_preprocessing_of_the_model(self, vae):
        assert torch.equal(latents(vae, data={"name": "digits", "split": "test"}), latents(vae, "test")[:360])
        assert torch.equal(latents(vae, data={"split": "test"}), latents(vae, "test"))
        assert torch.equal(latents(vae, "test", data={"held_out": "train"}), latents(vae, "train"))

    def test_a_seed_decides_them_and_nothing_else_does(self, vae, tmp_path, monkeypatch):
        first = latents(vae)
        monkeypatch.setenv("ZOO_CACHE", str(tmp_path))
        torch.manual_seed(123)
        before = torch.random.get_rng_state()
        again = latents(vae)
        assert torch.equal(torch.random.get_rng_state(), before)
        assert torch.equal(first, again)
        assert not torch.equal(first, latents(vae, seed=1))

    def test_more_draws_begin_with_the_first_and_differ(self, vae):
        one, two = latents(vae), latents(vae, draws=2)
        n = len(one)
        assert len(two) == 2 * n
        assert torch.equal(two[:n], one)
        assert not (two[n:] == one).all(1).any()

    def test_they_are_read_from_the_cache_until_the_model_changes(self, ae, tmp_path, monkeypatch):
        folder = save_pretrained(from_pretrained(ae), tmp_path / "copy")
        first = latents(folder)
        with monkeypatch.context() as patch:
            patch.setattr("zoo_core.encoded._encode", None)
            assert torch.equal(latents(folder), first)
        changed = from_pretrained(folder)
        with torch.no_grad():
            next(changed.encoder.parameters()).mul_(2)
        save_pretrained(changed, folder)
        assert not torch.allclose(latents(folder), first)

    @pytest.mark.parametrize(("options", "error", "message"), [
        ({"draws": 0}, ConfigError, "draws: must be a positive integer, got 0"),
        ({"models": "x"}, ConfigError, "did you mean 'model'"),
        ({"data": "digits"}, ConfigError, "data: must be a mapping or null, got 'digits'"),
        ({"data": {"names": "digits"}}, ConfigError, r"data\.names: no such argument; did you mean 'name'"),
        ({"data": {"name": "shapes"}}, DataError, r"gives data of shape \(3, 32, 32\), .* takes \(1, 8, 8\)"),
        ({"data": {"split": "none"}}, DataError, "has no split 'none'"),
        ({"sha256": "0" * 64}, CheckpointError, "damaged or exchanged"),
    ])  # fmt: skip
    def test_bad_options_are_told(self, vae, options, error, message):
        with pytest.raises(error, match=message):
            load("core/latents", "train", **{"model": str(vae), **options})

    @pytest.mark.parametrize(("config", "message"), [
        ({"type": "classical/kmeans", "clusters": 3}, "is a KMeans, which encodes to no latents that are data"),
        ({"type": "classical/gmm", "components": 3}, "is a GMM, which encodes to no latents that are data"),
    ])  # fmt: skip
    def test_a_model_without_latents_is_refused(self, tmp_path, config, message):
        model = build(config, data_shape=(1, 8, 8))
        model.begin(images())
        folder = save_pretrained(model, tmp_path / "model")
        with pytest.raises(ConfigError, match=message):
            load("core/latents", "train", model=str(folder), data={"name": "digits"})

    def test_a_recipe_of_its_own_trains_on_them(self, ae, tmp_path):
        content = {
            "name": "codes",
            "model": {"type": "classical/ppca", "latents": 2},
            "data": {"name": "core/latents", "options": {"model": str(ae)}},
            "training": {"steps": 1, "batch": 500},
            "evaluation": {"metrics": ["metrics/log_prob"]},
        }
        model = from_pretrained(train(parse_recipe(content), tmp_path))
        z = latents(ae)
        assert model.data_shape == (LATENTS,)
        torch.testing.assert_close(model.mu.float(), z.mean(0))
        results = read_results(tmp_path / "model" / "results.json")[0]
        expected = float(model.log_prob(latents(ae, "test")).mean())
        assert results["values"]["log_prob"]["value"] == pytest.approx(expected)


class TestFit:
    def test_it_is_the_fit_to_the_encoded_arrays(self, ae, tmp_path):
        training = {"steps": 7, "batch": 100, "tolerance": 0.0, "seed": 3}
        found = from_pretrained(fit_prior(ae, GMM, tmp_path, training=training)).prior
        with torch.no_grad():
            z = from_pretrained(ae).encode(images())
        direct = build(GMM, data_shape=(LATENTS,))
        seed_everything(3)
        direct.begin(z[load("digits", "train").order(derived_seed(3, 0))])
        start = direct.mu.clone()
        for _ in range(7):
            direct.update(direct.statistics(z))
        assert (direct.mu - start).abs().max() > 0.01
        for name, tensor in direct.state_dict().items():
            torch.testing.assert_close(found.state_dict()[name], tensor, rtol=1e-4, atol=1e-4)

    def test_no_other_weight_is_touched_and_the_old_model_stays(self, vae, tmp_path):
        files = {path: path.read_bytes() for path in vae.iterdir()}
        folder = fit_prior(vae, GMM, tmp_path, training={"steps": 2})
        assert same(state(vae, prior=False), state(folder, prior=False))
        assert {path: path.read_bytes() for path in vae.iterdir()} == files
        assert torch.equal(from_pretrained(vae).encode(images()), from_pretrained(folder).encode(images()))

    def test_one_gaussian_is_no_worse_a_prior_than_the_standard_normal(self, vae, tmp_path):
        """A theorem for K = 1: the fit is the maximum of E[log p(z)] over all Gaussians, and N(0, I) is one."""
        folder = fit_prior(vae, {"type": "classical/gmm", "components": 1}, tmp_path)
        model, z = from_pretrained(folder), latents(vae)
        normal = Independent(Normal(torch.zeros(LATENTS), 1.0), 1)
        assert float(model.prior.log_prob(z).mean()) > float(normal.log_prob(z).double().mean())
        torch.testing.assert_close(model.prior.mu[0], z.double().mean(0))
        L = model.prior.covariance.L[0]
        torch.testing.assert_close(L @ L.T, torch.cov(z.double().T, correction=0))

    def test_the_bound_rises_by_as_much_as_the_prior_gains(self, vae, fitted):
        """ELBO(p) - ELBO(p') = E[log p(z)] - E[log p'(z)], the encoder and decoder being the same."""
        before, after = from_pretrained(vae), from_pretrained(fitted)
        for split in ("train", "test"):
            z = latents(vae, split, draws=8)
            gain = (after.prior.log_prob(z) - before.prior.log_prob(z)).double()
            data = load("digits", split)
            many = {"type": "metrics/elbo", "samples": 8}
            elbo = [evaluate(m, [build(many)], data, seed=1)["elbo"] for m in (before, after)]
            assert elbo[1].value - elbo[0].value == pytest.approx(float(gain.mean()), abs=0.15)
            assert elbo[1].value - elbo[0].value > 0.25

    @pytest.mark.parametrize(("prior", "learning"), [
        ({"type": "nets/gaussian_mixture", "components": 5}, {"lr": 3e-2}),
        ({"type": "flow/realnvp", "layers": 4, "hidden": [16]}, {"lr": 1e-2}),
    ])  # fmt: skip
    def test_priors_that_are_fitted_by_gradients(self, vae, tmp_path, prior, learning):
        folder = fit_prior(vae, prior, tmp_path, training={"steps": 150, **learning})
        model, z = from_pretrained(folder), latents(vae, "test")
        gain = model.prior.log_prob(z) - from_pretrained(vae).prior.log_prob(z)
        assert float(gain.mean().detach()) > 0.2
        assert same(state(vae, prior=False), state(folder, prior=False))
        assert model.sample(3).shape == (3, 1, 8, 8)
        assert "latent_shape" not in json.loads((folder / "config.json").read_text())["model"]["prior"]

    def test_an_autoencoder_takes_prototypes_too(self, ae, tmp_path):
        """k-means has no density, and neither has an autoencoder: every sample is the decoded centre of a cluster."""
        model = from_pretrained(fit_prior(ae, {"type": "classical/kmeans", "clusters": 3}, tmp_path))
        centres = model.decode(model.prior.mu.float())
        assert torch.cdist(model.sample(20).flatten(1), centres.flatten(1)).min(1).values.max() < 1e-5

    def test_the_result_says_how_it_came_about(self, vae, fitted):
        model, recipe = from_pretrained(fitted), from_pretrained(vae).provenance["recipe"]
        told = model.provenance["prior"]
        assert model.provenance["recipe"] == recipe
        assert told["recipe"]["model"]["components"] == 5
        assert told["recipe"]["data"]["options"]["model"] == str(vae)
        assert told["examples"] == 3 * 1437
        assert told["weights"] == {
            "model.safetensors": hashlib.sha256((vae / "model.safetensors").read_bytes()).hexdigest()
        }
        text = card(fitted, "vae-gmm")
        assert f"$ zoo fit-prior {vae} --prior classical/gmm" in text
        assert told["weights"]["model.safetensors"] in text
        assert "## Prior" not in card(vae, "vae")

    @pytest.mark.parametrize("prior", [GMM, {"type": "classical/ppca", "latents": 2}], ids=lambda p: p["type"])
    def test_draws_of_the_prior_lie_where_the_latents_do(self, ae, tmp_path, prior):
        """Pictures are kept in [0, 1] and shown without noise; latents are neither."""
        p_z, z = from_pretrained(fit_prior(ae, prior, tmp_path)).prior(), latents(ae)
        assert z.min() < -1
        assert z.max() > 2
        drawn = p_z.sample((20_000,))
        error = (z.var(0) / len(z)).sqrt()
        assert ((drawn.mean(0) - z.mean(0)).abs() < 5 * error).all()
        torch.testing.assert_close(drawn.var(0), z.var(0), rtol=0.2, atol=0)

    def test_the_command_on_the_card_is_that_of_the_same_run(self, fitted):
        """Otherwise the folder of the run would refuse it: it holds another recipe then."""
        command = re.search(r"^\$ zoo (fit-prior .*)$", card(fitted, "vae-gmm"), re.MULTILINE)[1]
        told = CliRunner().invoke(app, [*shlex.split(command), "-o", str(fitted.parent)], catch_exceptions=False)
        assert told.exit_code == 0, told.output

    def test_a_prior_can_be_exchanged_again(self, fitted, tmp_path):
        folder = fit_prior(fitted, {"type": "classical/ppca", "latents": 2}, tmp_path)
        assert type(from_pretrained(folder).prior).__name__ == "PPCA"
        assert same(state(fitted, prior=False), state(folder, prior=False))


class TestCommand:
    def test_a_fit_and_what_follows(self, vae, fitted, tmp_path):
        options = (
            "--prior",
            "classical/gmm",
            "--set",
            "prior.components=5",
            "--draws",
            "3",
            "-o",
            str(tmp_path / "run"),
        )
        told = CliRunner().invoke(app, ["fit-prior", str(vae), *options]).stdout
        assert told.strip() == str(tmp_path / "run" / "model")
        assert same(state(tmp_path / "run" / "model", prior=True), state(fitted, prior=True))
        report = json.loads(CliRunner().invoke(app, ["eval", str(tmp_path / "run" / "model"), "--json"]).stdout)
        before = read_results(vae / "results.json")[0]
        assert report["metrics"] == before["metrics"] == ["metrics/elbo"]
        assert report["data_fingerprint"] == before["data_fingerprint"]
        old, new = ({name: v["value"] for name, v in r["values"].items()} for r in (before, report))
        assert new["distortion"] == pytest.approx(old["distortion"], rel=1e-6)
        assert new["elbo"] > old["elbo"] + 0.25

    def test_a_rehearsal_saves_no_model(self, vae, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        done = CliRunner().invoke(app, ["fit-prior", str(vae), "--prior", "{type: gmm, components: 2}", "--dry-run"])
        assert done.exit_code == 0, done.output
        assert "objective at the first step" in done.output
        assert list(tmp_path.iterdir()) == []

    def test_a_killed_fit_goes_on_bit_for_bit(self, zygote, vae, tmp_path):
        options = ["--prior", "{type: classical/gmm, components: 8}"]
        for setting in ("steps=40", "batch=200", "log_every=1", "save_every=5", "tolerance=0"):
            options += ["--set", f"training.{setting}"]
        words = ("fit-prior", vae, *options, "-o")
        killed = zygote.start(*words, tmp_path / "cut", folder=tmp_path, program=ZOO)
        killed.wait_until(lambda: reports(tmp_path / "cut") >= 22)
        killed.send(signal.SIGKILL)
        assert killed.wait() == -signal.SIGKILL
        assert not (tmp_path / "cut" / "model").exists()
        on = zygote.start(*words, tmp_path / "cut", folder=tmp_path, program=ZOO)
        assert on.wait() == 0, on.stderr
        assert on.output.read_text().strip() == str(tmp_path / "cut" / "model")
        CliRunner().invoke(app, ["fit-prior", str(vae), *options, "-o", str(tmp_path / "whole")])
        assert reports(tmp_path / "cut") == reports(tmp_path / "whole") == 40
        whole = state(tmp_path / "whole" / "model", prior=True)
        assert same(state(tmp_path / "cut" / "model", prior=True), whole)

    def test_two_processes_fit_as_one(self, zygote, vae, fitted, tmp_path):
        options = ("--prior", "{type: classical/gmm, components: 5}", "--draws", 3, "-o", tmp_path / "two")
        children = zygote.start_group("fit-prior", vae, *options, folder=tmp_path, program=ZOO)
        assert ends(children) == [0, 0], children[0].stderr
        told = "".join(child.output.read_text() for child in children)
        assert told.count(str(tmp_path / "two" / "model")) == 1
        one, two = state(fitted, prior=True), state(tmp_path / "two" / "model", prior=True)
        for name, tensor in one.items():
            torch.testing.assert_close(two[name], tensor, rtol=1e-6, atol=1e-6)

    @pytest.mark.parametrize(("options", "message"), [
        (["--prior", "gmmm"], "prior: no component 'gmmm'; did you mean"),
        (["--prior", "classical/gmm", "--set", "prior.components=0"], "prior.components: must be a positive integer"),
        (["--prior", "classical/gmm", "--set", "prior.parts=2"], "prior.parts: no such argument"),
        (["--prior", "classical/gmm", "--set", "training.lr=-1"], "training.lr: must be a number above 0"),
        (["--prior", "classical/gmm", "--set", "speed=1"], "use prior.…=, data.…=, loss.…= or training.…="),
        (["--prior", "classical/gmm", "--set", "loss=nets/nll"], "loss: GMM is fitted without a loss"),
        (["--prior", "classical/gmm", "--data", "nowhere"], "no dataset 'nowhere'"),
        (["--prior", "classical/gmm", "--split", "valid"], "has no split 'valid'"),
        (["--prior", "nets/bernoulli"], "is a likelihood, not a prior or model"),
        (["--prior", "classical/kmeans"], "'kmeans' has no density, which the log p(x) of 'vae' needs"),
        (["--prior", "{type: nets/gaussian_mixture, latent_shape: [5]}"], "differ in latent_shape: encoder (4,)"),
        (["--prior", "{type: classical/gmm, data_shape: [5]}"], "differ in latent_shape: encoder (4,)"),
        (["--prior", "vae/elbo"], "is a loss, not a prior or model"),
        (["--prior", "{"], "--prior: no valid YAML"),
    ])  # fmt: skip
    def test_bad_input_is_one_sentence(self, vae, tmp_path, options, message):
        with pytest.raises((ConfigError, DataError, UnknownComponent)) as refusal:
            CliRunner().invoke(app, ["fit-prior", str(vae), *options, "-o", str(tmp_path)], catch_exceptions=False)
        assert message in str(refusal.value)
        assert "\n" not in str(refusal.value)
        assert not (tmp_path / "model").exists()


class TestRefusals:
    def test_a_model_that_is_given_no_prior(self, tmp_path):
        folders = []
        for config in (
            {"type": "autoencoder/tied_autoencoder", "latents": 2},
            {"type": "classical/ppca", "latents": 2},
        ):
            folders.append(save_pretrained(build(config, data_shape=(1, 8, 8)), tmp_path / str(len(folders))))
        for folder, name in zip(folders, ("TiedAutoencoder", "PPCA"), strict=True):
            with pytest.raises(ConfigError, match=f"prior: {name} has none that could be exchanged"):
                fit_prior(folder, GMM, tmp_path / "run")

    def test_a_model_that_does_not_say_on_what_it_was_trained(self, vae, tmp_path):
        model = from_pretrained(vae)
        model.provenance = {}
        folder = save_pretrained(model, tmp_path / "silent")
        with pytest.raises(DataError, match=r"does not record on what it was trained; name its data: .*--data"):
            fit_prior(folder, GMM, tmp_path / "run")
        assert fit_prior(folder, GMM, tmp_path / "run2", data={"name": "digits"}, training={"steps": 1})

    def test_a_run_does_not_go_on_with_the_latents_of_other_weights(self, vae, tmp_path):
        folder = save_pretrained(from_pretrained(vae), tmp_path / "model")
        fit_prior(folder, GMM, tmp_path / "run", training={"steps": 1})
        changed = from_pretrained(folder)
        with torch.no_grad():
            next(changed.encoder.parameters()).mul_(2)
        save_pretrained(changed, folder)
        with pytest.raises(TrainingError, match=r"holds a run of another recipe \(data\.options\.sha256 was"):
            fit_prior(folder, GMM, tmp_path / "run", training={"steps": 1})


def reports(folder: Path) -> int:
    """How many steps a fit has reported."""
    try:
        return (folder / "prior" / "log.jsonl").read_bytes().count(b'"event": "train"')
    except FileNotFoundError:
        return 0
