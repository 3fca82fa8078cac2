"""A run that is killed and resumed is one run in Weights & Biases, MLflow and Trackio, with no row twice or missing.

With their real libraries: W&B offline, MLflow's SQLite store and a real server, Trackio's own store.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from ranks import Ranks, await_step, free_port, read_json

from distcls.runs.tracking.metrics_file import read_metrics
from distcls.runs.tracking.rows import covered_rows, numbers_of
from distcls.runs.tracking.rows import test_row as row_of_test

pytestmark = [pytest.mark.extras, pytest.mark.timeout(400)]

SETTINGS = ["train.num_steps=120", "train.log_every=2 steps", "train.checkpoint_every=5 steps", "train.num_threads=1"]
SETTINGS += ["train.eval_every=10 steps", "data.workers=0", "--name", "a"]


def set_environment(environment: dict[str, str]) -> None:
    os.environ.update(environment)


class Stores:
    """Starts distcls with libraries that keep what they are sent under the folder of the test."""

    def __init__(self, ranks: Ranks) -> None:
        self.ranks, self.folder = ranks, ranks.folder
        self.environment = {
            "WANDB_MODE": "offline",
            "TRACKIO_DIR": str(ranks.folder / "trackio"),
            "PYTHONPATH": str(Path(__file__).parents[2]),
        }

    def start(self, *words: str) -> Any:
        return self.ranks.start(*words, setup=partial(set_environment, self.environment))

    def run(self, *words: str, expect: int = 0) -> str:
        return self.start(*words).finish(expect)


@pytest.fixture
def stores(ranks) -> Stores:
    return Stores(ranks)


def senders(run_dir: Path) -> list[int]:
    """The ids of the processes that send this run."""
    found = []
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        try:
            words = Path(path).read_bytes().decode().split("\0")
        except OSError:
            continue
        if "track" in words and any(Path(word).name == run_dir.name for word in words) and "--follow" in words:
            pid = int(path.split("/")[2])
            if os.path.realpath(f"/proc/{pid}/cwd") == str(run_dir.parents[1]):
                found.append(pid)
    return found


def wait_for_senders(run_dir: Path, limit: float = 120) -> None:
    end = time.monotonic() + limit
    while senders(run_dir):
        assert time.monotonic() < end, "\n".join(path.read_text() for path in (run_dir / "trackers").glob("*.log"))
        time.sleep(0.2)


def expected(run_dir: Path) -> list[tuple[int, dict[str, float]]]:
    """The rows that each service must have."""
    rows = [row for row in read_metrics(run_dir / "metrics.csv") if row["split"] != "test"]
    return [(row["step"], numbers_of(row)) for row in rows]


READ_TRACKIO = """
import json, sys
from trackio.sqlite_storage import SQLiteStorage
print(json.dumps(SQLiteStorage.get_logs("distcls", sys.argv[1])))
"""


def trackio_logs(stores: Stores, name: str) -> list[dict[str, Any]]:
    words, environment = [sys.executable, "-c", READ_TRACKIO, name], {**os.environ, **stores.environment}
    done = subprocess.run(words, capture_output=True, text=True, timeout=100, check=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def trackio_rows(stores: Stores, name: str) -> list[tuple[int, dict[str, float]]]:
    logs = [log for log in trackio_logs(stores, name) if "training_step" in log]
    assert [log.pop("step") for log in logs] == list(range(len(logs)))
    return [(log.pop("training_step"), {k: v for k, v in log.items() if k != "timestamp"}) for log in logs]


def wandb_rows(run_dir: Path, run_id: str) -> list[tuple[int, dict[str, float]]]:
    """The rows in all files of the run, in the order of their steps, as its server puts them together."""
    from wandb.proto import wandb_internal_pb2

    rows: dict[int, dict[str, Any]] = {}
    for path in sorted(run_dir.glob(f"wandb/offline-run-*/run-{run_id}.wandb")):
        for record in log_records(path.read_bytes()):
            read = wandb_internal_pb2.Record()
            read.ParseFromString(record)
            if read.WhichOneof("record_type") == "history":
                values = {
                    item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in read.history.item
                }
                step = read.history.step.num
                sent = {k: v for k, v in values.items() if not k.startswith("_")}
                assert rows.setdefault(step, sent) == sent
    assert list(rows) == list(range(len(rows)))
    return [(int(values.pop("step")), values) for values in rows.values()]


def log_records(data: bytes) -> Any:
    """The records in a file of W&B: LevelDB's log format, after a header of seven bytes."""
    place, record = 7, b""
    while place + 7 <= len(data):
        left = 32768 - place % 32768
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        if left < 7 or kind == 0:
            place += left
            continue
        record += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            yield record
            record = b""


