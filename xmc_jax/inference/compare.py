"""The images of several runs that the verb `compare` shows."""

from collections.abc import Sequence

from xmc_jax import images
from xmc_jax.console import waiting
from xmc_jax.inference.loading import load
from xmc_jax.pages.compare import GeneratedImages, Run


def generate_for_runs(
    runs: Sequence[Run], captions: Sequence[str], *, seed: int = 0
) -> GeneratedImages:
    """Generates images of the captions with each run's newest checkpoint and the same noise.

    Raises:
      UserError: a run has no checkpoint.
    """
    steps, pngs = [], []
    for run in runs:
        with waiting(f"generating images of {len(captions)} captions with {run.name}"):
            model = load(run.folder)
            generated = model.generate(captions, seed=seed)
        steps.append(model.step)
        pngs.append([images.encode_png(pixels) for pixels in generated])
    return GeneratedImages(list(captions), seed, steps, pngs)
