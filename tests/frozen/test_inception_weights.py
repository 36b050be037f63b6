"""inception_weights.py reads the formats of PyTorch, and calls nothing that a pickle names."""

import hashlib
import io
import pickle
import zipfile

import numpy as np
import pytest

from tests import places
from tests.inception import encode, seeded_state
from xmc_jax.errors import UserError
from xmc_jax.frozen.inception_weights import load_inception_weights, read_state


def load(path):
    prefix = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    return load_inception_weights(str(path), sha256_prefix=prefix)


@pytest.mark.parametrize("name", ["torch_legacy.pth", "torch_zip.pth"])
def test_files_that_pytorch_wrote(name):
    """See golden/make_metrics.py; the second tensor is a transposed view of the first."""
    state = read_state((places.GOLDEN / name).read_bytes())
    assert list(state) == ["a", "b", "c"]
    np.testing.assert_array_equal(state["a"], np.arange(6, dtype=np.float32).reshape(2, 3))
    np.testing.assert_array_equal(state["b"], state["a"].T)
    assert state["c"] == 7 and state["c"].dtype == np.int64


def test_a_whole_file(tmp_path):
    state = seeded_state()
    (tmp_path / "weights.pth").write_bytes(encode(state, legacy=True))
    loaded = load(tmp_path / "weights.pth")
    assert loaded.state.keys() == state.keys()
    for name, x in state.items():
        np.testing.assert_array_equal(loaded.state[name], x)
    assert len(loaded.fingerprint) == 64

    with pytest.raises(UserError, match="its sha256 begins with .*, not 6726825d"):
        load_inception_weights(str(tmp_path / "weights.pth"))
    with pytest.raises(UserError, match="no weight file .*config.eval.inception_weights names pt_"):
        load_inception_weights(str(tmp_path / "absent.pth"))


@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"fc.bias": np.zeros(1000, np.float32)}, r"fc.bias is \(1000,\) and should be \(1008,\)"),
        ({"fc.extra": np.zeros(1, np.float32)}, "fc.extra is .* should be absent"),
        ({"fc.bias": None}, "fc.bias is absent"),
    ],
)
def test_other_contents_are_named(tmp_path, monkeypatch, legacy, change, words):
    small = {"fc.weight": (1008, 2), "fc.bias": (1008,)}
    monkeypatch.setattr("xmc_jax.frozen.inception_weights.entries", lambda: small)
    state = {name: np.zeros(shape, np.float32) for name, shape in small.items()} | change
    state = {name: x for name, x in state.items() if x is not None}
    (tmp_path / "weights.pth").write_bytes(encode(state, legacy=legacy))
    with pytest.raises(UserError, match=words):
        load(tmp_path / "weights.pth")


class Bomb:
    def __reduce__(self):
        return print, ("boom",)


@pytest.mark.parametrize(
    "data",
    [
        pickle.dumps(Bomb()),
        pickle.dumps(0x1950A86A20F9469CFC6C) + pickle.dumps(1001) + pickle.dumps(Bomb()),
        b"",
        b"PK\x03\x04 no archive",
        encode({"a": np.ones(3, np.float32)}, legacy=True)[:-5],
        encode({"a": np.ones(3, np.float32)}, legacy=False).replace(
            b"\x00\x00\x80?" * 3, b"x" * 12
        ),
    ],
    ids=["call", "call-inside", "empty", "cut-archive", "cut", "flipped"],
)
def test_nothing_is_called_and_damage_is_one_line(tmp_path, capsys, data):
    (tmp_path / "weights.pth").write_bytes(data)
    with pytest.raises(UserError, match="weights.pth cannot be read as weights: "):
        load(tmp_path / "weights.pth")
    assert "boom" not in capsys.readouterr().out


def test_tensors_stay_inside_their_storage():
    data = encode({"a": np.ones((2, 3), np.float32)}, legacy=False)
    assert read_state(data)["a"].shape == (2, 3)
    # The shape is two one-byte integers in the pickle: K 2, K 3.
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members["archive/data.pkl"] = members["archive/data.pkl"].replace(b"K\x02K\x03", b"K\xffK\x03")
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(ValueError, match=r"shape \(255, 3\) does not fit"):
        read_state(out.getvalue())
