"""Checkpoints on the Hub: the real client over HTTP, against a server on this machine."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import torch
from huggingface_hub import HfApi, constants, file_download

from tests.hub_server import Fault, HubServer, Response, error
from zoo_core import CheckpointError, CheckpointSpec, PluginHost, UnknownComponent, build, hookimpl, pretrained
from zoo_core.hub import downloading
from zoo_core.pretrained import from_pretrained, save_pretrained
from zoo_core.publishing import push_to_hub

REPO = "zoo/vae"
SHAPE = (1, 4, 4)
CARD = "---\nlicense: apache-2.0\n---\n# By hand\n"
FILES = {"config.json", "model.safetensors"}
RESOLVE = "/{repo_id}/resolve/{revision}/{filename}"


def make(seed: int = 0, hidden: int = 32) -> Any:
    """A model of some 6 kB: more than the server takes into a commit, so its weights travel apart."""
    torch.manual_seed(seed)
    config = {
        "type": "vae/vae",
        "encoder": {"type": "nets/mlp_encoder", "latents": 2, "hidden": [hidden]},
        "decoder": {"type": "nets/mlp_decoder", "hidden": [hidden]},
        "prior": "nets/standard_normal",
    }
    return build(config, "model", data_shape=SHAPE)


def assert_same(a: Any, b: Any) -> None:
    a, b = a.state_dict(), b.state_dict()
    assert list(a) == list(b)
    assert all(torch.equal(a[name], b[name]) for name in a)


@contextmanager
def refused(*words: str, kind: type[Exception] = CheckpointError) -> Iterator[None]:
    """One sentence that holds these words."""
    with pytest.raises(kind) as caught:
        yield
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 500
    for word in words:
        assert word in message


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "hub"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Iterator[HubServer]:
    """A Hub that this process uses as if its address had been in HF_ENDPOINT from the beginning."""
    with HubServer() as running:
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", running.url + RESOLVE)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", running.token)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield running


@pytest.fixture
def api(server: HubServer) -> HfApi:
    return HfApi(endpoint=server.url, token=server.token)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The client's pauses between attempts, which do not happen."""
    pauses: list[float] = []
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", pauses.append)
    return pauses


@pytest.fixture
def pushed(server: HubServer) -> str:
    """The commit of a checkpoint that is there; nothing has been asked for yet."""
    commit = push_to_hub(make(), REPO)
    server.requests.clear()
    return commit


def stored(server: HubServer, revision: str = "main") -> dict[str, bytes]:
    files = server.repository(REPO).at(revision).files
    return {path: blob.content for path, blob in files.items() if path != ".gitattributes"}


def head(server: HubServer, branch: str = "main") -> str:
    return server.repository(REPO).refs[f"refs/heads/{branch}"].oid


def seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


# --- there and back -------------------------------------------------------------------------------------


def assert_by_hand(card: bytes) -> None:
    """The text of a person, and what they said of it; its metadata may tell more."""
    begin, license, *_ = CARD.splitlines(keepends=True)
    assert card.decode().startswith(begin)
    assert license in card.decode()
    assert card.decode().endswith("---\n# By hand\n")


def test_a_model_goes_there_and_back(server: HubServer) -> None:
    model = make().eval()
    model.provenance = {"seed": 7}
    commit = push_to_hub(model, REPO)
    assert commit == head(server)
    assert set(stored(server)) >= FILES
    torch.manual_seed(1)
    loaded = from_pretrained(REPO)
    assert_same(loaded, model)
    draws = [m.sample(4, generator=torch.Generator().manual_seed(2)) for m in (model, loaded)]
    assert torch.equal(*draws)
    assert loaded.provenance == {"seed": 7, "repository": REPO, "commit": commit}


def test_large_weights_travel_apart(server: HubServer, pushed: str) -> None:
    files = server.repository(REPO).at(pushed).files
    assert {name: blob.lfs for name, blob in files.items() if name in FILES} == {
        "config.json": False, "model.safetensors": True
    }  # fmt: skip
    assert_same(from_pretrained(REPO), make())


