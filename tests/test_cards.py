"""Cards say what was measured and how it comes again, as the Hub reads it; the shipped ones hold."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from PIL import Image
from typer.testing import CliRunner

from tests.hub_server import review_card
from zoo_core import CheckpointError, DataError, default_host, from_pretrained, save_pretrained
from zoo_core.cards import card, write_pictures
from zoo_core.cards.pictures import OWN
from zoo_core.cli.main import app
from zoo_core.data import load
from zoo_core.evaluation import measure, read_results, rounded
from zoo_core.evaluation.results import compared, document
from zoo_core.pretrained import checkpoint_folder
from zoo_core.training import train
from zoo_core.training.reading import parse_recipe

ROOT = Path(__file__).parents[1]
SHIPPED = {
    r.spec.name: folder
    for r in default_host().registrations("checkpoint")
    if (folder := checkpoint_folder(r)) is not None  # type: ignore[arg-type]
}
every_checkpoint = pytest.mark.parametrize("name", SHIPPED)
RECIPE: dict[str, Any] = {
    "name": "small",
    "summary": "A small VAE.",
    "model": {
        "type": "vae/vae",
        "encoder": {"type": "nets/mlp_encoder", "latents": 3, "hidden": [16]},
        "decoder": {"type": "nets/mlp_decoder", "hidden": [16]},
        "prior": "nets/standard_normal",
    },
    "loss": "vae/elbo",
    "data": {"name": "digits", "split": "train", "held_out": "test"},
    "training": {"steps": 3, "batch": 16},
    "evaluation": {"metrics": ["metrics/elbo", "metrics/mse"], "batch": 50, "examples": 90},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = train(parse_recipe(RECIPE), tmp_path_factory.mktemp("runs") / "small")
    assert folder is not None
    return folder


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    copy = save_pretrained(from_pretrained(trained), tmp_path / "model")
    (copy / "results.json").write_bytes((trained / "results.json").read_bytes())
    return copy


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def commands(text: str) -> list[str]:
    return re.findall(r"^\$ zoo (eval .*)$", text, re.MULTILINE)


class TestText:
    def test_the_hub_reads_each_result_and_how_it_comes_again(self, trained: Path) -> None:
        data = ModelCard(card(trained, "me/small")).data
        (told,) = read_results(trained / "results.json")
        assert (data.library_name, data.pipeline_tag) == ("zoo", "unconditional-image-generation")
        assert {result.metric_type: result.metric_value for result in data.eval_results} == {
            name: value["value"] for name, value in told["values"].items()
        }
        for result in data.eval_results:
            assert (result.dataset_type, result.dataset_split) == ("digits", "test")
            assert result.dataset_args == {"fingerprint": told["data_fingerprint"]}
            assert result.metric_args["command"] == "zoo eval me/small"
            assert result.metric_args["check"] == "zoo eval me/small --check"
            assert (result.metric_args["examples"], result.metric_args["seed"]) == (90, 0)

    def test_the_hub_finds_no_fault_with_it(self, trained: Path) -> None:
        errors, _ = review_card(card(trained, "me/small"))
        assert errors == []

    @pytest.mark.parametrize(
        "record", [{"recipe": {"training": 3}}, {"recipe": {"data": {"name": "digits"}, "training": {}}}, {"prior": {}}]
    )
    def test_what_is_not_recorded_is_told_in_a_sentence(self, folder: Path, record: dict[str, Any]) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "provenance": record}))
        with pytest.raises(CheckpointError, match="does not record what a card tells"):
            card(folder, "me/small")

    def test_its_commands_give_its_numbers(self, folder: Path) -> None:
        """Under other data, metrics, extractor, seed and batch than the recipe's too."""
        model = from_pretrained(folder)
        evaluations = read_results(folder / "results.json")
        fd = {"type": "metrics/fd", "extractor": "metrics/pixels"}
        evaluations += [
            measure(model, ["elbo"], load("digits", "train"), examples=40, seed=3),
            measure(model, [{"type": "iwae", "samples": 2}, fd], load("digits", "test"), batch=33, extractor="pixels"),
        ]
        (folder / "results.json").write_text(json.dumps(document(evaluations)))
        told = commands(card(folder, str(folder)))
        assert len(told) == len(evaluations) + 1
        for command, evaluation in zip(told, evaluations, strict=False):
            done = run(*shlex.split(command), "--json")
            assert done.exit_code == 0, (command, done.exception)
            again = json.loads(done.stdout)
            assert again["values"] == evaluation["values"]
        checked = run(*shlex.split(told[-1]))
        assert checked.exit_code == 0, checked.output
        assert checked.output.count("holds") == sum(len(e["values"]) for e in evaluations)

    def test_a_value_without_end_is_told_as_none_and_not_given_to_the_hub(self, folder: Path) -> None:
        (evaluation,) = read_results(folder / "results.json")
        evaluation["values"]["mse"] |= {"value": None, "error": None}
        (folder / "results.json").write_text(json.dumps(document([evaluation])))
        text = card(folder, "small")
        assert "| mse | none | none |" in text
        assert "mse" not in {result.metric_type for result in ModelCard(text).data.eval_results}

    def test_a_model_that_nobody_measured_has_a_card(self, folder: Path) -> None:
        (folder / "results.json").unlink()
        text = card(folder, "small")
        assert "Nothing has been measured yet." in text
        assert ModelCard(text).data.eval_results is None

    def test_a_folder_without_a_checkpoint_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match=r"config\.json"):
            card(tmp_path, "small")


