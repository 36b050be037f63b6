"""Exported models on the Hugging Face Hub: fetched from there, and published.

An address is ``hf://USER/NAME``, or ``hf://USER/NAME@REVISION`` with a branch, a tag or a commit.
What is fetched stays in the cache of the Hub's client (``HF_HOME``), and is read there without
network.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

# It loads its parts, an HTTP client among them, when they are first used: not for a local folder.
import huggingface_hub
from etils import epath

from xmc_jax import files
from xmc_jax.console import notice, waiting
from xmc_jax.errors import UserError, reason
from xmc_jax.inference import exported

_PATIENCE_SECONDS = 10.0  # Until the Hub counts as out of reach.
_MENDS = {
    401: "check the name, and log in with `hf auth login` or set HF_TOKEN",
    403: "check the name, and that your token has the right to write there",
    404: "check the name and the revision",
    409: "somebody else changed it meanwhile: try again",
    412: "somebody else changed it meanwhile: try again",
}


def local_folder(folder: epath.PathLike) -> epath.PathLike:
    """The folder itself or, for an address ``hf://…``, a folder on this machine with that model.

    Fetches what loading reads and is not in the cache, and compares every file with the digest that
    `exported.write` stored. Without network, the cache has to do, with a notice. A damaged file is
    removed from the cache, so that the next call fetches it again.

    Raises:
      UserError: the address is wrong or of an unknown kind, the model does not exist or is private,
        it can neither be fetched nor is it in the cache, or a file is damaged.
    """
    address = os.fspath(folder)
    if not address.startswith(files.HUB):
        files.check_address(folder)
        return folder
    with _one_line_errors(address):
        found, unreachable = _fetch(address)
        if unreachable:
            notice(f"{address} is taken from the cache, as the Hub is out of reach: {unreachable}")
        _verify(address, epath.Path(found))
    return found


def open_repository(name: str) -> None:
    """Checks, before the work of an export, that `push` can publish there.

    Raises:
      UserError: the name is wrong, there is no token or the Hub refuses it, the repository holds
        something else, or the Hub is out of reach.
    """
    if name.count("/") != 1 or "@" in name:
        raise UserError(f"--push={name} is not the name of a repository: write --push=USER/NAME")
    _parse(files.HUB + name)
    with _one_line_errors(f"--push={name}"), _quiet_client():
        if not huggingface_hub.get_token():
            raise UserError(
                f"--push={name} needs a token that may write there: log in with `hf auth login`, "
                "or set HF_TOKEN"
            )
        huggingface_hub.HfApi().whoami()
        with contextlib.suppress(huggingface_hub.errors.RepositoryNotFoundError):
            _contents(name)


def push(folder: epath.PathLike, name: str) -> str:
    """Publishes an exported model in one commit, and gives its page on the Web.

    Creates the repository if it is missing. Files of an older model in it are removed; other files
    there stay.

    Args:
      folder: Of the exported model.
      name: Of the repository, ``USER/NAME``; `open_repository` has checked it.

    Raises:
      UserError: a file of the folder is damaged, or the Hub refuses or is out of reach; then the
        repository is as before, or empty if it is new.
    """
    manifest = exported.read_manifest(folder)
    contents = {x: exported.read_verified(folder, manifest, x) for x in manifest["sha256"]}
    for own in (exported.CARD, exported.MANIFEST):
        contents[own] = (epath.Path(folder).expanduser() / own).read_bytes()
    size = sum(map(len, contents.values())) / 1e6
    task = waiting(f"uploading {size:.1f} MB to {files.HUB}{name}")
    with _one_line_errors(f"--push={name}"), _quiet_client(), task:
        page = huggingface_hub.HfApi().create_repo(name, exist_ok=True)
        present, commit = _contents(name)
        of_model = present & exported.FILES
        if exported.PAGE in present:  # Else `web` is not ours.
            of_model |= {x for x in present if x.startswith(f"{exported.PAGE_FILES}/")}
        old = sorted(of_model - contents.keys())
        huggingface_hub.HfApi().create_commit(
            name,
            [
                *map(huggingface_hub.CommitOperationDelete, old),
                *(huggingface_hub.CommitOperationAdd(x, data) for x, data in contents.items()),
            ],
            commit_message=f"Generator of an XMC-GAN, step {manifest['step']}",
            parent_commit=commit,
        )
    return page.url


def _parse(address: str) -> tuple[str, str | None]:
    """The repository, ``USER/NAME``, and the revision, of an address."""
    try:
        uri = huggingface_hub.parse_hf_uri(address)
    except ValueError as error:
        raise UserError(f"{reason(error).rstrip('.')}; write hf://USER/NAME") from error
    if uri.type != "model" or uri.path_in_repo:
        raise UserError(f"{address} is not the address of a model: write hf://USER/NAME")
    return uri.id, uri.revision


def _fetch(address: str) -> tuple[str, str]:
    """A snapshot in the cache and, if it could not be compared with the Hub, the reason."""
    name, revision = _parse(address)
    with _quiet_client(), waiting(f"fetching {address}"):
        unreachable = _reason_unreachable(name, revision)
        try:
            found = huggingface_hub.snapshot_download(
                name,
                revision=revision,
                allow_patterns=list(exported.NEEDED),
                local_files_only=bool(unreachable),
            )
        except huggingface_hub.errors.LocalEntryNotFoundError as error:
            if not unreachable:
                raise
            raise UserError(
                f"{address} is not in the cache as a whole, and the Hub is out of reach: "
                f"{unreachable}; try again when it answers"
            ) from error
    return found, unreachable


def _reason_unreachable(name: str, revision: str | None) -> str:
    """Why the Hub does not answer, or only says that it is out of order; empty if it answers."""
    try:
        huggingface_hub.HfApi().model_info(name, revision=revision, timeout=_PATIENCE_SECONDS)
    except huggingface_hub.errors.HfHubHTTPError as error:
        if error.response.status_code < 500:
            raise
        return reason(error)
    except (huggingface_hub.errors.HTTPError, OSError) as error:
        return reason(error)
    return ""


def _verify(address: str, folder: epath.Path) -> None:
    """Compares the files of a snapshot in the cache with their digests."""
    if not exported.is_exported(folder):
        raise UserError(
            f"{address} holds no exported model ({exported.MANIFEST} is missing); check the name"
        )
    name = exported.MANIFEST
    try:
        manifest = exported.read_manifest(folder)
        for name in sorted(manifest["sha256"].keys() & set(exported.NEEDED)):
            exported.read_verified(folder, manifest, name)
    except UserError as error:
        # Either may be the damaged one of the two.
        for path in (folder / name, exported.manifest_path(folder)):
            Path(path).resolve().unlink(missing_ok=True)  # Snapshots in the cache are links.
            path.unlink(missing_ok=True)
        raise UserError(
            f"{address}: {error}; its copy in the cache is removed: the same command fetches it "
            "again"
        ) from error


def _contents(name: str) -> tuple[set[str], str]:
    """The files of a repository and its commit; a `UserError` if it holds another kind of model."""
    info = huggingface_hub.HfApi().model_info(name)
    present = {file.rfilename for file in info.siblings}
    others = (present & exported.FILES) - {exported.CARD}
    if others and exported.MANIFEST not in present:
        raise UserError(
            f"--push={name}: the repository holds something else ({min(others)}, and no "
            f"{exported.MANIFEST}); choose another name"
        )
    return present, info.sha


@contextlib.contextmanager
def _one_line_errors(name: str) -> Iterator[None]:
    """Turns what the client raises into a `UserError` that begins with a name."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # Of many types: of the client, of HTTP, of the system.
        # The client's threads wrap errors of an upload.
        cause = error.__cause__ if isinstance(error, RuntimeError) else error
        text, mend = reason(cause).rstrip("."), "try again later"
        if isinstance(cause, huggingface_hub.errors.HfHubHTTPError):
            status, said = cause.response.status_code, (cause.server_message or "").split()
            text = f"the Hub answers {status} {cause.response.reason_phrase}"
            text += f" ({' '.join(said)})" * bool(said)
            mend = _MENDS.get(status, mend)
        raise UserError(f"{name}: {text}; {mend}") from error


@contextlib.contextmanager
def _quiet_client() -> Iterator[None]:
    """Without the client's bars and warnings: progress has lines of our own."""
    log = huggingface_hub.logging
    before = log.get_verbosity()
    log.set_verbosity_error()
    try:
        with huggingface_hub.utils.disable_progress_bars():
            yield
    finally:
        log.set_verbosity(before)
