"""Eight fake devices, checked shapes, and no silent broadcasting, for every test."""

import functools
import os
import signal

from tests.places import ROOT
from tests.verbs import COMPILE_FAST, PATIENT

os.environ["NO_PROXY"] = "127.0.0.1"  # The servers of tests are here, whatever is around.

# Before the first import of jax, keras or tensorflow.
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=8",
        COMPILE_FAST,
        PATIENT,
    ]
)
os.environ["JAX_PLATFORMS"] = "cpu"
# What one test compiles the next, or the next run, need not: many take the same step.
_cache = ROOT / ".pytest_cache" / "jax"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_cache))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
os.environ["KERAS_BACKEND"] = "jax"

from jaxtyping import install_import_hook  # noqa: E402

# Shapes in signatures become assertions, checked on every call.
install_import_hook("xmc_jax", "beartype.beartype")

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def ctrl_c():
    """Lets this process and its children hear SIGINT, which shells have background jobs ignore."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def rng():
    """A random number generator with a fixed seed."""
    import numpy as np

    return np.random.default_rng(0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, request):
    """A folder that the tests of a file share."""
    return tmp_path_factory.mktemp(request.path.stem)


@pytest.fixture(scope="module")
def run_verb(folder):
    """``run(verb, *arguments) -> CompletedProcess``, with data of the file's own."""
    from tests import verbs

    return functools.partial(verbs.run, data_dir=folder / "data")


@pytest.fixture(scope="module")
def start_verb(folder):
    """``start(verb, *arguments) -> Popen``, likewise."""
    from tests import verbs

    return functools.partial(verbs.start, data_dir=folder / "data")


@pytest.fixture
def server():
    """A real server of pictures, with faults to order."""
    from tests.image_server import ImageServer

    with ImageServer() as server:
        yield server


@pytest.fixture(scope="session")
def chromium():
    """The running browser of this process."""
    from tests import browser

    executable = browser.find()
    if executable is None:
        pytest.skip(
            f"NO BROWSER: none of {', '.join(browser.NAMES)} is on PATH, so nobody has tried the "
            "pages; install one (Debian, Ubuntu: apt-get install chromium)"
        )
    with browser.start(executable) as running:
        yield running


@pytest.fixture
def browser(chromium):
    """A real browser, see `tests.browser.Browser`; closes its tabs after the test."""
    yield chromium
    chromium.close_pages()


# Files that compile whole training steps or start the verbs. Begun last, they would leave one of
# two processes without work.
LONGEST_FIRST = (
    "parallel/test_processes",
    "test_verbs",
    "benchmarks/test_ablations",
    "test_train_step",
    "parallel/test_sharding",
    "data/test_real_data",
    "planning/test_plan",
    "test_remote_workdir",
    "test_earlier",
    "evaluation/test_run",
    "test_notebooks",
    "inference/test_export",
    "inference/test_hub",
    "test_released",
    "study/test_study",
    "inference/test_model",
    "test_usage",
    "inference/test_explore",
    "pages/test_compare",
    "test_losses",
    "frozen/test_image_features",
    "models/test_discriminator",
    "models/test_generator",
    "frozen/test_clip",
)


def pytest_addoption(parser):
    parser.addoption("--long", action="store_true", help="also run what is marked as long")


def pytest_collection_modifyitems(config, items):
    """Leaves out what is long, unless asked for, and sorts files by how long they take.

    `launch/test.sh` keeps xdist from sorting them anew.
    """
    if not config.getoption("--long"):
        long = [item for item in items if item.get_closest_marker("long")]
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]
    rank = {ROOT / "tests" / f"{name}.py": index for index, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: rank.get(item.path, len(rank)))
