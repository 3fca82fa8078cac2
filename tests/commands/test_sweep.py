"""Mistakes in the arguments of `distcls sweep` are answered before anything is trained."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from distcls.cli import main
from distcls.commands import sweep
from distcls.sweeps.search.plan import Plan
from distcls.sweeps.search.space import Space, Variant


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("distcls.cluster.signals.install", lambda: None)


@pytest.fixture
def planned(monkeypatch) -> list[Plan]:
    """The plans of sweeps that would have begun."""
    found: list[Plan] = []
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(sweep, "_run", lambda plan, read, options: found.append(plan) or 0)
    return found


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train.num_epochs=3"], "needs something to search"),
        (["optim.lr=0.1..0.2", "--search", "grid"], "a grid needs a list of values, and this is a range"),
        (["optim.lr=0.1,0.2", "--also", "parameters", "--pruner", "median"], "leave out --also parameters"),
        (["optim.lr=0.1,0.2", "--trials", "0"], "'0' is not a whole number of 1 or more"),
        (["optim.lr=0.1,0.2", "--max-params", "many"], "'many' is not a number: write 200000, 200k or 1.5M"),
        (["optim.lr=0.1,0.2", "--max-latency", "0"], "not a number of milliseconds"),
        (["train.seed=1,2", "--seeds", "3"], "train.seed is searched, and --seeds sets it too"),
        (["optim.lr=0.1,0.2", "--name", "a/b"], "without slashes"),
        (["optim.lr=0.1,0.2", "run.name=x"], "--name NAME names the sweep"),
        (["optim.lr=0.1,0.2", "--time", "1h"], "--time is for jobs of Slurm: add --gpus-per-node G or --cpu"),
        (["optim.lr=0.1,0.2", "--slurm", "qos=x"], "--slurm is for jobs of Slurm"),
        (["optim.lr=0.1,0.2", "--nodes", "2"], "--nodes is for jobs of Slurm"),
        (["optim.lr=0.1,0.2", "--cpus-per-task", "2"], "--cpus-per-task is for jobs of Slurm"),
        (["optim.lr=0.1,0.2", "--signal-delay", "60"], "--signal-delay is for jobs of Slurm"),
        (
            ["optim.lr=0.1,0.2", "--cpu", "--time", "1h"],
            "needs --time T, how long it runs before it is requeued, and --job-dir /DIR",
        ),
        (["optim.lr=-1..0.2"], "optim.lr must be a number above 0"),
        (["optim.lr=0.1,0.2", "--sek=3"], "unknown option --sek=3"),
        (["optim.lr=0.1,0.2", "--data", ""], "--data '' is empty"),
        (["optim.lr=0.1,0.2", "--space", "x.yaml"], "x.yaml: cannot read the config"),
        (["optim.lr=0.1,0.2", "train.num_epochs=x"], "train.num_epochs must be a number above 0"),
    ],
)
def test_mistakes(words: list[str], message: str, planned, capsys) -> None:
    assert main(["sweep", *words]) == 2
    assert message in capsys.readouterr().err and not planned and not Path("sweeps").exists()


def test_without_optuna_it_says_what_to_install(monkeypatch, capsys) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(["sweep", "optim.lr=0.1,0.2"]) == 66
    assert "pip install 'distcls[tune]'" in capsys.readouterr().err


def test_what_is_not_said_follows_from_the_space_and_the_config(planned) -> None:
    Path("c.yaml").write_text("train: {best_metric: loss, seed: 7}\n")
    Path("mine.yaml").write_text("optim.lr: 1e-4..1e-2@log\n")
    assert main(["sweep", "augment.mixup=0,0.2", "train.num_epochs=3"]) == 0
    assert main(["sweep", "-c", "c.yaml", "--space", "mine.yaml", "--seeds", "2", "--max-params", "1.5M"]) == 0
    grid, ranges = planned
    assert (grid.search, grid.num_trials, grid.metric, grid.folder.name) == ("grid", None, "accuracy", "digits")
    assert grid.options == ("train.num_epochs=3",)
    assert (ranges.search, ranges.num_trials, ranges.metric, ranges.folder.name) == ("tpe", 20, "loss", "mine")
    assert ranges.seeds == [7, 8] and ranges.limits.parameters == 1_500_000


def test_a_setting_that_all_share_may_need_a_value_that_is_searched(planned) -> None:
    assert main(["sweep", "optim.name=sgd,muon", "optim.nesterov=true", "--data=-photos"]) == 0
    assert planned[0].options == ("--data=-photos", "optim.nesterov=true")


def test_it_is_not_one_of_several_processes(planned, monkeypatch, capsys) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["sweep", "optim.lr=0.1,0.2"]) == 2
    assert "starts its trials itself" in capsys.readouterr().err and not planned


def test_a_second_sweep_in_the_folder_is_refused(planned, capsys) -> None:
    hold = "import sys; from pathlib import Path; from distcls.runs.resuming import lock_folder; "
    hold += "lock = lock_folder(Path('sweeps/digits')); print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        assert main(["sweep", "optim.lr=0.1,0.2"]) == 2
        holder.communicate(b"")
    assert "sweeps/digits is in use by process" in capsys.readouterr().err and not planned


@pytest.mark.parametrize(
    ("parallel", "words", "file", "expected"),
    [
        (1, (), None, None),
        (2, (), None, 4),
        (3, (), None, 2),
        (99, (), None, 1),
        (2, ("train.num_threads=3",), None, None),
        (2, (), "train: {num_threads: 3}", None),
        (2, (), "train: {seed: 3}", 4),
    ],
)
def test_trials_at_once_share_the_cores(monkeypatch, tmp_path, parallel, words, file, expected) -> None:
    monkeypatch.setattr(sweep, "available_cpus", lambda: 8)
    plan = Plan.__new__(Plan)
    object.__setattr__(plan, "options", words)
    for in_variant in (False, True):
        variants = {"one": Variant((), tmp_path / "x.yaml")} if file and in_variant else {}
        object.__setattr__(plan, "config_file", tmp_path / "x.yaml" if file and not in_variant else None)
        object.__setattr__(plan, "space", Space((), variants))
        if file:
            (tmp_path / "x.yaml").write_text(file)
        assert sweep._threads(plan, sweep._read, parallel) == expected
