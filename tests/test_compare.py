"""Comparing models: what is measured of them, what may stand side by side, and the page that shows it."""

import base64
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from tests.installed import python
from tests.registered import coded_model
from tests.tiny import VAE
from zoo_core import ConfigError, DataError, Extractor, GenerativeModel, ZooError, build, default_host, save_pretrained
from zoo_core.cli.main import app
from zoo_core.comparison import compare, require_comparable, table, traits, write_page
from zoo_core.comparison import comparing as comparison
from zoo_core.comparison.comparing import Comparison, Entry, digest, file_name
from zoo_core.comparison.html import html
from zoo_core.comparison.markdown import markdown
from zoo_core.comparison.page import page
from zoo_core.data import InMemory, Preprocessing
from zoo_core.evaluation import evaluate
from zoo_core.figures import MARKS, Panel, labelled_panels

SHAPE = (1, 8, 8)
AUTOENCODER = {**VAE, "type": "autoencoder/autoencoder", "encoder": {**VAE["encoder"], "posterior": "nets/dirac"}}
PARTS = {name: VAE[name] for name in ("encoder", "decoder")}
METRICS = ({"type": "metrics/iwae", "samples": 5}, "metrics/log_prob", "metrics/bits_per_dim", "metrics/mse")


@pytest.fixture(scope="module", autouse=True)
def few_metrics():
    """Those that are usual here, so that each test is quick."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(comparison, "USUAL", METRICS)
        patched.setattr(comparison, "BOUND", METRICS[0])
        yield


def images(n=40, seed=0):
    """Noise around two prototypes, as bytes."""
    generator = torch.Generator().manual_seed(seed)
    centre = torch.randint(0, 256, (2, *SHAPE), generator=generator)[torch.arange(n) % 2]
    noise = torch.randint(-40, 41, (n, *SHAPE), generator=generator)
    return (centre + noise).clamp(0, 255).to(torch.uint8)


def dataset(n=40, seed=0):
    return InMemory("tiny", "test", {"image": images(n, seed), "label": torch.arange(n) % 2})


def seeded(config, binarize="dynamic", dequantize="none", shape=SHAPE, **arguments):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build({**config, **arguments}, data_shape=shape)
    model.preprocessing = Preprocessing(binarize=binarize, dequantize=dequantize)
    return model.eval()


def fitted(config, **arguments):
    """A model of dequantised data that is fitted by its statistics."""
    model = seeded(config, "none", "uniform", **arguments)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        x = model.preprocessing({"image": images(60)})["image"]
        model.begin(x)
        model.update(model.statistics(x))
    return model


def ppca():
    return fitted({"type": "classical/ppca", "latents": 3})


def gmm():
    return fitted({"type": "classical/gmm", "components": 2, "covariance": "spherical"})


def vqvae():
    model = coded_model()
    model.preprocessing = Preprocessing(binarize="dynamic")
    return model.eval()


def told_codes():
    """A VQ-VAE with a transformer over its grid of 2 x 2 codes."""
    config = {
        "type": "vqvae/vqvae",
        "encoder": {"type": "nets/conv_encoder", "latents": 2, "channels": [3, 3], "layout": "grid"},
        "quantizer": {"type": "vqvae/nearest", "codes": 5},
        "decoder": {"type": "nets/conv_decoder", "channels": [3, 3]},
        "prior": {"type": "dalle/autoregressive", "dim": 8, "depth": 1, "heads": 1, "classes": 2},
    }
    return seeded(config)


def hierarchical():
    config = {
        "type": "vae/hierarchical_vae", "bottom_encoder": VAE["encoder"], "bottom_decoder": VAE["decoder"],
        "top_prior": VAE["prior"], "upper": [3, 2], "hidden": [4],
    }  # fmt: skip
    return seeded(config)


FAMILIES = {  # density, kind and count of latents, how many different codes
    "ppca": (ppca, "exact", "real", 3, 0),
    "gmm": (gmm, "exact", "codes", 1, 2),
    "kmeans": (lambda: fitted({"type": "classical/kmeans", "clusters": 5}), "none", "codes", 1, 5),
    "chow_liu": (lambda: started(seeded({"type": "classical/chow_liu"})), "exact", "none", 0, 0),
    "vae": (lambda: seeded(VAE), "bound", "real", 2, 0),
    "autoencoder": (lambda: seeded(AUTOENCODER), "none", "real", 2, 0),
    "vqvae": (vqvae, "bound", "codes", 1, 16),
    "told_codes": (told_codes, "bound", "codes", 4, 5),
    "maf": (
        lambda: seeded({"type": "flow/maf", "layers": 2, "hidden": [8]}, "none", "uniform"),
        "exact",
        "real",
        64,
        0,
    ),
    "realnvp": (
        lambda: seeded({"type": "flow/realnvp", "layers": 2, "hidden": [8]}, "none", "uniform"), "exact", "real", 64, 0
    ),
    "dequantization": (
        lambda: seeded({"type": "nets/variational_dequantization", "model": "flow/realnvp", "channels": [2]}, "none"),
        "bound", "real", 64, 0,
    ),
    "hierarchical": (hierarchical, "bound", "real", 7, 0),
    "vamp": (lambda: seeded({**PARTS, "type": "vae/vamp_vae", "pseudo_inputs": 3}), "bound", "real", 2, 0),
    "conditional": (lambda: seeded(VAE, type="vae/conditional_vae", classes=2), "bound", "real", 2, 0),
}  # fmt: skip


def started(model):
    model.begin(model.preprocessing({"image": images()})["image"])
    return model


def family(name):
    if name == "vqvae":
        size = int(vqvae().quantizer.codebook_size)
        return (*FAMILIES[name][:4], size)
    return FAMILIES[name]


class TestTraits:
    @pytest.mark.parametrize("name", FAMILIES)
    def test_density_and_latents_of_every_family_come_out_right(self, name):
        make, density, kind, count, codes = family(name)
        found = traits.traits(make(), dataset())
        assert found.density.kind == density, found
        assert (found.latent.kind, found.latent.size, found.latent.codes) == (kind, count, codes)
        assert found.latent.data == (64 if kind else 0)
        assert bool(found.density.reason) == (density != "exact")

    @pytest.mark.parametrize(
        ("name", "steps"),
        [
            ("told_codes", 4),
            ("maf", 64),
            ("vae", 1),
            ("conditional", 1),
            ("ppca", 1),
            ("vqvae", 1),
            ("realnvp", 1),
            ("hierarchical", 1),
            ("vamp", 1),
        ],
    )
    def test_draws_that_call_a_module_again_and_again_are_sequential(self, name, steps):
        found = traits.traits(FAMILIES[name][0](), dataset()).sampling
        assert (found.kind, found.steps) == ("sequential" if steps > 1 else "parallel", steps)
        assert set(found.seconds) == {"1", "64"}
        assert all(0 < seconds < 60 for seconds in found.seconds.values())

    @pytest.mark.parametrize("name", FAMILIES)
    def test_what_is_declared_of_the_density_is_found(self, name):
        model = FAMILIES[name][0]()
        found = traits.traits(model, dataset())
        assert found.family == default_host().name_of(type(model)).full_name
        assert found.density.kind == default_host().name_of(type(model)).spec.density

    @pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 9, 100, 4097])
    def test_codes_without_a_codebook_are_counted_by_decoding(self, size):
        encode, decode = (lambda x: torch.zeros(len(x), dtype=torch.long)), torch.arange(size).__getitem__
        found = traits.latent(SimpleNamespace(encode=encode, decode=decode), torch.ones(2, 6))
        assert found == ("codes", 1, size, 6)

    def test_a_module_that_is_called_on_nothing_is_not_called(self):
        layer = nn.Linear(2, 2)
        assert traits.calls(lambda: [layer(torch.ones(n, 2)) for n in (0, 1, 0, 1, 1)]) == 3
        assert traits.calls(lambda: [nn.SiLU()(torch.ones(1)) for _ in range(9)]) == 1
        assert traits.calls(lambda: None) == 1

    def test_of_several_modules_the_one_called_most_counts(self):
        layers = [nn.Linear(2, 2) for _ in range(5)]
        assert traits.calls(lambda: [layer(torch.ones(1, 2)) for layer in (*layers, layers[0])]) == 2

    def test_tied_numbers_count_once_and_buffers_count(self):
        layer = nn.Linear(3, 4, bias=False)
        tied = nn.Sequential(layer, nn.ReLU(), layer)
        assert traits.numbers(tied) == 12
        tied.register_buffer("codebook", torch.zeros(7))
        tied.register_buffer("steps", torch.zeros(9, dtype=torch.long))
        assert traits.numbers(tied) == 19

    def test_what_is_declared_otherwise_is_told(self):
        (sentence,) = traits.traits(told_codes(), dataset()).differences
        assert sentence == "vqvae/vqvae declares sampling 'parallel'; measured: 'sequential'"
        assert traits.traits(seeded(VAE), dataset()).differences == ()

    def test_only_a_model_with_a_condition_is_told_something(self):
        assert traits.traits(told_codes(), dataset()).given == ("label",)
        assert traits.traits(seeded(VAE), dataset()).given == ()

    def test_are_the_same_from_json(self):
        found = traits.traits(told_codes(), dataset())
        assert traits.Traits.from_dict(json.loads(json.dumps(found.as_dict()))) == found

    def test_leave_model_and_random_numbers_as_they_were(self):
        model = seeded(VAE).train()
        before = torch.get_rng_state()
        traits.traits(model, dataset())
        assert model.training
        assert torch.equal(torch.get_rng_state(), before)


@pytest.fixture(scope="module")
def compared():
    models = {"ae": seeded(AUTOENCODER), "vae": seeded(VAE), "codes": told_codes(), "ppca": ppca(), "gmm": gmm()}
    return compare(models, dataset(), grid=9, reconstructions=True)


def values(entry):
    return {name: value["value"] for name, value in entry.values.items()}


class TestComparison:
    def test_values_are_those_of_evaluate(self, compared):
        by_model = {e.name: e for e in compared.entries}
        iwae, mse = (build(c, "metric") for c in (METRICS[0], "metrics/mse"))
        expected = evaluate(seeded(VAE), [iwae, mse], dataset())
        assert values(by_model["vae"])["iwae_5"] == expected["iwae_5"].value
        assert values(by_model["vae"])["mse"] == expected["mse"].value
        expected = evaluate(ppca(), [build("metrics/log_prob", "metric")], dataset())
        assert values(by_model["ppca"])["log_prob"] == expected["log_prob"].value

    @pytest.mark.parametrize(("name", "samples"), [("vae", 5), ("ppca", None), ("codes", None)])
    def test_bits_are_those_of_the_metric(self, compared, name, samples):
        metric = build({"type": "metrics/bits_per_dim", "samples": samples}, "metric")
        make = {"vae": lambda: seeded(VAE), "ppca": ppca, "codes": told_codes}[name]
        ((key, expected),) = evaluate(make(), [metric], dataset()).items()
        (entry,) = (e for e in compared.entries if e.name == name)
        assert entry.values[key]["value"] == pytest.approx(expected.value, rel=1e-6)
        assert entry.values[key]["error"] == pytest.approx(expected.error, rel=1e-4)

    def test_without_a_density_there_is_no_likelihood_and_the_reason_is_told(self, compared):
        (entry,) = (e for e in compared.entries if e.name == "ae")
        assert entry.likelihood == ""
        assert "has no density" in entry.stored["refused"]["metrics/log_prob"]
        assert {*values(entry)} == {"mse"}

    def test_what_is_asked_for_is_measured_and_nothing_else(self):
        (entry,) = compare({"vae": seeded(VAE)}, dataset(), metrics=["log_prob", "metrics/elbo"]).entries
        assert {*values(entry)} == {"log_prob", "elbo", "distortion", "rate"}
        (entry,) = compare({"vae": seeded(VAE)}, dataset(), metrics=[*METRICS[1:3]]).entries
        assert {*values(entry)} == {"log_prob", "bits_per_dim"}

    def test_draws_are_equal_under_equal_seeds(self, compared):
        again = compare({"vae": seeded(VAE)}, dataset(), metrics=[], grid=9)
        (entry,) = (e for e in compared.entries if e.name == "vae")
        assert entry.samples.shape == (9, *SHAPE)
        assert torch.equal(again.entries[0].samples, entry.samples)

    def test_likelihoods_of_different_data_are_in_different_groups(self, compared):
        groups = {title: [e.name for e in entries] for title, entries in table.likelihood_groups(compared).items()}
        likelier = sorted(
            ("ppca", "gmm"), key=lambda n: -values(next(e for e in compared.entries if e.name == n))["log_prob"]
        )
        assert groups == {
            "Probability of binarised pixels": ["vae"],
            "Probability of binarised pixels, given the label": ["codes"],
            "Density of dequantised pixels": likelier,
            "No likelihood": ["ae"],
        }

    def test_models_that_see_different_shapes_are_refused_first(self):
        large = seeded(VAE, shape=(1, 16, 16))
        large.preprocessing = Preprocessing(image_size=16, binarize="dynamic")
        with pytest.raises(ConfigError, match=r"different shapes.*small \(1, 8, 8\), large \(1, 16, 16\)"):
            compare({"small": seeded(VAE), "large": large}, dataset())

    def test_a_model_of_other_data_is_named_first(self):
        with pytest.raises(DataError, match=r"^large: 'tiny' gives data of shape"):
            compare({"large": seeded(VAE, shape=(1, 16, 16))}, dataset())

    def test_no_models_are_refused(self):
        with pytest.raises(ConfigError, match="at least one"):
            compare({}, dataset())

    def test_an_unknown_metric_is_refused_first(self, tmp_path):
        with pytest.raises(ZooError, match="no metric 'nonsense'"):
            compare({"vae": seeded(VAE)}, dataset(), metrics=["nonsense"], folder=tmp_path)
        assert not any(tmp_path.iterdir())


class Broken(GenerativeModel):
    """Cannot draw, in the way that a bug does it."""

    def __init__(self):
        super().__init__()
        self.data_shape = SHAPE

    def draw(self, n):
        raise RuntimeError("shapes <4> & 5")

    def log_prob(self, x):
        return -x.flatten(1).sum(1)


class Failing(Broken):
    """Fails at everything."""

    def log_prob(self, x):
        raise RuntimeError("no such device")


class TestFailures:
    def test_a_model_that_cannot_draw_costs_a_line(self, tmp_path):
        found = compare({"<b>": Broken(), "vae": seeded(VAE)}, dataset(), folder=tmp_path)
        broken, vae = found.entries
        assert broken.samples is None
        assert broken.traits.sampling.kind == "none"
        assert values(broken)["log_prob"] < 0
        assert values(vae)["mse"] > 0
        write_page(found, tmp_path)
        assert (
            "&lt;b&gt;</b> draws nothing: RuntimeError: shapes &lt;4&gt; &amp; 5"
            in (tmp_path / "index.html").read_text()
        )
        assert r"**\<b\>** draws nothing: RuntimeError: shapes \<4\> \& 5" in (tmp_path / "README.md").read_text()

    def test_a_model_that_fails_is_told_and_measured_anew(self, tmp_path):
        for _ in range(2):
            found = compare({"bad": Failing(), "vae": seeded(VAE)}, dataset(), folder=tmp_path)
            bad, vae = found.entries
            assert bad.stored["failed"] == {"model": "RuntimeError: no such device"}
            assert not bad.reused
        assert vae.reused
        write_page(found, tmp_path)
        assert "<b>bad</b> could not be measured: RuntimeError" in (tmp_path / "index.html").read_text()

    def test_a_metric_that_fails_costs_its_own_value(self, monkeypatch):
        metric = default_host().load(default_host().find("metric", "metrics/mse"))
        monkeypatch.setattr(metric, "update", lambda *_: 1 / 0)
        (entry,) = compare({"vae": seeded(VAE)}, dataset()).entries
        assert entry.stored["failed"] == {"metrics/mse": "ZeroDivisionError: division by zero"}
        assert {*values(entry)} == {"iwae_5", "bits_per_dim_5"}


class Interrupting(Broken):
    def log_prob(self, x):
        raise KeyboardInterrupt


def without_times(stored):
    stored = json.loads(json.dumps(stored))
    stored["traits"]["sampling"]["seconds"] = None
    return stored


class Means(Extractor):
    """The mean brightness of each row."""

    def forward(self, images):
        return images.mean(3).flatten(1)


class TestReuse:
    def test_an_interrupted_run_goes_on(self, tmp_path):
        with pytest.raises(KeyboardInterrupt):
            compare({"vae": seeded(VAE), "ppca": Interrupting()}, dataset(), folder=tmp_path)
        assert [p.name for p in (tmp_path / "results").iterdir()] == ["vae.json"]
        models = {"vae": seeded(VAE), "ppca": ppca()}
        resumed = compare(models, dataset(), folder=tmp_path)
        assert [e.reused for e in resumed.entries] == [True, False]
        whole = compare(models, dataset())
        for one, other in zip(resumed.entries, whole.entries, strict=True):
            assert without_times(one.stored) == without_times(other.stored)
            assert torch.equal(one.samples, other.samples)

    def test_what_was_measured_is_not_measured_again(self, tmp_path, monkeypatch):
        compare({"vae": seeded(VAE)}, dataset(), folder=tmp_path)
        monkeypatch.setattr(comparison, "_measured", None)
        (entry,) = compare({"vae": seeded(VAE)}, dataset(), folder=tmp_path).entries
        assert entry.reused

    @pytest.mark.parametrize(
        "change",
        [
            {"seed": 1},
            {"examples": 39},
            {"batch": 50},
            {"metrics": METRICS[1:]},
            {"metrics": [{"type": "metrics/iwae", "samples": 6}, *METRICS[1:]]},
            {"dataset": dataset(seed=1)},
        ],
        ids=str,
    )
    def test_under_other_settings_all_is_measured_anew(self, tmp_path, change):
        settings = {"dataset": dataset(), "folder": tmp_path}
        compare({"vae": seeded(VAE)}, **settings)
        (entry,) = compare({"vae": seeded(VAE)}, **{**settings, **change}).entries
        assert not entry.reused

    @pytest.mark.parametrize("what", ["weights", "preprocessing", "config", "versions"])
    def test_of_another_model_all_is_measured_anew(self, tmp_path, monkeypatch, what):
        compare({"vae": seeded(VAE)}, dataset(), folder=tmp_path)
        other = seeded(VAE)
        if what == "weights":
            next(other.parameters()).data[0, 0] += 1e-6
        elif what == "preprocessing":
            other.preprocessing = Preprocessing(binarize="threshold")
        elif what == "config":
            other = seeded(VAE, encoder={**VAE["encoder"], "activation": "tanh"})
        else:
            monkeypatch.setattr(comparison, "core_version", lambda: "0.0.1")
        (entry,) = compare({"vae": other}, dataset(), folder=tmp_path).entries
        assert not entry.reused

    def test_in_other_features_all_is_measured_anew(self, tmp_path):
        settings = {"metrics": ["precision_recall"], "folder": tmp_path}
        pixels, means, again = (
            compare({"vae": seeded(VAE)}, dataset(), extractor=extractor, **settings).entries[0]
            for extractor in (None, Means(), Means())
        )
        assert [pixels.reused, means.reused, again.reused] == [False, False, True]
        assert {*values(pixels)} == {"precision (pixels)", "recall (pixels)"}
        assert {*values(again)} == {"precision (Means)", "recall (Means)"}

    def test_a_damaged_result_is_named(self, tmp_path):
        compare({"vae": seeded(VAE)}, dataset(), folder=tmp_path)
        path = tmp_path / "results" / "vae.json"
        path.write_text(path.read_text()[:100])
        with pytest.raises(DataError, match=re.escape(f"{path}: no valid JSON")):
            compare({"vae": seeded(VAE)}, dataset(), folder=tmp_path)

    def test_a_digest_sees_every_tensor(self):
        model = seeded(VAE)
        before = digest(model)
        assert digest(seeded(VAE)) == before
        model.to(torch.bfloat16)
        assert digest(model) != before

    def test_names_make_different_files(self):
        names = ["vae-mnist", "runs/try/model", "runs-try-model", "/runs/try/model", "a b", "../x", "..", "<b>", "é"]
        files = [file_name(name) for name in names]
        assert len({*files}) == len(names)
        assert files[0] == "vae-mnist"
        assert all(re.fullmatch(r"[\w.-]+", file) and not file.startswith((".", "-")) for file in files)


def measured(fingerprint="f", n=100, **about):
    about = {"extractor": "metrics/pixels", "weights": "", "d": 64, **about}
    fd = {"value": 1.0, "error": None, "n": n, "about": about}
    return {"data_fingerprint": fingerprint, "split": "test", "values": {"fd (pixels)": fd}}


class TestComparable:
    def test_equal_rulers_are_accepted(self):
        require_comparable({"a": measured(), "b": measured(), "c": {**measured(), "values": {}}})
        require_comparable({"a": measured()})
        require_comparable({})

    @pytest.mark.parametrize(
        ("other", "what"),
        [
            (measured(n=50), "fd"),
            (measured(d=32), "fd"),
            (measured(weights="1"), "fd"),
            (measured(extractor="metrics/inception"), "fd"),
            (measured(k=5), "fd"),
            (measured(fingerprint="g"), "data fingerprint"),
            ({**measured(), "split": "train"}, "split"),
        ],
    )
    def test_different_ones_are_refused(self, other, what):
        with pytest.raises(ConfigError, match=f"a and b cannot be compared:.*{what}.*differs.*measure both anew"):
            require_comparable(
                {"c": {**measured(), "values": {}}, "a": measured(), "b": other}
                if what == "fd"
                else {"a": measured(), "b": other}
            )

    def test_the_same_metric_of_other_features_is_refused(self):
        other = measured(extractor="metrics/inception")
        other["values"] = {"fd (inception)": other["values"]["fd (pixels)"]}
        with pytest.raises(ConfigError, match="fd differs"):
            require_comparable({"a": measured(), "b": other})

    def test_values_that_rest_on_no_features_may_differ_in_number(self):
        a, b = ({**measured(), "values": {"mse": {"value": 1.0, "n": n, "about": {}}}} for n in (1, 2))
        require_comparable({"a": a, "b": b})


def made_up(name, likelihood=None, fd=None, error=0.01, binarize="dynamic", **further):
    """An entry with these values, as if they had been measured."""
    about = {"extractor": "metrics/pixels", "d": 64}
    shown = {"better": "lower", "unit": "1", "n": 100, "about": about}
    found = {f"{k} (pixels)": {**shown, "value": v, "error": None, "better": "higher"} for k, v in further.items()}
    if fd is not None:
        found["fd (pixels)"] = {**shown, "value": fd, "error": None}
    if likelihood is not None:
        found["iwae_5"] = {
            "value": likelihood,
            "error": error,
            "better": "higher",
            "unit": "nats",
            "n": 100,
            "about": {},
        }
    stored = {
        "traits": traits.traits(seeded(VAE), dataset()).as_dict(),
        "settings": {"model": {"preprocessing": Preprocessing(binarize=binarize).as_dict()}},
        "likelihood": "probability", "results": {"values": found}, "refused": {}, "failed": {},
    }  # fmt: skip
    return Entry(name, stored, samples=torch.rand(4, *SHAPE, generator=torch.Generator().manual_seed(0)))


def of(*entries):
    asked = comparison.Asked((), None, 100, 100, 0)
    return Comparison(entries, dataset(), asked)


def best(compared, title):
    """The models whose value of a column is marked."""
    found = table.table(compared)
    place = [column.title for column in found.columns].index(title)
    return {name for group in found.groups for name, cells in group.rows if cells[place].best}


class TestTable:
    def test_the_best_of_a_column_is_marked(self):
        shown = of(made_up("a", -90.0, 5.0), made_up("b", -80.0, 7.0), made_up("c", -85.0, 9.0))
        assert best(shown, "fd") == {"a"}
        assert best(shown, "log p(x)") == {"b"}

    def test_what_chance_explains_is_marked_alike(self):
        shown = of(made_up("a", -80.0, error=1.0), made_up("b", -82.0, error=1.0), made_up("c", -84.0, error=1.0))
        assert best(shown, "log p(x)") == {"a", "b"}

    def test_likelihoods_of_other_data_are_no_rivals_but_samples_are(self):
        shown = of(made_up("a", -90.0, 5.0), made_up("b", -95.0, 6.0), made_up("c", 900.0, 4.0, binarize="none"))
        assert best(shown, "log p(x)") == {"a"}
        assert best(shown, "fd") == {"c"}

    def test_without_rivals_nothing_is_best(self):
        assert best(of(made_up("a", -90.0, 5.0)), "fd") == set()

    def test_a_bound_is_marked_as_one_on_its_side(self, compared):
        found = table.table(compared)
        titles = [column.title for column in found.columns]
        rows = {name: dict(zip(titles, cells, strict=True)) for group in found.groups for name, cells in group.rows}
        assert rows["vae"]["log p(x)"].text.startswith("≥ ")
        assert rows["vae"]["bits per"].text.startswith("≤ ")
        assert re.match(r"[−\d]", rows["ppca"]["log p(x)"].text)
        assert rows["codes"]["latents"].words == "4 codes of 5 (9.29 bits) of 64"
        assert rows["codes"]["draws"].words == "sequential, 4 steps"
        assert rows["ae"]["log p(x)"].text == "–"

    @pytest.mark.parametrize("order", [1, -1])
    def test_arrows_say_what_is_better(self, order):
        shown = table.table(of(*[made_up("a", -90.0, 5.0), made_up("b", fd=7.0, recall=0.5)][::order]))
        assert {c.title: c.better for c in shown.columns if c.better != "neither"} == {
            "log p(x)": "higher", "fd": "lower", "recall": "higher"
        }  # fmt: skip


class Strict(HTMLParser):
    """Tags that are closed in order, words that are shown, images."""

    VOID = {"meta", "img"}

    def __init__(self, text):
        super().__init__()
        self.open, self.kinds, self.words, self.images, self.attributes = [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.kinds.append(tag)
        self.attributes += [(tag, *a) for a in attrs]
        if tag == "img":
            self.images.append(dict(attrs))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)


NAMES = ("<script>alert(1)</script>", 'a "quoted" & |piped| *name*', "plain")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The folder of a page about models with difficult names."""
    entries = [
        made_up(name, -90.0 - i, 5.0 + i, precision=0.5 + 0.1 * i, recall=0.8 - 0.1 * i) for i, name in enumerate(NAMES)
    ]
    folder = tmp_path_factory.mktemp("page")
    write_page(of(*entries), folder, command="zoo compare '<script>'")
    return folder


