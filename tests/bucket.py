"""A Google Cloud Storage bucket in memory, for one process.

Paths ``gs://…`` of epath go to fsspec's memory file system. TensorStore, through which Orbax writes
arrays, speaks to a server on loopback that has the same files.
"""

import http.server
import json
import os
import re
import threading
import urllib.parse

import fsspec
from fsspec.implementations.memory import MemoryFileSystem


class Bucket(MemoryFileSystem):
    """``gs://`` for fsspec."""

    protocol = ("gs", "gcs")
    store, pseudo_dirs = {}, [""]

    @classmethod
    def _strip_protocol(cls, path):
        return "/" + re.sub(r"^(gs|gcs):/*", "", str(path)).strip("/")


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        """Prints nothing."""

    def do_GET(self):
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        if found := re.fullmatch(r"/storage/v1/b/([^/]+)", url.path):
            return self._send(200, json.dumps({"name": found[1]}).encode())
        bucket, name = re.fullmatch(r"/storage/v1/b/([^/]+)/o(?:/(.*))?", url.path).groups()
        if name is None:
            return self._list(bucket, query.get("prefix", ""))
        file = Bucket.store.get(f"/{bucket}/{urllib.parse.unquote(name)}")
        if file is None:
            return self._send(404, b"{}")
        data, status = file.getvalue(), 200
        if query.get("alt") != "media":
            return self._send(200, json.dumps(self._about(bucket, name, file)).encode())
        if found := re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", "")):
            first, last = found.groups()
            start = int(first) if first else max(len(data) - int(last), 0)
            stop = int(last) + 1 if first and last else len(data)
            if start >= len(data) > 0:
                return self._send(416, b"")
            headers = {"Content-Range": f"bytes {start}-{min(stop, len(data)) - 1}/{len(data)}"}
            data, status = data[start:stop], 206
            return self._send(status, data, headers)
        return self._send(status, data)

    def do_POST(self):
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        bucket = re.fullmatch(r"/upload/storage/v1/b/([^/]+)/o", url.path)[1]
        data = self.rfile.read(int(self.headers["Content-Length"]))
        path = f"/{bucket}/{query['name']}"
        if query.get("ifGenerationMatch") == "0" and path in Bucket.store:
            return self._send(412, b"{}")
        Bucket().pipe_file(path, data)
        about = self._about(bucket, query["name"], Bucket.store[path])
        return self._send(200, json.dumps(about).encode())

    def do_DELETE(self):
        name = re.fullmatch(r"/storage/v1/b/([^/]+)/o/([^?]*).*", self.path)
        path = f"/{name[1]}/{urllib.parse.unquote(name[2])}"
        found = Bucket.store.pop(path, None)
        return self._send(204 if found else 404, b"")

    def _list(self, bucket, prefix):
        items = [
            self._about(bucket, path.removeprefix(f"/{bucket}/"), file)
            for path, file in sorted(Bucket.store.items())
            if path.startswith(f"/{bucket}/{prefix}")
        ]
        return self._send(200, json.dumps({"items": items}).encode())

    def _about(self, bucket, name, file):
        return {"name": name, "bucket": bucket, "generation": "1", "metageneration": "1",
                "size": str(len(file.getvalue()))}  # fmt: skip

    def _send(self, status, data, headers=()):
        self.send_response(status)
        for name, value in (dict(headers) | {"x-goog-generation": "1"}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def mount():
    """Makes ``gs://`` paths of this process such a bucket, before TensorStore is used."""
    for protocol in Bucket.protocol:
        fsspec.register_implementation(protocol, Bucket, clobber=True)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for client in ("TENSORSTORE_GCS_HTTP_URL", "STORAGE_EMULATOR_HOST"):
        os.environ[client] = f"http://127.0.0.1:{server.server_port}"