def mlflow_rows(uri: str, run_id: str) -> dict[str, list[tuple[int, float]]]:
    """Each number's (step, value), in the order in which they were stored."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    assert client.get_run(run_id).info.status == "FINISHED"
    keys = client.get_run(run_id).data.metrics
    return {key: sorted((m.step, m.value) for m in client.get_metric_history(run_id, key)) for key in keys}


def results(run_dir: Path) -> tuple[int, dict[str, float]]:
    """The row of the test split."""
    row = row_of_test(run_dir)
    assert row is not None
    return row["step"], numbers_of(row)


def by_tag(rows: list[tuple[int, dict[str, float]]]) -> dict[str, list[tuple[int, float]]]:
    found: dict[str, list[tuple[int, float]]] = {}
    for step, numbers in rows:
        for tag, value in numbers.items():
            found.setdefault(tag, []).append((step, value))
    return {tag: sorted(values) for tag, values in found.items()}


def test_a_run_that_is_killed_again_and_again_is_one_run_everywhere(stores):
    for name in ("wandb", "mlflow", "trackio"):
        pytest.importorskip(name)
    draw = random.Random(0)
    run_dir = stores.folder / "runs" / "a"
    trackers = "run.trackers=[wandb,mlflow,trackio]"
    for step in (17, 44, 81):
        group = stores.start("train", *SETTINGS, trackers)
        await_step(run_dir, step)
        if draw.random() < 0.7:  # the senders too, while they may be anywhere
            for pid in senders(run_dir):
                os.kill(pid, signal.SIGKILL)
        group.kill()
    told = stores.run("train", *SETTINGS, trackers)
    assert "sending the rest to" in told and not senders(run_dir), "it waits: in a container they would end with it"
    states = {name: read_json(run_dir / "trackers" / f"{name}.json") for name in ("wandb", "mlflow", "trackio")}
    rows = expected(run_dir)
    assert len(rows) == 60 + 12 and all(state["ended"] and state["rows"] == len(rows) for state in states.values())
    assert trackio_rows(stores, states["trackio"]["id"]) == rows
    assert wandb_rows(run_dir, states["wandb"]["id"]) == rows
    found = mlflow_rows(f"sqlite:///{stores.folder / 'runs' / 'mlflow.db'}", states["mlflow"]["id"])
    assert found == by_tag([*rows, results(run_dir)])
    assert any(log.items() >= results(run_dir)[1].items() for log in trackio_logs(stores, states["trackio"]["id"]))
    told = stores.run("track", "runs/a")
    assert all(f"{name}: 72 rows, 0 of them new" in told for name in states)


def test_a_real_server_and_its_artifacts(stores):
    pytest.importorskip("mlflow")
    folder, port = stores.folder, free_port()
    words = ["--host", "127.0.0.1", "--port", str(port), "--backend-store-uri", f"sqlite:///{folder}/server.db"]
    words += ["--artifacts-destination", str(folder / "artifacts"), "--workers", "1"]
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *words], stdout=log, stderr=log, start_new_session=True
        )
    try:
        wait_for_port(port)
        stores.environment["MLFLOW_TRACKING_URI"] = f"http://127.0.0.1:{port}"
        stores.run("train", *SETTINGS, "run.trackers=[mlflow]")
        run_dir = folder / "runs" / "a"
        wait_for_senders(run_dir)
        state = read_json(run_dir / "trackers" / "mlflow.json")
        assert state["ended"], (run_dir / "trackers" / "mlflow.log").read_text()
        first = results(run_dir)
        assert mlflow_rows(f"http://127.0.0.1:{port}", state["id"]) == by_tag([*expected(run_dir), first])
        longer = [word.replace("=120", "=130") for word in SETTINGS]
        stores.run("train", *longer, "run.trackers=[mlflow]", "data.workers=1")  # other settings, and more rows
        wait_for_senders(run_dir)
        second = results(run_dir)
        assert mlflow_rows(f"http://127.0.0.1:{port}", state["id"]) == by_tag([*expected(run_dir), first, second])
        stored = {path.name for path in (folder / "artifacts").rglob("*") if path.is_file()}
        assert {"config.yaml", "metrics.csv", "curves.png", "model.safetensors"} <= stored
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


def wait_for_port(port: int, limit: float = 120) -> None:
    end = time.monotonic() + limit
    while time.monotonic() < end:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.5)
    raise AssertionError("the server did not start")


def test_a_server_that_never_answers_costs_a_run_nothing(stores):
    """It accepts connections and is silent, as behind a broken proxy."""
    pytest.importorskip("mlflow")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        held: list[socket.socket] = []
        threading.Thread(target=accept_all, args=(silent, held), daemon=True).start()
        stores.environment["MLFLOW_TRACKING_URI"] = f"http://127.0.0.1:{silent.getsockname()[1]}"
        stores.environment |= {"MLFLOW_HTTP_REQUEST_TIMEOUT": "3", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
        started = time.monotonic()
        told = stores.run("train", *SETTINGS, "run.trackers=[mlflow]")
        assert "mlflow does not have all of this run yet: distcls track runs/a sends the rest" in told
        assert time.monotonic() - started < 60
        run_dir = stores.folder / "runs" / "a"
        assert read_json(run_dir / "status.json")["state"] == "finished"
        for pid in senders(run_dir):  # it would try again for ten minutes
            os.kill(pid, signal.SIGKILL)
        wait_for_senders(run_dir)
        told = stores.run("track", "runs/a", expect=1)
        assert "mlflow: " in told and "imed out" in told and held
    del stores.environment["MLFLOW_TRACKING_URI"]
    assert "72 rows, 72 of them new" in stores.run("track", "runs/a"), "and all of it can be sent later"


def accept_all(server: socket.socket, held: list[socket.socket]) -> None:
    with contextlib.suppress(OSError):
        while True:
            held.append(server.accept()[0])


def test_the_last_evaluation_is_final_even_if_a_signal_stopped_it_at_first(ranks):
    settings = [
        *["data.name=noise_images:make_images", "model.name=slow_evaluation:make", "train.global_batch_size=30"],
        *["train.num_threads=1", "train.eval_batch_size=60", "train.num_steps=3", "run.trackers=[]", "--name", "a"],
    ]
    group = ranks.start("train", *settings)
    run_dir = ranks.folder / "runs" / "a"
    await_step(run_dir, 3)
    while read_json(run_dir / "status.json")["phase"] != "evaluate":
        assert group.alive(), group.output()
    os.kill(group.processes[0].pid, signal.SIGTERM)
    group.finish(75)
    assert "val" not in (run_dir / "metrics.csv").read_text()
    ranks.run("train", *settings)
    assert [row["step"] for row in covered_rows(run_dir) if row["split"] == "val"] == [3]
