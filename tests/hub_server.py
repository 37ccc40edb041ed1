"""A stand-in for the Hugging Face Hub, in memory, on 127.0.0.1: what `huggingface_hub` 2.x asks for.

Repositories, commits, branches, tags, pull requests, uploads (regular and LFS), downloads with ranges, listings with
pages; private and gated repositories, and those of others; and trouble on demand: damaged files, tokens that have
expired, slow and cut connections, and a server that is down. Xet is never offered, so LFS uploads need
`HF_HUB_DISABLE_XET=1`. It answers no 5xx, which the client would retry for 23 s.

`HF_ENDPOINT` must be :attr:`HubServer.url` before `huggingface_hub` is imported.
"""

from __future__ import annotations

import base64
import fnmatch
import hashlib
import json
import math
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

import yaml

LFS_PATTERNS = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.ckpt", "*.onnx", "*.png", "*.jpg", "*.webp")
Tree = dict[str, "Blob"]


class Refusal(Exception):
    """An answer other than 200, as the Hub gives it: a status, its code of the error, and words."""

    def __init__(self, status: int, code: str, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status, self.headers = status, {"X-Error-Code": code, "X-Error-Message": message, **headers}


class Request(NamedTuple):
    """What a client asked."""

    method: str
    path: str
    host: str
    token: str | None
    query: dict[str, list[str]]
    body: bytes
    range: str

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body or b"{}")


class Answer(NamedTuple):
    """What it gets."""

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = {}


@dataclass(frozen=True)
class Blob:
    """A file; a large one is a pointer in git and lies in the storage under its SHA-256."""

    data: bytes
    lfs: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def pointer(self) -> bytes:
        return f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.data)}\n".encode()

    @property
    def oid(self) -> str:
        return _git_oid(self.pointer if self.lfs else self.data)

    @property
    def lfs_info(self) -> dict[str, Any]:
        return {"size": len(self.data), "pointerSize": len(self.pointer)}


@dataclass(frozen=True)
class Commit:
    """A state of a repository."""

    oid: str
    parent: str | None
    title: str
    tree: Tree
    date: str


@dataclass
class Repo:
    """A repository and who may see it."""

    id: str
    kind: str
    private: bool = False
    gated: bool = False
    created: str = field(default_factory=lambda: _now())
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    pulls: list[str] = field(default_factory=list)
    downloads: int = 0

    def commit(self, branch: str, title: str, tree: Tree) -> Commit:
        """Put a new state on a branch."""
        parent = self.branches.get(branch)
        facts = [parent, title, len(self.commits), sorted((path, blob.oid) for path, blob in tree.items())]
        commit = Commit(hashlib.sha1(json.dumps(facts).encode()).hexdigest(), parent, title, tree, _now())
        self.commits[commit.oid] = commit
        self.branches[branch] = commit.oid
        return commit

    def find(self, revision: str | None) -> Commit:
        """The commit that a branch, a tag, a pull request's ref or the beginning of a hash means."""
        name = revision or "main"
        name = self.branches.get(name) or self.tags.get(name) or name
        found = [commit for oid, commit in self.commits.items() if len(name) >= 7 and oid.startswith(name)]
        if len(found) != 1:
            raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return found[0]

    def info(self, revision: str | None = None, sizes: bool = False) -> dict[str, Any]:
        """What the Hub's API tells of a repository."""
        commit = self.find(revision)
        card: dict[str, Any] = {}
        with suppress(yaml.YAMLError):
            card = _front_matter(commit.tree["README.md"].data.decode()) if "README.md" in commit.tree else {}
        tags = [*_list(card.get("library_name")), *_list(card.get("pipeline_tag")), *_list(card.get("tags"))]
        if any(path.endswith(".safetensors") for path in commit.tree):
            tags.append("safetensors")
        for key, prefix in (("license", "license"), ("datasets", "dataset"), ("base_model", "base_model")):
            tags += [f"{prefix}:{value}" for value in _list(card.get(key))]
        return {
            "_id": hashlib.sha1(self.id.encode()).hexdigest()[:24],
            "id": self.id,
            "modelId": self.id,
            "author": self.id.split("/")[0],
            "sha": commit.oid,
            "private": self.private,
            "gated": "manual" if self.gated else False,
            "disabled": False,
            "downloads": self.downloads,
            "likes": 0,
            "createdAt": self.created,
            "lastModified": commit.date,
            "siblings": [
                {"rfilename": path, **({"size": len(blob.data), "blobId": blob.oid} if sizes else {})}
                for path, blob in sorted(commit.tree.items())
            ],
            "tags": list(dict.fromkeys(tags)),
            "cardData": card,
            "safetensors": _safetensors(commit.tree),
            "library_name": card.get("library_name"),
            "pipeline_tag": card.get("pipeline_tag"),
            "spaces": [],
            "usedStorage": 0,
        }


