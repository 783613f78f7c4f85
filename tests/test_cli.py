"""The command ``zoo`` as a person and as a script meet it; real processes where exit codes count."""

import json
import os
import subprocess
import sys

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from zoo_core import build, default_host, save_pretrained
from zoo_core.cli.main import app
from zoo_core.data import load
from zoo_core.files import write_json
from zoo_core.host import plural

HEAVY = ("torch", "transformers", "datasets", "accelerate", "sklearn", "matplotlib", "huggingface_hub")


def zoo(*arguments, code=0, **environment):
    """Runs the command in a process of its own; returns standard output, or standard error if it must fail."""
    command = [sys.executable, "-m", "zoo_core.cli", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, timeout=120)
    assert done.returncode == code, done.stderr
    return done.stderr if code else done.stdout


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
        from zoo_core.training.recipe import parse_recipe

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
        trained = json.loads((folder / "results.json").read_text())
        assert json.loads(quick("eval", folder, "--json")) == trained
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
        ],
    )
    def test_one_sentence_and_an_exit_code(self, model, arguments, code, sentence):
        told = zoo(*(str(model) if a == "MODEL" else a for a in arguments), code=code)
        assert sentence in told
        assert "Traceback" not in told

    def test_another_recipe_in_the_same_folder_exits_with_1(self, tmp_path):
        write_json(tmp_path / "recipe.json", {"name": "other"})
        told = zoo("train", "vae-mnist", "--set", "data.name=core/digits", "-o", tmp_path, code=1)
        assert "holds a run of another recipe" in told

    def test_a_reader_that_goes_away_is_no_error(self):
        done = subprocess.run(
            f"{sys.executable} -m zoo_core.cli list | head -1", shell=True, capture_output=True, text=True, timeout=60
        )
        assert done.stdout == "encoders\n"
        assert done.stderr == ""
