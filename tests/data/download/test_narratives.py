"""narratives.py: the lines of Localized Narratives."""

import itertools

import pytest

from tests.archives import TRACE, narrative
from xmc_jax.data.download.narratives import Narrative, read_narratives
from xmc_jax.errors import UserError


def test_captions_and_full_files_read_alike(tmp_path):
    bare, full = tmp_path / "captions.jsonl", tmp_path / "full.jsonl"
    rows = [("139", "In this image 🐶 there is a dog."), ("139", "A dog."), ("25", "")]
    bare.write_text("".join(narrative("train", *row) for row in rows))
    full.write_text("\n".join(narrative("train", *row, **TRACE) for row in rows))  # Blank lines.
    expected = [Narrative("mscoco_train2017", *row) for row in rows]
    assert list(read_narratives(bare)) == list(read_narratives(full)) == expected


def test_open_images_reads_alike(tmp_path):
    file = tmp_path / "open_images.jsonl"
    ids = {"dataset_id": "open_images_train", "image_id": "000002b66c9c498e"}
    file.write_text(narrative("", "", "A bird.", **ids))
    assert list(read_narratives(file)) == [Narrative(*ids.values(), "A bird.")]


@pytest.mark.parametrize(
    "line,reason",
    [
        ('{"dataset_id": "mscoco_train2017", "image_id": "1", "capt', "Unterminated"),
        ('{"dataset_id": "mscoco_train2017", "image_id": "1"}', "no field 'caption'"),
        ('{"dataset_id": "mscoco_train2017", "image_id": 1, "caption": "x"}', "image_id is 1"),
        ('["a"]', "indices"),
        ("<html>", "Expecting value"),
        (b'{"caption": "\xff"}', "decode"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, reason):
    file = tmp_path / "coco_train_captions.jsonl"
    line = line if isinstance(line, bytes) else line.encode()
    file.write_bytes(narrative("train", 1, "A dog.").encode() + b"\n" + line)
    with pytest.raises(UserError, match=rf"{file}, line 3 .*{reason}.*download the file again"):
        list(read_narratives(file))


def test_files_are_streamed(tmp_path):
    """A file that cannot be held, and whose end is never reached, gives its first lines."""
    import os
    import threading

    pipe = tmp_path / "endless.jsonl"
    os.mkfifo(pipe)

    def write():
        line = narrative("train", 1, "A dog.", **TRACE).encode()
        try:
            with open(pipe, "wb") as file:
                while True:
                    file.write(line)
        except BrokenPipeError:
            pass

    writer = threading.Thread(target=write)
    writer.start()
    stream = read_narratives(pipe)
    assert len(list(itertools.islice(stream, 1000))) == 1000
    stream.close()
    writer.join(10)
    assert not writer.is_alive()
