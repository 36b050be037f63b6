"""The generator as an ONNX graph: inference with running statistics.

Maps are ``[b, c, h, w]`` here, as ONNX' convolutions want them.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from xmc_jax.inference.onnx.graph import Graph, Spec
from xmc_jax.models.generator import (
    BASE_RESOLUTION,
    CHANNEL_MULTIPLIERS,
    NUM_GLOBAL_BLOCKS,
    Generator,
)
from xmc_jax.models.layers import EPSILON

_GAMMA = 15.0  # Sharpness of the attention: the default of `attention.word_attention`.
_MASKED = np.float32(-1e9)  # In place of logits: their exponential is 0.
_ZERO_SQUARED_NORM = np.float32(1e-16)  # As in attention.py.


class _Condition(NamedTuple):
    """As `layers.Condition`, with the axes that products need.

    Attributes:
      vector: ``[b, k]``.
      weights: ``[b, t, r]``, or None.
      words: ``[b, d, t]``, or None.
    """

    vector: str
    weights: str | None = None
    words: str | None = None


def build_generator(
    generator: Generator, weights: Mapping[str, np.ndarray], text_width: int
) -> bytes:
    """The contents of ``generator.onnx``.

    It maps noise ``z`` [b, z] and the outputs of ``text_encoder.onnx`` to ``image`` [b, h, w, 3],
    float32 in [-1, 1], and, if the modulation is attentional, ``attention`` [b, 16, 16, t]: the
    weights of the words in each region. It takes any number of captions and words. It computes in
    float32, whatever `generator.dtype` is.

    Args:
      generator: Its fields.
      weights: Averaged weights by name in their storage type, see `export.to_storage`.
      text_width: Length ``d`` of the words and of the sentence.
    """
    return _Builder(generator, weights, text_width).build()


class _Builder:
    """The graph under construction, beside the weights that it takes."""

    def __init__(self, generator: Generator, weights: Mapping[str, np.ndarray], text_width: int):
        self._generator, self._weights, self._text_width = generator, weights, text_width
        self._graph = Graph()
        self._add = self._graph.add

    def build(self) -> bytes:
        generator, add = self._generator, self._add
        multipliers = CHANNEL_MULTIPLIERS[generator.resolution]
        projected = self._dense("project_sentence", "sentence", alpha=generator.sentence_scale)
        condition = _Condition(add("Concat", projected, "z", axis=1))
        first = "z" if generator.first_layer == "noise" else condition.vector
        x = self._first_map(first, multipliers[0] * generator.width)
        outputs, side = {}, BASE_RESOLUTION
        for index in range(len(multipliers)):
            if index == NUM_GLOBAL_BLOCKS and generator.modulation == "attentional":
                condition, attention = self._attend(x, condition, side)
                shape = ("b", side, side, "t")
                outputs["attention"] = attention, Spec(np.float32, shape)
            x = self._block(f"block_{index}", x, condition, side)
            side *= 2
        x = self._norm_relu("final_norm", x, condition, side)
        image = add("Transpose", add("Tanh", self._conv("to_rgb", x)), perm=[0, 2, 3, 1])
        image_spec, width = Spec(np.float32, ("b", side, side, 3)), self._text_width
        inputs = {
            "z": Spec(np.float32, ("b", generator.z_dim)),
            "words": Spec(np.float32, ("b", "t", width)),
            "sentence": Spec(np.float32, ("b", width)),
            "word_mask": Spec(np.bool_, ("b", "t")),
        }
        return self._graph.serialize(inputs, {"image": (image, image_spec), **outputs})

    def _kernel_and_bias(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        return self._weights[f"params/{name}/kernel"], self._weights[f"params/{name}/bias"]

    def _dense(self, name: str, x: str, **attributes: float) -> str:
        return self._add("Gemm", x, *self._kernel_and_bias(name), **attributes)

    def _first_map(self, x: str, channels: int) -> str:
        """A dense layer, whose columns come in the order of its map's axes."""
        shape = (BASE_RESOLUTION, BASE_RESOLUTION, channels)
        kernel, bias = (
            np.moveaxis(y.reshape(*y.shape[:-1], *shape), -1, -3).reshape(y.shape)
            for y in self._kernel_and_bias("project_noise")
        )
        shape = np.int64([0, channels, BASE_RESOLUTION, BASE_RESOLUTION])
        return self._add("Reshape", self._add("Gemm", x, kernel, bias), shape)

    def _conv(self, name: str, x: str) -> str:
        kernel, bias = self._kernel_and_bias(name)
        pads = 4 * [kernel.shape[0] // 2]
        return self._add("Conv", x, kernel.transpose(3, 2, 0, 1), bias, pads=pads)

    def _block(self, name: str, x: str, condition: _Condition, side: int) -> str:
        h = self._norm_relu(f"{name}/norm_1", x, condition, side)
        h = self._conv(f"{name}/conv_1", self._upsample(h, 2))
        h = self._norm_relu(f"{name}/norm_2", h, condition, 2 * side)
        h = self._conv(f"{name}/conv_2", h)
        return self._add("Add", h, self._upsample(self._conv(f"{name}/shortcut", x), 2))

    def _upsample(self, x: str, factor: int) -> str:
        if factor == 1:
            return x
        return self._add(
            "Resize",
            x,
            "",  # Region of interest: all.
            np.float32([1, 1, factor, factor]),
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        )

    def _norm_relu(self, name: str, x: str, condition: _Condition, side: int) -> str:
        """`layers.ConditionalBatchNorm` of a map with these sides."""
        mean, var = (
            self._weights[f"batch_stats/{name}/batch_norm/{field}"] for field in ("mean", "var")
        )
        ones, zeros = np.ones_like(mean), np.zeros_like(mean)
        x = self._add("BatchNormalization", x, ones, zeros, mean, var, epsilon=EPSILON)
        gamma, beta = (
            self._project(f"{name}/{part}", condition, side) for part in ("gamma", "beta")
        )
        x = self._add("Mul", x, self._add("Add", gamma, np.float32(1)))
        return self._add("Relu", self._add("Add", x, beta))

    def _project(self, name: str, condition: _Condition, side: int) -> str:
        """`layers.ConditionalProjection`, upsampled to these sides, or 1x1 without words."""
        kernel, bias = self._kernel_and_bias(name)
        text_width = 0 if condition.words is None else self._text_width
        out = self._add("Gemm", condition.vector, kernel[text_width:], bias)
        if condition.words is None:
            return self._add("Unsqueeze", out, np.int64([2, 3]))
        words = self._add("MatMul", kernel[:text_width].T, condition.words)  # [b, c, t]
        regions = self._add("MatMul", words, condition.weights)
        out = self._add("Add", regions, self._add("Unsqueeze", out, np.int64([2])))
        cells = BASE_RESOLUTION * 2**NUM_GLOBAL_BLOCKS
        out = self._add("Reshape", out, np.int64([0, bias.size, cells, cells]))
        return self._upsample(out, side // cells)

    def _attend(self, x: str, condition: _Condition, side: int) -> tuple[_Condition, str]:
        """The condition with words, and the attention weights: `attention.word_attention`."""
        add = self._add
        valid = add("Unsqueeze", "word_mask", np.int64([1]))  # [b, 1, t]
        words = add("Transpose", "words", perm=[0, 2, 1])
        words = self._unit(add("Where", valid, words, np.float32(0)))
        query = add("Reshape", self._conv("query", x), np.int64([0, self._text_width, -1]))
        query = add("Transpose", self._unit(query), perm=[0, 2, 1])
        logits = add("Mul", add("MatMul", query, words), np.float32(_GAMMA))
        weights = add("Softmax", add("Where", valid, logits, _MASKED), axis=-1)
        weights = add("Where", valid, weights, np.float32(0))  # A caption may have no words.
        attention = add("Reshape", weights, np.int64([0, side, side, -1]))
        weights = add("Transpose", weights, perm=[0, 2, 1])
        return condition._replace(weights=weights, words=words), attention

    def _unit(self, x: str) -> str:
        """Vectors along axis 1 divided by their lengths. Those of length 0 stay so."""
        add = self._add
        squared_norm = add("ReduceSum", add("Mul", x, x), np.int64([1]), keepdims=1)
        inverse = add("Reciprocal", add("Sqrt", squared_norm))
        is_zero = add("LessOrEqual", squared_norm, _ZERO_SQUARED_NORM)
        return add("Mul", x, add("Where", is_zero, np.float32(0), inverse))
