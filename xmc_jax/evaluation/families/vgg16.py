"""``fd_vgg16``: the Fréchet distance of generated and real images in features of VGG-16."""

from collections.abc import Sequence

from jax.sharding import Mesh
from ml_collections import ConfigDict

from xmc_jax.evaluation.distances import frechet_between
from xmc_jax.evaluation.features import Features, InputFeatures, Network, on_pixels
from xmc_jax.evaluation.inputs import EvalInputs, Measure, Prompts, split_name
from xmc_jax.run.records import MetricRecord

_RESOLUTION = 64  # Pixels; VGG-16 halves them five times.


def names(num_prompts: int) -> tuple[str, ...]:
    """See `selection`."""
    return ("fd_vgg16",)


def reason_unavailable(name: str, config: ConfigDict, prompts: Prompts | None) -> str | None:
    """See `selection`."""
    # A config of another version may lack fields of training.
    loss = config.get("loss", {})
    if loss.get("image_pretrained_weight") and loss.get("image_pretrained_network") == "vgg16":
        return "the run was trained against VGG-16's own features"
    return None


def make_measure(config: ConfigDict, mesh: Mesh, names: Sequence[str]) -> Measure:
    """See `selection`. Floor: the distance between two disjoint sets of real images."""
    # Keras takes seconds to import; wrong names of metrics are refused before that.
    from xmc_jax.frozen.image_features import PACKAGED, load_image_features

    vgg16 = load_image_features("vgg16", PACKAGED, _RESOLUTION)
    apply, name = on_pixels(vgg16.apply), f"vgg16 at {_RESOLUTION} px"
    features = Features(Network(name, apply, vgg16.params, vgg16.fingerprint), mesh)

    def measure(inputs: EvalInputs) -> list[MetricRecord]:
        real, other_real, rows = inputs.real, inputs.other_real, InputFeatures(features, inputs)
        record = inputs.record(
            metric="fd_vgg16",
            protocol=(
                f"Fréchet distance, pooled conv5 features of VGG-16 at {_RESOLUTION} px, "
                f"{split_name(config)}; floor: {len(other_real)} other real images"
            ),
            value=frechet_between(inputs.generated, real, rows.own),
            floor=frechet_between(other_real, real, rows.own) if len(other_real) > 1 else None,
            weights=vgg16.fingerprint,
            better="lower",
        )
        return [record]

    return measure
