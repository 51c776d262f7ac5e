"""A Hugging Face Hub that a test starts: real HTTP on a free port, repositories in memory, faults on demand.

It speaks what `huggingface_hub` needs to create, fill, read and delete repositories without Xet:

    repositories  POST /api/repos/create, DELETE /api/repos/delete
    account       GET  /api/whoami-v2
    cards         POST /api/validate-yaml
    uploading     POST /api/{kind}/{repo}/preupload/{revision}, POST /{repo}.git/info/lfs/objects/batch, PUT /_lfs/…
    committing    POST /api/{kind}/{repo}/commit/{revision}     (ndjson; all of it or nothing)
    reading       GET, HEAD /{repo}/resolve/{revision}/{path};
                  GET /api/{kind}/{repo}[/revision/…], …/tree/…, …/refs, …/commits/…; POST …/paths-info/…

A client needs its endpoint before it imports `huggingface_hub`: `HubServer.environment` is all a subprocess needs.
"""

import hashlib
import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qs, unquote, urlsplit

from tests.hub_store import (
    ACCOUNTS,
    DATE,
    WRITER,
    Account,
    HubError,
    HubStore,
    Repository,
    check_card,
    choose_modes,
    describe_repository,
    list_tree,
)

Answer = tuple[int, bytes, dict[str, str]]


@dataclass
class Fault:
    """What goes wrong, and when: with the requests of `method` and `path`, after `skip` of them, `times` times.

    `status` answers with that error before anything is done. `drop="request"` reads half of the body and closes the
    connection; `drop="response"` does the work and closes the connection in place of an answer.
    """

    method: str
    path: str
    status: int | None = None
    drop: Literal["request", "response"] | None = None
    skip: int = 0
    times: int = 1

    def strikes(self, method: str, path: str) -> bool:
        """Whether this request is one that goes wrong; counts it."""
        if method != self.method or not re.search(self.path, path) or self.times == 0:
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        self.times -= 1
        return True


