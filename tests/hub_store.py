"""What the test Hub remembers: accounts, repositories and their commits, uploaded objects. No HTTP here."""

import base64
import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Literal

import yaml

WRITER, READER, STRANGER = "hf_writer_of_tests", "hf_reader_of_tests", "hf_stranger_of_tests"
LFS_SUFFIXES = (".safetensors", ".bin", ".pt", ".parquet")
LFS_FROM_BYTES = 10 * 1024
DATE = "2020-01-01T00:00:00.000Z"


class HubError(Exception):
    """An answer that is an error, in the Hub's own terms: a status, a sentence and sometimes a code."""

    def __init__(self, status: int, message: str, code: str | None = None, **body: Any) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.body = status, message, code, body


@dataclass(frozen=True)
class Account:
    """Who a token belongs to, and whether it may write."""

    user: str
    role: Literal["read", "write"]


ACCOUNTS = {
    WRITER: Account("tester", "write"),
    READER: Account("tester", "read"),
    STRANGER: Account("stranger", "write"),
}


@dataclass(frozen=True)
class StoredFile:
    """One file of a commit; `sha256` is set where it came through LFS."""

    data: bytes
    sha256: str | None = None

    @property
    def git_oid(self) -> str:
        """The object id git would give: of the content, or of the pointer that stands for it."""
        blob = self.data
        if self.sha256 is not None:
            pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.data)}\n"
            blob = pointer.encode()
        return hashlib.sha1(b"blob %d\0" % len(blob) + blob).hexdigest()

    @property
    def oid(self) -> str:
        """What a client compares to know whether its copy is the same."""
        return self.sha256 or self.git_oid

    def describe(self, path: str) -> dict[str, Any]:
        """The file as the tree endpoints show it."""
        described = {"type": "file", "path": path, "size": len(self.data), "oid": self.git_oid}
        if self.sha256 is not None:
            described["lfs"] = {"oid": self.sha256, "size": len(self.data), "pointerSize": 134}
        return described


@dataclass(frozen=True)
class Commit:
    """A whole tree of files and the commit it follows."""

    sha: str
    title: str
    files: dict[str, StoredFile]
    parent: str | None


class Repository:
    """A repository with branches; only whole commits ever change it."""

    def __init__(self, repo_id: str, private: bool) -> None:
        self.id, self.private = repo_id, private
        self.commits: dict[str, Commit] = {}
        self.branches: dict[str, str] = {}
        self.commit("main", "initial commit", {".gitattributes": StoredFile(b"*.safetensors filter=lfs\n")})

    @property
    def owner(self) -> str:
        return self.id.split("/")[0]

    @property
    def head(self) -> Commit:
        return self.commits[self.branches["main"]]

    def commit(self, branch: str, title: str, files: dict[str, StoredFile]) -> Commit:
        """Put a tree on top of a branch."""
        parent = self.branches.get(branch)
        tree = sorted((path, stored.oid) for path, stored in files.items())
        sha = hashlib.sha1(json.dumps([self.id, parent, tree, title]).encode()).hexdigest()
        self.commits[sha] = Commit(sha, title, files, parent)
        self.branches[branch] = sha
        return self.commits[sha]

    def find(self, revision: str) -> Commit:
        """The commit that a branch or a commit id names."""
        commit = self.commits.get(self.branches.get(revision, revision))
        if commit is None:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    def history(self, revision: str = "main") -> list[Commit]:
        """The commits of a branch, newest first."""
        commits = [self.find(revision)]
        while (parent := commits[-1].parent) is not None:
            commits.append(self.commits[parent])
        return commits

    def apply(self, branch: str, lines: list[dict[str, Any]], objects: dict[str, bytes]) -> Commit:
        """Make the commit that a commit request describes; nothing changes unless all of its lines can be done.

        Args:
            branch (`str`): the branch to go on.
            lines (`list[dict]`): the request's ndjson lines, a header first.
            objects (`dict[str, bytes]`): what was uploaded through LFS, by SHA-256.
        """
        head = self.find(branch)
        files, title = dict(head.files), ""
        for line in lines:
            key, value = line["key"], line["value"]
            if key == "header":
                title = value["summary"]
                if value.get("parentCommit") not in (None, head.sha):
                    raise HubError(412, "A commit has happened since. Please refresh and try again.")
            elif key == "file":
                files[value["path"]] = StoredFile(base64.b64decode(value["content"]))
            elif key == "lfsFile":
                if value["oid"] not in objects:
                    raise HubError(400, f"The content of {value['path']} was never uploaded")
                files[value["path"]] = StoredFile(objects[value["oid"]], sha256=value["oid"])
            elif key == "deletedFile":
                if files.pop(value["path"], None) is None:
                    raise HubError(404, "A file with this name doesn't exist", "EntryNotFound")
            elif key == "deletedFolder":
                files = {path: stored for path, stored in files.items() if not path.startswith(value["path"])}
            else:
                raise HubError(400, f"Unknown operation {key}")
        return self.commit(branch, title, files)


