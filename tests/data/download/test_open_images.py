"""open_images.py against a real server: whole files at every moment, whatever happens."""

import fcntl
import io
import json
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests import image_server
from tests.image_server import image_bytes, once, status
from tests.places import ROOT
from xmc_jax import console
from xmc_jax.data import preprocess
from xmc_jax.data.download import http
from xmc_jax.data.download import open_images as module
from xmc_jax.data.download.open_images import RemoteImage, Summary, download, path_of
from xmc_jax.errors import UserError


def names(count, start=0, split="train"):
    """Images whose ids differ in their first digits, as the published ones do."""
    return [RemoteImage(split, f"{i * 0x9E3779B97F4A7C15 % 2**64:016x}") for i in range(count)][
        start:
    ]


def bring(server, images, folder, num_connections=4, **options):
    """`download` from the server, with two quick attempts for each image."""
    return download(
        images,
        folder,
        base_url=server.url,
        num_connections=num_connections,
        fetcher=http.Fetcher(timeout=10.0, num_attempts=2, backoff=0.01),
        **options,
    )


def files_in(folder):
    return sorted(path for path in Path(folder).rglob("*") if path.is_file())


def images_in(folder):
    """Every image of the folder; each must be whole."""
    found = {path.stem: path.read_bytes() for path in Path(folder).rglob("*.jpg")}
    for image_id, data in found.items():
        assert data == image_bytes(image_id)
    return found


def missing_in(folder):
    lines = (folder / module.MISSING_FILE).read_text().splitlines()
    return {RemoteImage(r["split"], r["id"]): r["reason"] for r in map(json.loads, lines)}


def test_files_lie_where_they_should_as_they_were_published(server, tmp_path):
    images = names(6) + names(3, split="validation") + names(2, split="test")
    summary = bring(server, images, tmp_path)
    assert summary == Summary(0, 11, sum(len(image_bytes(i.id)) for i in images))
    for image in images:
        expected = tmp_path / image.split / image.id[:2] / f"{image.id}.jpg"
        assert path_of(tmp_path, image) == expected
        assert expected.read_bytes() == image_bytes(image.id)
    others = {p.name for p in files_in(tmp_path)} - {f"{i.id}.jpg" for i in images}
    assert others == {".lock", module.MISSING_FILE}
    assert missing_in(tmp_path) == {}
    assert sorted(r.path for r in server.log) == sorted(f"/{i.split}/{i.id}.jpg" for i in images)


def squash(data, image=None):
    """A square of 16 pixels, as a builder makes it."""
    pixels = preprocess.load(data, "x", 16, crop="squash", antialias=True)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def test_images_are_converted_on_arrival(server, tmp_path):
    images = names(20)
    server.faults = {images[3].id: image_server.web_page, images[4].id: once(image_server.damaged)}
    summary = bring(server, images, tmp_path, convert=squash)
    assert summary.num_downloaded == 19 and summary.missing == {images[3]: "not an image"}
    for image in set(images) - {images[3]}:
        data = path_of(tmp_path, image).read_bytes()
        assert data == squash(image_bytes(image.id))
        assert np.asarray(Image.open(io.BytesIO(data))).shape == (16, 16, 3)


def test_a_png_is_not_kept_as_a_jpeg():
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "PNG")
    with pytest.raises(ValueError):
        module.keep(buffer.getvalue())


def test_as_many_at_a_time_as_asked_for_and_no_more(server, tmp_path):
    together = threading.Barrier(8)
    server.before = lambda: together.wait(5)  # Nobody is served before eight have come.
    summary = bring(server, names(64), tmp_path, num_connections=8)
    assert summary.num_downloaded == 64
    assert server.max_active == 8
    assert len({request.port for request in server.log}) == 8


def test_only_what_is_not_there_is_asked_for(server, tmp_path):
    images = names(20)
    server.faults = {image.id: status(500) for image in images[:5]}
    missing = dict.fromkeys(images[:5], "HTTP 500")
    assert bring(server, images, tmp_path).missing == missing
    path_of(tmp_path, images[7]).write_bytes(b"")  # As a crash of the machine may leave it.
    path_of(tmp_path, images[0]).parent.mkdir(parents=True, exist_ok=True)
    path_of(tmp_path, images[0]).with_suffix(".part").write_bytes(b"half of i")
    server.faults = {}
    server.log.clear()
    summary = bring(server, images, tmp_path)
    assert (summary.num_present, summary.num_downloaded) == (14, 6)
    assert set(server.asked()) == {image.id for image in [*images[:5], images[7]]}
    assert len(images_in(tmp_path)) == 20 and not list(tmp_path.rglob("*.part"))
    assert missing_in(tmp_path) == {}


