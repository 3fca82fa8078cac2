from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from distcls.cli import main
from distcls.commands.crossval import FoldRunner, report
from distcls.errors import Preempted


@pytest.fixture(autouse=True)
def _handlers_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("signal.signal", lambda number, handler: None)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["data.folds=5", "data.fold=2"], "runs all folds: leave out data.fold"),
        (["data.folds=1"], "data.folds"),
    ],
)
def test_mistakes_are_answered_before_anything_runs(
    words: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["crossval", *words]) == 2
    assert expected in capsys.readouterr().err


def test_a_fold_in_the_file_is_named(write_config, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["crossval", "-c", str(write_config("data: {folds: 3, fold: 1}\n"))]) == 2
    assert "x.yaml has data.fold=1, and distcls crossval runs all folds" in capsys.readouterr().err


@pytest.mark.parametrize(("typed", "folds"), [([], 5), (["data.folds=3"], 3)])
def test_a_dry_run_shows_all_folds_and_five_are_the_default(
    typed: list[str], folds: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(FoldRunner, "run", lambda self, words: started.append(list(words)) or 0)
    assert main(["crossval", "--dry-run", *typed]) == 0
    assert [words[:2] for words in started] == [["train", "--dry-run"]] * folds
    assert [words[-3:-1] for words in started] == [[f"data.folds={folds}", f"data.fold={i}"] for i in range(folds)]
    assert f"fold 0 of {folds}: runs/digits-fold0" in capsys.readouterr().out


def test_under_a_launcher_it_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["crossval", "data.folds=5"]) == 2
    assert "start each fold yourself: torchrun" in capsys.readouterr().err


def test_a_fold_that_fails_ends_it_with_its_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started: list[list[str]] = []

    def run(self: FoldRunner, words: list[str]) -> int:
        started.append(words[-2:])
        return 70 if "data.fold=1" in words else 0

    monkeypatch.setattr(FoldRunner, "run", run)
    assert main(["crossval", "data.folds=5", "run.dir=some where/x"]) == 70
    assert started == [
        ["data.fold=0", 'run.dir="some where/x-fold0"'],
        ["data.fold=1", 'run.dir="some where/x-fold1"'],
    ]
    assert "fold 1 ended with exit code 70" in capsys.readouterr().err


def test_a_fold_that_finishes_when_asked_to_stop_is_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = FoldRunner()

    class Finishing:
        def __init__(self, *args: object, **kwargs: object) -> None: ...

        def wait(self) -> int:
            runner._pass_on(15, None)
            return 0

        def send_signal(self, number: int) -> None: ...

    monkeypatch.setattr("subprocess.Popen", Finishing)
    assert runner.run(["train"]) == 0
    with pytest.raises(Preempted):
        runner.run(["train"])


def test_the_report_shows_each_fold_mean_and_deviation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [tmp_path / f"x-fold{fold}" for fold in range(3)]
    for fold, folder in enumerate(folders):
        folder.mkdir()
        values: dict[str, Any] = {"accuracy": 0.8 + fold * 0.05, "loss": 1.0, "count": 10 + fold}
        if fold == 1:  # as version 0.1.0 wrote it
            values["accuracy_by_class"] = [1.0, 0.5]
        else:
            values |= {"weighted_f1": 0.7, "by_class": {"cat": {"recall": 1.0}, "dog": {"recall": 0.5}}}
        (folder / "metrics.json").write_text(json.dumps({"val": values}))
    report(folders, tmp_path / "x-crossval.json")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[1:8]] == [
        ["val"],
        ["loss", "accuracy", "images"],
        ["fold", "0", "1.0000", "80.00%", "10"],
        ["fold", "1", "1.0000", "85.00%", "11"],
        ["fold", "2", "1.0000", "90.00%", "12"],
        ["mean", "1.0000", "85.00%"],
        ["±", "std", "0.0000", "5.00%"],
    ]
    summary = json.loads((tmp_path / "x-crossval.json").read_text())["val"]
    assert set(summary) == {"accuracy", "loss"}, "what all folds have"
    assert summary["loss"] == {"mean": 1.0, "std": 0.0, "folds": [1.0, 1.0, 1.0]}
