"""The rules for resuming: which folder a run uses, who may write to it, and which changes of config are allowed."""

from __future__ import annotations

import errno
import fcntl
import itertools
import math
import os
import re
import socket
from pathlib import Path
from typing import IO, Any

from distcls.config.differences import Difference, differences
from distcls.config.loading import LENGTHS, read_config, with_preset
from distcls.config.settings import KINDS_OF_PATHS, PRESETS, Config, TrainConfig
from distcls.config.wording import ANOTHER_RUN, for_another_run
from distcls.errors import DiskError, DistclsError, UsageError
from distcls.runs.status import LOCK, is_finished, now, read_object

LENGTH = "length.json"
"""File in a checkpoint: how long the run was meant to be, and whether it reached that length."""

GIVEN = "given.json"
"""File in the run folder: the settings that the user gave at the first start. distcls chose the others."""


class AlreadyFinished(DistclsError):
    """The run is finished: there is nothing left to do."""

    exit_code = 0
    on_all_ranks = True

    def __init__(self, message: str, run_dir: Path) -> None:
        super().__init__(message)
        self.run_dir = run_dir

    def __reduce__(self) -> tuple[type[AlreadyFinished], tuple[str, Path]]:
        """Return what pickle makes the error from: process 0 sends it to the others."""
        return type(self), (str(self), self.run_dir)


def default_name(config: Config, config_path: str | Path | None) -> str:
    """Return the name of a run that was given none: that of its config file, or else of its data."""
    if config_path is None and config.data.root is not None and config.data.name in KINDS_OF_PATHS:
        config_path = Path(config.data.root).resolve()
    return Path(config_path or config.data.name).stem or config.data.name


def choose_folder(config: Config, default_name: str) -> Path:
    """Return run.dir, or runs/NAME, or the first of runs/default, runs/default-2 … that this config may use.

    An unfinished run of the same config is resumed. Raises UsageError if a folder that was given by name holds another
    run, and AlreadyFinished if its run is finished.
    """
    if config.run.dir or config.run.name:
        path = Path(config.run.dir or f"runs/{config.run.name}").expanduser()
        _check_may_continue(path, config)
        return path
    for number in itertools.count(1):
        path = Path("runs") / (default_name if number == 1 else f"{default_name}-{number}")
        if _has_lost_its_config(path):
            continue
        stored = stored_config(path)
        if stored is None:
            return path
        changed = [one for one in _differences(stored, config) if not _is_for_later(one, path)]
        if not is_finished(path) and not changed:
            return path
    raise AssertionError("there is always a next number")


def stored_config(path: Path) -> Config | None:
    """Return the config of the run in a folder, or None if there is no run.

    Raises UsageError if there are checkpoints without a config: resuming them with another one would change the run.
    """
    if _has_lost_its_config(path):
        raise UsageError(
            f"{path} has checkpoints but no config.yaml, so the settings they were trained with are unknown. Restore "
            f"it (a finished run has a copy, model/config.yaml), or {ANOTHER_RUN}."
        )
    file = path / "config.yaml"
    if not file.exists():
        return None
    stored = read_config(file)
    given = read_object(path / GIVEN).get("given")
    return stored if given is None else stored.noting(given)


def _has_lost_its_config(path: Path) -> bool:
    return newest_step(path) > 0 and not (path / "config.yaml").exists()


def config_to_keep(path: Path) -> Config | None:
    """Return the config that the run in a folder must keep; None before its first checkpoint, when any will do."""
    return stored_config(path) if newest_step(path) or is_finished(path) else None


def steps_of(config: Config, path: Path) -> int:
    """Return the step of the newest checkpoint in a folder if it holds the run of this config, else 0."""
    stored = config_to_keep(path)
    return newest_step(path) if stored is not None and not _changes(path, stored, config) else 0


def _check_may_continue(path: Path, config: Config) -> None:
    stored = config_to_keep(path)
    if stored is None:
        return
    changed = _changes(path, stored, config)
    if changed:
        is_longer = any(one.path in LENGTHS for one in changed) and not _has_ended(path)
        raise UsageError(
            f"{path} holds a run with a different config:\n  " + "\n  ".join(map(str, changed)) + "\n"
            f"A run can only be resumed with its own config. Undo the change, or {for_another_run(config.run.dir)}."
            + (" (A run can be made longer once it has finished.)" if is_longer else "")
        )
    if not is_finished(path):
        return
    has_lost_patience = _has_lost_patience(path, stored.train)
    if not _differences(stored, config) and _is_as_long(path, stored.train):
        longer = "To train it longer, run the same command with a larger train.num_epochs"
        further = "Early stopping ended it" if has_lost_patience else longer
        raise AlreadyFinished(f"{path} is finished. {further}; to see its results: distcls eval {path}", path)
    if has_lost_patience:
        raise UsageError(
            f"{path} was ended by train.early_stopping={stored.train.early_stopping}, so it would not train longer. "
            f"To train further, {for_another_run(config.run.dir)}, without early stopping or from these weights: "
            f"model.init_from={path}"
        )
    if not newest_step(path):
        raise UsageError(
            f"{path} is finished, but has no checkpoints left to resume from: restore them, or "
            f"{for_another_run(config.run.dir)} (model.init_from lets a new run start from the weights of this one)."
        )


def _changes(path: Path, stored: Config, config: Config) -> list[Difference]:
    """Return the differences that make this a different run from the one in the folder."""
    return [one for one in _differences(stored, config) if not _may_change(one, stored, config, path)]


def _differences(stored: Config, config: Config) -> list[Difference]:
    """Return the differences between two configs. If the new one leaves a choice open, the stored one counts."""
    return differences(stored, fill_from(config, stored))


