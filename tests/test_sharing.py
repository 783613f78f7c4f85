"""``zoo push`` and ``push_to_hub``, as a person and as a script meet them: the real client, a Hub on this machine."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.repocard import REGEX_YAML_BLOCK
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.at_the_hub import Hold, changing, head, impatient, server, stored, zoo
from tests.hub_server import Blob, Commit, Fault, HubServer, Response, error
from zoo_core import (
    CheckpointError,
    GenerativeModel,
    ModelSpec,
    PluginHost,
    Shape,
    UnknownComponent,
    build,
    default_host,
    from_pretrained,
    hookimpl,
    read_recipe,
    save_pretrained,
)
from zoo_core.cards import card
from zoo_core.cards.merging import with_metadata
from zoo_core.hub.client import HubRefusal, without_token
from zoo_core.pretrained import checkpoint_folder, read_config
from zoo_core.publishing import push_to_hub
from zoo_core.publishing.recipes import as_yaml
from zoo_core.training import train
from zoo_core.training.reading import parse_recipe, parse_yaml

__all__ = ["impatient", "server"]

REPO = "me/small"
CHECKPOINT = {"config.json", "model.safetensors"}
MADE = {"README.md", "samples.png", "interpolation.png"}
PROSE = "# By hand\n\nI wrote this: ünïcode, |tables|, --- and trailing blanks.  \n"
RECIPE: dict[str, Any] = {
    "name": "small",
    "summary": "A small VAE.",
    "model": {
        "type": "vae/vae",
        "encoder": {"type": "nets/mlp_encoder", "latents": 2, "hidden": [32]},
        "decoder": {"type": "nets/mlp_decoder", "hidden": [32]},
        "prior": "nets/standard_normal",
    },
    "loss": "vae/elbo",
    "data": {"name": "digits", "split": "train", "held_out": "test"},
    "training": {"steps": 3, "batch": 16},
    "evaluation": {"metrics": ["metrics/elbo"], "batch": 50, "examples": 50},
}


def made(seed: int = 0) -> Any:
    """A model of some 6 kB: more than the server takes into a commit, so its weights travel apart."""
    torch.manual_seed(seed)
    return build(RECIPE["model"], "model", data_shape=(1, 4, 4))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint that nobody trained, with the card that the zoo writes of it."""
    saved = save_pretrained(made(), tmp_path / "small")
    (saved / "README.md").write_text(card(saved, REPO))
    return saved


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    finished = train(parse_recipe(RECIPE), tmp_path_factory.mktemp("runs") / "small")
    assert finished is not None
    return finished


@pytest.fixture
def api(server: HubServer) -> HfApi:
    return HfApi(endpoint=server.url, token=server.token)


def metadata_of(text: str) -> dict[str, Any]:
    return dict(yaml.safe_load(text.split("---\n")[1]))


