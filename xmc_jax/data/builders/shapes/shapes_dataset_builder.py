"""TFDS builder of the shapes data set."""

import dataclasses
import io
from collections.abc import Iterator

import tensorflow_datasets as tfds

from xmc_jax import images
from xmc_jax.data import shapes, shapes_captions
from xmc_jax.data.cpu_tensorflow import tf


@dataclasses.dataclass(eq=False, kw_only=True)  # As its base.
class ShapesConfig(tfds.core.BuilderConfig):
    """How scenes are written; made by `make_config`.

    Attributes:
      resolution: Side of the images in pixels.
      narrative: Whether there is one long description instead of five short captions.
      scale: Share of the full splits, 0 to 1.
    """

    resolution: int = 32
    narrative: bool = False
    scale: float = 1.0


def make_config(*, resolution: int, narrative: bool = False, scale: float = 1.0) -> ShapesConfig:
    """The config of the given settings: ``sq32``, ``narrative_sq64``, ``sq32_n400`` (scaled).

    Raises:
      ValueError: the scale is not in (0, 1], or the resolution below 16.
    """
    if not 0 < scale <= 1:
        raise ValueError(f"scale={scale} is not above 0 and at most 1")
    if resolution < 16:
        raise ValueError(f"resolution={resolution}: shapes cannot be told apart below 16 pixels")
    name = ("narrative_" if narrative else "") + f"sq{resolution}"
    if scale != 1:
        name += f"_n{_num_examples('train', scale)}"
    return ShapesConfig(
        name=name,
        description=f"{resolution}x{resolution} pixels",
        resolution=resolution,
        narrative=narrative,
        scale=scale,
    )


def _num_examples(split: str, scale: float) -> int:
    return max(1, round(shapes.SPLITS[split] * scale))


class Builder(tfds.core.GeneratorBasedBuilder):
    """Writes the scenes of `xmc_jax.data.shapes`, in the order of their indices."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}
    BUILDER_CONFIGS = [
        make_config(resolution=resolution, narrative=narrative)
        for narrative in (False, True)
        for resolution in (32, 64, 128, 256)
    ]

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
                    "image/id": tfds.features.Text(),
                    "image/height": tf.int64,
                    "image/width": tf.int64,
                    "captions": tfds.features.Sequence(
                        {"text": tfds.features.Text(), "id": tfds.features.Text()}
                    ),
                }
            ),
            # The reader shuffles globally; order on disk means record i is scene i.
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        del dl_manager  # Nothing to download.
        return {split: self._generate_examples(split) for split in shapes.SPLITS}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict]]:
        config = self.builder_config
        for index in range(_num_examples(split, config.scale)):
            yield (
                index,
                make_record(split, index, resolution=config.resolution, narrative=config.narrative),
            )


def make_record(split: str, index: int, *, resolution: int, narrative: bool) -> dict:
    """The example as the builder writes it: what a reader of the built data gets back."""
    if narrative:
        scene, narration = shapes_captions.make_narrative(split, index)
        example_id, texts = f"{split}-{index:06d}", [narration.text]
    else:
        example_id, scene, captions = shapes_captions.make_example(split, index)
        texts = [caption.text for caption in captions]
    png = images.encode_png(shapes.render(scene, resolution))
    return {
        "image": io.BytesIO(png),
        "image/id": example_id,
        "image/height": resolution,
        "image/width": resolution,
        "captions": [{"text": t, "id": f"{example_id}-{i}"} for i, t in enumerate(texts)],
    }
