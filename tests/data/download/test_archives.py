"""archives.py: found, downloaded over real connections that break, and read in place."""

import fcntl
import hashlib
import http.server
import threading
import tracemalloc
import zipfile
import zlib

import pytest
from PIL import Image

from xmc_jax.data.builders import images
from xmc_jax.data.builders.coco import coco_dataset_builder
from xmc_jax.data.download import archives
from xmc_jax.errors import UserError

DATA = bytes(range(256)) * 12_000  # About 3 MB.


@pytest.fixture
def server():
    """A server of DATA at ``/NAME``; ``server.breaks`` says after how many bytes it hangs up."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            offset = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
            owner.offsets.append(offset)
            if self.path == "/absent.zip":
                return self.send_error(404)
            if owner.ranges and offset >= len(DATA):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(DATA)}")
                return self.end_headers()
            start = offset if owner.ranges else 0
            self.send_response(206 if owner.ranges and offset else 200)
            self.send_header("Content-Length", str(len(DATA) - start))
            self.end_headers()
            stop = start + owner.breaks.pop(0) if owner.breaks else len(DATA)
            self.wfile.write(DATA[start:stop])

        def log_message(self, *args):
            pass

    owner = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    owner.offsets, owner.breaks, owner.ranges = [], [], True
    owner.url = f"http://127.0.0.1:{owner.server_port}"
    thread = threading.Thread(target=owner.serve_forever, args=(0.01,))
    thread.start()
    yield owner
    owner.shutdown()
    thread.join()
    owner.server_close()


def fetch(server, folder, name="a.zip"):
    return archives.fetch({name: f"{server.url}/{name}"}, [folder, folder])[name]


def names_in(folder):
    return [path.name for path in folder.iterdir() if not path.name.endswith(".lock")]


def test_downloads_once(server, tmp_path, capsys):
    path = fetch(server, tmp_path / "new")
    assert path.read_bytes() == DATA
    assert "downloading a.zip 3/3  " in capsys.readouterr().err
    assert fetch(server, tmp_path / "new") == path and server.offsets == [0]
    assert f"using {path}" in capsys.readouterr().err


def test_a_download_must_be_what_was_published(server, tmp_path, monkeypatch):
    known = {f"{server.url}/a.zip": hashlib.sha256(DATA).hexdigest(), f"{server.url}/b.zip": "0"}
    for address, sha256 in known.items():
        monkeypatch.setitem(archives._checksums(), address, sha256)
    assert fetch(server, tmp_path).read_bytes() == DATA
    with pytest.raises(UserError, match="b.zip is not the published one .* run the same command"):
        fetch(server, tmp_path, "b.zip")
    assert names_in(tmp_path) == ["a.zip"]
    published = [*archives.COCO_IMAGES.values(), coco_dataset_builder._ADDRESS]
    assert set(published) <= archives._checksums().keys()


def test_goes_on_where_the_connection_broke(server, tmp_path):
    server.breaks = [2_000_000, 500_000]
    assert fetch(server, tmp_path).read_bytes() == DATA
    assert server.offsets == [0, 2_000_000, 2_500_000]


def test_goes_on_where_an_earlier_command_stopped(server, tmp_path):
    server.breaks = [1_000_000, 0]
    with pytest.raises(UserError, match="cannot download .*run the same command to continue"):
        fetch(server, tmp_path)
    assert names_in(tmp_path) == ["a.zip.part"]
    assert fetch(server, tmp_path).read_bytes() == DATA
    assert server.offsets == [0, 1_000_000, 1_000_000]


def test_a_whole_part_only_needs_its_name(server, tmp_path):
    (tmp_path / "a.zip.part").write_bytes(DATA)
    assert fetch(server, tmp_path).read_bytes() == DATA
    assert names_in(tmp_path) == ["a.zip"]


def test_a_part_of_a_longer_file_is_not_kept(server, tmp_path):
    (tmp_path / "a.zip.part").write_bytes(DATA + b"more")
    with pytest.raises(UserError, match="416 .* run the same command"):
        fetch(server, tmp_path)
    assert fetch(server, tmp_path).read_bytes() == DATA


def test_a_server_that_cannot_go_on_sends_all_again(server, tmp_path):
    server.ranges = False
    server.breaks = [1_000_000]
    assert fetch(server, tmp_path).read_bytes() == DATA


def test_what_cannot_be_had_is_named_with_the_mend(server, tmp_path):
    (tmp_path / "here.zip").write_bytes(DATA)
    addresses = {f"{n}.zip": f"{server.url}/{n}.zip" for n in ("here", "absent", "other")}
    with pytest.raises(UserError) as caught:
        archives.fetch(addresses, [tmp_path, tmp_path])
    text = str(caught.value)
    assert "404" in text and f"put absent.zip and other.zip into {tmp_path}" in text
    assert f"from {server.url}/absent.zip and {server.url}/other.zip" in text
    assert "\n" not in text


def test_two_commands_do_not_write_one_file(server, tmp_path):
    with open(tmp_path / ".a.zip.lock", "ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another process is downloading a.zip to"):
            fetch(server, tmp_path)
    assert fetch(server, tmp_path).read_bytes() == DATA and server.offsets == [0]


def test_a_full_disk_is_one_line(server, tmp_path):
    (tmp_path / "a.zip.part").symlink_to("/dev/full")
    with pytest.raises(UserError, match="No space left"):
        fetch(server, tmp_path)


def test_images_are_found_by_their_names(tmp_path):
    path = tmp_path / "train2014.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("train2014/COCO_train2014_000000000009.jpg", b"nine")
        archive.writestr("train2014/README", b"")
        archive.writestr("train2014/COCO_train2014_9.jpg", b"")
    found = archives.index_coco({"train2014.zip": path}, "train")
    assert {name: location.read() for name, location in found.items()} == {"000000000009": b"nine"}
    with pytest.raises(UserError, match="another archive than http://.*val2014.zip"):
        archives.index_coco({"val2014.zip": path}, "val")
    with pytest.raises(UserError, match="has no x.json; it is another archive than ADDRESS"):
        archives.read_json(path, "x.json", "ADDRESS")


@pytest.mark.parametrize("content", ["cut", "html", "empty", "corrupt"])
def test_damaged_archives_are_one_line(tmp_path, content):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.json", '{"text": "' + "ab" * 5000 + '"}')
    whole = path.read_bytes()
    path.write_bytes(
        {
            "cut": whole[:-30],
            "html": b"<html>",
            "empty": b"",
            "corrupt": whole[:60] + b"\xff" + whole[61:],
        }[content]
    )
    with pytest.raises(UserError, match=f"{path} is damaged or incomplete .* from ADDRESS"):
        archives.read_json(path, "x.json", "ADDRESS")
    if content != "corrupt":
        with pytest.raises(UserError, match="damaged or incomplete"):
            archives.index_coco({"val2014.zip": path}, "val")


def test_names_in_archives_are_no_paths(tmp_path):
    """Archives are read in place; what is not named as published is not looked at."""
    name, path = "train2014/COCO_train2014_000000000009.jpg", tmp_path / "train2014.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"../{name}", b"above")
        archive.writestr(f"/{name}", b"root")
        archive.writestr(f"train2014/../../{name}", b"above")
        link = zipfile.ZipInfo(name)
        link.create_system, link.external_attr = 3, 0o120777 << 16  # A symbolic link of Unix.
        archive.writestr(link, "/etc/passwd")
    found = archives.index_coco({"train2014.zip": path}, "train")
    (location,) = found.values()
    assert location.read() == b"/etc/passwd"  # The link's own bytes, not what it leads to.
    assert images.convert_at(location, "sq128") == "not an image file"
    assert [p.name for p in tmp_path.iterdir()] == ["train2014.zip"]


def test_bombs_are_refused_before_memory_is_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "_MAX_IMAGE_BYTES", 10_000_000)
    monkeypatch.setattr(archives, "_MAX_JSON_BYTES", 10_000_000)
    name, path = "val2014/COCO_val2014_000000000009.jpg", tmp_path / "val2014.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, bytes(40_000_000))
    assert path.stat().st_size < 100_000
    (location,) = archives.index_coco({"val2014.zip": path}, "val").values()
    tracemalloc.start()
    reason = images.convert_at(location, "sq128")
    with pytest.raises(UserError, match="would have 40 MB, too many"):
        archives.read_json(path, name, "ADDRESS")
    assert "would have 40 MB, too many" in reason
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()

    # An index that says less than there is: no more is unpacked than it says.
    whole = bytearray(path.read_bytes())
    entry = whole.index(b"PK\x01\x02")
    whole[entry + 24 : entry + 28] = (1000).to_bytes(4, "little")
    path.write_bytes(whole)
    images._open_zip.cache_clear()
    assert "BadZipFile" in images.convert_at(location, "sq128")


def test_an_image_of_too_many_pixels_is_refused_by_its_header(tmp_path):
    def chunk(kind, data):
        return len(data).to_bytes(4) + kind + data + zlib.crc32(kind + data).to_bytes(4)

    header = (12_000).to_bytes(4) + (12_000).to_bytes(4) + bytes([8, 2, 0, 0, 0])
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99)))
    path = tmp_path / "a.png"
    path.write_bytes(png)
    with pytest.warns(Image.DecompressionBombWarning):
        reason = images.convert_at(images.Location(str(path)), "sq128")
    assert reason == "12000x12000 pixels are too many"
