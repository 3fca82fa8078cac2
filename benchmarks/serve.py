"""Requests per second of `distcls serve`, beside FastAPI services of one image per request, and beside LitServe.

Each side is a process of its own with the same run (the two-block CNN, 32 × 32 pixels) on the CPU; a second process
keeps 64 connections busy. The sides take turns. FastAPI's threaded side has the best of a few numbers of threads.
LitServe takes base64 in JSON, so distcls is measured with that, too.

    python benchmarks/serve.py                                # throughput and p99: two minutes
    python benchmarks/serve.py --turns 0 --minutes 10         # memory and lost requests at full load
    python benchmarks/serve.py --turns 0 --stops 20           # SIGTERM under load
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image
from side_by_side import conditions, ratio

SETTINGS = ["data.name=synthetic", "data.args={num_images: 2000, size: 32}", "model.name=cnn2", "train.num_steps=20"]

THREADS = (1, 2, 4)
"""Numbers of threads that FastAPI's threaded side tries."""

LEAD_IN = 1.0
"""Seconds that are not measured."""

OURS, OURS_IN_JSON, ASYNC, THREADED, LITSERVE = (
    "distcls serve",
    "distcls serve, JSON",
    "FastAPI, async handler",
    "FastAPI, threads",
    "LitServe, batching",
)


# The other services --------------------------------------------------------------------------------


def open_run(run: Path) -> Any:
    """The run's classifier."""
    from distcls.config.loading import read_config
    from distcls.inference.classifier import load_classifier

    return load_classifier(run, read_config(run / "config.yaml"))


def serve_with_fastapi(run: Path, port: int, threads: int) -> None:
    """What most services do: one image per request. threads: 0: in an async handler."""
    import anyio.to_thread
    import torch
    import uvicorn
    from fastapi import Depends, FastAPI, Request

    from distcls.data.decoding.decode import decode

    torch.set_num_threads(1)
    classifier = open_run(run)
    app = FastAPI()

    def classify(content: bytes) -> dict[str, Any]:
        pixels = decode(io.BytesIO(content), classifier.decoding)
        with torch.inference_mode():
            probs = classifier(torch.from_numpy(pixels)[None])[0]
        best = int(probs.argmax())
        return {"prediction": classifier.class_names[best], "confidence": float(probs[best])}

    async def body_of(request: Request) -> bytes:
        return await request.body()

    async def in_handler(request: Request) -> dict[str, Any]:
        return classify(await request.body())

    def in_thread(body: bytes) -> dict[str, Any]:
        return classify(body)

    in_handler.__annotations__["request"] = Request
    body_of.__annotations__["request"] = Request
    in_thread.__annotations__["body"] = bytes
    in_thread.__defaults__ = (Depends(body_of),)

    @app.get("/healthz")
    async def health() -> dict[str, str]:
        if threads:
            anyio.to_thread.current_default_thread_limiter().total_tokens = threads
        return {}

    app.post("/predict")(in_thread if threads else in_handler)
    uvicorn.run(app, port=port, log_level="error", access_log=False)


