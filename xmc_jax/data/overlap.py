"""Which data set a config evaluates on, and which data sets may not be evaluated on another.

Light: configs are checked before TFDS is imported.
"""


def evaluation_data(config) -> str:
    """Name of the data set that a config evaluates on."""
    return config.data.eval_name or config.data.name


def why_refused(trained_on: str, evaluated_on: str) -> str | None:
    """Why a model of one data set must not be evaluated on another, or None if it may."""
    if {trained_on, evaluated_on} == {"coco", "ln_coco"}:
        return (
            "COCO-2014 and Localized Narratives on COCO split the same photographs differently: "
            "26,005 of COCO-2014's validation images are in LN-COCO's train split"
        )
    return None
