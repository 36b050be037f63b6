"""Makes `earlier/`: a run and an exported model as an earlier version of this package wrote them.

    git worktree add /tmp/earlier d4a39b7
    cp tests/golden/make_earlier.py /tmp/earlier/tests/golden/
    (cd /tmp/earlier && python -m tests.golden.make_earlier)
    cp -r /tmp/earlier/tests/golden/earlier tests/golden/

Runs in the checkout of that version, from its root. tests/test_earlier.py reads what it made: later
versions must read what that version wrote. Paths are relative to the root of the checkout.
"""

import hashlib
import json
import pathlib
import shutil
import tarfile
import tempfile

import numpy as np
from PIL import Image

from tests import bert, verbs

FOLDER = pathlib.Path("tests/golden/earlier")
CAPTIONS = ["a red circle", "a large blue square left of a green star"]
SETTINGS = [
    *verbs.TINY,
    f"--config.text.encoder={FOLDER / 'bert'}",
    "--config.num_steps=4",
    "--config.log_every_steps=1",
    "--config.eval.num_examples=4",
    "--config.model.z_dim=4",
    "--config.loss.image_pretrained_weight=0",
]


def main():
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    bert.write_for_shapes(FOLDER / "bert")
    run, exported = FOLDER / "run", FOLDER / "exported"
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)

        def do(verb, *arguments):
            done = verbs.run(verb, *arguments, data_dir=scratch / "data")
            assert done.returncode == 0, done.stderr

        do("train", *SETTINGS, f"--workdir={run}")
        do("evaluate", f"--workdir={run}")
        do("export", f"--workdir={run}", f"--out={exported}", "--dtype=float16")
        captions = [f"--caption={caption}" for caption in CAPTIONS]
        for folder in (run, exported):
            out = scratch / folder.name
            do("sample", f"--workdir={folder}", *captions, "--num_images=2", f"--out={out}")
        images = {
            name: np.stack([np.asarray(Image.open(path)) for path in sorted(paths)])
            for name in ("run", "exported")
            if (paths := [p for p in (scratch / name).glob("*.png") if p.stem != "grid"])
        }
    np.savez_compressed(FOLDER / "images.npz", **images)
    with tarfile.open(FOLDER / "written.tar.xz", "w:xz") as archive:
        for path in (run, exported):
            archive.add(path, path.name, filter=_is_needed)
            shutil.rmtree(path)
    (FOLDER / "machine.json").write_text(json.dumps(machine(), indent=2) + "\n")


def _is_needed(member):
    path = pathlib.PurePath(member.name)
    return None if "samples" in path.parts or path.name.startswith((".lock", "events.")) else member


def machine():
    """What rounding depends on: on an equal machine numbers must be equal to the last bit."""
    import jaxlib

    flags = next(
        (x for x in pathlib.Path("/proc/cpuinfo").read_text().splitlines() if "flags" in x), ""
    )
    return {
        "jaxlib": jaxlib.__version__,
        "cpu": hashlib.sha256(" ".join(sorted(flags.split())).encode()).hexdigest(),
    }


if __name__ == "__main__":
    main()
