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
FIELDS = {
    "s": "sentence_weight",
    "w": "word_weight",
    "d": "image_d_weight",
    "vgg": "image_pretrained_weight",
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
        for term, field in FIELDS.items():
            if term not in TERMS[row]:
                config.loss[field] = 0.0
            elif not config.loss[field]:
                config.loss[field] = 1.0  # The row asks for a term that the base leaves out.
    elif row == "self_modulation":
        config.model.modulation = "self"
    elif row == "per_device_negatives":
        config.loss.negatives = "per_device"
    elif row:
        known = ", ".join([*TERMS, "self_modulation", "per_device_negatives"])
        raise ValueError(f"no ablation row {row!r}; there are {known}")
    return config
