"""The command ``zoo`` as a person and as a script meet it; real processes where exit codes count."""

import io
import json
import os
import subprocess
import sys
from contextlib import redirect_stderr

import pytest
import torch
from PIL import Image
from scipy.stats import norm
from typer.testing import CliRunner

from zoo_core import ConfigError, DataError, ZooError, build, default_host, figures, from_pretrained, save_pretrained
from zoo_core.cli.attributes import Condition
from zoo_core.cli.latents import strengths
from zoo_core.cli.main import app
from zoo_core.data import InMemory, Preprocessing, load
from zoo_core.distributions import kl_per_dimension
from zoo_core.errors import exit_with_sentence
from zoo_core.evaluation import read_results
from zoo_core.files import write_json
from zoo_core.host import plural
from zoo_core.images import grid, to_picture
from zoo_core.randomness import drawing_from

HEAVY = ("torch", "transformers", "datasets", "accelerate", "sklearn", "matplotlib", "huggingface_hub")


def zoo(*arguments, code=0, **environment):
    """Runs the command in a process of its own; returns standard output, or standard error if it must fail."""
    command = [sys.executable, "-m", "zoo_core.cli", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, timeout=120)
    assert done.returncode == code, done.stderr
    return done.stderr if code else done.stdout


def told(*arguments, code):
    """What the command says on standard error before it ends with that code, in this process."""
    errors = io.StringIO()
    with redirect_stderr(errors), pytest.raises(SystemExit) as ended, exit_with_sentence():
        app(list(map(str, arguments)))
    assert ended.value.code == code
    return errors.getvalue()


def quick(*arguments):
    """Runs the command in this process."""
    result = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    vae = build(
        {
            "type": "vae/vae",
            "encoder": {"type": "nets/mlp_encoder", "latents": 3, "hidden": [8]},
            "decoder": {"type": "nets/mlp_decoder", "hidden": [8]},
            "prior": "nets/standard_normal",
        },
        data_shape=(1, 12, 10),
    )
    return save_pretrained(vae, tmp_path_factory.mktemp("model") / "tiny")


class TestRegistry:
    @pytest.mark.parametrize("command", ["list", "plugins", "--help"])
    def test_needs_no_heavy_library(self, command):
        script = f"import sys; sys.argv = ['zoo', {command!r}]\nfrom zoo_core.cli import main\ntry: main()\nfinally:\n"
        script += f"    print([m for m in {HEAVY} if m in sys.modules], file=sys.stderr)"
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
        assert done.stderr.strip() == "[]"
        assert done.stdout

    def test_list_names_everything_once(self):
        names = [r.full_name for r in default_host().registrations()]
        told = quick("list").split()
        assert all(told.count(name) == 1 for name in names)

    @pytest.mark.parametrize("kind", ["models", "encoder", "losses", "metrics"])
    def test_list_of_a_kind_as_json(self, kind):
        told = json.loads(quick("list", kind, "--json"))
        assert told
        assert all(kind in (entry["kind"], plural(entry["kind"])) for entry in told)

    def test_show_lists_the_arguments_of_the_constructor(self):
        told = json.loads(quick("show", "nets/conv_encoder", "--json"))
        assert [a["name"] for a in told["arguments"]][:3] == ["data_shape", "latents", "channels"]
        assert "a positive integer" in quick("show", "conv_encoder")

    @pytest.mark.parametrize("name", [r.full_name for r in default_host().registrations()])
    def test_show_works_for_everything(self, name):
        assert name in quick("show", name)

    def test_plugins_as_json(self):
        told = {entry["name"]: entry for entry in json.loads(quick("plugins", "--json"))}
        assert {"core", "metrics", "nets", "vae"} <= told.keys()
        assert "vae/vae" in told["vae"]["offers"]

    def test_disabled_plugins_are_shown(self):
        told = json.loads(zoo("plugins", "--json", ZOO_DISABLE="vae"))
        assert {entry["name"]: entry["state"] for entry in told}["vae"] == "disabled"


