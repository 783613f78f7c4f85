"""A Hugging Face Hub in memory that speaks HTTP, so that tests drive the real client, unmodified.

    with HubServer() as server:
        api = HfApi(endpoint=server.url, token=server.token)
        api.create_repo("zoo/vae")

The client reads HF_ENDPOINT and HF_HUB_DISABLE_XET when it is imported: hand a subprocess
`server.environment(cache_dir)`; in process pass `endpoint=` and set
`huggingface_hub.constants.HF_HUB_DISABLE_XET` to True.
"""

import base64
import hashlib
import json
import math
import re
import sys
import threading
from collections import ChainMap
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from email.message import Message
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain, count
from pathlib import Path, PurePosixPath
from socket import SHUT_RDWR, socket
from typing import Any, NamedTuple, TypeVar
from urllib.parse import parse_qs, unquote, urlencode

import yaml

Json = dict[str, Any]
Query = Mapping[str, list[str]]


# What the Hub stores: repositories of commits of files.


def git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass(frozen=True)
class Blob:
    """A file's content, held by git or, behind a pointer in git, by large file storage."""

    content: bytes
    lfs: bool = False

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def pointer(self) -> bytes:
        lines = ("version https://git-lfs.github.com/spec/v1", f"oid sha256:{self.sha256}")
        return "\n".join((*lines, f"size {len(self.content)}\n")).encode()

    @cached_property
    def oid(self) -> str:
        return git_oid(self.pointer if self.lfs else self.content)

    @property
    def etag(self) -> str:
        """The hash by which the client recognises this content."""
        return self.sha256 if self.lfs else self.oid


Files = Mapping[str, Blob]

# Like the real Hub's first commit: no repository is ever empty.
FIRST_FILES = {".gitattributes": Blob(b"*.safetensors -text\n")}


@dataclass(frozen=True)
class Commit:
    title: str
    description: str
    date: str
    files: Files
    parent: "Commit | None" = None

    @cached_property
    def oid(self) -> str:
        etags = sorted((path, blob.etag) for path, blob in self.files.items())
        parent = self.parent and self.parent.oid
        identity = json.dumps([parent, self.title, self.description, self.date, etags])
        return hashlib.sha1(identity.encode()).hexdigest()

    def history(self) -> Iterator["Commit"]:
        """This commit, its parent, and so on to the first."""
        commit: Commit | None = self
        while commit is not None:
            yield commit
            commit = commit.parent


@dataclass
class Repository:
    """Commits by id and by ref (`refs/heads/main`), verified large files by SHA-256."""

    kind: str
    id: str
    private: bool
    first: Commit
    refs: dict[str, Commit] = field(default_factory=dict)
    commits: dict[str, Commit] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.advance("refs/heads/main", self.first)

    @property
    def path(self) -> str:
        return self.id if self.kind == "models" else f"{self.kind}/{self.id}"

    def at(self, revision: str) -> Commit:
        """The commit that a branch, a tag, a full ref or a commit id names; 404 without one."""
        known = ChainMap(self.refs, self.commits)
        for name in (f"refs/heads/{revision}", f"refs/tags/{revision}", revision):
            if name in known:
                return known[name]
        raise not_found("RevisionNotFound", f"Invalid rev id: {revision}")

    def advance(self, ref: str, commit: Commit) -> None:
        self.refs[ref] = self.commits[commit.oid] = commit

    def refs_under(self, folder: str) -> dict[str, Commit]:
        return {ref: commit for ref, commit in self.refs.items() if ref.startswith(folder)}


# What travels: requests, answers, refusals.


@dataclass(frozen=True)
class Request:
    """`target` is percent-encoded, as sent: a branch name may hold a slash."""

    method: str
    target: str
    query: Query
    headers: Message
    body: bytes

    @property
    def path(self) -> str:
        return unquote(self.target)

    @property
    def line(self) -> str:
        """What the patterns of faults and counts are searched in: `GET /zoo/vae/resolve/…`."""
        return f"{self.method} {self.path}"

    @property
    def origin(self) -> str:
        return f"http://{self.headers['Host']}"

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Response:
    """With `cut_after`, the connection breaks after that many bytes of the body."""

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    cut_after: int | None = None


