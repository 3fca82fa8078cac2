"""One run: its processes, its folder and what is written there. Nothing here decides what is computed.

Only this file builds an Accelerator.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from torch import nn

from distcls.cluster import signals, slurm
from distcls.cluster.agreement import refuse_differences, refuse_to_begin_anew
from distcls.cluster.peers import Departure
from distcls.cluster.processes import Processes
from distcls.config.settings import Config
from distcls.config.yaml_text import to_yaml
from distcls.data.augmentation.preprocessing import describe_preprocessing
from distcls.data.inspection.report import changed_images
from distcls.data.split import Data
from distcls.errors import (
    DiskError,
    DistclsError,
    OutOfMemoryError,
    PeerFailed,
    Preempted,
    UsageError,
    explain,
    note_exit_code,
)
from distcls.files.atomic import write_text
from distcls.runs.environment import environment, keep_freed_memory, set_determinism
from distcls.runs.folder import choose_folder, config_to_keep, fill_from, lock_folder, refuse_other_cut
from distcls.runs.status import StatusFile, read_status
from distcls.runs.tracking import Tracker
from distcls.terminal.progress import Progress

AUTOCAST = {"float32": "no", "float64": "no", "bf16": "bf16", "fp16": "fp16"}
"""Accelerate's name of each precision; bf16 and fp16 compute over float32 weights."""