class TestPictures:
    def test_samples_fill_a_grid_and_follow_the_seed(self, model, tmp_path):
        for name, seed in (("a", 0), ("b", 0), ("c", 1)):
            quick("sample", model, "-n", 6, "-o", tmp_path / f"{name}.png", "--seed", seed, "--enlarge", 1)
        a, b, c = ((tmp_path / f"{name}.png").read_bytes() for name in "abc")
        assert a == b != c
        with Image.open(tmp_path / "a.png") as picture:  # 3 columns of 10 pixels, 2 rows of 12, gaps of 2
            assert picture.size == (3 * 12 + 2, 2 * 14 + 2)

    def test_reconstructions_show_inputs_above(self, model, tmp_path):
        Image.new("RGB", (40, 30), "white").save(tmp_path / "white.png")
        quick("reconstruct", model, tmp_path / "white.png", "-o", tmp_path / "out.png", "--enlarge", 1)
        with Image.open(tmp_path / "out.png") as picture:
            assert picture.size == (14, 30)
            assert picture.getpixel((6, 7)) == 255

    def test_margin_leaves_a_black_border(self, model, tmp_path):
        Image.new("L", (40, 30), 255).save(tmp_path / "white.png")
        quick("reconstruct", model, tmp_path / "white.png", "--margin", 2, "-o", tmp_path / "out.png", "--enlarge", 1)
        with Image.open(tmp_path / "out.png") as picture:
            assert [picture.getpixel((x, 8)) for x in (2, 3, 4, 9, 10, 11)] == [0, 0, 255, 255, 0, 0]

    def test_interpolation_of_two_files_is_one_strip(self, model, tmp_path):
        for name, level in (("a", 0), ("b", 255)):
            Image.new("L", (10, 12), level).save(tmp_path / f"{name}.png")
        paths = [tmp_path / "a.png", tmp_path / "b.png"]
        quick("interpolate", model, *paths, "--steps", 5, "-o", tmp_path / "o.png", "--enlarge", 1)
        with Image.open(tmp_path / "o.png") as picture:
            assert picture.size == (5 * 12 + 2, 14 + 2)

    def test_data_sets_serve_as_inputs(self, model, tmp_path):
        quick("reconstruct", model, "--data", "digits", "-n", 4, "-o", tmp_path / "r.png")
        quick("interpolate", model, "--data", "digits", "-o", tmp_path / "i.png")
        assert (tmp_path / "r.png").stat().st_size > 100
        assert (tmp_path / "i.png").stat().st_size > 100

    def test_options_of_the_model_change_how_it_draws(self, model, tmp_path):
        pictures = []
        for option in ("noise=false", "noise=true"):
            quick("sample", model, "--set", option, "-n", 3, "-o", tmp_path / "s.png")
            pictures.append((tmp_path / "s.png").read_bytes())
        quick("sample", model, "-n", 3, "-o", tmp_path / "s.png")
        assert (tmp_path / "s.png").read_bytes() == pictures[0] != pictures[1]

    @pytest.mark.parametrize("name", ["classical/kmeans", "classical/gmm", "classical/ppca"])
    def test_whatever_reconstructs_is_asked_to(self, fitted, tmp_path, name):
        x = load("digits", "test").batch(torch.randperm(360, generator=torch.Generator().manual_seed(0))[:3])["image"]
        quick("reconstruct", fitted[name], "--data", "digits", "-n", 3, "-o", tmp_path / "r.png", "--enlarge", 1)
        expected = to_picture(grid(torch.cat([x / 255, from_pretrained(fitted[name]).reconstruct(x / 255)]), 3))
        with Image.open(tmp_path / "r.png") as picture:
            assert picture.tobytes() == expected.tobytes()


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """Models of digits without gradients, by name."""
    x, folder, made = load("digits").batch(torch.arange(300))["image"] / 255, tmp_path_factory.mktemp("fitted"), {}
    for name, options in {
        "classical/kmeans": {"clusters": 4},
        "classical/gmm": {"components": 3, "min_variance": 1e-3},
        "classical/ppca": {"latents": 3},
        "classical/chow_liu": {},
    }.items():
        model = build({"type": name, **options}, data_shape=(1, 8, 8))
        torch.manual_seed(0)
        model.begin(x.round())
        model.update(model.statistics(x.round()))
        made[name] = save_pretrained(model, folder / name.rpartition("/")[-1])
    return made


def small(folder, *, latents=2, shape=(1, 8, 8), recipe=None, **parts):
    """A VAE saved into a folder, as if it had been trained by that recipe."""
    torch.manual_seed(0)
    config = {
        "type": "vae/vae",
        "encoder": {"type": "nets/mlp_encoder", "latents": latents, "hidden": [8]},
        "decoder": {"type": "nets/mlp_decoder", "hidden": [8]},
        "prior": "nets/standard_normal",
    }
    vae = build({**config, **parts}, data_shape=shape)
    vae.provenance = {"recipe": recipe} if recipe else {}
    return save_pretrained(vae, folder)


