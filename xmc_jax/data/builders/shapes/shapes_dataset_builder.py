"""TFDS builder of the shapes data set."""

from collections.abc import Iterator

import tensorflow_datasets as tfds

from xmc_jax import images
from xmc_jax.console import with_progress
from xmc_jax.data.builders import schema
from xmc_jax.shapes import captions as shapes_captions
from xmc_jax.shapes import scenes
from xmc_jax.shapes.forms import PreparedForm, parse_form


def _make_config(form: str) -> tfds.core.BuilderConfig:
    resolution = parse_form(form).resolution
    return tfds.core.BuilderConfig(name=form, description=f"{resolution}x{resolution} pixels")


class Builder(tfds.core.GeneratorBasedBuilder):
    """Writes the scenes of `xmc_jax.shapes`, in the order of their indices."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}
    BUILDER_CONFIGS = [
        _make_config(f"{prefix}sq{resolution}")
        for prefix in ("", "narrative_", "one_", "two_")
        for resolution in (32, 64, 128, 256)
    ]

    @classmethod
    def make_config(cls, form: str) -> tfds.core.BuilderConfig:
        """The config with a name that `shapes.forms.parse_form` understands, or UserError."""
        return _make_config(form)

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
        form = parse_form(self.builder_config.name)
        count = max(1, round(scenes.SPLITS[split] * form.fraction))
        for index in with_progress(range(count), count, name=split, unit="images"):
            yield index, _make_record(split, index, form)
        self._tallies[split] = schema.Tally(count, count)
        schema.write_report(self.data_path, self._tallies)


def _make_record(split: str, index: int, form: PreparedForm) -> dict:
    layout, resolution, _ = form
    if layout == "narrative":
        scene, narration = shapes_captions.make_narrative(split, index)
        example_id, texts = f"{split}-{index:06d}", [narration.text]
    else:
        example_id, scene, captions = shapes_captions.make_example(split, index, layout)
        texts = [caption.text for caption in captions]
    png = images.encode_png(scenes.render(scene, resolution, layout))
    numbered = [(f"{example_id}-{i}", text) for i, text in enumerate(texts)]
    return schema.make_record(example_id, png, (resolution, resolution), numbered)
