"""TFDS builder of Fluent Emoji with their names."""

import hashlib
from collections.abc import Mapping, Sequence

import tensorflow_datasets as tfds

from xmc_jax.console import notice
from xmc_jax.data.builders import captioned
from xmc_jax.data.builders.emoji import packages, phrases, splits
from xmc_jax.data.builders.emoji.forms import PreparedForm, parse_form
from xmc_jax.data.builders.images import Location


def _make_config(form: str) -> tfds.core.BuilderConfig:
    resolution, background, locale = parse_form(form)
    description = f"{resolution}x{resolution} pixels, background {background}, locale {locale}"
    return tfds.core.BuilderConfig(name=form, description=description)


class Builder(captioned.Builder):
    """Reads the two npm packages; images are in the order of Unicode."""

    EXPECTED = {"train": 2803, "val": 289, "test_comp": 283}
    BUILDER_CONFIGS = [_make_config(f"sq{resolution}") for resolution in (64, 128, 256)]

    @classmethod
    def make_config(cls, form: str) -> tfds.core.BuilderConfig:
        """The config with a name that `forms.parse_form` understands, or UserError."""
        return _make_config(form)

    @property
    def prepared_form(self) -> PreparedForm:
        """What the config's name says."""
        return parse_form(self.builder_config.name)

    @property
    def form(self) -> str:
        """How images are stored: the first part of the config's name."""
        return f"sq{self.prepared_form.resolution}"

    @staticmethod
    def is_short(captions: Sequence[str]) -> bool:
        """Whether there is one caption alone: other locales lack keywords for some emoji."""
        return len(captions) < 2

    def describe_source(self) -> dict:
        """The packages, the labels without image and images without label."""
        names = [package.name for package in packages.PACKAGES.values()]
        return {"packages": names, **self._unpaired}

    def list_examples(self) -> dict[str, captioned.Split]:
        """The splits: `splits.divide` of all emoji with an image and a label."""
        paths = packages.find(self.archive_folders)
        english = packages.read_emoji(paths[packages.LABELS], "en")
        locale = self.prepared_form.locale
        labelled = packages.read_emoji(paths[packages.LABELS], locale)
        images = packages.index_images(paths[packages.IMAGES], self.downloads)
        self._unpaired = {
            "without_image": [x.label for x in english.values() if x.codes not in images],
            "without_label": [_name(codes) for codes in images if codes not in labelled],
            "repeated_images": [_name(codes) for codes, found in images.items() if len(found) > 1],
        }
        for what, names in self._unpaired.items():
            if names:
                notice(f"emoji: {len(names)} {what.replace('_', ' ')}, e.g. {names[0]}")
        pairs = [x for x in english.values() if x.codes in images and x.codes in labelled]
        return {
            split: captioned.Split(
                [self._make_example(labelled[x.codes], images, split) for x in emoji]
            )
            for split, emoji in splits.divide(pairs).items()
        }

    def _make_example(
        self,
        emoji: packages.Emoji,
        images: Mapping[tuple[int, ...], Sequence[Location]],
        split: str,
    ) -> captioned.Example:
        _, background, locale = self.prepared_form
        name = _name(emoji.codes)
        if background == "any":
            background = _draw_colour(name) if split == "train" else "white"
        texts = phrases.make_captions(emoji, locale)
        return captioned.Example(
            name,
            images[emoji.codes][0]._replace(background=background),
            [(f"{name}-{i}", text) for i, text in enumerate(texts)],
        )


def _name(codes: Sequence[int]) -> str:
    """Such as ``1f469-200d-1f692``."""
    return "-".join(f"{code:04x}" for code in codes)


def _draw_colour(name: str) -> str:
    """A colour ``#rrggbb`` that depends on the name alone; uniform over all names."""
    return f"#{hashlib.sha256(name.encode()).hexdigest()[:6]}"