class TestContents:
    def test_a_run_is_pushed_whole_and_its_folder_stays_as_it_is(self, server: HubServer, trained: Path) -> None:
        before = {path.name: path.read_bytes() for path in trained.iterdir()}
        done = zoo("push", trained, REPO)
        assert done.code == 0, done.err
        assert done.err.splitlines() == ["the folder has no README.md: one is written from what the checkpoint records"]
        assert done.out.split() == [REPO, head(server, REPO)]
        there = stored(server, REPO)
        assert there.keys() == CHECKPOINT | MADE | {"results.json", "recipe.yaml"}
        assert {path.name: path.read_bytes() for path in trained.iterdir()} == before == {
            name: there[name] for name in before
        }  # fmt: skip
        commit = server.repository(REPO).at("main")
        assert [c.title for c in commit.history()] == ["Upload model", "initial commit"]

    def test_its_recipe_trains_it_again(self, server: HubServer, trained: Path, tmp_path: Path) -> None:
        commit = push_to_hub(trained, REPO)
        fetched = Path(snapshot_download(REPO, revision=commit))
        assert zoo("train", fetched / "recipe.yaml", "-o", tmp_path / "again").code == 0
        first, again = (from_pretrained(place).state_dict() for place in (fetched, tmp_path / "again" / "model"))
        assert all(torch.equal(first[name], again[name]) for name in first)

    def test_its_card_holds_what_was_measured(self, server: HubServer, trained: Path) -> None:
        push_to_hub(trained, REPO)
        text = stored(server, REPO)["README.md"].decode()
        (measured,) = json.loads((trained / "results.json").read_bytes())["evaluations"]
        (result,) = metadata_of(text)["model-index"][0]["results"]
        assert {m["type"]: m["value"] for m in result["metrics"]} == {
            name: value["value"] for name, value in measured["values"].items()
        }
        assert f'from_pretrained("{REPO}")' in text
        assert "![Samples](samples.png)" in text

    def test_a_model_that_nobody_measured_has_a_card_that_says_so(self, server: HubServer) -> None:
        push_to_hub(made(), REPO)
        assert stored(server, REPO).keys() == CHECKPOINT | MADE
        assert "Nothing has been measured yet." in stored(server, REPO)["README.md"].decode()

    def test_pictures_of_the_folder_are_on_the_card_and_none_are_drawn(self, server: HubServer, folder: Path) -> None:
        (folder / "README.md").unlink()
        (folder / "samples.png").write_bytes(b"mine")
        push_to_hub(folder, REPO)
        assert stored(server, REPO).keys() == CHECKPOINT | {"README.md", "samples.png"}
        assert stored(server, REPO)["samples.png"] == b"mine"
        assert "samples.png" in stored(server, REPO)["README.md"].decode()

    def test_an_odd_provenance_costs_the_card_alone(self, server: HubServer, tmp_path: Path) -> None:
        model = made()
        model.provenance = {"recipe": {"data": {"name": "x"}}}
        done = zoo("push", save_pretrained(model, tmp_path / "odd"), REPO)
        assert (done.code, done.err.count("\n")) == (0, 1), done.err
        assert "odd does not record what a card tells" in done.err
        assert stored(server, REPO).keys() == CHECKPOINT | {"recipe.yaml"}

    def test_what_a_link_leads_to_outside_does_not_leave_the_machine(self, server: HubServer, folder: Path) -> None:
        (folder.parent / "secret").write_text("of this machine")
        (folder / "notes.txt").symlink_to("../secret")
        done = zoo("push", folder, REPO)
        assert (done.code, done.err.count("\n")) == (2, 1)
        assert "notes.txt: a link that leads out of its folder" in done.err
        assert server.requests == []
        (folder / "notes.txt").unlink()
        (folder / "notes.txt").symlink_to("config.json")
        assert zoo("push", folder, REPO).code == 0
        assert stored(server, REPO)["notes.txt"] == stored(server, REPO)["config.json"]

    def test_a_copy_in_the_cache_of_the_hub_can_be_pushed_on(self, server: HubServer, folder: Path) -> None:
        commit = push_to_hub(folder, REPO)
        fetched = Path(snapshot_download(REPO, revision=commit))
        assert (fetched / "model.safetensors").is_symlink()
        push_to_hub(fetched, "me/copy")
        assert stored(server, "me/copy") == stored(server, REPO)

    def test_a_host_that_knows_more_than_is_installed_costs_the_card_alone(
        self, server: HubServer, tmp_path: Path
    ) -> None:
        host = PluginHost()
        host.register(Odd(), "odd")
        folder = save_pretrained(OddModel((1, 4, 4)), tmp_path / "odd", host=host)
        with pytest.raises(UnknownComponent):
            push_to_hub(folder, REPO)
        assert server.requests == []
        push_to_hub(folder, REPO, host=host)
        assert stored(server, REPO).keys() == CHECKPOINT
        (folder / "README.md").write_text(PROSE)
        push_to_hub(folder, REPO, host=host)
        assert stored(server, REPO)["README.md"].decode() == PROSE
        (folder / "README.md").write_text("# Another\n")
        push_to_hub(folder, REPO, host=host)
        assert stored(server, REPO)["README.md"].decode() == PROSE