class HubServer:
    """The server; it runs until :meth:`stop`.

    Attributes:
        url: its address.
        lfs: whether large files go the way of LFS, with a redirect to another host, as on the real Hub.
        repos: by kind ("model", "dataset", "space") and id.
        log: all requests so far.
        before: called with every request before it is answered; may change the repositories.
        damage: file name to a function from its bytes to those that a download gets instead; their announced
            size and hash stay those of the true file.
        expired: tokens that are no longer valid.
        cut: called with every request; the connection breaks after so many bytes of the answer's body, with 0 before
            any of the answer, with -1 before anything is done, with None not at all.
        pace: seconds that each tenth of an answer takes.
        page: how many repositories a page of a listing has.
    """

    def __init__(self, *, lfs: bool = True, user: str = "tester", organisations: tuple[str, ...] = ("org",)):
        self.lfs, self.user, self.organisations = lfs, user, organisations
        self.lock = threading.RLock()
        self.connections: set[socket.socket] = set()
        self.port = 0  # any
        self.reset()
        self.start()
        self.url = f"http://127.0.0.1:{self.port}"
        self.storage = f"http://localhost:{self.port}"  # another host to the client, which must not get its token

    def reset(self) -> None:
        """Forget all repositories, requests and troubles."""
        with self.lock:
            self.repos: dict[tuple[str, str], Repo] = {}
            self.objects: dict[str, bytes] = {}
            self.log: list[Request] = []
            self.before: Callable[[Request], None] | None = None
            self.damage: dict[str, Callable[[bytes], bytes]] = {}
            self.expired: set[str] = set()
            self.cut: Callable[[Request], int | None] = lambda request: None
            self.pace = 0.0
            self.page = 1000

    def start(self) -> None:
        """Listen, at the same port as before."""
        self.server = ThreadingHTTPServer(("127.0.0.1", self.port), _handler(self))
        self.server.handle_error = lambda *_: None  # type: ignore[method-assign] -- a connection that was cut
        self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop(self) -> None:
        """Refuse connections, and drop those that clients keep open."""
        self.server.shutdown()
        self.server.server_close()
        for connection in list(self.connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    @contextmanager
    def down(self) -> Iterator[None]:
        """Stop for a while, as when there is no network."""
        self.stop()
        try:
            yield
        finally:
            self.start()

    # -- what a test does and looks at, without the network --

    def add(self, repo_id: str, files: Mapping[str, bytes | None], *, branch: str = "main", **traits: Any) -> str:
        """Commit files (None removes one), to a new repository if need be; `traits` as of :class:`Repo`."""
        with self.lock:
            repo = self.repos.setdefault(("model", repo_id), Repo(repo_id, "model"))
            for name, value in traits.items():
                setattr(repo, name, value)
            tree = dict(repo.find(branch).tree) if repo.branches else {}
            for path, data in files.items():
                if data is None:
                    del tree[path]
                else:
                    tree[path] = Blob(data, self.lfs and _is_large(path, len(data)))
            return repo.commit(branch, "edited on the Hub", tree).oid

    def repo(self, repo_id: str) -> Repo:
        """A model repository."""
        return self.repos["model", repo_id]

    def files(self, repo_id: str, revision: str | None = None) -> dict[str, bytes]:
        """The files of a revision."""
        return {path: blob.data for path, blob in self.repo(repo_id).find(revision).tree.items()}

    def history(self, repo_id: str, revision: str | None = None) -> list[Commit]:
        """The commits of a revision, newest first."""
        repo, result = self.repo(repo_id), []
        oid: str | None = repo.find(revision).oid
        while oid:
            result.append(repo.commits[oid])
            oid = repo.commits[oid].parent
        return result

    # -- the network --

    def answer(self, request: Request) -> Answer:
        """Answer a request, come what may."""
        with self.lock:
            self.log.append(request)
        try:
            if self.before:
                self.before(request)
            with self.lock:
                result = self._route(request)
        except Refusal as refusal:
            return Answer(_json({"error": str(refusal)}), refusal.status, refusal.headers)
        except Exception as error:  # a fault of this file: 400, because the client would repeat after a 5xx
            message = f"hub_server: {error!r}"
            return Answer(_json({"error": message}), 400, {"X-Error-Message": message})
        return result if isinstance(result, Answer) else Answer(_json(result))

    def _route(self, request: Request) -> Any:
        path = request.path
        if request.token in self.expired:
            raise Refusal(401, "", "Invalid credentials in Authorization header")
        if path == "/api/whoami-v2":
            _need_token(request)
            return {"type": "user", "name": self.user, "orgs": [{"name": o} for o in self.organisations]}
        if path == "/api/validate-yaml":
            return _validate_yaml(request.json()["content"])
        if match := re.fullmatch(r"/api/repos/(create|delete)", path):
            return self._create_or_delete(request, match[1])
        if match := re.fullmatch(r"/lfs/([0-9a-f]{64})", path):
            return self._object(request, match[1])
        if re.fullmatch(r"/.+\.git/info/lfs/objects/batch", path):
            _need_token(request)  # whoever may propose something may upload
            return self._lfs_batch(request.json()["objects"])
        if match := re.fullmatch(r"/(?:(dataset|space)s/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            repo = self._visible(request, match[1] or "model", match[2])
            return self._resolve(request, repo, unquote(match[3]), unquote(match[4]))
        if match := re.fullmatch(r"/api/(model|dataset|space)s", path):
            return self._search(request, match[1])
        if match := re.fullmatch(r"/api/(model|dataset|space)s/([^/]+/[^/]+)(?:/([^/]+))?(?:/(.+))?", path):
            repo = self._visible(request, match[1], match[2])
            return self._repo_api(request, repo, match[3] or "revision", unquote(match[4] or ""))
        raise Refusal(404, "", f"hub_server has no {request.method} {path}")

    def _visible(self, request: Request, kind: str, repo_id: str) -> Repo:
        repo = self.repos.get((kind, repo_id))
        if repo is None or not self._may_see(request, repo):
            raise Refusal(404 if request.token else 401, "RepoNotFound", "Repository not found")
        return repo

    def _may_see(self, request: Request, repo: Repo) -> bool:
        return not repo.private or (request.token is not None and self._is_mine(repo.id.split("/")[0]))

    def _is_mine(self, owner: str) -> bool:
        return owner in (self.user, *self.organisations)

    def _need_right(self, request: Request, owner: str) -> None:
        """To write to a repository; to propose something, anybody has it."""
        _need_token(request)
        if not self._is_mine(owner) and "create_pr" not in request.query and "/discussions" not in request.path:
            raise Refusal(403, "", "Forbidden: pass `create_pr=1` as a query parameter to create a Pull Request")

    def _create_or_delete(self, request: Request, action: str) -> Any:
        _need_token(request)
        wish = request.json()
        kind, owner = wish.get("type") or "model", wish.get("organization") or self.user
        key = (kind, f"{owner}/{wish['name']}")
        if not self._is_mine(owner):
            raise Refusal(403, "", f'You don\'t have the rights to create a model under the namespace "{owner}"')
        if action == "delete":
            self._visible(request, *key)
            del self.repos[key]
            return {}
        known = {"url": f"{self.url}/{'' if kind == 'model' else kind + 's/'}{key[1]}", "name": key[1]}
        if key in self.repos:
            return Answer(_json({"error": "You already created this repo", **known}), 409)
        repo = self.repos[key] = Repo(key[1], kind, private=wish.get("visibility") == "private")
        attributes = "".join(f"{p} filter=lfs diff=lfs merge=lfs -text\n" for p in LFS_PATTERNS)
        repo.commit("main", "initial commit", {".gitattributes": Blob(attributes.encode(), False)})
        return known

    def _search(self, request: Request, kind: str) -> Answer:
        query = request.query
        infos = [repo.info() for repo in self.repos.values() if repo.kind == kind and self._may_see(request, repo)]
        found = [
            info
            for info in infos
            if set(query.get("filter", [])) <= set(info["tags"])
            and query.get("author", [info["author"]])[0] == info["author"]
            and query.get("pipeline_tag", [info["pipeline_tag"]])[0] == info["pipeline_tag"]
            and query.get("search", [""])[0].lower() in info["id"].lower()
        ]
        found.sort(key=lambda info: info["lastModified"], reverse=True)
        begin = int(query.get("cursor", ["0"])[0])
        size = min(self.page, int(query.get("limit", [self.page])[0]))
        if wanted := query.get("expand"):
            found = [
                {"_id": info["_id"], "id": info["id"], **{key: info[key] for key in wanted if key in info}}
                for info in found
            ]
        headers = {}
        if begin + size < len(found):
            following = urlencode({**query, "cursor": begin + size}, doseq=True)
            headers["Link"] = f'<{self.url}{request.path}?{following}>; rel="next"'
        return Answer(_json(found[begin : begin + size]), 200, headers)

    def _repo_api(self, request: Request, repo: Repo, what: str, rest: str) -> Any:
        if request.method != "GET" and what != "paths-info":
            self._need_right(request, repo.id.split("/")[0])
        if what == "revision":
            return repo.info(rest, sizes="blobs" in request.query)
        if what == "preupload":
            return {"files": [self._upload_mode(repo, rest, entry) for entry in request.json()["files"]]}
        if what == "commit":
            return self._commit(request, repo, rest)
        if what == "discussions":
            return self._discussion(request, repo, rest)
        if what == "tree":
            revision, _, folder = rest.partition("/")
            return _listing(repo.find(revision).tree, folder)
        if what == "paths-info":
            paths = parse_qs(request.body.decode()).get("paths", [])
            return [entry for entry in _listing(repo.find(rest).tree, "") if entry["path"] in paths]
        if what == "commits":
            return [
                {"id": c.oid, "title": c.title, "message": "", "date": c.date, "authors": [{"user": self.user}]}
                for c in self.history(repo.id, rest)
            ]
        if what == "refs":
            return {
                "branches": _refs(repo.branches, "heads"),
                "tags": _refs(repo.tags, "tags"),
                "converts": [],
            }
        if what in ("branch", "tag"):
            return self._ref(request, repo, what, rest)
        raise Refusal(404, "", f"hub_server has no {request.method} {request.path}")

    def _upload_mode(self, repo: Repo, revision: str, entry: Mapping[str, Any]) -> dict[str, Any]:
        large = self.lfs and _is_large(entry["path"], entry["size"])
        mode = {"path": entry["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
        old = repo.find(revision).tree.get(entry["path"])
        return {**mode, "oid": old.sha256 if old.lfs else old.oid} if old else mode

    def _lfs_batch(self, objects: list[dict[str, Any]]) -> dict[str, Any]:
        upload = {o["oid"]: {"upload": {"href": f"{self.url}/lfs/{o['oid']}", "header": {}}} for o in objects}
        return {
            "transfer": "basic",
            "objects": [o if o["oid"] in self.objects else {**o, "actions": upload[o["oid"]]} for o in objects],
        }

    def _object(self, request: Request, sha256: str) -> Answer:
        if request.method == "PUT":
            if hashlib.sha256(request.body).hexdigest() != sha256:
                raise Refusal(400, "", "SHA-256 mismatch")
            self.objects[sha256] = request.body
            return Answer()
        return self._send(request, self.objects[sha256], "model.safetensors", {"ETag": f'"{sha256}"'})

    def _commit(self, request: Request, repo: Repo, branch: str) -> dict[str, Any]:
        if branch not in repo.branches:
            raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {branch}")
        (header, *operations), proposed = map(json.loads, request.body.splitlines()), "create_pr" in request.query
        title, parent = header["value"]["summary"], header["value"].get("parentCommit")
        if parent and not proposed and not repo.branches[branch].startswith(parent):
            raise Refusal(412, "", "A commit has happened since. Please refresh and try again.")
        tree = dict(repo.find(parent if parent and proposed else branch).tree)
        for operation in operations:
            self._apply(tree, operation["key"], operation["value"])
        answer: dict[str, Any] = {"success": True, "hookOutput": ""}
        if proposed:
            number = self._open_pull(repo, title, branch)
            branch = f"refs/pr/{number}"
            answer["pullRequestUrl"] = f"{self.url}/{repo.id}/discussions/{number}"
        commit = repo.commit(branch, title, tree)
        return {**answer, "commitUrl": f"{self.url}/{repo.id}/commit/{commit.oid}", "commitOid": commit.oid}

    def _apply(self, tree: Tree, key: str, value: Mapping[str, Any]) -> None:
        path = value["path"]
        if key == "file":
            tree[path] = Blob(base64.b64decode(value["content"]), False)
        elif key == "lfsFile":
            tree[path] = Blob(self.objects[value["oid"]], True)
        elif key in ("deletedFile", "deletedFolder"):
            gone = [name for name in tree if name == path or name.startswith(f"{path.rstrip('/')}/")]
            if not gone:
                raise Refusal(400, "", f"{path} does not exist")
            for name in gone:
                del tree[name]
        else:
            raise Refusal(400, "", f"hub_server has no operation {key}")

    def _open_pull(self, repo: Repo, title: str, branch: str = "main") -> int:
        repo.pulls.append(title)
        repo.branches[f"refs/pr/{len(repo.pulls)}"] = repo.branches[branch]
        return len(repo.pulls)

    def _discussion(self, request: Request, repo: Repo, number: str) -> dict[str, Any]:
        if request.method == "POST":
            return {"num": self._open_pull(repo, request.json()["title"])}
        return {
            "num": int(number),
            "title": repo.pulls[int(number) - 1],
            "status": "draft",
            "createdAt": _now(),
            "isPullRequest": True,
            "repo": {"name": repo.id, "type": repo.kind},
            "changes": {"base": "refs/heads/main"},
            "filesWithConflicts": [],
            "events": [],
        }

    def _ref(self, request: Request, repo: Repo, what: str, name: str) -> dict[str, Any]:
        refs = repo.branches if what == "branch" else repo.tags
        if request.method == "DELETE":
            refs.pop(name, None)
            return {}
        wish = request.json()
        start = wish.get("startingPoint") if what == "branch" else name
        name = name if what == "branch" else wish["tag"]
        if name in refs:
            raise Refusal(409, "", f"Reference already exists: {name}")
        refs[name] = repo.find(start).oid
        return {}

    def _resolve(self, request: Request, repo: Repo, revision: str, path: str) -> Answer:
        if repo.gated:  # its description is public, its files are not
            message = f"Access to model {repo.id} is restricted. You must have access to it and be authenticated."
            raise Refusal(403 if request.token else 401, "GatedRepo", message)
        commit = repo.find(revision)
        blob = commit.tree.get(path)
        if blob is None:
            raise Refusal(404, "EntryNotFound", "Entry not found", **{"X-Repo-Commit": commit.oid})
        headers = {"X-Repo-Commit": commit.oid}
        if blob.lfs:
            self.objects[blob.sha256] = blob.data
            location = {"Location": f"{self.storage}/lfs/{blob.sha256}"}
            linked = {"X-Linked-Etag": f'"{blob.sha256}"', "X-Linked-Size": str(len(blob.data))}
            return Answer(b"", 302, {**headers, **linked, **location})
        return self._send(request, blob.data, path, {**headers, "ETag": f'"{blob.oid}"'})

    def _send(self, request: Request, data: bytes, path: str, headers: Mapping[str, str]) -> Answer:
        name = path.rsplit("/", 1)[-1]
        if request.method == "GET" and name in self.damage:
            data = self.damage[name](data)
        headers = {"Accept-Ranges": "bytes", "Content-Type": "application/octet-stream", **headers}
        if match := re.fullmatch(r"bytes=(\d+)-(\d*)", request.range):
            first, last = int(match[1]), min(int(match[2] or len(data) - 1), len(data) - 1)
            if first >= len(data):
                raise Refusal(416, "", "Range Not Satisfiable", **{"Content-Range": f"bytes */{len(data)}"})
            headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
            return Answer(data[first : last + 1], 206, headers)
        return Answer(data, 200, headers)


def _handler(hub: HubServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            hub.connections.add(self.connection)

        def finish(self) -> None:
            hub.connections.discard(self.connection)
            with suppress(OSError):
                super().finish()

        def log_message(self, *_: Any) -> None:
            pass

        def _handle(self) -> None:
            parts = urlsplit(self.path)
            authorisation = self.headers.get("Authorization") or ""
            request = Request(
                method=self.command,
                path=parts.path,
                host=(self.headers.get("Host") or "").split(":")[0],
                token=authorisation.removeprefix("Bearer ") or None,
                query=parse_qs(parts.query),
                body=self._body(),
                range=self.headers.get("Range") or "",
            )
            cut = hub.cut(request)
            if cut == -1:
                return self._hang_up()
            answer = hub.answer(request)
            if cut == 0:
                return self._hang_up()
            self.send_response(answer.status)
            for name, value in {"Content-Length": str(len(answer.body)), **answer.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self._write(answer.body[:cut])
            if cut is not None:
                self._hang_up()

        def _write(self, body: bytes) -> None:
            piece = -(-len(body) // 10) or 1 if hub.pace else len(body) or 1
            for begin in range(0, len(body), piece):
                time.sleep(hub.pace)
                self.wfile.write(body[begin : begin + piece])

        def _hang_up(self) -> None:
            self.close_connection = True
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            chunks = []  # the LFS upload streams
            while size := int(self.rfile.readline().split(b";")[0], 16):
                chunks.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(chunks)

        do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _handle

    return Handler


def _need_token(request: Request) -> None:
    if not request.token:
        raise Refusal(401, "", "Invalid username or password.")


def _validate_yaml(text: str) -> Any:
    try:
        known = _front_matter(text)
    except yaml.YAMLError as error:
        return Answer(_json({"errors": [{"message": str(error)}], "warnings": []}), 400)
    return {"errors": [], "warnings": [] if known else [{"message": "empty or missing yaml metadata in repo card"}]}


def _front_matter(text: str) -> dict[str, Any]:
    match = re.match(r"\s*---\s*\n(.*?)\n---", text, re.S)
    return (yaml.safe_load(match[1]) or {}) if match else {}


def _listing(tree: Tree, folder: str) -> list[dict[str, Any]]:
    prefix = f"{folder}/" if folder else ""
    entries = [
        {
            "type": "file",
            "path": path,
            "size": len(blob.data),
            "oid": blob.oid,
            **({"lfs": {"oid": blob.sha256, **blob.lfs_info}} if blob.lfs else {}),
        }
        for path, blob in sorted(tree.items())
        if path.startswith(prefix)
    ]
    if folder and not entries:
        raise Refusal(404, "EntryNotFound", f"{folder} does not exist")
    return entries


def _refs(refs: Mapping[str, str], kind: str) -> list[dict[str, str]]:
    return [{"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": oid} for name, oid in refs.items()]


def _is_large(path: str, size: int) -> bool:
    return size > 10 * 2**20 or any(fnmatch.fnmatch(path, pattern) for pattern in LFS_PATTERNS)


def _git_oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _safetensors(tree: Tree) -> dict[str, Any] | None:
    """Parameters by type, as the Hub reads them from the header."""
    if "model.safetensors" not in tree:
        return None
    data, counts = tree["model.safetensors"].data, Counter[str]()
    try:
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    except ValueError:
        return None
    for name, info in header.items():
        if name != "__metadata__":
            counts[info["dtype"]] += math.prod(info["shape"])
    return {"parameters": dict(counts), "total": counts.total()}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value] if value else []


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())
