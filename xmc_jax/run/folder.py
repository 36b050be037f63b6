"""The folder of a run: which file lies where.

    config.json              the resolved config, written when the run starts (`config.py`)
    text_projection.safetensors   what `config.text.projection` fixes (`frozen/text_projection.py`)
    metrics.jsonl            one record a line, of training and of evaluations (`records.py`)
    nonfinite.jsonl          steps whose losses or gradients were not finite (`training/faults.py`)
    samples/                 captions.json, and a grid of samples per time, step_00001000.png
    checkpoints/<step>/      see `checkpoint.py`
    best/<step>/             the best checkpoint by `config.eval.best_metric`
    evaluation/              intermediate results of an evaluation that runs or was killed
    eval/                    TensorBoard's events of evaluations; those of training lie beside it
    report.html              written by `report`

Every path may be local or remote (``gs://…``).
"""

from etils import epath


def config_path(workdir: epath.PathLike) -> epath.Path:
    """Where the run's resolved config is."""
    return epath.Path(workdir) / "config.json"


def text_projection_path(workdir: epath.PathLike) -> epath.Path:
    """Where the projection of the text is, in the folder of a run or of an exported model."""
    return epath.Path(workdir) / "text_projection.safetensors"


def metrics_path(workdir: epath.PathLike) -> epath.Path:
    """Where the run's numbers are, one JSON object a line."""
    return epath.Path(workdir) / "metrics.jsonl"


def nonfinite_path(workdir: epath.PathLike) -> epath.Path:
    """Where the steps that were not finite are, one JSON object a line."""
    return epath.Path(workdir) / "nonfinite.jsonl"


def samples_dir(workdir: epath.PathLike) -> epath.Path:
    """Where the sample grids of training are."""
    return epath.Path(workdir) / "samples"


def sample_path(workdir: epath.PathLike, step: int) -> epath.Path:
    """The sample grid of a step."""
    return samples_dir(workdir) / f"step_{step:08d}.png"


def captions_path(workdir: epath.PathLike) -> epath.Path:
    """What the sample grids show: ``{"captions": [...], "columns": N}``, row by row."""
    return samples_dir(workdir) / "captions.json"


def checkpoints_dir(workdir: epath.PathLike) -> epath.Path:
    """Where the checkpoints are, one folder a step."""
    return epath.Path(workdir) / "checkpoints"


def evaluation_dir(workdir: epath.PathLike, step: int, identity: str) -> epath.Path:
    """Where one evaluation keeps what it has done so far; removed when it is over."""
    return epath.Path(workdir) / "evaluation" / f"step_{step:08d}_{identity[:12]}"


def eval_events_dir(workdir: epath.PathLike) -> epath.Path:
    """Where the event files of evaluations are."""
    return epath.Path(workdir) / "eval"


def best_dir(workdir: epath.PathLike) -> epath.Path:
    """Where the best checkpoint is, one folder as in `checkpoints_dir`."""
    return epath.Path(workdir) / "best"


def held_dir(workdir: epath.PathLike) -> epath.Path:
    """Where checkpoints are while they are measured beside a trainer, which may delete its own."""
    return epath.Path(workdir) / "evaluation" / "checkpoints"


def find_checkpoints(workdir: epath.PathLike, step: int | None) -> epath.Path:
    """The folder that has a step's checkpoint: the best one may be in `best_dir` alone."""
    elsewhere = (best_dir(workdir) / str(step)).exists()
    if elsewhere and not (checkpoints_dir(workdir) / str(step)).exists():
        return best_dir(workdir)
    return checkpoints_dir(workdir)


def report_path(workdir: epath.PathLike) -> epath.Path:
    """Where the report is."""
    return epath.Path(workdir) / "report.html"