def test_a_folder_is_pushed_as_it_is_but_for_hidden_files(server: HubServer, tmp_path: Path) -> None:
    folder = save_pretrained(make(), tmp_path / "model", results={"format": 1, "evaluations": []})
    texts = {"README.md": CARD, "tokenizer/words.json": "[]", ".env": "secret", ".git/config": "x", "a/.cache/x": "x"}
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    push_to_hub(folder, REPO, commit_message="All of it")
    pushed = {name for name in stored(server) if not name.endswith(".png")}
    assert pushed == FILES | {"README.md", "results.json", "tokenizer/words.json"}
    assert_by_hand(stored(server)["README.md"])
    assert server.repository(REPO).at("main").title == "All of it"
    assert_same(from_pretrained(REPO), make())


def test_a_branch_a_tag_and_a_commit_are_revisions(server: HubServer, api: HfApi, pushed: str) -> None:
    api.create_tag(REPO, tag="v1")
    second = push_to_hub(make(seed=1), REPO)
    third = push_to_hub(make(seed=2), REPO, revision="trial")
    assert head(server) == second != third == head(server, "trial")
    expected = {"main": 1, second: 1, "v1": 0, pushed: 0, "trial": 2, third: 2, None: 1}
    for revision, seed in expected.items():
        loaded = from_pretrained(REPO, revision=revision)
        assert_same(loaded, make(seed))
        assert loaded.provenance["commit"] == {0: pushed, 1: second, 2: third}[seed]


def test_pushing_the_same_again_makes_no_commit(server: HubServer, pushed: str) -> None:
    assert push_to_hub(make(), REPO) == pushed
    assert server.count("PUT") == server.count("POST .*/commit/") == 0


def test_a_card_that_was_edited_there_is_kept(server: HubServer, api: HfApi, tmp_path: Path) -> None:
    folder = save_pretrained(make(), tmp_path / "model")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# Generated\n")
    push_to_hub(folder, REPO)
    api.upload_file(path_or_fileobj=CARD.encode(), path_in_repo="README.md", repo_id=REPO)
    save_pretrained(make(seed=1), folder)
    push_to_hub(folder, REPO)
    assert_by_hand(stored(server)["README.md"])
    push_to_hub(make(seed=2), REPO)
    assert_by_hand(stored(server)["README.md"])
    assert_same(from_pretrained(REPO), make(seed=2))


def test_a_push_is_one_commit_that_takes_stale_weights_away(server: HubServer, api: HfApi, tmp_path: Path) -> None:
    folder = save_pretrained(make(), tmp_path / "model", max_shard_size=1000)
    save_pretrained(make(), folder, variant="fp16", storage="float16")
    push_to_hub(folder, REPO)
    assert len(stored(server)) > 5
    for name in ("models.txt", "inside/model.safetensors"):
        api.upload_file(path_or_fileobj=b"x", path_in_repo=name, repo_id=REPO)
    before = server.repository(REPO).at("main")
    push_to_hub(make(), REPO)
    weights = {name for name in stored(server) if name.endswith((".safetensors", ".json", ".txt"))}
    assert weights == FILES | {"models.txt", "inside/model.safetensors"}
    assert server.repository(REPO).at("main").parent == before
    assert_same(from_pretrained(REPO), make())


def test_variants_and_shards(server: HubServer, tmp_path: Path) -> None:
    folder = save_pretrained(make(), tmp_path / "model", max_shard_size=1000)
    save_pretrained(make(), folder, variant="fp16", storage="float16")
    push_to_hub(folder, REPO)
    server.requests.clear()
    assert_same(from_pretrained(REPO, variant="fp16"), make().half().float())
    assert server.count(r"GET .*model.fp16.safetensors") == server.count(r"GET .*model") == 1
    assert_same(from_pretrained(REPO), make())
    shards = [name for name in stored(server) if name.startswith("model-")]
    assert server.count(r"GET .*model-0") == len(shards) > 1
    with refused("config.json", "'model.bf16.safetensors'; listed: 'model.fp16.safetensors', 'model.safetensors'"):
        from_pretrained(REPO, variant="bf16")