class OddModel(GenerativeModel):
    """Of a plugin that only a test knows."""

    def __init__(self, data_shape: Shape) -> None:
        super().__init__()
        self.data_shape = tuple(data_shape)
        self.weight = torch.nn.Parameter(torch.zeros(3))

    def draw(self, n: int) -> torch.Tensor:
        return torch.zeros(n, *self.data_shape)


class Odd:
    @hookimpl
    def zoo_models(self) -> Iterator[ModelSpec]:
        target = f"{__name__}:OddModel"
        yield ModelSpec(name="odd", target=target, summary="Odd.", density="none", sampling="none", latent="none")


class TestRecipes:
    @pytest.mark.parametrize(
        "name", [r.full_name for r in default_host().registrations("checkpoint") if checkpoint_folder(r)]
    )
    def test_that_of_every_shipped_checkpoint_is_read_back(self, name: str, tmp_path: Path) -> None:
        folder = checkpoint_folder(default_host().find("checkpoint", name))
        assert folder is not None
        recipe = read_config(folder / "config.json")["provenance"]["recipe"]
        (tmp_path / "recipe.yaml").write_bytes(as_yaml(recipe))
        again = read_recipe(tmp_path / "recipe.yaml").as_dict()
        assert {key: again[key] for key in recipe if key != "training"} == {
            key: value for key, value in recipe.items() if key != "training"
        }
        assert recipe["training"].items() <= again["training"].items()

    @settings(max_examples=25)
    @given(
        st.dictionaries(
            st.text(max_size=5),
            st.recursive(
                st.none()
                | st.booleans()
                | st.integers()
                | st.floats(allow_nan=False, allow_infinity=False)
                | st.text(max_size=8),
                lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
                max_leaves=8,
            ),
        )
    )
    @example({"a": "1e-3", "b": "no", "on": "yes", "c": "1e5", "d": 1e-8, "e": "-1E+3", "f": [1e22, "null", "~", ""]})
    def test_any_content_is_read_back(self, content: dict[str, Any]) -> None:
        assert parse_yaml(as_yaml(content).decode(), "it") == content


