"""http.py against a real server that fails in every way we know."""

import email.utils
import hashlib
import threading
import time

import pytest

from tests import image_server
from tests.image_server import ImageServer, image_bytes, once, send, status
from xmc_jax.data.download import http
from xmc_jax.data.download.open_images import keep
from xmc_jax.errors import UserError

ID = "00000000000000ab"


class Waits(threading.Event):
    """In the place of `Fetcher.stop`: writes down the waits and does not wait."""

    def __init__(self):
        super().__init__()
        self.seconds = []

    def wait(self, timeout=None):
        self.seconds.append(timeout)
        return False


def make_fetcher(*, timeout=5.0, num_attempts=3, backoff=0.01, stop=None):
    return http.Fetcher(timeout, num_attempts, backoff, stop or threading.Event())


def ask(server, image_id=ID, convert=keep, **options):
    return make_fetcher(**options).fetch(f"{server.url}/train/{image_id}.jpg", convert)


def test_the_bytes_arrive(server):
    body = image_bytes(ID)
    assert ask(server) == (body, len(body))
    assert ask(server, convert=lambda data: data[:7]) == (body[:7], len(body))


@pytest.mark.parametrize("code", [400, 401, 403, 404, 410])
def test_a_refusal_is_final(server, code):
    server.faults[ID] = status(code)
    with pytest.raises(http.Failure) as caught:
        ask(server)
    assert caught.value.reason == f"HTTP {code}" and caught.value.is_final
    assert len(server.log) == 1


PASSING = {
    "HTTP 408": status(408),
    "HTTP 429": status(429),
    "HTTP 500": status(500),
    "HTTP 503": status(503),
    "truncated": image_server.truncated,
    "truncated ": image_server.truncated_chunks,
    "no connection": image_server.hung_up,
    "timeout": image_server.silent,
    "timeout ": image_server.stalled,
    "wrong MD5": image_server.damaged,
    "not an image": image_server.truncated_unseen,
}


@pytest.mark.parametrize("reason", PASSING)
def test_what_may_pass_is_asked_for_again_but_not_for_ever(server, reason):
    fault, options = PASSING[reason], {"timeout": 0.4} if "timeout" in reason else {}
    server.faults[ID] = once(fault)
    assert ask(server, **options)[0] == image_bytes(ID)
    assert len(server.log) == 2
    server.faults[ID] = fault
    with pytest.raises(http.Failure) as caught:
        ask(server, **{"timeout": 0.1} if options else {})
    assert caught.value.reason == reason.strip() and not caught.value.is_final
    assert len(server.log) == 5


def test_the_waits_double_and_differ(server):
    server.faults[ID] = status(500)
    firsts = []
    for _ in range(8):
        waits = Waits()
        with pytest.raises(http.Failure):
            ask(server, num_attempts=9, backoff=1.0, stop=waits)
        for wait, least in zip(waits.seconds, (1, 2, 4, 8, 16, 32, 60, 60), strict=True):
            assert least <= wait <= 2 * least
        firsts.append(waits.seconds[0])
    # Requests that failed together do not come back together.
    assert max(firsts) - min(firsts) > 0.1


@pytest.mark.parametrize("form", ["seconds", "date", "too long"])
def test_the_server_says_how_long_to_wait(server, form):
    value = {"seconds": "40", "too long": "86400"}.get(form)
    value = value or email.utils.formatdate(time.time() + 40, usegmt=True)
    server.faults[ID] = once(status(429, ("Retry-After", value)))
    waits = Waits()
    ask(server, stop=waits)
    (wait,) = waits.seconds
    assert wait == 600 if form == "too long" else 35 < wait <= 40


def test_nonsense_in_retry_after_is_ignored(server):
    server.faults[ID] = once(status(503, ("Retry-After", "soon")))
    assert ask(server)[0] == image_bytes(ID)


def test_redirects_are_followed_but_not_round_in_circles(server):
    away, circle, nowhere = "0" * 16, "1" * 16, "2" * 16
    server.faults[away] = status(302, ("Location", f"/train/{ID}.jpg"))
    server.faults[circle] = status(301, ("Location", f"/train/{circle}.jpg"))
    server.faults[nowhere] = status(302, ("Location", "gopher://127.0.0.1/1"))
    assert ask(server, away)[0] == image_bytes(ID)
    for image_id, most in ((circle, 6), (nowhere, 1)):
        server.log.clear()
        with pytest.raises(http.Failure, match="bad redirect"):
            ask(server, image_id)
        assert len(server.log) <= most


