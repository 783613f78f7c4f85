"""``zoo publish``, the commits that it notes for the next release, and ``zoo list --hub``: a Hub on this machine."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import HfApi, constants

from tests.at_the_hub import Done, Hold, changing, head, impatient, server, stored, zoo
from tests.hub_server import Blob, Commit, HubServer, Repository
from tests.installed import install, python
from zoo_core import PluginHost, build, published, save_pretrained
from zoo_core.cards import card
from zoo_core.host import KNOWN_PLUGINS
from zoo_core.hub.listing import models_on_hub, plugins_of
from zoo_core.pins import Pins, read_pins, write_pin
from zoo_core.publishing import registered

__all__ = ["impatient", "server"]

NAMES = ("first", "second")
CODE = """
from zoo_core import CheckpointSpec, published

@hookimpl
def zoo_checkpoints():
    pins = published("zoo_tiny:checkpoints")
    for name in ("first", "second"):
        yield CheckpointSpec(
            name=name, target="zoo_tiny:checkpoints", hub=f"tiny-org/{name}", summary="For a test.", **pins[name]
        )
"""
CONFIG: dict[str, Any] = {
    "type": "vae/vae",
    "encoder": {"type": "nets/mlp_encoder", "latents": 2, "hidden": [32]},
    "decoder": {"type": "nets/mlp_decoder", "hidden": [32]},
    "prior": "nets/standard_normal",
}


def write_checkpoint(folder: Path, seed: int) -> None:
    torch.manual_seed(seed)
    save_pretrained(build(CONFIG, "model", data_shape=(1, 4, 4)), folder)
    (folder / "README.md").write_text(card(folder, folder.name))


@dataclass
class Plugin:
    """``zoo-tiny``, as an editable installation leaves it: metadata here, code there."""

    site: Path
    source: Path

    @property
    def checkpoints(self) -> Path:
        return self.source / "zoo_tiny" / "checkpoints"

    @property
    def pins(self) -> Pins:
        return read_pins(self.checkpoints / "published.json")

    @property
    def path(self) -> str:
        return os.pathsep.join(map(str, (self.site, self.source)))

    def sha256(self, name: str) -> str:
        return str(json.loads((self.checkpoints / name / "config.json").read_bytes())["weights"]["model.safetensors"])


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Plugin]:
    """It is the one whose checkpoints ``zoo publish`` knows in this process."""
    tiny = Plugin(tmp_path / "site", tmp_path / "source")
    install(tiny.site, "tiny", CODE)
    tiny.source.mkdir()
    shutil.move(tiny.site / "zoo_tiny", tiny.source / "zoo_tiny")
    for seed, name in enumerate(NAMES):
        write_checkpoint(tiny.checkpoints / name, seed)
    for place in (tiny.source, tiny.site):
        monkeypatch.syspath_prepend(place)
    monkeypatch.setattr(registered, "default_host", PluginHost)
    yield tiny
    for module in [name for name in sys.modules if name.partition(".")[0] == "zoo_tiny"]:
        del sys.modules[module]


def rows(done: Done) -> dict[str, list[str]]:
    """The table that is printed, by the first column."""
    return {cells[0]: cells[1:] for cells in map(str.split, done.out.splitlines()[1:]) if len(cells) > 2}


class TestPublish:
    def test_each_goes_to_its_repository_and_its_commit_is_noted(self, server: HubServer, plugin: Plugin) -> None:
        done = zoo("publish", *NAMES)
        assert (done.code, done.err) == (0, "")
        for name in NAMES:
            commit = head(server, f"tiny-org/{name}")
            assert rows(done)[name] == [f"tiny-org/{name}", commit, "pushed,", "noted"]
            assert plugin.pins[name] == {"revision": commit, "sha256": plugin.sha256(name)}
            there = stored(server, f"tiny-org/{name}")
            assert there == {path.name: path.read_bytes() for path in (plugin.checkpoints / name).iterdir()}
            assert server.repository(f"tiny-org/{name}").at(commit).title == f"Publish {name}"

    def test_a_second_time_changes_nothing(self, server: HubServer, plugin: Plugin) -> None:
        zoo("publish", *NAMES)
        noted = (plugin.checkpoints / "published.json").stat()
        server.requests.clear()
        done = zoo("publish", *NAMES)
        assert {cells[2] for cells in rows(done).values()} == {"unchanged"}
        assert changing(server) == ["POST /api/repos/create"] * 2
        after = (plugin.checkpoints / "published.json").stat()
        assert (after.st_ino, after.st_mtime_ns) == (noted.st_ino, noted.st_mtime_ns)

    def test_new_weights_are_a_new_commit_with_their_own_card(self, server: HubServer, plugin: Plugin) -> None:
        zoo("publish", *NAMES)
        before = plugin.pins
        write_checkpoint(plugin.checkpoints / "first", 7)
        done = zoo("publish", *NAMES)
        assert [rows(done)[name][2] for name in NAMES] == ["pushed,", "unchanged"]
        assert plugin.pins["second"] == before["second"]
        assert plugin.pins["first"]["sha256"] == plugin.sha256("first") != before["first"]["sha256"]
        assert stored(server, "tiny-org/first")["README.md"] == (plugin.checkpoints / "first/README.md").read_bytes()

    def test_a_card_that_was_edited_on_the_hub_is_kept(self, server: HubServer, plugin: Plugin) -> None:
        zoo("publish", "first")
        api = HfApi(endpoint=server.url, token=server.token)
        api.upload_file(path_or_fileobj=b"# By hand\n", path_in_repo="README.md", repo_id="tiny-org/first")
        done = zoo("publish", "first")
        assert "first: the README.md on the Hub is kept" in done.err
        assert stored(server, "tiny-org/first")["README.md"].endswith(b"---\n# By hand\n")

    def test_a_rehearsal_sends_and_notes_nothing(self, server: HubServer, plugin: Plugin) -> None:
        done = zoo("publish", *NAMES, "--dry-run")
        assert done.code == 0
        assert [rows(done)[name] for name in NAMES] == [[f"tiny-org/{n}", "none", "would", "change"] for n in NAMES]
        assert changing(server) == []
        assert plugin.pins == {}

    def test_what_is_noted_where_no_plugin_is_changed(self, server: HubServer, plugin: Plugin, tmp_path: Path) -> None:
        assert zoo("publish", *NAMES, "--organisation", "me").code == 0
        assert zoo("publish", "first", "--organisation", "you", "--pins", tmp_path / "you.json").code == 0
        assert plugin.pins == {}
        assert read_pins(tmp_path / "you.json")["first"]["revision"] == head(server, "you/first")
        assert {id for _, id in server.hub.repositories} == {"me/first", "me/second", "you/first"}

    def test_what_pip_owns_is_not_changed(self, server: HubServer, plugin: Plugin, tmp_path: Path) -> None:
        (info,) = plugin.site.glob("*.dist-info")
        (info / "RECORD").write_text("zoo_tiny/__init__.py,,\nzoo_tiny/plugin.py,,\n")
        done = zoo("publish", "first")
        assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
        assert "zoo-tiny is installed from a wheel" in done.err
        assert server.requests == []
        assert zoo("publish", "first", "--pins", tmp_path / "pins.json").code == 0
        assert plugin.pins == {}

    @pytest.mark.parametrize(("words", "sentence"), [
        ([], "say which"), (["first", "--all"], "say which"), (["nobody"], "no checkpoint 'nobody'"),
        (["first", "--organisation", "a b"], "cannot upload to 'a b/first'"),
        (["first", "--pins", "{damaged}"], "must be {'revision'"),
    ])  # fmt: skip
    def test_bad_input_is_one_sentence(
        self, server: HubServer, plugin: Plugin, tmp_path: Path, words: list[str], sentence: str
    ) -> None:
        (tmp_path / "damaged").write_text('{"first": {"revision": "main", "sha256": ""}}')
        done = zoo("publish", *(word.format(damaged=tmp_path / "damaged") for word in words))
        assert (done.code, done.out, done.err.count("\n")) == (2, "", 1), done.err
        assert sentence in done.err
        assert server.requests == []

    @pytest.mark.parametrize("trouble", ["card", "no card", "weights", "results", "gone"])
    def test_what_does_not_fit_together_is_not_published_nor_anything_beside_it(
        self, server: HubServer, plugin: Plugin, trouble: str
    ) -> None:
        folder = plugin.checkpoints / "second"
        if trouble == "card":
            (folder / "README.md").write_text((folder / "README.md").read_text().replace("latents", "Latents"))
        if trouble == "no card":
            (folder / "README.md").unlink()
        if trouble == "weights":
            shutil.copy(plugin.checkpoints / "first/model.safetensors", folder)
        if trouble == "results":
            (folder / "results.json").write_text(json.dumps({"format": 1, "evaluations": [EVALUATION]}))
        if trouble == "gone":
            shutil.rmtree(folder)
        done = zoo("publish", *NAMES)
        assert (done.code, done.out, done.err.count("\n")) == (2, "", 1), done.err
        assert "second" in done.err
        assert server.requests == []

    def test_a_hub_that_goes_away_in_between_leaves_what_was_done(self, server: HubServer, plugin: Plugin) -> None:
        server.fail_next("POST .*/tiny-org/second/preupload", status=403)
        done = zoo("publish", *NAMES)
        assert (done.code, done.err.count("\n")) == (1, 1)
        assert "tiny-org/second" in done.err
        assert rows(done).keys() == plugin.pins.keys() == {"first"}
        done = zoo("publish", *NAMES)
        assert [rows(done)[name][2] for name in NAMES] == ["unchanged", "pushed,"]

    def test_a_kill_between_push_and_note_is_made_up_for(
        self, server: HubServer, plugin: Plugin, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        planned = registered.plans(["first"])
        with monkeypatch.context() as patched:
            patched.setattr(registered, "write_pin", interrupted)
            with pytest.raises(InterruptedError):
                list(registered.publish(planned))
        commit = head(server, "tiny-org/first")
        assert plugin.pins == {}
        done = zoo("publish", "first")
        assert rows(done)["first"][1:] == [commit, "unchanged,", "noted"]
        assert plugin.pins["first"]["revision"] == commit

    def test_a_process_that_is_killed_between_two_goes_on_where_it_ended(
        self, server: HubServer, plugin: Plugin, tmp_path: Path
    ) -> None:
        held = Hold("PUT ")
        server._faults += [Skip("PUT ", 1), held]
        environment = {**os.environ, **server.environment(tmp_path / "home"), "PYTHONPATH": plugin.path}
        command = [sys.executable, "-m", "zoo_core.cli", "publish", *NAMES]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        assert held.reached.wait(120)
        process.send_signal(signal.SIGKILL)
        process.wait()
        held.let_go.set()
        first = head(server, "tiny-org/first")
        assert plugin.pins == {"first": {"revision": first, "sha256": plugin.sha256("first")}}
        assert stored(server, "tiny-org/second") == {}
        done = zoo("publish", *NAMES)
        assert rows(done)["first"][1:] == [first, "unchanged"]
        assert plugin.pins["second"]["revision"] == head(server, "tiny-org/second")
        assert head(server, "tiny-org/first") == first


EVALUATION = {
    "data": "digits", "split": "test", "data_fingerprint": "0", "metrics": ["metrics/mse"], "seed": 0, "batch": 100,
    "values": {"mse": {"value": 1.0, "error": 0.0, "n": 1}},
}  # fmt: skip


def interrupted(*arguments: object, **options: object) -> bool:
    raise InterruptedError


class Skip(Hold):
    """Lets one request pass, and with that stands before a fault for the next."""

    def __init__(self, pattern: str, times: int) -> None:
        super().__init__(pattern)
        self.times = times

    def befall(self, answer: Any) -> Any:
        return answer()


LOAD = """
import json, sys
from pathlib import Path
from zoo_core import CheckpointError, PluginHost, from_pretrained
release, other = Path(sys.argv[1]), sys.argv[2]
spec = PluginHost().find("checkpoint", "first").spec
model = from_pretrained("first")
release.write_text(release.read_text().replace(spec.sha256, other))
try:
    from_pretrained("first", host=PluginHost())
