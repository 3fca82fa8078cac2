"""The DVC pipeline of docs/pipelines.md runs, does nothing when nothing has changed, and resumes after a kill."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytestmark = [pytest.mark.extras, pytest.mark.timeout(600)]  # DVC is not among the packages that distcls needs

PAGE = Path(__file__).parents[1] / "docs" / "pipelines.md"
SMALL = "num_epochs: 2\n  num_threads: 1\n  global_batch_size: 16"
STAGES = ["prepare", "train", "evaluate", "export"]


def block(language: str, name: str) -> str:
    """A fenced block of the page, such as ```yaml dvc.yaml."""
    (found,) = re.findall(
        rf"^```{language} {re.escape(name)}\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    return found


def write_images(folder: Path, first: int, last: int, level: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(level + first)
    for number in range(first, last):
        pixels = generator.integers(level, level + 100, (16, 16, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")


class Project:
    """A folder with the files of the page, and small images."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "DVC_NO_ANALYTICS": "1",
            "DVC_SITE_CACHE_DIR": str(folder.parent / "site-cache"),
            **{
                f"GIT_{who}_{what}": "somebody@example.org"
                for who in ("AUTHOR", "COMMITTER")
                for what in ("NAME", "EMAIL")
            },
        }
        settings = block("yaml", "train.yaml")
        self.write("train.yaml", settings.replace("num_epochs: 20", SMALL).replace("cnn3", "cnn2"))
        self.write("dvc.yaml", block("yaml", "dvc.yaml"))
        for level, name in ((0, "rose"), (120, "tulip")):
            write_images(folder / "photos" / name, 0, 20, level)

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text, encoding="utf-8")

    def set_epochs(self, epochs: str) -> None:
        text = (self.folder / "train.yaml").read_text()
        self.write("train.yaml", re.sub(r"num_epochs: \d+", f"num_epochs: {epochs}", text))

    def run(self, command: str) -> str:
        done = subprocess.run(
            command, shell=True, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=400
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def repro(self) -> tuple[list[str], str]:
        """The stages that ran, and what was printed."""
        printed = self.run("dvc repro")
        return re.findall(r"Running stage '(\w+)'", printed), printed

    def json(self, name: str) -> dict:
        return json.loads((self.folder / name).read_text())

    def runs(self) -> set[str]:
        return {path.name for path in (self.folder / ".runs").iterdir() if path.is_dir()}


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Project:
    """The pipeline after the commands of the page."""
    if shutil.which("dvc", path=str(Path(sys.executable).parent)) is None:
        pytest.skip("DVC is not installed: its pipeline was not run")
    folder = tmp_path_factory.mktemp("pipeline") / "project"
    folder.mkdir()
    project = Project(folder)
    *commands, repro = block("bash", "once").splitlines()
    for command in commands:
        project.run(command)
    assert repro == "dvc repro" and project.repro()[0] == STAGES
    return project


def test_it_runs_and_then_does_nothing(project):
    before = {path: path.stat().st_mtime_ns for path in project.folder.glob("*")}
    stages, printed = project.repro()
    assert stages == [] and "Data and pipelines are up to date" in printed
    assert {path: path.stat().st_mtime_ns for path in project.folder.glob("*")} == before
    assert (
        "metrics.csv" in os.listdir(project.folder / "model") and (project.folder / "model.onnx").stat().st_size > 1000
    )
    assert "checkpoints" not in os.listdir(project.folder / "model")
    ignored = project.run("git status --short --untracked-files=all")
    assert ".runs" not in ignored and "photos/" not in ignored and "model/" not in ignored


def test_metrics_and_plots_are_shown(project):
    shown = json.loads(project.run("dvc metrics show --json"))[""]["data"]["metrics.json"]["data"]
    assert shown["accuracy"] == project.json("metrics.json")["accuracy"]
    for command in block("bash", "show").splitlines():
        project.run(command)
    page = (project.folder / "dvc_plots" / "index.html").read_text(encoding="utf-8")
    assert all(name in page for name in ("train_accuracy", "train_loss", "confusion", "predictions.png"))
    with (project.folder / "curves.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["split"] for row in rows] == ["val", "val"] and all(float(row["train_accuracy"]) >= 0 for row in rows)


def test_a_killed_training_resumes(project):
    """With kill -9 of distcls and of DVC, in the middle of the training stage."""
    project.set_epochs("300\n  checkpoint_every: 10 steps\n  eval_every: 100 epochs")
    known = project.runs()
    with subprocess.Popen(
        ["dvc", "repro"],
        cwd=project.folder,
        env=project.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        end = time.monotonic() + 120
        while (
            not (saved := [*project.folder.glob(".runs/*/checkpoints/step-*")])
            or {p.parents[1].name for p in saved} <= known
        ):
            assert process.poll() is None and time.monotonic() < end, "no checkpoint was written"
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
    stages, printed = project.repro()
    assert stages == ["train", "evaluate", "export"] and re.search(r"resum", printed)
    assert len(project.runs() - known) == 1


def test_everything_is_repeated_for_other_images(project):
    project.set_epochs("1")
    known = project.runs()
    for level, name in ((0, "rose"), (120, "tulip")):
        write_images(project.folder / "photos" / name, 20, 30, level)
    assert project.repro()[0] == STAGES
    assert project.json("check.json")["num_images"] == 60
    assert len(project.runs() - known) == 1