def test_a_repository_may_hold_checkpoints_in_folders_only(server: HubServer, api: HfApi, tmp_path: Path) -> None:
    folder = save_pretrained(make(), tmp_path / "model")
    api.create_repo(REPO)
    commit = api.upload_folder(repo_id=REPO, folder_path=folder, path_in_repo="models/small").oid
    loaded = from_pretrained(REPO, subfolder="models/small")
    assert_same(loaded, make())
    assert loaded.provenance["commit"] == commit
    with refused(repr(REPO), "no file 'config.json'"):
        from_pretrained(REPO)
    with refused(repr(REPO), "no file 'models/config.json'"):
        from_pretrained(REPO, subfolder="models")


def test_a_private_repository_needs_a_token(server: HubServer, cache: Path, tmp_path: Path) -> None:
    push_to_hub(make(), REPO, private=True)
    assert server.repository(REPO).private
    with refused(f"no repository {REPO!r}", "private", "token"):
        from_pretrained(REPO, token=False)
    assert_same(from_pretrained(REPO, token=server.token, cache_dir=tmp_path / "elsewhere"), make())
    assert (tmp_path / "elsewhere").is_dir()
    assert not list(cache.rglob("*.safetensors"))


# --- how often the Hub is asked -------------------------------------------------------------------------


def test_each_file_is_fetched_once_and_a_commit_asks_nothing(server: HubServer, pushed: str) -> None:
    from_pretrained(REPO)
    assert [(seen.method, Path(seen.path).name) for seen in server.requests] == [
        ("HEAD", "config.json"), ("GET", "config.json"), ("HEAD", "model.safetensors"), ("GET", "model.safetensors"),
    ]  # fmt: skip
    server.requests.clear()
    from_pretrained(REPO)
    assert len(server.requests) == 1
    server.requests.clear()
    from_pretrained(REPO, revision=pushed)
    from_pretrained(REPO, local_files_only=True)
    assert server.requests == []


