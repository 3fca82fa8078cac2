"""Which folder a run lives in, who may write to it, and with which config it may go on."""

from __future__ import annotations

import copy
import errno
import fcntl
import itertools
import json
import math
import os
import re
import socket
from pathlib import Path
from typing import IO, Any

from distcls.config.checking import either
from distcls.config.differences import differences
from distcls.config.loading import read_config
from distcls.config.settings import KINDS_OF_PATHS, Config, TrainConfig
from distcls.errors import DiskError, DistclsError, UsageError
from distcls.runs.status import LOCK, is_finished, now

LENGTH = "length.json"
"""File of a checkpoint: how long the run was to be, and whether it had come to that end."""

LENGTHS = ("train.num_epochs", "train.num_steps")


class AlreadyFinished(DistclsError):
    """Nothing is left to do."""

    exit_code = 0
    on_all_ranks = True

    def __init__(self, message: str, run_dir: Path | None = None) -> None:
        super().__init__(message)
        self.run_dir = run_dir


def default_name(config: Config, config_path: str | Path | None) -> str:
    """What a run is called that was given no name: as its config file, else as its data."""
    if config_path is None and config.data.root is not None and config.data.name in KINDS_OF_PATHS:
        config_path = Path(config.data.root).resolve()
    return Path(config_path or config.data.name).stem or config.data.name


def choose_folder(config: Config, default_name: str) -> Path:
    """run.dir; else runs/NAME; else the first of runs/default, runs/default-2 … that this config may use.

    An unfinished run of the same config is continued. Raises UsageError where a folder that was asked for
    by name holds another run, AlreadyFinished where its run is done.
    """
    if config.run.dir or config.run.name:
        path = Path(config.run.dir or f"runs/{config.run.name}").expanduser()
        _check_may_continue(path, config)
        return path
    for number in itertools.count(1):
        path = Path("runs") / (default_name if number == 1 else f"{default_name}-{number}")
        stored = stored_config(path)
        if stored is None:
            return path
        changed = [line for line in _differences(stored, config) if not _is_for_later(line, stored, config, path)]
        if not is_finished(path) and not changed:
            return path
    raise AssertionError("there is always a next number")


def stored_config(path: Path) -> Config | None:
    """The config of the run in a folder, or None where there is no run."""
    file = path / "config.yaml"
    return read_config(file) if file.exists() else None


def config_to_keep(path: Path) -> Config | None:
    """The config that the run in a folder is bound to: before its first checkpoint, it can still become any."""
    return stored_config(path) if _newest_step(path) or is_finished(path) else None


def steps_of(config: Config, path: Path) -> int:
    """The step of the newest checkpoint in a folder that holds the run of this config; 0 where it does not."""
    stored = config_to_keep(path)
    return _newest_step(path) if stored is not None and not _changes(path, stored, config) else 0


def _check_may_continue(path: Path, config: Config) -> None:
    stored = config_to_keep(path)
    if stored is None:
        return
    changed = _changes(path, stored, config)
    if changed:
        is_longer = any(line.startswith(LENGTHS) for line in changed) and not _has_ended(path)
        raise UsageError(
            f"{path} holds a run of another config:\n  " + "\n  ".join(changed) + "\n"
            "A run is continued with its own config. Undo the change, or begin another run with --name NAME."
            + (" (A run can be made longer once it has come to its end.)" if is_longer else "")
        )
    if is_finished(path) and not _differences(stored, config) and _is_as_long(path, stored.train):
        raise AlreadyFinished(
            f"{path} is finished. To go on training: the same command with a larger train.num_epochs; "
            f"to see its results: distcls eval {path}",
            path,
        )
    if is_finished(path) and not _newest_step(path):
        raise UsageError(
            f"{path} is finished, and has no checkpoints any more from which it could go on: bring them back, or "
            "begin another run with --name NAME (with model.init_from, from the weights of this one)."
        )


def _changes(path: Path, stored: Config, config: Config) -> list[str]:
    """What makes it another run than the one in the folder."""
    return [line for line in _differences(stored, config) if not _may_change(line, stored, config, path)]


def _differences(stored: Config, config: Config) -> list[str]:
    """What would make it another run. Where the new config leaves a choice open, the stored one stands."""
    return differences(stored, fill_from(config, stored))


