"""sampling.py: a picture depends on its caption, seed and index, and on nothing else."""

import numpy as np

from xmc_jax.sampling import make_noise


def test_noise_depends_on_seed_and_index_alone():
    whole = make_noise(8, 3, 7, 0)
    np.testing.assert_array_equal(whole[5:], make_noise(3, 3, 7, 5))
    assert np.all(np.any(np.asarray(whole)[1:] != np.asarray(whole)[:1], axis=1))
    assert np.any(whole != make_noise(8, 3, 8, 0))


def test_noise_is_standard_normal():
    z = np.asarray(make_noise(2000, 8, 0, 0))
    assert abs(z.mean()) < 0.03 and abs(z.std() - 1) < 0.03
    assert z.dtype == np.float32
