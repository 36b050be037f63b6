"""``emoji_retrieval``: does a judge of real emoji find the caption of an image among 32?"""

from collections.abc import Hashable, Sequence

from jax.sharding import Mesh
from ml_collections import ConfigDict

from xmc_jax.data.builders.emoji.forms import parse_form
from xmc_jax.data.overlap import evaluation_data
from xmc_jax.emoji.judge import load_judge
from xmc_jax.evaluation.features import Features, InputFeatures, Network, on_pixels
from xmc_jax.evaluation.inputs import EvalInputs, Measure, Prompts, split_name
from xmc_jax.metrics import r_precision as metric
from xmc_jax.run.records import MetricRecord

NUM_OTHERS = 31  # Captions beside the true one.


def names(num_prompts: int) -> tuple[str, ...]:
    """See `selection`."""
    return ("emoji_retrieval",)


def reason_unavailable(name: str, config: ConfigDict, prompts: Prompts | None) -> str | None:
    """See `selection`."""
    data, needed = evaluation_data(config), 1 + NUM_OTHERS
    if data != "emoji":
        return f"the run is evaluated on {data}, and the judge knows emoji alone"
    locale = parse_form(config.data.form).locale
    if not locale.startswith("en"):
        return f"the judge reads English, and {config.data.form} has captions in {locale}"
    if prompts is None and config.eval.num_examples < needed:
        return f"it needs {needed} prompts (config.eval.num_examples={config.eval.num_examples})"
    if prompts is not None:
        fewest = int(metric.count_others(*keys(prompts)).min())
        if fewest < NUM_OTHERS:
            return (
                f"of {len(prompts)} captions of {split_name(config)} one has {fewest} others to "
                f"compete with, and needs {NUM_OTHERS}: raise config.eval.num_examples"
            )
    return None


def make_measure(config: ConfigDict, mesh: Mesh, names: Sequence[str]) -> Measure:
    """See `selection`. Floor: captions of other images. Ceiling: real images."""
    judge = load_judge()
    apply = on_pixels(judge.embed_images)
    features = Features(Network("emoji judge", apply, judge.params, judge.fingerprint), mesh)

    def measure(inputs: EvalInputs) -> list[MetricRecord]:
        seed, rows = inputs.config.eval.seed, InputFeatures(features, inputs)
        captions = judge.embed_captions([prompt.caption for prompt in inputs.prompts])
        candidates = metric.sample_candidates(
            *keys(inputs.prompts), num_others=NUM_OTHERS, seed=seed
        )
        generated, real = rows.whole(inputs.generated), rows.whole(inputs.real)
        others = candidates[:, 1]
        record = inputs.record(
            metric="emoji_retrieval",
            protocol=_protocol(inputs.config),
            **metric.r_precision(generated, captions, candidates)._asdict(),
            floor=metric.r_precision(generated, captions, candidates[others]).value,
            ceiling=metric.r_precision(real, captions, candidates).value,
            weights=judge.fingerprint,
            better="higher",
        )
        return [record]

    return measure


def keys(prompts: Prompts) -> tuple[list[Hashable], list[Hashable]]:
    """The image and the text of each caption: equal texts never compete."""
    texts = [" ".join(prompt.caption.lower().split()) for prompt in prompts]
    return [prompt.example_id for prompt in prompts], texts


def _protocol(config: ConfigDict) -> str:
    seed = config.eval.seed
    return (
        f"the true caption before {NUM_OTHERS} others of other images and texts drawn with seed "
        f"{seed}, ties shared, Wilson's 95 % interval; judge trained on real emoji, "
        f"{split_name(config)} at {config.model.resolution} px ({config.data.form}, "
        f"{config.data.crop}), one caption an image drawn with seed {seed}; ceiling: real images; "
        "floor: captions of other images"
    )
