"""Whatever comes in, what comes out is a result or one line: found by hypothesis.

`HYPOTHESIS_PROFILE=soak` tries a thousand of each; by default there are few, for CI.
"""

import json
import os
import string

import numpy as np
import pytest
from absl import flags
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ml_collections import config_flags

from tests.places import ROOT
from xmc_jax import cli
from xmc_jax.configs import shapes_32
from xmc_jax.data import preprocess
from xmc_jax.data.builders import captioned, images
from xmc_jax.data.builders.folder import folder_dataset_builder as folder_builder
from xmc_jax.data.download import narratives
from xmc_jax.errors import UserError
from xmc_jax.planning import topology
from xmc_jax.run.config import flatten, read_config
from xmc_jax.run.config_checks import check_training
from xmc_jax.run.folder import config_path
from xmc_jax.run.records import append_metrics, latest_evaluations, read_metrics, truncate_metrics
from xmc_jax.training import faults

for name, count in (("few", 25), ("soak", 1000)):
    settings.register_profile(
        name,
        max_examples=count,
        deadline=None,
        derandomize=name == "few",  # The same ones in every run of CI.
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "few"))

# Any Unicode, with what is rare at random: lone surrogates, controls, long runs.
TEXTS = st.text(st.characters(codec=None)) | st.text(string.printable) | st.sampled_from(
    ["", " ", "\0", "\ud800", "\u202e", "e\u0301" * 500, "x" * 10_000, "\n", "👩‍👩‍👧", "ﬁ", "İ"]
)  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
LINES = (
    st.binary(max_size=60)
    | JSON.map(lambda x: json.dumps(x).encode())
    | st.sampled_from([b"[" * 100_000, b'{"a":' * 100_000, b"\xef\xbb\xbf{}", b"NaN", b"1" * 5000])
)


def assert_told(error: UserError) -> None:
    # What was given may have line breaks, and is quoted; `cli.run` makes one line of it.
    assert str(error).strip() and "Traceback" not in str(error)


# Config overrides.

DEFAULTS = flatten(shapes_32.get_config().to_dict())
FIELDS = sorted(DEFAULTS)
NAMES = st.sampled_from([*FIELDS, "model", "loss"]) | st.text(string.ascii_letters + "._-=[]0")
VALUES = (
    TEXTS | st.integers().map(str) | st.floats().map(str) | st.sampled_from(["()", "None", "{"])
)


@given(name=NAMES, value=VALUES)
def test_overrides_are_taken_or_refused_in_one_line(monkeypatch, capsys, name, value):
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", lock_config=True, flag_values=values)
    monkeypatch.setattr(cli.flags, "FLAGS", values)
    try:
        cli._parse_flags(["train", "--config=configs/shapes_32.py", f"--config.{name}={value}"])
        check_training(values.config)
    except UserError as error:
        assert_told(error)
    except SystemExit as end:
        assert end.code == cli.USAGE_ERROR
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ") and "Traceback" not in line


# What an editor leaves: another value of the same kind, or none.
KINDS = {bool: st.booleans(), int: st.integers(), float: st.floats(), str: TEXTS}
EDITS = st.sampled_from(FIELDS).flatmap(
    lambda name: st.tuples(st.just(name), KINDS[type(DEFAULTS[name])] | st.none())
)


@given(edits=st.lists(EDITS, max_size=3))
def test_a_config_edited_by_hand_is_taken_or_refused_in_one_line(tmp_path, edits):
    written = shapes_32.get_config().to_dict()
    for name, value in edits:
        *section, field = name.split(".")
        (written[section[0]] if section else written)[field] = value
    config_path(tmp_path).write_text(json.dumps(written))
    try:
        check_training(read_config(tmp_path))
    except UserError as error:
        assert_told(error)


@given(data=LINES)
def test_a_config_of_any_bytes_is_refused_in_one_line(tmp_path, data):
    config_path(tmp_path).write_bytes(data)
    try:
        check_training(read_config(tmp_path))
    except UserError as error:
        assert_told(error)


# Captions.


@pytest.fixture(scope="module")
def tokenizer():
    from xmc_jax.data.tokenizer import Tokenizer

    return Tokenizer(ROOT / "xmc_jax" / "demo" / "shapes" / "vocab.txt", 12)