@dataclass
class HubStore:
    """All repositories of the server, and the content uploaded for commits to come."""

    repositories: dict[tuple[str, str], Repository] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)

    def create(self, kind: str, repo_id: str, account: Account, private: bool, url: str) -> None:
        """Create a repository of `kind` (`"models"`, `"datasets"`, `"spaces"`) for an account that may."""
        namespace = repo_id.split("/")[0]
        if account.role != "write" or namespace != account.user:
            raise HubError(403, f"You don't have the rights to create a model under the namespace {namespace!r}")
        if (kind, repo_id) in self.repositories:
            raise HubError(409, "You already created this model repo", url=url)
        self.repositories[kind, repo_id] = Repository(repo_id, private)

    def find(self, kind: str, repo_id: str, account: Account | None, *, write: bool = False) -> Repository:
        """A repository that the account may read, or write; others look as if they did not exist."""
        repository = self.repositories.get((kind, repo_id))
        owned = repository is not None and account is not None and account.user == repository.owner
        if repository is None or (repository.private and not owned):
            raise HubError(401 if account is None else 404, "Repository not found", "RepoNotFound")
        if write and (account is None or not owned or account.role != "write"):
            raise HubError(401 if account is None else 403, "You don't have write access to this repository")
        return repository


def check_card(content: str) -> list[str]:
    """What is wrong with the YAML block of a card."""
    match = re.match(r"---\n(.*?)\n---\n", content, re.DOTALL)
    if match is None:
        return []
    try:
        metadata = yaml.safe_load(match[1])
    except yaml.YAMLError as error:
        return [f"YAML metadata cannot be parsed: {error}"]
    if not isinstance(metadata, dict):
        return ["YAML metadata must be a mapping"]
    base_model = metadata.get("base_model", "user/model")
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", base_model):
        return [f'"base_model" with value "{base_model}" is not valid. Use a model id from https://hf.co/models.']
    return []


def choose_modes(repository: Repository, revision: str, announced: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """How each announced file is to be sent, and the id of what the repository holds under its name."""
    held = repository.find(revision).files
    return [
        {
            "path": file["path"],
            "uploadMode": "lfs" if file["size"] > LFS_FROM_BYTES or file["path"].endswith(LFS_SUFFIXES) else "regular",
            "shouldIgnore": False,
            "oid": held[file["path"]].oid if file["path"] in held else None,
        }
        for file in announced
    ]


def describe_repository(repository: Repository, revision: str) -> dict[str, Any]:
    commit = repository.find(revision)
    return {
        "_id": "0",
        "id": repository.id,
        "modelId": repository.id,
        "author": repository.owner,
        "sha": commit.sha,
        "lastModified": DATE,
        "createdAt": DATE,
        "private": repository.private,
        "gated": False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": [],
        "siblings": [{"rfilename": path} for path in sorted(commit.files)],
    }


def list_tree(repository: Repository, revision: str, folder: str, *, recursive: bool) -> list[dict[str, Any]]:
    """The files and folders under `folder` (`""` is the root)."""
    prefix = f"{folder}/" if folder else ""
    files = {path: file for path, file in repository.find(revision).files.items() if path.startswith(prefix)}
    if folder and not files:
        raise HubError(404, f"{folder} does not exist", "EntryNotFound")
    inside = {path: PurePosixPath(path.removeprefix(prefix)) for path in files}
    folders = {str(parent) for path in inside.values() for parent in path.parents if parent != PurePosixPath(".")}
    rows = [
        {"type": "directory", "path": prefix + name, "oid": "0" * 40, "size": 0}
        for name in sorted(folders)
        if recursive or "/" not in name
    ]
    return rows + [
        files[path].describe(path) for path, rest in sorted(inside.items()) if recursive or len(rest.parts) == 1
    ]
