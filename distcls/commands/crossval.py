"""`distcls crossval`: trains once for each fold of the data, then prints mean ± standard deviation."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path

from distcls.commands.arguments import override, parse_train_arguments
from distcls.config.loading import world_size
from distcls.config.settings import Config
from distcls.errors import BadDataError, UsageError
from distcls.runs.resuming import AlreadyFinished, choose_folder, default_name
from distcls.sweeps.crossval import FoldRunner, fold_folders, report

DEFAULTS = ("data.folds=5", "data.fold=0")

ALL_FOLDS = "distcls crossval runs all folds: leave out data.fold, or run a single fold with distcls train"


def main(argv: Sequence[str]) -> int:
    """Run `distcls crossval`, which takes the arguments of `distcls train`."""
    runner = FoldRunner()
    if any(word.startswith("data.fold=") for word in argv):
        raise UsageError(ALL_FOLDS)
    config, options = parse_train_arguments(argv, "crossval", DEFAULTS)
    if config.data.fold != 0:
        raise UsageError(f"{options.config_path} has data.fold={config.data.fold}, and {ALL_FOLDS}")
    if world_size() > 1:
        raise UsageError(
            "distcls crossval starts its runs itself, each as one process. With a launcher, start each fold yourself: "
            "torchrun … -m distcls.train … data.fold=0, then data.fold=1, and so on"
        )
    stem = _folder_stem(config, options.config_path)
    folders = fold_folders(stem, config.data.folds or 0)
    folds = f"data.folds={config.data.folds}"
    all_words = [
        [*argv, folds, f"data.fold={fold}", override("run.dir", str(folder))] for fold, folder in enumerate(folders)
    ]
    for words in all_words:  # report a fold that cannot be resumed before training another one
        with contextlib.suppress(AlreadyFinished):
            choose_folder(parse_train_arguments(words, "crossval")[0], "")
    for fold, folder in enumerate(folders):
        words = ["train", *all_words[fold]]
        if options.print_config:
            return runner.run(words)
        print(f"\nfold {fold} of {len(folders)}: {folder}", flush=True)
        code = runner.run(words)
        if code:
            again = (
                "" if code in (UsageError.exit_code, BadDataError.exit_code) else ": run the same command to resume it"
            )
            print(f"distcls: fold {fold} ended with exit code {code}{again}", file=sys.stderr)
            return code
    if options.dry_run:
        return 0
    report(folders, stem.with_name(f"{stem.name}-crossval.json"))
    return 0


def _folder_stem(config: Config, config_path: Path | None) -> Path:
    """Return the run folder that `distcls train` would choose, without the suffix of a fold."""
    if config.run.dir:
        path = Path(config.run.dir).expanduser()
        return path if path.name else path.resolve()  # "."
    return Path("runs") / (config.run.name or default_name(config, config_path))
