"""Small archives in the published formats, with every oddity that the real ones may have.

`coco` writes the archives that a user would download; `GOOD`, `BROKEN` and `MISSING` are the images
in them, and `TEXTS` their captions.
"""

import io
import json
import struct
import zipfile
import zlib

import numpy as np
from PIL import Image


def photograph(height=48, width=64, seed=0):
    """An image with smooth colours, as photographs have, which JPEG preserves."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    phases = np.random.default_rng(seed).uniform(0, 6.28, 3)
    waves = [127 + 100 * np.sin(5 * x + 3 * y + phase) for phase in phases]
    return np.stack(waves, -1).astype(np.uint8)


def encode(pixels, fmt="JPEG", mode="RGB", **options):
    """The bytes of an image file."""
    buffer = io.BytesIO()
    options = ({"quality": 95} if fmt == "JPEG" else {}) | options
    Image.fromarray(pixels).convert(mode).save(buffer, fmt, **options)
    return buffer.getvalue()


def oriented(pixels, orientation):
    """A JPEG with an EXIF orientation."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(pixels, exif=exif)


def half_transparent(pixels):
    """A PNG whose right half is transparent, with black below."""
    alpha = np.full(pixels.shape[:2], 255, np.uint8)
    alpha[:, pixels.shape[1] // 2 :] = 0
    buffer = io.BytesIO()
    Image.fromarray(np.dstack([pixels * (alpha[..., None] > 0), alpha])).save(buffer, "PNG")
    return buffer.getvalue()


def bomb():
    """A PNG of a few bytes that claims 40,000 x 40,000 pixels."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data


GOOD = {
    "plain": encode(photograph(seed=1)),
    "gray": encode(photograph(seed=2), mode="L"),
    "cmyk": encode(photograph(seed=3), mode="CMYK"),
    "png": half_transparent(photograph(seed=4)),  # Its file name ends with .jpg.
    "progressive": encode(photograph(seed=5), progressive=True),
    "rotated": oriented(photograph(seed=6), 6),
    "pixel": encode(photograph(1, 1, seed=7)),
    "wide": encode(photograph(2, 10_000, seed=8)),
}
BROKEN = {
    "truncated": encode(photograph(seed=9))[:400],
    "empty": b"",
    "html": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
    "bomb": bomb(),
}
MISSING = {"missing": None}

TEXTS = {
    "plain": ["a dog  on\n grass ", "\ta brown dog", "one dog", "the dog runs", "grass and a dog"],
    "gray": ["🐶 a dog", "كلب على العشب", "כלב", "dog", "a gray dog", "a sixth", "a seventh"],
    "cmyk": ["word " * 500, "a", "b", "c", "d"],
    "png": ["a b c", " \n\t", "", "d e f"],  # Two of four are empty.
}


def coco(folder, splits, *, duplicates=0):
    """Writes the three archives of COCO-2014; returns the number of each image.

    Args:
      folder: Where they are written.
      splits: For ``"train"`` and ``"val"``, images by name: bytes, or None if missing.
      duplicates: Number of entries of train that are listed twice.
    """
    numbers = {}
    with zipfile.ZipFile(folder / "annotations_trainval2014.zip", "w") as annotations:
        for split, images in splits.items():
            path = folder / f"{split}2014.zip"
            entries = {"info": {"year": 2014}, "licenses": [], "images": [], "annotations": []}
            with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
                archive.writestr(f"{split}2014/", b"")
                for name, data in images.items():
                    assert name not in numbers
                    # Not in the order of the list.
                    number = numbers[name] = 9000 - 7 * len(numbers)
                    file_name = f"COCO_{split}2014_{number:012d}.jpg"
                    entries["images"].append({"id": number, "file_name": file_name})
                    texts = TEXTS.get(name, [f"caption {i} of {name}" for i in range(5)])
                    entries["annotations"] += [
                        {"image_id": number, "id": 10 * number + i, "caption": text}
                        for i, text in reversed(list(enumerate(texts)))
                    ]
                    if data is not None:
                        archive.writestr(f"{split}2014/{file_name}", data)
            if split == "train":
                entries["images"] += entries["images"][:duplicates]
                entries["annotations"] += entries["annotations"][:duplicates]
            for kind in ("captions", "instances", "person_keypoints"):
                text = json.dumps(entries if kind == "captions" else {"kind": kind})
                annotations.writestr(f"annotations/{kind}_{split}2014.json", text)
    return numbers


def narrative(split, number, caption, **others):
    """One line of Localized Narratives on COCO."""
    fields = {
        "dataset_id": f"mscoco_{split}2017",
        "image_id": str(number),
        "annotator_id": 93,
        "caption": caption,
    }
    return json.dumps(fields | others) + "\n"


TRACE = {
    "timed_caption": [{"utterance": "In this", "start_time": 0.0, "end_time": 0.4}],
    "traces": [[{"x": 0.2, "y": -0.1, "t": 0.0}]],
    "voice_recording": "coco_train/coco_train_000000000009_93.ogg",
}
