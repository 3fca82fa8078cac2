"""Runs cross-validation: one ordinary run for each fold, and mean ± standard deviation over them.

Folds run one after the other, each as `distcls train` in its own process and run folder. So they behave like any other
run: a stopped fold is resumed, a finished one is not run again, and exit codes are the same.
"""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from distcls.cluster import signals
from distcls.cluster.child_processes import end_with_parent
from distcls.config.loading import read_config
from distcls.errors import DiskError, MissingInputError, Preempted
from distcls.files.atomic import read_json, write_json
from distcls.terminal.tables import summary_table

Metrics = Mapping[str, Mapping[str, Any]]
"""The content of metrics.json: {"val": {"accuracy": 0.98, …}, "test": {…}}."""


def fold_folders(stem: Path, folds: int) -> list[Path]:
    """Return the run folder of each fold of a cross-validation: runs/flowers-fold0 … for runs/flowers."""
    return [stem.with_name(f"{stem.name}-fold{fold}") for fold in range(folds)]


def runs_of(path: Path) -> list[Path]:
    """Return the folders of all folds if this is the name of a cross-validation, else a run's own folder.

    If both exist, return the folds once all have begun, else the run. Raises MissingInputError if folds are missing and
    there is no such run.
    """
    first = fold_folders(path, 1)[0] / "config.yaml"
    if not first.exists():
        return [path]
    folders = fold_folders(path, read_config(first).data.folds or 1)
    missing = [folder.name for folder in folders if not (folder / "config.yaml").exists()]
    if missing and (path / "config.yaml").exists():
        return [path]
    if missing:
        raise MissingInputError(
            f"{path} has no {', '.join(missing)} yet: run the same distcls crossval command again to resume it"
        )
    return folders


class FoldRunner:
    """Runs one fold after the other, and forwards stop signals to the one that is running."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._asked_to_stop = False
        self._unsent: int | None = None
        for number in signals.heard_signals():
            signal.signal(number, self._pass_on)

    def run(self, words: Sequence[str]) -> int:
        """Run `distcls WORDS` and return its exit code. Raises Preempted if a signal stopped it.

        The process gets its own process group: otherwise Ctrl-C would reach it twice, from the terminal and from
        here, and a second signal means to exit without saving.
        """
        if not self._asked_to_stop:
            command = [sys.executable, "-m", "distcls", *words]
            # Killed together with this process, or it would keep its run folder locked.
            end = partial(end_with_parent, signal.SIGKILL, os.getpid())
            self._process = subprocess.Popen(command, process_group=0, preexec_fn=end)
            if self._unsent is not None:  # it arrived while the process was starting
                self._process.send_signal(self._unsent)
            code, self._process = self._process.wait(), None
            if code != Preempted.exit_code and -code not in signals.STOP_SIGNALS:
                return code
        raise Preempted("stopped before all folds were finished. Run the same command to resume.")

    def _pass_on(self, number: int, frame: object) -> None:
        self._asked_to_stop = True
        if self._process is None:
            self._unsent = number
        else:
            self._process.send_signal(number)


def report(folders: Sequence[Path], file: Path) -> None:
    """Print a table of the folds' metrics with mean and standard deviation, and write it as JSON.

    The standard deviation is the sample's (n - 1). Raises DiskError.
    """
    metrics = [read_json(folder / "metrics.json") for folder in folders]
    summary = summarize(metrics)
    try:
        write_json(file, {"runs": [str(folder) for folder in folders], **summary})
    except OSError as error:
        raise DiskError(f"cannot write {file}: {error.strerror}") from error
    for split, spread in summary.items():
        rows = {f"fold {fold}": of_fold[split] for fold, of_fold in enumerate(metrics)}
        rows |= {"mean": _each(spread, "mean"), "± std": _each(spread, "std")}
        print("", split, *summary_table(rows), sep="\n")
    print(f"\n{file}")


def summarize(metrics: Sequence[Metrics]) -> dict[str, dict[str, dict[str, Any]]]:
    """Return {"val": {"accuracy": {"mean", "std", "folds": a value for each}, …}, "test": …}."""
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
