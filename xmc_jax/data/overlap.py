"""Which data sets share pictures, so that one cannot judge a model trained on the other."""


def why_refused(trained_on: str, evaluated_on: str) -> str | None:
    """Why a model of one data set must not be evaluated on another; None if it may.

    Args:
      trained_on: Name of a data set.
      evaluated_on: Name of a data set.
    """
    if {trained_on, evaluated_on} == {"coco", "ln_coco"}:
        return (
            "COCO-2014 and Localized Narratives on COCO divide the same photographs differently: "
            "26,005 of COCO-2014's validation images are in LN-COCO's train split"
        )
    return None
