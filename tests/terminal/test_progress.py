"""What a person sees must be readable on any terminal, plain off one, and never end a run."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from terminals import Terminal, visible

from distcls.errors import DiskError
from distcls.terminal.progress import Progress

ROW = {"epoch": 1.0, "step": 20, "train_loss": 0.5, "loss": 0.4, "accuracy": 0.9, "macro_f1": 0.88, "ece": 0.05}
METRICS = {"val": {"accuracy": 0.95, "loss": 0.2, "count": 1372}, "test": {"accuracy": 0.9499, "count": 3430}}
SCRIPT = """
import sys
from distcls.terminal.progress import Progress
progress = Progress()
progress.note("× one ★")
progress.start(5, 0)
for step in range(1, 6):
    progress.update(step, step / 5, step, 0.5)
    progress.note("still here")
progress.finish({"val": {"accuracy": 0.5}}, [], "distcls eval")
"""


def update(progress: Progress, step: int) -> None:
    if progress.is_time_for(step):
        progress.update(step, step / 20, min(step, 20), 0.3412, 0.891, 1.9e-3, 12345.6, 1.23e9, 0.034, 3753.0)


def tell_everything(progress: Progress) -> None:
    progress.header([("data", "digits, 1437 images"), ("batch", "128 = 4 processes × 16 images × 2 accumulation")])
    progress.note("a note with [brackets] and \x1b[31mcolor\x1b[0m")
    progress.warning("something is odd")
    progress.start(40, 0)
    update(progress, 1)
    progress.evaluation_row({**ROW, "best": True})
    progress.evaluation_row({**ROW, "step": 40, "best": False, "count": 7})
    update(progress, 40)
    progress.finish(METRICS, [("cat", "dog", 83), ("ship", "truck", 1)], "distcls predict a\ndistcls eval b")


def plain_output() -> str:
    stream = io.StringIO()
    tell_everything(Progress(stream))
    return stream.getvalue()


@pytest.fixture
def terminal_of_width(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")

    def make(width: int) -> Terminal:
        monkeypatch.setenv("COLUMNS", str(width))
        return Terminal(width)

    return make


def test_off_a_terminal_there_are_no_escape_codes():
    output = plain_output()
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", output)
    assert "a note with [brackets] and color\n" in output


def test_off_a_terminal_one_plain_line_every_interval():
    stream = io.StringIO()
    progress = Progress(stream, interval=0.05)
    progress.start(10**9, 0)
    started = time.monotonic()
    step = 0
    while time.monotonic() - started < 0.28:
        update(progress, step := step + 1)
    lines = stream.getvalue().splitlines()
    assert 3 <= len(lines) <= 7 < step
    assert re.fullmatch(
        r"epoch \S+  step \d+/1000000000  0%  last 20 steps: loss 0.3412  acc 89.1%  lr 1.90e-03  12,346 img/s  1.2 GB"
        r"  data wait 3%  left 1:02:33",
        lines[-1],
    )


def test_work_before_training_is_shown():
    stream = io.StringIO()
    progress = Progress(stream)
    for done in range(50, 1001):
        progress.working("decoding images", done, 1000)
    assert stream.getvalue() == "decoding images 50/1000  5%\n"
    Progress.silent().working("decoding images", 1, 2)


def test_last_step_is_always_shown():
    assert "step 40/40  100%" in plain_output()


def test_evaluations_are_one_aligned_table():
    lines = plain_output().splitlines()
    titles = [number for number, line in enumerate(lines) if "val accuracy" in line]
    assert len(titles) == 1
    header, best, other = lines[titles[0] : titles[0] + 3]
    assert "top-5" not in header
    assert len(header) == len(best) == len(other)
    assert best[header.index("best") : header.index("best") + 4] == "   *" and "*" not in other
    assert best[: header.index("val accuracy") + 12].endswith("90.00%")


def test_the_last_word_is_for_the_log_alone(tmp_path):
    stream = io.StringIO()
    progress = Progress(stream)
    progress.attach_log(tmp_path / "log.txt")
    progress.last_word("preempted at step 5: SIGINT")
    assert stream.getvalue() == "" and (tmp_path / "log.txt").read_text().endswith("  preempted at step 5: SIGINT\n")


def test_the_end_tells_what_came_of_it():
    output = plain_output()
    assert "cat taken for dog: 83 times\n" in output and "ship taken for truck: 1 time\n" in output
    assert re.search(r"val +0.2000 +95.00% +1,372\ntest +94.99% +3,430\n", output)
    assert output.endswith("next\n  distcls predict a\n  distcls eval b\n")


def by_class(number: int) -> dict:
    """F1 0 of class 0 to nearly 1 of the last; none has fewer than 10 images."""
    return {f"c{i}": {"precision": 0.5, "recall": 0.25, "f1": i / number, "count": 10 + i} for i in range(number)}


@pytest.mark.parametrize(
    ("classes", "title"), [(10, "test, by class"), (11, "test, the 10 worst of 11 classes, by F1")]
)
def test_the_end_shows_classes_of_the_last_split(classes, title):
    stream = io.StringIO()
    Progress(stream).finish(
        {"val": {"accuracy": 0.5}, "test": {"accuracy": 0.5, "by_class": by_class(classes)}}, [], ""
    )
    lines = stream.getvalue().splitlines()
    shown = lines[lines.index(title) + 2 :]
    assert [line.split()[0] for line in shown] == [f"c{i}" for i in range(10)]
    assert shown[1].split() == ["c1", "0.5000", "0.2500", f"{1 / classes:.4f}", "11"]


def test_a_measurement_shows_all_metrics(capsys):
    values = {"accuracy": 0.5, "macro_precision": 0.25, "count": 1234, "by_class": by_class(2)}
    Progress().measurement("val", values, [("cat", "dog", 2)])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[:4] == [["val"], ["accuracy", "50.00%"], ["macro", "precision", "0.2500"], ["images", "1,234"]]
    assert lines[5:] == [
        ["val,", "by", "class"],
        ["precision", "recall", "F1", "images"],
        ["c0", "0.5000", "0.2500", "0.0000", "10"],
        ["c1", "0.5000", "0.2500", "0.5000", "11"],
        [],
        ["val,", "most", "often", "confused"],
        ["cat", "taken", "for", "dog:", "2", "times"],
    ]


def test_log_has_what_stays_with_the_time(tmp_path):
    progress = Progress(io.StringIO())
    progress.note("before the folder is known")
    progress.attach_log(tmp_path / "run" / "log.txt")
    tell_everything(progress)
    lines = (tmp_path / "run" / "log.txt").read_text(encoding="utf-8").splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d\d:\d\d  \S*", line) for line in lines)
    said = [line[27:] for line in lines]
    assert said[0] == "before the folder is known"
    assert "warning: something is odd" in said and "data   digits, 1437 images" in said
    assert not any("img/s" in line or "\x1b" in line for line in said)


def test_log_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskError, match=r"run\.dir"):
        Progress(io.StringIO()).attach_log(tmp_path / "file" / "log.txt")


@pytest.mark.parametrize("width", [60, 80, 120])
def test_live_line_and_table_fit_the_terminal(terminal_of_width, width):
    terminal = terminal_of_width(width)
    tell_everything(Progress(terminal.stream))
    output = terminal.close()
    assert "\x1b[" in output
    shown = re.split(r"[\r\n]+", visible(output))
    assert max(map(len, shown)) < width
    live = next(line for line in shown if "step 40/40" in line)
    assert "loss 0.3412" in live and "left 1:02:33" in live
    assert "last 20 steps: loss" in live and ("acc 89.1%" in live) == (width >= 80)
    assert ("data wait 3%" in live) == (width == 120) and ("epoch 2.0" in live) == (width == 120)


def test_a_terminal_gets_at_most_8_lines_a_second(terminal_of_width):
    terminal = terminal_of_width(100)
    progress = Progress(terminal.stream)
    progress.start(10**6, 0)
    started = time.monotonic()
    step = 0
    while time.monotonic() - started < 0.6:
        update(progress, step := step + 1)
    progress.close()
    assert terminal.close().count("0.3412") <= 6 < step  # the end draws once more


def test_the_cursor_is_never_left_hidden(terminal_of_width):
    terminal = terminal_of_width(100)
    progress = Progress(terminal.stream)
    progress.start(10, 0)
    time.sleep(0.05)
    seen_while_running = terminal._bytes.decode()
    progress.close()
    terminal.close()
    assert seen_while_running.rfind("\x1b[?25h") > seen_while_running.rfind("\x1b[?25l")


STOPPED = """
import sys, time
from distcls.terminal.progress import Progress
progress = Progress()
progress.attach_log("log.txt")
progress.start(500, 0)
for step in range(500):
    progress.update(step, 0.5, 1, 0.5)
    progress.note(f"line {step} " + 200 * "x")