class TestPictures:
    def test_they_are_drawn_beside_the_card_that_shows_them(self, trained: Path, tmp_path: Path) -> None:
        assert run("card", trained, "--name", "me/small", "-o", tmp_path / "new" / "README.md").exit_code == 0
        text = (tmp_path / "new" / "README.md").read_text()
        shown = re.findall(r"!\[.*\]\((.*)\)", text)
        assert (
            shown
            == ["samples.png", "interpolation.png"]
            == sorted((path.name for path in (tmp_path / "new").glob("*.png")), reverse=True)
        )
        for name in shown:
            Image.open(tmp_path / "new" / name).verify()

    def test_they_are_the_same_each_time(self, trained: Path, tmp_path: Path) -> None:
        first, second = (write_pictures(from_pretrained(trained), tmp_path / name) for name in "ab")
        assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]

    def test_images_of_the_data_are_shown_on_demand_alone(self, trained: Path, tmp_path: Path) -> None:
        model = from_pretrained(trained)
        assert "digits" not in OWN
        assert "reconstructions.png" not in {path.name for path in write_pictures(model, tmp_path)}
        asked = write_pictures(model, tmp_path, reconstructions=True)
        assert "reconstructions.png" in {path.name for path in asked}

    def test_images_that_the_project_makes_are_shown(self, tmp_path: Path) -> None:
        made = write_pictures(from_pretrained("beta-vae-shapes"), tmp_path)
        assert {path.name for path in made} == {"samples.png", "reconstructions.png", "interpolation.png"}

    def test_a_model_whose_data_are_not_there_shows_what_it_draws(self, trained: Path, tmp_path: Path) -> None:
        model = from_pretrained(trained)
        recipe = {**model.provenance["recipe"], "data": {"name": "nobody/nothing"}}
        model.provenance = {**model.provenance, "recipe": recipe}
        made = write_pictures(model, tmp_path, reconstructions=True)
        assert {path.name for path in made} == {"samples.png", "interpolation.png"}


class TestCheck:
    def test_a_wrong_claim_is_found(self, folder: Path) -> None:
        (evaluation,) = read_results(folder / "results.json")
        claim = evaluation["values"]["mse"]
        claim["value"] += 0.2 * claim["error"]
        (folder / "results.json").write_text(json.dumps(document([evaluation])))
        checked = run("eval", folder, "--check")
        assert checked.exit_code == 1
        (line,) = [line for line in checked.output.splitlines() if "DOES NOT HOLD" in line]
        assert line.split()[0] == "mse"
        told = json.loads(run("eval", folder, "--check", "--json").stdout)
        assert {v["name"]: v["agrees"] for v in told[0]["values"]} == {
            name: name != "mse" for name in evaluation["values"]
        }

    def test_a_claim_about_other_data_is_refused(self, folder: Path) -> None:
        (evaluation,) = read_results(folder / "results.json")
        evaluation["data_fingerprint"] = "0" * 64
        (folder / "results.json").write_text(json.dumps(document([evaluation])))
        result = run("eval", folder, "--check")
        assert "are not those of the claim" in str(result.exception)

    def test_what_claims_nothing_cannot_be_checked(self, folder: Path) -> None:
        (folder / "results.json").unlink()
        assert "claims nothing" in str(run("eval", folder, "--check").exception)

    @pytest.mark.parametrize("option", [("--examples", 3), ("--metrics", "elbo"), ("--seed", 1)])
    def test_a_claim_is_checked_as_it_was_made(self, folder: Path, option: tuple[object, ...]) -> None:
        assert f"leave out {option[0]}" in str(run("eval", folder, "--check", *option).exception)

    def test_an_evaluation_is_added_to_a_file_and_the_others_stay(self, folder: Path) -> None:
        path = folder / "results.json"
        before = read_results(path)
        run("eval", folder, "--metrics", "mse", "--seed", 1, "-o", path)
        assert [e["seed"] for e in read_results(path)] == [0, 1]
        assert read_results(path)[:1] == before
        assert run("eval", folder, "--check").exit_code == 0


