"""The text encoder, BERT with the projection of its outputs, as an ONNX graph."""

import math
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float
from numpy.typing import DTypeLike

from xmc_jax.frozen import text_projection, whitening
from xmc_jax.frozen.text_encoder import Bert, TextEncoder, describe_bert
from xmc_jax.inference.onnx.graph import Graph, Spec

_MASKED = np.float32(-1e9)  # Added to logits: their exponential is 0.


def build_text_encoder(encoder: TextEncoder, *, dtype: DTypeLike = np.float16) -> bytes:
    """The contents of ``text_encoder.onnx``.

    It maps ``tokens``, int32 [b, t], to ``words`` [b, t, d] and ``sentence`` [b, d], float32, and
    ``word_mask``, bool [b, t]: see `TextEncoder.apply`. It takes any number of captions and tokens;
    the amount of padding has no effect.

    Args:
      encoder: With its weights.
      dtype: Storage type of embeddings and kernels: float32 or float16. It computes in float32.
    """
    projection = None
    if text_projection.is_projected(encoder):
        _, projection = encoder.params
        encoder = text_projection.without_projection(encoder)
    bert, graph = describe_bert(encoder), Graph()
    words, mask = _encode(graph, bert, dtype)
    count = graph.add("ReduceSum", graph.to_float32(mask), np.int64([1]), keepdims=1)
    total = graph.add("ReduceSum", words, np.int64([1]), keepdims=0)
    sentence = graph.add("Div", total, graph.add("Max", count, np.float32(1)))
    width = encoder.width
    if projection is not None:
        words, sentence = _project(graph, projection, words, sentence)
        words = _clear_padding(graph, words, mask)
        width = projection.sentence_kernel.shape[-1]
    return graph.serialize(
        {"tokens": Spec(np.int32, ("b", "t"))},
        {
            "words": (words, Spec(np.float32, ("b", "t", width))),
            "sentence": (sentence, Spec(np.float32, ("b", width))),
            "word_mask": (mask, Spec(np.bool_, ("b", "t"))),
        },
    )


def _encode(graph: Graph, bert: Bert, dtype: DTypeLike) -> tuple[str, str]:
    """Words, zero at padding, and their mask."""
    large = ("/kernel", "/embeddings")
    weights = {k: _store(x, dtype) if k.endswith(large) else x for k, x in bert.weights.items()}
    mask = graph.add("Not", graph.add("Equal", "tokens", np.int32(0)))
    padding = graph.add("Where", mask, np.float32(0), _MASKED)
    padding = graph.add("Unsqueeze", padding, np.int64([1, 2]))  # [b, 1, 1, t]

    # There is one segment. Its embedding is part of all positions'.
    positions = bert.weights["position_embedding/embeddings"]
    positions = _store(positions + bert.weights["segment_embedding/embeddings"][:1], dtype)
    length = graph.add("Shape", "tokens", start=1, end=2)
    positions = graph.add("Slice", positions, np.int64([0]), length, np.int64([0]))
    x = graph.look_up(weights["token_embedding/embeddings"], "tokens")
    x = _normalize(graph, bert, "embeddings_layer_norm", graph.add("Add", x, positions))
    for index in range(bert.num_layers):
        x = _layer(graph, bert, weights, f"transformer_layer_{index}", x, padding)
    return _clear_padding(graph, x, mask), mask


def _store(x: np.ndarray, dtype: DTypeLike) -> np.ndarray:
    """The array in its storage type, or as it is if that cannot hold it."""
    with np.errstate(over="ignore"):
        stored = x.astype(dtype)
    return stored if np.all(np.isfinite(stored)) else x


def _layer(
    graph: Graph, bert: Bert, weights: Mapping[str, np.ndarray], name: str, x: str, padding: str
) -> str:
    """Self-attention and two dense layers. `padding` is added to the logits."""

    def dense(x: str, part: str) -> str:
        kernel, bias = (weights[f"{name}/{part}/{field}"] for field in ("kernel", "bias"))
        return graph.add("Add", graph.add("MatMul", x, _matrix(kernel, bias)), bias.ravel())

    def heads(part: str, axes: list[int]) -> str:
        y = dense(x, f"self_attention_layer/{part}")
        y = graph.add("Reshape", y, np.int64([0, 0, bert.num_heads, -1]))
        return graph.add("Transpose", y, perm=axes)

    query, value = (heads(part, [0, 2, 1, 3]) for part in ("query", "value"))
    logits = graph.add("MatMul", query, heads("key", [0, 2, 3, 1]))
    width = bert.weights["embeddings_layer_norm/gamma"].size // bert.num_heads
    logits = graph.add("Mul", logits, np.float32(1 / math.sqrt(width)))
    attention = graph.add("Softmax", graph.add("Add", logits, padding), axis=-1)
    y = graph.add("Transpose", graph.add("MatMul", attention, value), perm=[0, 2, 1, 3])
    y = graph.add("Reshape", y, np.int64([0, 0, -1]))
    y = graph.add("Add", x, dense(y, "self_attention_layer/attention_output"))
    x = _normalize(graph, bert, f"{name}/self_attention_layer_norm", y)
    y = _gelu(graph, dense(x, "feedforward_intermediate_dense"), exact=bert.exact_gelu)
    y = graph.add("Add", x, dense(y, "feedforward_output_dense"))
    return _normalize(graph, bert, f"{name}/feedforward_layer_norm", y)


def _matrix(kernel: np.ndarray, bias: np.ndarray) -> Float[np.ndarray, "n m"]:
    """The kernel of a dense layer, some of whose axes are split into heads."""
    return kernel.reshape(-1, bias.size)


def _normalize(graph: Graph, bert: Bert, name: str, x: str) -> str:
    scale, shift = (bert.weights[f"{name}/{field}"] for field in ("gamma", "beta"))
    return graph.add("LayerNormalization", x, scale, shift, epsilon=bert.epsilon)


def _gelu(graph: Graph, x: str, *, exact: bool) -> str:
    if exact:
        gate = graph.add("Erf", graph.add("Mul", x, np.float32(math.sqrt(0.5))))
    else:
        cube = graph.add("Mul", graph.add("Mul", x, x), x)
        y = graph.add("Add", x, graph.add("Mul", cube, np.float32(0.044715)))
        gate = graph.add("Tanh", graph.add("Mul", y, np.float32(math.sqrt(2 / math.pi))))
    gate = graph.add("Add", gate, np.float32(1))
    return graph.add("Mul", graph.add("Mul", x, gate), np.float32(0.5))


def _clear_padding(graph: Graph, words: str, mask: str) -> str:
    valid = graph.add("Unsqueeze", mask, np.int64([2]))
    return graph.add("Where", valid, words, np.float32(0))


def _project(
    graph: Graph, projection: whitening.Projection, words: str, sentence: str
) -> tuple[str, str]:
    """Both projected; always stored in float32, since whitening enlarges small errors."""
    mean, kernel, sentence_mean, sentence_kernel = map(np.asarray, projection)
    words = graph.add("MatMul", graph.add("Sub", words, mean), kernel)
    sentence = graph.add("MatMul", graph.add("Sub", sentence, sentence_mean), sentence_kernel)
    return words, sentence
