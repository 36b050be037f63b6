"""Metrics in CLIP's embeddings, which are computed once for all of them.

``clip_score`` and R-precision: whether images fit their captions. ``fd_clip``, ``cmmd`` and
``cmmd_unbiased``: distances between sets of images.
"""

import functools
import json
import re
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Float32
from ml_collections import ConfigDict

from xmc_jax.data.overlap import evaluation_data
from xmc_jax.evaluation.distances import frechet_between
from xmc_jax.evaluation.families import shapes
from xmc_jax.evaluation.features import Features, InputFeatures, Network, on_pixels
from xmc_jax.evaluation.image_sets import ImageSet, make_progress
from xmc_jax.evaluation.inputs import (
    EvalInputs,
    Measure,
    Prompts,
    real_images_protocol,
    reason_too_few,
    split_name,
)
from xmc_jax.frozen.clip import Clip, load_clip
from xmc_jax.metrics import mmd
from xmc_jax.metrics import r_precision as metric
from xmc_jax.metrics.intervals import Z_95
from xmc_jax.parallel import sharding
from xmc_jax.run.records import MetricRecord

_NUM_CANDIDATES = 1 + metric.NUM_OTHERS
_OF_CAPTIONS = ("clip_score", "clip_r_precision", "in_batch_r_precision")
# Distances of image sets: the first, and for each estimate of the CMMD its name and protocol.
_FRECHET = "fd_clip"
_CMMD = {
    "cmmd": ("biased", "V-statistic"),
    "cmmd_unbiased": ("unbiased", "U-statistic without pairs of a vector with itself"),
}


def names(num_prompts: int) -> tuple[str, ...]:
    """See `selection`."""
    return (*_OF_CAPTIONS, _FRECHET, *_CMMD)


def reason_unavailable(name: str, config: ConfigDict, prompts: Prompts | None) -> str | None:
    """See `selection`."""
    if not config.eval.clip:
        return (
            "no CLIP is named: set config.eval.clip to the folder or the name of a keras-hub "
            "preset, e.g. clip_vit_base_patch32 (evaluate: --set=clip=…)"
        )
    if name not in _OF_CAPTIONS:
        return reason_too_few(2, config, prompts)
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
    """See `selection`."""
    clip = load_clip(config.eval.clip, field="config.eval.clip")
    apply, title = on_pixels(clip.embed_images), f"CLIP {clip.name} (Pillow's bicubic)"
    features = Features(Network(title, apply, clip.image_params, clip.fingerprint), mesh)
    of_captions = [name for name in names if name in _OF_CAPTIONS]
    parts = [functools.partial(_compare_images, names=names, clip_name=clip.name)]
    if of_captions:
        parts.insert(0, _make_compare_captions(clip, mesh, config, of_captions))

    def measure(inputs: EvalInputs) -> list[MetricRecord]:
        rows = InputFeatures(features, inputs)
        return [
            inputs.record(weights=clip.fingerprint, **fields)
            for part in parts
            for fields in part(rows)
        ]

    return measure


def _compare_images(
    rows: InputFeatures, names: Sequence[str], clip_name: str
) -> Iterator[dict[str, Any]]:
    """Fields of the records of distances. Floor: other real images instead of generated ones."""
    inputs, real = rows.inputs, rows.inputs.real
    about = f"CLIP {clip_name}, images resized bicubically, {real_images_protocol(inputs)}"
    if _FRECHET in names:
        value, floor = rows.compare(lambda x: frechet_between(x, real, rows.own))
        protocol = f"Fréchet distance, embeddings of {about}"
        fields = {"metric": _FRECHET, "protocol": protocol, "value": value, "floor": floor}
        yield fields | {"better": "lower"}

    def discrepancy(images: ImageSet) -> mmd.Discrepancy:
        total, title = mmd.num_rows(len(images), len(real)), f"cmmd of {images.name} images"
        progress = make_progress(total, name=title, unit="kernel rows")
        return mmd.cmmd(rows.whole(images), rows.whole(real), tell=progress.tell)

    if chosen := [name for name in _CMMD if name in names]:
        found = rows.compare(discrepancy)
        for name in chosen:
            estimate, how = _CMMD[name]
            value, floor = (x and getattr(x, estimate) for x in found)
            protocol = (
                f"{mmd.SCALE:.0f} MMD², {how}, Gaussian kernel, sigma {mmd.SIGMA:.0f}, unit "
                f"embeddings of {about}"
            )
            fields = {"metric": name, "protocol": protocol, "value": value, "floor": floor}
            yield fields | {"better": "lower"}


def _make_compare_captions(
    clip: Clip, mesh: Mesh, config: ConfigDict, names: Sequence[str]
) -> Callable[[InputFeatures], Iterator[dict[str, Any]]]:
    """Fields of the records of fit. Floor: captions of other images. Ceiling: real images."""
    embed_captions = _make_embed_captions(clip, mesh, config.eval.batch_size)

    def compare(rows: InputFeatures) -> Iterator[dict[str, Any]]:
        inputs, seed = rows.inputs, config.eval.seed
        keys = _keys(inputs.prompts, config)
        captions = embed_captions(tuple(prompt.caption for prompt in inputs.prompts))
        generated, real = rows.whole(inputs.generated), rows.whole(inputs.real)
        own = np.arange(len(captions))
        others = metric.sample_candidates(*keys, num_others=1, seed=seed)[:, 1]
        for name in names:
            how, score = _make_score(name, captions, keys, seed)
            yield {
                "metric": name,
                "protocol": f"{how}; {_protocol(clip.name, config)}",
                "floor": score(generated, others)["value"],
                "ceiling": score(real, own)["value"],
                "better": "higher",
                **score(generated, own),
            }

    return compare


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
    clip: Clip, mesh: Mesh, batch_size: int
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
