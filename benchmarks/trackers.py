"""What trackers cost a training step, with the real libraries, and what a server that never answers costs.

`distcls train` runs on synthetic images with different `run.trackers`, in turns, each time as a new process on all
cores, so what a sender computes is taken from training. The time is that from the first row of metrics.csv to the last,
in which the senders start, import their libraries and send. The second figure leaves out the first third of the steps:
what is left of a long run.

    python benchmarks/trackers.py
    python benchmarks/trackers.py --turns 5 --steps 3000
"""

from __future__ import annotations

import argparse
import socket
import statistics
import sys
import tempfile
from datetime import datetime
from pathlib import Path

import psutil
from side_by_side import conditions, output_of, ratio

from distcls.files.atomic import read_json
from distcls.runs.tracking.metrics_file import read_metrics
from distcls.runs.tracking.sender import SERVICES

ROOT = Path(__file__).resolve().parents[1]

NONE, SILENT = "no tracker", "MLflow at a server that never answers"
SIDES = {
    NONE: "[]",
    "TensorBoard": "[tensorboard]",
    "TensorBoard, W&B offline, MLflow in SQLite, Trackio": "[tensorboard,wandb,mlflow,trackio]",
    SILENT: "[mlflow]",
}


SECONDS_TO_SEND = 60.0
"""How long senders may take after training; the one whose server never answers would try for ten minutes."""


def seconds_a_step(side: str, server: str, options: argparse.Namespace) -> tuple[float, float]:
    """Train once. Return the seconds that a step took, over all rows and over those after the first third."""
    settings = {
        "model.name": "cnn2",
        "data.name": "synthetic",
        "data.args": "{num_images: 10000, size: 32}",
        "train.global_batch_size": options.batch,
        "train.num_steps": options.steps,
        "train.precision": "float32",
        "train.log_every": "10 steps",
        "train.checkpoint_every": f"{options.steps // 8} steps",
        "run.device": "cpu",
        "run.trackers": SIDES[side],
    }
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        environment = {"PYTHONPATH": str(ROOT), "WANDB_MODE": "offline", "TRACKIO_DIR": folder}
        if side == SILENT:
            environment["MLFLOW_TRACKING_URI"] = server
        words = [sys.executable, "-m", "distcls", "train", "--name", "tracked"]
        output_of([*words, *(f"{name}={value}" for name, value in settings.items())], Path(folder), environment)
        run = Path(folder, "runs", "tracked")
        rows = [row for row in read_metrics(run / "metrics.csv") if row["split"] == "train"]
        end_senders(Path(folder), 0 if side == SILENT else SECONDS_TO_SEND)
        sent = [path.stem for path in sorted(run.glob("trackers/*.json")) if read_json(path).get("ended")]
        assert side == SILENT or sent == [name for name in sorted(SERVICES) if name in SIDES[side]], (
            f"{side}: it was sent only to {sent}"
        )
    times = [(row["step"], datetime.fromisoformat(row["time"]).timestamp()) for row in rows]
    return per_step(times), per_step(times[len(times) // 3 :])


def per_step(times: list[tuple[int, float]]) -> float:
    """Return the seconds from the first to the last of these steps, for each of them."""
    (first, began), (last, ended) = times[0], times[-1]
    return (ended - began) / (last - first)


def end_senders(folder: Path, seconds: float) -> None:
    """Wait until the processes that send the run in this folder have ended, and end those that take too long."""
    processes = psutil.process_iter(["cmdline", "cwd"])
    senders = [each for each in processes if each.info["cwd"] == str(folder) and "--follow" in each.info["cmdline"]]
    for sender in psutil.wait_procs(senders, timeout=seconds)[1]:
        sender.kill()


def main() -> None:
    """Train with each choice of trackers in turns, and print what each costs a step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1600)
    parser.add_argument("--batch", type=int, default=128, help="images a step")
    options = parser.parse_args()
    print(conditions())
    with socket.create_server(("127.0.0.1", 0), backlog=64) as silent:  # takes connections, and never answers
        server = f"http://127.0.0.1:{silent.getsockname()[1]}"
        found: dict[str, list[tuple[float, float]]] = {side: [] for side in SIDES}
        for _ in range(options.turns):
            for side, seconds in found.items():
                seconds.append(seconds_a_step(side, server, options))
    for part, title in enumerate(("all steps", "after the first third")):
        without = [seconds[part] for seconds in found[NONE]]
        print(f"\n{title}: {1000 * statistics.median(without):.2f} ms a step without trackers")
        for side in list(SIDES)[1:]:
            middle, low, high = ratio([seconds[part] for seconds in found[side]], without)
            print(f"  {side:52} {middle:.3f} x ({low:.3f} to {high:.3f})", flush=True)


if __name__ == "__main__":
    main()
