"""How many images one core reads: from records to batches of pixels and token ids.

    python -m benchmarks.reading                # a table of stages and the cores that a pod needs
    python -m benchmarks.reading --streams      # also whole streams, in threads and in workers

Writes a temporary array_record file of each kind: photographs (random crops of scikit-image's) as
256 px JPEG of quality 95, as data sets store them, and as 640x480 JPEG of quality 90, squashed
while reading; shapes as PNG. Stages are measured in CPU time, which depends little on other work on
the machine; the least of several repeats counts. Each batch has 128 images, each with one of its
five captions.
"""

import os

os.environ["KERAS_BACKEND"] = "jax"  # Before anything imports Keras.

import functools  # noqa: E402
import io  # noqa: E402
import itertools  # noqa: E402
import pathlib  # noqa: E402
import resource  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402

import numpy as np  # noqa: E402
import skimage.data  # noqa: E402
from absl import app, flags  # noqa: E402
from array_record.python.array_record_data_source import ArrayRecordDataSource  # noqa: E402
from array_record.python.array_record_module import ArrayRecordWriter  # noqa: E402
from PIL import Image  # noqa: E402

from benchmarks import measure  # noqa: E402
from xmc_jax import images  # noqa: E402
from xmc_jax.data import preprocess  # noqa: E402
from xmc_jax.data.builders import schema  # noqa: E402
from xmc_jax.data.prefetch import NUM_THREADS  # noqa: E402
from xmc_jax.data.records import ExampleReader, Records, Selection  # noqa: E402
from xmc_jax.data.streams import train_batches  # noqa: E402
from xmc_jax.data.tokenizer import Tokenizer  # noqa: E402
from xmc_jax.frozen.text_encoder import load_text_encoder  # noqa: E402
from xmc_jax.shapes import captions as shapes_captions  # noqa: E402
from xmc_jax.shapes import scenes  # noqa: E402

BATCH_SIZE = 64
STREAMS = flags.DEFINE_bool("streams", False, "Whether to measure whole streams too.")
NUM_RECORDS = flags.DEFINE_integer(
    "num_records", 512, "Records of each data set.", lower_bound=2 * BATCH_SIZE
)
REPEATS = flags.DEFINE_integer("repeats", 7, "Timed passes; the fastest counts.", lower_bound=1)

NEEDED = 512 * 4  # Images a second: 512 a step, 4 steps a second.
PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket", "retina", "hubble_deep_field")
CAPTIONS = (
    "a cat with green eyes looks straight into the camera",
    "a woman in an orange space suit smiles in front of a flag",
    "a cup of black coffee on a saucer with a spoon beside it",
    "a rocket stands on its launch pad between four tall lightning towers",
    "a night sky full of small bright galaxies of many colours",
)


