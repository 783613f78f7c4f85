"""``zoo check`` as a person and as a script meet it."""

import json

import pytest
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal
from typer.testing import CliRunner, Result

from zoo_core import Encoder, EncoderSpec, PluginHost, PositiveInt, Shape, hookimpl
from zoo_core.cli.main import app
from zoo_core.testing import running


class Squeezing(Encoder):
    """Loses the batch where it is 1."""

    def __init__(self, data_shape: Shape, latents: PositiveInt) -> None:
        super().__init__()
        self.data_shape, self.latent_shape = tuple(data_shape), (latents,)
        self.mean = nn.Linear(64, latents)

    def forward(self, x: Tensor) -> Distribution:
        mu = self.mean(x.flatten(1)).squeeze()
        return Independent(Normal(mu, mu.exp()), 1)


class Faulty:
    @hookimpl
    def zoo_encoders(self):
        yield EncoderSpec(name="squeezing", target=f"{__name__}:Squeezing", summary="Squeezes.")


def zoo(*words: str) -> Result:
    return CliRunner().invoke(app, ["check", *words])


@pytest.fixture
def faulty(monkeypatch):
    host = PluginHost(discover=False)
    host.register(Faulty(), "faulty")
    monkeypatch.setattr(running, "default_host", lambda: host)


def test_each_component_is_a_line_with_its_counts():
    told = zoo("nets", "linear_encoder", "nets/bernoulli")
    assert told.exit_code == 0, told.output
    rows = {line.split()[0]: line.split()[1:] for line in told.output.splitlines() if line.startswith("  nets/")}
    assert rows.keys() == {"nets/linear_encoder", "nets/bernoulli"}
    for checks, passed, expected, failed, _ in rows.values():
        assert int(checks) == int(passed) + int(expected) >= 12
        assert failed == "0"
    assert "all passed" in told.output


def test_a_script_reads_what_came_of_each_check():
    (report,) = json.loads(zoo("nets", "dirac", "--json").stdout)
    assert report["name"] == "nets/dirac"
    assert {"save_and_load", "batch_independence", "gradient_flow"} <= {c["check"] for c in report["checks"]}
    assert {c["state"] for c in report["checks"]} <= {"passed", "expected failure"}


def test_a_failure_is_a_sentence_and_an_exit_code(faulty):
    told = zoo("faulty", "squeezing")
    assert told.exit_code == 1
    sentences = [line for line in told.output.splitlines() if line.startswith("faulty/squeezing::")]
    assert any("shape" in sentence for sentence in sentences)
    assert "did not run" in told.output


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["nope"], "no plugin 'nope' is installed"),
        (["nets", "nope"], "no component 'nope'; it has: linear_encoder"),
    ],
)
def test_what_is_not_there_is_named(words, sentence):
    told = zoo(*words)
    assert sentence in str(told.exception)
