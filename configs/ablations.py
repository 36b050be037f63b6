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

# Rows that change one field.
OTHERS = {
    "self_modulation": ("model", "modulation", "self"),
    "linear_head": ("model", "contrastive_head", "linear"),
    "mlp_head": ("model", "contrastive_head", "mlp"),
    # As in the released code, whose 256 images are on 32 devices.
    "per_device_negatives": ("loss", "contrastive_group_size", 8),
}


def apply(config: ConfigDict, row: str) -> ConfigDict:
    """Turns a base experiment into one row of the ablation.

    Args:
      config: The base experiment, changed in place.
      row: ``""`` for the experiment as it is, a name in `TERMS`, ``"self_modulation"`` (the
        global condition in every block), ``"linear_head"`` or ``"mlp_head"`` (layers between the
        discriminator's features and the contrastive terms) or ``"per_device_negatives"`` (groups of
        eight images).

    Raises:
      ValueError: there is no such row.
    """
    if row in TERMS:
        for term, field in FIELDS.items():
            if term not in TERMS[row]:
                config.loss[field] = 0.0
            elif not config.loss[field]:
                config.loss[field] = 1.0  # The row asks for a term that the base leaves out.
    elif row in OTHERS:
        section, field, value = OTHERS[row]
        config[section][field] = value
    elif row:
        raise ValueError(f"no ablation row {row!r}; there are {', '.join([*TERMS, *OTHERS])}")
    return config