Headers = Mapping[str, str]
NO_HEADERS: Headers = {}


def as_json(value: Any, status: int = 200, headers: Headers = NO_HEADERS) -> Response:
    # YAML metadata may hold dates, for which JSON has no type.
    body = json.dumps(value, default=str).encode()
    return Response(body, status, {"Content-Type": "application/json", **headers})


def error(status: int, message: str, headers: Headers = NO_HEADERS) -> Response:
    return as_json({"error": message}, status, {"X-Error-Message": message, **headers})


class Refused(Exception):
    def __init__(self, response: Response) -> None:
        super().__init__(response)
        self.response = response


def not_found(code: str, message: str, headers: Headers = NO_HEADERS) -> Refused:
    """The client raises by `X-Error-Code`: RepoNotFound, RevisionNotFound or EntryNotFound."""
    return Refused(error(404, message, {"X-Error-Code": code, **headers}))


def unauthorised(about_repository: bool) -> Refused:
    """To a stranger, a private repository and a missing one look the same."""
    # Over https the client derives this code from the address; over http it must be sent.
    headers = {"X-Error-Code": "RepoNotFound"} if about_repository else NO_HEADERS
    return Refused(error(401, "Invalid username or password.", headers))


def entry_not_found(path: str, commit: Commit) -> Refused:
    # With the commit, the client remembers that this file does not exist.
    return not_found("EntryNotFound", f"{path} does not exist", {"X-Repo-Commit": commit.oid})


RANGE = re.compile(r"bytes=(\d*)-(\d*)")


def bounds(first: str, last: str, size: int) -> tuple[int, int]:
    """Start and end (exclusive) of `first-last`, of `first-`, or of the suffix `-last`."""
    if not first:
        return max(0, size - int(last)), size
    return int(first), min(size, int(last) + 1) if last else size


def part_of(content: bytes, byte_range: str | None) -> Response:
    """200 with all of `content`, 206 with the part asked for, or 416 when it lies outside."""
    match = RANGE.fullmatch(byte_range or "")
    if match is None or not any(match.groups()):
        return Response(content)
    size = len(content)
    start, stop = bounds(match[1], match[2], size)
    if not start < stop:
        return error(416, "Range Not Satisfiable", {"Content-Range": f"bytes */{size}"})
    return Response(content[start:stop], 206, {"Content-Range": f"bytes {start}-{stop - 1}/{size}"})


# How the Hub describes what it stores.


def describe_file(path: str, blob: Blob) -> Json:
    entry = {"type": "file", "path": path, "oid": blob.oid, "size": len(blob.content)}
    return entry | ({"lfs": {"oid": blob.sha256, **lfs_sizes(blob)}} if blob.lfs else {})


def describe_sibling(path: str, blob: Blob) -> Json:
    sibling = {"rfilename": path, "blobId": blob.oid, "size": len(blob.content)}
    return sibling | ({"lfs": {"sha256": blob.sha256, **lfs_sizes(blob)}} if blob.lfs else {})


def lfs_sizes(blob: Blob) -> Json:
    return {"size": len(blob.content), "pointerSize": len(blob.pointer)}


def describe_folder(path: str, files: Files) -> Json:
    inside = sorted((name, blob.oid) for name, blob in files.items() if name.startswith(f"{path}/"))
    return {"type": "directory", "path": path, "oid": git_oid(repr(inside).encode()), "size": 0}


def describe_tree(files: Files) -> dict[str, Json]:
    """Every file, and every folder that holds one, by path."""
    folders = {str(parent) for path in files for parent in PurePosixPath(path).parents} - {"."}
    entries = {path: describe_folder(path, files) for path in folders}
    entries |= {path: describe_file(path, blob) for path, blob in files.items()}
    return dict(sorted(entries.items()))


def describe_refs(repository: Repository, folder: str) -> list[Json]:
    refs = repository.refs_under(folder).items()
    return [{"name": ref.removeprefix(folder), "ref": ref, "targetCommit": commit.oid} for ref, commit in refs]


def describe_commit(commit: Commit, user: str) -> Json:
    return {
        "id": commit.oid,
        "title": commit.title,
        "message": commit.description,
        "date": commit.date,
        "authors": [{"user": user}],
    }


