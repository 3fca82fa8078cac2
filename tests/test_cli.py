"""Help and mistakes must answer at once, with a message and an exit code that scripts can rely on."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from distcls import __version__
from distcls.cli import COMMANDS, main, run_command
from distcls.errors import DiskError, DistclsError, Preempted, UsageError


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WORLD_SIZE", raising=False)


def fails(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The message of a command that ends with exit code 2."""
    assert main(argv) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("distcls: error: ")
    return captured.err.removeprefix("distcls: error: ").rstrip("\n")


# The overall command -------------------------------------------------------------------------------


def test_help_lists_every_command_and_a_quick_start(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for name, (_, line) in COMMANDS.items():
        assert f"  {name}" in text and line in text
    assert len(text.split("quick start:\n")[1].splitlines()) == 3


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"distcls {__version__}\n"


def test_no_command_shows_help_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "quick start" in capsys.readouterr().err


def test_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert fails(capsys, "trian") == "unknown command 'trian': did you mean 'train'?"
    assert fails(capsys, "xyzzy") == f"unknown command 'xyzzy': the commands are {', '.join(COMMANDS)}"


def test_python_m_distcls_is_the_same() -> None:
    done = subprocess.run([sys.executable, "-m", "distcls", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"distcls {__version__}\n")


def test_help_and_mistakes_do_not_wait_for_torch() -> None:
    mistakes = [
        ["train", "lr=1"],
        ["train", "--lr", "1"],
        ["train", "-c", "no.yaml"],
        ["train", "train.seed=x"],
        ["eval"],
    ]
    code = f"""
import sys
from distcls.cli import main
slow = ("torch", "torchvision", "accelerate", "torchmetrics", "matplotlib", "sklearn", "tensorboard")
for argv, expected in [(["--help"], 0), (["--version"], 0), (["config", "schema"], 0), *((m, 2) for m in {mistakes})]:
    assert main(argv) == expected, argv
    assert not [name for name in slow if name in sys.modules], argv
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# How a command ends --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (UsageError("no"), 2, "distcls: error: no\n"),
        (DiskError("full"), 74, "distcls: error: full\n"),
        (Preempted("saved"), 75, "distcls: saved\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_errors_become_messages_and_exit_codes(
    error: BaseException, code: int, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def command(argv: Sequence[str]) -> int:
        raise error

    assert run_command(command, []) == code
    assert capsys.readouterr().err == text


def test_an_end_that_is_no_failure_is_not_called_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    class AlreadyDone(DistclsError):
        exit_code = 0

    def command(argv: Sequence[str]) -> int:
        raise AlreadyDone("runs/a is finished")

    assert run_command(command, []) == 0
    assert capsys.readouterr().err == "distcls: runs/a is finished\n"


def test_a_bug_keeps_its_traceback() -> None:
    def command(argv: Sequence[str]) -> int:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_command(command, [])


def test_a_broken_pipe_that_is_not_stdout_is_a_bug() -> None:
    def command(argv: Sequence[str]) -> int:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        run_command(command, [])


def test_a_command_gets_the_words_of_the_process_and_may_return_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Sequence[str]] = []
    monkeypatch.setattr(sys, "argv", ["distcls", "a", "b"])
    assert run_command(lambda argv: seen.append(argv), None) == 0
    assert seen == [["a", "b"]]


@pytest.mark.parametrize("text", ["'line ' * 10**6", "'short'"])
def test_a_reader_that_leaves_early_is_no_error(text: str) -> None:
    code = f"""
import sys, time
from distcls.commands.exit_codes import run_command
print("begin", flush=True)
time.sleep(0.2)
sys.exit(run_command(lambda argv: print({text}), []))
"""
    writer = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert writer.stdout is not None and writer.stderr is not None
    writer.stdout.readline()
    writer.stdout.close()
    assert writer.stderr.read() == b""
    writer.stderr.close()
    assert writer.wait() == 141


@pytest.mark.parametrize(("end", "code"), [("raise Preempted('saved')", 75), ("raise OSError(28, 'full')", 74)])
def test_the_end_of_a_run_is_told_by_its_code_though_nobody_reads_it(end: str, code: int) -> None:
    """As if Ctrl-C had ended tee, too, in `distcls train 2>&1 | tee log`."""
    program = f"""
import sys, time
from distcls.commands.exit_codes import run_command
from distcls.errors import Preempted
def command(argv):
    print("a line of progress", end="")
    {end}
print("begin", flush=True)
time.sleep(0.2)
sys.exit(run_command(command, []))
"""
    buffered = {**os.environ, "PYTHONUNBUFFERED": ""}
    writer = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=buffered
    )
    assert writer.stdout is not None
    writer.stdout.readline()
    writer.stdout.close()
    assert writer.wait(30) == code


@pytest.mark.parametrize(
    ("variables", "is_told"),
    [
        ({}, True),
        ({"RANK": "1"}, True),  # left from elsewhere
        ({"RANK": "8", "LOCAL_RANK": "0"}, True),  # the first on its machine, which may differ from the others
        ({"RANK": "1", "LOCAL_RANK": "1"}, False),
        ({"SLURM_LOCALID": "1"}, True),  # srun may start commands that have nothing to do with each other
    ],
)
def test_an_error_is_told_once_on_each_machine(monkeypatch, capsys, variables, is_told) -> None:
    for name in ("RANK", "LOCAL_RANK", "SLURM_LOCALID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    def command(argv: Sequence[str]) -> int:
        raise UsageError("no such setting")

    monkeypatch.setattr("distcls.cluster.joining.has_met", lambda: False)
    assert run_command(command, []) == 2
    assert ("no such setting" in capsys.readouterr().err) == is_told
    monkeypatch.setattr("distcls.cluster.joining.has_met", lambda: True)
    assert run_command(command, []) == 2
    assert ("no such setting" in capsys.readouterr().err) == (variables.get("RANK", "0") == "0")


@pytest.mark.parametrize(("error", "code"), [(OSError(errno.ENOSPC, "No space left on device"), 74)])
def test_a_full_disk_is_no_bug_wherever_it_is_met(error, code, capsys):
    def fail(argv):
        raise error

    assert run_command(fail, []) == code
    assert "No space left on device" in capsys.readouterr().err


def test_a_process_that_was_started_without_output_ends_as_any_other() -> None:
    for closed in (">&-", ">&- 2>&-"):
        command = ["bash", "-c", f'"$0" -m distcls --version {closed}', sys.executable]
        done = subprocess.run(command, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
