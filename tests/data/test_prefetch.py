"""prefetch.py and workers.py: errors of workers, and that none outlives its parent."""

import contextlib
import itertools
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
from array_record.python.array_record_data_source import ArrayRecordDataSource
from array_record.python.array_record_module import ArrayRecordWriter
from tensorflow_datasets.proto import tf_example_pb2

from tests.places import ROOT
from xmc_jax import images
from xmc_jax.data.prefetch import ReadAhead
from xmc_jax.data.records import ExampleReader, Records, Selection
from xmc_jax.errors import UserError
from xmc_jax.shapes import captions, scenes

NUM_RECORDS = 16
BROKEN = 11


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A file of scenes, of which one is cut short."""
    path = tmp_path_factory.mktemp("data") / "scenes.array_record"
    writer = ArrayRecordWriter(str(path), "group_size:1")
    for index in range(NUM_RECORDS):
        scene = captions.make_example("train", index)
        png = images.encode_png(scenes.render(scene.scene, 32))
        example = tf_example_pb2.Example()
        feature = example.features.feature
        feature["image"].bytes_list.value.append(png[:100] if index == BROKEN else png)
        feature["image/id"].bytes_list.value.append(scene.id.encode())
        for name in ("image/height", "image/width"):
            feature[name].int64_list.value.append(32)
        for caption in scene.captions:
            feature["captions/text"].bytes_list.value.append(caption.text.encode())
        writer.write(example.SerializeToString())
    writer.close()
    return path


def read(path, selections, num_workers):
    records = Records(ArrayRecordDataSource([str(path)]), [(str(path), NUM_RECORDS)])
    reader = ExampleReader(records, 32, "squash", True, 0)
    return ReadAhead(reader, iter(selections), lambda examples: examples, num_workers)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_bad_image_is_one_clear_line_after_the_good_ones(path, num_workers):
    stream = read(path, (Selection([i], [i]) for i in range(NUM_RECORDS)), num_workers)
    with contextlib.closing(stream):
        for index in range(BROKEN):
            (caption,) = next(stream).captions
            assert caption in [x.text for x in captions.make_example("train", index).captions]
        for _ in range(2):
            with pytest.raises(UserError, match="image train-000011 cannot be decoded"):
                next(stream)


def test_a_stream_ends_with_its_selections(path):
    with contextlib.closing(read(path, [Selection([1, 2], [0, 0])] * 7, 0)) as stream:
        assert [examples.image.shape for examples in stream] == [(2, 32, 32, 3)] * 7
        assert next(stream, None) is None


@pytest.mark.parametrize("seconds", [0, 1])  # 1: all batches are read, none can be submitted.
def test_a_killed_worker_is_one_clear_line(path, seconds):
    import multiprocessing

    stream = read(path, (Selection([0], [i]) for i in itertools.count()), 1)
    with contextlib.closing(stream):
        next(stream)
        time.sleep(seconds)
        (worker,) = multiprocessing.active_children()
        os.kill(worker.pid, signal.SIGKILL)
        time.sleep(seconds)
        with pytest.raises(UserError, match="worker process of the reader was killed.*/dev/shm"):
            for _ in range(100):
                next(stream)


LOOP = """
import itertools, multiprocessing, sys, time

def is_up(worker):
    status = open(f"/proc/{worker.pid}/status").read()
    return int(status.split("SigIgn:")[1].split()[0], 16) & 2  # It ignores Ctrl-C.

def main(path, end):
    # Here, as in the verbs: workers import the main module, and need not wait for these.
    from array_record.python.array_record_data_source import ArrayRecordDataSource
    from xmc_jax.data.prefetch import ReadAhead
    from xmc_jax.data.records import ExampleReader, Records, Selection

    records = Records(ArrayRecordDataSource([path]), [(path, 10)])
    reader = ExampleReader(records, 32, "squash", True, 0)
    selections = (Selection([i % 10] * 64, [i] * 64) for i in itertools.count())
    stream = ReadAhead(reader, selections, lambda examples: examples, 2)
    try:
        for _ in range(4):
            next(stream)
        workers = multiprocessing.active_children()
        while not all(map(is_up, workers)):
            time.sleep(0.01)
        print(*(worker.pid for worker in workers), flush=True)
        if end == "unclosed":
            return
        if end == "error":
            raise ArithmeticError("in the loop")
        time.sleep(60)
    finally:
        if end != "unclosed":
            stream.close()

if __name__ == "__main__":
    main(*sys.argv[1:])
"""


def is_running(pid):
    try:
        # Without a parent that asks how it ended, what has ended stays as "Z".
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # Before its file was opened, or after.
        return False


@pytest.mark.parametrize("end", ["unclosed", "error", "ctrl-c", "kill"])
def test_no_worker_outlives_the_loop(tmp_path, path, end, ctrl_c):
    script = tmp_path / "loop.py"
    script.write_text(LOOP)
    root = str(ROOT)
    loop = subprocess.Popen(
        [sys.executable, script, path, end],
        env=os.environ | {"PYTHONPATH": root},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    workers = [int(pid) for pid in loop.stdout.readline().split()]
    assert len(workers) == 2
    if end == "ctrl-c":  # A terminal sends it to every process.
        os.killpg(loop.pid, signal.SIGINT)
    elif end == "kill":
        loop.kill()
    deadline = time.monotonic() + 20
    while any(map(is_running, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(is_running, workers))
    _, errors = loop.communicate(timeout=20)
    expected = {"error": "ArithmeticError", "ctrl-c": "KeyboardInterrupt"}
    assert errors.count("Traceback") == (end in expected), errors
    assert expected.get(end, "") in errors
    if end in expected:
        assert "leaked" not in errors