def describe_repository(repository: Repository, commit: Commit, blobs: bool) -> Json:
    card = card_of(commit.files)
    siblings = [describe_sibling(path, blob) for path, blob in sorted(commit.files.items())]
    return {
        "id": repository.id,
        "author": repository.id.split("/")[0],
        "sha": commit.oid,
        "private": repository.private,
        "gated": False,
        "disabled": False,
        "createdAt": repository.first.date,
        "lastModified": commit.date,
        "downloads": 0,
        "likes": 0,
        "tags": tags_of(card, commit.files),
        "library_name": card.get("library_name"),
        "pipeline_tag": card.get("pipeline_tag"),
        "cardData": card,
        "siblings": siblings if blobs else [{"rfilename": s["rfilename"]} for s in siblings],
    }


BRIEF = ("id", "createdAt", "downloads", "library_name", "likes", "pipeline_tag", "private", "tags")
FULL = ("author", "disabled", "gated", "lastModified", "sha", "siblings")
ON_REQUEST = {"full": FULL, "cardData": ("cardData",)}


def listed_fields(query: Query) -> list[str]:
    """The fields of a repository in a listing, which leaves most out unless asked."""
    if "expand" in query:
        return ["id", *query["expand"]]
    return [*BRIEF, *chain(*(fields for option, fields in ON_REQUEST.items() if option in query))]


def only(fields: Iterable[str], info: Json) -> Json:
    return {name: info[name] for name in fields if name in info}


CRITERIA: dict[str, Callable[[Json, str], bool]] = {
    "filter": lambda info, tag: tag in info["tags"],
    "author": lambda info, author: author == info["author"],
    "search": lambda info, words: words.lower() in info["id"].lower(),
    "pipeline_tag": lambda info, task: task == info["pipeline_tag"],
}


def matches(info: Json, query: Query) -> bool:
    asked = query.keys() & CRITERIA.keys()
    return all(CRITERIA[name](info, value) for name in asked for value in query[name])


# Model cards: the YAML block on top of README.md, from which the Hub derives tags.

FRONT_MATTER = re.compile(r"\A---[ \t]*\r?\n(.*?)^---[ \t]*$", re.DOTALL | re.MULTILINE)


def read_card(readme: str) -> Json:
    """The card's metadata, empty without a YAML block; ValueError says what is wrong with one."""
    block = FRONT_MATTER.match(readme)
    try:
        metadata = yaml.safe_load(block[1]) if block else None
    except yaml.YAMLError as problem:
        raise ValueError(f"the YAML block of README.md does not parse: {problem}") from problem
    if not isinstance(metadata, dict | None):
        raise ValueError("the YAML block of README.md must be a mapping")
    return metadata or {}


def card_of(files: Files) -> Json:
    try:
        return read_card(files["README.md"].content.decode()) if "README.md" in files else {}
    except ValueError:
        return {}


def review_card(readme: str) -> tuple[list[str], list[str]]:
    """Errors, then warnings."""
    try:
        empty = not read_card(readme)
    except ValueError as problem:
        return [str(problem)], []
    return [], ["empty or missing yaml metadata in repo card"] if empty else []


def messages(texts: list[str]) -> list[Json]:
    return [{"message": text} for text in texts]


TAG_PREFIXES = {
    "library_name": "",
    "pipeline_tag": "",
    "tags": "",
    "language": "",
    "datasets": "dataset:",
    "base_model": "base_model:",
    "license": "license:",
}


def tags_of(card: Json, files: Files) -> list[str]:
    tags = []
    for name, prefix in TAG_PREFIXES.items():
        tags += [f"{prefix}{value}" for value in values(card.get(name))]
    if any(path.endswith(".safetensors") for path in files):
        tags.append("safetensors")
    return list(dict.fromkeys([*tags, "region:us"]))


def values(one_or_many: Any) -> list[Any]:
    if isinstance(one_or_many, list):
        return one_or_many
    return [] if one_or_many is None else [one_or_many]


# The operations of a commit: each changes `files` by what one line of the request says.


def put_file(files: dict[str, Blob], value: Json, repository: Repository) -> None:
    files[value["path"]] = Blob(base64.b64decode(value["content"]))


