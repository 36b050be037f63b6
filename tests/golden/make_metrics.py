"""Writes metrics.json, the results of trusted implementations, and two small .pth files.

Run once, with torch, torch-fidelity 0.4.0, pytorch-fid 0.3.0, prdc 0.2 and scipy < 1.18 installed:

    python tests/golden/make_metrics.py
"""

import collections
import json
import pathlib

import numpy as np


def cases() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Pairs of feature sets, generated and real; the tests use the same."""
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(16, 16)) / 4
    many = rng.normal(size=(120, 16)) @ mixing + 0.3, np.abs(rng.normal(size=(150, 16)))
    few = 1.2 * rng.normal(size=(20, 48)) + 0.1, rng.normal(size=(25, 48))
    return {
        "many": many,
        "few": few,
        "identical": (many[1], many[1]),
        "identical_few": (few[1], few[1]),
        "offset": (many[0] + 1e4, many[1] + 1e4),
    }


def logits() -> np.ndarray:
    """Logits of 203 images, grouped by class: order matters, and splits have unequal sizes."""
    rng = np.random.default_rng(1)
    rows = 3 * rng.normal(size=(203, 37))
    rows[np.arange(203), np.arange(203) // 6] += 6
    return rows


def main() -> None:
    """Writes the files."""
    import torch
    from prdc import compute_prdc
    from pytorch_fid.fid_score import calculate_frechet_distance
    from torch_fidelity import metric_fid, metric_isc, metric_kid

    found = {}
    for name, (x, y) in cases().items():
        statistics = [{"mu": f.mean(0), "sigma": np.cov(f, rowvar=False)} for f in (x, y)]
        one, other = statistics
        pair = one["mu"], one["sigma"], other["mu"], other["sigma"]
        fidelity = metric_fid.fid_statistics_to_metric(*statistics, verbose=False)
        tensors = torch.from_numpy(x), torch.from_numpy(y)
        size = min(len(x), len(y)) - 3
        kid = metric_kid.kid_features_to_metric(
            *tensors, kid_subsets=7, kid_subset_size=size, verbose=False
        )
        found[name] = {
            "pytorch_fid": float(calculate_frechet_distance(*pair)),
            "torch_fidelity_fid": float(next(iter(fidelity.values()))),
            "kid": [float(v) for v in kid.values()],
            "kid_subset_size": size,
            "prdc": {k: float(v) for k, v in compute_prdc(y, x, nearest_k=5).items()},
        }
    score = metric_isc.isc_features_to_metric(torch.from_numpy(logits()), splits=10, shuffle=True)
    found["inception_score"] = [float(v) for v in score.values()]
    folder = pathlib.Path(__file__).parent
    (folder / "metrics.json").write_text(json.dumps(found, indent=1) + "\n")

    a = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    state = collections.OrderedDict(a=a, b=a.T, c=torch.tensor(7))
    torch.save(state, folder / "torch_zip.pth")
    torch.save(state, folder / "torch_legacy.pth", _use_new_zipfile_serialization=False)


if __name__ == "__main__":
    main()