@pytest.fixture
def drawn(monkeypatch):
    """What the functions that draw figures are called with."""
    calls = []
    for name in ("labelled_grid", "latent_map"):
        draw = getattr(figures, name)
        monkeypatch.setattr(figures, name, lambda *a, draw=draw, **k: calls.append((*a, k)) or draw(*a, **k))
    return calls


DIGITS = {"data": {"name": "core/digits", "split": "train", "held_out": "test"}}


class TestAttribute:
    def test_steps_of_the_direction_are_added_to_codes(self, tmp_path, drawn):
        """Delta by hand from all training digits; x: held-out digits of the other kind."""
        folder = small(tmp_path / "vae", recipe=DIGITS)
        quick("attribute", folder, "--plus", "label=3", "--minus", "label=8", "--strength", "0,1,-0.5", "-n", 4,
              "-o", tmp_path / "a.png")  # fmt: skip
        vae, digits = from_pretrained(folder), load("digits", "train").batch(torch.arange(1437))
        z = vae.encode(digits["image"] / 255)
        delta = z[digits["label"] == 3].mean(0) - z[digits["label"] == 8].mean(0)
        ((pictures, rows, header, options),) = drawn
        x = pictures[:, 0]
        held_out = load("digits", "test").batch(torch.arange(360))
        eights = held_out["image"][held_out["label"] == 8] / 255
        assert all(any(torch.equal(image, eight) for eight in eights) for image in x)
        for column, s in ((1, 0), (2, 1), (3, -0.5)):
            torch.testing.assert_close(pictures[:, column], vae.decode(vae.encode(x) + s * delta), atol=1e-5, rtol=1e-4)
        assert header == ["$x$", "0", "+1", "-0.5"]
        assert len(rows) == len(pictures) == 4
        assert "from label=8 to label=3" in options["caption"]

    def test_without_minus_all_others_are_the_other_side(self, tmp_path, drawn):
        folder = small(tmp_path / "vae", recipe=DIGITS)
        Image.new("L", (8, 8), 100).save(tmp_path / "grey.png")
        quick(
            "attribute", folder, tmp_path / "grey.png", "--plus", "label=0", "--strength", "1", "-o", tmp_path / "a.png"
        )
        vae, digits = from_pretrained(folder), load("digits", "train").batch(torch.arange(1437))
        z = vae.encode(digits["image"] / 255)
        delta = z[digits["label"] == 0].mean(0) - z[digits["label"] != 0].mean(0)
        x = torch.full((1, 1, 8, 8), 100 / 255)
        torch.testing.assert_close(drawn[0][0][0, 1], vae.decode(vae.encode(x) + delta)[0], atol=1e-5, rtol=1e-4)

    def test_two_folders_of_images_are_two_sides(self, fitted, tmp_path, drawn):
        for side, level in (("dark", 10), ("light", 240)):
            (tmp_path / side).mkdir()
            (tmp_path / side / "notes.txt").write_text("no image")
            for i in range(3):
                Image.new("L", (8 + i, 8), level + i).save(tmp_path / side / f"{i}.png")
        options = ("--plus", tmp_path / "light", "--minus", tmp_path / "dark", "--strength", "1", "-n", 2)
        quick("attribute", fitted["classical/ppca"], *options, "-o", tmp_path / "a.png")
        pictures = drawn[0][0]
        ppca, levels = from_pretrained(fitted["classical/ppca"]), torch.tensor([10, 11, 12]).view(-1, 1, 1, 1)
        dark, light = ((level / 255).expand(3, 1, 8, 8) for level in (levels, levels + 230))
        delta = ppca.encode(light).mean(0) - ppca.encode(dark).mean(0)
        assert torch.equal(pictures[:, 0], dark[:2])
        torch.testing.assert_close(pictures[:, 1], ppca.decode(ppca.encode(dark[:2]) + delta))

    def test_factors_of_scenes_are_attributes(self, tmp_path):
        folder = small(tmp_path / "vae", shape=(3, 16, 16))
        options = ("--data", "shapes", "--plus", "colour_1=3", "--examples", 80, "-n", 2)
        for name in "ab":
            quick("attribute", folder, *options, "-o", tmp_path / f"{name}.png")
        assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()

    def test_columns_of_strings_have_values_too(self):
        images = torch.zeros(4, 1, 2, 2, dtype=torch.uint8)
        pets = InMemory("pets", "train", {"image": images, "kind": ["cat", "dog", "cat", "eel"]})
        condition = Condition("--plus", "kind", "cat")
        assert condition.places(pets, torch.tensor([3, 2, 1, 0])).tolist() == [2, 0]
        assert condition.others(pets, torch.tensor([3, 2, 1, 0])).tolist() == [3, 1]
        with pytest.raises(DataError, match="has kind=cow; there are: cat, dog, eel"):
            Condition("--plus", "kind", "cow").places(pets, torch.arange(4))
        with pytest.raises(DataError, match="no column of integers or strings"):
            Condition("--plus", "image", "0").places(pets, torch.arange(4))

    @pytest.mark.parametrize(
        ("text", "values"),
        [("-2..2", [-2, -1, 0, 1, 2]), ("0..0.3..0.1", [0, 0.1, 0.2, 0.3]), ("1", [1]), ("-1,0.5,3", [-1, 0.5, 3]),
         ("1..2.4", [1, 2]), ("3..3", [3])],
    )  # fmt: skip
    def test_strengths_are_ranges_or_lists(self, text, values):
        assert strengths(text) == pytest.approx(values)

    @pytest.mark.parametrize("text", ["", "a", "2..1", "0..1..0", "0..1..-1", "nan", "inf", "1..2,3", "0..1e9", "1,,2"])
    def test_strengths_that_are_neither_are_told(self, text):
        with pytest.raises(ConfigError, match="--strength: must be a range"):
            strengths(text)


