"""The unmodified client against `HubServer`: what tests of pushing and loading rely on."""

import hashlib
import json
import os
import random
import socket
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import (
    _CACHED_NO_EXIST,
    CommitInfo,
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    ModelCard,
    constants,
    get_hf_file_metadata,
    get_session,
    hf_hub_url,
    try_to_load_from_cache,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tests.hub_server import HubServer

REPO = "zoo/vae"
CONFIG = b'{"type": "vae/vae"}'
CARD = b"---\nlicense: apache-2.0\nlibrary_name: zoo\ntags: [vae, images]\n---\n# VAE\n"
WEIGHTS = random.Random(0).randbytes(10_000)
OTHER_WEIGHTS = random.Random(1).randbytes(10_000)
FILES = {"config.json": CONFIG, "model.safetensors": WEIGHTS, "README.md": CARD}
CHUNK = constants.DOWNLOAD_CHUNK_SIZE
DOWNLOAD = "GET .*/resolve/"


@pytest.fixture(autouse=True)
def _plain_http(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def server() -> Iterator[HubServer]:
    with HubServer() as running:
        yield running


@pytest.fixture
def api(server: HubServer) -> HfApi:
    return HfApi(endpoint=server.url, token=server.token)


@pytest.fixture
def stranger(server: HubServer) -> HfApi:
    return HfApi(endpoint=server.url, token=False)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def push(api: HfApi, files: dict[str, bytes], repo: str = REPO, **options: Any) -> CommitInfo:
    api.create_repo(repo, exist_ok=True)
    additions = [CommitOperationAdd(path, content) for path, content in files.items()]
    commit: CommitInfo = api.create_commit(repo, additions, commit_message="Push", **options)
    return commit


def fetch(api: HfApi, cache: Path, path: str = "model.safetensors", **options: Any) -> bytes:
    return Path(api.hf_hub_download(REPO, path, cache_dir=cache, **options)).read_bytes()


def stored(server: HubServer, revision: str = "main") -> dict[str, bytes]:
    files = server.repository(REPO).at(revision).files
    return {path: blob.content for path, blob in files.items() if path != ".gitattributes"}


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def git_oid(content: bytes) -> str:
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


# Who asks


def test_the_token_decides_who_one_is(server: HubServer, api: HfApi) -> None:
    assert api.whoami()["name"] == "tester"
    with pytest.raises(HfHubHTTPError, match="Invalid user token") as refusal:
        HfApi(endpoint=server.url, token="hf_wrong").whoami()
    assert refusal.value.response.status_code == 401


def test_a_bad_token_is_refused_even_for_public_files(server: HubServer, api: HfApi, cache: Path) -> None:
    push(api, FILES)
    with pytest.raises(HfHubHTTPError, match="Invalid credentials") as refusal:
        fetch(HfApi(endpoint=server.url, token="hf_wrong"), cache)
    assert refusal.value.response.status_code == 401


def test_strangers_read_what_is_public_and_write_nothing(
    server: HubServer, api: HfApi, stranger: HfApi, cache: Path
) -> None:
    push(api, FILES)
    assert fetch(stranger, cache) == WEIGHTS
    with pytest.raises(HfHubHTTPError, match="401"):
        stranger.create_repo("zoo/other")
    with pytest.raises(RepositoryNotFoundError):
        stranger.upload_file(path_or_fileobj=b"{}", path_in_repo="config.json", repo_id=REPO)
    assert stored(server) == FILES


def test_a_private_repository_is_missing_to_strangers(api: HfApi, stranger: HfApi, cache: Path, tmp_path: Path) -> None:
    api.create_repo(REPO, private=True)
    push(api, FILES)
    assert api.model_info(REPO).private
    assert fetch(api, cache) == WEIGHTS
    assert [model.id for model in api.list_models()] == [REPO]
    assert list(stranger.list_models()) == []
    with pytest.raises(RepositoryNotFoundError):
        stranger.model_info(REPO)
    with pytest.raises(RepositoryNotFoundError):
        fetch(stranger, tmp_path / "other")


# Repositories


def test_create_and_delete(api: HfApi) -> None:
    url = api.create_repo(REPO)
    assert url.repo_id == REPO
    assert api.create_repo(REPO, exist_ok=True) == url
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_repo(REPO)
    api.delete_repo(REPO)
    assert not api.repo_exists(REPO)
    with pytest.raises(RepositoryNotFoundError):
        api.delete_repo(REPO)


@pytest.mark.parametrize(("kind", "sdk"), [("dataset", None), ("space", "gradio")])
def test_kinds_are_apart(api: HfApi, cache: Path, kind: str, sdk: str | None) -> None:
    push(api, FILES)
    url = api.create_repo(REPO, repo_type=kind, space_sdk=sdk)
    assert url.repo_type == kind
    options: Any = {"repo_id": REPO, "repo_type": kind}
    api.upload_file(path_or_fileobj=OTHER_WEIGHTS, path_in_repo="data.bin", **options)
    assert api.list_repo_files(**options) == [".gitattributes", "data.bin"]
    path = api.hf_hub_download(filename="data.bin", cache_dir=cache, **options)
    assert Path(path).read_bytes() == OTHER_WEIGHTS
    assert "data.bin" not in api.list_repo_files(REPO)
    assert [model.id for model in api.list_models()] == [REPO]


def test_models_are_listed_by_tag_author_and_name(api: HfApi) -> None:
    push(api, {"README.md": CARD})
    push(api, {"README.md": b"---\ntags: [vae]\npipeline_tag: image-to-image\n---\n"}, "zoo/vq")
    push(api, {"README.md": b"---\ndatasets: mnist\n---\n"}, "other/vae-mnist")

    def found(**query: Any) -> list[str]:
        return [model.id for model in api.list_models(**query)]

    assert found() == ["zoo/vae", "zoo/vq", "other/vae-mnist"]
    assert found(filter="vae") == ["zoo/vae", "zoo/vq"]
    assert found(filter=["vae", "zoo"]) == ["zoo/vae"]
    assert found(filter="license:apache-2.0") == ["zoo/vae"]
    assert found(trained_dataset="mnist") == ["other/vae-mnist"]
    assert found(author="other") == ["other/vae-mnist"]
    assert found(search="VAE") == ["zoo/vae", "other/vae-mnist"]
    assert found(pipeline_tag="image-to-image") == ["zoo/vq"]
    assert found(sort="createdAt", limit=1) == ["other/vae-mnist"]
    assert found(filter="vae", author="other") == []


def test_a_listing_tells_as_little_as_the_real_one(api: HfApi) -> None:
    push(api, FILES)
    (brief,) = api.list_models()
    (full,) = api.list_models(full=True, cardData=True)
    (expanded,) = api.list_models(expand=["sha"])
    assert (brief.sha, brief.siblings, brief.card_data) == (None, None, None)
    assert full.sha == expanded.sha == api.model_info(REPO).sha
    assert full.card_data is not None
    assert full.card_data.license == "apache-2.0"
    assert (expanded.id, expanded.tags) == (REPO, None)


# Uploads


def test_small_files_travel_in_the_commit_and_large_ones_apart(server: HubServer, api: HfApi, tmp_path: Path) -> None:
    for path, content in FILES.items():
        (tmp_path / path).write_bytes(content)
    api.create_repo(REPO)
    commit = api.upload_folder(repo_id=REPO, folder_path=tmp_path, commit_message="Push")
    assert stored(server) == FILES
    assert server.count("PUT /bucket/" + sha256(WEIGHTS)) == server.count("PUT") == 1
    assert server.count("POST .*/verify") == 1
    assert commit.oid == server.repository(REPO).at("main").oid


def test_model_info_describes_what_was_pushed(api: HfApi) -> None:
    commit = push(api, FILES)
    info: Any = api.model_info(REPO, files_metadata=True)
    siblings = {sibling.rfilename: sibling for sibling in info.siblings}
    weights, config = siblings["model.safetensors"], siblings["config.json"]
    assert (info.sha, info.library_name, info.card_data.license) == (
        commit.oid,
        "zoo",
        "apache-2.0",
    )
    assert {"zoo", "vae", "images", "safetensors", "license:apache-2.0"} <= set(info.tags)
    assert info.created_at < info.last_modified
    assert (weights.size, weights.lfs.size, weights.lfs.sha256) == (
        len(WEIGHTS),
        len(WEIGHTS),
        sha256(WEIGHTS),
    )
    assert (config.size, config.lfs) == (len(CONFIG), None)
    assert config.blob_id == git_oid(CONFIG)


def test_git_holds_a_pointer_to_a_large_file(api: HfApi) -> None:
    push(api, FILES)
    described: Any = api.get_paths_info(REPO, "model.safetensors")
    pointer = (
        f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256(WEIGHTS)}\nsize {len(WEIGHTS)}\n"
    ).encode()
    (weights,) = described
    assert (weights.blob_id, weights.lfs.pointer_size) == (git_oid(pointer), len(pointer))


def test_the_threshold_decides_what_is_large(server: HubServer, api: HfApi) -> None:
    server.hub.lfs_threshold = 100
    push(api, {"at": bytes(100), "over": bytes(101)})
    files = server.repository(REPO).at("main").files
    assert (files["at"].lfs, files["over"].lfs) == (False, True)


def test_pushing_the_same_again_uploads_and_commits_nothing(server: HubServer, api: HfApi) -> None:
    first = push(api, FILES)
    server.requests.clear()
    assert push(api, FILES).oid == first.oid
    assert server.count("PUT|POST .*/commit/") == 0


def test_a_large_file_that_moves_is_not_sent_again(server: HubServer, api: HfApi) -> None:
    push(api, FILES)
    server.requests.clear()
    push(api, {"renamed.safetensors": WEIGHTS})
    assert stored(server) == FILES | {"renamed.safetensors": WEIGHTS}
    assert (server.count("PUT"), server.count("POST .*/commit/")) == (0, 1)


def test_a_commit_on_a_stale_parent_is_refused(server: HubServer, api: HfApi) -> None:
    first = push(api, FILES)
    push(api, {"config.json": b"{}"}, parent_commit=first.oid)
    with pytest.raises(HfHubHTTPError, match="412"):
        push(api, {"config.json": b"[]"}, parent_commit=first.oid)
    assert stored(server)["config.json"] == b"{}"


def test_files_and_folders_are_deleted(server: HubServer, api: HfApi) -> None:
    push(api, FILES | {"a/b/1": b"1", "a/2": b"2", "ab": b"3"})
    api.create_commit(
        REPO,
        [CommitOperationDelete("a/"), CommitOperationDelete("config.json")],
        commit_message="Delete",
    )
    assert stored(server).keys() == {"model.safetensors", "README.md", "ab"}
    with pytest.raises(EntryNotFoundError):
        api.delete_file("config.json", REPO)


def test_a_broken_card_stops_a_push(server: HubServer, api: HfApi) -> None:
    with pytest.raises(ValueError, match="does not parse"):
        push(api, FILES | {"README.md": b"---\ntags: [vae\n---\n"})
    assert stored(server) == {}


def test_an_empty_card_is_warned_about(server: HubServer, api: HfApi) -> None:
    with pytest.warns(UserWarning, match="empty or missing yaml"):
        push(api, {"README.md": b"# No metadata\n"})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        push(api, {"README.md": CARD})


def test_a_card_is_validated_by_itself(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    ModelCard(CARD.decode()).validate()
    # A plain answer is what `validate` shows of a refusal.
    asked = {"repoType": "model", "content": "---\n- a list\n---\n"}
    headers = {"Accept": "text/plain"}
    refusal = get_session().post(f"{server.url}/api/validate-yaml", json=asked, headers=headers)
    assert refusal.status_code == 400
    assert refusal.text == "- Error: the YAML block of README.md must be a mapping"


def test_a_pull_request_leaves_main_alone(server: HubServer, api: HfApi) -> None:
    push(api, FILES)
    opened = push(api, {"config.json": b"{}"}, create_pr=True)
    assert opened.pr_revision == "refs/pr/1"
    push(api, {"more.json": b"1"}, revision="refs/pr/1")
    assert stored(server) == FILES
    assert stored(server, "refs/pr/1") == FILES | {"config.json": b"{}", "more.json": b"1"}


# Downloads


@pytest.mark.parametrize("path", FILES)
def test_what_was_pushed_comes_back(api: HfApi, cache: Path, path: str) -> None:
    push(api, FILES)
    assert fetch(api, cache, path) == FILES[path]


def test_metadata_are_those_of_git_and_lfs(server: HubServer, api: HfApi) -> None:
    commit = push(api, FILES)

    def metadata(path: str) -> tuple[str | None, str | None, int | None]:
        url = hf_hub_url(REPO, path, endpoint=server.url)
        found = get_hf_file_metadata(url, token=server.token)
        return found.commit_hash, found.etag, found.size

    assert metadata("config.json") == (commit.oid, git_oid(CONFIG), len(CONFIG))
    assert metadata("model.safetensors") == (commit.oid, sha256(WEIGHTS), len(WEIGHTS))


def test_a_branch_a_tag_and_a_commit_pin_a_revision(server: HubServer, api: HfApi, cache: Path) -> None:
    first = push(api, FILES)
    api.create_tag(REPO, tag="v1.0")
    api.create_branch(REPO, branch="side/line")
    push(api, {"model.safetensors": OTHER_WEIGHTS})
    push(api, {"model.safetensors": b"small"}, revision="side/line")
    assert fetch(api, cache) == OTHER_WEIGHTS
    assert fetch(api, cache, revision="v1.0") == WEIGHTS
    assert fetch(api, cache, revision="side/line") == b"small"
    assert fetch(api, cache, revision=first.oid) == WEIGHTS
    server.requests.clear()
    assert fetch(api, cache, revision=first.oid) == WEIGHTS
    assert server.requests == []


def test_a_snapshot_is_every_file_of_one_commit(server: HubServer, api: HfApi, cache: Path) -> None:
    first = push(api, FILES | {"a/b.txt": b"deep"})
    push(api, {"config.json": b"{}"})
    folder = Path(api.snapshot_download(REPO, revision=first.oid, cache_dir=cache))
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.*")}
    del found[".gitattributes"]
    assert found == FILES | {"a/b.txt": b"deep"}


@pytest.mark.parametrize(
    ("error", "options"),
    [
        (RepositoryNotFoundError, {"repo_id": "zoo/none", "filename": "config.json"}),
        (RepositoryNotFoundError, {"filename": "config.json", "repo_type": "dataset"}),
        (RevisionNotFoundError, {"filename": "config.json", "revision": "none"}),
        (RevisionNotFoundError, {"filename": "config.json", "revision": "0" * 40}),
        (EntryNotFoundError, {"filename": "none.json"}),
        (EntryNotFoundError, {"filename": "config.json/none"}),
    ],
)
def test_each_kind_of_missing_is_its_own_error(
    api: HfApi, cache: Path, error: type[HfHubHTTPError], options: dict[str, Any]
) -> None:
    push(api, FILES)
    with pytest.raises(error) as refusal:
        api.hf_hub_download(**{"repo_id": REPO, "cache_dir": cache, **options})
    assert refusal.value.response.status_code == 404


def test_the_client_remembers_that_a_file_does_not_exist(api: HfApi, cache: Path) -> None:
    push(api, FILES)
    with pytest.raises(EntryNotFoundError):
        fetch(api, cache, "none.json")
    assert try_to_load_from_cache(REPO, "none.json", cache_dir=cache) is _CACHED_NO_EXIST


@pytest.mark.parametrize(
    ("asked", "status", "told", "part"),
    [
        ("bytes=0-9", 206, "bytes 0-9/10000", slice(0, 10)),
        ("bytes=9000-", 206, "bytes 9000-9999/10000", slice(9000, None)),
        ("bytes=9990-20000", 206, "bytes 9990-9999/10000", slice(9990, None)),
        ("bytes=-10", 206, "bytes 9990-9999/10000", slice(-10, None)),
        ("lines=0-9", 200, None, slice(None)),
    ],
)
def test_a_range_is_that_part(
    server: HubServer, api: HfApi, asked: str, status: int, told: str | None, part: slice
) -> None:
    push(api, FILES)
    url = hf_hub_url(REPO, "model.safetensors", endpoint=server.url)
    answer = get_session().get(url, headers={"Range": asked})
    assert (answer.status_code, answer.headers.get("Content-Range")) == (status, told)
    assert answer.content == WEIGHTS[part]
    assert server.requests[-1] == ("GET", f"/{REPO}/resolve/main/model.safetensors", asked)


def test_a_range_past_the_end_cannot_be_satisfied(server: HubServer, api: HfApi) -> None:
    push(api, FILES)
    url = hf_hub_url(REPO, "model.safetensors", endpoint=server.url)
    answer = get_session().get(url, headers={"Range": "bytes=10000-"})
    assert (answer.status_code, answer.headers["Content-Range"]) == (416, "bytes */10000")


def test_threads_download_at_once(server: HubServer, api: HfApi, tmp_path: Path) -> None:
    files = {f"{n}.bin": random.Random(n).randbytes(200_000) for n in range(8)}
    push(api, files)

    def load(thread: int) -> dict[str, bytes]:
        folder = Path(api.snapshot_download(REPO, cache_dir=tmp_path / str(thread)))
        return {path.name: path.read_bytes() for path in folder.glob("*.bin")}

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(load, range(4))) == [files] * 4
    assert server.count(DOWNLOAD + ".*bin") == 4 * len(files)


def test_threads_that_share_a_cache_download_once(server: HubServer, api: HfApi, cache: Path) -> None:
    push(api, FILES)
    with ThreadPoolExecutor(6) as threads:
        assert list(threads.map(lambda _: fetch(api, cache), range(6))) == [WEIGHTS] * 6
    assert server.count(DOWNLOAD) == 1


# Names and history


def test_tags_come_and_go(api: HfApi) -> None:
    commit = push(api, FILES)
    api.create_tag(REPO, tag="v1")
    api.create_tag(REPO, tag="v1", exist_ok=True)
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_tag(REPO, tag="v1")
    with pytest.raises(RevisionNotFoundError):
        api.create_tag(REPO, tag="v2", revision="none")
    (tag,) = api.list_repo_refs(REPO).tags
    assert (tag.name, tag.ref, tag.target_commit) == ("v1", "refs/tags/v1", commit.oid)
    api.delete_tag(REPO, tag="v1")
    assert api.list_repo_refs(REPO).tags == []
    with pytest.raises(RevisionNotFoundError):
        api.delete_tag(REPO, tag="v1")


def test_branches_come_and_go(api: HfApi) -> None:
    first = push(api, FILES)
    second = push(api, {"config.json": b"{}"})
    api.create_branch(REPO, branch="old", revision=first.oid)
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_branch(REPO, branch="old")
    branches = {b.name: b.target_commit for b in api.list_repo_refs(REPO).branches}
    assert branches == {"main": second.oid, "old": first.oid}
    api.delete_branch(REPO, branch="old")
    assert not api.revision_exists(REPO, "old")
    assert api.revision_exists(REPO, first.oid)
    with pytest.raises(HfHubHTTPError, match="403"):
        api.delete_branch(REPO, branch="main")


def test_the_history_is_told_newest_first(api: HfApi) -> None:
    first = push(api, FILES)
    second = push(api, {"config.json": b"{}"}, commit_description="Why")
    newest, middle, oldest = api.list_repo_commits(REPO)
    assert (newest.commit_id, newest.title, newest.message) == (second.oid, "Push", "Why")
    assert (middle.commit_id, oldest.title) == (first.oid, "initial commit")
    assert newest.created_at > middle.created_at > oldest.created_at
    assert api.list_repo_commits(REPO, revision=first.oid) == [middle, oldest]


def test_a_tree_holds_files_and_folders(api: HfApi) -> None:
    push(api, FILES | {"a/b/1": b"1", "a/2": b"2"})

    def listed(folder: str | None = None, recursive: bool = False) -> set[str]:
        return {entry.path for entry in api.list_repo_tree(REPO, folder, recursive=recursive)}

    assert listed() == {".gitattributes", "a", *FILES}
    assert listed("a") == {"a/2", "a/b"}
    assert listed("a", recursive=True) == {"a/2", "a/b", "a/b/1"}
    assert listed(recursive=True) == {".gitattributes", "a", "a/2", "a/b", "a/b/1", *FILES}
    for missing in ("none", "config.json"):
        with pytest.raises(EntryNotFoundError):
            listed(missing)


def test_paths_are_described_and_missing_ones_left_out(api: HfApi, stranger: HfApi) -> None:
    push(api, FILES | {"a/1": b"1"})
    described: Any = stranger.get_paths_info(REPO, ["model.safetensors", "none", "a"])
    weights, folder = described
    assert (weights.size, weights.lfs.sha256) == (len(WEIGHTS), sha256(WEIGHTS))
    assert folder.path == "a"
    assert not hasattr(folder, "size")


# Faults


def test_a_broken_download_resumes_where_the_last_chunk_ended(server: HubServer, api: HfApi, cache: Path) -> None:
    content = random.Random(2).randbytes(CHUNK + 1000)
    push(api, {"model.safetensors": content})
    server.cut_next("model.safetensors", after=CHUNK + 500)
    assert sha256(fetch(api, cache)) == sha256(content)
    ranges = [seen.range for seen in server.requests if seen.method == "GET"]
    assert ranges == [None, f"bytes={CHUNK}-"]


def test_a_cut_closes_the_connection(server: HubServer, api: HfApi) -> None:
    push(api, FILES)
    server.cut_next("model.safetensors", after=10)
    url = hf_hub_url(REPO, "model.safetensors", endpoint=server.url)
    with pytest.raises(Exception, match=r"received 10 bytes, expected 10000"):
        get_session().get(url, timeout=5)


def test_an_interrupted_download_leaves_nothing_and_can_be_repeated(server: HubServer, api: HfApi, cache: Path) -> None:
    push(api, FILES)
    server.cut_next("model.safetensors", after=5000)
    server.fail_next(DOWNLOAD + ".*safetensors")
    with pytest.raises(HfHubHTTPError, match="503"):
        fetch(api, cache)
    assert try_to_load_from_cache(REPO, "model.safetensors", cache_dir=cache) is None
    assert fetch(api, cache) == WEIGHTS


def test_a_failure_happens_as_often_as_asked_and_only_to_matches(server: HubServer, api: HfApi) -> None:
    push(api, FILES)
    server.fail_next(f"GET /api/models/{REPO}$", status=500, times=2)
    assert api.list_repo_refs(REPO).branches
    for _ in range(2):
        with pytest.raises(HfHubHTTPError, match="500"):
            api.model_info(REPO)
    assert api.model_info(REPO).id == REPO


def test_a_commit_that_never_arrives_changes_nothing(server: HubServer, api: HfApi) -> None:
    api.create_repo(REPO)
    server.drop_next("POST .*/commit/")
    with pytest.raises(Exception, match="disconnected"):
        push(api, FILES)
    assert stored(server) == {}
    server.requests.clear()
    push(api, FILES)
    assert stored(server) == FILES
    # The large file had arrived before the commit was lost.
    assert server.count("PUT") == 0


def test_a_large_file_that_arrives_damaged_is_refused(server: HubServer) -> None:
    url = f"{server.url}/bucket/{sha256(WEIGHTS)}"
    assert get_session().put(url, content=WEIGHTS[:-1]).status_code == 400
    assert server.hub.bucket == {}


def test_a_body_may_come_in_chunks(server: HubServer) -> None:
    url = f"{server.url}/bucket/{sha256(WEIGHTS)}"
    assert get_session().put(url, content=iter([WEIGHTS[:6000], WEIGHTS[6000:]])).status_code == 200
    assert server.hub.bucket == {sha256(WEIGHTS): WEIGHTS}


def test_a_commit_of_a_large_file_that_never_came_is_refused(server: HubServer, api: HfApi) -> None:
    api.create_repo(REPO)
    large_file = {"path": "model.safetensors", "oid": sha256(WEIGHTS), "size": len(WEIGHTS)}
    lines = [
        {"key": "header", "value": {"summary": "Push"}},
        {"key": "lfsFile", "value": large_file},
    ]
    answer = get_session().post(
        f"{server.url}/api/models/{REPO}/commit/main",
        headers={"Authorization": f"Bearer {server.token}"},
        content="\n".join(map(json.dumps, lines)),
    )
    assert (answer.status_code, stored(server)) == (400, {})


def test_a_request_that_ends_halfway_is_not_taken_for_a_whole_one(server: HubServer, api: HfApi) -> None:
    api.create_repo(REPO)
    # Taken alone, this line is a valid commit without changes.
    arrived = b'{"key": "header", "value": {"summary": "Half"}}'
    head = f"POST /api/models/{REPO}/commit/main HTTP/1.1\r\nAuthorization: Bearer {server.token}"
    with socket.create_connection(("127.0.0.1", int(server.url.rsplit(":")[-1]))) as client:
        client.sendall(f"{head}\r\nContent-Length: 100\r\n\r\n".encode() + arrived)
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""
    assert [commit.title for commit in api.list_repo_commits(REPO)] == ["initial commit"]


@pytest.mark.parametrize("outage", [HubServer.down, HubServer.refusing])
def test_what_is_cached_survives_an_outage(
    server: HubServer,
    api: HfApi,
    cache: Path,
    outage: Callable[[HubServer], AbstractContextManager[None]],
) -> None:
    push(api, FILES)
    fetch(api, cache)
    with outage(server):
        assert fetch(api, cache) == WEIGHTS
        assert fetch(api, cache, local_files_only=True) == WEIGHTS
        with pytest.raises(LocalEntryNotFoundError):
            fetch(api, cache, "config.json", local_files_only=True)
        with pytest.raises(Exception, match=r"503|refused"):
            api.model_info(REPO)
    assert fetch(api, cache, "config.json") == CONFIG


def test_an_outage_comes_before_other_faults_and_leaves_them(server: HubServer, api: HfApi) -> None:
    api.create_repo(REPO)
    server.fail_next("GET", status=500)
    with server.down(), pytest.raises(HfHubHTTPError, match="503"):
        api.model_info(REPO)
    with pytest.raises(HfHubHTTPError, match="500"):
        api.model_info(REPO)
    assert api.model_info(REPO).id == REPO


def test_an_outage_is_seen_in_the_log_but_a_refusal_is_not(server: HubServer, api: HfApi, cache: Path) -> None:
    push(api, FILES)
    fetch(api, cache)
    head = ("HEAD", f"/{REPO}/resolve/main/model.safetensors", None)
    server.requests.clear()
    with server.down():
        fetch(api, cache)
    assert server.requests == [head]
    with server.refusing():
        fetch(api, cache)
    fetch(api, cache, local_files_only=True)
    assert server.requests == [head]


# Other processes

DOWNLOAD_AND_NAME = f"""
from pathlib import Path
from huggingface_hub import snapshot_download, upload_file, whoami
print(whoami()["name"])
print(snapshot_download("{REPO}"))
upload_file(path_or_fileobj=bytes(5000), path_in_repo="zeros", repo_id="{REPO}")
"""


def test_the_environment_leads_a_subprocess_here(server: HubServer, api: HfApi, tmp_path: Path) -> None:
    push(api, FILES)
    environment = {**os.environ, **server.environment(tmp_path)}
    command = [sys.executable, "-c", DOWNLOAD_AND_NAME]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    name, folder = run.stdout.split()
    assert name == "tester"
    assert Path(folder).is_relative_to(tmp_path)
    assert (Path(folder) / "model.safetensors").read_bytes() == WEIGHTS
    assert stored(server) == FILES | {"zeros": bytes(5000)}


def test_two_servers_know_nothing_of_each_other(server: HubServer, api: HfApi) -> None:
    push(api, FILES)
    with HubServer(user="someone", token="hf_someone") as other:
        elsewhere = HfApi(endpoint=other.url, token=other.token)
        assert other.url != server.url
        assert elsewhere.whoami()["name"] == "someone"
        assert not elsewhere.repo_exists(REPO)
