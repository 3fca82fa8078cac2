"""Runs the service: one process or several that share a socket and the weights, until a signal asks them to stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import time
from asyncio import TimerHandle
from collections.abc import Iterator
from typing import Any

import torch
import uvicorn
from prometheus_client import multiprocess
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from distcls.cluster.child_processes import end_with_parent
from distcls.cluster.signals import REPEAT
from distcls.errors import UsageError
from distcls.serving.app import build_app
from distcls.serving.backends import Backend
from distcls.serving.demo_pictures import DemoPictures
from distcls.serving.gate import Gate
from distcls.serving.options import ServeOptions

IDLE_SECONDS = 1.0
"""After the signal to stop, how long open connections may send one more request before they are closed."""

BACKLOG = 2048
"""Connections that the kernel keeps until they are accepted."""

TICK = 0.02
"""Seconds."""


class PatientProtocol(HttpToolsProtocol):
    """HTTP on one connection, which is closed if a request's headers do not arrive in time."""

    head_due: TimerHandle | None = None
    seconds = 30.0

    def connection_made(self, transport: Any) -> None:
        """Expect the first request."""
        super().connection_made(transport)
        self._expect_head()

    def on_message_begin(self) -> None:
        """Expect the end of a request's headers."""
        super().on_message_begin()
        self._expect_head()

    def on_headers_complete(self) -> None:
        """Stop the clock."""
        self._stop_clock()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        self._stop_clock()
        super().connection_lost(exc)

    def _expect_head(self) -> None:
        self._stop_clock()
        self.head_due = self.loop.call_later(self.seconds, self.transport.close)

    def _stop_clock(self) -> None:
        if self.head_due is not None:
            self.head_due.cancel()
            self.head_due = None