def photographs(rng: np.random.Generator):
    """Photographs of 640x480: random crops of at least half the side, resized."""
    pool = [Image.fromarray(getattr(skimage.data, name)()[..., :3]) for name in PHOTOGRAPHS]
    while True:
        image = pool[rng.integers(len(pool))]
        width = int(rng.integers(min(image.size) // 2, min(image.size) + 1))
        height = width * 3 // 4
        left = int(rng.integers(image.width - width + 1))
        top = int(rng.integers(image.height - height + 1))
        yield image.crop((left, top, left + width, top + height)).resize((640, 480))


def jpeg(image: Image.Image, quality: int) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()


def photograph_files(side: int | None, count: int):
    """Files and captions of photographs, squashed to a side or as they are."""
    for image in itertools.islice(photographs(np.random.default_rng(0)), count):
        if side:
            image = image.resize((side, side), Image.Resampling.BILINEAR)
        yield jpeg(image, 95 if side else 90), CAPTIONS


def shapes_files(side: int, count: int):
    for index in range(count):
        example = shapes_captions.make_example("train", index)
        captions = [caption.text for caption in example.captions]
        yield images.encode_png(scenes.render(example.scene, side)), captions


def write_records(path: pathlib.Path, files) -> Records:
    """Records as TFDS writes them."""
    features, count = schema.features(None), 0
    writer = ArrayRecordWriter(str(path), "group_size:1")
    for index, (data, captions) in enumerate(files):
        count += 1
        numbered = [(f"{index}-{i}", text) for i, text in enumerate(captions)]
        example = schema.make_record(str(index), data, (0, 0), numbered)
        writer.write(features.serialize_example(features.encode_example(example)))
    writer.close()
    return Records(ArrayRecordDataSource([str(path)]), [(str(path), count)])


def cpu_microseconds(function, count: int, repeats: int) -> float:
    """CPU time of this process's threads for each item, of a call that handles `count` items."""
    function()
    best = float("inf")
    for _ in range(repeats):
        start = time.process_time()
        function()
        best = min(best, time.process_time() - start)
    return best / count * 1e6


def measure_stages(records: Records, side: int, tokenizer: Tokenizer, repeats: int) -> list[float]:
    """Microseconds for each image: read, decode, resize, tokenise, the rest, all."""
    indices = list(range(2 * BATCH_SIZE))
    read = ExampleReader(records, side, "squash", True, 0)
    found = records.read(indices)
    decoded = [preprocess.decode(r["image"], "x") for r in found]
    captions = [r["captions"]["text"][0] for r in found]
    squash = functools.partial(preprocess.load, resolution=side, crop="squash", antialias=True)

    def whole():
        examples = read(Selection(indices, indices))
        tokenizer(examples.captions)

    time_ = functools.partial(cpu_microseconds, count=len(indices), repeats=repeats)
    reading = time_(lambda: records.read(indices))
    loading = time_(lambda: [squash(r["image"], "x") for r in found])
    native = max(decoded[0].shape)
    decoding = loading
    if native != side:
        # Resizing is what loading takes beyond this.
        decoding = time_(lambda: [preprocess.decode(r["image"], "x") for r in found])
    tokenising = time_(lambda: tokenizer(captions))
    everything = time_(whole)
    resizing = max(0.0, loading - decoding)
    rest = everything - reading - loading - tokenising
    return [reading, decoding, resizing, tokenising, rest, everything]


def measure_stream(
    records: Records, side: int, tokenizer: Tokenizer, num_workers: int, repeats: int
) -> tuple[float, float]:
    """Images per second of a whole stream, and this process's CPU microseconds for each image."""
    stream = train_batches(
        records,
        tokenizer,
        resolution=side,
        batch_size=BATCH_SIZE,
        num_micro_batches=2,
        seed=0,
        num_workers=num_workers,
    )
    steps = 8
    for _ in range(2 * max(num_workers, NUM_THREADS)):
        next(stream)  # These batches are read before the clock starts.
    rate, cpu = 0.0, float("inf")
    for _ in range(repeats):
        start, usage = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
        for _ in range(steps):
            next(stream)
        count = steps * 2 * BATCH_SIZE
        rate = max(rate, count / (time.perf_counter() - start))
        now = resource.getrusage(resource.RUSAGE_SELF)
        used = now.ru_utime + now.ru_stime - usage.ru_utime - usage.ru_stime
        cpu = min(cpu, used / count * 1e6)
    stream.close()
    return rate, cpu


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    measure.print_environment()
    tokenizer = Tokenizer(load_text_encoder("minilm").vocabulary_file, 17)
    count, repeats = NUM_RECORDS.value, REPEATS.value
    kinds = {
        "photographs, sq256 JPEG": (256, photograph_files(256, count)),
        "photographs, 640x480 JPEG to 256 px": (256, photograph_files(None, count)),
        "shapes, 64 px PNG": (64, shapes_files(64, count)),
        "shapes, 32 px PNG": (32, shapes_files(32, count)),
    }
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: pathlib.Path(folder, f"{i}.array_record") for i, name in enumerate(kinds)}
        data = {name: write_records(paths[name], files) for name, (_, files) in kinds.items()}
        rows = []
        for name, (side, _) in kinds.items():
            stages = measure_stages(data[name], side, tokenizer, repeats)
            rows.append((name, *stages, 1e6 / stages[-1], NEEDED * stages[-1] / 1e6))
        stages = ("read", "decode", "resize", "tokenise", "rest", "all")
        measure.print_table(("µs an image", *stages, "images/s a core", "cores needed"), rows)
        if STREAMS.value:
            print()
            rows = []
            for name, (side, _) in kinds.items():
                for workers in (0, 1, 2):
                    how = f"{workers} workers" if workers else f"{NUM_THREADS} threads"
                    found = measure_stream(data[name], side, tokenizer, workers, repeats)
                    rows.append((f"{name}, {how}", *found))
            measure.print_table(("stream", "images/s", "µs an image here"), rows)


if __name__ == "__main__":
    app.run(main)