class TestCommand:
    def test_a_warning_is_one_line(self, folder: Path) -> None:
        words = ["eval", str(folder), "--metrics", "kid", "--extractor", "pixels", "--examples", "9"]
        command = [sys.executable, "-m", "zoo_core.cli", *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stderr
        assert done.stderr.startswith("warning: metric 'kid' says little of 9 examples")
        assert ".py" not in done.stderr


class TestProcesses:
    def test_two_measure_what_one_does_and_one_of_them_speaks(self, folder: Path, tmp_path: Path) -> None:
        command = [sys.executable, "-m", "zoo_core.cli", "eval", str(folder), "--batch", "20"]
        told = []
        for name, more in (("one", ()), ("two", ("--num-processes", "2"))):
            out = tmp_path / f"{name}.json"
            done = subprocess.run([*command, *more, "-o", str(out)], capture_output=True, text=True, timeout=200)
            assert done.returncode == 0, done.stderr
            assert done.stdout.count("elbo") == 1
            told.append(read_results(out)[0])
        one, two = told
        assert (one["processes"], two["processes"]) == (1, 2)
        for name, value in one["values"].items():
            assert two["values"][name]["n"] == value["n"] == 90
            assert two["values"][name]["value"] == pytest.approx(value["value"], rel=1e-12)

    def test_what_does_not_hold_ends_with_one_on_two_too(self, folder: Path) -> None:
        (evaluation,) = read_results(folder / "results.json")
        evaluation["values"]["mse"]["value"] *= 2
        (folder / "results.json").write_text(json.dumps(document([evaluation])))
        command = [sys.executable, "-m", "zoo_core.cli", "eval", str(folder), "--check", "--num-processes=2"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=200)
        assert done.returncode == 1
        assert done.stdout.count("DOES NOT HOLD") == 1


class TestShipped:
    @every_checkpoint
    def test_the_card_is_what_the_command_writes(self, name: str) -> None:
        assert (SHIPPED[name] / "README.md").read_text() == card(SHIPPED[name], name)

    @every_checkpoint
    def test_the_published_card_and_its_pictures_are_those_of_the_checkpoint(self, name: str) -> None:
        published = ROOT / "model_cards" / name
        files = {path.name for path in published.iterdir()}
        assert files == {"README.md"} | {path.name for path in SHIPPED[name].glob("*.png")}
        assert all((published / file).read_bytes() == (SHIPPED[name] / file).read_bytes() for file in files)

    @every_checkpoint
    def test_every_number_on_it_is_a_measured_one(self, name: str) -> None:
        text = (SHIPPED[name] / "README.md").read_text()
        told = re.findall(r"^\| ([^|]+) \| ([^|]+) \| ([^|]+) \| (?:higher|lower|neither)? *\|", text, re.MULTILINE)
        evaluations = read_results(SHIPPED[name] / "results.json")
        assert told == [
            (metric, rounded(m["value"], m["error"]), rounded(m["error"], m["error"]))
            for evaluation in evaluations
            for metric, m in evaluation["values"].items()
        ]
        front = yaml.safe_load(text.split("---\n")[1])
        index = [m for result in front["model-index"][0]["results"] for m in result["metrics"]]
        assert {m["type"]: m["value"] for m in index} == {
            metric: m["value"] for evaluation in evaluations for metric, m in evaluation["values"].items()
        }

    @every_checkpoint
    def test_it_shows_no_images_of_data_that_are_not_the_projects_own(self, name: str) -> None:
        own = from_pretrained(name).provenance["recipe"]["data"]["name"].removeprefix("core/")
        assert own in OWN or not (SHIPPED[name] / "reconstructions.png").exists()

    @pytest.mark.parametrize("name", ["beta-vae-shapes"])
    def test_its_numbers_come_again_from_scratch(self, name: str) -> None:
        """One that was measured on data which the project makes, and takes seconds."""
        model, claims = from_pretrained(name), read_results(SHIPPED[name] / "results.json")
        claim = claims[0]
        dataset = load(claim["data"], claim["split"], **claim["options"])
        again = measure(model, claim["metrics"], dataset, batch=claim["batch"], examples=claim["examples"])
        assert [value.name for value in compared(claim, again) if not value.agrees] == []

    @pytest.mark.parametrize("name", ["ppca-mnist"])
    def test_its_numbers_come_again_on_mnist(self, name: str) -> None:
        checked = run("eval", name, "--check")
        if isinstance(checked.exception, DataError):
            pytest.skip(str(checked.exception))
        assert checked.exit_code == 0, checked.output
