"""A file from a web server: asked for again where that helps, checked, and not for ever.

The loop is our own: urllib3's `Retry` is over when the headers are there, before a body can be cut
off, stall or come damaged.
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

NOT_AN_IMAGE = "not an image"  # The reason of what came whole and cannot be decoded.

_MAX_BYTES = 32 << 20  # Of a body: a hundred times a picture of Open Images.
_MAX_REDIRECTS = 5
_MAX_WAIT = 60.0  # Seconds between two attempts, unless the server asks for more…
_MAX_RETRY_AFTER = 600.0  # …and what it may ask for.
_TIMEOUTS_A_BODY = 10  # A body that trickles never times out between two bytes.
_OUTAGE_ATTEMPTS = 50
_REFUSED_IN_A_ROW = 1000


class Failure(Exception):
    """An image that does not come.

    Attributes:
      reason: A few words, the same for all that fail alike.
      is_final: Whether asking again would be in vain.
      wait: Seconds that the server wants to be left alone.
      detail: More words, of this one.
    """

    def __init__(self, reason: str, *, is_final: bool = False, wait: float = 0.0, detail: str = ""):
        super().__init__(reason)
        self.reason, self.is_final, self.wait, self.detail = reason, is_final, wait, detail


class Stopped(Exception):
    """`Fetcher.stop` was set meanwhile."""


def make_session() -> requests.Session:
    """Connections of one thread, kept open between files."""
    session = requests.Session()
    session.max_redirects = _MAX_REDIRECTS
    session.headers["Accept-Encoding"] = "identity"  # Lengths and MD5 are of the file itself.
    return session


@dataclasses.dataclass
class Fetcher:
    """Fetches images for many threads, and sees from all of them together when to give up.

    Attributes:
      timeout: Seconds without an answer after which an attempt is given up.
      num_attempts: How often to ask for an image, at least 1.
      backoff: Seconds before the second attempt; each further wait is twice as long.
      stop: Set to make every thread raise `Stopped` soon.
    """

    timeout: float = 30.0
    num_attempts: int = 7
    backoff: float = 1.0
    stop: threading.Event = dataclasses.field(default_factory=threading.Event)
    _has_answered: bool = False
    _num_vain: int = 0  # Attempts in a row that failed as another one might not.
    _num_refused: int = 0  # Images in a row that are not to be had.
    _lock: contextlib.AbstractContextManager = dataclasses.field(default_factory=threading.Lock)

    def fetch(
        self, session: requests.Session, url: str, convert: Callable[[bytes], bytes]
    ) -> tuple[bytes, int]:
        """The converted image, and how many bytes were received for it.

        Raises:
          Failure: it does not come.
          Stopped: `stop` was set.
          UserError: nothing comes any more.
        """
        attempt = 0
        while True:
            attempt += 1
            try:
                body, is_whole = self._ask(session, url)
                try:
                    data = convert(body)
                except (ValueError, OSError) as error:
                    raise Failure(NOT_AN_IMAGE, is_final=is_whole) from error
                self._take_note(None, url)
                return data, len(body)
            except Failure as failure:
                self._take_note(failure, url)
                if failure.is_final or attempt >= self.num_attempts:
                    raise
                # Jitter: those that failed together shall not come back together.
                wait = min(self.backoff * 2 ** (attempt - 1), _MAX_WAIT) * random.uniform(1, 2)
                if self.stop.wait(max(wait, failure.wait)):
                    raise Stopped from failure

    def _ask(self, session: requests.Session, url: str) -> tuple[bytes, bool]:
        """One attempt: the body, and whether it is known to be all that the server has."""
        try:
            with session.get(url, stream=True, timeout=self.timeout) as response:
                self._has_answered = True
                # Whatever the status: only a connection that was read to the end is used again.
                body = self._read(response.raw)
        except (requests.TooManyRedirects, InvalidURL, InvalidSchema) as error:
            raise Failure("bad redirect", is_final=True) from error
        except (requests.Timeout, urllib3.exceptions.TimeoutError) as error:
            raise Failure("timeout") from error
        except requests.ConnectionError as error:
            cause = getattr(error.args[0], "reason", error)  # Without urllib3's own retries.
            raise Failure("no connection", detail=f": {cause}") from error
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            # urllib3 holds the bytes against Content-Length, and the end of a chunked body.
            raise Failure("truncated") from error
        status, headers = response.status_code, response.headers
        if status in (408, 425, 429) or status >= 500:
            raise Failure(f"HTTP {status}", wait=_retry_after(headers.get("Retry-After", "0")))
        if status != 200:
            raise Failure(f"HTTP {status}", is_final=True)
        md5 = _md5_of(headers)
        if md5 and md5 != hashlib.md5(body, usedforsecurity=False).hexdigest():
            raise Failure("wrong MD5")
        return body, bool(md5) or "Content-Length" in headers or response.raw.chunked

    def _read(self, raw: urllib3.BaseHTTPResponse) -> bytes:
        """The body, as sent; in small steps, so that it can be neither endless nor too slow."""
        body, deadline = bytearray(), time.monotonic() + _TIMEOUTS_A_BODY * self.timeout
        while part := raw.read1(1 << 16, decode_content=False):
            body += part
            if self.stop.is_set():
                raise Stopped
            if len(body) > _MAX_BYTES:
                raise Failure("too large", is_final=True)
            if time.monotonic() > deadline:
                raise Failure("timeout")
        return bytes(body)

    def _take_note(self, failure: Failure | None, url: str) -> None:
        """Counts failures, to stop in an outage and not after hours of retries.

        Before the first answer a few attempts will do. Later a pause must be survived: as many
        attempts as it takes to give up on that many images.

        Raises:
          UserError: enough.
        """
        with self._lock:
            if failure is None:
                self._num_vain = self._num_refused = 0
                return
            if failure.is_final:
                self._num_vain = 0
                self._num_refused += 1
            else:
                self._num_vain += 1
            patience = _OUTAGE_ATTEMPTS * (self.num_attempts if self._has_answered else 1)
            vain, refused = self._num_vain >= patience, self._num_refused >= _REFUSED_IN_A_ROW
        if vain or refused:
            what = (
                f"no image came in {patience} attempts in a row"
                if vain
                else f"{_REFUSED_IN_A_ROW} images in a row are not to be had"
            )
            raise UserError(
                f"{what}, the last at {url} ({failure.reason}{failure.detail}); mend the network "
                "or the address, then run the same command: it goes on from here"
            )


def _retry_after(value: str) -> float:
    """Seconds to wait, from the header's seconds or date."""
    try:
        return min(float(urllib3.Retry().parse_retry_after(value)), _MAX_RETRY_AFTER)
    except urllib3.exceptions.InvalidHeader:
        return 0.0


def _md5_of(headers: requests.structures.CaseInsensitiveDict) -> str | None:
    """The MD5 of the body where the ETag is one.

    Only S3 says so, others put different hashes of the same length there; and S3 means it neither
    for what was uploaded in parts (its ETag has a dash) nor for what it keeps under other keys.
    """
    encryption = headers.get("x-amz-server-side-encryption", "AES256")
    if "x-amz-request-id" not in headers or encryption != "AES256":
        return None
    match = re.fullmatch('"?([0-9a-f]{32})"?', headers.get("ETag", ""))
    return match and match[1]
