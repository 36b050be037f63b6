"""TFDS builder of the shapes data set."""

import re
from collections.abc import Iterator

import tensorflow_datasets as tfds

from xmc_jax import images
from xmc_jax.data.builders import schema
from xmc_jax.shapes import captions as shapes_captions
from xmc_jax.shapes import scenes


def _parse(form: str) -> tuple[int, bool, float]:
    """Resolution, whether captions are narratives, and the fraction of the splits to write."""
    match = re.fullmatch(r"(narrative_)?sq([1-9]\d*)(?:_n([1-9]\d*))?", form)
    if not match:
        raise ValueError(f"no form {form!r}; forms are like sq32, narrative_sq64, sq32_n400")
    resolution = int(match[2])
    scale = int(match[3]) / scenes.SPLITS["train"] if match[3] else 1.0
    if resolution < 16:
        raise ValueError(f"form {form!r}: shapes cannot be told apart below 16 pixels")
    if scale > 1:
        raise ValueError(f"form {form!r}: there are {scenes.SPLITS['train']} training examples")
    return resolution, bool(match[1]), scale


def _make_config(form: str) -> tfds.core.BuilderConfig:
    resolution, _, _ = _parse(form)
    return tfds.core.BuilderConfig(name=form, description=f"{resolution}x{resolution} pixels")


class Builder(tfds.core.GeneratorBasedBuilder):
    """Writes the scenes of `xmc_jax.shapes`, in the order of their indices."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}
    BUILDER_CONFIGS = [
        _make_config(f"{prefix}sq{resolution}")
        for prefix in ("", "narrative_")
        for resolution in (32, 64, 128, 256)
    ]

    @classmethod
    def make_config(cls, form: str) -> tfds.core.BuilderConfig:
        """The config with a name: ``sq32``, ``narrative_sq64``, ``sq32_n400`` (400 for training).

        TFDS needs the very object if `BUILDER_CONFIGS` has it.

        Raises:
          ValueError: there is no such config, its resolution is below 16, or it has too many
            examples.
        """
        return cls.builder_configs.get(form) or _make_config(form)

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=schema.features("png"),
            # The reader shuffles globally, so record i can be scene i.
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        del dl_manager  # Nothing to download.
        self._tallies: dict[str, schema.Tally] = {}
        return {split: self._generate_examples(split) for split in scenes.SPLITS}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict]]:
        resolution, narrative, scale = _parse(self.builder_config.name)
        count = max(1, round(scenes.SPLITS[split] * scale))
        for index in range(count):
            yield index, _make_record(split, index, resolution, narrative)
        self._tallies[split] = schema.Tally(count, count)
        schema.write_report(self.data_path, self._tallies)


def _make_record(split: str, index: int, resolution: int, narrative: bool) -> dict:
    if narrative:
        scene, narration = shapes_captions.make_narrative(split, index)
        example_id, texts = f"{split}-{index:06d}", [narration.text]
    else:
        example_id, scene, captions = shapes_captions.make_example(split, index)
        texts = [caption.text for caption in captions]
    png = images.encode_png(scenes.render(scene, resolution))
    numbered = [(f"{example_id}-{i}", text) for i, text in enumerate(texts)]
    return schema.make_record(example_id, png, (resolution, resolution), numbered)