def test_all_files_are_of_the_commit_that_a_branch_named_first(
    server: HubServer, pushed: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = save_pretrained(make(seed=1), tmp_path / "model")
    find = pretrained._weight_files

    def find_after_a_push(*arguments: Any) -> Any:
        monkeypatch.setattr(pretrained, "_weight_files", find)
        push_to_hub(folder, REPO)
        return find(*arguments)

    monkeypatch.setattr(pretrained, "_weight_files", find_after_a_push)
    loaded = from_pretrained(REPO)
    assert head(server) != pushed == loaded.provenance["commit"]
    assert_same(loaded, make())


def test_a_damaged_cache_is_seen_and_can_be_mended(server: HubServer, pushed: str, cache: Path) -> None:
    from_pretrained(REPO)
    (blob,) = {path.resolve() for path in cache.rglob("model.safetensors")}
    content = blob.read_bytes()
    blob.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with refused("model.safetensors", "SHA-256", "force_download=True"):
        from_pretrained(REPO)
    server.requests.clear()
    assert_same(from_pretrained(REPO, force_download=True), make())
    assert server.count("GET .*config.json") == server.count("GET .*model.safetensors") == 1
    assert_same(from_pretrained(REPO, local_files_only=True), make())


# --- a Hub in trouble -----------------------------------------------------------------------------------


@pytest.mark.parametrize("outage", [HubServer.down, HubServer.refusing])
def test_what_is_cached_loads_at_once_while_the_hub_is_away(
    server: HubServer, pushed: str, outage: Callable[[HubServer], AbstractContextManager[None]]
) -> None:
    from_pretrained(REPO)
    with outage(server):
        for options in ({}, {"revision": "main"}, {"revision": pushed}, {"local_files_only": True}):
            assert seconds(lambda options=options: assert_same(from_pretrained(REPO, **options), make())) < 1


@pytest.mark.parametrize(("outage", "cause"), [(HubServer.down, "503"), (HubServer.refusing, "refused")])
def test_what_is_not_cached_is_refused_while_the_hub_is_away(
    server: HubServer,
    pushed: str,
    impatient: list[float],
    outage: Callable[[HubServer], AbstractContextManager[None]],
    cause: str,
) -> None:
    with outage(server), refused("'config.json'", repr(REPO), "not in the cache", cause):
        from_pretrained(REPO)
    assert impatient  # it was tried again
    with outage(server), refused("'config.json'", cause):
        from_pretrained(REPO, force_download=True)
    assert_same(from_pretrained(REPO), make())


def test_offline_means_offline(server: HubServer, pushed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from_pretrained(REPO)
    server.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for revision in (None, "main", pushed):
        assert_same(from_pretrained(REPO, revision=revision), make())
        assert_same(from_pretrained(REPO, revision=revision, local_files_only=True), make())
    with refused("'config.json'", "'zoo/other'", "not in the cache", "offline"):
        from_pretrained("zoo/other")
    with refused("'config.json'", "'zoo/other'", "not in the cache", "offline"):
        from_pretrained("zoo/other", local_files_only=True)
    with refused("'config.json'", repr(REPO), "'v2'", "not in the cache"):
        from_pretrained(REPO, revision="v2")
    with refused("offline"):
        from_pretrained(REPO, force_download=True)
    with refused("cannot upload", "offline"):
        push_to_hub(make(), REPO)
    assert server.requests == []


def test_weights_that_are_not_cached_are_named(server: HubServer, pushed: str, cache: Path) -> None:
    from_pretrained(REPO)
    for path in cache.rglob("model.safetensors"):
        path.unlink()
    with refused("'model.safetensors'", repr(REPO), pushed, "not in the cache"):
        from_pretrained(REPO, local_files_only=True)
    assert_same(from_pretrained(REPO), make())


def test_an_interrupted_download_can_be_repeated(
    server: HubServer, pushed: str, cache: Path, impatient: list[float]
) -> None:
    server.cut_next("GET .*model.safetensors", after=2000)
    server.fail_next("GET .*model.safetensors", times=10)
    with refused("'model.safetensors'", repr(REPO), "cannot be downloaded", "503"):
        from_pretrained(REPO)
    assert list(cache.rglob("*.safetensors")) == list(cache.rglob("*.incomplete")) == []
    server._faults.clear()
    assert_same(from_pretrained(REPO), make())


def test_a_cut_within_a_download_is_not_noticed(server: HubServer, pushed: str, impatient: list[float]) -> None:
    server.cut_next("GET .*model.safetensors", after=2000)
    server.drop_next("GET .*config.json")
    assert_same(from_pretrained(REPO), make())


@pytest.mark.parametrize("at", ["POST .*/commit/", "PUT ", "POST .*/preupload/", "POST .*/lfs/", "GET .*/tree/"])
@pytest.mark.parametrize("fault", [HubServer.fail_next, HubServer.drop_next])
def test_an_interrupted_push_changes_nothing_and_can_be_repeated(
    server: HubServer, pushed: str, impatient: list[float], at: str, fault: Any
) -> None:
    fault(server, at, times=20)
    with refused("cannot upload", repr(REPO), "503" if fault is HubServer.fail_next else "disconnected"):
        push_to_hub(make(seed=1), REPO)
    assert server.count(at) > 0
    assert head(server) == pushed
    assert_same(from_pretrained(REPO), make())
    server._faults.clear()
    assert push_to_hub(make(seed=1), REPO) == head(server) != pushed
    assert_same(from_pretrained(REPO), make(seed=1))


@pytest.mark.parametrize(("outage", "cause"), [(HubServer.down, "503"), (HubServer.refusing, "refused")])
def test_a_hub_that_is_away_takes_nothing(
    server: HubServer,
    pushed: str,
    impatient: list[float],
    outage: Callable[[HubServer], AbstractContextManager[None]],
    cause: str,
) -> None:
    with outage(server), refused("cannot upload", repr(REPO), cause):
        push_to_hub(make(seed=1), REPO)
    assert head(server) == pushed


# --- refusals -------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Gate(Fault):
    """The repository's terms have not been accepted."""

    def befall(self, answer: Callable[[], Response]) -> Response:
        return error(403, "Access to model is restricted", {"X-Error-Code": "GatedRepo"})


def test_each_kind_of_absence_has_its_sentence(server: HubServer, api: HfApi, pushed: str) -> None:
    with refused("no repository 'zoo/nope' on the Hub"):
        from_pretrained("zoo/nope")
    with refused(f"{REPO!r} has no revision 'v9'"):
        from_pretrained(REPO, revision="v9")
    with refused(f"{REPO!r} has no revision {'0' * 40!r}"):
        from_pretrained(REPO, revision="0" * 40)
    api.create_repo("zoo/empty")
    with refused("'zoo/empty' has no file 'config.json'"):
        from_pretrained("zoo/empty")
    api.delete_file("model.safetensors", REPO)
    with refused(f"{REPO!r} at revision {head(server)!r} has no file 'model.safetensors'"):
        from_pretrained(REPO)


def test_a_repository_of_another_library_is_refused(api: HfApi) -> None:
    api.create_repo(REPO)
    api.upload_file(path_or_fileobj=b'{"model_type": "bert"}', path_in_repo="config.json", repo_id=REPO)
    with refused(REPO.replace("/", "--"), "config.json", "no zoo checkpoint"):
        from_pretrained(REPO)


def test_a_gate_and_a_bad_token_are_told_apart(server: HubServer, pushed: str) -> None:
    with refused(repr(REPO), "cannot be downloaded", "401", "is the token right?"):
        from_pretrained(REPO, token="hf_wrong")
    with refused("cannot upload", repr(REPO), "401", "is the token right?"):
        push_to_hub(make(), REPO, token="hf_wrong")
    with refused("cannot upload", repr(REPO), "401", "is the token right?"):
        push_to_hub(make(seed=1), REPO, token=False)
    server._faults.append(Gate("", 1))
    with refused(f"{REPO!r} is gated", "accept its terms", "token"):
        from_pretrained(REPO)


@pytest.mark.parametrize("name", ["zoo/va e", "zoo/vae/x", "zoo/..", "zoo/vae.git", "zoo--x/y", "zoo/", "C:/zoo/vae"])
def test_what_cannot_be_a_name_is_not_asked_for(server: HubServer, name: str) -> None:
    with refused(repr(name), "neither a folder, nor a registered name, nor a Hub id"):
        from_pretrained(name)
    with refused(repr(name), "cannot upload"):
        push_to_hub(make(), name)
    assert server.requests == []


def test_only_a_whole_checkpoint_is_pushed(server: HubServer, tmp_path: Path) -> None:
    folder = save_pretrained(make(), tmp_path / "model")
    with refused("no such folder", "nope"):
        push_to_hub(tmp_path / "nope", REPO)
    with refused("no file 'config.json'"):
        push_to_hub(tmp_path, REPO)
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-1])
    with refused("model.safetensors", "SHA-256"):
        push_to_hub(folder, REPO)
    (folder / "model.safetensors").unlink()
    with refused("no file 'model.safetensors'"):
        push_to_hub(folder, REPO)
    assert server.requests == []


