"""Turns an error into a message and an exit code, the same way for every command."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import traceback
from collections.abc import Callable, Sequence

from distcls.errors import DistclsError, Preempted, drop_output, explain, note_exit_code, note_reason, tell

Main = Callable[[Sequence[str]], int | None]


def run_command(command: Main, argv: Sequence[str] | None) -> int:
    """Call a command with its arguments (default: the process's), and return the exit code, 0 if it returns None.

    A distcls error becomes its message and its exit code; a bug keeps its traceback.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # the process was started without one
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    code = 1  # a traceback's
    try:
        code = _exit_code(command, argv)
    except Exception:
        if not _is_group_open():
            raise
        traceback.print_exc()
    finally:
        note_exit_code(code)
        if _reader_is_gone():
            drop_output(sys.stdout)  # or Python would end with a code of its own, though a run has saved everything
    if code != Preempted.exit_code and _is_group_open():
        _leave_at_once(code)
    return code


def _is_group_open() -> bool:
    """True if a failed run left a process group with pending work: closing it would wait for the other processes."""
    distributed = sys.modules.get("torch.distributed")
    return distributed is not None and distributed.is_initialized()


def _leave_at_once(code: int) -> None:
    """Exit without Python's shutdown: torch's threads that return to Python during it abort the process."""
    for name in ("stdout", "stderr"):
        with contextlib.suppress(OSError, ValueError):
            getattr(sys, name).flush()
    import multiprocessing  # by now torch has imported it; help does not need it

    for child in multiprocessing.active_children():
        child.terminate()
    os._exit(code)


def _exit_code(command: Main, argv: Sequence[str] | None) -> int:
    try:
        code = command(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
        return code or 0
    except DistclsError as error:
        note_reason(str(error))
        if not error.on_all_ranks or _speaks_for_all():
            is_good_news = error.exit_code in (0, Preempted.exit_code)
            tell(str(error) if is_good_news else f"error: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        if not _reader_is_gone():
            raise
        return 141  # what a shell reports for SIGPIPE
    except (OSError, RuntimeError, MemoryError) as error:
        understood = explain(error)
        if understood is None:
            raise
        note_reason(str(understood))
        tell(f"error: {understood}")
        return understood.exit_code


def _speaks_for_all() -> bool:
    """True if this process tells of an error that all processes have.

    Until they have met, only those of one machine are sure to have it: another may lack the config file, for example.
    """
    joining = sys.modules.get("distcls.cluster.joining")
    if joining is not None and joining.has_met():
        return os.environ.get("RANK", "0") == "0"
    return os.environ.get("LOCAL_RANK", "0") == "0"


def _reader_is_gone() -> bool:
    """True if stdout is a pipe without a reader, as in `distcls … | head`; any other broken pipe is a bug."""
    poll = select.poll()
    try:
        poll.register(sys.stdout.fileno(), 0)
    except (OSError, ValueError):  # it is no file, as in a notebook
        return False
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
