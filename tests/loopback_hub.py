"""A model hub on this machine: the part of the Hub's API that the real `huggingface_hub` client uses for prompts.

Repositories with commits, branches, tags, pull requests, private and gated ones, large files (LFS), tokens, and
faults on demand. It keeps everything in memory and answers as the Hub does: status, error codes, headers.
"""

import base64
import dataclasses
import hashlib
import json
import re
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub.utils._http
import pytest
import yaml
from huggingface_hub import constants


def forget_sessions() -> None:
    """The client's sessions are made anew: before huggingface_hub 1.0 they remember whether they are offline."""
    getattr(huggingface_hub.utils._http, "reset_sessions", lambda: None)()


def point_at(patch: pytest.MonkeyPatch, url: str) -> None:
    """The client asks the hub at `url` and no other."""
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    patch.setattr(constants, "ENDPOINT", url)
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    patch.setattr("huggingface_hub.file_download.HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)


@contextmanager
def reached(hub: "LoopbackHub", cache: Path) -> Iterator[None]:
    """The client asks this hub and no other, at once; what it downloads is kept in `cache`."""
    with pytest.MonkeyPatch.context() as patch:
        point_at(patch, hub.url)
        patch.setattr(constants, "HF_HUB_CACHE", str(cache))
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        # Large files go the older way, by LFS; old clients know no other.
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True, raising=False)
        # The client waits seconds between its attempts.
        patch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
        patch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
        forget_sessions()
        yield
    forget_sessions()


@dataclasses.dataclass
class Repo:
    """One repository: commits by their hash, the files of each, and what the names of revisions point to."""

    owner: str
    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, bytes]] = dataclasses.field(default_factory=dict)
    messages: list[str] = dataclasses.field(default_factory=list)
    refs: dict[str, str] = dataclasses.field(default_factory=dict)

    def commit(self, ref: str, files: dict[str, bytes], message: str) -> str:
        listed = sorted((name, hashlib.sha1(content).hexdigest()) for name, content in files.items())
        content = json.dumps([listed, len(self.commits), message])
        sha = hashlib.sha1(content.encode()).hexdigest()
        self.commits[sha], self.refs[ref] = dict(files), sha
        self.messages.append(message)
        return sha

    def resolve(self, revision: str) -> str | None:
        return self.refs.get(revision) or (revision if revision in self.commits else None)

    @property
    def files(self) -> dict[str, bytes]:
        """What is on the main branch."""
        return self.commits[self.refs["main"]]


@dataclasses.dataclass
class Fault:
    """What goes wrong with requests that match, so many times.

    Attributes:
        kind: a status to answer with; "close" hangs up before any answer, "half" in the middle of one, and
            "page" is a page that no hub has; or a function that is called first, before the usual answer.
    """

    method: str
    path: str
    kind: "int | str | Callable[[LoopbackHub], object]"
    times: int = 1
    headers: dict[str, str] = dataclasses.field(default_factory=dict)


class LoopbackHub:
    """A hub with users, each with a token `hf_NAME`, and a token that may only read, `hf_NAME_read`.

    Attributes:
        repos: the repositories, by "owner/name".
        log: every request, as "METHOD /path".
        authorizations: the authorization headers that came with them.
        lfs_suffixes: which files are large ones.
    """

    def __init__(self, users: tuple[str, ...] = ("alice", "bob")) -> None:
        self.repos: dict[str, Repo] = {}
        self.log: list[str] = []
        self.authorizations: list[str] = []
        self.faults: list[Fault] = []
        self.lfs: dict[str, bytes] = {}
        self.lfs_suffixes: tuple[str, ...] = (".safetensors", ".bin")
        self.tokens = {f"hf_{name}": (name, True) for name in users}
        self.tokens |= {f"hf_{name}_read": (name, False) for name in users}
        self.url = ""

    def fail(self, method: str, path: str, kind: Any, times: int = 1, **headers: str) -> None:
        """Makes the next requests that match go wrong."""
        self.faults.append(Fault(method, path, kind, times, headers))

    def requests(self, pattern: str) -> list[str]:
        """The requests so far that match."""
        return [entry for entry in self.log if re.search(pattern, entry)]

    def create(self, repo_id: str, **values: Any) -> Repo:
        repo = self.repos[repo_id] = Repo(repo_id.partition("/")[0], **values)
        repo.commit("main", {".gitattributes": b"*.safetensors filter=lfs\n"}, "initial commit")
        return repo

    @contextmanager
    def running(self) -> Iterator["LoopbackHub"]:
        """The hub, answering on a free port while the block runs."""
        hub = self

        class Handler(_Handler):
            pass

        Handler.hub = hub
        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        self.url = f"http://127.0.0.1:{server.server_address[1]}"
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


