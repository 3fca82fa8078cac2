"""The errors that end a run: one class per exit code, each with a message that says what to type next."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
import time
from collections.abc import Sequence
from typing import TextIO

EXIT_CODES, TORCHRUN_REASON = "DISTCLS_EXIT_CODES", "TORCHELASTIC_ERROR_FILE"
"""Variables that name files in which the processes of a run say how they end."""


def note_exit_code(code: int) -> None:
    """Append the code to the file $DISTCLS_EXIT_CODES, if set: torchrun turns every code into 1 (launch/node.sh)."""
    notes = os.environ.get(EXIT_CODES)
    if notes:
        with open(notes, "a") as file:
            file.write(f"{code}\n")


def note_reason(text: str) -> None:
    """Write why this process ends to torchrun's error file, so that torchrun's own report ends with that sentence."""
    path = os.environ.get(TORCHRUN_REASON)
    if path:
        with contextlib.suppress(OSError), open(path, "w") as file:
            json.dump({"message": text, "timestamp": int(time.time())}, file)


def tell(text: str) -> None:
    """Print why a process ends, or waits, if anybody still reads that: its end must not depend on it.

    Ctrl-C in `distcls train 2>&1 | tee log` ends tee, too.
    """
    try:
        print(f"distcls: {text}", file=sys.stderr, flush=True)
    except BrokenPipeError:
        drop_output(sys.stderr)
    except (OSError, ValueError):  # a terminal that is gone, or a file that is closed
        pass


def drop_output(stream: TextIO) -> None:
    """Send what a stream has yet to write nowhere: Python would fail on it again when it ends."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def some_of(names: Sequence[str], most: int) -> str:
    """Return the first names for a message: "a, b", or "a, b …" if there are more."""
    return ", ".join(names[:most]) + (" …" if len(names) > most else "")


class DistclsError(Exception):
    """An error the user can act on: it is printed without a traceback and ends the process with `exit_code`."""

    exit_code = 1
    on_all_ranks = False
    """True if every process of a run hits it at once, so that only one needs to print it."""


class UsageError(DistclsError):
    """The command or the config is wrong."""

    exit_code = 2
    on_all_ranks = True


class BadDataError(DistclsError):
    """The data cannot be trained on: too many broken images, unknown classes, one class only."""

    exit_code = 65


class MissingInputError(DistclsError):
    """A file, a folder, a data set or a package that was asked for does not exist."""

    exit_code = 66
    on_all_ranks = True


class DivergedError(DistclsError):
    """The loss or the gradient is not finite."""

    exit_code = 70
    on_all_ranks = True


class DriftedError(DistclsError):
    """Processes that should hold the same weights do not."""

    exit_code = 70
    on_all_ranks = True


class InexactExportError(DistclsError):
    """An exported file does not give the answers that the run's model gives."""

    exit_code = 70


class OutOfMemoryError(DistclsError):
    """The micro-batch does not fit on the device, or what loader workers read does not fit in the machine's memory."""

    exit_code = 71


class DiskError(DistclsError):
    """A file of the run could not be written."""

    exit_code = 74


class MissingProcessError(DistclsError):
    """A process of the run did not start, and the others have waited long enough."""

    on_all_ranks = True


class PeerFailed(DistclsError):
    """Another process of the run has ended; this one ends with the same exit code."""

    def __init__(self, message: str, exit_code: int, main_is_gone: bool) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.on_all_ranks = not main_is_gone

    def __reduce__(self) -> tuple[type[PeerFailed], tuple[str, int, bool]]:
        """Return what pickle makes the error from: a pool that trains hands it to its caller."""
        return type(self), (str(self), self.exit_code, not self.on_all_ranks)


class Preempted(DistclsError):
    """A signal asked the run to stop; the same command resumes it."""

    exit_code = 75
    on_all_ranks = True


DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}


def explain(error: BaseException) -> DistclsError | None:
    """Return what a library's error means if it is not a bug: a full disk, no memory, or a dead loader worker."""
    if isinstance(error, OSError) and error.errno in DISK_ERRORS:
        return DiskError(
            f"{error}. Everything up to the last checkpoint is kept: make room, then run the same command to resume."
        )
    if isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker"):
        return OutOfMemoryError(
            f"{error}\nIt was reading images. Such a process is usually killed because the machine ran out of memory: "
            "use fewer workers (data.workers=1) or smaller images. Everything up to the last checkpoint is kept."
        )
    if is_out_of_memory(error):
        return OutOfMemoryError(
            f"{error or 'out of memory'}: the machine has too little memory. Use smaller batches or images, or "
            "keep fewer decoded images in memory (data.cache='1 GB')."
        )
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """True if Python, NumPy or torch ran out of memory, on any device."""
    text = str(error)
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError)
        and (
            type(error).__name__ == "OutOfMemoryError"  # torch's, which is not imported here
            or "DefaultCPUAllocator: " in text
            or text.startswith("MPS backend out of memory")
        )
    )