def test_a_broken_card_stops_a_push(server: HubServer, pushed: str, tmp_path: Path) -> None:
    folder = save_pretrained(make(seed=1), tmp_path / "model")
    (folder / "README.md").write_text("---\nlicense: [\n---\n")
    with refused("README.md", "YAML"):
        push_to_hub(folder, REPO)
    assert head(server) == pushed


# --- registered checkpoints -----------------------------------------------------------------------------


class Checkpoints:
    def __init__(self, **fields: str) -> None:
        self.spec = CheckpointSpec(name="small", hub=REPO, summary="For a test.", **fields)

    @hookimpl
    def zoo_checkpoints(self) -> Iterator[CheckpointSpec]:
        yield self.spec


def registered(**fields: str) -> PluginHost:
    host = PluginHost()
    host.register(Checkpoints(**fields), "bundle")
    return host


def sha256(server: HubServer, revision: str) -> str:
    return server.repository(REPO).at(revision).files["model.safetensors"].sha256


@pytest.mark.parametrize("target", ["", "zoo_vae:no_such_folder"])
def test_a_registered_checkpoint_comes_from_its_pinned_commit(server: HubServer, pushed: str, target: str) -> None:
    host = registered(target=target, revision=pushed, sha256=sha256(server, pushed))
    second = push_to_hub(make(seed=1), REPO)
    server.requests.clear()
    for name in ("small", "bundle/small"):
        assert_same(from_pretrained(name, host=host), make())
    assert server.count("GET ") == server.count(f"GET .*/resolve/{pushed}/") == 2
    # What is pinned is the registered commit; who asks for another gets that.
    assert_same(from_pretrained("small", host=host, revision=second), make(seed=1))
    assert_same(from_pretrained("small", host=host, revision="main"), make(seed=1))


