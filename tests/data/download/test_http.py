"""fetch.py against a real server that fails in every way we know."""

import email.utils
import hashlib
import itertools
import threading
import time

import pytest

from tests import image_server
from tests.image_server import ImageServer, image_bytes, once, send, status
from xmc_jax.data.download import http
from xmc_jax.data.download.open_images import keep
from xmc_jax.errors import UserError

ID = "00000000000000ab"


@pytest.fixture
def session():
    with http.make_session() as session:
        yield session


def make_fetcher(*, timeout=0.3, num_attempts=3, backoff=0.01):
    return http.Fetcher(timeout, num_attempts, backoff, threading.Event())


def ask(server, session, image_id=ID, convert=keep, **options):
    url = f"{server.url}/train/{image_id}.jpg"
    return make_fetcher(**options).fetch(session, url, convert)


def test_the_bytes_arrive(server, session):
    body = image_bytes(ID)
    assert ask(server, session) == (body, len(body))
    assert ask(server, session, convert=lambda data: data[:7]) == (body[:7], len(body))


@pytest.mark.parametrize("code", [400, 401, 403, 404, 410])
def test_a_refusal_is_final(server, session, code):
    server.faults[ID] = status(code)
    with pytest.raises(http.Failure) as caught:
        ask(server, session)
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
def test_what_may_pass_is_asked_for_again(server, session, reason):
    server.faults[ID] = once(PASSING[reason])
    assert ask(server, session)[0] == image_bytes(ID)
    assert len(server.log) == 2


@pytest.mark.parametrize("reason", PASSING)
def test_but_not_for_ever(server, session, reason):
    server.faults[ID] = PASSING[reason]
    with pytest.raises(http.Failure) as caught:
        ask(server, session)
    assert caught.value.reason == reason.strip() and not caught.value.is_final
    assert len(server.log) == 3


def test_the_waits_double(server, session):
    server.faults[ID] = status(500)
    with pytest.raises(http.Failure):
        ask(server, session, num_attempts=5, backoff=0.05)
    gaps = [b.time - a.time for a, b in itertools.pairwise(server.log)]
    for gap, least in zip(gaps, (0.05, 0.1, 0.2, 0.4), strict=True):
        assert least <= gap < 2 * least + 0.3


def test_those_that_failed_together_do_not_come_back_together(server):
    server.faults = {f"{i:016x}": once(status(500)) for i in range(16)}

    def work(image_id):
        with http.make_session() as session:
            ask(server, session, image_id, backoff=0.5, timeout=5.0)

    threads = [threading.Thread(target=work, args=[image_id]) for image_id in server.faults]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    times = {}
    for request in server.log:
        times.setdefault(request.path, []).append(request.time)
    waits = [b - a for a, b in times.values()]
    # Without jitter all would lie within the noise; uniform in 0.5 to 1 they spread.
    assert min(waits) >= 0.5 and max(waits) - min(waits) > 0.2


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_the_server_says_how_long_to_wait(server, session, form):
    # A date has whole seconds: two ahead are more than one.
    value = "1" if form == "seconds" else email.utils.formatdate(time.time() + 2, usegmt=True)
    server.faults[ID] = once(status(429, ("Retry-After", value)))
    ask(server, session)
    first, second = server.log
    assert 0.99 < second.time - first.time < 4


def test_nonsense_in_retry_after_is_ignored(server, session):
    server.faults[ID] = once(status(503, ("Retry-After", "soon")))
    assert ask(server, session)[0] == image_bytes(ID)


def test_redirects_are_followed_but_not_round_in_circles(server, session):
    away, circle, nowhere = "0" * 16, "1" * 16, "2" * 16
    server.faults[away] = status(302, ("Location", f"/train/{ID}.jpg"))
    server.faults[circle] = status(301, ("Location", f"/train/{circle}.jpg"))
    server.faults[nowhere] = status(302, ("Location", "gopher://127.0.0.1/1"))
    assert ask(server, session, away)[0] == image_bytes(ID)
    for image_id, most in ((circle, 6), (nowhere, 1)):
        server.log.clear()
        with pytest.raises(http.Failure, match="bad redirect"):
            ask(server, session, image_id)
        assert len(server.log) <= most