class TestTraverse:
    def test_rows_are_dimensions_by_falling_kl(self, tmp_path, drawn):
        folder = small(tmp_path / "vae", latents=5, recipe=DIGITS)
        quick("traverse", folder, "--dimensions", 3, "--steps", 4, "--range", 2, "-n", 360, "-o", tmp_path / "t.png")
        ((pictures, rows, header, options),) = drawn
        vae, x = from_pretrained(folder), load("digits", "test").batch(torch.arange(360))["image"] / 255
        values, order = kl_per_dimension(vae.encoder(x), vae.prior()).mean(0).sort(descending=True)
        assert rows == [f"$z_{{{j}}}$  KL {v:.2f} nats" for j, v in zip(order[:3], values, strict=False)]
        assert header == ["-2", "-0.67", "0.67", "2"]
        assert "standard deviations of p(z)" in options["caption"]
        first = torch.randperm(360, generator=torch.Generator().manual_seed(0))[:1]
        z = vae.encode(x[first])[0]
        for row, j in zip(pictures, order[:3], strict=True):
            for picture, value in zip(row, torch.linspace(-2, 2, 4), strict=True):
                moved = z.clone()
                moved[j] = value
                torch.testing.assert_close(picture, vae.decode(moved))

    def test_from_the_prior_the_others_stay_at_its_mean(self, tmp_path, drawn):
        folder = small(tmp_path / "vae", recipe=DIGITS)
        quick("traverse", folder, "--from", "prior", "--steps", 3, "-n", 20, "-o", tmp_path / "t.png")
        pictures, vae = drawn[0][0], from_pretrained(folder)
        torch.testing.assert_close(pictures[:, 1], vae.decode(torch.zeros(2, 2)))

    def test_codes_that_follow_no_prior_are_their_own_measure(self, tmp_path, drawn):
        encoder = {"type": "nets/mlp_encoder", "latents": 2, "hidden": [8], "posterior": "nets/dirac"}
        folder = small(tmp_path / "ae", recipe=DIGITS, type="autoencoder/autoencoder", encoder=encoder)
        quick("traverse", folder, "--from", "prior", "--steps", 3, "-n", 360, "-o", tmp_path / "t.png")
        ((pictures, rows, _, options),) = drawn
        model, x = from_pretrained(folder), load("digits", "test").batch(torch.arange(360))["image"] / 255
        z = model.encode(x)
        values, order = z.var(0, correction=0).sort(descending=True)
        assert rows == [f"$z_{{{j}}}$  variance {v:.2f}" for j, v in zip(order, values, strict=True)]
        assert "of the codes" in options["caption"]
        moved = z.mean(0)
        moved[order[0]] += 3 * values[0].sqrt()
        torch.testing.assert_close(pictures[0, 2], model.decode(moved), atol=1e-5, rtol=1e-4)

    def test_grids_of_latents_and_fitted_models_are_traversed_too(self, fitted, tmp_path, drawn):
        grid = small(
            tmp_path / "grid",
            encoder={"type": "nets/conv_encoder", "latents": 2, "channels": [4, 4], "layout": "grid"},
            decoder={"type": "nets/conv_decoder", "channels": [4, 4]},
        )
        Image.new("L", (8, 8), 100).save(tmp_path / "grey.png")
        quick("traverse", grid, tmp_path / "grey.png", "--data", "digits", "-n", 9, "-o", tmp_path / "t.png")
        quick("traverse", fitted["classical/ppca"], "--data", "digits", "-n", 9, "-o", tmp_path / "t.png")
        assert [call[0].shape for call in drawn] == [(8, 9, 1, 8, 8), (3, 9, 1, 8, 8)]
        assert all("KL" in row for call in drawn for row in call[1])


