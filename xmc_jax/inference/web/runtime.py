"""ONNX Runtime for browsers: one version of the npm package, and the files that pages need."""

from pathlib import Path

from etils import epath

from xmc_jax.data.download import npm
from xmc_jax.errors import UserError
from xmc_jax.files import cache_dir

ARCHIVE = "onnxruntime-web-1.30.0.tgz"
PACKAGE = npm.Package(
    "onnxruntime-web@1.30.0",
    "https://registry.npmjs.org/onnxruntime-web/-/onnxruntime-web-1.30.0.tgz",
    "ab4cbe26baedba45d2cec05610c71c55fa97db92d19a8b171c5f8269126683ca"
    "590a5cdc57bb2f35ce2b298de32f4d956fb42644c0ecd528a0a91e025c07ca61",
)
# The smallest build that runs: CPUs alone, its loader within the module.
MODULE, WASM = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"
_MAX_BYTES = 40_000_000  # The larger file has 14 MB.


def find_archive(given: epath.PathLike | None = None) -> Path:
    """The archive of the package: the file given, or one in our cache, downloaded if missing.

    Raises:
      UserError: it cannot be had, or is not the published one; names the command that makes it.
    """
    if given is None:
        flag = "name it with --onnxruntime_web"
        return npm.find({ARCHIVE: PACKAGE}, [Path(cache_dir())], flag=flag)[ARCHIVE]
    path = Path(given).expanduser()
    if not path.is_file():
        raise UserError(f"--onnxruntime_web={given} is no file; make it: npm pack {PACKAGE.name}")
    npm.verify(path, PACKAGE)
    return path


def read_runtime(archive: Path) -> dict[str, bytes]:
    """The files of the package that a page needs, by name.

    Raises:
      UserError: the archive is damaged.
    """
    return {name: npm.read(archive, PACKAGE, f"dist/{name}", _MAX_BYTES) for name in (MODULE, WASM)}