open("trained", "w").close()
progress.close()
"""


def test_a_terminal_that_reads_nothing_stops_no_run(tmp_path):
    master, slave = os.openpty()
    environment = {**os.environ, "TERM": "xterm", "PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen(
        [sys.executable, "-c", STOPPED], cwd=tmp_path, env=environment, stdout=slave, stderr=subprocess.PIPE
    )
    try:
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
        os.close(slave)
        os.close(master)
    assert (process.returncode, errors) == (0, b"") and (tmp_path / "trained").exists()
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert [int(line.split()[3]) for line in lines] == list(range(500))


def test_a_slow_terminal_gets_everything_in_order(terminal_of_width):
    terminal = terminal_of_width(100)
    progress = Progress(terminal.stream)
    for number in range(2000):
        progress.note(f"line {number}")
    progress.close()
    shown = visible(terminal.close())
    assert [int(number) for number in re.findall(r"line (\d+)", shown)] == list(range(2000))
    assert not [thread for thread in threading.enumerate() if thread.name == "distcls-terminal"]


def test_a_program_that_ends_without_closing_has_shown_everything(terminal_of_width):
    terminal = terminal_of_width(100)
    code = "from distcls.terminal.progress import Progress\nfor n in range(300): Progress().note(f'line {n}')"
    subprocess.run([sys.executable, "-c", code], stdout=terminal.stream, check=True)
    assert "line 299" in terminal.close()


def test_a_step_that_is_not_told_costs_little():
    progress = Progress(io.StringIO())
    progress.start(10**9, 0)
    started = time.perf_counter()
    for step in range(20_000):
        update(progress, step)
    assert (time.perf_counter() - started) / 20_000 < 20e-6


def test_silent_says_nothing(capsys, tmp_path):
    progress = Progress.silent()
    progress.attach_log(tmp_path / "log.txt")
    tell_everything(progress)
    progress.close()
    assert capsys.readouterr().out == "" and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("redirect", [">&-", ">/dev/full", "| true", "| head -1"])
def test_a_broken_stdout_ends_no_run(redirect):
    command = f'set -o pipefail; "$0" -c "$1" {redirect}'
    done = subprocess.run(["bash", "-c", command, sys.executable, SCRIPT], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_stream_that_knows_only_ascii():
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, env=environment)
    assert done.returncode == 0 and done.stdout.startswith("? one ?\n")