class TestMap:
    def test_two_latents_are_shown_as_they_are_beside_the_quantiles_of_the_prior(self, tmp_path, drawn):
        folder = small(tmp_path / "vae", recipe=DIGITS)
        quick("map", folder, "--steps", 3, "-n", 50, "-o", tmp_path / "m.png")
        ((points, names, options),) = drawn
        vae, chosen = from_pretrained(folder), torch.randperm(360, generator=torch.Generator().manual_seed(0))[:50]
        digits = load("digits", "test").batch(chosen)
        torch.testing.assert_close(points, vae.encode(digits["image"] / 255))
        assert (names, options["groups"], options["legend"]) == (("$z_0$", "$z_1$"), digits["label"].tolist(), "label")
        q = norm.ppf([1 / 6, 1 / 2, 5 / 6])
        z = torch.tensor([[[right, up] for right in q] for up in q[::-1]], dtype=torch.float32)
        torch.testing.assert_close(options["plane"].images, vae.decode(z))

    def test_more_latents_are_shown_on_principal_components(self, fitted, tmp_path, drawn):
        quick("map", fitted["classical/ppca"], "--data", "digits", "-o", tmp_path / "m.png")
        ((points, names, options),) = drawn
        z = from_pretrained(fitted["classical/ppca"]).encode(
            load("digits", "test").batch(torch.arange(360))["image"] / 255
        )
        share = torch.linalg.eigvalsh(z.T.cov()) / z.var(0).sum()
        assert points.shape == (360, 2)
        assert f"{share[-1]:.1%} of the variance" in names[0]
        assert f"{share[-2]:.1%} of the variance" in names[1]
        assert options["plane"] is None

    def test_another_column_may_colour_the_points(self, tmp_path, drawn):
        folder = small(tmp_path / "vae", shape=(3, 16, 16))
        for by in ((), ("--by", "shape_1"), ("--by", "shift_x_1")):
            quick("map", folder, "--data", "shapes", "-n", 60, "--steps", 2, *by, "-o", tmp_path / "m.png")
        scenes = load("shapes", "test").batch(torch.randperm(10_000, generator=torch.Generator().manual_seed(0))[:60])
        assert [call[2]["groups"] for call in drawn] == [[], scenes["shape_1"].tolist(), scenes["shift_x_1"].tolist()]

    @pytest.mark.parametrize("seed", [0, 1])
    def test_images_are_binarised_as_in_training_by_draws_of_the_seed(self, tmp_path, drawn, seed):
        vae, test = from_pretrained(small(tmp_path / "vae")), load("digits", "test")
        vae.preprocessing = Preprocessing(binarize="dynamic")
        folder = save_pretrained(vae, tmp_path / "binary")
        quick("map", folder, "--data", "digits", "--seed", seed, "-n", 90, "--steps", 2, "-o", tmp_path / "m.png")
        places = torch.randperm(360, generator=torch.Generator().manual_seed(seed))[:90]
        with drawing_from(torch.Generator().manual_seed(seed)):
            x = vae.preprocessing(test.batch(places))["image"]
        torch.testing.assert_close(drawn[0][0], vae.encode(x))