class TestCards:
    def edited(self, api: HfApi, text: str) -> None:
        api.upload_file(path_or_fileobj=text.encode(), path_in_repo="README.md", repo_id=REPO)

    def test_one_that_was_edited_there_is_kept_and_its_metadata_renewed(
        self, server: HubServer, api: HfApi, trained: Path
    ) -> None:
        first = push_to_hub(trained, REPO)
        written = stored(server, REPO)["README.md"].decode()
        self.edited(api, written.replace("A small VAE.", PROSE).replace("license: apache-2.0", "license: mit  # mine"))
        edited = stored(server, REPO)["README.md"].decode()
        again = zoo("push", trained, REPO)
        assert again.err.splitlines() == ["the README.md on the Hub is kept, for it is not one that the zoo wrote"]
        assert stored(server, REPO)["README.md"].decode() == edited
        assert again.out.split()[1] == head(server, REPO) != first
        other = from_pretrained(trained)
        push_to_hub(other, REPO)  # of which nothing was measured
        now = stored(server, REPO)["README.md"].decode()
        assert now.split("---\n", 2)[2] == edited.split("---\n", 2)[2]
        assert "license: mit  # mine\n" in now
        assert "model-index" in metadata_of(edited)
        assert "model-index" not in metadata_of(now)

    def test_one_that_the_zoo_wrote_makes_way_for_that_of_new_weights(self, server: HubServer, tmp_path: Path) -> None:
        pushed = []
        for seed in range(2):
            model = made(seed)
            model.provenance = {"seed": seed}
            results = document_of(seed)
            folder = save_pretrained(model, tmp_path / str(seed), results=results)
            done = zoo("push", folder, REPO)
            assert done.err.count("\n") == 1
            pushed.append(stored(server, REPO)["README.md"].decode())
        assert "| mse | 0 |" in pushed[0]
        assert "| mse | 1 |" in pushed[1]

    def test_one_that_a_person_pushed_does_not_make_way_for_one_that_the_zoo_writes(
        self, server: HubServer, folder: Path
    ) -> None:
        (folder / "README.md").write_text(PROSE)
        push_to_hub(folder, REPO)
        mine = stored(server, REPO)["README.md"].decode()
        assert mine.endswith("---\n" + PROSE)
        assert metadata_of(mine) == {"library_name": "zoo", "tags": ["latent-zoo", "zoo-nets", "zoo-vae"]}
        assert push_to_hub(folder, REPO) == push_to_hub(folder, REPO)
        done = zoo("push", save_pretrained(made(1), folder.parent / "other"), REPO)
        assert "is kept" in done.err
        assert stored(server, REPO)["README.md"].decode() == mine

    def test_pushing_the_same_again_makes_no_commit(self, server: HubServer, trained: Path) -> None:
        first = zoo("push", trained, REPO)
        server.requests.clear()
        assert zoo("push", trained, REPO).out == first.out
        assert changing(server) == ["POST /api/repos/create"]
        assert server.count("GET .*/revision/") == server.count("GET .*/tree/") == 1

    def test_what_was_said_of_other_weights_goes_with_them(self, server: HubServer, api: HfApi, trained: Path) -> None:
        push_to_hub(trained, REPO)
        api.upload_file(path_or_fileobj=b"of mine", path_in_repo="notes.txt", repo_id=REPO)
        assert "results.json" in stored(server, REPO)
        bare = save_pretrained(made(), trained.parent / "bare")
        (bare / "README.md").write_text(PROSE)
        push_to_hub(bare, REPO)
        assert stored(server, REPO).keys() == CHECKPOINT | {"README.md", "notes.txt"}

    def test_what_was_added_to_the_same_weights_stays(self, server: HubServer, api: HfApi, folder: Path) -> None:
        push_to_hub(folder, REPO)
        api.upload_file(path_or_fileobj=b"drawn elsewhere", path_in_repo="samples.png", repo_id=REPO)
        push_to_hub(folder, REPO)
        assert stored(server, REPO)["samples.png"] == b"drawn elsewhere"

    def test_a_broken_one_in_the_folder_is_refused(self, server: HubServer, folder: Path) -> None:
        (folder / "README.md").write_text("---\nlicense: [\n---\n" + PROSE)
        done = zoo("push", folder, REPO)
        assert (done.code, done.err.count("\n")) == (2, 1)
        assert "README.md: its YAML cannot be read" in done.err
        assert server.requests == []

    @pytest.mark.parametrize(
        ("content", "what"), [(b"\xff", "codec"), (b"x" * (2**20 + 1), "larger than 1048576 bytes")]
    )
    def test_one_that_is_none_is_refused(self, server: HubServer, folder: Path, content: bytes, what: str) -> None:
        (folder / "README.md").write_bytes(content)
        done = zoo("push", folder, REPO)
        assert (done.code, done.err.count("\n"), server.requests) == (2, 1, [])
        assert what in done.err

    @pytest.mark.parametrize("broken", [b"---\nlicense: [\n---\n# Mine\n", b"# Mine \xff\xfe", b"# " + b"x" * 2**20])
    def test_one_on_the_hub_that_cannot_be_added_to_is_kept(
        self, server: HubServer, folder: Path, broken: bytes
    ) -> None:
        push_to_hub(folder, REPO)
        commit_there(server, {"README.md": broken})
        save_pretrained(made(1), folder)
        done = zoo("push", folder, REPO)
        assert (done.code, done.err.count("\n")) == (0, 1), done.err
        assert "is kept" in done.err
        assert stored(server, REPO)["README.md"] == broken
        assert stored(server, REPO)["model.safetensors"] == (folder / "model.safetensors").read_bytes()


