"""kill -9 at random moments of a run, and the same command again: nothing may be lost or changed.

    python -m tests.soak.kills --kills=50 --folder=/tmp/kills

Trains a tiny model once without a fault, and once under kills: in the set-up and the compilation,
in steps, in saves, in evaluations and in reports. At the end every array of the last checkpoint and
every line of metrics.jsonl (but rates) must be equal, no line may be there twice, and no start may
have failed. A kill that comes when its process has ended does not count. Prints a line a kill and a
summary; exit code 1 if anything is not so.
"""

import argparse
import collections
import json
import pathlib
import random
import sys
import time

from tests.test_verbs import leaves_of
from tests.verbs import TINY, finish, start
from xmc_jax.parallel import startup

STEPS_A_KILL = 25  # Enough that the run does not end before the kills do.
LONGER = [
    "--config.log_every_steps=10",
    "--config.checkpoint_every_steps=20",
    "--config.sample_every_steps=100",
]
# A kind of moment each, in turn.
MOMENTS = ("start", "step", "save", "evaluate", "report")
LONGEST = {"start": 20.0, "step": 4.0, "save": 0.5}  # Seconds to the kill, of training.
MOST_SAVES = 4  # That a run begins until it is killed in one: it has to get on in between.


class Run:
    """A workdir, and the processes that are started on it."""

    def __init__(self, folder: pathlib.Path, name: str, num_steps: int):
        self.workdir, self._data_dir = folder / name, folder / "data"
        self.num_steps = num_steps
        self.failures: list[str] = []

    def start(self, verb: str):
        """A verb on the workdir, by the same command each time."""
        more = [*TINY, *LONGER, f"--config.num_steps={self.num_steps}"] if verb == "train" else []
        return start(verb, *more, f"--workdir={self.workdir}", data_dir=self._data_dir)

    def finish(self, verb: str) -> float:
        """Runs a verb to its end; seconds."""
        begin = time.monotonic()
        self._judge(finish(self.start(verb)), verb)
        return time.monotonic() - begin

    def kill(self, moment: str, seconds: float, saves: int) -> str:
        """Starts the verb of a moment, kills it there, and says where; empty if it had ended.

        A moment begins with the verb; with the first step; or with so many saves.
        """
        verb = "train" if moment in ("start", "step", "save") else moment
        child = self.start(verb)
        if moment in ("step", "save"):
            for line in child.stdout:
                if line.startswith(("first step", "nothing to do")):
                    break
        if moment == "save":
            self._await_saves(saves, child)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and child.poll() is None:
            time.sleep(0.001)
        place = f"{verb} after {seconds:.2f} s"
        if moment == "save":
            place = f"train in save {saves}" if self._saving() else f"train after save {saves}"
        child.kill()
        done = finish(child)
        if done.returncode != -9:
            self._judge(done, verb)
            return ""
        return place

    def _saving(self) -> set[str]:
        """Checkpoints that are being written."""
        return {path.name for path in self.workdir.glob("checkpoints/*.orbax-checkpoint-tmp*")}

    def _await_saves(self, count: int, child) -> None:
        """Waits until a process has begun so many saves, or has ended."""
        begun = set()  # What a kill left behind is gone by the first step.
        while len(begun) < count and child.poll() is None:
            begun |= self._saving()
            time.sleep(0.001)

    def _judge(self, done, verb: str) -> None:
        if done.returncode or "Traceback" in done.stderr:
            self.failures.append(f"{verb} ended with {done.returncode}: {done.stderr[-2000:]}")

    def checkpoints(self) -> list[str]:
        """The steps of the checkpoints that are whole."""
        names = (path.name for path in self.workdir.glob("checkpoints/*"))
        return sorted(filter(str.isdigit, names), key=int)

    def records(self) -> list[dict]:
        """The lines of metrics.jsonl, without what no two runs share."""
        lines = (self.workdir / "metrics.jsonl").read_text().splitlines()
        rates = ("steps_per_second",)
        return [{k: v for k, v in json.loads(x).items() if k not in rates} for x in lines]


def compare(whole: Run, killed: Run) -> list[str]:
    """What is not equal."""
    import jax
    import numpy as np

    startup.hide_missing_tpu()
    faults = [*whole.failures, *killed.failures]
    one, other = (leaves_of(run.workdir, whole.num_steps) for run in (whole, killed))
    equal = jax.tree.map(lambda a, b: a.tobytes() == b.tobytes(), one, other)
    for path, same in jax.tree_util.tree_leaves_with_path(equal):
        if not same:
            faults.append(f"{jax.tree_util.keystr(path)} differs")
    sizes = [np.size(x) for x in jax.tree.leaves(one)]
    print(f"compared {len(sizes)} arrays, {sum(sizes)} numbers")
    wanted, found = whole.records(), killed.records()
    counts = collections.Counter(json.dumps(record) for record in found)
    faults += [f"{n} times: {line[:80]}" for line, n in counts.items() if n > 1]
    for kind in ("train", "probe", "eval"):
        a, b = ([r for r in records if r["kind"] == kind] for records in (wanted, found))
        # Evaluations of earlier checkpoints are there besides.
        b = b if kind != "eval" else [r for r in b if r["step"] == whole.num_steps]
        if a != b:
            faults.append(f"{kind} lines differ: {len(a)} and {len(b)}")
        print(f"compared {len(a)} {kind} lines")
    if not (killed.workdir / "report.html").read_text().rstrip().endswith("</html>"):
        faults.append("report.html is torn")
    return faults


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--folder", type=pathlib.Path, required=True)
    options = parser.parse_args()
    chance = random.Random(options.seed)

    num_steps = STEPS_A_KILL * options.kills
    whole, killed = (Run(options.folder, name, num_steps) for name in ("whole", "killed"))
    seconds = {verb: whole.finish(verb) for verb in ("train", "evaluate", "report")}
    print(f"without faults: {seconds}", flush=True)
    begin = time.monotonic()
    longest = seconds | LONGEST
    places: list[str] = []
    for attempt in range(3 * options.kills):
        moment = MOMENTS[attempt % len(MOMENTS)]
        if moment in ("evaluate", "report") and not killed.checkpoints():
            moment = "save"
        started = time.monotonic()
        seconds_to_go = chance.uniform(0, longest[moment])
        place = killed.kill(moment, seconds_to_go, saves=chance.randint(1, MOST_SAVES))
        if not place:  # It takes less time than it took.
            longest[moment] = min(longest[moment], time.monotonic() - started)
            continue
        places.append(place)
        steps = ", ".join(killed.checkpoints()) or "none"
        print(f"kill {len(places)}/{options.kills}: {place}; checkpoints {steps}", flush=True)
        if len(places) == options.kills:
            break
    for verb in seconds:
        killed.finish(verb)
    faults = compare(whole, killed)
    if len(places) < options.kills:
        faults.append("the other kills came when processes had ended")
    print("\n".join(faults))
    print(f"{len(places)} kills in {time.monotonic() - begin:.0f} s: {len(faults)} faults")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