class TestWrongInput:
    """What ends a command with one sentence; that it then exits with 2 is tested below, on some."""

    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [
            (("sample", "MODEL", "--set", "temperature=2"), "no such option; its options are: noise"),
            (("sample", "kmeans", "--set", "noise=true"), "KMeans draws with no such option; it has no options"),
            (("sample", "MODEL", "--set", "noise=maybe"), "--set noise: must be true or false, got 'maybe'"),
            (("sample", "MODEL", "--set", "noise"), "--set noise: must be KEY=VALUE"),
            (("sample", "MODEL", "--set", "noise=["), "--set noise: no valid YAML"),
            (("reconstruct", "chow_liu"), "is a ChowLiu, which reconstructs nothing"),
            (("interpolate", "gmm"), "GMM encodes into indices"),
            (("interpolate", "chow_liu"), "ChowLiu does not encode and decode"),
            (("map", "kmeans", "--data", "digits"), "KMeans encodes into indices"),
            (("traverse", "gmm", "--data", "digits"), "GMM encodes into indices"),
            (("traverse", "MODEL"), "--data: is required"),
            (("traverse", "MODEL", "--data", "digits", "--range", "0"), "--range: must be a number above 0"),
            (("traverse", "MODEL", "--data", "digits", "--range", "nan"), "--range: must be a number above 0"),
            (("traverse", "MODEL", "--data", "digits", "--from", "zero"), "--from: must be 'image' or 'prior'"),
            (("traverse", "MODEL", "a.png", "--data", "digits", "--from", "prior"), "--from prior takes no image"),
            (("traverse", "MODEL", "a.png", "--data", "digits"), "cannot read an image from a.png"),
            (("traverse", "MODEL", "--data", "digits", "--margin", "6"), "--margin: 6 leaves nothing"),
            (("traverse", "MODEL", "--data", "digits", "--split", "dev"), "core/digits has no split 'dev'"),
            (("map", "MODEL"), "--data: is required"),
            (("map", "MODEL", "--data", "digits", "--by", "size"), "has no column 'size'; it has: image, label"),
            (("map", "MODEL", "--data", "digits", "--by", "image"), "'image' is no column of integers or strings"),
            (("map", "MODEL", "--data", "shapes", "--by", "caption"), "'caption' has 100 different values"),
            (("attribute", "MODEL", "--plus", "label=3"), "--data: is required"),
            (("attribute", "MODEL", "--plus", "three"), "--plus: must be COLUMN=VALUE, such as label=3, or a folder"),
            (("attribute", "MODEL", "--plus", "=3"), "--plus: must be COLUMN=VALUE"),
            (("attribute", "MODEL", "--plus", "."), "--minus: must be a folder if --plus is one"),
            (("attribute", "MODEL", "--plus", "label=3", "--minus", "."), "--minus: must be a folder if --plus is one"),
            (("attribute", "MODEL", "--plus", ".", "--minus", "."), "there are no image files in ."),
            (("attribute", "MODEL", "--data", "digits", "--plus", "label=12"), "has label=12; there are: 0, 1, 2"),
            (("attribute", "MODEL", "--data", "digits", "--plus", "tag=1"), "'digits' has no column 'tag'"),
            (("attribute", "MODEL", "--plus", "label=3", "--strength", "many"), "--strength: must be a range"),
        ],
    )  # fmt: skip
    def test_is_told_in_a_sentence_and_nothing_is_written(
        self, model, fitted, tmp_path, monkeypatch, arguments, sentence
    ):
        monkeypatch.chdir(tmp_path)
        known = {"MODEL": model, **{name.rpartition("/")[-1]: folder for name, folder in fitted.items()}}
        command = [str(known.get(a, a)) for a in (*arguments, "-o", "out.png")]
        number = ["-n", "100"] if "caption" in command else []
        with pytest.raises(ZooError) as told:
            CliRunner().invoke(app, command + number, catch_exceptions=False)
        assert sentence in str(told.value)
        assert "\n" not in str(told.value)
        assert list(tmp_path.iterdir()) == []


