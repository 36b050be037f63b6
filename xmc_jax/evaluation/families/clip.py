"""Do drawn pictures fit their captions? ``clip_score`` and R-precision, with CLIP as the judge."""

import json
import re
from collections.abc import Callable, Hashable, Sequence

import jax
import numpy as np
from jaxtyping import Float32
from ml_collections import ConfigDict

from xmc_jax import images
from xmc_jax.console import Progress
from xmc_jax.evaluation.families import shapes
from xmc_jax.evaluation.features import Features, Network
from xmc_jax.evaluation.inputs import Material, Prompt, Record, split_name
from xmc_jax.experiment import Experiment
from xmc_jax.metrics import r_precision as metric
from xmc_jax.metrics.intervals import Z_95
from xmc_jax.parallel import processes, sharding
from xmc_jax.run.config_checks import evaluation_data

_NUM_CANDIDATES = 1 + metric.NUM_OTHERS


def names(num_prompts: int) -> tuple[str, ...]:
    """The metrics of this family."""
    return ("clip_score", "clip_r_precision", "in_batch_r_precision")


def reason_unavailable(
    name: str, config: ConfigDict, prompts: Sequence[Prompt] | None = None
) -> str | None:
    """Why a metric cannot judge a run; None if it can, as far as prompts, if given, tell."""
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


def make_measure(
    experiment: Experiment, names: Sequence[str]
) -> Callable[[Material], list[Record]]:
    """Cosines of CLIP's embeddings; floor: captions of other images; ceiling: real images."""
    # Keras takes seconds to import: nobody waits for it who does not ask for these metrics.
    from xmc_jax.frozen.clip import load_clip

    clip = load_clip(experiment.config.eval.clip, field="config.eval.clip")
    features = Features(_network(clip), experiment.mesh)
    embed_captions = _CaptionEmbedder(clip, experiment)
    measures = {
        "clip_score": _clip_score,
        "clip_r_precision": _r_precision,
        "in_batch_r_precision": _in_batch_r_precision,
    }

    def measure(material: Material) -> list[Record]:
        drawn, real = material.drawn, material.real
        captions = embed_captions([prompt.caption for prompt in material.prompts])
        of_drawn = drawn.gather(features(drawn, material.scratch, keep=False))
        of_real = real.gather(features(real, material.scratch, keep=True))
        about = {"weights": clip.fingerprint, "better": "higher"}
        return [
            {"metric": name}
            | measures[name](clip.name, material, of_drawn, of_real, captions)
            | about
            for name in names
        ]

    return measure


def _clip_score(judge: str, material: Material, drawn, real, captions) -> Record:
    keys = _keys(material.prompts, material.config)
    others = metric.mismatch(*keys, seed=material.config.eval.seed)
    scores = metric.clip_scores(drawn, captions)
    value = float(scores.mean())
    half = Z_95 * float(scores.std(ddof=1)) / len(scores) ** 0.5
    how = "100 max(cos, 0), mean over pairs, no words added"
    return {
        "protocol": f"{how}; {_protocol(judge, material)}",
        "value": value,
        "low": value - half,
        "high": value + half,
        "floor": float(metric.clip_scores(drawn, captions[others]).mean()),
        "ceiling": float(metric.clip_scores(real, captions).mean()),
    }


def _r_precision(judge: str, material: Material, drawn, real, captions) -> Record:
    keys = _keys(material.prompts, material.config)
    candidates = metric.sample_candidates(*keys, seed=material.config.eval.seed)
    how = f"the true caption before {metric.NUM_OTHERS} others of other images and meanings"
    return _retrieval(how, candidates, judge, material, drawn, real, captions)


def _in_batch_r_precision(judge: str, material: Material, drawn, real, captions) -> Record:
    candidates = metric.batch_candidates(*_keys(material.prompts, material.config))
    how = f"the true caption before all of a batch of {_NUM_CANDIDATES} or more"
    return _retrieval(how, candidates, judge, material, drawn, real, captions)


def _retrieval(how, candidates, judge: str, material: Material, drawn, real, captions) -> Record:
    keys = _keys(material.prompts, material.config)
    others = metric.mismatch(*keys, seed=material.config.eval.seed)
    found = metric.r_precision(drawn, captions, candidates)
    return {
        "protocol": f"{how}, ties shared; {_protocol(judge, material)}",
        "value": found.value,
        "low": found.low,
        "high": found.high,
        "chance": found.chance,
        "floor": metric.r_precision(drawn, captions, candidates[others]).value,
        "ceiling": metric.r_precision(real, captions, candidates).value,
    }


def _protocol(judge: str, material: Material) -> str:
    config = material.config
    return (
        f"CLIP {judge}, {config.model.resolution} px resized bicubically, {split_name(config)}, "
        f"one caption an image drawn with seed {config.eval.seed}; ceiling: real images; floor: "
        "captions of other images"
    )


def _keys(prompts: Sequence[Prompt], config: ConfigDict) -> tuple[list[Hashable], list[Hashable]]:
    """Which image each caption belongs to, and what it says: two ways to say it compete nowhere."""
    if evaluation_data(config) == "shapes":
        meanings = [json.dumps(shapes.claims(config, p), sort_keys=True) for p in prompts]
    else:
        meanings = [" ".join(re.findall(r"\w+", p.caption.lower())) for p in prompts]
    return [prompt.example_id for prompt in prompts], meanings


def _network(clip) -> Network:
    def apply(params, pixels: jax.Array) -> jax.Array:
        return clip.embed_images(params, images.from_uint8(pixels))

    return Network(f"CLIP {clip.name}, bicubic", apply, clip.image_params, clip.fingerprint)


class _CaptionEmbedder:
    """CLIP's embeddings of a run's captions, made once for all of its checkpoints."""

    def __init__(self, clip, experiment: Experiment):
        mesh = experiment.mesh
        whole = sharding.replicated(mesh)
        self._tokenize = clip.tokenize
        self._params = sharding.put(clip.caption_params, whole)
        self._rows = sharding.batch_sharding(mesh)
        self._apply = jax.jit(clip.embed_captions, out_shardings=whole)
        self._batch_size = -(-experiment.config.eval.batch_size // mesh.size) * mesh.size
        self._done = None, None

    def __call__(self, captions: Sequence[str]) -> Float32[np.ndarray, "n d"]:
        """A row a caption, in every process."""
        if self._done[0] != captions:
            self._done = captions, self._embed(self._tokenize(captions))
        return self._done[1]

    def _embed(self, tokens: np.ndarray) -> np.ndarray:
        count, size, rows = len(tokens), self._batch_size, []
        progress = Progress(
            count, name="CLIP of captions", unit="captions", silent=not processes.is_first()
        )
        for start in range(0, count, size):
            part = tokens[start : start + size]
            padded = np.concatenate([part, np.repeat(part[-1:], size - len(part), 0)])
            embedded = self._apply(self._params, sharding.put(padded, self._rows))
            rows.append(np.asarray(embedded, np.float32)[: len(part)])
            progress.tell(start + len(part))
        return np.concatenate(rows)