def test_a_registered_checkpoint_without_a_commit_is_that_of_the_branch(server: HubServer, pushed: str) -> None:
    host = registered()
    assert_same(from_pretrained("small", host=host), make())
    push_to_hub(make(seed=1), REPO)
    assert_same(from_pretrained("small", host=host), make(seed=1))


def test_a_registered_hash_is_compared(server: HubServer, pushed: str) -> None:
    host = registered(revision=pushed, sha256="0" * 64)
    with refused("model.safetensors", "SHA-256", f"not {'0' * 64}"):
        from_pretrained("small", host=host)
    # Not even a hash in the config that agrees with the file makes up for it.
    assert json.loads(stored(server)["config.json"])["weights"] == {"model.safetensors": sha256(server, pushed)}


def test_a_registered_hash_is_that_of_the_default_weights(server: HubServer, api: HfApi, tmp_path: Path) -> None:
    folder = save_pretrained(make(), tmp_path / "model")
    save_pretrained(make(), folder, variant="fp16", storage="float16")
    push_to_hub(folder, REPO)
    inside = save_pretrained(make(seed=1), tmp_path / "inside")
    commit = api.upload_folder(repo_id=REPO, folder_path=inside, path_in_repo="inside").oid
    host = registered(revision=commit, sha256=sha256(server, commit))
    assert_same(from_pretrained("small", host=host), make())
    assert_same(from_pretrained("small", host=host, variant="fp16"), make().half().float())
    assert_same(from_pretrained("small", host=host, subfolder="inside"), make(seed=1))


def test_a_copy_in_the_wheel_is_preferred_unless_a_revision_is_asked_for(
    server: HubServer, pushed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "zoo_wheel").mkdir()
    (tmp_path / "zoo_wheel" / "__init__.py").touch()
    save_pretrained(make(seed=2), tmp_path / "zoo_wheel" / "checkpoints" / "small")
    monkeypatch.syspath_prepend(tmp_path)
    host = registered(target="zoo_wheel:checkpoints", revision=pushed)
    assert_same(from_pretrained("small", host=host), make(seed=2))
    assert server.requests == []
    assert_same(from_pretrained("small", host=host, revision="main"), make())
    sys.modules.pop("zoo_wheel")