class DrainingServer(uvicorn.Server):
    """A server that answers every request it has accepted before it stops."""

    def __init__(self, config: uvicorn.Config, gate: Gate, listening: socket.socket, longest: float) -> None:
        """listening: the socket; its duplicate is for the loop of events. longest: seconds that an answer may take."""
        super().__init__(config)
        self.gate, self.listening, self.longest = gate, listening, longest
        self._stopped_at = 0.0

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop on a signal, and leave with 0; uvicorn would end by the same signal. A later one leaves at once."""
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Note that a signal has come."""
        if not self.should_exit:
            self.should_exit, self._stopped_at = True, time.monotonic()
        elif time.monotonic() - self._stopped_at > REPEAT:  # a worker gets Ctrl-C from the terminal and the supervisor
            self.force_exit = True

    async def main_loop(self) -> None:
        """Wait for a signal."""
        await self.on_tick(0)  # sets the Date of answers
        ticks = 0
        while not self.should_exit:
            await asyncio.sleep(TICK)
            ticks += 1
            if ticks % round(1 / TICK) == 0:
                await self.on_tick(0)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept no more connections, answer what the open ones have sent, and close them.

        A client that keeps its connection may be sending its next request right now: it gets an answer, which asks it
        to close. So uvicorn's own shutdown, which closes idle connections at once, has to wait a moment.
        """
        for server in self.servers:
            server.close()
        for connection in self._last_connections():
            await asyncio.get_running_loop().connect_accepted_socket(self._protocol, connection)
        self.gate.is_stopping = True  # not before: whoever is asked to close would come back through the open door
        began = time.monotonic()
        while self.server_state.connections and not self.force_exit:
            idle = time.monotonic() - began
            if idle > self.longest or (idle > IDLE_SECONDS and self.gate.num_answering == 0):
                break
            await asyncio.sleep(TICK)
        self.config.timeout_graceful_shutdown = 1  # for streams of the demo page, which have no end
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # it reports each of them
        await super().shutdown(sockets)

    def _last_connections(self) -> list[socket.socket]:
        """Close the door, and return the connections that the kernel has completed, which it would reset otherwise."""
        self.listening.setblocking(False)
        found = []
        with contextlib.suppress(BlockingIOError):
            while True:
                found.append(self.listening.accept()[0])
        self.listening.close()
        return found

    def _protocol(self) -> PatientProtocol:
        return PatientProtocol(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)


def serve(backend: Backend, options: ServeOptions, pictures: DemoPictures | None = None) -> int:
    """Answer requests until SIGTERM or SIGINT; return the exit code, 0. Raises UsageError if the port is taken.

    pictures: of the demo page; None: there is none.
    """
    listening = _listen(options)
    host, port = listening.getsockname()[:2]
    where = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    page = f", demo at {where}/demo/" if pictures is not None else ""
    api = f", API described at {where}/docs" if options.has_api else ""
    print(f"serving {options.name} on {where}{api}{page}", flush=True)
    if options.workers == 1:
        return _answer(backend, options, listening, pictures)
    return _supervise(backend, options, listening)


def _listen(options: ServeOptions) -> socket.socket:
    """Return a socket that listens. Raises UsageError."""
    try:
        found = socket.getaddrinfo(options.host, options.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(BACKLOG)
    except OSError as error:
        raise UsageError(
            f"--host {options.host} --port {options.port}: {error.strerror}. Give another port, or 0 for any that is "
            "free."
        ) from error
    return listening


def _answer(
    backend: Backend, options: ServeOptions, listening: socket.socket, pictures: DemoPictures | None = None
) -> int:
    """Answer requests in this process."""
    if backend.device == "cpu":
        torch.set_num_threads(options.threads)
    logging.basicConfig(format="%(levelname)s: %(message)s", stream=sys.stderr, level=logging.WARNING)
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # it warns of every broken form
    app = build_app(backend, options)
    gate = app.state.service.gate
    if pictures is not None:
        from distcls.serving.demo import mount_demo

        mount_demo(app, app.state.service, pictures)
    PatientProtocol.seconds = options.limits.timeout
    config = uvicorn.Config(
        gate,
        lifespan="on",
        http=PatientProtocol,
        loop="uvloop",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=round(options.limits.timeout) or 1,
        backlog=BACKLOG,
    )
    server = DrainingServer(config, gate, listening, options.limits.timeout)
    server.run([listening.dup()])
    return 0 if server.started else 1


def _supervise(backend: Backend, options: ServeOptions, listening: socket.socket) -> int:
    """Fork the workers, replace those that die, and hand on the signal to stop.

    They are forked after the weights were loaded, so all of them use the same memory. Until then this process has
    computed with one thread, because threads do not survive a fork.
    """
    workers: set[int] = set()
    stopping: list[int] = []
    signals = (signal.SIGINT, signal.SIGTERM)

    def stop(number: int, _: Any) -> None:
        stopping.append(number)
        listening.close()  # or connections would wait here for nobody
        for worker in workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, signal.SIGTERM)

    for number in signals:
        signal.signal(number, stop)
    worst = 0
    while True:
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)  # a signal between fork and note would miss a worker
        while len(workers) < options.workers and not stopping:
            workers.add(_fork(backend, options, listening))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
        if not workers:
            return worst
        worker, status = os.wait()
        workers.discard(worker)
        multiprocess.mark_process_dead(worker)
        code = os.waitstatus_to_exitcode(status)
        if stopping:
            worst = max(worst, abs(code))
        else:
            print(f"warning: worker {worker} ended with {code}: starting another", file=sys.stderr, flush=True)
            time.sleep(1)  # a worker that cannot start shall not take the machine with it


def _fork(backend: Backend, options: ServeOptions, listening: socket.socket) -> int:
    """Return the process id of a new worker."""
    supervisor = os.getpid()
    worker = os.fork()
    if worker:
        return worker
    code = 1
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: os._exit(0))  # until it serves, it has accepted nothing
        end_with_parent(signal.SIGTERM, supervisor)  # nobody else would stop it, and it would hold the port
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM))
        code = _answer(backend, options, listening)
    finally:
        os._exit(code)
