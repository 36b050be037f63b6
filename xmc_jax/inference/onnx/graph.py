"""Builds ONNX graphs.

Operators and files are as old as they can be (opset 17, which has layer normalisation), so that
older runtimes and browsers read them.
"""

import importlib.util
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from xmc_jax.errors import UserError

OPSET, _IR_VERSION = 17, 8
_FLOAT32 = 1  # Its number in ONNX.


class Spec(NamedTuple):
    """Type and shape of an input or output; axes of any length have names."""

    dtype: type[np.generic]
    shape: tuple[str | int, ...]


class Graph:
    """Operators in the order in which they run. Values are known by their names."""

    def __init__(self):
        self._nodes: list[tuple[str, list[str], str, dict[str, Any]]] = []
        self._constants: dict[str, np.ndarray] = {}

    def add(self, op: str, *inputs: str | np.ndarray | np.generic, **attributes: Any) -> str:
        """Adds an operator of one output, and gives the output's name.

        Args:
          op: Name of the operator.
          inputs: Names of values, or constants. Constants of float16 are stored in this type, and
            become float32 before the operator reads them.
          attributes: Of the operator.
        """
        names = [x if isinstance(x, str) else self._read(x) for x in inputs]
        return self._append(op, names, attributes)

    def look_up(self, table: Float[np.ndarray, "n d"], ids: str) -> str:
        """Rows of a table, float32. Of a table in float16 only these rows become float32."""
        rows = self._append("Gather", [self._store(table), ids], {})
        return self.to_float32(rows) if table.dtype == np.float16 else rows

    def to_float32(self, x: str) -> str:
        """The value cast to float32."""
        return self._append("Cast", [x], {"to": _FLOAT32})

    def serialize(
        self, inputs: Mapping[str, Spec], outputs: Mapping[str, tuple[str, Spec]]
    ) -> bytes:
        """The contents of an ONNX file.

        Args:
          inputs: By name.
          outputs: By name: the value of each, and what it is.
        """
        from onnx import helper, numpy_helper  # Optional: `ensure_installed` has looked for it.

        def describe(name: str, spec: Spec):
            dtype = helper.np_dtype_to_tensor_dtype(np.dtype(spec.dtype))
            return helper.make_tensor_value_info(name, dtype, spec.shape)

        nodes = [
            helper.make_node(op, names, [output], **attributes)
            for op, names, output, attributes in self._nodes
        ]
        nodes += [helper.make_node("Identity", [x], [name]) for name, (x, _) in outputs.items()]
        graph = helper.make_graph(
            nodes,
            "xmc_jax",
            [describe(name, spec) for name, spec in inputs.items()],
            [describe(name, spec) for name, (_, spec) in outputs.items()],
            [numpy_helper.from_array(x, name) for name, x in self._constants.items()],
        )
        opsets = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(
            graph, opset_imports=opsets, ir_version=_IR_VERSION, producer_name="xmc-jax"
        )
        return model.SerializeToString()

    def _append(self, op: str, names: list[str], attributes: dict[str, Any]) -> str:
        output = f"{op}_{len(self._nodes)}"
        self._nodes.append((op, names, output, attributes))
        return output

    def _read(self, x: np.ndarray | np.generic) -> str:
        name = self._store(x)
        return self.to_float32(name) if x.dtype == np.float16 else name

    def _store(self, x: np.ndarray | np.generic) -> str:
        name = f"constant_{len(self._constants)}"
        self._constants[name] = np.ascontiguousarray(x).reshape(x.shape)
        return name


def ensure_installed() -> None:
    """Raises UserError if the package onnx is not installed."""
    if importlib.util.find_spec("onnx") is None:
        raise UserError(
            "--onnx and --web need the package onnx, which is not installed: "
            f"{sys.executable} -m pip install onnx"
        )