def test_a_web_page_is_not_an_image(server, session):
    server.faults[ID] = image_server.web_page
    with pytest.raises(http.Failure, match=http.NOT_AN_IMAGE) as caught:
        ask(server, session)
    assert caught.value.is_final and len(server.log) == 1


def test_what_is_published_broken_is_asked_for_once(server, session):
    cut = image_bytes(ID)[:-100]
    server.faults[ID] = lambda handler, count: send(handler, cut, s3=True)
    with pytest.raises(http.Failure, match=http.NOT_AN_IMAGE):
        ask(server, session)
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
def test_a_tag_that_is_no_md5_is_not_held_against_the_bytes(server, session, headers):
    server.faults[ID] = lambda handler, count: send(handler, image_bytes(ID), headers=headers)
    assert ask(server, session)[0] == image_bytes(ID)


def test_a_trickle_ends(server, session):
    server.faults[ID] = image_server.trickling
    start = time.monotonic()
    with pytest.raises(http.Failure, match="timeout"):
        ask(server, session, timeout=0.1, num_attempts=1)
    assert 1 <= time.monotonic() - start < 3


def test_endless_bodies_end(server, session):
    size = http._MAX_BYTES + 1
    server.faults[ID] = lambda handler, count: send(handler, bytes(size))
    with pytest.raises(http.Failure, match="too large"):
        ask(server, session)


def test_connections_are_used_again_whatever_the_status(server, session):
    server.faults |= {"1" * 16: status(404), "2" * 16: once(status(500))}
    for image_id in (ID, "1" * 16, "2" * 16, "3" * 16):
        try:
            ask(server, session, image_id, timeout=5.0)
        except http.Failure:
            pass
    assert len(server.log) == 5 and len({request.port for request in server.log}) == 1


def fetch_all(server, session, fetcher, ids):
    """Asks for one after another; returns what came."""
    came = []
    for image_id in ids:
        try:
            fetcher.fetch(session, f"{server.url}/train/{image_id}.jpg", keep)
            came.append(image_id)
        except http.Failure:
            pass
    return came


IDS = [f"{i:016x}" for i in range(2000)]


def test_no_server_ends_at_once(session):
    with ImageServer() as server:
        pass  # Its port is free again.
    with pytest.raises(UserError, match=r"no image came in 50 attempts .*Connection refused"):
        fetch_all(server, session, make_fetcher(backoff=0.001), IDS)


def test_an_outage_ends_a_run_a_pause_does_not(server, session):
    fetcher = make_fetcher(num_attempts=2, backoff=0.0)
    faulty = {image_id: status(503) for image_id in IDS[1:]}
    server.faults = faulty
    # After an answer it takes as many attempts as there are in fifty images.
    assert fetch_all(server, session, fetcher, IDS[:50]) == IDS[:1]
    server.faults = {}
    assert fetch_all(server, session, fetcher, IDS[:1]) == IDS[:1]
    server.faults, asked = faulty, len(server.log)
    with pytest.raises(UserError, match=r"no image came in 100 attempts .*\(HTTP 503\); mend"):
        fetch_all(server, session, fetcher, IDS[1:])
    assert len(server.log) - asked == 100


def test_a_wrong_address_ends_a_run_too(server, session):
    server.faults = dict.fromkeys(IDS, status(404)) | {IDS[500]: lambda *_: True}
    fetcher = make_fetcher(timeout=5.0)
    assert fetch_all(server, session, fetcher, IDS[:1500]) == [IDS[500]]
    with pytest.raises(UserError, match=r"1000 images in a row are not to be had.*\(HTTP 404\)"):
        fetch_all(server, session, fetcher, IDS[1500:])
    assert len(server.log) == 1501


def test_a_stop_ends_the_waiting(server, session):
    server.faults[ID] = status(500)
    fetcher = make_fetcher(backoff=60.0)
    threading.Timer(0.2, fetcher.stop.set).start()
    start = time.monotonic()
    with pytest.raises(http.Stopped):
        fetcher.fetch(session, f"{server.url}/train/{ID}.jpg", keep)
    assert time.monotonic() - start < 2
