"""images.py: what is stored of every kind of file, alone and in worker processes."""

import io
import os
import signal

import numpy as np
import pytest
from PIL import Image

from tests import archives
from xmc_jax.data import preprocess
from xmc_jax.data.builders import images
from xmc_jax.data.builders.images import FORMS, Location, convert, convert_all
from xmc_jax.errors import UserError


def decode(stored):
    """Pixels of a stored image, which needs no turning, conversion or blending."""
    with Image.open(io.BytesIO(stored.data)) as image:
        assert image.mode == "RGB" and image.getexif().get(0x0112, 1) == 1
        assert image.size == (stored.width, stored.height)
        return np.asarray(image).astype(float)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", archives.GOOD)
def test_everything_stored_is_upright_rgb(name, form):
    image = convert(archives.GOOD[name], form)
    pixels = decode(image)
    np.testing.assert_array_equal(preprocess.decode(image.data, name), pixels)
    assert (image.gray, image.cmyk, image.rotated) == (
        name == "gray",
        name == "cmyk",
        name == "rotated",
    )
    if form != "original":
        assert pixels.shape == (images.side_of(form),) * 2 + (3,)


@pytest.mark.parametrize("name", ["plain", "progressive", "pixel", "wide"])
def test_original_keeps_good_bytes(name):
    assert convert(archives.GOOD[name], "original").data == archives.GOOD[name]


def test_original_keeps_plain_pngs_and_converts_other_files():
    pixels = archives.photograph()
    png = archives.encode(pixels, "PNG")
    assert convert(png, "original").data == png
    for fmt in ("WEBP", "BMP", "GIF"):
        image = convert(archives.encode(pixels, fmt), "original")
        assert image.data[:2] == b"\xff\xd8"
        assert np.abs(decode(image) - pixels).mean() < 4


def test_pixels_stay_what_they_were():
    for seed, name in enumerate(("plain", "gray", "cmyk"), start=1):
        pixels = archives.photograph(seed=seed)
        if name == "gray":
            pixels = np.asarray(Image.fromarray(pixels).convert("L"))[..., None]
        assert np.abs(decode(convert(archives.GOOD[name], "original")) - pixels).mean() < 3


def test_transparent_places_are_white():
    pixels = decode(convert(archives.GOOD["png"], "original"))
    assert pixels[:, 40:].min() > 250
    np.testing.assert_allclose(pixels[:, :24], archives.photograph(seed=4)[:, :24], atol=12)


@pytest.mark.parametrize("orientation", range(2, 9))
def test_orientations_are_undone(orientation):
    upright = archives.photograph(40, 64)
    turned = {  # How each orientation stores what is to be seen.
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    data = archives.oriented(np.ascontiguousarray(turned), orientation)
    image = convert(data, "original")
    assert image.rotated and (image.height, image.width) == (40, 64)
    assert np.abs(decode(image) - upright).mean() < 3


def test_sixteen_bit_gray_is_scaled_not_clipped():
    ramp = np.linspace(0, 65535, 64).astype(np.uint16)[None].repeat(8, 0)
    buffer = io.BytesIO()
    Image.fromarray(ramp).save(buffer, "PNG")
    image = convert(buffer.getvalue(), "original")
    assert image.gray
    np.testing.assert_allclose(decode(image)[..., 0], ramp // 256, atol=3)


def test_squashing_at_build_is_squashing_at_reading():
    photo = archives.photograph(300, 500)
    stored = decode(convert(archives.encode(photo, "PNG"), "sq128"))
    read = preprocess.resize(Image.fromarray(photo), 128, crop="squash", antialias=True)
    assert np.abs(stored - np.asarray(read)).mean() < 1


@pytest.mark.parametrize("name", archives.BROKEN)
def test_broken_files_are_undecodable(name):
    for form in FORMS:
        with pytest.raises(preprocess.UndecodableImage):
            convert(archives.BROKEN[name], form)


def test_damaged_bytes_give_an_image_or_undecodable(rng):
    """Never another exception, whatever the damage."""
    outcomes = set()
    for name, data in archives.GOOD.items():
        if name == "wide":
            continue
        for _ in range(25):
            damaged = bytearray(data)
            for position in rng.integers(0, len(data), 5):
                damaged[position] = rng.integers(256)
            damaged = bytes(damaged[: rng.integers(len(data) // 2, len(data) + 1)])
            try:
                outcomes.add(type(decode(convert(damaged, "original"))))
            except preprocess.UndecodableImage as error:
                assert str(error)
                outcomes.add(type(error))
    assert len(outcomes) == 2


def test_processes_change_no_byte(tmp_path):
    locations = []
    kinds = [*archives.GOOD.values(), *archives.BROKEN.values()]
    for index in range(200):
        path = tmp_path / f"{index}.jpg"
        path.write_bytes(kinds[index % len(kinds)])
        locations.append(Location(str(path)))
    locations[7] = Location(str(tmp_path / "absent.jpg"))
    one, three = (list(convert_all(locations, "sq128", num_processes=n)) for n in (1, 3))
    assert one == three
    assert isinstance(one[7], str) and "absent" in one[7]
    assert {type(x) for x in one} == {str, images.StoredImage}


def test_an_abandoned_conversion_leaves_no_process(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(archives.GOOD["plain"])
    converted = convert_all([Location(str(path))] * 10_000, "sq256", num_processes=2)
    next(converted)
    assert len(children(os.getpid())) >= 2
    converted.close()
    assert not [c for c in children(os.getpid()) if "spawn_main" in command(c)]


def test_a_killed_worker_is_one_line(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(archives.GOOD["plain"])
    before = set(children(os.getpid()))
    converted = convert_all([Location(str(path))] * 10_000, "sq256", num_processes=2)
    next(converted)
    workers = set(children(os.getpid())) - before
    os.kill(next(w for w in workers if "spawn_main" in command(w)), signal.SIGKILL)
    with pytest.raises(UserError, match="was killed; .*--num_processes=1"):
        list(converted)


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(child) for child in file.read().split()]


def command(pid):
    """The command line of a live process; empty if it has ended."""
    try:
        with open(f"/proc/{pid}/cmdline") as file:
            return file.read()
    except OSError:
        return ""


def test_transparent_areas_take_the_background():
    png = archives.half_transparent(archives.photograph())
    for background, expected in (("white", 255), ("black", 0), ("#ff8000", (255, 128, 0))):
        pixels = decode(convert(png, "sq64", background=background))
        assert np.abs(pixels[:, 40:] - expected).max() < 9  # JPEG.


def test_an_image_may_be_a_part_of_a_file(tmp_path):
    path, data = tmp_path / "a.tar", archives.GOOD["plain"]
    path.write_bytes(b"x" * 512 + data + b"x" * 100)
    whole = Location(str(path), offset=512, size=len(data))
    assert whole.read() == data
    (stored,) = convert_all([whole], "sq128")
    assert stored.data == convert(data, "sq128").data
    (why,) = convert_all([whole._replace(size=len(data) + 101)], "sq128")
    assert why == f"EOFError: {len(data) + 100} of {len(data) + 101} bytes"