def commit_there(server: HubServer, files: dict[str, bytes]) -> str:
    """A commit by somebody, past all that the client looks at."""
    repository = server.repository(REPO)
    before = repository.at("main")
    blobs = {path: Blob(content) for path, content in files.items()}
    commit = Commit("By somebody", "", "2026-02-01T00:00:00.000Z", {**before.files, **blobs}, before)
    repository.advance("refs/heads/main", commit)
    return commit.oid


def document_of(value: float) -> dict[str, Any]:
    evaluation = {
        "data": "digits", "split": "test", "data_fingerprint": "0", "metrics": ["metrics/mse"], "seed": 0, "batch": 100,
        "values": {"mse": {"value": value, "error": 0.0, "n": 1}},
    }  # fmt: skip
    return {"format": 1, "evaluations": [evaluation]}


OWN: dict[str, Any] = {
    "license": "apache-2.0", "library_name": "zoo", "tags": ["latent-zoo", "zoo-vae"], "datasets": ["ylecun/mnist"],
    "model-index": [{"name": "small", "results": [
        {"task": {"type": "t"}, "dataset": {"type": "digits", "name": "digits"},
         "metrics": [{"type": "mse", "value": 0.5, "args": {"check": "zoo eval small --check"}}]},
    ]}],
}  # fmt: skip
FOREIGN = {
    "task": {"type": "t"}, "dataset": {"type": "x", "name": "x"}, "metrics": [{"type": "accuracy", "value": 0.9}]
}  # fmt: skip
OLD = {**OWN["model-index"][0]["results"][0], "metrics": [
    {"type": "mse", "value": 9.0, "args": {"check": "zoo eval old --check"}}
]}  # fmt: skip


class TestMerging:
    @pytest.mark.parametrize("front", [
        "", "---\nlicense: mit\n---\n", "---\r\nlicense: mit\r\ntags:\r\n- a\r\n---\r\n",
        "---\n# a comment\nlanguage: no  # Norwegian\ntags: [a, zoo-old]\n\n# another\ndatasets: mine/own\n---\n",
        "---\ntags:\n  - a\nlibrary_name: diffusers\nnote: |\n  tags: not these\n  ---- nor this\nlast: 1e-3\n---  \n",
        "---\n\"tags\": 'a'\nlibrary_name:\n---\n", "\n \n---\nlicense: mit\n---\n",
        "---\ntags: &t\n- a\nmore: *t\n---\n",
        f"---\n{yaml.safe_dump({'model-index': [{'name': 'mine', 'results': [OLD, FOREIGN]}]})}---\n",
    ])  # fmt: skip
    @pytest.mark.parametrize("prose", [PROSE, "", "\r\nOne\r\nTwo", "---\n# Not a front matter\n"])
    def test_all_that_is_not_the_zoos_stays_byte_for_byte(self, front: str, prose: str) -> None:
        if not front and prose.startswith("---"):
            pytest.skip("told apart by nobody")
        if "&t" in front:
            with pytest.raises(ValueError, match=r"cannot be (read|added to)"):
                with_metadata(front + prose, OWN)
            return
        merged = with_metadata(front + prose, OWN)
        assert merged.endswith(prose if front.endswith("\n") or not front else "")
        theirs, found = parsed(front), parsed(merged)
        assert found["library_name"] == "zoo"
        assert found["tags"] == (["a"] if "a" in str(theirs.get("tags")) else []) + OWN["tags"]
        assert found["datasets"] == theirs.get("datasets", OWN["datasets"])
        own = {"library_name", "tags", "datasets", "model-index"}
        assert {k: v for k, v in found.items() if k not in own} == {k: v for k, v in theirs.items() if k not in own}
        mine = ("#", "language", "license", "note", "  tags: not these", "  ---- nor this", "last")
        assert [line for line in front.splitlines() if line.startswith(mine) and line not in merged.splitlines()] == []
        results = found["model-index"][0]["results"]
        assert results == OWN["model-index"][0]["results"] + ([FOREIGN] if "accuracy" in front else [])
        assert with_metadata(merged, OWN) == merged
        if "\r\n" in front:
            assert re.search(r"[^\r]\n", merged.removesuffix(prose)) is None

    @pytest.mark.parametrize("front", [
        "---\n[1, 2]\n---\n", "---\nlicense: [\n---\n", "---\n{license: mit}\n---\n", "---\n---\n",
        "\ufeff---\na: 1\n---\n",
        "---\ntags: [a]\ntags: [b]\n---\n", "---\ndate: 2026-99-99\n---\n", "---\n- a\n---\n",
    ])  # fmt: skip
    def test_what_cannot_be_added_to_is_left_alone(self, front: str) -> None:
        with pytest.raises(ValueError, match=r"\w"):
            with_metadata(front + PROSE, OWN)

    @pytest.mark.parametrize("index", [3, [], ["x"], [{"name": "mine"}], [{"results": [{"metrics": ["odd"]}]}]])
    def test_an_index_that_is_none_gives_way(self, index: Any) -> None:
        merged = with_metadata(f"---\n{yaml.safe_dump({'model-index': index})}---\n", OWN)
        assert parsed(merged)["model-index"] == OWN["model-index"]

    def test_results_from_elsewhere_outlive_those_of_the_zoo(self) -> None:
        card = f"---\n{yaml.safe_dump({'model-index': [{'name': 'mine', 'results': [OLD, FOREIGN]}]})}---\n{PROSE}"
        own = {key: value for key, value in OWN.items() if key != "model-index"}
        assert parsed(with_metadata(card, own))["model-index"] == [{"name": "mine", "results": [FOREIGN]}]