def choices_kept(path: Path, config: Config, device_type: str) -> dict[str, Any] | None:
    """Return what an earlier start of this run chose before it was killed without a checkpoint; None if there was none.

    Choosing again could give something else, such as weights that have been downloaded meanwhile. What was chosen for
    the processes is left out: the micro-batch, and the precision unless they compute on the same kind of device.
    """
    if not (path / GIVEN).exists():  # nothing has started yet: `distcls submit` only reserved the folder
        return None
    try:
        earlier = stored_config(path)
    except UsageError:
        return None
    if earlier is None or _differences(earlier, config):
        return None
    filled = fill_from(config, earlier)
    of_processes = {"train.micro_batch_size", "train.precision"}
    if read_object(path / "env.json").get("device") == device_type:
        of_processes.remove("train.precision")
    chosen = (one.path for one in differences(config, filled, everything=True))
    return {path: filled.at(path) for path in chosen if path not in of_processes}


def fill_from(config: Config, stored: Config) -> Config:
    """Return the config, with the choices that were made at the first start filled in.

    They are the settings that were given neither then nor now.
    """
    if config.preset == "auto" and stored.preset in PRESETS and not stored.is_given("preset"):
        config = with_preset(config, stored.preset)
    changed = [one.path for one in differences(stored, config)]
    open_ones = [path for path in changed if not (config.gives(path) or stored.gives(path))]
    if config.preset != "auto":  # a config file without a preset means none
        open_ones = [path for path in open_ones if path != "preset"]
    train = config.train
    return config.replaced(
        {
            **{path: stored.at(path) for path in open_ones},
            "train.micro_batch_size": train.micro_batch_size or stored.train.micro_batch_size,
            "train.precision": stored.train.precision if train.precision == "auto" else train.precision,
        }
    )


def _may_change(difference: Difference, stored: Config, config: Config, path: Path) -> bool:
    """True if it only affects steps to come: steps to skip, or the length of a run that has finished."""
    if difference.path in LENGTHS:
        return _has_ended(path) and _fits_what_was_trained(config.train, path, stored.train)
    return _is_for_later(difference, path)


def _is_for_later(difference: Difference, path: Path) -> bool:
    """True if it only changes whether steps after the last checkpoint are skipped."""
    if difference.path != "train.skip_steps":
        return False
    changed = set(difference.before) ^ set(difference.after)
    return min(changed, default=math.inf) >= newest_step(path)


def _has_ended(path: Path) -> bool:
    """True if the run had reached its full length, as it was then, at the newest checkpoint."""
    return is_finished(path) or bool(trained_length(path).get("ended"))


def _is_as_long(path: Path, train: TrainConfig) -> bool:
    """True if the newest checkpoint is of a run of this length: a longer run may have been killed at its start."""
    length = trained_length(path)
    return not length or (length.get("num_epochs"), length.get("num_steps")) == (train.num_epochs, train.num_steps)


def _has_lost_patience(path: Path, train: TrainConfig) -> bool:
    """True if early stopping ended the run at its newest checkpoint."""
    position = read_object(checkpoint_folder(path, newest_step(path)) / "state.json")
    return train.early_stopping is not None and position.get("evaluations_since_best", 0) >= train.early_stopping


def _fits_what_was_trained(train: TrainConfig, path: Path, stored: TrainConfig) -> bool:
    """True if this length is at least that of the run that finished there.

    The stored config may have another length, of which not a single step was trained.
    """
    trained = trained_length(path) or {"num_epochs": stored.num_epochs, "num_steps": stored.num_steps}
    lengths = [(train.num_epochs, trained.get("num_epochs")), (train.num_steps, trained.get("num_steps"))]
    return any(new is not None and old is not None and new >= old for new, old in lengths)


def length_of(train: TrainConfig, ended: bool) -> dict[str, Any]:
    """Return the content of LENGTH."""
    return {"num_epochs": train.num_epochs, "num_steps": train.num_steps, "ended": ended}


def trained_length(path: Path) -> dict[str, Any]:
    """Return the LENGTH of the newest checkpoint; empty if it cannot be read."""
    return read_object(checkpoint_folder(path, newest_step(path)) / LENGTH)


def checkpoint_steps(path: Path, kind: str = "step") -> list[int]:
    """Return the steps of a run folder's checkpoints of this kind ("step" or "best"), newest first."""
    names = (re.fullmatch(rf"{kind}-(\d+)", folder.name) for folder in path.glob(f"checkpoints/{kind}-*"))
    return sorted((int(name[1]) for name in names if name), reverse=True)


def checkpoint_folder(path: Path, step: int, kind: str = "step") -> Path:
    """Return the folder of a step's checkpoint in a run folder."""
    return path / "checkpoints" / f"{kind}-{step:08d}"


def newest_step(path: Path) -> int:
    """Return the step of the newest checkpoint in a run folder; 0 if there is none."""
    return next(iter(checkpoint_steps(path)), 0)


def lock_folder(path: Path) -> IO[str] | None:
    """Lock the folder until the process ends, in whatever way. Raises UsageError, naming the process that holds it.

    Returns None if the file system has no locks. Uses a POSIX lock, because flock would pass to forked loader workers,
    which outlive a killed parent. Raises DiskError if the folder cannot be created.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        file = (path / LOCK).open("a+")
    except OSError as error:
        raise DiskError(
            f"cannot write to the run folder {path} ({error.strerror}: {error.filename}). Choose another: run.dir=DIR"
        ) from error
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EAGAIN):
            return None
        file.seek(0)
        raise UsageError(
            f"{path} is in use by {file.read().strip() or 'another process'}. Wait for it, stop it, or start "
            "another one, with another --name or run.dir."
        ) from error
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()} since {now()}\n")
    file.flush()
    return file