def test_a_web_page_is_not_an_image(server):
    server.faults[ID] = image_server.web_page
    with pytest.raises(http.Failure, match=http.NOT_AN_IMAGE) as caught:
        ask(server)
    assert caught.value.is_final and len(server.log) == 1


def test_what_is_published_broken_is_asked_for_once(server):
    cut = image_bytes(ID)[:-100]
    server.faults[ID] = lambda handler, count: send(handler, cut, s3=True)
    with pytest.raises(http.Failure, match=http.NOT_AN_IMAGE):
        ask(server)
    assert len(server.log) == 1


OTHER = hashlib.md5(b"other").hexdigest()


@pytest.mark.parametrize(
    "headers",
    [
        [("ETag", f'"{OTHER}"')],
        [("ETag", f'"{OTHER}-3"'), ("x-amz-request-id", "1")],
        [
            ("ETag", f'"{OTHER}"'),
            ("x-amz-request-id", "1"),
            ("x-amz-server-side-encryption", "aws:kms"),
        ],
    ],
)
def test_a_tag_that_is_no_md5_is_not_held_against_the_bytes(server, headers):
    server.faults[ID] = lambda handler, count: send(handler, image_bytes(ID), headers=headers)
    assert ask(server)[0] == image_bytes(ID)


def test_a_trickle_ends(server, monkeypatch):
    monkeypatch.setattr(http, "_TIMEOUTS_A_BODY", 3)
    server.faults[ID] = image_server.trickling
    with pytest.raises(http.Failure, match="timeout"):
        ask(server, timeout=0.1, num_attempts=1)


def test_endless_bodies_end(server):
    size = http._MAX_BYTES + 1
    server.faults[ID] = lambda handler, count: send(handler, bytes(size))
    with pytest.raises(http.Failure, match="too large"):
        ask(server)


def fetch_all(server, fetcher, ids):
    """Asks for one after another; returns those that came."""
    came = []
    for image_id in ids:
        try:
            fetcher.fetch(f"{server.url}/train/{image_id}.jpg", keep)
            came.append(image_id)
        except http.Failure:
            pass
    return came


IDS = [f"{i:016x}" for i in range(200)]


def test_connections_are_used_again_whatever_the_status(server):
    server.faults |= {IDS[1]: status(404), IDS[2]: once(status(500))}
    assert fetch_all(server, make_fetcher(), IDS[:4]) == [IDS[0], IDS[2], IDS[3]]
    assert len(server.log) == 5 and len({request.port for request in server.log}) == 1


def test_no_server_ends_at_once():
    with ImageServer() as server:
        pass  # Its port is free again.
    with pytest.raises(UserError, match=r"no image came in 50 attempts .*Connection refused"):
        fetch_all(server, make_fetcher(backoff=0.001), IDS)


@pytest.mark.parametrize("code,num_attempts", [(503, 2), (404, 1)])
def test_an_outage_ends_a_run_a_pause_does_not(server, monkeypatch, code, num_attempts):
    monkeypatch.setattr(http, "_PATIENCE_ONCE_ANSWERED", 100)
    fetcher = make_fetcher(num_attempts=num_attempts, backoff=0.0)
    server.faults = dict.fromkeys(IDS, status(code))
    pause = IDS[: 99 // num_attempts]
    assert fetch_all(server, fetcher, pause) == []
    server.faults[IDS[0]] = lambda *_: True
    assert fetch_all(server, fetcher, IDS[:1]) == IDS[:1]
    server.log.clear()
    with pytest.raises(UserError, match=rf"no image came in 100 attempts .*\(HTTP {code}\); mend"):
        fetch_all(server, fetcher, IDS[1:])
    assert len(server.log) == 100


def test_a_stop_ends_the_waiting(server):
    server.faults[ID] = status(500)
    fetcher = make_fetcher(backoff=60.0)
    threading.Timer(0.1, fetcher.stop.set).start()
    with pytest.raises(http.Stopped):
        fetcher.fetch(f"{server.url}/train/{ID}.jpg", keep)
