"""Writes cmmd.json, the results of the published code of CMMD and of FD-DINOv2.

Run once in a throw-away environment that holds jax, scikit-learn, tqdm and scipy < 1.18, with the
folders of two checkouts: google-research/google-research (cmmd/distance.py) and
layer6ai-labs/dgm-eval (dgm_eval/metrics/fd.py, prdc.py):

    JAX_ENABLE_X64=1 python tests/golden/make_cmmd.py GOOGLE_RESEARCH DGM_EVAL
"""

import json
import pathlib
import sys

import numpy as np


def cases() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Pairs of unit vectors, generated and real; the tests use the same."""
    rng = np.random.default_rng(2)
    centre = rng.normal(size=24)

    def unit(count: int, spread: float, shift: float = 0.0) -> np.ndarray:
        x = centre + shift + spread * rng.normal(size=(count, 24))
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    wide = unit(140, 1.0)
    return {
        "other spread": (unit(140, 0.5), wide),
        "shifted": (unit(90, 1.0, 0.7), wide),
        "same distribution": (unit(140, 1.0), wide),
        "identical": (wide, wide),
        "few": (unit(12, 0.8), unit(17, 1.0)),
    }


def main() -> None:
    """Writes the file; in float32, as published, and in float64 the published formula of CMMD."""
    research, dgm_eval = map(pathlib.Path, sys.argv[1:])
    sys.path[:0] = [str(research), str(dgm_eval / "dgm_eval" / "metrics")]
    import fd
    import prdc
    from cmmd.distance import mmd

    found = {}
    for name, (x, y) in cases().items():
        shares = prdc.compute_prdc(y, x, nearest_k=5)
        found[name] = {
            "cmmd": float(mmd(x, y)),
            "cmmd_float32": float(mmd(x.astype(np.float32), y.astype(np.float32))),
            "fd": float(fd.compute_FD_with_reps(y, x)),
            "prdc": {part: float(value) for part, value in shares.items()},
        }
    path = pathlib.Path(__file__).with_name("cmmd.json")
    path.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