def test_a_folder_comes_before_the_hub(
    server: HubServer, pushed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_pretrained(make(seed=3), tmp_path / REPO)
    monkeypatch.chdir(tmp_path)
    assert_same(from_pretrained(REPO), make(seed=3))
    shutil.rmtree(tmp_path / REPO)
    assert_same(from_pretrained(REPO), make())
    with refused("no checkpoint 'vae'", kind=UnknownComponent):
        from_pretrained("vae")


# --- other processes ------------------------------------------------------------------------------------

TOGETHER = """
import os, sys, time
import huggingface_hub.file_download as client
import torch
from zoo_core.host import default_host
from zoo_core.pretrained import from_pretrained

default_host()  # and with it all that is to be imported

def load():
    model = from_pretrained(sys.argv[1])
    total = sum(float(t.double().sum()) for t in model.state_dict().values())
    os.write(1, f"{os.getpid()} {model.provenance['commit']} {total}\\n".encode())

def stop(url, file, **rest):
    if url.endswith("model.safetensors"):
        file.write(b"half")
        file.flush()
        os.write(1, f"{os.getpid()} inside\\n".encode())
        time.sleep(60)
    return get(url, file, **rest)

def start(action):
    pid = os.fork()
    if not pid:
        try:
            action()
        finally:
            os._exit(0)
    return pid

def stopping():
    client.http_get = stop
    load()

get = client.http_get
for line in sys.stdin:
    start({"load": load, "stop": stopping}[line.strip()])
while True:
    try:
        os.wait()
    except ChildProcessError:
        break
"""


@pytest.fixture
def together(server: HubServer, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Starts a process for each line that it is told: to load, or to stop in the middle of a download."""
    environment = {**os.environ, **server.environment(tmp_path / "home")}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    command = [sys.executable, "-c", TOGETHER, REPO]
    with subprocess.Popen(command, env=environment, text=True, bufsize=1, **pipes) as process:
        yield process


def test_processes_that_load_at_once_fetch_once_also_when_one_is_killed(
    server: HubServer, pushed: str, tmp_path: Path, together: subprocess.Popen[str]
) -> None:
    assert together.stdin
    assert together.stdout
    total = str(sum(float(t.double().sum()) for t in make().state_dict().values()))
    together.stdin.write("stop\n")
    killed, told = together.stdout.readline().split()
    assert told == "inside"
    together.stdin.write("load\n" * 7)
    while server.count("HEAD .*model.safetensors") < 8:  # all want it
        time.sleep(0.01)
    assert server.count("GET .*model.safetensors") == 0
    os.kill(int(killed), signal.SIGKILL)
    output, errors = together.communicate(timeout=60)
    answers = [line.split()[1:] for line in output.splitlines()]
    assert answers == [[pushed, total]] * 7, errors
    assert server.count("GET .*model.safetensors") == 1
    # And who was killed may try again.
    assert_same(from_pretrained(REPO, cache_dir=tmp_path / "home" / "hub", local_files_only=True), make())


# --- caches ---------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Silence(Fault):
    """The Hub takes the question, and answers a minute later, or when the test is over."""

    over: Event = field(default_factory=Event)

    def befall(self, answer: Callable[[], Response]) -> Response:
        self.over.wait(60)
        return answer()


def test_a_hub_that_does_not_answer_is_not_waited_for_long(
    server: HubServer, pushed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from_pretrained(REPO)
    monkeypatch.setattr(downloading, "PATIENCE", 0.3)
    silence = Silence("", 1)
    server._faults.append(silence)
    asked = len(server.requests)
    try:
        assert seconds(lambda: assert_same(from_pretrained(REPO), make())) < 30
    finally:
        silence.over.set()
    assert len(server.requests) == asked + 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_cache_is_read(server: HubServer, pushed: str, cache: Path) -> None:
    from_pretrained(REPO)
    for path in (cache, *cache.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        for options in ({}, {"revision": pushed}, {"local_files_only": True}):
            assert_same(from_pretrained(REPO, **options), make())
    finally:
        for path in (cache, *cache.rglob("*")):
            if path.is_dir():
                path.chmod(0o755)


def test_a_cache_that_cannot_be_written_is_told(
    server: HubServer, pushed: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    get = file_download.http_get

    def fill(url: str, file: Any, **rest: Any) -> None:
        if url.endswith("model.safetensors"):
            file.write(b"half")
            raise full
        get(url, file, **rest)

    with monkeypatch.context() as patch, refused("'model.safetensors'", repr(REPO), "No space left on device"):
        patch.setattr(file_download, "http_get", fill)
        from_pretrained(REPO)
    assert list(cache.rglob("model.safetensors")) == []
    assert_same(from_pretrained(REPO), make())


def test_a_snapshot_in_the_cache_is_a_folder_too(server: HubServer, pushed: str, cache: Path) -> None:
    from_pretrained(REPO)
    (snapshot,) = cache.glob("models--*/snapshots/*")
    assert (snapshot / "model.safetensors").is_symlink()
    assert_same(from_pretrained(snapshot), make())
    # What leads elsewhere than to the blobs is none of the client's links.
    for target in ("../../../../secret", "../../refs/main", "/etc/hostname"):
        (snapshot / "config.json").unlink()
        (snapshot / "config.json").symlink_to(target)
        (cache.parent / "secret").write_text("{}")
        with refused("config.json", "leads out of its folder"):
            from_pretrained(snapshot)