def parsed(card: str) -> dict[str, Any]:
    block = REGEX_YAML_BLOCK.search(card)
    return dict(yaml.safe_load(block[2]) or {}) if block else {}


@dataclass(eq=False)
class Meanwhile(Fault):
    """Somebody else commits just before."""

    act: Callable[[], object]

    def befall(self, answer: Callable[[], Response]) -> Response:
        self.act()
        return answer()


@dataclass(eq=False)
class Talkative(Fault):
    """A refusal that repeats the token which it was sent."""

    def befall(self, answer: Callable[[], Response]) -> Response:
        return error(403, "the token hf_tester may not, nor may \x1b[31mhf_other")


class TestDryRun:
    def test_it_tells_what_the_push_then_does(self, server: HubServer, api: HfApi, trained: Path) -> None:
        push_to_hub(save_pretrained(made(), trained.parent / "before", max_shard_size=1000), REPO)
        server.requests.clear()
        done = zoo("push", trained, REPO, "--dry-run")
        assert (done.code, done.err) == (0, "")
        assert changing(server) == []
        before = stored(server, REPO)
        rows = [line.split() for line in done.out.splitlines() if line.endswith(" bytes")]
        told = {row[0]: (" ".join(row[1:-2]), int(row[-2].replace(",", ""))) for row in rows}
        assert f"  # {REPO.partition('/')[2]}" in done.out
        zoo("push", trained, REPO)
        after = stored(server, REPO)
        for name, (what, size) in told.items():
            if name != ".gitattributes":
                assert what == expected(before.get(name), after.get(name)), name
                assert size == len(after.get(name, before.get(name, b""))), name
        assert told.keys() == before.keys() | after.keys()
        assert {what for what, _ in told.values()} >= {"added", "replaced", "deleted"}

    def test_a_repository_or_a_branch_that_is_missing_is_told_and_not_made(
        self, server: HubServer, folder: Path
    ) -> None:
        done = zoo("push", folder, REPO, "--dry-run")
        assert "the repository would be made" in done.out
        assert done.out.count("added") == len(list(folder.iterdir()))
        assert server.hub.repositories == {}
        push_to_hub(folder, REPO)
        server.requests.clear()
        done = zoo("push", folder, REPO, "--dry-run", "--revision", "next")
        assert "the branch 'next' would be made from 'main'" in done.out
        assert done.out.count("unchanged") == len(list(folder.iterdir()))
        assert changing(server) == []

    def test_it_needs_neither_a_token_nor_a_network(
        self, server: HubServer, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        push_to_hub(folder, REPO)
        monkeypatch.delenv("HF_TOKEN")
        assert zoo("push", folder, REPO, "--dry-run").out.count("unchanged") == 3
        monkeypatch.setenv("HF_TOKEN", "hf_wrong")
        for trouble in (server.down, server.refusing):
            with trouble():
                done = zoo("push", folder, REPO, "--dry-run")
            assert (done.code, done.out.count("not compared")) == (0, 3)
            assert "nothing could be compared with the Hub" in done.out
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        done = zoo("push", folder, REPO, "--dry-run")
        assert (done.code, done.out.count("not compared"), "offline" in done.out) == (0, 3, True)

    def test_what_a_stranger_wrote_does_not_reach_the_terminal_as_it_is(
        self, server: HubServer, api: HfApi, folder: Path
    ) -> None:
        api.create_repo(REPO)
        api.upload_file(path_or_fileobj="# \x1b[2Jgone\u202e\n".encode(), path_in_repo="README.md", repo_id=REPO)
        (folder / "a\x1b[31mb").write_text("x")
        done = zoo("push", folder, REPO, "--dry-run")
        assert "kept" in done.out
        assert "a\\x1b[31mb" in done.out
        assert all(letter.isprintable() for letter in done.out.replace("\n", ""))


def expected(before: bytes | None, after: bytes | None) -> str:
    if before is None or after is None:
        return "added" if before is None else "deleted"
    return "unchanged" if before == after else "replaced"


class TestRefusals:
    @pytest.mark.parametrize(("words", "sentence"), [
        (["nowhere/at-all", REPO], "no checkpoint on this machine"), (["{folder}", "a/b/c"], "to 'a/b/c'"),
        (["{folder}", "small"], "use 'organisation/name'"), (["{folder}", "a/b", "--message", ""], "needs a message"),
        (["{folder}/config.json", REPO], "no checkpoint"), (["vae-mnis", REPO], "did you mean"),
    ])  # fmt: skip
    def test_bad_input_is_one_sentence(self, server: HubServer, folder: Path, words: list[str], sentence: str) -> None:
        done = zoo("push", *[word.format(folder=folder) for word in words])
        assert (done.code, done.out, done.err.count("\n")) == (2, "", 1), done.err
        assert sentence in done.err
        assert changing(server) == []

    @pytest.mark.parametrize(("trouble", "cause"), [
        ("refusing", "refused"), ("down", "503"), ("token", "is the token right?"), ("offline", "offline"),
        ("late", "412"),
    ])  # fmt: skip
    def test_a_hub_that_refuses_is_one_sentence(
        self, server: HubServer, api: HfApi, folder: Path, monkeypatch: pytest.MonkeyPatch, trouble: str, cause: str
    ) -> None:
        first, moved = push_to_hub(folder, REPO), list[str]()
        save_pretrained(made(1), folder)
        if trouble == "token":
            monkeypatch.setenv("HF_TOKEN", "hf_wrong")
        if trouble == "offline":
            monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        if trouble == "late":
            server._faults.append(Meanwhile("POST .*/commit/", 1, lambda: moved.append(commit_there(server, {}))))
        if trouble in ("refusing", "down"):
            with getattr(server, trouble)():
                done = zoo("push", folder, REPO)
        else:
            done = zoo("push", folder, REPO)
        assert (done.code, done.out, done.err.count("\n")) == (1, "", 1), done.err
        assert f"cannot upload to '{REPO}'" in done.err
        assert cause in done.err
        assert head(server, REPO) == (moved or [first])[0]
        assert len(moved) == (trouble == "late")

    def test_what_shall_be_private_does_not_go_where_all_may_see_it(self, server: HubServer, folder: Path) -> None:
        first = push_to_hub(folder, REPO)
        save_pretrained(made(1), folder)
        done = zoo("push", folder, REPO, "--private")
        assert (done.code, done.err.count("\n")) == (2, 1)
        assert "it is there already, and public" in done.err
        assert head(server, REPO) == first
        push_to_hub(folder, "me/other", private=True)
        save_pretrained(made(2), folder)
        assert zoo("push", folder, "me/other", "--private").code == 0

    def test_a_refusal_is_a_checkpoint_error_and_an_os_error(self, server: HubServer, folder: Path) -> None:
        with server.refusing(), pytest.raises(HubRefusal) as caught:
            push_to_hub(folder, REPO)
        assert isinstance(caught.value, CheckpointError)
        assert isinstance(caught.value, OSError)

    def test_a_token_is_never_told(self, server: HubServer, folder: Path) -> None:
        for word in ((), ("--dry-run",)):
            server._faults.append(Talkative(".", 9))
            done = zoo("push", folder, REPO, *word)
            assert "may not" in done.out + done.err
            assert not {"hf_tester", "hf_other", "\x1b"} & {*(done.out + done.err).replace(",", "").split()}
            assert "tester" not in done.out + done.err
            server._faults.clear()
        assert without_token("a secret, hf_abc", "secret") == "a hf_…, hf_…"

    def test_what_is_damaged_is_not_pushed(self, server: HubServer, folder: Path) -> None:
        weights = folder / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
        done = zoo("push", folder, REPO)
        assert (done.code, server.requests) == (2, [])
        assert "damaged" in done.err


class TestProcesses:
    def start(self, server: HubServer, home: Path, *words: object) -> "subprocess.Popen[str]":
        environment = {**os.environ, **server.environment(home)}
        command = [sys.executable, "-m", "zoo_core.cli", *map(str, words)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(command, text=True, env=environment, **pipes)  # type: ignore[call-overload, no-any-return]

    def test_one_pushes_what_is_then_loaded_at_the_commit_that_it_prints(
        self, server: HubServer, folder: Path, tmp_path: Path
    ) -> None:
        words = ("push", folder, REPO, "--private", "--revision", "next", "--message", "The first")
        process = self.start(server, tmp_path / "home", *words)
        out, err = process.communicate(timeout=120)
        assert (process.returncode, err) == (0, "")
        repository, commit = out.split()
        there = server.repository(REPO)
        assert (repository, there.private, there.at("next").oid) == (REPO, True, commit)
        assert there.at(commit).title == "The first"
        assert stored(server, REPO, commit) == {path.name: path.read_bytes() for path in folder.iterdir()}
        assert set(there.at("main").files) == {".gitattributes"}
        assert zoo("sample", REPO, "--revision", commit, "-n", "2", "-o", tmp_path / "x.png").code == 0

    @pytest.mark.parametrize("at", ["PUT ", "POST .*/commit/"])
    def test_one_that_is_killed_half_way_changes_nothing_and_can_be_repeated(
        self, server: HubServer, folder: Path, tmp_path: Path, at: str
    ) -> None:
        first = push_to_hub(folder, REPO)
        save_pretrained(made(1), folder)
        held = Hold(at)
        server._faults.append(held)
        process = self.start(server, tmp_path / "home", "push", folder, REPO)
        assert held.reached.wait(120)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        held.let_go.set()
        assert head(server, REPO) == first
        done = zoo("push", folder, REPO)
        assert done.out.split() == [REPO, head(server, REPO)]
        assert head(server, REPO) != first
        assert stored(server, REPO)["model.safetensors"] == (folder / "model.safetensors").read_bytes()