def put_large_file(files: dict[str, Blob], value: Json, repository: Repository) -> None:
    if value["oid"] not in repository.objects:
        raise Refused(error(400, f"the large file of {value['path']} was never uploaded"))
    files[value["path"]] = Blob(repository.objects[value["oid"]], lfs=True)


def delete_file(files: dict[str, Blob], value: Json, repository: Repository) -> None:
    if files.pop(value["path"], None) is None:
        raise not_found("EntryNotFound", f"A file with this name doesn't exist: {value['path']}")


def delete_folder(files: dict[str, Blob], value: Json, repository: Repository) -> None:
    folder = value["path"].rstrip("/") + "/"
    for path in [path for path in files if path.startswith(folder)]:
        del files[path]


OPERATIONS: dict[str, Callable[[dict[str, Blob], Json, Repository], None]] = {
    "file": put_file,
    "lfsFile": put_large_file,
    "deletedFile": delete_file,
    "deletedFolder": delete_folder,
}


# The routes.


class Route(NamedTuple):
    method: str
    pattern: re.Pattern[str]
    handler: Callable[..., Response]
    signed: bool


ROUTES: list[Route] = []
HandlerT = TypeVar("HandlerT", bound=Callable[..., Response])


def route(method: str, pattern: str, signed: bool | None = None) -> Callable[[HandlerT], HandlerT]:
    """Enter a method of `Hub` in the table; the pattern's groups become its arguments.

    `kind` and `id` become a `repository`. A `signed` request needs a token: by default all but GET.
    """

    def register(handler: HandlerT) -> HandlerT:
        needs_token = method != "GET" if signed is None else signed
        ROUTES.append(Route(method, re.compile(pattern), handler, needs_token))
        return handler

    return register


LISTING = "/api/(?P<kind>models|datasets|spaces)"
API = f"{LISTING}/(?P<id>[^/]+/[^/]+)"
PAGES = "/(?:(?P<kind>datasets|spaces)/)?(?P<id>[^/]+/[^/]+)"
REVISION = "(?P<revision>[^/]+)"


def next_page(request: Request, start: int) -> Headers:
    query = urlencode({**request.query, "cursor": [str(start)]}, doseq=True)
    return {"Link": f'<{request.origin}{request.target}?{query}>; rel="next"'}


