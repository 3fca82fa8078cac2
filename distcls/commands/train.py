"""`distcls train`: trains a model, or resumes a run that was stopped."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from typing import Any

from distcls.cluster import signals, slurm
from distcls.commands.arguments import parse_train_arguments
from distcls.commands.exit_codes import run_command
from distcls.config.settings import Config
from distcls.config.yaml_text import to_yaml
from distcls.errors import MissingInputError
from distcls.runs.resuming import default_name


def main(argv: Sequence[str] | None = None) -> int:
    """Train: the entry point of `distcls train`, and of what accelerate launch, torchrun and Slurm start."""
    signals.install(second_leaves=not slurm.comes_back())
    # DDP warns at every start that it looks for unused parameters, which we want (see training/acceleration.py).
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    return slurm.leave(run_command(_main, argv))


def _main(argv: Sequence[str]) -> int:
    slurm.join_step()
    config, options = parse_train_arguments(argv)
    name = default_name(config, options.config_path)
    if options.print_config:
        if not is_complete(config):
            from distcls.training.start.dry_run import settled

            try:
                config = settled(config)
            except MissingInputError as missing:
                print(
                    f"distcls: warning: {missing}\nSettings that a run would choose from its images are not shown.",
                    file=sys.stderr,
                )
        print(to_yaml(config), end="")
    elif options.dry_run:
        from distcls.training.start.dry_run import dry_run

        dry_run(config, name)
    else:
        from distcls.training.loop import train

        finished = train(config, name)
        if finished.is_main:
            from distcls.report.run_report import write_report
            from distcls.terminal.progress import Progress

            write_report(finished.dir)
            progress = Progress()
            progress.note(f"\nreport  {finished.dir / 'report.html'}\nplots   {finished.dir / 'plots'}")
            if finished.tracker is not None:
                _wait_for_services(finished.tracker, shlex.quote(str(finished.dir)), progress)
    return 0


def _wait_for_services(tracker: Any, folder: str, progress: Any) -> None:
    """Wait up to a minute for the services of `run.trackers`, because a container ends with this process."""
    sending = tracker.sending()
    if sending:
        progress.note(
            f"sending the rest to {', '.join(sending)}; Ctrl-C stops waiting, and sending continues in the background"
        )
    for name in tracker.wait():
        progress.warning(f"{name} does not have all of this run yet: distcls track {folder} sends the rest")


def is_complete(config: Config) -> bool:
    """True if no setting depends on the images or on initial weights, so that reading the config is enough."""
    return not config.may_have_preset and not config.model.starts_trained
