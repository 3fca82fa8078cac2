"""Sends a run's final rows to a tracking service, in a process of its own, so that training never waits for a network.

Training starts one such process for each service (RunFolder.begin) and holds the other end of its stdin, which closes
when the run ends, however it ends. Rows are sent once a checkpoint covers them, so nothing has to be taken back after
a kill. What was sent is kept in the run folder, trackers/NAME.json, with the id under which a resumed run continues.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any

from distcls.config.differences import settings_by_path
from distcls.config.loading import read_config
from distcls.errors import EXIT_CODES, TORCHRUN_REASON, DistclsError, MissingInputError
from distcls.files.atomic import write_json
from distcls.runs.status import is_finished, read_object
from distcls.runs.tracking.metrics_file import Row
from distcls.runs.tracking.rows import covered_rows, covered_steps, test_row
from distcls.runs.tracking.services.mlflow_server import MLflow
from distcls.runs.tracking.services.service import MODEL, About, Service
from distcls.runs.tracking.services.trackio_store import Trackio
from distcls.runs.tracking.services.weights_and_biases import WeightsAndBiases

SERVICES: dict[str, type[Service]] = {"wandb": WeightsAndBiases, "mlflow": MLflow, "trackio": Trackio}
"""Services that `run.trackers` can name."""

FOLDER = "trackers"

POLL = 2.0
"""Seconds between two looks at the run folder."""

RETRY = 30.0
"""Seconds before the next attempt after a service could not be reached."""

SECONDS_TO_END = 600.0
"""Limit for what is left to send after training has ended; `distcls track` sends the rest."""

SECONDS_FOR_REPORT = 60.0
"""How long a finished run may take to draw its plots."""


def start_sender(run_dir: Path, name: str) -> subprocess.Popen:
    """Start the process that sends a run to a service while it trains. It ends by itself after its stdin is closed.

    It has a session of its own, so that Ctrl-C does not end it before the last rows are sent.
    """
    (run_dir / FOLDER).mkdir(exist_ok=True)
    with (run_dir / FOLDER / f"{name}.log").open("ab") as log:
        # At the lowest priority: where all CPUs are busy, training would wait for a thread that lost its CPU.
        words = ["nice", "-n", "19"] if shutil.which("nice") else []
        words += [sys.executable, "-m", "distcls", "track", str(run_dir), "--tracker", name, "--follow"]
        own = (EXIT_CODES, TORCHRUN_REASON)  # of the run's processes
        environment = {variable: value for variable, value in os.environ.items() if variable not in own}
        return subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment, start_new_session=True
        )


def state_file(run_dir: Path, name: str) -> Path:
    """Return the file that says what a service has been sent."""
    return run_dir / FOLDER / f"{name}.json"


class Sender:
    """Sends one run to one service. A context manager that keeps others from sending the same rows meanwhile."""

    def __init__(self, run_dir: Path, name: str) -> None:
        self.run_dir, self.name = run_dir, name
        self.state: dict[str, Any] = read_object(state_file(run_dir, name))
        self.problem: str | None = None
        self._service: Service | None = None
        self._looked_at: tuple[float, float] | None = None
        self._next_attempt = 0.0
        self._lock: IO[str] | None = None

    def __enter__(self) -> Sender:
        (self.run_dir / FOLDER).mkdir(exist_ok=True)
        self._lock = (self.run_dir / FOLDER / f".{self.name}.lock").open("w")
        end = time.monotonic() + SECONDS_TO_END
        if not self._is_ours(self._lock):
            print(f"{self.name}: waiting for the process that is sending {self.run_dir} to it", file=sys.stderr)
        while not self._is_ours(self._lock):
            if time.monotonic() > end:
                raise MissingInputError(f"another process is sending {self.run_dir} to {self.name}: try again later.")
            time.sleep(POLL)
        self.state = read_object(state_file(self.run_dir, self.name))
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            self._lock.close()

    def _is_ours(self, lock: IO[str]) -> bool:
        """True if this process holds the lock, or if the file system has no locks."""
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return error.errno not in (errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES)
        return True

    @property
    def rows(self) -> int:
        """Return how many rows the service has."""
        return self.state.get("rows", 0)

    def catch_up(self) -> int:
        """Send the rows that have become final, and return their number. A service that fails is tried again later."""
        covered = covered_steps(self.run_dir)
        if covered == self._looked_at or time.monotonic() < self._next_attempt:
            return 0
        rows = covered_rows(self.run_dir)
        sent = self._attempt(partial(self._send, rows)) if len(rows) > self.rows else 0
        if sent is not None:  # the file is long, and is read again only once there is more to send
            self._looked_at = covered
        return sent or 0

    def end(self) -> int:
        """Send what is left, with the results of a finished run, and wait until the library has sent or stored it.

        The service is asked what it has, even if it should have everything: a process that was killed may have left
        rows in the library's queue. Return the number of new rows. If the service fails, the problem is kept: call this
        again.
        """
        self._next_attempt, self._looked_at = 0.0, None
        rows = covered_rows(self.run_dir)
        if not rows and not is_finished(self.run_dir) and self._service is None:
            return 0
        new = self._attempt(partial(self._send, rows))
        if new is None:
            return 0
        is_due, is_drawn = not self.is_done, True
        tested, files = None, []
        if is_due:
            is_drawn = self._wait_for_plots()
            tested, files = test_row(self.run_dir), self._files()

        def finish(service: Service) -> None:
            if is_due:
                service.end(tested, files)
            service.close()

        self._attempt(finish)
        self._service = None
        if is_due and is_drawn and self.problem is None:
            self._keep(ended=True)
        return new

    @property
    def is_done(self) -> bool:
        """True if the service has the results of the run, or if there are none yet."""
        return bool(self.state.get("ended")) or not is_finished(self.run_dir)

    def note(self, problem: str) -> None:
        """Record why something could not be sent."""
        self.problem = problem
        self._keep(problem=problem)
        print(f"{self.name}: {problem}", file=sys.stderr, flush=True)

    def _send(self, rows: Sequence[Row], service: Service) -> int:
        """Send those of the rows that the service does not have, and return their number."""
        new = rows[self.rows :]
        if new:
            service.send(new, self.rows)
            self._keep(rows=len(rows), ended=False)
        return len(new)

    def _attempt(self, act: Callable[[Service], Any]) -> Any:
        """Return what an act on the service returns; None, and note the problem, if it fails.

        Raises the errors of distcls, such as that for a library that is not installed.
        """
        try:
            if self._service is None:
                self._service = self._connect()
            result = act(self._service)
        except DistclsError:
            raise
        except Exception as error:  # each library raises errors of its own
            self.note(f"{type(error).__name__}: {error}".strip())
            self._next_attempt = time.monotonic() + RETRY
            self._service = None  # the next connection asks what has arrived
            return None
        if self.problem is not None or "problem" in self.state:
            self.problem = None
            self.state.pop("problem", None)
            self._keep()
        return result

    def _connect(self) -> Service:
        if "token" not in self.state:
            self._keep(token=secrets.token_hex(8))
        settings = settings_by_path(read_config(self.run_dir / "config.yaml"))
        about = About(self.run_dir, self.run_dir.resolve().name, settings, self.state["token"], self.state)
        known = self.state.get("id")
        service = SERVICES[self.name](about)
        sent = service.sent()
        anew = {"rows": 0, "ended": False} if self.state["id"] != known else {}  # such as on another server
        self._keep(**(anew | ({} if sent is None else {"rows": sent})))
        return service

    def _keep(self, **values: Any) -> None:
        self.state.update(values)
        write_json(state_file(self.run_dir, self.name), self.state)

    def _wait_for_plots(self) -> bool:
        """Wait until a finished run has drawn its plots, the curves last; return False if it has not."""
        end = time.monotonic() + SECONDS_FOR_REPORT
        plots, measured = self.run_dir / "plots" / "curves.png", self.run_dir / "metrics.json"
        while not (plots.exists() and (not measured.exists() or plots.stat().st_mtime >= measured.stat().st_mtime)):
            if time.monotonic() > end:
                told = f"no plots yet: run distcls report {self.run_dir}, then distcls track {self.run_dir}"
                print(f"{self.name}: {told}", file=sys.stderr, flush=True)
                return False
            time.sleep(POLL)
        return True

    def _files(self) -> list[Path]:
        """Return the files of a finished run that are sent."""
        names = ["config.yaml", "metrics.json", "metrics.csv", "report.html", "env.json"]
        found = [self.run_dir / name for name in names] + sorted((self.run_dir / "plots").glob("*.png"))
        return [path for path in [*found, *sorted((self.run_dir / MODEL).glob("*"))] if path.is_file()]


def follow(run_dir: Path, name: str, stdin: IO[bytes]) -> bool:
    """Send a run to a service while it trains, until stdin is closed, and then what is left.

    Return True if the service has all of it.
    """
    ended = threading.Event()
    threading.Thread(target=_wait_for_end, args=(stdin, ended), daemon=True).start()
    with Sender(run_dir, name) as sender:
        while not ended.wait(POLL):
            sender.catch_up()
        _end_within(SECONDS_TO_END, sender)
        sender.end()
        while sender.problem is not None:
            time.sleep(RETRY)
            sender.end()
        return sender.is_done


def send_all(run_dir: Path, names: Sequence[str]) -> tuple[list[str], bool]:
    """Send what services do not have yet. Return a line about each, and True if one of them could not be reached."""
    lines, failed = [], False
    for name in names:
        with Sender(run_dir, name) as sender:
            new = sender.end()
            told = sender.problem or f"{sender.rows:,} rows, {new:,} of them new: {sender.state.get('url', '')}"
            lines.append(f"{name}: {told}")
            failed |= sender.problem is not None
    return lines, failed


def problems(run_dir: Path, names: Sequence[str]) -> list[str]:
    """Return a line about each service whose last attempt failed."""
    found = {name: read_object(state_file(run_dir, name)).get("problem") for name in names}
    return [f"{name} does not have all of this run ({problem})" for name, problem in found.items() if problem]


def _wait_for_end(stdin: IO[bytes], ended: threading.Event) -> None:
    stdin.read()
    ended.set()


def _end_within(seconds: float, sender: Sender) -> None:
    """Exit after this many seconds, even if a library hangs, and record it as the sender's problem."""

    def leave() -> None:
        sender.note(f"not everything was sent within {seconds:.0f} s of the end of the run")
        os._exit(75)

    timer = threading.Timer(seconds, leave)
    timer.daemon = True
    timer.start()