@dataclass
class HubServer:
    """The running server as a test sees it: where it is, what it holds, what it was asked, what shall go wrong."""

    url: str = ""
    store: HubStore = field(default_factory=HubStore)
    faults: list[Fault] = field(default_factory=list)
    requests: list[tuple[str, str]] = field(default_factory=list)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def fault(self, method: str, path: str, **what: Any) -> None:
        """Arrange a [`Fault`]; `path` is a regular expression searched for in the request's path."""
        self.faults.append(Fault(method, path, **what))

    def model(self, repo_id: str) -> Repository:
        """The model repository of that id; `KeyError` where there is none."""
        return self.store.repositories["models", repo_id]

    def environment(self, home: Path, token: str = WRITER) -> dict[str, str]:
        """Environment variables with which a subprocess talks to this server and to nothing else."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_TOKEN": token,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_OFFLINE": "0",
        }


class HubHandler(BaseHTTPRequestHandler):
    """Answers the requests of one connection."""

    protocol_version = "HTTP/1.1"

    def __init__(self, *args: Any, hub: HubServer) -> None:
        self.hub = hub
        super().__init__(*args)

    def log_message(self, format: str, *args: Any) -> None:
        """Silence: a test reads `hub.requests`."""

    def do_GET(self) -> None:
        """Every method of HTTP comes through this door."""
        address = urlsplit(self.path)
        path, self.query = unquote(address.path), parse_qs(address.query)
        with self.hub.lock:
            self.hub.requests.append((self.command, path))
            fault = next((fault for fault in self.hub.faults if fault.strikes(self.command, path)), None)
        if fault is not None and fault.drop == "request":
            self.rfile.read(int(self.headers.get("Content-Length", 0)) // 2)
            return self.drop_connection()
        self.body = self.read_body()
        try:
            if fault is not None and fault.status is not None:
                raise HubError(fault.status, "This request was made to fail")
            with self.hub.lock:
                answer = self.answer(path)
        except HubError as error:
            headers = {"X-Error-Message": error.message} | ({"X-Error-Code": error.code} if error.code else {})
            answer = as_json({"error": error.message, **error.body}, error.status, headers)
        if fault is not None and fault.drop == "response":
            return self.drop_connection()
        self.send(*answer)

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def drop_connection(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def account(self) -> Account | None:
        """Whose token the request carries; `None` without a token."""
        authorization = self.headers.get("Authorization")
        if authorization is None:
            return None
        account = ACCOUNTS.get(authorization.removeprefix("Bearer "))
        if account is None:
            raise HubError(401, "Invalid credentials in Authorization header")
        return account

    def known_account(self) -> Account:
        if (account := self.account()) is None:
            raise HubError(401, "Invalid username or password.")
        return account

    def answer(self, path: str) -> Answer:
        """Find who answers a path."""
        if match := re.fullmatch(r"/_lfs/([0-9a-f]{64})", path):
            return self.put_object(match[1])
        if path == "/api/validate-yaml":
            return self.validate_yaml()
        if path == "/api/whoami-v2":
            account = self.known_account()
            auth = {"type": "access_token", "accessToken": {"displayName": "test", "role": account.role}}
            return as_json({"type": "user", "name": account.user, "orgs": [], "auth": auth})
        if match := re.fullmatch(r"/api/repos/(create|delete)", path):
            return self.create_or_delete(match[1])
        if match := re.fullmatch(r"/(?:(datasets|spaces)/)?([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            self.hub.store.find(match[1] or "models", match[2], self.account(), write=True)
            return self.offer_uploads()
        if match := re.fullmatch(r"/api/(models|datasets|spaces)/([^/]+/[^/]+)(?:/([^/]+))?(?:/(.+))?", path):
            kind, repo_id, operation, rest = match.groups()
            write = operation in ("preupload", "commit")
            repository = self.hub.store.find(kind, repo_id, self.account(), write=write)
            return self.answer_repository(repository, operation or "revision", rest or "main")
        if match := re.fullmatch(r"/(?:(datasets|spaces)/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            repository = self.hub.store.find(match[1] or "models", match[2], self.account())
            return self.read_file(repository, match[3], match[4])
        raise HubError(404, f"The test Hub does not know {self.command} {path}")

    def put_object(self, sha256: str) -> Answer:
        if hashlib.sha256(self.body).hexdigest() != sha256:
            raise HubError(400, "The content does not have the SHA-256 that was announced")
        self.hub.store.objects[sha256] = self.body
        return 200, b"", {}

    def validate_yaml(self) -> Answer:
        errors = check_card(json.loads(self.body)["content"])
        body = {"errors": [{"message": error} for error in errors], "warnings": []}
        return as_json(body, 400 if errors else 200)

    def create_or_delete(self, what: str) -> Answer:
        request, account, store = json.loads(self.body), self.known_account(), self.hub.store
        kind = request.get("type", "model") + "s"
        repo_id = f"{request.get('organization') or account.user}/{request['name']}"
        if what == "delete":
            store.find(kind, repo_id, account, write=True)
            del store.repositories[kind, repo_id]
            return as_json({})
        url = f"{self.hub.url}/{'' if kind == 'models' else kind + '/'}{repo_id}"
        store.create(kind, repo_id, account, request.get("visibility") == "private", url)
        return as_json({"url": url, "name": repo_id})

    def offer_uploads(self) -> Answer:
        objects = json.loads(self.body)["objects"]
        for wanted in objects:
            if wanted["oid"] not in self.hub.store.objects:
                wanted["actions"] = {"upload": {"href": f"{self.hub.url}/_lfs/{wanted['oid']}", "header": {}}}
        return as_json({"transfer": "basic", "objects": objects})

    def answer_repository(self, repository: Repository, operation: str, rest: str) -> Answer:
        if operation == "preupload":
            return as_json({"files": choose_modes(repository, rest, json.loads(self.body)["files"])})
        if operation == "commit":
            lines = [json.loads(line) for line in self.body.splitlines()]
            commit = repository.apply(rest, lines, self.hub.store.objects)
            url = f"{self.hub.url}/{repository.id}/commit/{commit.sha}"
            return as_json({"success": True, "commitOid": commit.sha, "commitUrl": url})
        if operation == "revision":
            return as_json(describe_repository(repository, rest))
        if operation == "refs":
            branches = [
                {"name": k, "ref": f"refs/heads/{k}", "targetCommit": v} for k, v in repository.branches.items()
            ]
            return as_json({"branches": branches, "tags": [], "converts": []})
        if operation == "commits":
            commits = repository.history(rest)
            return as_json(
                [{"id": c.sha, "title": c.title, "message": "", "date": DATE, "authors": []} for c in commits]
            )
        if operation == "paths-info":
            paths = parse_qs(self.body.decode()).get("paths") or json.loads(self.body)["paths"]
            files = repository.find(rest).files
            return as_json([files[path].describe(path) for path in paths if path in files])
        if operation == "tree":
            revision, _, folder = rest.partition("/")
            recursive = self.query.get("recursive", ["false"])[0].lower() in ("true", "1")
            return as_json(list_tree(repository, revision, folder, recursive=recursive))
        raise HubError(404, f"The test Hub does not know {operation} of a repository")

    def read_file(self, repository: Repository, revision: str, path: str) -> Answer:
        commit = repository.find(revision)
        headers = {"X-Repo-Commit": commit.sha}
        if path not in commit.files:
            missing = {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"}
            return as_json({"error": "Entry not found"}, 404, headers | missing)
        stored = commit.files[path]
        etag, size = f'"{stored.oid}"', len(stored.data)
        headers |= {"ETag": etag, "X-Linked-Etag": etag, "X-Linked-Size": str(size), "Accept-Ranges": "bytes"}
        if match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            first, last = int(match[1]), int(match[2] or size - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{size}"
            return 206, stored.data[first : last + 1], headers
        return 200, stored.data, headers


def as_json(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Answer:
    return status, json.dumps(body).encode(), {"Content-Type": "application/json", **(headers or {})}


@contextmanager
def serve() -> Iterator[HubServer]:
    """Run a Hub for the length of the block."""
    hub = HubServer()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(HubHandler, hub=hub))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
