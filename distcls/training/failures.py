"""Reports how a run ended, in any case: to its folder, to the other processes, and on the terminal."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator

import torch

from distcls.cluster import signals
from distcls.config.batch_sizes import divisors
from distcls.config.settings import Config
from distcls.config.wording import for_another_run
from distcls.data.loading.reading import resident_bytes
from distcls.errors import DistclsError, OutOfMemoryError, PeerFailed, Preempted, UsageError, explain, is_out_of_memory
from distcls.runs.folder import RunFolder

ONE_VALUE = "more than 1 value per channel"
"""What torch says if BatchNorm gets one image of one pixel."""


@contextlib.contextmanager
def ending_told(run: RunFolder) -> Iterator[None]:
    """Wrap training: status.json and log.txt record how it ended, and all processes exit together.

    An error that is not a bug in distcls is raised as what it means: OutOfMemoryError or UsageError with a micro-batch
    size to try, PeerFailed if another process failed first.
    """
    try:
        signals.first_does(run.leave_before_training)
        yield
    except Preempted:
        _leave_together(run, "preempted", signals.received() or "another process was asked to stop")
        raise
    except BaseException as raised:
        error = _tell(run, _understand(raised, run.config, run.processes.device, run.processes.world_size))
        if error is not raised and isinstance(error, OutOfMemoryError | UsageError | PeerFailed):
            raise error from None
        raise
    else:
        _leave_together(run, "finished", run.reason)


def _understand(error: BaseException, config: Config, device: torch.device, world_size: int) -> BaseException:
    if is_out_of_memory(error):
        return OutOfMemoryError(_smaller_batches(config, device))
    if config.train.micro_batch_size == 1 and ONE_VALUE in str(error):
        return UsageError(_larger_batches(config, world_size))
    return explain(error) or error


def _tell(run: RunFolder, error: BaseException) -> BaseException:
    """Report that this process failed; return its error, or that of the process that failed first."""
    signals.first_does(None)
    code = error.exit_code if isinstance(error, DistclsError) else 1
    reason = str(error) if isinstance(error, DistclsError) else traceback.format_exception_only(error)[-1].strip()
    first = run.processes.why_failed(error, code, reason)
    if first is not None and not isinstance(error, DistclsError):
        error, reason, code = first.as_error(), str(first), first.exit_code
    run.write_end("failed", reason, main_is_gone=first is not None and first.main_is_gone, exit_code=code)
    return error


def _leave_together(run: RunFolder, state: str, reason: str | None) -> None:
    signals.first_does(None)
    run.write_end(state, reason, main_is_gone=False)
    try:
        run.processes.end()
    except PeerFailed as failed:
        run.write_end("failed", str(failed), main_is_gone=not failed.on_all_ranks, exit_code=failed.exit_code)
        raise


def _smaller_batches(config: Config, device: torch.device) -> str:
    train = config.train
    micro = train.micro_batch_size or train.global_batch_size
    smaller = max(divisors(micro)[:-1], default=1)
    again = (
        " To keep the run as it is, if its model has blocks, run the same command with "
        "train.checkpoint_activations=true: it takes less memory and more time, and gives the same results."
    )
    return (
        f"{micro} images at once do not fit on {device}. For smaller micro-batches, "
        f"{for_another_run(config.run.dir)} and train.micro_batch_size={smaller}: the global batch of "
        f"{train.global_batch_size} and the learning rate stay the same, but BatchNorm, dropout and mixup see the "
        "smaller ones. If it happened during an evaluation: "
        f"train.eval_batch_size={max(train.eval_batch_size // 2, 1)}."
        f"{'' if train.checkpoint_activations else again}{_images_elsewhere(device)}"
    )


def _larger_batches(config: Config, world_size: int) -> str:
    sizes = divisors(config.train.global_batch_size // world_size)[1:]
    larger = (
        f"train.micro_batch_size={sizes[0]} or larger"
        if sizes
        else f"train.global_batch_size={2 * world_size} train.micro_batch_size=2 or larger"
    )
    return (
        f"model.name={config.model.name} has a BatchNorm layer that gets a single value per channel and cannot "
        f"normalize it, because train.micro_batch_size is 1: set {larger}."
    )


def _images_elsewhere(device: torch.device) -> str:
    """Return a sentence about decoded images that a GPU holds, or nothing."""
    size = resident_bytes(device) / 1e9
    if not size:
        return ""
    return (
        f" Or free the {size:.2g} GB that decoded images take there, which does not change the results: run the same "
        "command with data.cache=0, and data.disk_cache='200 GB' if the disk has room."
    )