def fill_from(config: Config, stored: Config) -> Config:
    """The config with the choices that were resolved at the first start."""
    filled = copy.deepcopy(config)
    filled.train.micro_batch_size = config.train.micro_batch_size or stored.train.micro_batch_size
    if config.train.precision == "auto":
        filled.train.precision = stored.train.precision
    return filled


def refuse_other_cut(config: Config, stored: Config, world_size: int, path: Path) -> None:
    """Raises UsageError where so many processes cannot share the micro-batches that the run began with."""
    batch, micro = stored.train.global_batch_size, stored.train.micro_batch_size or stored.train.global_batch_size
    parts = batch // micro
    if config.train.micro_batch_size is None and parts % world_size:
        fitting = [str(number) for number in range(1, parts + 1) if parts % number == 0]
        raise UsageError(
            f"{path} was begun with train.micro_batch_size={micro}, which is part of the run: {world_size} processes "
            f"cannot share the {parts} such parts of its batches of {batch}. Start {either(fitting)}; or begin another "
            "run with --name NAME, and a smaller train.micro_batch_size for more processes."
        )


def _may_change(line: str, stored: Config, config: Config, path: Path) -> bool:
    """Whether a difference is about steps to come: steps to skip, or the length of a run that has come to its end."""
    if line.startswith(LENGTHS):
        return _has_ended(path) and _fits_what_was_trained(config.train, path, stored.train)
    return _is_for_later(line, stored, config, path)


def _is_for_later(line: str, stored: Config, config: Config, path: Path) -> bool:
    """Whether a difference is that steps after the last checkpoint are to be skipped."""
    changed = set(stored.train.skip_steps) ^ set(config.train.skip_steps)
    return line.startswith("train.skip_steps:") and min(changed, default=math.inf) >= _newest_step(path)


def _has_ended(path: Path) -> bool:
    """Whether the newest checkpoint is of a run that had come to its end, as long as it was to be then."""
    return is_finished(path) or bool(_length(path).get("ended"))


def _is_as_long(path: Path, train: TrainConfig) -> bool:
    """Whether the newest checkpoint is of a run of this length: a longer one may have been killed as it began."""
    length = _length(path)
    return not length or (length["num_epochs"], length["num_steps"]) == (train.num_epochs, train.num_steps)


def _fits_what_was_trained(train: TrainConfig, path: Path, stored: TrainConfig) -> bool:
    """Whether it is as long as the run that ended there, or longer.

    The stored config may tell of another length, of which not one step was trained.
    """
    trained = _length(path) or {"num_epochs": stored.num_epochs, "num_steps": stored.num_steps}
    lengths = [(train.num_epochs, trained["num_epochs"]), (train.num_steps, trained["num_steps"])]
    return any(new is not None and old is not None and new >= old for new, old in lengths)


def length_of(train: TrainConfig, ended: bool) -> dict[str, Any]:
    """What is kept in LENGTH."""
    return {"num_epochs": train.num_epochs, "num_steps": train.num_steps, "ended": ended}


def _length(path: Path) -> dict[str, Any]:
    """That of the newest checkpoint; empty where it cannot be read."""
    try:
        return json.loads((path / f"checkpoints/step-{_newest_step(path):08d}" / LENGTH).read_text())
    except (OSError, ValueError):
        return {}


def _newest_step(path: Path) -> int:
    names = (re.fullmatch(r"step-(\d+)", folder.name) for folder in path.glob("checkpoints/step-*"))
    return max((int(name[1]) for name in names if name), default=0)


def lock_folder(path: Path) -> IO[str] | None:
    """Hold the folder until the process ends, however it ends. Raises UsageError, naming who has it.

    None where the file system has no locks. A POSIX lock, because flock would pass to forked loader workers, which
    outlive a killed parent. Raises DiskError where the folder cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        file = (path / LOCK).open("a+")
    except OSError as error:
        raise DiskError(
            f"the run folder {path} cannot be written ({error.strerror}: {error.filename}). Give another: run.dir=DIR"
        ) from error
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EAGAIN):
            return None
        file.seek(0)
        raise UsageError(
            f"{path} is in use by {file.read().strip() or 'another process'}. Wait for it, end it, or begin "
            "another run with --name NAME."
        ) from error
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()} since {now()}\n")
    file.flush()
    return file