class TestPage:
    def test_is_one_file_that_runs_and_fetches_nothing(self, written):
        text = (written / "index.html").read_text(encoding="utf-8")
        found = Strict(text)
        assert not {"script", "link", "iframe", "object"} & {*found.kinds}
        assert [a for a in found.attributes if a[1] in ("href", "srcset", "onclick", "onload", "action")] == []
        assert all(image["src"].startswith("data:image/png;base64,") for image in found.images)
        assert not re.search(r"url\(|@import|https?:", text)
        assert "@page" in text

    def test_shows_every_name_as_it_is(self, written):
        words = Strict((written / "index.html").read_text(encoding="utf-8")).words
        assert all(words.count(name) == 2 for name in NAMES)  # in the table and below the samples

    def test_holds_every_picture_that_lies_beside_it(self, written):
        files = {path.name: path.read_bytes() for path in written.glob("*.png")}
        assert {"likelihood-quality.png", "precision-recall.png", "samples-plain.png"} <= files.keys()
        assert len(files) == 5
        found = Strict((written / "index.html").read_text(encoding="utf-8"))
        inside = [base64.b64decode(image["src"].partition(",")[2]) for image in found.images]
        assert sorted(inside) == sorted(files.values())
        assert all(image["alt"] for image in found.images)

    def test_markdown_links_every_picture_and_shows_every_name(self, written):
        text = (written / "README.md").read_text(encoding="utf-8")
        links = re.findall(r"(?<!\\)\]\(([^)]+)\)", text)
        assert sorted(links) == sorted(path.name for path in written.glob("*.png"))
        assert "<script>" not in text.partition("```")[0].replace(r"\<script\>", "")
        unescaped = re.sub(r"\\(.)", r"\1", text)
        assert all(unescaped.count(name) >= 2 for name in NAMES)

    def test_markdown_rows_have_equally_many_cells(self, written):
        rows = [line for line in (written / "README.md").read_text(encoding="utf-8").splitlines() if line[:1] == "|"]
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1
        assert len(rows) == 2 + 1 + len(NAMES)

    def test_says_that_likelihoods_of_different_groups_are_not_ranked(self, compared):
        shown = page(compared)
        for text in (html(shown), markdown(shown)):
            assert "Likelihoods are ranked inside a group alone" in text

    def test_reconstructions_are_shown_when_asked_for_alone(self, compared, tmp_path):
        write_page(compared, tmp_path)
        assert (tmp_path / "originals.png").is_file()
        assert len([*tmp_path.glob("reconstructions-*.png")]) == 5
        without = compare({"vae": seeded(VAE)}, dataset(), metrics=[])
        assert page(without).reconstructions == ()
        assert without.originals is None

    def test_no_likelihoods_of_different_data_share_an_axis(self, monkeypatch):
        panels = []
        monkeypatch.setattr(
            "zoo_core.comparison.page.labelled_panels", lambda found, *_, **__: panels.extend(found) or FIGURE
        )
        page(of(made_up("a", -90.0, 5.0), made_up("b", 900.0, 6.0, binarize="none"), made_up("c", fd=7.0)))
        assert [(p.title, list(p.labels), list(p.x), list(p.y)) for p in panels] == [
            ("Probability of binarised pixels", ["a"], [-90.0], [5.0]),
            ("Probability of pixels without noise", ["b"], [900.0], [6.0]),
        ]
        assert [list(p.marks) for p in panels] == [[0], [1]]


