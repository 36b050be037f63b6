"""run/records.py: lines of metrics.jsonl survive what happens to files; the record of a number."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from xmc_jax.run.folder import metrics_path
from xmc_jax.run.records import (
    MetricRecord,
    append_metrics,
    evaluations,
    latest_evaluations,
    read_metrics,
    truncate_metrics,
)


def train_record(step: int, loss: float = 1.0) -> dict:
    return {"kind": "train", "step": step, "d/loss": loss}


def eval_record(step: int, value: float = 3.5, **changes) -> dict:
    about = {"kind": "eval", "step": step, "generator": "g", "split": "val", "num_samples": 9}
    about |= {"seed": 0, "metric": "fd_vgg16", "protocol": "p", "value": value, "floor": None}
    return about | {"ceiling": None, "weights": "w", "better": "lower"} | changes


def test_metrics_append_and_come_back_in_order(tmp_path):
    assert read_metrics(tmp_path) == []
    append_metrics(tmp_path, [train_record(1), train_record(2)])
    append_metrics(tmp_path, [eval_record(2)])
    assert read_metrics(tmp_path) == [train_record(1), train_record(2), eval_record(2)]


def test_metrics_take_array_scalars_and_write_strict_json(tmp_path):
    values = {"a": np.float32(0.5), "b": jnp.float32(2), "c": np.int64(3), "d": float("nan")}
    values |= {"e": jnp.float32(jnp.inf), "f": None, "g": "text"}
    append_metrics(tmp_path, [{"kind": "train", "step": 1, **values}])

    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    line = json.loads(metrics_path(tmp_path).read_text(), parse_constant=refuse)
    assert line == {"kind": "train", "step": 1, "a": 0.5, "b": 2.0, "c": 3, "d": None, "e": None,
                    "f": None, "g": "text"}  # fmt: skip


def test_a_torn_last_line_is_left_out_and_does_not_spoil_the_next(tmp_path, capsys):
    append_metrics(tmp_path, [train_record(1), train_record(2)])
    path = metrics_path(tmp_path)
    path.write_text(path.read_text()[:-9])
    assert read_metrics(tmp_path) == [train_record(1)]
    assert "1 incomplete line" in capsys.readouterr().err
    append_metrics(tmp_path, [train_record(3)])
    assert read_metrics(tmp_path) == [train_record(1), train_record(3)]


def test_lines_that_are_no_records_are_left_out_and_named(tmp_path, capsys):
    append_metrics(tmp_path, [train_record(1)])
    with metrics_path(tmp_path).open("ab") as file:
        file.write(
            b'\xff\x00\n[]\n\n{"kind": "train"}\n{"kind": 1, "step": 2}\n' + b"[" * 9999 + b"\n"
        )
    append_metrics(tmp_path, [train_record(2)])
    assert read_metrics(tmp_path) == [train_record(1), train_record(2)]
    assert "left out 5 incomplete line(s): 2, 3, 5, 6, 7" in capsys.readouterr().err


def test_truncate_drops_later_training_only_and_repeats_harmlessly(tmp_path):
    truncate_metrics(tmp_path, 1)  # No file: nothing to do, nothing made.
    assert not metrics_path(tmp_path).exists()
    append_metrics(tmp_path, [train_record(1), train_record(2), eval_record(3), train_record(3)])
    append_metrics(tmp_path, [{"kind": "probe", "step": 3, "probe/word/size": 0.5}])
    with metrics_path(tmp_path).open("a") as file:
        file.write('{"kind": "tra')
    for _ in range(2):
        truncate_metrics(tmp_path, 2)
        assert read_metrics(tmp_path) == [train_record(1), train_record(2), eval_record(3)]
    assert [f.name for f in tmp_path.iterdir()] == ["metrics.jsonl"]


# Lines of metrics.jsonl that version 0.1.0 wrote, one for each set of fields.
ABOUT = {"kind": "eval", "step": 2, "generator": "g", "split": "val", "num_samples": 9, "seed": 0}
INTERVAL = {"value": 0.5, "low": 0.25, "high": 0.75, "floor": 0.1, "ceiling": 1.0}
EARLIER = {
    "shapes": {
        "metric": "shapes_accuracy/colour",
        **INTERVAL,
        "floor_low": 0.0,
        "floor_high": 0.2,
        "ceiling_low": 0.9,
        "ceiling_high": 1.0,
        "claims": 40,
        "weights": None,
    },
    "fid": {"metric": "fid30k", "value": 9.5, "floor": 1.5, "ceiling": None, "weights": "w"},
    "few images": {"metric": "kid1k", "value": 9.5, "floor": None, "ceiling": None, "weights": "w"},
    "clip_score": {"metric": "clip_score", **INTERVAL, "weights": "w"},
    "retrieval": {"metric": "clip_r_precision", **INTERVAL, "chance": 0.01, "weights": "w"},
    "soa": {"metric": "soa_c", **INTERVAL, "classes": {"cat": [1, 2]}, "weights": "w"},
    "not finite": {"metric": "fid9", "value": None, "floor": None, "ceiling": None, "weights": "w"},
}


@pytest.mark.parametrize("name", EARLIER)
def test_lines_of_earlier_versions_come_back_field_by_field(name):
    line = ABOUT | {"protocol": "p", "better": "higher"} | EARLIER[name]
    record = MetricRecord.from_json(line)
    assert record.to_json() == line
    assert all(getattr(record, field) == line[field] for field in line.keys() - {"kind"})
    assert record.family == line["metric"].partition("/")[0]


def test_a_record_is_plain_numbers_and_has_no_nan():
    fields = {"step": 1, "metric": "m", "protocol": "p", "weights": None, "num_samples": 3}
    record = MetricRecord(**fields, value=np.float64(0.5), low=float("nan"), floor=2)
    assert type(record.value) is float and record.low is None and record.floor == 2
    assert "low" not in record.to_json() and record.to_json()["ceiling"] is None
    assert MetricRecord.from_json(record.to_json()) == record


@pytest.mark.parametrize("name", ["metric", "protocol", "value", "weights", "num_samples"])
def test_incomplete_evaluations_are_none(name):
    line = eval_record(1)
    assert len(evaluations([line, train_record(1), line | {"kind": "x"}])) == 1
    assert evaluations([{k: v for k, v in line.items() if k != name}, line | {name: [1]}]) == []


def test_other_versions_may_know_other_fields():
    fewer = ("generator", "split", "floor", "ceiling", "better")
    line = {k: v for k, v in eval_record(1).items() if k not in fewer}
    record = MetricRecord.from_json(line | {"new": 1, "claims": "many"})
    assert record.value == 3.5
    assert all(getattr(record, name) is None for name in (*fewer, "claims"))


def test_latest_evaluation_of_each_protocol_counts():
    lines = [
        eval_record(100, 0.1),
        train_record(400),
        eval_record(300, 0.3),
        eval_record(300, 0.4),  # Measured again.
        eval_record(200, 0.2),  # An older checkpoint, measured later.
        eval_record(100, 0.9, protocol="other"),
        eval_record(100, 0.8, weights=None),
    ]
    found = {(r.protocol, r.weights): r.value for r in latest_evaluations(lines)}
    assert found == {("p", "w"): 0.4, ("other", "w"): 0.9, ("p", None): 0.8}
    assert [r.value for r in latest_evaluations(lines, step=200)] == [0.2]
