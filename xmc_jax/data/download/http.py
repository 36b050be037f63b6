"""Gets single files from web servers: retries what may pass, checks what comes, and gives up.

The loop of retries is here and not in requests' adapter: urllib3's `Retry` ends with the headers,
before a body can be cut off, stall, or be damaged.
"""

import contextlib
import dataclasses
import hashlib
import random
import re
import threading
import time
from collections.abc import Callable

import requests
import urllib3
from requests.exceptions import InvalidSchema, InvalidURL

from xmc_jax.errors import UserError

NOT_AN_IMAGE = "not an image"  # The reason of a file that is whole and cannot be decoded.

_MAX_BYTES = 32 << 20  # Of a body: a hundred times an image of Open Images.
_TIMEOUTS_A_BODY = 10  # A body that trickles in never times out between two bytes.
# Failed attempts in a row after which nothing more is expected: few for a server that has never
# answered, later as many as a pause of a few minutes causes.
_PATIENCE, _PATIENCE_ONCE_ANSWERED = 50, 1000


class Failure(Exception):
    """A file that did not come.

    Attributes:
      reason: A few words, the same for all failures of a kind.
      is_final: Whether another attempt would fail too.
      wait: Seconds that the server asks to wait before another attempt.
      detail: More words about this failure.
    """

    def __init__(self, reason: str, *, is_final: bool = False, wait: float = 0.0, detail: str = ""):
        super().__init__(reason)
        self.reason, self.is_final, self.wait, self.detail = reason, is_final, wait, detail


class Stopped(Exception):
    """`Fetcher.stop` was set."""


def make_session() -> requests.Session:
    """A session for one thread; it keeps connections open between files."""
    session = requests.Session()
    session.max_redirects = 5
    session.headers["Accept-Encoding"] = "identity"  # Lengths and MD5 are of the file itself.
    return session


@dataclasses.dataclass
class Fetcher:
    """Gets files for many threads, and gives up when none of them gets any more.

    Attributes:
      timeout: Seconds without an answer after which an attempt fails.
      num_attempts: Attempts for each file, at least 1.
      backoff: Seconds before the second attempt; each further wait is twice as long.
      stop: Set it to make every thread raise `Stopped` soon.
    """

    timeout: float = 30.0
    num_attempts: int = 7
    backoff: float = 1.0
    stop: threading.Event = dataclasses.field(default_factory=threading.Event)
    _patience: int = _PATIENCE
    _num_failures: int = 0  # In a row, of all threads.
    _lock: contextlib.AbstractContextManager = dataclasses.field(default_factory=threading.Lock)
    _of_thread: threading.local = dataclasses.field(default_factory=threading.local)

    def fetch(self, url: str, convert: Callable[[bytes], bytes]) -> tuple[bytes, int]:
        """Gets a file.

        Args:
          url: Its address.
          convert: Makes the result from the bytes received. Raises ValueError or OSError, as Pillow
            does, if they are not a whole image.

        Returns:
          The result, and the number of bytes received.

        Raises:
          Failure: the file does not come.
          Stopped: `stop` was set.
          UserError: no file comes any more.
        """
        attempt = 0
        while True:
            attempt += 1
            try:
                body, is_whole = self._ask(url)
                try:
                    result = convert(body)
                except (ValueError, OSError) as error:
                    raise Failure(NOT_AN_IMAGE, is_final=is_whole) from error
                self.note_success()
                return result, len(body)
            except Failure as failure:
                self._count(failure, url)
                if failure.is_final or attempt >= self.num_attempts:
                    raise
                # Random, so that threads that failed together do not come back together.
                wait = min(self.backoff * 2 ** (attempt - 1), 60.0) * random.uniform(1, 2)
                if self.stop.wait(max(wait, failure.wait)):
                    raise Stopped from failure

    def note_success(self) -> None:
        """Begins to count failures anew: for a file that need not be asked for, too."""
        self._num_failures = 0

    def _ask(self, url: str) -> tuple[bytes, bool]:
        """One attempt: the body, and whether it is known to be all that the server has."""
        if not hasattr(self._of_thread, "session"):
            self._of_thread.session = make_session()
        session = self._of_thread.session
        try:
            with session.get(url, stream=True, timeout=self.timeout) as response:
                self._patience = _PATIENCE_ONCE_ANSWERED
                # Read whatever the status is: only a connection that was read to its end is reused.
                body = self._read(response.raw)
        except (requests.TooManyRedirects, InvalidURL, InvalidSchema) as error:
            raise Failure("bad redirect", is_final=True) from error
        except (requests.Timeout, urllib3.exceptions.TimeoutError) as error:
            raise Failure("timeout") from error
        except requests.ConnectionError as error:
            cause = getattr(error.args[0], "reason", error)  # Without urllib3's words on retries.
            raise Failure("no connection", detail=f": {cause}") from error
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            # urllib3 compares the body with Content-Length, and looks for the end of its chunks.
            raise Failure("truncated") from error
        status, headers = response.status_code, response.headers
        if status != 200:
            may_pass = status in (408, 425, 429) or status >= 500
            raise Failure(f"HTTP {status}", is_final=not may_pass, wait=_retry_after(response))
        md5 = _md5_of(headers)
        if md5 and md5 != hashlib.md5(body, usedforsecurity=False).hexdigest():
            raise Failure("wrong MD5")
        return body, bool(md5) or "Content-Length" in headers or response.raw.chunked

    def _read(self, raw: urllib3.BaseHTTPResponse) -> bytes:
        """The body as sent; in small steps, since it could be endless or too slow."""
        body, deadline = bytearray(), time.monotonic() + _TIMEOUTS_A_BODY * self.timeout
        while part := raw.read1(1 << 16, decode_content=False):
            body += part
            if len(body) > _MAX_BYTES:
                raise Failure("too large", is_final=True)
            if time.monotonic() > deadline:
                raise Failure("timeout")
        return bytes(body)

    def _count(self, failure: Failure, url: str) -> None:
        """Counts a failed attempt; one too many ends an outage soon and not after all retries."""
        with self._lock:
            self._num_failures += 1
            if self._num_failures < self._patience:
                return
        raise UserError(
            f"no image came in {self._patience} attempts in a row, the last at {url} "
            f"({failure.reason}{failure.detail}); mend the network or the address, then run the "
            "same command: it continues from here"
        )


def _retry_after(response: requests.Response) -> float:
    """Seconds to wait, from the header's seconds or date; 0 if there is none, 600 at most."""
    try:
        wait = urllib3.Retry().parse_retry_after(response.headers.get("Retry-After", "0"))
    except urllib3.exceptions.InvalidHeader:
        return 0.0
    return min(float(wait), 600.0)


def _md5_of(headers: requests.structures.CaseInsensitiveDict) -> str | None:
    """The MD5 of the body where the ETag is one: on S3, others have different hashes as long.

    S3 has none for files uploaded in parts (their ETag has a dash) or encrypted with other keys.
    """
    encryption = headers.get("x-amz-server-side-encryption", "AES256")
    if "x-amz-request-id" not in headers or encryption != "AES256":
        return None
    match = re.fullmatch('"?([0-9a-f]{32})"?', headers.get("ETag", ""))
    return match and match[1]