def _figure():
    from matplotlib.figure import Figure

    return Figure()


FIGURE = _figure()


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return [str(save_pretrained(model, root / name)) for name, model in (("vae", seeded(VAE)), ("ppca", ppca()))]


def zoo(*arguments):
    return CliRunner().invoke(app, ["compare", *map(str, arguments)])


class TestCommand:
    def test_prints_a_table_and_writes_a_page(self, folders, tmp_path):
        done = zoo(*folders, "--data", "digits", "--examples", 20, "--metrics", "log_prob,mse", "-o", tmp_path)
        assert done.exit_code == 0, done.output
        assert all(name in done.output for name in folders)
        assert str(tmp_path / "index.html") in done.output
        assert len([*(tmp_path / "results").iterdir()]) == 2

    def test_json_is_what_is_stored(self, folders, tmp_path):
        done = zoo(folders[1], "--data", "digits", "--examples", 20, "--metrics", "log_prob", "-o", tmp_path, "--json")
        (stored,) = (json.loads(path.read_bytes()) for path in (tmp_path / "results").iterdir())
        assert json.loads(done.stdout) == [stored]
        assert math.isfinite(stored["results"]["values"]["log_prob"]["value"])

    def test_a_missing_model_is_told_before_anything_is_measured(self, folders, tmp_path):
        done = python(
            "-m", "zoo_core.cli", "compare", folders[0], "vea-mnist", "--data", "digits", "-o", str(tmp_path / "x")
        )
        assert done.returncode == 2
        assert done.stderr.startswith("error: no checkpoint 'vea-mnist'; did you mean")
        assert len(done.stderr.splitlines()) == 1
        assert not (tmp_path / "x").exists()

    def test_a_broken_model_is_told_before_anything_is_measured(self, folders, tmp_path):
        broken = save_pretrained(seeded(VAE), tmp_path / "broken")
        weights = Path(broken) / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-4])
        with pytest.raises(ZooError, match=r"model\.safetensors"):
            CliRunner().invoke(
                app, ["compare", folders[0], str(broken), "--data", "digits", "-o", str(tmp_path / "x")],
                catch_exceptions=False,
            )  # fmt: skip
        assert not (tmp_path / "x").exists()

    def test_a_model_that_is_named_twice_is_told(self, folders):
        with pytest.raises(ConfigError, match="more than once"):
            CliRunner().invoke(app, ["compare", folders[0], folders[0], "--data", "digits"], catch_exceptions=False)