class Run:
    """A run and its folder. Use it as a context: however it is left, status.json tells."""

    def __init__(self, config: Config, processes: Processes, default_name: str) -> None:
        self.processes = processes
        self.dir, stored = processes.from_main(lambda: self._open(config, default_name))
        self.config = resolve(config, stored, self.dir, processes)
        refuse_differences(self.config, processes)
        self.device = processes.device
        self.dtype = torch.float64 if self.config.train.precision == "float64" else torch.float32
        set_determinism(self.config, processes)
        if self.device.type == "cpu":
            keep_freed_memory()
        self.accelerator = Accelerator(
            mixed_precision=AUTOCAST[self.config.train.precision],
            cpu=self.device.type == "cpu",
            # DDP rearranges its buckets after its first step unless it looks for unused parameters: a
            # resumed process would then sum in another order than the one that was never killed.
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True, broadcast_buffers=False)],
        )
        self.progress = Progress() if processes.is_main else Progress.silent()
        self.status: StatusFile | None = None
        self.tracker: Tracker | None = None
        self.step = 0
        self.reason: str | None = None
        self._goes_on, self._has_begun = stored is not None, False
        status = processes.from_main(self._begin_folder)
        self.is_shared = all(processes.from_all(read_status(self.dir) == status))
        """Whether all processes see the folder: on several machines, that takes a shared file system."""
        if not self.is_shared:
            refuse_to_begin_anew(self.config, self.dir, processes)
        if processes.peers is not None:
            processes.peers.on_end = self._tell_end
        signals.first_does(self._leave)

    def _warn_of_short_notice(self, save_seconds: float | None) -> None:
        """torchrun, and so accelerate launch, kills its processes some time after a SIGTERM, saved or not."""
        notice = float(os.environ.get("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "30"))
        if "TORCHELASTIC_RUN_ID" in os.environ and save_seconds is not None and save_seconds > notice:
            self.progress.warning(
                f"the last checkpoint took {save_seconds:.0f} s to write, but torchrun kills its processes "
                f"{notice:.0f} s after SIGTERM: "
                f"export TORCH_ELASTIC_SHUTDOWN_TIMEOUT={math.ceil(2 * save_seconds + 30)}"
            )

    def _open(self, config: Config, default_name: str) -> tuple[Path, Config | None]:
        """The folder, locked, and the config of the run that is in it. On the main process only."""
        path = choose_folder(config, default_name)
        self._lock = lock_folder(path)
        return path, config_to_keep(path)

    def _begin_folder(self) -> dict[str, Any]:
        """What the main process alone writes and keeps open; its status. Raises UsageError and DiskError."""
        try:
            self.progress.attach_log(self.dir / "log.txt")
            self.status = StatusFile(self.dir)
            self._warn_of_short_notice(self.status.save_seconds)
            if self._lock is None:
                self.progress.warning(f"{self.dir} is on a file system without locks: start nothing else in it")
            self.tracker = Tracker(self.dir, self.config.run.trackers)
            if not self._goes_on:
                self._write_about()
            self.status.write("running", 0, "start")
            return read_status(self.dir)
        except OSError as error:
            raise DiskError(f"{self.dir} cannot be written: {error}") from error

    def _write_about(self) -> None:
        write_text(self.dir / "config.yaml", to_yaml(self.config))
        write_text(self.dir / "env.json", json.dumps(environment(self.processes), indent=2) + "\n")

    def begin(self) -> None:
        """Training begins: a signal means to save from now on, and standing still is a fault. Raises DiskError."""
        signals.first_does(None)
        self._has_begun = True
        if self._goes_on and self.status is not None:  # not before: a start that was refused changes nothing
            try:
                self._write_about()
            except OSError as error:
                raise DiskError(f"{self.dir} cannot be written: {error}") from error
        self.processes.expect_progress(self.config.run.hang_timeout)

    def _leave(self, signal_name: str) -> None:
        """At a signal before training there is nothing to save: end this process, and the others by it."""
        departure = Departure(self.processes.rank, Preempted.exit_code, f"{signal_name} before training began")
        if self.processes.peers is not None:
            self.processes.peers.leave(departure.exit_code, departure.reason)
        os._exit(self._tell_end(departure))

    def _tell_end(self, departure: Departure) -> int:
        """The last words of a process that is ended while its main thread may be anywhere, and its exit code."""
        preempted = departure.exit_code == Preempted.exit_code
        self._write_end("preempted" if preempted else "failed", str(departure), departure.main_is_gone)
        if self.processes.is_main or departure.main_is_gone:
            print(f"distcls: {'' if preempted else 'error: '}{departure}", file=sys.stderr, flush=True)
        code = 0 if slurm.requeued(departure.exit_code) else departure.exit_code
        note_exit_code(code)
        return code

    def _write_end(self, state: str, reason: str | None, main_is_gone: bool) -> None:
        """The last words of log.txt and status.json; where the main process was killed, another one writes that."""
        self.progress.last_word(f"{state} at step {self.step:,}{f': {reason}' if reason else ''}")
        status = self.status
        if (
            main_is_gone
            and self.processes.rank == 1
            and self.is_shared
            and read_status(self.dir).get("state") == "running"
        ):
            status = StatusFile(self.dir)
        with contextlib.suppress(OSError):  # a full disk must not hide why the run ended
            if status is not None and not self._has_begun:
                status.write_end_of_start(state, reason)
            elif status is not None:
                status.write(state, self.step, "end", reason)

    def prepare(self, module: nn.Module, distributed: bool, compiled: bool = True) -> nn.Module:
        """The module on its device, under autocast, behind DDP if `distributed`, and compiled if asked and `compiled`.

        What is saved must not be compiled: that changes the names of its weights.
        """
        config = self.config.train
        module.to(self.device)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*broadcast_buffers.*", category=FutureWarning)
            model = self.accelerator.prepare_model(module, evaluation_mode=not distributed)
        return torch.compile(model) if config.compile and compiled else model  # type: ignore[return-value]

    def adopt_data(self, data: Data) -> None:
        """Write what the run knows of its data. Raises UsageError where it is not what the run began with."""
        self.processes.from_main(lambda: self._check_same_data(data))
        self.write_json("classes.json", data.class_names)
        self.write_json("splits.json", data.split_lists())
        self.write_json("data_report.json", {"fingerprint": data.fingerprint, **data.report})
        self.write_json("preprocessing.json", describe_preprocessing(data.decoding, self.config.augment.normalize))

    def _check_same_data(self, data: Data) -> None:
        if not any((self.dir / "checkpoints").glob("step-*")):
            return
        old = json.loads((self.dir / "data_report.json").read_text())
        if old["fingerprint"] != data.fingerprint:
            lists = json.loads((self.dir / "splits.json").read_text())
            raise UsageError(
                f"the data is not what {self.dir} began with:\n  "
                + "\n  ".join(changed_images(lists, data.split_lists()))
                + "\nPut the old data back, or begin another run with --name NAME."
            )

    def counting(self, what: str) -> Callable[[int, int], None]:
        """A callback for work that precedes training: done and total."""

        def show(done: int, total: int) -> None:
            self.progress.working(what, done, total)

        return show

    def at(self, step: int, phase: str) -> None:
        """Tell status.json where the run stands: often, and for little."""
        self.step = step
        if self.status is None:
            return
        with contextlib.suppress(OSError):  # where the disk is full, the next checkpoint says so, with its exit code
            if phase == "train":
                self.status.write_if_due("running", step, phase)
            else:
                self.status.write("running", step, phase)

    def saved_in(self, seconds: float) -> None:
        """A checkpoint took so long to write: what a notice before a kill has to allow."""
        if self.status is not None:
            self.status.save_seconds = seconds

    def finish_because(self, reason: str) -> None:
        """Say why the run ends before its last step; status.json will."""
        self.reason = reason
        self.progress.note(reason)

    def track(self, **row: Any) -> None:
        """A row for metrics.csv and the trackers."""
        if self.tracker is not None:
            self.tracker.log(row)

    def write_json(self, name: str, value: Any) -> None:
        """A JSON file of the run folder, written by the main process."""
        if self.processes.is_main:
            write_text(self.dir / name, json.dumps(value, indent=2) + "\n")

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signals.first_does(None)
        if isinstance(error, torch.OutOfMemoryError) or str(error).startswith("MPS backend out of memory"):
            error = OutOfMemoryError(self._smaller_batches())
        elif error is not None:
            error = explain(error) or error
        state, code, reason = _ending(error) if error is not None else ("finished", 0, self.reason)
        departure = None
        if error is not None and not isinstance(error, Preempted):
            departure = self.processes.why_failed(error, code, str(reason))
            if departure is not None and not isinstance(error, DistclsError):
                error, reason = departure.as_error(), str(departure)
        self.progress.close()
        self._write_end(state, reason, main_is_gone=departure is not None and departure.main_is_gone)
        if self.tracker is not None:
            with contextlib.suppress(OSError):
                self.tracker.close()
        if error is None or isinstance(error, Preempted):
            try:
                self.processes.end()
            except PeerFailed as failed:
                self._write_end("failed", str(failed), main_is_gone=not failed.on_all_ranks)
                raise
        if isinstance(error, OutOfMemoryError | PeerFailed):
            raise error from None

    def _smaller_batches(self) -> str:
        train = self.config.train
        micro = train.micro_batch_size or train.global_batch_size
        smaller = max((m for m in range(1, micro) if micro % m == 0), default=1)
        return (
            f"{micro} images at once do not fit {self.device}. Begin another run with --name NAME and "
            f"train.micro_batch_size={smaller}: the global batch stays {train.global_batch_size}, and so does the "
            "learning rate, but BatchNorm, dropout and mixup see smaller micro-batches. If it happened in an "
            f"evaluation: train.eval_batch_size={max(train.eval_batch_size // 2, 1)}."
        )


def _ending(error: BaseException) -> tuple[str, int, str]:
    """State, exit code and reason."""
    if isinstance(error, Preempted):
        return "preempted", error.exit_code, signals.received() or "another process was asked to stop"
    if isinstance(error, DistclsError):
        return "failed", error.exit_code, str(error)
    return "failed", 1, traceback.format_exception_only(error)[-1].strip()


def resolve(config: Config, stored: Config | None, path: Path, processes: Processes) -> Config:
    """Settle what the config leaves open: once, at the first start; the run folder, at `path`, has it `stored`.

    Raises UsageError for what these processes cannot do.
    """
    if stored is not None:
        refuse_other_cut(config, stored, processes.world_size, path)
        config = fill_from(config, stored)
    train = config.train
    cuda = processes.device.type == "cuda"
    if train.precision == "auto":
        train.precision = "bf16" if cuda and torch.cuda.is_bf16_supported() else "float32"
    if train.precision == "fp16" and not cuda:
        raise UsageError(
            f"train.precision=fp16 needs a CUDA GPU, and this is {processes.device.type}: its loss scaling and "
            "kernels exist only there. Use train.precision=bf16 or float32."
        )
    if train.precision == "float64" and processes.device.type == "mps":
        raise UsageError("train.precision=float64: Apple's MPS has no float64. Use run.device=cpu or float32.")
    if train.micro_batch_size is None:
        train.micro_batch_size = train.global_batch_size // processes.world_size or None
    return config
