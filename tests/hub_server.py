"""A local Hugging Face Hub, in memory: it speaks what the client needs, with faults to order."""

import base64
import contextlib
import hashlib
import json
import re
import socket
import threading
import urllib.parse
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import yaml


class HubServer:
    """Repositories of models. The token of a user is ``hf_USER``, or ``hf_USER_read`` only to read.

    Attributes:
      commits: For each repository its commits, ``{sha: {path: bytes}}``; the last one is ``main``.
      private: Repositories that only their users see.
      faults: By method and part of the path, ``"GET /config.json"``: ``fault(handler)`` answers
        instead of the server; it returns True to let the server answer after all.
      large: Suffixes of files that are stored by LFS; others are stored in git.
      log: Method and path of each request so far.
    """

    def __init__(self):
        self.commits: dict[str, dict[str, dict[str, bytes]]] = {}
        self.private: set[str] = set()
        self.faults: dict[str, Callable] = {}
        self.log: list[str] = []
        self.large = (".safetensors", ".stablehlo", ".onnx")
        self.uploads: dict[str, bytes] = {}
        self.connections: list[socket.socket] = []

    def __enter__(self):
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler_of(self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """From now on, connections are refused, and those that are open are cut."""
        self._server.shutdown()
        self._server.server_close()
        for connection in self.connections:
            with contextlib.suppress(OSError):  # The client may have closed it.
                connection.shutdown(socket.SHUT_RDWR)

    def files(self, name, revision="main"):
        """The files of a repository at a revision; None if there is no such revision."""
        commits = self.commits[name]
        return commits.get(list(commits)[-1] if revision == "main" else revision)

    def commit(self, name, files):
        """Adds a commit with exactly these files."""
        commits = self.commits.setdefault(name, {})
        text = f"{name} {len(commits)} {sorted(files)}"
        commits[hashlib.sha1(text.encode()).hexdigest()] = files


def _handler_of(server: HubServer):
    class Handler(_Handler):
        hub = server

    return Handler


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # Or bodies wait 40 ms for an acknowledgement.
    hub: HubServer

    def setup(self):
        super().setup()
        self.hub.connections.append(self.connection)

    def log_message(self, *_):
        """Prints nothing."""

    def do_GET(self):
        self._answer()

    do_HEAD = do_POST = do_PUT = do_GET

    def _answer(self):
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        self.hub.log.append(f"{self.command} {path}")
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        known = re.fullmatch(r"hf_([a-z]+)(_read)?", token)
        self.user, self.may_write = (known[1], not known[2]) if known else (None, False)
        for key, fault in self.hub.faults.items():
            method, part = key.split()
            if self.command == method and part in path and not fault(self):
                return None
        for method, pattern, answer in _ROUTES:
            if self.command in method and (found := re.fullmatch(pattern, path)):
                return answer(self, **found.groupdict())
        return self.fail(404, "no such route")

    # What may be asked.

    def whoami(self):
        if not self.user:
            return self.fail(401, "Invalid credentials in Authorization header")
        return self.send_json({"type": "user", "name": self.user})

    def create(self):
        wanted = json.loads(self.body)
        name = f"{wanted['organization']}/{wanted['name']}"
        url = {"url": f"{self.hub.url}/{name}"}
        if not self._may_write(name):
            return None
        if name in self.hub.commits:
            return self.send_json(url | {"error": "You already created this model repo"}, 409)
        self.hub.commit(name, {".gitattributes": b"*.safetensors filter=lfs\n"})
        return self.send_json(url)

    def validate_card(self):
        text = json.loads(self.body)["content"]
        found = re.match(r"---\n(.*?)\n---\n", text, re.S)
        try:
            fields = yaml.safe_load(found[1])
            index = fields.get("model-index", [])
            assert fields["license"] and isinstance(fields["tags"], list)
            assert all(m["value"] is not None for r in index for x in r["results"]
                       for m in x["metrics"])  # fmt: skip
        except (TypeError, KeyError, AssertionError, yaml.YAMLError) as error:
            return self.send_json({"errors": [{"message": repr(error)}], "warnings": []}, 400)
        return self.send_json({"errors": [], "warnings": []})

    def info(self, name, revision="main"):
        if (files := self._find(name, revision)) is None:
            return None
        siblings = [{"rfilename": path} for path in sorted(files)]
        return self.send_json({"id": name, "sha": self._sha(name, revision), "siblings": siblings})

    def tree(self, name, revision):
        if (files := self._find(name, revision)) is None:
            return None
        entries = []
        for path, data in sorted(files.items()):
            entry = {"type": "file", "path": path, "size": len(data), "oid": _git_oid(data)}
            if path.endswith(self.hub.large):
                oid = hashlib.sha256(data).hexdigest()
                entry["lfs"] = {"oid": oid, "size": len(data), "pointerSize": 134}
            entries.append(entry)
        return self.send_json(entries)

    def preupload(self, name):
        if not self._may_write(name):
            return None
        modes = {True: "lfs", False: "regular"}
        files = [
            {"path": x["path"], "uploadMode": modes[x["path"].endswith(self.hub.large)]}
            for x in json.loads(self.body)["files"]
        ]
        files = [file | {"shouldIgnore": False} for file in files]
        return self.send_json({"files": files})

    def batch(self, name):
        if not self._may_write(name):
            return None
        objects = [
            wanted | {"actions": {"upload": {"href": f"{self.hub.url}/large/{wanted['oid']}"}}}
            for wanted in json.loads(self.body)["objects"]
        ]
        return self.send_json({"transfer": "basic", "objects": objects})

    def upload(self, oid):
        if hashlib.sha256(self.body).hexdigest() != oid:
            return self.fail(400, "the bytes do not have this hash")
        self.hub.uploads[oid] = self.body
        return self.send(b"")

    def commit(self, name):
        if not self._may_write(name):
            return None
        files = dict(self.hub.files(name))
        for line in self.body.splitlines():
            operation = json.loads(line)
            value = operation["value"]
            match operation["key"]:
                case "header":
                    if value.get("parentCommit", self._sha(name)) != self._sha(name):
                        return self.fail(412, "A commit has happened since")
                case "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    files[value["path"]] = self.hub.uploads[value["oid"]]
                case "deletedFile":
                    del files[value["path"]]
        self.hub.commit(name, files)
        sha = self._sha(name)
        return self.send_json(
            {"commitUrl": f"{self.hub.url}/{name}/commit/{sha}", "commitOid": sha}
        )

    def resolve(self, name, revision, path):
        if (files := self._find(name, revision)) is None:
            return None
        if path not in files:
            return self.fail(404, "Entry not found", code="EntryNotFound")
        data = files[path]
        oid = hashlib.sha256(data).hexdigest() if path.endswith(self.hub.large) else _git_oid(data)
        headers = {"X-Repo-Commit": self._sha(name, revision), "ETag": f'"{oid}"'}
        if found := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            start = int(found[1])
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            return self.send(data[start:], 206, headers)
        return self.send(data, headers=headers)

    # How it is answered.

    def _may_write(self, name):
        if self.user and self.may_write and name.startswith(f"{self.user}/"):
            return True
        if self.user:
            self.fail(403, "You don't have the rights to write to this repository")
        else:
            self.fail(401, "Invalid username or password.")
        return False

    def _find(self, name, revision):
        """The files; None after an answer that there are none."""
        is_hidden = name in self.hub.private and not name.startswith(f"{self.user}/")
        if name not in self.hub.commits or is_hidden:
            self.fail(404 if self.user else 401, "Repository not found", code="RepoNotFound")
            return None
        if (files := self.hub.files(name, revision)) is None:
            self.fail(404, f"Invalid rev id: {revision}", code="RevisionNotFound")
        return files

    def _sha(self, name, revision="main"):
        return list(self.hub.commits[name])[-1] if revision == "main" else revision

    def fail(self, status, message, code=""):
        headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self.send(json.dumps({"error": message}).encode(), status, headers)

    def send_json(self, value, status=200):
        self.send(json.dumps(value).encode(), status, {"Content-Type": "application/json"})

    def send(self, body, status=200, headers=(), length=None):
        """Sends an answer; with a `length` greater than the body's, closes the connection early."""
        self.send_response(status)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        self.close_connection = self.close_connection or length is not None


_NAME = r"(?P<name>[^/]+/[^/]+?)"
_ROUTES = [
    (("GET",), "/api/whoami-v2", _Handler.whoami),
    (("POST",), "/api/repos/create", _Handler.create),
    (("POST",), "/api/validate-yaml", _Handler.validate_card),
    (("GET",), f"/api/models/{_NAME}", _Handler.info),
    (("GET",), f"/api/models/{_NAME}/revision/(?P<revision>.+)", _Handler.info),
    (("GET",), f"/api/models/{_NAME}/tree/(?P<revision>.+)", _Handler.tree),
    (("POST",), f"/api/models/{_NAME}/preupload/main", _Handler.preupload),
    (("POST",), rf"/{_NAME}\.git/info/lfs/objects/batch", _Handler.batch),
    (("PUT",), "/large/(?P<oid>[0-9a-f]{64})", _Handler.upload),
    (("POST",), f"/api/models/{_NAME}/commit/main", _Handler.commit),
    (("HEAD", "GET"), f"/{_NAME}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", _Handler.resolve),
]


def _git_oid(data):
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


# Faults.


def status(code, message="out of order"):
    return lambda handler: handler.fail(code, message)


def changed(change):
    """Other bytes, under the hash and the size of the right ones."""

    def answer(handler):
        name, sha, path = re.fullmatch(r"/(.+)/resolve/([^/]+)/(.+)", handler.path).groups()
        handler.send(change(handler.hub.files(name, sha)[path]))

    return answer


def hung_up_once():
    """The first half of a file, then nothing; whoever asks again gets the rest."""
    asked = []

    def answer(handler):
        if asked:
            return True
        asked.append(handler)
        name, sha, path = re.fullmatch(r"/(.+)/resolve/([^/]+)/(.+)", handler.path).groups()
        data = handler.hub.files(name, sha)[path]
        handler.send(data[: len(data) // 2], length=len(data))
        return False

    return answer