class TestPanels:
    def test_points_and_labels_are_inside_and_apart(self):
        near = [(-88.7, 8.1), (-88.6, 8.2), (-88.65, 8.15), (-60.0, 20.0)]
        panels = [Panel("of some data", *zip(*near, strict=True), [f"a-long-name-{i}" for i in range(4)], range(4))]
        panels.append(Panel("of others", [1.0], [3.0], ["alone_$x$"], [4]))
        figure = labelled_panels(panels, ("likelihood", "distance"), title="better to the right")
        figure.draw_without_rendering()
        for axes, panel in zip(figure.axes, panels, strict=True):
            boxes = [text.get_window_extent() for text in axes.texts]
            assert [text.get_text().replace(r"\$", "$") for text in axes.texts] == [
                panel.labels[i] for i in sorted(range(len(panel.y)), key=lambda i: -panel.y[i])
            ]
            assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
            edge = axes.get_window_extent()
            assert all(edge.x0 <= b.x0 and b.x1 <= edge.x1 and edge.y0 <= b.y0 and b.y1 <= edge.y1 for b in boxes)

    def test_a_long_title_is_inside_of_a_small_figure(self):
        title = "what is above a single panel, in many words that take up more room than it has"
        figure = labelled_panels([Panel("", [0.0], [5.0], ["a"], [0])], ("x", "y"), title=title)
        figure.draw_without_rendering()
        box = figure._suptitle.get_window_extent()
        assert box.x0 >= 0
        assert box.x1 <= figure.bbox.width
        assert box.y0 >= figure.axes[0].get_tightbbox().y1

    def test_marks_need_no_colour_and_the_y_axis_is_one(self):
        panels = [Panel("", [0.0, 1.0], [5.0, 6.0], ["a", "b"], [0, 3]), Panel("", [9.0], [50.0], ["c"], [2])]
        figure = labelled_panels(panels, ("x", "y"))
        lines = [line for axes in figure.axes for line in axes.lines]
        assert [line.get_marker() for line in lines] == [MARKS[0], MARKS[3], MARKS[2]]
        assert {line.get_color() for line in lines} == {"black"}
        assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim()
        assert all(low < 5 and high > 50 for low, high in [figure.axes[0].get_ylim()])
        assert [[*line.get_xydata()[0]] for line in lines] == [[0, 5], [1, 6], [9, 50]]
