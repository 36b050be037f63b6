"""The numbers of training: written to the screen, to metrics.jsonl and to TensorBoard."""

import time

import jax

from xmc_jax import console
from xmc_jax.parallel import processes
from xmc_jax.run.records import append_metrics
from xmc_jax.training import faults

# Steps that may be queued on the device. After a signal they have to end before the run can save.
_STEPS_AHEAD = 2


class TrainLog:
    """Collects the metrics of every step and writes those that are due.

    They stay on the device until `flush`, so that the loop does not wait for its last steps.

    Args:
      config: Config of the run.
      workdir: Folder of the run.
      writer: See `tensorboard.open_writer`.
    """

    def __init__(self, config, workdir: str, writer):
        self._config, self._workdir, self._writer = config, workdir, writer
        self._pending: list[tuple[int, dict]] = []
        self._compiled = False

    def begin(self) -> None:
        """Starts the clock, and drops metrics that were not written: of steps after a fault."""
        self._pending.clear()
        self._flushed_at = time.monotonic()

    def add(self, step: int, metrics: dict) -> None:
        """Adds the metrics of one step, which are still on the device."""
        self._pending.append((step, metrics))
        if len(self._pending) > _STEPS_AHEAD:
            jax.block_until_ready(self._pending[-1 - _STEPS_AHEAD])

    def flush(self) -> None:
        """Fetches the metrics added so far, checks them, and writes the lines that are due.

        Raises:
          NotFinite: a metric is not finite; the lines before it are written.
        """
        if not self._pending:
            return
        steps, metrics = zip(*self._pending, strict=True)
        self._pending.clear()
        metrics = jax.device_get(metrics)
        now = time.monotonic()
        rate = len(steps) / max(now - self._flushed_at, 1e-9)
        if not self._compiled:
            processes.say(f"first step, compilation included: {now - self._flushed_at:.0f} s")
        self._compiled, self._flushed_at = True, now
        for step, values in zip(steps, metrics, strict=True):
            faults.check(step, values)
            if step % self._config.log_every_steps == 0 and processes.is_first():
                self._write(step, {k: float(v) for k, v in values.items()}, rate)

    def _write(self, step: int, values: dict[str, float], rate: float) -> None:
        config = self._config
        append_metrics(
            self._workdir, [{"kind": "train", "step": step, **values, "steps_per_second": rate}]
        )
        self._writer.write_scalars(step, {**values, "steps_per_second": rate})
        remaining = (config.num_steps - step) / rate
        images_per_second = rate * config.batch_size * config.d_steps
        shown = ["d/loss", "g/loss", *(k for k in values if k.endswith("sentence_accuracy"))]
        print(
            f"step {step}/{config.num_steps}  "
            + "  ".join(f"{name} {values[name]:.3f}" for name in shown)
            + f"  {rate:.2f} steps/s  {images_per_second:.0f} images/s"
            f"  ETA {console.format_duration(remaining)}",
            flush=True,
        )
