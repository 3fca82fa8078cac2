"""`distcls serve RUN`: answers requests over HTTP with a run's model."""

from __future__ import annotations

import argparse
import importlib.util
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from distcls.cluster.cpu import available_cpus
from distcls.commands.arguments import TRUST, Parser
from distcls.config.byte_size import parse_size
from distcls.errors import MissingInputError, UsageError
from distcls.runs.opening import check_run_folder, opened_run
from distcls.serving.options import BACKENDS, Limits, ServeOptions, read_token, route_of_vertex

PACKAGES = {
    "serve": ("fastapi", "uvicorn", "uvloop", "httptools", "python_multipart", "prometheus_client"),
    "demo": ("gradio",),
    "export": ("onnx", "onnxruntime"),
}
"""What each extra brings."""


def main(argv: Sequence[str]) -> int:
    """Serve a run until SIGTERM or Ctrl-C."""
    words = _parser().parse_intermixed_args(argv)
    options = _options(words)
    run_dir = Path(words.run)
    check_run_folder(run_dir)
    _check_packages(options)
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # until it serves, it has accepted nothing
    try:
        return _serve(run_dir, options, words.trust)
    finally:
        signal.signal(signal.SIGTERM, before)


def _serve(run_dir: Path, options: ServeOptions, trust: bool) -> int:
    with opened_run(run_dir, parts=["model"], trust=trust) as config, tempfile.TemporaryDirectory() as folder:
        if options.workers > 1:
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder  # read when prometheus_client is imported
        import torch

        from distcls.serving.backends import open_backend
        from distcls.serving.demo_pictures import collect
        from distcls.serving.server import serve

        torch.set_num_threads(1)  # workers are forked, and threads do not survive that
        backend = open_backend(run_dir, config, options.backend, options.device, options.threads)
        if options.workers > 1 and backend.device != "cpu":
            raise UsageError(
                f"--workers {options.workers}: processes share weights on a CPU, and this runs on {backend.device}. "
                "Add --device cpu, or leave --workers out and start one service per GPU."
            )
        pictures = collect(run_dir, config, backend.classifier) if options.has_demo else None
        return serve(backend, options, pictures)


def _parser() -> Parser:
    limits = Limits()
    parser = Parser(
        prog="distcls serve",
        description="Answer requests over HTTP with a run's model: POST /predict, and the Open Inference Protocol "
        "under /v2. SIGTERM or Ctrl-C stops it once it has answered every request it accepted.",
    )
    parser.add_argument("run", metavar="RUN", help="a run folder, such as runs/digits")
    parser.add_argument(
        "--host", default="127.0.0.1", help="default: 127.0.0.1, this machine only; 0.0.0.0: any machine"
    )
    parser.add_argument(
        "--port",
        type=int,
        default=os.environ.get("AIP_HTTP_PORT", "8000"),
        metavar="N",
        help="default: $AIP_HTTP_PORT or 8000; 0: any free port",
    )
    parser.add_argument("--name", help="the model's name under /v2 (default: the folder's)")
    parser.add_argument(
        "--backend",
        choices=BACKENDS,
        default="torch",
        help="onnx: the file that distcls export has written; onnx-int8: the one of distcls export --int8",
    )
    parser.add_argument(
        "--device", default="auto", metavar="NAME", help="cpu, cuda or mps; default: the GPU if there is one"
    )
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes, which share the weights")
    parser.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help="threads that compute, in each process (default: half of the CPUs; the others read and decode)",
    )
    parser.add_argument("--max-batch", type=int, default=64, metavar="N", help="images per forward pass (default: 64)")
    parser.add_argument(
        "--max-wait-ms",
        type=float,
        default=2.0,
        metavar="MS",
        help="how long a batch waits for images that are still being decoded (default: 2)",
    )
    parser.add_argument(
        "--max-bytes", default=f"{limits.max_bytes // 10**6} MB", metavar="SIZE", help="of a request (default: 32 MB)"
    )
    parser.add_argument(
        "--max-pixels",
        type=int,
        default=limits.max_pixels,
        metavar="N",
        help=f"of an image (default: {limits.max_pixels:,}, as for distcls predict)",
    )
    parser.add_argument(
        "--max-images",
        type=int,
        default=limits.max_images,
        metavar="N",
        help=f"of a request (default: {limits.max_images})",
    )
    parser.add_argument(
        "--max-queue",
        type=int,
        default=limits.max_queue,
        metavar="N",
        help=f"images that may wait for their answer, in each process (default: {limits.max_queue:,})",
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=limits.timeout,
        metavar="SECONDS",
        help=f"for a request to arrive and to be answered (default: {limits.timeout:g})",
    )
    parser.add_argument(
        "--token-file", type=Path, metavar="FILE", help="requests must carry the token in it: Authorization: Bearer …"
    )
    parser.add_argument("--demo", action="store_true", help="also show a page at /demo, for people")
    parser.add_argument("--demo-only", action="store_true", help="show only that page, without /predict and /v2")
    parser.add_argument("--trust", action="store_true", help=TRUST)
    return parser