@given(captions=st.lists(TEXTS, min_size=1, max_size=4))
def test_captions_become_tokens_or_are_empty(tokenizer, captions):
    cleaned = [captioned.clean(caption) for caption in captions]
    assert all(text == " ".join(text.split()) for text in cleaned)
    "".join(cleaned).encode()
    try:
        tokens = tokenizer(captions)
    except UserError as error:
        assert "empty" in str(error)
        return
    assert tokens.shape == (len(captions), 12) and tokens.dtype == np.int32
    assert np.all(tokens[:, 0] == tokens[0, 0]) and np.all((tokens == tokens[0, 0]).sum(1) == 1)


# Images.


def encoded(kind: str) -> bytes:
    import io

    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


WHOLE = {kind: encoded(kind) for kind in preprocess._FORMATS}


@st.composite
def damaged(draw) -> bytes:
    data = bytearray(WHOLE[draw(st.sampled_from(sorted(WHOLE)))])
    for _ in range(draw(st.integers(1, 4))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data[: draw(st.integers(0, len(data)))]) if draw(st.booleans()) else bytes(data)


@given(data=st.binary() | damaged(), form=st.sampled_from(["sq128", "original"]))
def test_bytes_become_an_image_or_undecodable(data, form):
    try:
        image = images.convert(data, form)
    except preprocess.UndecodableImage as error:
        assert str(error)
        return
    assert preprocess.decode(image.data, "x").shape == (image.height, image.width, 3)


# Lines of JSON.


@given(lines=st.lists(LINES, max_size=4))
def test_lists_of_images_are_read_or_refused_in_one_line(tmp_path, lines):
    path = tmp_path / "list.jsonl"
    path.write_bytes(b"\n".join(lines))
    for read in (folder_builder._read_list, lambda path: list(narratives.read_narratives(path))):
        try:
            read(path)
        except UserError as error:
            assert_told(error)


@given(fields=st.fixed_dictionaries({"image": TEXTS, "captions": JSON}, optional={"split": JSON}))
def test_images_of_a_list_are_below_its_folder(tmp_path, fields):
    (tmp_path / "in").mkdir(exist_ok=True)
    path = tmp_path / "in" / "list.jsonl"
    path.write_text(json.dumps(fields))
    try:
        examples, _ = folder_builder._read_list(path)
    except UserError as error:
        assert_told(error)
        return
    for example in examples:
        assert example.location is None or path.parent in type(path)(example.location.path).parents


RECORDS = st.fixed_dictionaries(
    {"kind": st.sampled_from(["train", "eval", "x"]), "step": st.integers(0, 9)},
    optional={
        name: JSON for name in ("metric", "protocol", "value", "weights", "num_samples", "seed")
    },
)


@given(lines=st.lists(LINES | RECORDS.map(lambda x: json.dumps(x).encode()), max_size=5))
def test_metrics_of_any_lines_are_read_kept_and_reported(tmp_path, lines):
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join(lines))
    (tmp_path / "nonfinite.jsonl").write_bytes(b"\n".join(lines))
    faults.read_faults(tmp_path)
    before = read_metrics(tmp_path)
    latest_evaluations(before)
    append_metrics(tmp_path, [{"kind": "train", "step": 5, "d/loss": 1.0}])
    truncate_metrics(tmp_path, 4)
    kept = [r for r in before if r["kind"] != "train" or r["step"] <= 4]
    assert json.dumps(read_metrics(tmp_path)) == json.dumps(kept)


# Names.

CHIPS = st.sampled_from(["v3", "v4", "v5e", "v5p", "v6e", "tpu7x", "v9"])
SIDES = st.integers().map(str) | st.sampled_from(["", "1" * 5000, "٣", "²", "x", "0"])
SLICES = st.tuples(CHIPS, st.lists(SIDES)).map(lambda x: f"{x[0]}:{'x'.join(x[1])}")


@given(name=TEXTS | SLICES)
def test_names_of_slices_are_known_or_refused_in_one_line(name):
    try:
        topology._check_name(name)
    except UserError as error:
        assert_told(error)
