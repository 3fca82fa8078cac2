"""A run folder is read whoever wrote it, and however much of it is there."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from made_runs import make_run, write

from distcls.errors import UsageError
from distcls.runs.overview import read_overview

OLD_RUN = "golden/run_0.1.0"


def test_what_a_finished_run_says(tmp_path) -> None:
    run = read_overview(make_run(tmp_path / "a", "optim.lr=0.5", accuracy=0.75))
    assert run.is_finished and run.reason is None and run.config.optim.lr == 0.5
    assert run.metrics["test"] == {"accuracy": 0.75, "loss": 0.25, "macro_f1": 0.75, "count": 1000}
    assert run.intervals["val"] == {"accuracy": (0.73, 0.76)}
    assert (run.epoch, run.num_epochs, run.seconds) == (10, 10, 75)
    assert run.num_parameters == 210, "without BatchNorm's statistics"
    assert run.num_bytes == (tmp_path / "a/model/model.safetensors").stat().st_size
    assert run.device == "2 × cpu" and run.versions == {"distcls": "0.1.0", "torch": "2.10.0"}


def test_a_run_that_has_not_finished_has_its_best_evaluation(tmp_path) -> None:
    run_dir = make_run(tmp_path / "a", state="preempted", accuracy=0.8, step=30, reason="SIGTERM")
    run = read_overview(run_dir)
    assert (run.state, run.reason, run.epoch, run.num_epochs) == ("preempted", "SIGTERM", 3, 10)
    assert run.metrics["val"]["accuracy"] == pytest.approx(0.8) and run.metrics["test"] == {}
    assert run.num_parameters is None
    assert read_overview(make_run(tmp_path / "b", state="running", accuracy=None)).state == "killed"


def test_an_evaluation_that_is_not_finite_is_never_the_best(tmp_path) -> None:
    run_dir = make_run(tmp_path / "a", "train.best_metric=loss", state="running", accuracy=0.8)
    head, first, *rows = (run_dir / "metrics.csv").read_text().splitlines()
    for bad in ("nan", "inf", "-inf"):
        diverged = first.replace(first.split(",")[4], bad)
        (run_dir / "metrics.csv").write_text("\n".join([head, diverged, *rows]) + "\n")
        assert read_overview(run_dir).metrics["val"]["loss"] == pytest.approx(0.2)


HOSTILE = [
    ("status", {"state": 7, "step": "x", "reason": ["y"], "seconds": None}),
    ("status", []),
    ("env", {"device": 3, "world_size": "many", "versions": [1]}),
    ("classes", {"a": 1}),
    ("data_report", {"fingerprint": 5, "split_fingerprints": 1, "splits": {"train": {"num_images": 0}}}),
    ("metrics", {"val": 3, "test": {"accuracy": "0.9", "loss": None, "intervals": {"accuracy": [1], "loss": 5}}}),
    ("metrics", {"test": {"accuracy": 10**400, "loss": float("nan"), "intervals": {"accuracy": ["a", "b"]}}}),
]


@pytest.mark.parametrize(("name", "content"), HOSTILE, ids=range(len(HOSTILE)))
def test_whatever_is_not_as_expected_counts_as_absent(tmp_path, name, content) -> None:
    run_dir = make_run(tmp_path / "a")
    write(run_dir, name, content)
    run = read_overview(run_dir)
    assert all(isinstance(value, float | int) for values in run.metrics.values() for value in values.values())
    assert name != "metrics" or (run.metrics["test"] == {} and run.intervals["test"] == {})
    assert run.state in ("finished", "unknown")


@pytest.mark.parametrize("content", [b"", b"\xff" * 8, b"\x02\0\0\0\0\0\0\0[]", b"\x0a\0\0\0\0\0\0\0" + b'{"a": [1]}'])
def test_weights_that_are_damaged_have_no_size(tmp_path, content) -> None:
    run_dir = make_run(tmp_path / "a")
    (run_dir / "model" / "model.safetensors").write_bytes(content)
    assert read_overview(run_dir).num_parameters is None


def test_a_run_without_a_config_cannot_be_read(tmp_path) -> None:
    run_dir = make_run(tmp_path / "a")
    (run_dir / "config.yaml").write_text("optim: {lr: fast}\n")
    with pytest.raises(UsageError, match="optim.lr must be a number"):
        read_overview(run_dir)
    (run_dir / "config.yaml").unlink()
    with pytest.raises(UsageError, match="cannot read the config"):
        read_overview(run_dir)


def test_top_5_of_five_classes_says_nothing(tmp_path) -> None:
    run_dir = make_run(tmp_path / "a")
    write(run_dir, "metrics", {"test": {"top5": 1.0}})
    assert read_overview(run_dir).metrics["test"] == {}
    write(run_dir, "classes", list("abcdef"))
    assert read_overview(run_dir).metrics["test"] == {"top5": 1.0}


def test_neither_torch_nor_a_runs_code_is_imported(tmp_path) -> None:
    run_dir = make_run(tmp_path / "a", "model.name=evil:make")
    (tmp_path / "evil.py").write_text("raise SystemExit(3)")
    code = (
        "import sys; from pathlib import Path; from distcls.runs.overview import read_overview\n"
        f"read_overview(Path({json.dumps(str(run_dir))}))\n"
        "assert not {'torch', 'numpy', 'matplotlib', 'evil'} & set(sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, timeout=60, check=False).returncode == 0