@contextmanager
def started(run: Path, side: str, threads: int = 0, words: Sequence[str] = ()) -> Iterator[tuple[psutil.Process, int]]:
    """A side that answers, and its port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, __file__, "--side", side, "--port", str(port), "--threads", str(threads), str(run)]
    if side in (OURS, OURS_IN_JSON):
        command = [sys.executable, "-m", "distcls", "serve", str(run), "--port", str(port), "--device", "cpu", *words]
    if side == LITSERVE:
        command = [sys.executable, str(Path(__file__).with_name("litserve_side.py")), str(run), str(port)]
    process = psutil.Popen(command, stdout=subprocess.DEVNULL, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""})
    try:
        await_answer(port)
        yield process, port
    finally:
        processes = [process]
        if process.is_running():
            processes += process.children(recursive=True)
            process.send_signal(signal.SIGTERM)
        _, alive = psutil.wait_procs(processes, 15)
        for one in alive:
            one.kill()


def await_answer(port: int) -> None:
    """Wait until a service is healthy."""
    latest = time.monotonic() + 120
    while time.monotonic() < latest:
        try:
            with socket.create_connection(("127.0.0.1", port), 5) as connection:
                connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                if b" 200 " in connection.recv(100):
                    return
        except OSError:
            pass
        time.sleep(0.1)
    raise SystemExit("a service did not start")


# The clients, in a process of their own ------------------------------------------------------------


@dataclass
class Outcome:
    """What became of the requests of all clients."""

    latencies: list[float] = field(default_factory=list)
    """Seconds, of those that were answered with 200 after the lead-in."""
    answered: int = 0
    refused: int = 0
    """Answers with another status."""
    lost: int = 0
    """Requests whose connection ended without an answer."""


class Client(asyncio.Protocol):
    """Sends a request as soon as the last one is answered."""

    def __init__(self, requests: list[bytes], outcome: Outcome, counted_from: float, until: float) -> None:
        self.requests, self.outcome, self.counted_from, self.until = requests, outcome, counted_from, until
        self.place = 0
        self.buffer = b""
        self.is_waiting = False
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.send()

    def send(self) -> None:
        self.sent = time.perf_counter()
        if self.sent > self.until:
            self.transport.close()
            return
        self.place = (self.place + 1) % len(self.requests)
        self.is_waiting = True
        self.transport.write(self.requests[self.place])

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head_end = self.buffer.find(b"\r\n\r\n")
        if head_end < 0:
            return
        head = self.buffer[:head_end].lower()
        length = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
        if len(self.buffer) < head_end + 4 + length:
            return
        self.is_waiting = False
        self.buffer = b""
        self.outcome.answered += 1
        if b" 200 " not in head[:20]:
            self.outcome.refused += 1
        elif self.sent > self.counted_from:
            self.outcome.latencies.append(time.perf_counter() - self.sent)
        if b"connection: close" in head:
            self.transport.close()
        else:
            self.send()

    def connection_lost(self, error: Exception | None) -> None:
        self.outcome.lost += self.is_waiting
        self.ended.set_result(None)


def some_requests(in_json: bool) -> list[bytes]:
    """Requests with small photographs-like JPEG files."""
    draw = np.random.default_rng(0)
    requests = []
    for _ in range(64):
        image = Image.fromarray(draw.integers(0, 256, (5, 5, 3)).astype(np.uint8)).resize((32, 32))
        file = io.BytesIO()
        image.save(file, "JPEG", quality=90)
        body = file.getvalue()
        if in_json:
            body = json.dumps({"images": [base64.b64encode(body).decode()]}).encode()
        kind = "application/json" if in_json else "image/jpeg"
        head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
        requests.append(head.encode() + body)
    return requests


async def load(port: int, clients: int, seconds: float, in_json: bool) -> Outcome:
    """Keep all clients busy for some seconds."""
    outcome, requests, now = Outcome(), some_requests(in_json), time.perf_counter()
    loop = asyncio.get_running_loop()

    def client() -> Client:
        return Client(requests, outcome, now + LEAD_IN, now + LEAD_IN + seconds)

    connected = [await loop.create_connection(client, "127.0.0.1", port) for _ in range(clients)]
    await asyncio.gather(*(one.ended for _, one in connected))
    return outcome


def loaded(port: int, clients: int, seconds: float, in_json: bool = False) -> subprocess.Popen[str]:
    """The process of the clients, which prints its outcome."""
    command = [sys.executable, __file__, "--load", "--port", str(port), "--clients", str(clients)]
    command += ["--seconds", str(seconds), *(["--json"] if in_json else [])]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def outcome_of(clients: subprocess.Popen[str]) -> dict[str, Any]:
    """What the clients have printed."""
    return json.loads(clients.communicate()[0].splitlines()[-1])


# The measurements ----------------------------------------------------------------------------------


def measure(run: Path, side: str, options: argparse.Namespace, threads: int = 0) -> dict[str, Any]:
    """Requests per second, the p99, and processor time per request of one side, once."""
    with started(run, side, threads) as (process, port):
        before = processor_time(process)
        outcome = outcome_of(loaded(port, options.clients, options.seconds, side in (LITSERVE, OURS_IN_JSON)))
        return {**outcome, "cpu": (processor_time(process) - before) / max(outcome["answered"], 1)}


def compare(run: Path, options: argparse.Namespace) -> None:
    """Print all sides, and the ratios within each turn."""
    tried = {number: measure(run, THREADED, options, number)["rate"] for number in THREADS}
    best = max(tried, key=tried.__getitem__)
    shown = ", ".join(f"{number}: {rate:,.0f}" for number, rate in tried.items())
    print(f"FastAPI's threads, requests/s: {shown}", flush=True)
    found: dict[str, list[dict[str, Any]]] = {side: [] for side in (OURS, ASYNC, THREADED, OURS_IN_JSON, LITSERVE)}
    for _ in range(options.turns):
        for side, outcomes in found.items():
            outcomes.append(measure(run, side, options, best if side == THREADED else 0))
    print(f"\n{'':24} requests/s, each turn         p99, ms   cpu, µs     lost  refused")
    for side, outcomes in found.items():
        rates = "  ".join(f"{one['rate']:7,.0f}" for one in outcomes)
        p99, cpu = (statistics.median(one[key] for one in outcomes) for key in ("p99", "cpu"))
        lost, refused = (sum(one[key] for one in outcomes) for key in ("lost", "refused"))
        print(f"{side:24} {rates:28} {1000 * p99:8.1f} {1e6 * cpu:9.0f} {lost:8} {refused:8}")
    better = [max(turn, key=lambda one: one["rate"]) for turn in zip(found[ASYNC], found[THREADED], strict=True)]
    for name, ours, theirs in (
        ("the better FastAPI service", OURS, better),
        ("LitServe", OURS, found[LITSERVE]),
        ("LitServe, both JSON", OURS_IN_JSON, found[LITSERVE]),
    ):
        for key, word in (("rate", "requests/s"), ("p99", "p99"), ("cpu", "processor time per request")):
            middle, low, high = ratio([one[key] for one in found[ours]], [one[key] for one in theirs])
            print(f"{word} / {name}: {middle:.2f}x ({low:.2f} to {high:.2f})")


def processor_time(process: psutil.Process) -> float:
    """Seconds that a service and its workers have used."""
    times = [one.cpu_times() for one in [process, *process.children(recursive=True)]]
    return sum(one.user + one.system for one in times)


def resident(process: psutil.Process) -> float:
    """Megabytes of a service and its workers."""
    return sum(one.memory_info().rss for one in [process, *process.children(recursive=True)]) / 1e6


def watch_memory(run: Path, options: argparse.Namespace) -> None:
    """Print how memory grows at full load, and whether a request is lost."""
    seconds = 60 * options.minutes
    with started(run, OURS) as (process, port):
        clients = loaded(port, options.clients, seconds)
        samples: list[tuple[float, float]] = []
        began = time.monotonic()
        while clients.poll() is None:
            samples.append((time.monotonic() - began, resident(process)))
            time.sleep(1)
        outcome = outcome_of(clients)
    first = min(60, seconds / 2)
    after = [size for moment, size in samples if moment >= first]
    growth = max(after) / after[0] - 1
    print(
        f"\n{options.minutes:g} minutes at full load: {outcome['answered']:,} answers ({outcome['rate']:,.0f}/s), "
        f"{outcome['lost']} lost, {outcome['refused']} refused; {after[0]:.0f} MB after {first:.0f} s, at most "
        f"{max(after):.0f} MB from then on: {growth:+.1%}"
    )


def stop_often(run: Path, options: argparse.Namespace) -> None:
    """Print how often SIGTERM under load left every request answered, and 0 as the exit code."""
    good, answered, seconds = 0, 0, []
    for _ in range(options.stops):
        with started(run, OURS) as (process, port):
            clients = loaded(port, options.clients, 60)
            time.sleep(2.5)  # the clients' imports take one
            began = time.monotonic()
            process.send_signal(signal.SIGTERM)
            outcome = outcome_of(clients)
            code = process.wait(60)
            seconds.append(time.monotonic() - began)
        good += outcome["lost"] == 0 and outcome["refused"] == 0 and code == 0 and outcome["answered"] > 0
        answered += outcome["answered"]
    print(
        f"\nSIGTERM under load: {good} of {options.stops} times every request was answered and the exit code 0; "
        f"{answered:,} answers; {statistics.median(seconds):.1f} s to the exit"
    )


def main() -> None:
    """Measure, or be one of the processes that are measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="?", help="a run folder (default: a small one is made)")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=0, help="at full load, to watch the memory")
    parser.add_argument("--stops", type=int, default=0, help="how often to stop a service under load")
    for hidden in ("--side", "--port", "--threads"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    for hidden in ("--load", "--json"):
        parser.add_argument(hidden, action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.load:
        print_load(options)
    elif options.side is not None:
        serve_with_fastapi(options.run, int(options.port), int(options.threads))
    else:
        with tempfile.TemporaryDirectory() as folder:
            measure_all(options.run or make_run(Path(folder) / "cnn2"), options)


def print_load(options: argparse.Namespace) -> None:
    """Be the clients."""
    import uvloop

    outcome = uvloop.run(load(int(options.port), options.clients, options.seconds, options.json))
    p99 = float(np.quantile(outcome.latencies, 0.99)) if outcome.latencies else float("nan")
    numbers = {"answered": outcome.answered, "refused": outcome.refused, "lost": outcome.lost}
    print(json.dumps({"rate": len(outcome.latencies) / options.seconds, "p99": p99, **numbers}))


def make_run(folder: Path) -> Path:
    """A run of the two-block CNN, of a few steps."""
    command = [sys.executable, "-m", "distcls", "train", *SETTINGS, f"run.dir={folder}", "train.precision=float32"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return folder


def measure_all(run: Path, options: argparse.Namespace) -> None:
    """Measure what was asked for."""
    print(conditions(), flush=True)
    if options.turns:
        compare(run, options)
    if options.minutes:
        watch_memory(run, options)
    if options.stops:
        stop_often(run, options)


if __name__ == "__main__":
    main()
