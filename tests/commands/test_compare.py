"""`distcls compare` shows runs side by side: in a terminal of any width, as CSV and as a page."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from made_runs import copy_run, make_run

from distcls.cli import main


@pytest.fixture
def runs(tmp_path, monkeypatch) -> Path:
    """Two recipes of three seeds, and runs in every other state."""
    monkeypatch.chdir(tmp_path)
    for lr, accuracy in ((0.1, 0.9), (0.2, 0.95)):
        for seed in range(3):
            settings = [f"optim.lr={lr}", f"train.seed={seed}"]
            make_run(Path(f"runs/lr{lr}-seed{seed}"), *settings, accuracy=accuracy + 0.01 * seed)
    make_run(Path("runs/alone"), "model.name=cnn3", accuracy=0.8)
    make_run(Path("runs/stopped"), state="preempted", reason="SIGTERM", step=35, accuracy=0.7)
    make_run(Path("runs/broken"), state="failed", reason="bad\x1b[31m data\nand more", accuracy=None)
    return Path("runs")


def shown(capsys: pytest.CaptureFixture[str], *words: str, expect: int = 0) -> str:
    """What `distcls compare` prints, or what it says if it fails."""
    assert main(["compare", *words]) == expect
    captured = capsys.readouterr()
    return captured.err if expect else captured.out


def table_of(text: str) -> list[list[str]]:
    """The cells of the table's lines; two spaces or more separate them."""
    lines = text.split("\n\n")[1].splitlines()
    return [re.split(r" {2,}", line) for line in lines]


def test_a_folder_of_runs_is_a_table(capsys, runs) -> None:
    text = shown(capsys)
    assert text.startswith("9 runs: 7 finished, 1 preempted, 1 failed\n")
    rows = table_of(text)
    assert rows[0][:6] == ["run", "state", "val accuracy *", "± std", "95 % interval", "test accuracy"]
    assert [row[0] for row in rows[1:]] == ["lr0.2 (3 seeds)", "lr0.1 (3 seeds)", "alone", "stopped", "broken"]
    assert rows[1][:4] == ["lr0.2 (3 seeds)", "finished", "96.00%", "1.00%"]
    assert rows[3][:4] == ["alone", "finished", "80.00%", "78.00% to 81.00%"]
    assert "3.5/10" in rows[4] and rows[4][2] == "70.00%"
    assert re.search("^stopped +preempted +SIGTERM$", text, re.MULTILINE)
    assert re.search("^broken +failed +bad data and more$", text, re.MULTILINE), "on a line, without the escape code"
    assert "* sorted by val accuracy" in text and "are its best so far" in text


def test_without_groups_each_run_has_a_row(capsys, runs) -> None:
    rows = table_of(shown(capsys, "runs", "--no-group", "--filter", "state=finished", "--columns", "accuracy,lr,time"))
    assert rows[0] == ["run", "val accuracy *", "95 % interval", "optim.lr", "time"]
    assert rows[1] == ["lr0.2-seed2", "97.00%", "95.00% to 98.00%", "0.2", "0:01:15"]
    assert len(rows) == 8


def test_two_runs_show_their_settings_side_by_side(capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_run(Path("one"), "data.workers=1", right=np.arange(90) > 5)
    make_run(Path("two"), "optim.lr=0.5", "train.ema_decay=0.9", "data.workers=3", right=np.arange(90) > 3)
    text = shown(capsys, "two", "one")
    assert [line.split() for line in text.split("\n\n")[2].splitlines()] == [
        ["settings", "that", "differ", "two", "one"],
        ["optim.lr", "0.5", "0.002"],
        ["train.ema_decay", "0.9", "null"],
        ["data.workers", "3", "1"],
    ]
    assert "one beside two, on the same 90 test images: right on 0 that two gets wrong, wrong on 2" in text
    assert "optim.lr" not in text.split("\n\n")[1]


@pytest.mark.parametrize("width", [80, 120])
def test_no_line_is_wider_than_the_terminal(runs, width) -> None:
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": str(width)}
    command = ["script", "-qec", f"{sys.executable} -m distcls compare runs", "/dev/null"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True)
    lines = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", done.stdout).replace("\r", "").splitlines()
    assert max(map(len, lines)) <= width and len(lines) > 10
    heads = [line for line in lines if line.startswith("run ")]
    assert "val accuracy *" in heads[0] and "test accuracy" in heads[0]
    assert ("95 % interval" in heads[0]) == (width > 80)
    assert any(line.startswith("Not shown: ") for line in lines)


def test_csv_has_a_row_for_each_run_and_numbers_as_numbers(capsys, runs) -> None:
    assert shown(capsys, "--csv", "all.csv").endswith("all.csv\n")
    with open("all.csv", newline="") as file:
        rows = {row["run"]: row for row in csv.DictReader(file)}
    assert len(rows) == 9
    row = rows["runs/lr0.1-seed1"]
    assert (row["group"], row["state"], row["optim.lr"], row["train.seed"]) == (
        "lr0.1 (3 seeds)",
        "finished",
        "0.1",
        "1",
    )
    assert float(row["test.accuracy"]) == 0.91 and float(row["test.accuracy.high"]) == pytest.approx(0.92)
    assert float(row["time"]) == 75 and row["parameters"] == "210"
    assert rows["runs/broken"]["test.accuracy"] == "" and rows["runs/alone"]["group"] == ""


def test_a_page_is_written_and_report_leads_to_it(capsys, runs) -> None:
    assert shown(capsys, "--html", "all.html").endswith("all.html\n")
    page = Path("all.html").read_text()
    assert "lr0.2 (3 seeds)" in page and "<svg" in page
    assert main(["report", "runs/alone", "runs/lr0.1-seed0"]) == 0
    assert capsys.readouterr().out.endswith("runs/compare.html\n")
    assert "Settings that differ" in Path("runs/compare.html").read_text()


def test_mistakes_are_answered_before_anything_is_read(capsys, runs) -> None:
    for words, code, message in (
        (["nowhere"], 66, "nowhere: no such run folder"),
        (["--html", "no/x.html"], 66, "there is no folder no. Create it first"),
        (["--sort", "x"], 2, "there is no column 'x'"),
        (["--columns", "x"], 2, "there is no column 'x'"),
        (["--sorted"], 2, "did you mean --sort?"),
    ):
        assert message in shown(capsys, *words, expect=code)
    os.chdir("/")
    assert "there is no folder named runs here" in shown(capsys, expect=66)


def test_fifty_runs_take_a_moment_and_no_torch(runs) -> None:
    first = make_run(runs / "more-0", "optim.lr=777")
    for number in range(1, 42):
        copy_run(first, runs / f"more-{number}", "777", str(number))
    code = (
        "import sys, time\nfrom distcls.cli import main\n"
        "assert main(['compare']) == 0\n"
        "assert not {'torch', 'matplotlib', 'numpy', 'scipy'} & set(sys.modules)\n"
        "print('CPU', time.process_time())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[-1]) < 2.5, "0.7 s on an idle machine"
