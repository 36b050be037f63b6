"""Weight files with the names and shapes of the published one, and seeded random numbers."""

import io
import pickle
import sys
import types
import zipfile
import zlib
from collections import OrderedDict

import numpy as np

from xmc_jax.frozen.inception import entries


def seeded(name, shape):
    """The numbers with which tests/golden/inception_seeded.npz was made."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if name.endswith("conv.weight"):
        x = rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
    elif name == "fc.weight":
        x = rng.standard_normal(shape) * 0.02
    elif name == "fc.bias":
        x = rng.standard_normal(shape) * 0.1
    elif name.endswith("running_var"):
        x = rng.uniform(0.8, 1.4, shape)
    elif name.endswith("weight"):
        x = rng.uniform(0.7, 1.5, shape)
    else:  # Mean and bias of the normalisation.
        x = rng.standard_normal(shape) * (0.03 if name.endswith("bias") else 0.02)
    return x.astype(np.float32)


def seeded_state():
    """All arrays by name, and the counters that PyTorch adds."""
    state = {name: seeded(name, shape) for name, shape in entries().items()}
    norms = [name.removesuffix("running_var") for name in state if name.endswith("running_var")]
    return state | {f"{norm}num_batches_tracked": np.int64(0) for norm in norms}


class _Storage:
    """The numbers of a tensor, to which a pickle refers without containing them."""

    def __init__(self, key, array):
        self.key, self.array = key, array


class _Tensor:
    def __init__(self, key, array):
        self.storage, self.array = _Storage(key, array), array

    def __reduce__(self):
        strides = tuple(s // self.array.itemsize for s in self.array.strides)
        arguments = (self.storage, 0, self.array.shape, strides, False, OrderedDict())
        return sys.modules["torch._utils"]._rebuild_tensor_v2, arguments


def _make_torch():
    """The names of PyTorch that a pickled state contains."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")

    def _rebuild_tensor_v2():
        raise NotImplementedError

    _rebuild_tensor_v2.__module__ = "torch._utils"
    _rebuild_tensor_v2.__qualname__ = "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = _rebuild_tensor_v2
    for name in ("FloatStorage", "LongStorage"):
        setattr(torch, name, type(name, (), {"__module__": "torch"}))
    return {"torch": torch, "torch._utils": utils}


class _Pickler(pickle.Pickler):
    def persistent_id(self, item):
        if isinstance(item, _Storage):
            kind = "FloatStorage" if item.array.dtype == np.float32 else "LongStorage"
            storage = getattr(sys.modules["torch"], kind)
            rest = (None,) if self.legacy else ()
            return ("storage", storage, item.key, "cpu", item.array.size, *rest)
        return None


def encode(state, *, legacy):
    """The bytes of a state as PyTorch saves it, before version 1.6 (`legacy`) or since."""
    modules = _make_torch()
    sys.modules.update(modules)
    try:
        arrays = {name: np.ascontiguousarray(x) for name, x in state.items()}
        tensors = OrderedDict(
            (name, _Tensor(str(i), x)) for i, (name, x) in enumerate(arrays.items())
        )
        body = io.BytesIO()
        pickler = _Pickler(body, protocol=2)
        pickler.legacy = legacy
        pickler.dump(tensors)
    finally:
        for name in modules:
            del sys.modules[name]
    out = io.BytesIO()
    if not legacy:
        with zipfile.ZipFile(out, "w") as archive:
            archive.writestr("archive/data.pkl", body.getvalue())
            for i, x in enumerate(arrays.values()):
                archive.writestr(f"archive/data/{i}", x.tobytes())
        return out.getvalue()
    for header in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
        pickle.dump(header, out, protocol=2)
    out.write(body.getvalue())
    pickle.dump([str(i) for i in range(len(arrays))], out, protocol=2)
    for x in arrays.values():
        out.write(x.size.to_bytes(8, "little") + x.tobytes())
    return out.getvalue()