class TestEvaluation:
    def test_values_follow_the_seed_and_say_how_they_came_about(self, model, tmp_path):
        from zoo_core import from_pretrained

        vae = from_pretrained(model)
        vae.preprocessing = type(vae.preprocessing)(image_size=(12, 10))
        folder = save_pretrained(vae, tmp_path / "fitted")
        options = ("--data", "digits", "--examples", 50, "--metrics", "elbo,{type: iwae, samples: 3}", "--json")
        first, again = (json.loads(quick("eval", folder, *options)) for _ in range(2))
        assert first == again
        assert set(first["values"]) == {"elbo", "distortion", "rate", "iwae_3"}
        assert first["data_fingerprint"] == load("digits", "test").fingerprint
        assert all(value["n"] == 50 for value in first["values"].values())

    def test_what_training_measured_comes_out_again_by_default(self, tmp_path):
        """Also where the recipe measures in batches of its own size, on which the draws depend."""
        from zoo_core.training import train
        from zoo_core.training.reading import parse_recipe

        recipe = {
            "name": "tiny",
            "model": {
                "type": "vae/vae",
                "encoder": {"type": "nets/mlp_encoder", "latents": 2, "hidden": [4]},
                "decoder": {"type": "nets/mlp_decoder", "hidden": [4]},
                "prior": "nets/standard_normal",
            },
            "loss": "vae/elbo",
            "data": {"name": "core/digits", "preprocessing": {"binarize": "dynamic"}},
            "training": {"steps": 2},
            "evaluation": {"metrics": ["metrics/elbo", "metrics/iwae"], "batch": 37, "examples": 90},
        }
        folder = train(parse_recipe(recipe), tmp_path)
        trained = read_results(folder / "results.json")[0]
        again = json.loads(quick("eval", folder, "--json"))
        assert {**again, "seconds": 0} == {**trained, "seconds": 0}
        assert json.loads(quick("eval", folder, "--json", "--batch", 50))["values"] != trained["values"]


class TestMistakes:
    @pytest.mark.parametrize(
        ("arguments", "code", "sentence"),
        [
            (("sample", "vae-minst"), 2, "no checkpoint 'vae-minst'; did you mean: vae-mnist"),
            (("sample", "./nowhere"), 2, "no such folder: 'nowhere'"),
            (("list", "animals"), 2, "no kind 'animals'; there are: encoders"),
            (("show", "elbo"), 2, "names more than one component"),
            (("train",), 2, "name a recipe"),
            (("train", "nothing"), 2, "no recipe 'nothing'"),
            (("train", "vae-mnist", "--set", "training.lr=-1"), 2, "training.lr: must be a number above 0"),
            (("sample", "MODEL", "-o", "/proc/none/x.png"), 2, "cannot write /proc/none/x.png"),
            (("reconstruct", "MODEL", "none.png"), 2, "cannot read an image from none.png"),
            (("reconstruct", "MODEL", "--margin", "6"), 2, "--margin: 6 leaves nothing of images of 12x10"),
            (("interpolate", "MODEL", "one.png"), 2, "interpolate takes two images, got 1"),
            (("interpolate", "MODEL", "--path", "round"), 2, "--path: must be 'spherical' or 'linear'"),
            (("eval", "MODEL"), 2, "--data: is required"),
            (("eval", "MODEL", "--data", "digits", "--metrics", "fid"), 2, "no metric 'fid'"),
            (("eval", "MODEL", "--data", "digits"), 2, "of shape (1, 8, 8), the model takes (1, 12, 10)"),
            (("sample", "MODEL", "-n", "0"), 2, "greater than or equal to 1"),
            (("sample", "MODEL", "--set", "temperature=2"), 2, "its options are: noise"),
            (("attribute", "MODEL", "--data", "digits"), 2, "Missing option '--plus'"),
        ],
    )
    def test_one_sentence_and_an_exit_code(self, model, arguments, code, sentence):
        said = told(*(str(model) if a == "MODEL" else a for a in arguments), code=code)
        assert sentence in said

    def test_no_traceback_reaches_a_person(self):
        assert zoo("sample", "vae-minst", code=2).startswith("error: no checkpoint 'vae-minst'")

    def test_another_recipe_in_the_same_folder_exits_with_1(self, tmp_path):
        write_json(tmp_path / "recipe.json", {"name": "other"})
        said = told("train", "vae-mnist", "--set", "data.name=core/digits", "-o", tmp_path, code=1)
        assert "holds a run of another recipe" in said

    def test_a_reader_that_goes_away_is_no_error(self):
        done = subprocess.run(
            f"{sys.executable} -m zoo_core.cli list | head -1", shell=True, capture_output=True, text=True, timeout=60
        )
        assert done.stdout == "encoders\n"
        assert done.stderr == ""
