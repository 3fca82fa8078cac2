"""One ordinary run for each fold, and mean ± standard deviation over them.

Each fold is `distcls train` in a process and a run folder of its own, one after the other. So whatever is true of
a run is true here: a fold that was stopped goes on, one that is finished is not run again, and exit codes stay.
"""

from __future__ import annotations

import ctypes
import json
import signal
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distcls.cluster import signals
from distcls.errors import DiskError, Preempted
from distcls.files.atomic import write_text
from distcls.terminal.tables import summary_table

PR_SET_PDEATHSIG = 1
"""Of <linux/prctl.h>."""

Metrics = Mapping[str, Mapping[str, Any]]
"""As in metrics.json: {"val": {"accuracy": 0.98, …}, "test": {…}}."""


class FoldRunner:
    """Runs one fold after the other, and passes the stop signals on to the one that is running."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._asked_to_stop = False
        self._unsent: int | None = None
        for number in signals.STOP_SIGNALS:
            signal.signal(number, self._pass_on)

    def run(self, words: Sequence[str]) -> int:
        """The exit code of `distcls WORDS`. Raises Preempted where it was asked to stop and did.

        It gets a process group of its own: Ctrl-C would reach it twice otherwise, once from the terminal and
        once from here, and a second signal means to leave without saving.
        """
        if not self._asked_to_stop:
            command = [sys.executable, "-m", "distcls", *words]
            self._process = subprocess.Popen(command, process_group=0, preexec_fn=_end_with_parent)
            if self._unsent is not None:  # it came while the process was being started
                self._process.send_signal(self._unsent)
            code, self._process = self._process.wait(), None
            if code != Preempted.exit_code and -code not in signals.STOP_SIGNALS:
                return code
        raise Preempted("stopped before the last fold was finished: the same command goes on from there.")

    def _pass_on(self, number: int, frame: object) -> None:
        self._asked_to_stop = True
        if self._process is None:
            self._unsent = number
        else:
            self._process.send_signal(number)


def _end_with_parent() -> None:
    """In the new process: killed when this one is, or it would hold its run folder against the next start."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def report(folders: Sequence[Path], file: Path) -> None:
    """Print a table of the folds' metrics.json with mean and standard deviation, and write it as JSON.

    The standard deviation is that of a sample (n - 1). Raises DiskError.
    """
    metrics = [json.loads((folder / "metrics.json").read_text()) for folder in folders]
    summary = summarize(metrics)
    try:
        write_text(file, json.dumps({"runs": [str(folder) for folder in folders], **summary}, indent=2) + "\n")
    except OSError as error:
        raise DiskError(f"cannot write {file}: {error.strerror}") from error
    for split, spread in summary.items():
        rows = {f"fold {fold}": of_fold[split] for fold, of_fold in enumerate(metrics)}
        rows |= {"mean": _each(spread, "mean"), "± std": _each(spread, "std")}
        print("", split, *summary_table(rows), sep="\n")
    print(f"\n{file}")


def summarize(metrics: Sequence[Metrics]) -> dict[str, dict[str, dict[str, Any]]]:
    """{"val": {"accuracy": {"mean", "std", "folds": one value for each}, …}, "test": …}."""
    return {
        split: {
            name: _spread([of_fold[split][name] for of_fold in metrics])
            for name, value in values.items()
            if isinstance(value, float) and all(name in of_fold[split] for of_fold in metrics)
        }
        for split, values in metrics[0].items()
    }


def _spread(values: Sequence[float]) -> dict[str, Any]:
    return {"mean": statistics.fmean(values), "std": statistics.stdev(values), "folds": list(values)}


def _each(spread: Mapping[str, Mapping[str, Any]], key: str) -> dict[str, float]:
    return {name: of_metric[key] for name, of_metric in spread.items()}
