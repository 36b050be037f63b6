"""streams.py on a real build: a pure function of seed and step, over processes and workers."""

import numpy as np
import pytest

from xmc_jax.data import catalog, streams
from xmc_jax.data.preprocess import decode
from xmc_jax.data.records import Records
from xmc_jax.data.tokenizer import Tokenizer
from xmc_jax.frozen.text_encoder import load_text_encoder


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """40 scenes."""
    return catalog.open_split(
        "shapes", form="sq32_n40", split="train", data_dir=str(tmp_path_factory.mktemp("data"))
    )


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer(load_text_encoder("minilm").vocabulary_file, 20)


def read(source, tokenizer, count, **options):
    options = {"resolution": 32, "batch_size": 4, "num_micro_batches": 2, "seed": 3} | options
    stream = streams.train_batches(source, tokenizer, **options)
    return [next(stream) for _ in range(count)]


def assert_equal(one, other):
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a.image, b.image)
        np.testing.assert_array_equal(a.tokens, b.tokens)


def test_shapes_and_types(source, tokenizer):
    (batch,) = read(source, tokenizer, 1)
    assert batch.image.shape == (2, 4, 32, 32, 3) and batch.image.dtype == np.uint8
    assert batch.tokens.shape == (2, 4, 20) and batch.tokens.dtype == np.int32
    assert np.all(batch.tokens[..., 0] == 101)


def test_the_stream_is_a_function_of_seed_and_step(source, tokenizer):
    whole = read(source, tokenizer, 14)  # Almost three epochs.
    assert_equal(whole, read(source, tokenizer, 14))
    assert_equal(whole[9:], read(source, tokenizer, 5, start_step=9))
    other = read(source, tokenizer, 1, seed=4)
    assert np.any(other[0].image != whole[0].image)


def test_each_epoch_visits_every_example_once_in_an_order_of_its_own(source, tokenizer):
    images = np.concatenate([b.image.reshape(-1, 32 * 32 * 3) for b in read(source, tokenizer, 10)])
    pool = [decode(source[i]["image"], "x").ravel() for i in range(40)]
    order = [next(i for i, p in enumerate(pool) if np.array_equal(p, x)) for x in images]
    assert sorted(order[:40]) == sorted(order[40:]) == list(range(40))
    assert order[:40] != order[40:] != list(range(40))


def test_captions_vary_between_epochs(source, tokenizer):
    seen = {}
    for batch in read(source, tokenizer, 20):
        for image, tokens in zip(
            batch.image.reshape(-1, 3072), batch.tokens.reshape(-1, 20), strict=True
        ):
            seen.setdefault(image.tobytes(), set()).add(tokens.tobytes())
    assert np.mean([len(v) for v in seen.values()]) > 1.5


def test_the_first_steps_take_the_longest_captions(source, tokenizer):
    batches = read(source, tokenizer, 4, longest_until=3)
    plain = read(source, tokenizer, 4)
    longest = {
        decode(record["image"], "x").tobytes(): max(
            record["captions"]["text"], key=lambda text: text.count(" ")
        )
        for record in source
    }
    for batch in batches[:3]:
        captions = [longest[image.tobytes()] for image in batch.image.reshape(8, -1)]
        np.testing.assert_array_equal(batch.tokens.reshape(8, -1), tokenizer(captions))
    assert np.any(batches[0].tokens != plain[0].tokens)
    assert_equal(batches[3:], plain[3:])
    options = {"batch_size": 4, "num_micro_batches": 2, "seed": 3, "longest_until": 3}
    for step in (2, 3):
        listed = streams.read_train_step(source, **options, step=step)
        tokens = tokenizer([x["caption"] for x in listed])
        np.testing.assert_array_equal(batches[step].tokens.reshape(8, -1), tokens)


@pytest.mark.parametrize("process_count", [2, 4])
def test_processes_share_the_global_batch(source, tokenizer, process_count):
    whole = read(source, tokenizer, 3)
    parts = [
        read(source, tokenizer, 3, process_index=i, process_count=process_count)
        for i in range(process_count)
    ]
    for step, batch in enumerate(whole):
        joined = np.concatenate([part[step].image for part in parts], axis=1)
        np.testing.assert_array_equal(joined, batch.image)


@pytest.mark.parametrize("num_workers", [1, 3])
def test_workers_change_nothing(source, tokenizer, num_workers):
    options = {"start_step": 4, "process_index": 1, "process_count": 2}
    plain = read(source, tokenizer, 7, **options)  # Across an epoch's end.
    assert_equal(plain, read(source, tokenizer, 7, num_workers=num_workers, **options))


def test_what_a_step_read_can_be_listed(source, tokenizer):
    (batch,) = read(source, tokenizer, 1, start_step=6)
    listed = streams.read_train_step(source, batch_size=4, num_micro_batches=2, seed=3, step=6)
    assert [x["micro_batch"] for x in listed] == [0] * 4 + [1] * 4
    tokens = tokenizer([x["caption"] for x in listed])
    np.testing.assert_array_equal(batch.tokens.reshape(8, -1), tokens)
    images = {source[i]["image/id"]: decode(source[i]["image"], "x") for i in range(40)}
    for pixels, x in zip(batch.image.reshape(8, 32, 32, 3), listed, strict=True):
        np.testing.assert_array_equal(pixels, images[x["id"]])


class CountedRecords(Records):
    """Notes what is read."""

    def __init__(self, records):
        super().__init__(records._files, records._shards)
        self.indices = []

    def read(self, indices):
        self.indices += indices
        return super().read(indices)


def test_a_late_step_is_reached_without_reading_earlier_ones(source, tokenizer):
    counted = CountedRecords(source)
    late = read(counted, tokenizer, 1, start_step=10**9)
    # The step asked for, and what is read ahead of the next ones.
    assert 8 <= len(counted.indices) <= 8 * 5
    assert_equal(late, read(source, tokenizer, 1, start_step=10**9))


def test_an_uneven_share_is_refused(source, tokenizer):
    with pytest.raises(ValueError, match="process 0 of 3 has no whole share of 4 rows"):
        read(source, tokenizer, 1, process_count=3)


def test_chosen_examples_are_a_prefix_of_one_permutation():
    every = streams.choose_examples(40, 1000, seed=5)
    assert sorted(every) == list(range(40)) and every != list(range(40))
    assert streams.choose_examples(40, 7, seed=5) == every[:7]
    assert streams.choose_examples(40, 40, seed=6) != every
