"""What the documentation says runs as it stands."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.hub_server import HubServer
from zoo_core import LatentVariableModel, Loss, build, default_host, from_pretrained
from zoo_core.cli.main import app
from zoo_core.pretrained import checkpoint_folder

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(ROOT.glob("plugins/*/README.md")),
    *sorted(ROOT.glob("docs/*.md")),
    ROOT / "examples" / "zoo-example" / "README.md",
]


def blocks(document, language):
    return re.findall(rf"^```{language}\n(.*?)^```", document.read_text(), re.MULTILINE | re.DOTALL)


def test_the_readme_runs_from_top_to_bottom(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first, *_ = blocks(ROOT / "README.md", "python")
    scope: dict[str, object] = {}
    exec(compile(first, "README.md", "exec"), scope)
    assert tuple(scope["images"].shape) == (16, 1, 28, 28)
    assert scope["bound"].shape == (16,)
    assert scope["loss"].isfinite()
    assert (tmp_path / "my-model" / "model.safetensors").is_file()


def test_the_variant_of_the_contributing_guide_is_a_loss():
    source = re.search(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)[1]
    scope: dict[str, object] = {"__name__": "rate_floor"}
    exec(compile("\n".join(line[3:] for line in source.splitlines()), "CONTRIBUTING.md", "exec"), scope)
    loss = scope["RateFloor"](floor=5.0)
    assert isinstance(loss, Loss)
    config = {"type": "vae/vae", "encoder": {"type": "nets/mlp_encoder", "latents": 2}, "decoder": "nets/mlp_decoder"}
    vae = build({**config, "prior": "nets/standard_normal"}, data_shape=(1, 4, 4))
    assert isinstance(vae, LatentVariableModel)
    import torch

    output = loss(vae, {"image": torch.rand(5, 1, 4, 4)})
    expected = output.terms["distortion"] + output.terms["rate"].clamp(min=5)
    assert float(output.total.detach()) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_in_it_exists_with_these_options(document):
    for block in blocks(document, "console"):
        for line in re.findall(r"^\$ zoo (.*?)(?:\s+#.*)?$", block, re.MULTILINE):
            command, *rest = shlex.split(line)
            told = CliRunner().invoke(app, [command, "--help"]).output
            assert "Usage:" in told, line
            for option in (word for word in rest if re.fullmatch(r"--?[a-z][\w-]*", word)):
                assert option in told, f"{line}: {option}"


def test_every_link_in_it_leads_somewhere():
    for document in DOCUMENTS:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_every_shipped_checkpoint_has_its_card():
    for registration in default_host().registrations("checkpoint"):
        card = ROOT / "model_cards" / registration.spec.name / "README.md"
        folder = checkpoint_folder(registration)
        assert card.is_file()
        assert folder is None or (folder / "README.md").read_text() == card.read_text()


FINE_TUNING = ROOT / "docs" / "fine_tuning.md"


@pytest.fixture(scope="module")
def fine_tuned(tmp_path_factory):
    """The page on fine-tuning as it stands, in a process of its own: (command, what it printed), and the folder."""
    folder = tmp_path_factory.mktemp("fine-tuned")
    with HubServer() as server:
        environment = {
            **os.environ,
            **server.environment(folder / "home"),
            "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
        }
        command = [sys.executable, "-m", "tests.walkthrough", str(FINE_TUNING)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, timeout=600)
        assert done.returncode == 0, done.stderr
        assert set(server.repository("me/polygons").at("main").files) >= {"README.md", "model.safetensors"}
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")], done.stdout, folder


class TestFineTuning:
    def test_its_numbers_are_those_that_come_out(self, fine_tuned):
        told, printed, _ = fine_tuned
        rows = r"^  (\w+) +(-?[\d.]+) +±"
        page = {}
        for block in blocks(FINE_TUNING, "console"):
            for command, output in re.findall(r"^\$ zoo (.*)\n((?:[^$\n].*\n)*)", block, re.MULTILINE):
                page[command] = dict(re.findall(rows, output, re.MULTILINE))
        measured = {command: dict(re.findall(rows, output, re.MULTILINE)) for command, output in told}
        assert measured.keys() == page.keys()
        assert sum(map(len, page.values())) >= 5
        for command, values in page.items():
            for name, value in values.items():
                assert float(measured[command][name]) == pytest.approx(float(value), rel=0.03), command
        shown = [float(x) for x in re.findall(r"# (-[\d.]+) nats$", FINE_TUNING.read_text(), re.MULTILINE)]
        came = [float(x) for x in re.findall(r"^(-[\d.]+) nats$", printed, re.MULTILINE)]
        assert came == pytest.approx(shown, rel=0.03)

    @pytest.mark.parametrize(
        ("before", "after", "metric"),
        [
            ("eval vae-mnist --data ./pictures --metrics elbo", "eval runs/pictures/model", "elbo"),
            (
                "eval dalle-shapes --data ./scenes --metrics log_prob",
                "eval runs/german/model --data ./scenes --metrics log_prob",
                "log_prob",
            ),
        ],
    )
    def test_training_further_helps(self, fine_tuned, before, after, metric):
        told = dict(fine_tuned[0])
        value, better = (float(re.search(rf"  {metric} +(-?[\d.]+)", told[c])[1]) for c in (before, after))
        assert better > value + 5

    def test_adapters_left_everything_else_as_it_was(self, fine_tuned):
        before = from_pretrained("dalle-shapes").state_dict()
        after = from_pretrained(fine_tuned[2] / "runs" / "german" / "model").state_dict()
        changed = {name for name in before if not before[name].equal(after[name])}
        assert changed
        assert all(re.search(r"stream\..*(qkv|out|mlp\.\d|next|next_code)\.weight$", name) for name in changed)