except CheckpointError as error:
    print(json.dumps([model.provenance["commit"], spec.revision, spec.sha256, str(error)]))
"""


class TestRelease:
    def test_what_was_published_is_what_its_users_load(self, server: HubServer, plugin: Plugin, tmp_path: Path) -> None:
        """From the commit and with the hash in the release, though the repository has moved on."""
        assert zoo("publish", "first").code == 0
        commit = head(server, "tiny-org/first")
        pins = (plugin.checkpoints / "published.json").read_text()
        release = tmp_path / "release"
        install(release, "tiny", CODE, modules={"checkpoints/published.json": pins})
        write_checkpoint(plugin.checkpoints / "first", 5)
        sha256 = plugin.sha256("first")
        assert zoo("publish", "first").code == 0
        assert head(server, "tiny-org/first") != commit
        file = str(release / "zoo_tiny/checkpoints/published.json")
        done = python("-c", LOAD, file, sha256, site=release, **server.environment(tmp_path / "home"))
        assert done.returncode == 0, done.stderr
        loaded, revision, known, refusal = json.loads(done.stdout)
        assert loaded == revision == commit
        assert {"first": {"revision": revision, "sha256": known}} == json.loads(pins)
        assert "SHA-256" in refusal
        assert sha256 in refusal

    @pytest.mark.parametrize(
        "content",
        ["{", "[]", '{"first": {}, "first": {}}', '{"first": 3}', '{"first": {"revision": "main", "sha256": ""}}'],
    )
    def test_a_damaged_file_breaks_that_plugin_alone_and_with_one_line(
        self, plugin: Plugin, content: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        (plugin.checkpoints / "published.json").write_text(content)
        host = PluginHost()
        assert host.plugins["tiny"].state == "failed"
        assert host.find("checkpoint", "vae-mnist")
        (line,) = [record.getMessage() for record in caplog.records]
        assert "published.json" in line
        assert "\n" not in line

    def test_every_checkpoint_of_the_project_has_the_pins_of_its_file(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """Each is noted with a commit of its own, and each of them arrives."""
        names = [r.spec.name for r in PluginHost().registrations("checkpoint") if r.plugin in KNOWN_PLUGINS]
        expected = {name: {"revision": f"{i:040x}", "sha256": f"{i:064x}"} for i, name in enumerate(names)}
        for name, pin in expected.items():
            write_pin(tmp_path / "published.json", name, **pin)
        monkeypatch.setattr("zoo_core.pins.pins_file", lambda place: tmp_path / "published.json")
        specs: list[Any] = [r.spec for r in PluginHost().registrations("checkpoint") if r.plugin in KNOWN_PLUGINS]
        assert {s.name: {"revision": s.revision, "sha256": s.sha256} for s in specs} == expected

    def test_without_the_file_or_the_name_there_are_no_pins(self, plugin: Plugin) -> None:
        assert published("zoo_tiny:checkpoints") == {}
        assert published("zoo_tiny:checkpoints")["first"] == {}
        write_pin(plugin.checkpoints / "published.json", "second", revision="a" * 40, sha256="")
        assert published("zoo_tiny:checkpoints")["first"] == {}
        assert published("zoo_tiny:checkpoints")["second"] == {"revision": "a" * 40, "sha256": ""}


def test_every_checkpoint_of_the_project_can_be_published(server: HubServer, tmp_path: Path) -> None:
    words = ("publish", "--all", "--organisation", "me", "--pins", tmp_path / "pins.json")
    rehearsed = zoo(*words, "--dry-run")
    assert (rehearsed.code, changing(server)) == (0, []), rehearsed.err
    done = zoo(*words)
    assert (done.code, done.err) == (0, "")
    pins = read_pins(tmp_path / "pins.json")
    assert rows(done).keys() == rows(rehearsed).keys() == pins.keys()
    assert len(pins) >= 23
    for name, pin in pins.items():
        there = server.repository(f"me/{name}").at("main")
        assert pin == {"revision": there.oid, "sha256": there.files["model.safetensors"].sha256}
        assert {"README.md", "config.json", "results.json", "recipe.yaml"} <= there.files.keys()
    assert sorted(model.id for model in models_on_hub(author="me")) == sorted(f"me/{name}" for name in pins)


# --- zoo list --hub -------------------------------------------------------------------------------------


def card_with(**fields: Any) -> bytes:
    return f"---\n{json.dumps(fields)}\n---\n# A card\n".encode()


CARDS = {
    "me/plain": card_with(library_name="zoo", tags=["latent-zoo", "zoo-vae", "zoo-nets"]),
    "me/foreign": card_with(library_name="zoo", tags=["zoo-foo", "zoo-dalle"]),
    "you/bare": card_with(library_name="zoo"),
    "you/odd": card_with(library_name="zoo", tags=["zoo-", "zoo-\x1b[31m", 3, None, "zoo-Vae", "zoo-vae\n"]),
    "you/animals": card_with(library_name="keras", tags=["zoo"]),
    "you/none": b"# No metadata",
}


@pytest.fixture
def full(server: HubServer) -> HubServer:
    api = HfApi(endpoint=server.url, token=server.token)
    for name, text in CARDS.items():
        api.create_repo(name)
        server.repository(name).advance("refs/heads/main", with_card(server, name, text))
    server.requests.clear()
    return server


def with_card(server: HubServer, name: str, text: bytes) -> Any:
    first = server.repository(name).at("main")
    return Commit("A card", "", "2026-03-01T00:00:00.000Z", {"README.md": Blob(text)}, first)


class TestListing:
    def listed(self, *words: str) -> list[dict[str, Any]]:
        done = zoo("list", "--hub", "--json", *words)
        assert done.code == 0, done.err
        return list(json.loads(done.out))

    def test_models_of_this_library_with_the_plugins_that_they_need(self, full: HubServer) -> None:
        found = {model["id"]: model for model in self.listed()}
        assert found.keys() == {"me/plain", "me/foreign", "you/bare", "you/odd"}
        assert found["me/plain"]["plugins"] == {"nets": "installed", "vae": "installed"}
        assert found["me/foreign"]["plugins"] == {"dalle": "installed", "foo": "missing"}
        assert found["you/bare"]["plugins"] == found["you/odd"]["plugins"] == {}
        assert found["me/plain"]["changed"].startswith("2026-03-01")
        assert (found["me/plain"]["downloads"], found["me/plain"]["private"]) == (0, False)
        assert full.count("GET /api/models") == 1

    def test_the_table_says_what_to_install_of_the_projects_own_plugins_alone(
        self, full: HubServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("ZOO_PLUGINS", "nets")
        monkeypatch.setattr("zoo_core.cli.registry.default_host", lambda: PluginHost())
        done = zoo("list", "--hub")
        assert "zoo-foo missing" in done.out
        assert "zoo-nets installed, zoo-vae disabled" in done.out
        assert "pip install" not in done.out
        monkeypatch.setattr("zoo_core.cli.registry.default_host", lambda: PluginHost(discover=False))
        assert zoo("list", "--hub").out.splitlines()[-1] == "pip install zoo-dalle zoo-nets zoo-vae"

    def test_by_author_by_words_and_so_many(self, full: HubServer) -> None:
        assert {m["id"] for m in self.listed("--author", "you")} == {"you/bare", "you/odd"}
        assert {m["id"] for m in self.listed("--search", "FOR")} == {"me/foreign"}
        assert len(self.listed("--limit", "3")) == 3
        assert self.listed("--author", "nobody") == []

    def test_pages_are_asked_for_as_they_are_needed(self, full: HubServer) -> None:
        full.hub.page = 2
        assert len(self.listed("--limit", "2")) == 2
        assert full.count("GET /api/models") == 1
        full.requests.clear()
        assert len(self.listed()) == 4
        assert full.count("GET /api/models") == 3

    def test_names_of_strangers_are_made_harmless(self, full: HubServer) -> None:
        commit = full.repository("me/plain").at("main")
        full.hub.repositories["models", "you/\x1b[31m\x9b2J"] = Repository(
            "models", "you/\x1b[31m\x9b2J", False, commit
        )
        for words in ((), ("--json",)):
            told = zoo("list", "--hub", *words).out
            assert "you/\\x1b[31m\\x9b2J" in told.replace(r"\\", "\\")
            assert all(letter.isprintable() for letter in told.replace("\n", ""))
        tags = ["zoo-vae", "zoo-a_b", "zoo-\x1b[31m", "zoo-", "zoo-Vae", "zoo-vae\n", 3, None, "latent-zoo", "zoo"]
        assert plugins_of(tags) == ("a_b", "vae")
        assert plugins_of(None) == ()

    @pytest.mark.parametrize(("trouble", "cause"), [("refusing", "refused"), ("down", "503"), ("offline", "offline")])
    def test_a_hub_that_is_away_is_one_sentence(
        self, full: HubServer, impatient: list[float], monkeypatch: pytest.MonkeyPatch, trouble: str, cause: str
    ) -> None:
        if trouble == "offline":
            monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
            done = zoo("list", "--hub")
        else:
            with getattr(full, trouble)():
                done = zoo("list", "--hub")
        assert (done.code, done.out) == (1, "")
        assert re.search(f"^error: cannot list the models on the Hub: .*{cause}", done.err, re.MULTILINE)
        assert impatient == [] or trouble == "down"

    @pytest.mark.parametrize(
        "words", [("models", "--hub"), ("--author", "me"), ("--search", "a"), ("--limit", "3")], ids=" ".join
    )
    def test_bad_input_is_one_sentence(self, full: HubServer, words: tuple[str, ...]) -> None:
        done = zoo("list", *words)
        assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
        assert "hub" in done.err.lower()
        assert full.requests == []

    def test_it_needs_no_torch(self, full: HubServer, tmp_path: Path) -> None:
        code = "import sys; sys.argv = ['zoo', 'list', '--hub']; from zoo_core.cli import main\ntry: main()\n"
        code += "finally: print('torch' in sys.modules)"
        done = python("-c", code, site=None, **full.environment(tmp_path / "home"))
        assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "False"), done.stderr
        assert "me/plain" in done.stdout