def test_a_full_folder_needs_no_network(server, tmp_path):
    images = names(10)
    bring(server, images, tmp_path)
    summary = download(images, tmp_path, base_url="http://127.0.0.1:9")
    assert summary == Summary(10)


def test_the_list_of_the_missing_covers_all_calls(server, tmp_path, capsys):
    train, val = names(8), names(8, split="validation")
    server.faults = {
        train[0].id: status(404),  # The same ids are in both splits here.
        train[1].id: status(403),
        train[2].id: image_server.web_page,
        train[3].id: image_server.truncated,
    }
    reasons = ["HTTP 404", "HTTP 403", "not an image", "truncated"]
    summary = bring(server, train, tmp_path)
    assert summary.missing == dict(zip(train[:4], reasons, strict=True))
    assert "1 HTTP 403, 1 HTTP 404, 1 not an image, 1 truncated; listed in" in (
        capsys.readouterr().err
    )
    bring(server, val, tmp_path)
    expected = dict(zip([*train[:4], *val[:4]], reasons * 2, strict=True))
    assert missing_in(tmp_path) == expected
    server.faults = {train[0].id: status(410)}
    bring(server, train, tmp_path)
    assert missing_in(tmp_path) == {train[0]: "HTTP 410"} | dict(zip(val[:4], reasons, strict=True))


def test_a_name_given_twice_counts_once(server, tmp_path):
    images = names(5)
    summary = bring(server, [image for image in images for _ in range(3)], tmp_path)
    assert summary == Summary(0, 5, sum(len(image_bytes(i.id)) for i in images))
    assert sorted(server.asked()) == sorted(image.id for image in images)


@pytest.mark.parametrize(
    "image",
    [("train", "../../../../etc"), ("dev", "0" * 16), ("train", "0" * 15), ("test", "A" * 16)],
)
def test_other_names_are_refused(server, tmp_path, image):
    with pytest.raises(UserError, match=re.escape("/".join(image)) + " is not an image"):
        bring(server, [RemoteImage(*image)], tmp_path)
    assert not server.log