class Hub:
    """The answers of the Hub to a user with the token `token`, and to strangers."""

    def __init__(self, user: str, token: str, lfs_threshold: int, page: int) -> None:
        self.user = user
        self.token = token
        self.lfs_threshold = lfs_threshold
        self.page = page
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.bucket: dict[str, bytes] = {}
        self._ticks = count()

    def answer(self, request: Request) -> Response:
        try:
            return self._dispatch(request)
        except Refused as refused:
            return refused.response

    def _dispatch(self, request: Request) -> Response:
        entry, parts = self._find_route(request)
        self._check_token(request, entry)
        if "id" in parts:
            key = parts.pop("kind", "models"), parts.pop("id")
            parts["repository"] = self._find_repository(request, key)
        return entry.handler(self, request, **parts)

    def _find_route(self, request: Request) -> tuple[Route, dict[str, Any]]:
        method = "GET" if request.method == "HEAD" else request.method
        for entry in ROUTES:
            match = entry.pattern.fullmatch(request.target)
            if entry.method == method and match:
                return entry, {k: unquote(v) for k, v in match.groupdict().items() if v is not None}
        raise Refused(error(404, f"this server has no answer to {request.line}"))

    def _check_token(self, request: Request, entry: Route) -> None:
        if "Authorization" in request.headers and not self._is_user(request):
            raise Refused(error(401, "Invalid credentials in Authorization header"))
        if entry.signed and not self._is_user(request):
            raise unauthorised(about_repository="id" in entry.pattern.groupindex)

    def _is_user(self, request: Request) -> bool:
        return request.headers.get("Authorization") == f"Bearer {self.token}"

    def _find_repository(self, request: Request, key: tuple[str, str]) -> Repository:
        repository = self.repositories.get(key)
        if not self._is_user(request) and (repository is None or repository.private):
            raise unauthorised(about_repository=True)
        if repository is None:
            raise not_found("RepoNotFound", "Repository not found")
        return repository

    def _now(self) -> str:
        """Each commit is a second after the last: dates and ids do not depend on the clock."""
        date = datetime(2026, 1, 1) + timedelta(seconds=next(self._ticks))
        return date.isoformat(timespec="milliseconds") + "Z"

    # Users and repositories.

    @route("GET", "/api/whoami-v2", signed=True)
    def whoami(self, request: Request) -> Response:
        auth = {"accessToken": {"displayName": "test", "role": "write"}}
        return as_json({"type": "user", "name": self.user, "orgs": [], "auth": auth})

    @route("POST", "/api/repos/create")
    def create_repository(self, request: Request) -> Response:
        key = self._key(request.json())
        status = 409 if key in self.repositories else 200
        if status == 200:
            private = request.json().get("visibility") == "private"
            first = Commit("initial commit", "", self._now(), FIRST_FILES)
            self.repositories[key] = Repository(*key, private, first)
        # `exist_ok` takes the address from the refusal.
        return as_json({"url": f"{request.origin}/{self.repositories[key].path}"}, status)

    @route("DELETE", "/api/repos/delete")
    def delete_repository(self, request: Request) -> Response:
        key = self._key(request.json())
        self._find_repository(request, key)
        del self.repositories[key]
        return as_json({})

    def _key(self, named: Json) -> tuple[str, str]:
        namespace = named.get("organization") or self.user
        return f"{named.get('type') or 'model'}s", f"{namespace}/{named['name']}"

    @route("GET", LISTING)
    def list_repositories(self, request: Request, kind: str) -> Response:
        seen = [r for r in self.repositories.values() if self._is_user(request) or not r.private]
        infos = [describe_repository(r, r.at("main"), blobs=False) for r in seen if r.kind == kind]
        found = [info for info in infos if matches(info, request.query)]
        for key in request.query.get("sort", ()):
            found.sort(key=lambda info: info[key], reverse=True)
        start, size = (
            int(request.query.get(key, [str(usual)])[0]) for key, usual in (("cursor", 0), ("limit", self.page))
        )
        fields = listed_fields(request.query)
        page = [only(fields, info) for info in found[start : start + size]]
        return as_json(page, headers=next_page(request, start + size) if start + size < len(found) else NO_HEADERS)

    @route("GET", f"{API}(?:/revision/{REVISION})?")
    def repository_info(self, request: Request, repository: Repository, revision: str = "main") -> Response:
        blobs = "blobs" in request.query
        info = describe_repository(repository, repository.at(revision), blobs)
        fields = listed_fields(request.query) if "expand" in request.query else info
        return as_json(only(fields, info))

    @route("POST", "/api/validate-yaml", signed=False)
    def validate_card(self, request: Request) -> Response:
        errors, warnings = review_card(request.json()["content"])
        status = 400 if errors else 200
        if request.headers.get("Accept") == "text/plain":
            return Response("\n".join(f"- Error: {message}" for message in errors).encode(), status)
        return as_json({"errors": messages(errors), "warnings": messages(warnings)}, status)

    # Uploads: preupload, then large files, then the commit.

    @route("POST", f"{API}/preupload/{REVISION}")
    def preupload(self, request: Request, repository: Repository, revision: str) -> Response:
        stored = repository.at(revision).files
        plans = [self._upload_plan(file, stored) for file in request.json()["files"]]
        return as_json({"files": plans})

    def _upload_plan(self, file: Json, stored: Files) -> Json:
        path = file["path"]
        mode = "lfs" if file["size"] > self.lfs_threshold else "regular"
        # The client leaves out a file whose own hash is this one.
        oid = stored[path].etag if path in stored else None
        return {"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid}

    @route("POST", rf"{PAGES}\.git/info/lfs/objects/batch")
    def lfs_batch(self, request: Request, repository: Repository) -> Response:
        large_files = f"{repository.path}.git/info/lfs/objects"
        for asked in (objects := request.json()["objects"]):
            # Without actions the client takes the object as present, and sends nothing.
            if asked["oid"] not in repository.objects:
                asked["actions"] = self._lfs_actions(request.origin, large_files, asked["oid"])
        return as_json({"transfer": "basic", "objects": objects})

    def _lfs_actions(self, origin: str, large_files: str, oid: str) -> Json:
        upload, verify = f"{origin}/bucket/{oid}", f"{origin}/{large_files}/{oid}/verify"
        return {"upload": {"href": upload}, "verify": {"href": verify}}

    # The client sends no token here: the real Hub hands out the address of a storage bucket.
    @route("PUT", "/bucket/(?P<oid>[0-9a-f]{64})", signed=False)
    def put_object(self, request: Request, oid: str) -> Response:
        if hashlib.sha256(request.body).hexdigest() != oid:
            return error(400, f"the bytes sent do not hash to {oid}")
        self.bucket[oid] = request.body
        return Response()

    @route("POST", rf"{PAGES}\.git/info/lfs/objects/(?P<oid>[0-9a-f]{{64}})/verify")
    def verify_object(self, request: Request, repository: Repository, oid: str) -> Response:
        if len(self.bucket.get(oid, b"")) != request.json()["size"]:
            return error(404, f"{oid} is missing or has another size")
        repository.objects[oid] = self.bucket[oid]
        return as_json({})

    @route("POST", f"{API}/commit/{REVISION}")
    def commit(self, request: Request, repository: Repository, revision: str) -> Response:
        header, *operations = [json.loads(line) for line in request.body.splitlines()]
        ref = self._branch(repository, revision)
        if not repository.refs[ref].oid.startswith(header["value"].get("parentCommit", "")):
            return error(412, "A commit has happened since. Please refresh and try again.")
        commit = self._next_commit(repository, ref, header["value"], operations)
        if "create_pr" in request.query:
            return self._open_pull_request(request, repository, commit)
        repository.advance(ref, commit)
        return as_json(self._committed(request, repository, commit))

    def _branch(self, repository: Repository, name: str) -> str:
        ref = name if name.startswith("refs/") else f"refs/heads/{name}"
        if ref not in repository.refs:
            raise not_found("RevisionNotFound", f"{name} is not a branch")
        return ref

    def _next_commit(self, repository: Repository, ref: str, header: Json, operations: list[Json]) -> Commit:
        parent = repository.refs[ref]
        files = dict(parent.files)
        for operation in operations:
            OPERATIONS[operation["key"]](files, operation["value"], repository)
        return Commit(header["summary"], header.get("description", ""), self._now(), files, parent)

    def _committed(self, request: Request, repository: Repository, commit: Commit) -> Json:
        url = f"{request.origin}/{repository.path}/commit/{commit.oid}"
        return {"commitOid": commit.oid, "commitUrl": url}

    def _open_pull_request(self, request: Request, repository: Repository, commit: Commit) -> Response:
        number = len(repository.refs_under("refs/pr/")) + 1
        repository.advance(f"refs/pr/{number}", commit)
        url = f"{request.origin}/{repository.path}/discussions/{number}"
        return as_json(self._committed(request, repository, commit) | {"pullRequestUrl": url})

    # Reading: files, trees, history.

    @route("GET", f"{PAGES}/resolve/{REVISION}/(?P<path>.+)")
    def resolve(self, request: Request, repository: Repository, revision: str, path: str) -> Response:
        commit = repository.at(revision)
        blob = commit.files.get(path)
        if blob is None:
            raise entry_not_found(path, commit)
        answer = part_of(blob.content, request.headers.get("Range"))
        headers = {"X-Repo-Commit": commit.oid, "ETag": f'"{blob.etag}"', "Accept-Ranges": "bytes"}
        if blob.lfs:
            headers |= {"X-Linked-ETag": headers["ETag"], "X-Linked-Size": str(len(blob.content))}
        return replace(answer, headers={**headers, **answer.headers})

    @route("GET", f"{API}/tree/{REVISION}(?:/(?P<path>.+))?")
    def tree(self, request: Request, repository: Repository, revision: str, path: str = ".") -> Response:
        commit = repository.at(revision)
        entries = describe_tree(commit.files)
        if path != "." and entries.get(path, {}).get("type") != "directory":
            raise entry_not_found(path, commit)
        deep = request.query.get("recursive") == ["true"]
        return as_json([entries[name] for name in entries if lies_in(path, name, deep)])

    @route("POST", f"{API}/paths-info/{REVISION}", signed=False)
    def paths_info(self, request: Request, repository: Repository, revision: str) -> Response:
        entries = describe_tree(repository.at(revision).files)
        asked = parse_qs(request.body.decode()).get("paths", [])
        return as_json([entries[path] for path in asked if path in entries])

    @route("GET", f"{API}/commits/{REVISION}")
    def commits(self, request: Request, repository: Repository, revision: str) -> Response:
        history = repository.at(revision).history()
        return as_json([describe_commit(commit, self.user) for commit in history])

    @route("GET", f"{API}/refs")
    def refs(self, request: Request, repository: Repository) -> Response:
        folders = {"branches": "refs/heads/", "tags": "refs/tags/", "pullRequests": "refs/pr/"}
        named = {kind: describe_refs(repository, folder) for kind, folder in folders.items()}
        return as_json({"converts": [], **named})

    # Names for commits.

    @route("POST", f"{API}/tag/{REVISION}")
    def create_tag(self, request: Request, repository: Repository, revision: str) -> Response:
        return self._create_ref(repository, f"refs/tags/{request.json()['tag']}", revision)

    @route("DELETE", f"{API}/tag/(?P<tag>[^/]+)")
    def delete_tag(self, request: Request, repository: Repository, tag: str) -> Response:
        return self._delete_ref(repository, f"refs/tags/{tag}")

    @route("POST", f"{API}/branch/(?P<branch>[^/]+)")
    def create_branch(self, request: Request, repository: Repository, branch: str) -> Response:
        start = request.json().get("startingPoint", "main")
        return self._create_ref(repository, f"refs/heads/{branch}", start)

    @route("DELETE", f"{API}/branch/(?P<branch>[^/]+)")
    def delete_branch(self, request: Request, repository: Repository, branch: str) -> Response:
        if branch == "main":
            return error(403, "Cannot delete the default branch")
        return self._delete_ref(repository, f"refs/heads/{branch}")

    def _create_ref(self, repository: Repository, ref: str, revision: str) -> Response:
        commit = repository.at(revision)
        if ref in repository.refs:
            return error(409, f"Reference {ref} already exists")
        repository.refs[ref] = commit
        return as_json({})

    def _delete_ref(self, repository: Repository, ref: str) -> Response:
        if repository.refs.pop(ref, None) is None:
            raise not_found("RevisionNotFound", f"Reference {ref} does not exist")
        return as_json({})


def lies_in(folder: str, path: str, deep: bool) -> bool:
    parents = [str(parent) for parent in PurePosixPath(path).parents]
    return folder in (parents if deep else parents[:1])


# What a test can make go wrong.


@dataclass(eq=False)
class Fault:
    """Befalls the next `times` requests whose `METHOD /path` holds a match of `pattern`."""

    pattern: str
    times: float

    def concerns(self, request: Request) -> bool:
        return self.times > 0 and re.search(self.pattern, request.line) is not None

    def befall(self, answer: Callable[[], Response]) -> Response:
        raise NotImplementedError


@dataclass(eq=False)
class Failure(Fault):
    status: int

    def befall(self, answer: Callable[[], Response]) -> Response:
        return error(self.status, f"failed with {self.status}, as the test asked")


@dataclass(eq=False)
class Drop(Fault):
    def befall(self, answer: Callable[[], Response]) -> Response:
        raise ConnectionAbortedError("dropped, as the test asked")


@dataclass(eq=False)
class Cut(Fault):
    after: int

    def concerns(self, request: Request) -> bool:
        # A HEAD has no body to cut: it must not use the fault up.
        return request.method == "GET" and super().concerns(request)

    def befall(self, answer: Callable[[], Response]) -> Response:
        return replace(answer(), cut_after=self.after)


# The server.


class Connection(BaseHTTPRequestHandler):
    """HTTP/1.1 on one socket: reads requests, writes answers."""

    protocol_version = "HTTP/1.1"
    # Headers and body are two writes; together with delayed ACKs that would cost 40 ms each.
    disable_nagle_algorithm = True
    server: "Listener"

    def exchange(self) -> None:
        target, _, query = self.path.partition("?")
        request = Request(self.command, target, parse_qs(query), self.headers, self._body())
        self._send(self.server.owner.respond(request))

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = exchange  # noqa: N815

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            return b"".join(iter(self._chunk, b""))
        return self._read(int(self.headers.get("Content-Length", 0)))

    def _chunk(self) -> bytes:
        size = int(self.rfile.readline() or b"0", 16)
        # Each chunk ends in a line break, the last and empty one too.
        return self._read(size + 2)[:size]

    def _read(self, size: int) -> bytes:
        received = self.rfile.read(size)
        # Half a request must never be taken for a whole one.
        if len(received) < size:
            raise ConnectionAbortedError("the client left in the middle of its request")
        return received

    def _send(self, response: Response) -> None:
        self.send_response(response.status)
        for name, value in {**response.headers, "Content-Length": str(len(response.body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(response.body[: response.cut_after])
        self.close_connection |= response.cut_after is not None

    def log_message(self, format: str, *args: Any) -> None:
        """Silent: a test reads `HubServer.requests`."""


class Listener(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int, owner: "HubServer") -> None:
        self.owner = owner
        self.connections: set[socket] = set()
        super().__init__(("127.0.0.1", port), Connection)

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.connections.discard(request)
        super().shutdown_request(request)

    def server_close(self) -> None:
        super().server_close()
        # A client's idle connections would otherwise outlive the server.
        for connection in list(self.connections):
            with suppress(OSError):
                connection.shutdown(SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class Seen(NamedTuple):
    """A request as a test sees it; `path` without query, percent-decoded."""

    method: str
    path: str
    range: str | None


class HubServer:
    """A Hub on 127.0.0.1 for the length of a `with` block.

    Files of more than `lfs_threshold` bytes go through large file storage, others into the commit.
    A listing of repositories comes in pages of `page`.
    A `pattern` is a regular expression searched in `METHOD /path`. Faults apply in the order in
    which they were asked for, each to the requests that match it.
    """

    def __init__(
        self, *, user: str = "tester", token: str = "hf_tester", lfs_threshold: int = 4096, page: int = 1000
    ) -> None:
        self.hub = Hub(user, token, lfs_threshold, page)
        self.token = token
        self.requests: list[Seen] = []
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self._port = 0

    def __enter__(self) -> "HubServer":
        self._start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def repository(self, id: str, kind: str = "models") -> Repository:
        """What is stored, without a request."""
        return self.hub.repositories[kind, id]

    def count(self, pattern: str) -> int:
        """How many of the requests seen match."""
        return sum(re.search(pattern, f"{r.method} {r.path}") is not None for r in self.requests)

    def fail_next(self, pattern: str, status: int = 503, times: int = 1) -> None:
        """Answer with an error, without doing what was asked."""
        self._faults.append(Failure(pattern, times, status))

    def cut_next(self, pattern: str, after: int, times: int = 1) -> None:
        """Break the connection after `after` bytes of a download's body."""
        self._faults.append(Cut(pattern, times, after))

    def drop_next(self, pattern: str, times: int = 1) -> None:
        """Break the connection without an answer and without doing what was asked."""
        self._faults.append(Drop(pattern, times))

    @contextmanager
    def down(self, status: int = 503) -> Iterator[None]:
        """Answer every request with an error."""
        outage = Failure("", math.inf, status)
        self._faults.insert(0, outage)
        try:
            yield
        finally:
            self._faults.remove(outage)

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """Refuse connections, as if nothing ran here."""
        self._stop()
        try:
            yield
        finally:
            self._start()

    def environment(self, cache_dir: Path) -> dict[str, str]:
        """The variables under which a subprocess uses this server, and nothing of its user's."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_TOKEN": self.token,
            "HF_HOME": str(cache_dir),
            "HF_HUB_CACHE": str(cache_dir / "hub"),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_UPDATE_CHECK": "1",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }

    def respond(self, request: Request) -> Response:
        with self._lock:
            self.requests.append(Seen(request.method, request.path, request.headers.get("Range")))
            fault = next((fault for fault in self._faults if fault.concerns(request)), None)
            if fault is None:
                return self.hub.answer(request)
            fault.times -= 1
            return fault.befall(lambda: self.hub.answer(request))

    def _start(self) -> None:
        self._listener = Listener(self._port, self)
        self._port = self._listener.server_port
        # `shutdown` waits for up to one poll.
        threading.Thread(target=self._listener.serve_forever, args=(0.01,), daemon=True).start()

    def _stop(self) -> None:
        self._listener.shutdown()
        self._listener.server_close()
