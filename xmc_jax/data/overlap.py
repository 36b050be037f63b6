"""Which data sets share pictures, so that one cannot judge a model trained on the other."""

_COCO = (
    "COCO-2014 and Localized Narratives on COCO divide the same photographs differently: 26,005 of "
    "COCO-2014's validation images are in LN-COCO's train split"
)
_OVERLAPS = {frozenset({"coco", "ln_coco"}): _COCO}


def why_refused(trained_on: str, evaluated_on: str) -> str | None:
    """Why a model that was trained on one data set must not be evaluated on another.

    Args:
      trained_on: Name of a data set.
      evaluated_on: Name of a data set.

    Returns:
      The reason, or None where nothing speaks against it.
    """
    return _OVERLAPS.get(frozenset({trained_on, evaluated_on}))
