"""The rows of the paper's ablation tables, as arguments of an experiment: ``coco_256.py:s_w``."""

from ml_collections import ConfigDict

# Which contrastive terms stay: s sentence, w word, d image (discriminator), vgg image (pretrained).
TERMS = {
    "none": (),
    "s": ("s",),
    "w": ("w",),
    "d": ("d",),
    "vgg": ("vgg",),
    "d_vgg": ("d", "vgg"),
    "s_w": ("s", "w"),
    "s_w_d": ("s", "w", "d"),
    "s_w_vgg": ("s", "w", "vgg"),
    "all": ("s", "w", "d", "vgg"),
}


def apply(config: ConfigDict, row: str) -> ConfigDict:
    """Turns a base experiment into one row of the ablation.

    Args:
      config: The base experiment, changed in place.
      row: ``""`` for the experiment as it is, a name in `TERMS`, ``"self_modulation"`` (the
        global condition in every block) or ``"per_device_negatives"``.

    Raises:
      ValueError: there is no such row.
    """
    if row in TERMS:
        kept = TERMS[row]
        config.loss.sentence_weight = float("s" in kept)
        config.loss.word_weight = float("w" in kept)
        config.loss.image_d_weight = float("d" in kept)
        config.loss.image_pretrained_weight = float("vgg" in kept)
    elif row == "self_modulation":
        config.model.modulation = "self"
    elif row == "per_device_negatives":
        config.loss.negatives = "per_device"
    elif row:
        known = ", ".join([*TERMS, "self_modulation", "per_device_negatives"])
        raise ValueError(f"no ablation row {row!r}; there are {known}")
    return config
