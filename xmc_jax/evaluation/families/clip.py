"""``clip_score`` and R-precision: whether images fit their captions, measured with CLIP."""

import functools
import json
import re
from collections.abc import Callable, Hashable, Sequence

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Float32
from ml_collections import ConfigDict

from xmc_jax.data.overlap import evaluation_data
from xmc_jax.evaluation.families import shapes
from xmc_jax.evaluation.features import Features, InputFeatures, Network, on_pixels
from xmc_jax.evaluation.image_sets import make_progress
from xmc_jax.evaluation.inputs import EvalInputs, Measure, Prompts, split_name
from xmc_jax.frozen.clip import load_clip
from xmc_jax.metrics import r_precision as metric
from xmc_jax.metrics.intervals import Z_95
from xmc_jax.parallel import sharding
from xmc_jax.run.records import MetricRecord

_NUM_CANDIDATES = 1 + metric.NUM_OTHERS


def names(num_prompts: int) -> tuple[str, ...]:
    """See `selection`."""
    return ("clip_score", "clip_r_precision", "in_batch_r_precision")


def reason_unavailable(name: str, config: ConfigDict, prompts: Prompts | None) -> str | None:
    """See `selection`."""
    if not config.eval.clip:
        return (
            "no CLIP is named: set config.eval.clip to the folder or the name of a keras-hub "
            "preset, e.g. clip_vit_base_patch32 (evaluate: --set=clip=…)"
        )
    if name == "clip_r_precision" and config.eval.num_examples < _NUM_CANDIDATES:
        return (
            f"it needs {_NUM_CANDIDATES} prompts or more (config.eval.num_examples="
            f"{config.eval.num_examples})"
        )
    if prompts is not None:
        needed = metric.NUM_OTHERS if name == "clip_r_precision" else 1
        fewest = int(metric.count_others(*_keys(prompts, config)).min())
        if fewest < needed:
            return (
                f"of {len(prompts)} captions of {split_name(config)} one has {fewest} of other "
                f"images and meanings to compete with, and needs {needed}: raise "
                "config.eval.num_examples, or choose a larger split"
            )
    return None


def make_measure(config: ConfigDict, mesh: Mesh, names: Sequence[str]) -> Measure:
    """See `selection`. Floor: captions of other images. Ceiling: real images."""
    clip = load_clip(config.eval.clip, field="config.eval.clip")
    apply, name = on_pixels(clip.embed_images), f"CLIP {clip.name}, bicubic"
    features = Features(Network(name, apply, clip.image_params, clip.fingerprint), mesh)
    embed_captions = _make_embed_captions(clip, mesh, config.eval.batch_size)

    def measure(inputs: EvalInputs) -> list[MetricRecord]:
        rows, keys = InputFeatures(features, inputs), _keys(inputs.prompts, config)
        captions = embed_captions(tuple(prompt.caption for prompt in inputs.prompts))
        generated, real = rows.whole(inputs.generated), rows.whole(inputs.real)
        seed, own = config.eval.seed, np.arange(len(captions))
        others = metric.sample_candidates(*keys, num_others=1, seed=seed)[:, 1]
        records = []
        for name in names:
            how, score = _make_score(name, captions, keys, seed)
            record = inputs.record(
                metric=name,
                protocol=f"{how}; {_protocol(clip.name, config)}",
                floor=score(generated, others)["value"],
                ceiling=score(real, own)["value"],
                weights=clip.fingerprint,
                better="higher",
                **score(generated, own),
            )
            records.append(record)
        return records

    return measure


def _make_score(
    name: str, captions: Float[np.ndarray, "n d"], keys: tuple[list, list], seed: int
) -> tuple[str, Callable[..., dict[str, float]]]:
    """The protocol of a metric in words, and the function for the numbers of its records.

    The function takes embeddings of images, and for each image the index of the caption that counts
    as its own.
    """

    def clip_score(images, order):
        scores = metric.clip_scores(images, captions[order])
        value, half = float(scores.mean()), Z_95 * float(scores.std(ddof=1)) / len(scores) ** 0.5
        return {"value": value, "low": value - half, "high": value + half}

    if name == "clip_score":
        return "100 max(cos, 0), mean over pairs, no words added", clip_score
    if name == "clip_r_precision":
        competitors = f"{metric.NUM_OTHERS} others of other images and meanings"
        candidates = metric.sample_candidates(*keys, seed=seed)
    else:
        competitors = f"all of a batch of {_NUM_CANDIDATES} or more"
        candidates = metric.batch_candidates(*keys)

    def r_precision(images, order):
        return metric.r_precision(images, captions, candidates[order])._asdict()

    return f"the true caption before {competitors}, ties shared", r_precision


def _protocol(clip_name: str, config: ConfigDict) -> str:
    return (
        f"CLIP {clip_name}, {config.model.resolution} px resized bicubically, "
        f"{split_name(config)}, one caption an image drawn with seed {config.eval.seed}; "
        "ceiling: real images; floor: captions of other images"
    )


def _keys(prompts: Prompts, config: ConfigDict) -> tuple[list[Hashable], list[Hashable]]:
    """The image and the meaning of each caption: captions of equal meaning never compete."""
    if evaluation_data(config) == "shapes":
        meanings = [json.dumps(shapes.claims(config, p), sort_keys=True) for p in prompts]
    else:
        meanings = [" ".join(re.findall(r"\w+", p.caption.lower())) for p in prompts]
    return [prompt.example_id for prompt in prompts], meanings


def _make_embed_captions(
    clip, mesh: Mesh, batch_size: int
) -> Callable[[tuple[str, ...]], Float32[np.ndarray, "n d"]]:
    """CLIP's embeddings of captions, in every process; kept, as all checkpoints have the same."""
    rows, whole = sharding.batch_sharding(mesh), sharding.replicated(mesh)
    params = sharding.put(clip.caption_params, whole)
    apply = jax.jit(clip.embed_captions, out_shardings=whole)
    size = -(-batch_size // mesh.size) * mesh.size

    @functools.lru_cache(maxsize=1)
    def embed(captions: tuple[str, ...]) -> Float32[np.ndarray, "n d"]:
        tokens, count, embedded = clip.tokenize(captions), len(captions), []
        progress = make_progress(count, name="CLIP of captions", unit="captions")
        for start in range(0, count, size):
            part = tokens[start : start + size]
            padded = np.concatenate([part, np.repeat(part[-1:], size - len(part), 0)])
            batch = apply(params, sharding.put(padded, rows))
            embedded.append(np.asarray(batch, np.float32)[: len(part)])
            progress.tell(start + len(part))
        return np.concatenate(embedded)

    return embed