def test_faults_of_the_caller_come_through(server, tmp_path):
    with pytest.raises(ZeroDivisionError):
        bring(server, names(50), tmp_path / "b", convert=lambda data, image: bytes([1 // 0]))
    assert not list((tmp_path / "b").rglob("*.jpg"))
    with pytest.raises(UserError, match="must begin with"):
        download(names(5), tmp_path, base_url="ftp://host")


def test_a_list_that_is_none_is_left_alone(server, tmp_path):
    (tmp_path / module.MISSING_FILE).write_text("my notes\n")
    with pytest.raises(UserError, match="not a list of missing images"):
        bring(server, names(5), tmp_path)
    assert (tmp_path / module.MISSING_FILE).read_text() == "my notes\n"


def test_an_unwritable_folder_is_one_clear_line(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write .*file.*: "):
        bring(server, names(5), tmp_path / "file")
    (tmp_path / "train").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*train/.*\.jpg: .*continues from here"):
        bring(server, names(5), tmp_path)


def test_two_do_not_fill_one_folder(server, tmp_path):
    with open(tmp_path / ".lock", "w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another process is downloading"):
            bring(server, names(5), tmp_path)
    assert bring(server, names(5), tmp_path).num_downloaded == 5


def test_an_outage_stops_the_run(server, tmp_path, monkeypatch):
    monkeypatch.setattr(http, "_PATIENCE_ONCE_ANSWERED", 100)
    images = names(200)
    server.faults = {image.id: status(503) for image in images[40:]}
    with pytest.raises(UserError, match=r"no image came in 100 attempts .*HTTP 503"):
        bring(server, images, tmp_path)
    assert len(images_in(tmp_path)) == 40
    assert set(missing_in(tmp_path).values()) == {"HTTP 503"}


def test_what_is_missing_for_good_is_no_outage(server, tmp_path, monkeypatch):
    monkeypatch.setattr(http, "_PATIENCE_ONCE_ANSWERED", 30)
    images = names(120)
    server.faults = {image.id: status(404) for image in images[::3]}
    for num_present in (0, 80):
        summary = bring(server, images, tmp_path)
        assert (summary.num_present, len(summary.missing)) == (num_present, 40)


def test_progress_has_a_rate_and_an_eta(server, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(console, "_EVERY_SECONDS", 0.25)
    server.before = lambda: time.sleep(0.05)
    images = names(60)
    bring(server, images[:20], tmp_path)
    capsys.readouterr()
    bring(server, images, tmp_path)
    lines = capsys.readouterr().err.splitlines()
    known = [line for line in lines if "/60" in line]
    for line in known:
        count, rate, minutes, seconds = re.fullmatch(
            r"images (\d+)/60  ([\d.]+) images/s  ETA (\d+):(\d\d)  [\d.]+ MB/s  missing 0", line
        ).groups()
        # What was there already is done, but makes no rate: 4 connections, 20 a second each.
        assert int(count) >= 20 and 10 < float(rate) <= 80
        eta = 60 * int(minutes) + int(seconds)
        assert abs(eta - (60 - int(count)) / float(rate)) <= 0.6
    assert known
    assert re.fullmatch(
        r"downloaded 40 images \(\d\.\d MB\) in 0:0\d, 20 were there, 0 are missing",
        next(line for line in lines if line.startswith("downloaded 40")),
    )


# Below: real processes that are killed, stopped, or have no room.

SCRIPT = """
    import resource, sys
    from xmc_jax.data.download.open_images import RemoteImage, download
    from xmc_jax.errors import UserError
    url, folder, first, last, limit = sys.argv[1:]
    if int(limit):
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))  # As a full disk.
    images = [
        RemoteImage("train", f"{i * 0x9E3779B97F4A7C15 % 2**64:016x}")
        for i in range(int(first), int(last))
    ]
    try:
        print(download(images, folder, base_url=url, num_connections=8))
    except UserError as error:
        sys.exit(f"error: {error}")
"""


def start(server, folder, *, first=0, last, limit=0):
    """The script above in a process of its own."""
    arguments = [server.url, folder, first, last, limit]
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_until(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.005)


def test_a_killed_run_leaves_whole_files_and_the_same_call_completes_it(server, tmp_path):
    count = 200
    server.before = lambda: time.sleep(0.01)
    process = start(server, tmp_path, last=count)
    # Looks at all files all the time, and so surely at many that have just been named.
    wait_until(lambda: len(images_in(tmp_path)) >= 50)
    process.kill()
    process.communicate()
    present = len(images_in(tmp_path))
    assert 50 <= present < count
    wait_until(lambda: server.num_active == 0)
    server.log.clear()
    summary = bring(server, names(count), tmp_path)
    assert (summary.num_present, summary.num_downloaded) == (present, count - present)
    assert len(server.log) == count - present
    assert len(images_in(tmp_path)) == count and not list(tmp_path.rglob("*.part"))


def test_ctrl_c_stops_it_soon(server, tmp_path, ctrl_c):
    silent = names(100)[60:]  # Requests that hang, for much longer than anyone waits here.
    server.faults = {image.id: image_server.silent for image in silent}
    process = start(server, tmp_path, last=100)
    wait_until(lambda: server.num_active == 8 and len(images_in(tmp_path)) == 60)
    begin = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert time.monotonic() - begin < 5
    assert process.returncode == -signal.SIGINT
    assert "stopped; to go on, run the same command: it continues from here" in errors
    assert len(images_in(tmp_path)) == 60 and not list(tmp_path.rglob("*.part"))
    assert missing_in(tmp_path) == {}  # Nobody knows of those that were not answered.


def test_a_full_disk_is_one_clear_line(server, tmp_path):
    sizes = {image: len(image_bytes(image.id)) for image in names(60)}
    limit = int(np.median(list(sizes.values())))  # Half of the files have room.
    process = start(server, tmp_path, last=60, limit=limit)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    (line,) = errors.splitlines()
    assert re.fullmatch(
        r"error: cannot write .*\.jpg: File too large; mend that and run the .*", line
    )
    assert not list(tmp_path.rglob("*.part"))
    images_in(tmp_path)
