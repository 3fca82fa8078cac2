"""Which folder a run lives in, who may write to it, and what it says of itself."""

from __future__ import annotations

import copy
import errno
import fcntl
import itertools
import json
import math
import os
import socket
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from distcls.config import Config
from distcls.config_differences import differences
from distcls.config_loader import read_config
from distcls.errors import DistclsError, UsageError


class AlreadyFinished(DistclsError):
    """Nothing is left to do."""

    exit_code = 0
    on_all_ranks = True


def default_name(config: Config, config_path: str | Path | None) -> str:
    """What a run is called that was given no name: as its config file, else as its data."""
    if config_path is None and config.data.root is not None and config.data.name in ("folder", "csv", "npz"):
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
        if stored is None or (not is_finished(path) and not _changes(path, stored, config)):
            return path
    raise AssertionError("there is always a next number")


def stored_config(path: Path) -> Config | None:
    """The config of the run in a folder, or None where there is no run."""
    file = path / "config.yaml"
    return read_config(file) if file.exists() else None


def config_to_keep(path: Path) -> Config | None:
    """The config that the run in a folder is bound to: before its first checkpoint, it can still become any."""
    return stored_config(path) if _newest_step(path) else None


def steps_of(config: Config, path: Path) -> int:
    """The step of the newest checkpoint in a folder that holds the run of this config; 0 where it does not."""
    stored = config_to_keep(path)
    return _newest_step(path) if stored is not None and not _changes(path, stored, config) else 0


def is_finished(path: Path) -> bool:
    """Whether the run in a folder has come to its end."""
    return read_status(path).get("state") == "finished"


def read_status(path: Path) -> dict[str, Any]:
    """status.json, or nothing where there is none."""
    try:
        return json.loads((path / "status.json").read_text())
    except (OSError, ValueError):
        return {}


def _check_may_continue(path: Path, config: Config) -> None:
    stored = config_to_keep(path)
    if stored is None:
        return
    changed = _changes(path, stored, config)
    if changed:
        raise UsageError(
            f"{path} holds a run of another config:\n  " + "\n  ".join(changed) + "\n"
            "A run is continued with its own config. Undo the change, or begin another run with --name NAME."
        )
    if is_finished(path) and not _differences(stored, config):
        raise AlreadyFinished(
            f"{path} is finished. To go on training: the same command with a larger train.num_epochs; "
            f"to see its results: distcls eval {path}"
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


def _may_change(line: str, stored: Config, config: Config, path: Path) -> bool:
    """Whether a difference is about steps to come: a longer run, or steps to skip after the last checkpoint."""
    setting = line.split(":")[0]
    old, new = stored.train, config.train
    if setting == "train.skip_steps":
        return min(set(old.skip_steps) ^ set(new.skip_steps), default=math.inf) >= _newest_step(path)
    if setting == "train.num_epochs":
        return (new.num_epochs or 0) > (old.num_epochs or math.inf)
    if setting == "train.num_steps":
        return (new.num_steps or 0) > (old.num_steps or math.inf)
    return False


def _newest_step(path: Path) -> int:
    return max((int(folder.name.split("-")[1]) for folder in path.glob("checkpoints/step-*")), default=0)


def lock_folder(path: Path) -> IO[str] | None:
    """Hold the folder until the process ends, however it ends. Raises UsageError, naming who has it.

    None where the file system has no locks. A POSIX lock, because flock would pass to forked loader workers, which
    outlive a killed parent.
    """
    path.mkdir(parents=True, exist_ok=True)
    file = (path / ".lock").open("a+")
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


class StatusFile:
    """status.json: what the run is doing. Cheap enough to be called at every step."""

    def __init__(self, path: Path) -> None:
        self.path = path / "status.json"
        self.next_write = 0.0
        self.has_ended = False
        self.lock = threading.Lock()  # the last word may come from another thread than the main one
        self.save_seconds: float | None = read_status(path).get("save_seconds")
        """How long the last checkpoint took to write, in this start or the one before."""

    def write(self, state: str, step: int, phase: str, reason: str | None = None) -> None:
        """Replace the file at once."""
        with self.lock:
            if not self.has_ended:
                self.has_ended = phase == "end"
                self._write(state, step, phase, reason)

    def _write(self, state: str, step: int, phase: str, reason: str | None) -> None:
        start = time.monotonic()
        status = {"state": state, "step": step, "phase": phase, "reason": reason, "time": now(), "pid": os.getpid()}
        status["save_seconds"] = self.save_seconds
        write_text(self.path, json.dumps(status) + "\n")
        # A slow disk gets fewer updates: they may cost two thousandths of the time at most.
        self.next_write = time.monotonic() + max(0.05, 500 * (time.monotonic() - start))

    def write_if_due(self, state: str, step: int, phase: str) -> None:
        """Replace the file, unless that was done a moment ago."""
        if time.monotonic() >= self.next_write:
            self.write(state, step, phase)


def write_text(path: Path, text: str) -> None:
    """Replace a file, so that a reader sees the old text or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text)
    temporary.replace(path)


def now() -> str:
    """The time in UTC, ISO 8601, in seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")
