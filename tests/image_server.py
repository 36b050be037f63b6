"""A local web server that has every image, and serves some of them with faults."""

import functools
import hashlib
import io
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

import numpy as np
from PIL import Image


@functools.cache
def image_bytes(image_id: str) -> bytes:
    """A different JPEG for each id, a few kilobytes long."""
    pixels = np.random.default_rng(int(image_id, 16)).integers(0, 256, (48, 64, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


class Request(NamedTuple):
    """One request: its path, its time, and the client's port, which tells connections apart."""

    path: str
    time: float
    port: int


class ImageServer:
    """Serves ``/<split>/<id>.jpg`` as S3 does, or as `faults` says.

    Attributes:
      faults: By image id, ``fault(handler, count)`` answers instead of the image after `count`
        earlier requests; it returns True to serve the image after all.
      before: Called at the beginning of each request.
      log, counts: The requests so far, and their number for each path.
      num_active, max_active: Requests being served now, and the most at the same time so far.
    """

    def __init__(self):
        self.faults: dict[str, Callable] = {}
        self.before: Callable[[], None] = lambda: None
        self.log: list[Request] = []
        self.counts: Counter[str] = Counter()
        self.num_active = self.max_active = 0
        self.lock = threading.Lock()
        self.closing = threading.Event()

    def __enter__(self):
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler_of(self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()

    def asked(self) -> list[str]:
        """Ids of the requested images, in the order of the requests."""
        return [request.path.split("/")[-1].removesuffix(".jpg") for request in self.log]


def _handler_of(server: ImageServer):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # Or bodies wait 40 ms for an acknowledgement.
        image_server = server

        def do_GET(self):
            with server.lock:
                count = server.counts[self.path]
                server.counts[self.path] += 1
                server.log.append(Request(self.path, time.monotonic(), self.client_address[1]))
                server.num_active += 1
                server.max_active = max(server.max_active, server.num_active)
            try:
                server.before()
                image_id = self.path.split("/")[-1].removesuffix(".jpg")
                fault = server.faults.get(image_id)
                if fault is None or fault(self, count):
                    send(self, image_bytes(image_id), s3=True)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True  # The client was killed or gave up.
            finally:
                with server.lock:
                    server.num_active -= 1

        def log_message(self, *_):
            pass

    return Handler


def send(handler, body, *, status=200, headers=(), length=None, s3=False):
    """Sends an answer; with a `length` greater than the body's, closes the connection early."""
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(body) if length is None else length))
    if s3:
        handler.send_header("x-amz-request-id", "0123")
        handler.send_header("ETag", f'"{hashlib.md5(body).hexdigest()}"')
    for name, value in headers:
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)
    if length is not None:
        handler.close_connection = True


# Faults. Their pauses end with the test.


def status(code, *headers):
    return lambda handler, count: send(handler, b"<Error/>", status=code, headers=headers)


def truncated(handler, count):
    body = image_bytes(handler.path[-20:-4])
    send(handler, body[:-100], length=len(body))


def truncated_chunks(handler, count):
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    handler.wfile.write(b"400\r\n" + image_bytes(handler.path[-20:-4])[:1024] + b"\r\n")
    handler.close_connection = True


def truncated_unseen(handler, count):
    """Neither a length nor chunks: only decoding shows that the end is missing."""
    handler.send_response(200)
    handler.send_header("Connection", "close")
    handler.end_headers()
    handler.wfile.write(image_bytes(handler.path[-20:-4])[:-100])


def hung_up(handler, count):
    handler.close_connection = True


def silent(handler, count):
    handler.image_server.closing.wait(30)
    handler.close_connection = True


def stalled(handler, count):
    body = image_bytes(handler.path[-20:-4])
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body[:100])
    silent(handler, count)


def trickling(handler, count):
    """One byte at a time, so that no single read is late."""
    body = image_bytes(handler.path[-20:-4])
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    for byte in body:
        if handler.image_server.closing.wait(0.03):
            break
        handler.wfile.write(bytes([byte]))
    handler.close_connection = True


def damaged(handler, count):
    """The right length, but ten wrong bytes."""
    body = bytearray(image_bytes(handler.path[-20:-4]))
    right = hashlib.md5(body).hexdigest()
    body[200:210] = bytes(10)
    send(handler, bytes(body), headers=[("ETag", f'"{right}"'), ("x-amz-request-id", "0123")])


def web_page(handler, count):
    send(handler, b"<html>Please log in</html>", headers=[("Content-Type", "text/html")])


def once(fault):
    """The fault, at the first request only."""
    return lambda handler, count: fault(handler, count) if count == 0 else True
