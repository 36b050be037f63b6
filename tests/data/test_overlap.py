"""overlap.py, and where the config meets it."""

import pytest

from xmc_jax.configs import coco_256, ln_coco_256, shapes_32
from xmc_jax.data.overlap import evaluation_data, why_refused
from xmc_jax.errors import UserError
from xmc_jax.run.config_checks import check_training


@pytest.mark.parametrize("one,other", [("coco", "ln_coco"), ("ln_coco", "coco")])
def test_coco_and_its_narratives_do_not_judge_each_other(one, other):
    assert "26,005 of COCO-2014's validation images" in why_refused(one, other)
    assert why_refused(one, one) is None
    assert why_refused(one, "folder") is None and why_refused("ln_open_images", other) is None


@pytest.mark.parametrize("module,other", [(coco_256, "ln_coco"), (ln_coco_256, "coco")])
def test_configs_are_refused(module, other):
    config = module.get_config()
    assert evaluation_data(config) == config.data.name
    config.data.eval_name = other
    assert evaluation_data(config) == other
    with pytest.raises(UserError, match=f"eval_name='{other}': COCO-2014 and Localized"):
        check_training(config)
    config.data.eval_name = config.data.name
    check_training(config)


def test_images_smaller_than_the_model_are_refused():
    config = shapes_32.get_config()
    config.model.resolution = 64
    with pytest.raises(UserError, match="form='sq32' has images of 32 pixels"):
        check_training(config)
    for form in ("narrative_sq32", "sq32_n40", "holidays_sq32"):
        config.data.form = form
        with pytest.raises(UserError, match="32 pixels"):
            check_training(config)
    for form in ("sq64", "sq128_n40", "original", "holidays_original"):
        config.data.form = form
        check_training(config)
