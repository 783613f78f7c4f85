"""What the documentation says runs as it stands."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from zoo_core import LatentVariableModel, Loss, build, default_host
from zoo_core.cli.main import app
from zoo_core.pretrained import checkpoint_folder

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("plugins/*/README.md"))]


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
        card = ROOT / "model_cards" / f"{registration.spec.name}.md"
        folder = checkpoint_folder(registration)
        assert card.is_file()
        assert folder is None or (folder / "README.md").read_text() == card.read_text()
