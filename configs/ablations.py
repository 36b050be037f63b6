"""Rows of the paper's ablation tables, as arguments of an experiment: ``coco_256.py:s_w``."""

from ml_collections import ConfigDict

# Contrastive terms of each row: s sentence, w word, d image (discriminator), vgg image (frozen).
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

# Rows that change one other field.
OTHERS = {
    "self_modulation": ("model", "modulation", "self"),
    "linear_head": ("model", "contrastive_head", "linear"),
    "mlp_head": ("model", "contrastive_head", "mlp"),
    # As in the released code: 256 images on 32 devices.
    "per_device_negatives": ("loss", "contrastive_group_size", 8),
}


def apply(config: ConfigDict, row: str) -> ConfigDict:
    """Turns a base experiment into one row of the ablation.

    Args:
      config: The base experiment, changed in place.
      row: ``""`` for the experiment unchanged, a name in `TERMS`, ``"self_modulation"`` (only the
        sentence modulates the blocks), ``"linear_head"`` or ``"mlp_head"`` (extra layers between
        the discriminator's features and the contrastive losses), or ``"per_device_negatives"``
        (negatives from groups of eight images).

    Raises:
      ValueError: If there is no such row.
    """
    if row in TERMS:
        for term, field in FIELDS.items():
            if term not in TERMS[row]:
                config.loss[field] = 0.0
            elif not config.loss[field]:
                config.loss[field] = 1.0  # The base leaves this term out.
    elif row in OTHERS:
        section, field, value = OTHERS[row]
        config[section][field] = value
    elif row:
        raise ValueError(f"no ablation row {row!r}; there are {', '.join([*TERMS, *OTHERS])}")
    return config