def _options(words: argparse.Namespace) -> ServeOptions:
    """Return the options. Raises UsageError for what cannot be meant."""
    try:
        max_bytes = parse_size(words.max_bytes)
    except ValueError as error:
        raise UsageError(f"--max-bytes: {error}") from error
    least = {"workers": 1, "max_batch": 1, "max_pixels": 1, "max_images": 1, "max_queue": 1, "max_wait_ms": 0}
    for name, number in least.items():
        if getattr(words, name) < number:
            raise UsageError(f"--{name.replace('_', '-')} {getattr(words, name)}: give {number} or more.")
    if words.threads is not None and words.threads < 1:
        raise UsageError(f"--threads {words.threads}: give 1 or more.")
    if not 0.1 <= words.timeout <= 86400:
        raise UsageError(f"--timeout {words.timeout:g}: give seconds, from 0.1 to 86400.")
    if max_bytes < 1:
        raise UsageError("--max-bytes: give 1 or more.")
    if words.max_queue < words.max_images:
        raise UsageError(
            f"--max-queue {words.max_queue} is less than --max-images {words.max_images}, so a full request could "
            "never be answered: give at least as many."
        )
    if not 0 <= words.port <= 65535:
        raise UsageError(f"--port {words.port}: give a number from 0 to 65535.")
    if words.name is not None and (words.name in ("", ".", "..") or "/" in words.name):
        raise UsageError(
            f"--name {words.name!r}: it is a part of addresses, so give a word without /, such as flowers."
        )
    has_demo = words.demo or words.demo_only
    if has_demo and words.workers > 1:
        raise UsageError(
            f"--demo --workers {words.workers}: the page needs all its visitors in one process. Start a separate "
            "service for it, with --demo-only and another --port."
        )
    return ServeOptions(
        name=words.name or Path(words.run).resolve().name,
        host=words.host,
        port=words.port,
        backend=words.backend,
        device=words.device,
        workers=words.workers,
        threads=words.threads or max(1, available_cpus() // (2 * words.workers)),
        max_batch=words.max_batch,
        max_wait=words.max_wait_ms / 1000,
        limits=Limits(max_bytes, words.max_pixels, words.max_images, words.max_queue, words.timeout),
        token=None if words.token_file is None else read_token(words.token_file),
        has_api=not words.demo_only,
        has_demo=has_demo,
        health_routes=route_of_vertex("HEALTH"),
        predict_routes=route_of_vertex("PREDICT"),
    )


def _check_packages(options: ServeOptions) -> None:
    """Raise MissingInputError if a package that is needed is not installed."""
    needed = ["serve", *(["demo"] if options.has_demo else []), *(["export"] if options.backend != "torch" else [])]
    missing = [name for extra in needed for name in PACKAGES[extra] if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingInputError(
            f"distcls serve needs {', '.join(missing)}. Install it: pip install 'distcls[{','.join(needed)}]'"
        )
