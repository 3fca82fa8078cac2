"""How many more trials an hour two at once give than one after another, where each trial uses one thread.

    python benchmarks/sweep.py

The same sweep of trials on digits, with one and with two runs at once, in turns, from the beginning of its first trial
to the end of its last. Starting each trial's process and drawing its report count, as they do for anybody who waits.

On a machine that others use, the wall-clock says little. So it also prints the processor time that the sweeps took: if
two at once need no more of it than one after another, two cores with nothing else to do train twice as fast.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from optuna import load_study
from optuna.storages.journal import JournalFileBackend, JournalStorage
from side_by_side import conditions

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--trials", type=int, default=4)
    parser.add_argument("--steps", type=int, default=600)
    options = parser.parse_args()
    print(conditions())
    ratios = []
    for turn in range(options.turns):
        measured = {parallel: sweep(parallel, options) for parallel in ((1, 2) if turn % 2 == 0 else (2, 1))}
        seconds = {parallel: wall for parallel, (wall, _) in measured.items()}
        print(f"processor time {measured[1][1]:.0f} s one after another, {measured[2][1]:.0f} s with two at once")
        rates = {parallel: options.trials * 3600 / seconds[parallel] for parallel in seconds}
        ratios.append(rates[2] / rates[1])
        print(f"{rates[1]:.0f} trials an hour one after another, {rates[2]:.0f} with two at once: {ratios[-1]:.2f} x")
    print(f"median {statistics.median(ratios):.2f} x ({min(ratios):.2f} to {max(ratios):.2f})")


def sweep(parallel: int, options: argparse.Namespace) -> tuple[float, float]:
    """Return the seconds from the first trial's beginning to the last one's end, and the processor time of it all."""
    rates = ",".join(f"{0.001 * (trial + 1):g}" for trial in range(options.trials))
    words = ["--parallel", str(parallel), f"optim.lr={rates}", f"train.num_steps={options.steps}"]
    words += ["train.num_threads=1", "data.workers=0", "run.trackers=[]", "run.device=cpu"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "distcls", "sweep", *words]
        before = processor_time()
        subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
        storage = JournalStorage(JournalFileBackend(str(Path(folder, "sweeps", "digits", "study.journal"))))
        trials = load_study(study_name="digits", storage=storage).trials
        began = min(trial.datetime_start for trial in trials if trial.datetime_start is not None)
        ended = max(trial.datetime_complete for trial in trials if trial.datetime_complete is not None)
        return (ended - began).total_seconds(), processor_time() - before


def processor_time() -> float:
    """Return the seconds that all processes have taken that were started here and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