class _Answer(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, message: str = "", code: str = "", **values: Any) -> None:
        self.status, self.message, self.code, self.values = status, message, code, values


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: LoopbackHub

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._handle()

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    # --- one request ----------------------------------------------------------------------

    def _handle(self) -> None:
        hub = self.hub
        parts = urllib.parse.urlsplit(self.path)
        path, query = parts.path, dict(urllib.parse.parse_qsl(parts.query))
        hub.log.append(f"{self.command} {self.path}")
        hub.authorizations.append(self.headers.get("authorization", ""))
        fault = next((f for f in hub.faults if f.times and f.method == self.command and re.search(f.path, path)), None)
        if fault is not None:
            fault.times -= 1
        if fault is not None and fault.kind == "close":
            self.close_connection = True
            self.connection.close()
            return
        body = self._body()
        if fault is not None and isinstance(fault.kind, int):
            self._send(fault.kind, json.dumps({"error": "it went wrong"}).encode(), fault.headers)
            return
        if fault is not None and fault.kind == "page":
            self._send(200, b"<html>please log in</html>", {})
            return
        if fault is not None and callable(fault.kind):
            fault.kind(hub)
        try:
            for method, pattern, action in _ROUTES:
                found = re.fullmatch(pattern, path)
                if found and self.command in method.split("|"):
                    values = {name: urllib.parse.unquote(value) for name, value in found.groupdict().items()}
                    content, headers = action(self, query=query, body=body, **values)
                    self._send(200, content, headers, half=fault is not None and fault.kind == "half")
                    return
            raise _Answer(404, "no such page", "")
        except _Answer as answer:
            headers = {"X-Error-Message": answer.message} | ({"X-Error-Code": answer.code} if answer.code else {})
            self._send(answer.status, json.dumps({"error": answer.message, **answer.values}).encode(), headers)

    def _body(self) -> bytes:
        if self.headers.get("transfer-encoding", "").lower() == "chunked":
            found = b""
            while size := int(self.rfile.readline().strip() or b"0", 16):
                found += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return found
        return self.rfile.read(int(self.headers.get("content-length", 0)))

    def _send(self, status: int, content: bytes, headers: dict[str, str], half: bool = False) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", headers.get("X-Linked-Size", str(len(content))))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if half else content)
        if half:
            self.wfile.flush()
            self.close_connection = True

    # --- who may do what ------------------------------------------------------------------

    def _user(self) -> tuple[str, bool]:
        header = self.headers.get("authorization", "")
        if not header:
            return "", False
        if header.removeprefix("Bearer ") not in self.hub.tokens:
            raise _Answer(401, "Invalid credentials in Authorization header")
        return self.hub.tokens[header.removeprefix("Bearer ")]

    def _repo(self, repo_id: str, write: bool = False, content: bool = False) -> Repo:
        user, may_write = self._user()
        repo = self.hub.repos.get(repo_id)
        if repo is None or (repo.private and repo.owner != user):
            raise _Answer(404 if user else 401, "Repository not found", "RepoNotFound")
        if content and repo.gated and repo.owner != user:
            raise _Answer(403 if user else 401, "Access to model is restricted", "GatedRepo")
        if write and (not may_write or repo.owner != user):
            raise _Answer(403 if user else 401, "you have no right to write here")
        return repo

    def _sha(self, repo: Repo, revision: str) -> str:
        found = repo.resolve(revision)
        if found is None:
            raise _Answer(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return found

    # --- what is asked --------------------------------------------------------------------

    def whoami(self, **_: Any) -> Any:
        user, _may = self._user()
        if not user:
            raise _Answer(401, "Invalid username or password.")
        return _json({"type": "user", "name": user, "orgs": []})

    def create(self, body: bytes, **_: Any) -> Any:
        user, may_write = self._user()
        asked = json.loads(body)
        owner = asked.get("organization") or user
        repo_id = f"{owner}/{asked['name']}"
        if not user:
            raise _Answer(401, "Invalid username or password.")
        if owner != user or not may_write:
            raise _Answer(403, f"You don't have the rights to create a model under the namespace {owner}")
        if repo_id in self.hub.repos:
            raise _Answer(409, "You already created this model repo", url=f"{self.hub.url}/{repo_id}")
        private = asked.get("visibility") == "private" or bool(asked.get("private"))
        self.hub.create(repo_id, private=private)
        return _json({"url": f"{self.hub.url}/{repo_id}", "name": repo_id})

    def validate_yaml(self, body: bytes, **_: Any) -> Any:
        content = json.loads(body)["content"]
        found = re.match(r"^(\s*---[\r\n]+)([\S\s]*?)([\r\n]+---(\r\n|\r|\n|$))", content)
        try:
            values = yaml.safe_load(found[2]) if found else {}
        except yaml.YAMLError as error:
            raise _Answer(400, "Invalid YAML", errors=[{"message": str(error)}]) from error
        problems = [f'"{key}" must be a string' for key in _TEXTS if not isinstance(values.get(key, ""), str)]
        if not isinstance(values.get("tags", []), list):
            problems.append('"tags" must be an array')
        if values.get("license", "mit") not in _LICENSES:
            problems.append('"license" must be one of the known licenses')
        for model in [values["base_model"]] if isinstance(values.get("base_model"), str) else []:
            if not re.fullmatch(r"[\w.-]+/[\w.-]+", model):
                problems.append('"base_model" is not a valid model id')
        if problems:
            raise _Answer(400, "Invalid metadata", errors=[{"message": problem} for problem in problems])
        return _json({"errors": [], "warnings": []})

    def info(self, repo_id: str, revision: str = "main", **_: Any) -> Any:
        repo = self._repo(repo_id)
        sha = self._sha(repo, revision)
        return _json(
            {
                "_id": "1", "id": repo_id, "modelId": repo_id, "private": repo.private, "gated": repo.gated,
                "sha": sha, "siblings": [{"rfilename": name} for name in repo.commits[sha]], "tags": [], "downloads": 0,
            }
        )  # fmt: skip

    def tree(self, repo_id: str, revision: str, **_: Any) -> Any:
        repo = self._repo(repo_id, content=True)
        listed = []
        for name, content in repo.commits[self._sha(repo, revision)].items():
            entry: dict[str, Any] = {"type": "file", "path": name, "size": len(content), "oid": _blob(content)}
            if name.endswith(self.hub.lfs_suffixes):
                entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
            listed.append(entry)
        return _json(listed)

    def branch(self, repo_id: str, revision: str, body: bytes, **_: Any) -> Any:
        repo = self._repo(repo_id, write=True)
        if revision in repo.refs:
            raise _Answer(409, "Reference already exists")
        repo.refs[revision] = self._sha(repo, json.loads(body or b"{}").get("startingPoint", "main"))
        return _json({})

    def preupload(self, repo_id: str, revision: str, query: dict[str, str], body: bytes, **_: Any) -> Any:
        repo = self._repo(repo_id, write="create_pr" not in query)
        held = repo.commits[self._sha(repo, revision)]
        files = []
        for file in json.loads(body)["files"]:
            large = file["path"].endswith(self.hub.lfs_suffixes)
            entry = {
                "path": file["path"],
                "uploadMode": "lfs" if large else "regular",
                "shouldIgnore": False,
            }
            if file["path"] in held:
                content = held[file["path"]]
                entry["oid"] = hashlib.sha256(content).hexdigest() if large else _blob(content)
            files.append(entry)
        return _json({"files": files})

    def lfs_batch(self, repo_id: str, body: bytes, **_: Any) -> Any:
        user, may_write = self._user()
        if not user or not may_write:
            raise _Answer(403, "you have no right to write here")
        objects: list[dict[str, Any]] = []
        for each in json.loads(body)["objects"]:
            actions = {"upload": {"href": f"{self.hub.url}/lfs/{each['oid']}"}}
            objects.append({**each} if each["oid"] in self.hub.lfs else {**each, "actions": actions})
        return _json({"transfer": "basic", "objects": objects})

    def lfs_put(self, oid: str, body: bytes, **_: Any) -> Any:
        if hashlib.sha256(body).hexdigest() != oid:
            raise _Answer(400, "the content has another hash")
        self.hub.lfs[oid] = body
        return _json({})

    def commit(self, repo_id: str, revision: str, query: dict[str, str], body: bytes, **_: Any) -> Any:
        wants_pr = "create_pr" in query
        user, _may = self._user()
        repo = self._repo(repo_id, write=not wants_pr)
        if not user:
            raise _Answer(401, "Invalid username or password.")
        lines = [json.loads(line) for line in body.splitlines() if line]
        header = next(line["value"] for line in lines if line["key"] == "header")
        head = self._sha(repo, revision)
        if header.get("parentCommit", head) != head:
            raise _Answer(412, "A commit has happened since. Please refresh and try again.")
        files = dict(repo.commits[head])
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.hub.lfs:
                    raise _Answer(400, "the large file was not uploaded")
                files[value["path"]] = self.hub.lfs[value["oid"]]
            elif line["key"] == "deletedFile" and files.pop(value["path"], None) is None:
                raise _Answer(404, "A file with this name doesn't exist", "EntryNotFound")
        number = sum(ref.startswith("refs/pr/") for ref in repo.refs) + 1
        ref = f"refs/pr/{number}" if wants_pr else revision
        sha = repo.commit(ref, files, header["summary"])
        answer = {"success": True, "commitOid": sha, "commitUrl": f"{self.hub.url}/{repo_id}/commit/{sha}"}
        if wants_pr:
            answer["pullRequestUrl"] = f"{self.hub.url}/{repo_id}/discussions/{number}"
        return _json(answer)

    def resolve(self, repo_id: str, revision: str, path: str, **_: Any) -> Any:
        repo = self._repo(repo_id, content=True)
        sha = self._sha(repo, revision)
        if path not in repo.commits[sha]:
            raise _Answer(404, "Entry not found", "EntryNotFound")
        content = repo.commits[sha][path]
        headers = {"X-Repo-Commit": sha, "ETag": f'"{_blob(content)}"', "Accept-Ranges": "none"}
        if path.endswith(self.hub.lfs_suffixes):
            headers["X-Linked-ETag"] = f'"{hashlib.sha256(content).hexdigest()}"'
            headers["X-Linked-Size"] = str(len(content))
        return content, headers


def _json(value: Any) -> tuple[bytes, dict[str, str]]:
    return json.dumps(value).encode(), {"Content-Type": "application/json"}


def _blob(content: bytes) -> str:
    """The hash that git gives to a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


_TEXTS = ("library_name", "pipeline_tag", "license")
_LICENSES = ("apache-2.0", "mit", "cc0-1.0", "cc-by-4.0", "openrail", "creativeml-openrail-m", "other", "unknown")
_ID = r"(?P<repo_id>[\w.-]+/[\w.-]+)"
_ROUTES: tuple[tuple[str, str, Any], ...] = (
    ("GET", "/api/whoami-v2", _Handler.whoami),
    ("POST", "/api/repos/create", _Handler.create),
    ("POST", "/api/validate-yaml", _Handler.validate_yaml),
    ("GET", f"/api/models/{_ID}", _Handler.info),
    ("GET", f"/api/models/{_ID}/revision/(?P<revision>[^/]+)", _Handler.info),
    ("GET", f"/api/models/{_ID}/tree/(?P<revision>[^/]+)", _Handler.tree),
    ("POST", f"/api/models/{_ID}/branch/(?P<revision>[^/]+)", _Handler.branch),
    ("POST", f"/api/models/{_ID}/preupload/(?P<revision>[^/]+)", _Handler.preupload),
    ("POST", f"/api/models/{_ID}/commit/(?P<revision>[^/]+)", _Handler.commit),
    ("POST", f"/{_ID}.git/info/lfs/objects/batch", _Handler.lfs_batch),
    ("PUT", "/lfs/(?P<oid>[0-9a-f]+)", _Handler.lfs_put),
    ("GET|HEAD", f"/{_ID}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", _Handler.resolve),
)
