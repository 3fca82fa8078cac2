"""Help and mistakes must answer at once, with a message and an exit code that scripts can rely on."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from distcls import __version__
from distcls.cli import COMMANDS, TrainOptions, main, parse_train_arguments, run_command
from distcls.config_schema import json_schema
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
from distcls.cli import run_command
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


# distcls train -------------------------------------------------------------------------------------


def test_options_and_settings_in_any_order() -> None:
    Path("flowers.yaml").write_text("optim: {lr: 0.1, name: sgd}\n", encoding="utf-8")
    config, options = parse_train_arguments(
        ["optim.lr=1", "-c", "flowers.yaml", "train.seed=2", "--dry-run", "model.args={a: 1, b: [2]}", "--print-config"]
    )
    assert (config.optim.lr, config.optim.name, config.train.seed) == (1.0, "sgd", 2)
    assert config.model.args == {"a": 1, "b": [2]}
    assert options == TrainOptions(dry_run=True, print_config=True, config_path=Path("flowers.yaml"))
    assert config.run.name is None


def test_nothing_given() -> None:
    _, options = parse_train_arguments([])
    assert options == TrainOptions(dry_run=False, print_config=False, config_path=None)


def test_data_is_a_folder_unless_the_name_is_set() -> None:
    config, _ = parse_train_arguments(["--data", "my images: #1"])
    assert (config.data.root, config.data.name) == ("my images: #1", "folder")
    assert parse_train_arguments(["--data", "a/Labels.CSV"])[0].data.name == "csv"
    assert parse_train_arguments(["--data", "set.npz"])[0].data.name == "npz"
    config, _ = parse_train_arguments(["--data", "d", "data.name=cifar10"])
    assert (config.data.root, config.data.name) == ("d", "cifar10")
    Path("x.yaml").write_text("data: {name: mnist, root: e}\n", encoding="utf-8")
    config, _ = parse_train_arguments(["-c", "x.yaml", "--data=d"])
    assert (config.data.root, config.data.name) == ("d", "mnist")


@pytest.mark.parametrize("name", ["flowers", "007", "null", "[a", 'say "hi"', "🌸"])
def test_name_is_taken_as_it_is(name: str) -> None:
    assert parse_train_arguments(["--name", name])[0].run.name == name


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["x.yaml"], "'x.yaml' is not a setting: did you mean -c x.yaml?"),
        (["images"], "'images' is not a setting: did you mean --data images?"),
        (["lr", "1"], "'lr' is not a setting: settings are written key=value, such as optim.lr=3e-4"),
        (["--dryrun"], "unknown option --dryrun: did you mean --dry-run?"),
        (["--conf", "x.yaml"], "unknown option --conf: did you mean --config?"),
        (["--lr", "0.1"], "settings are written without dashes: did you mean optim.lr=VALUE?"),
        (["--optim.lr=0.1"], "did you mean optim.lr=0.1?"),
        (["--num-epochs=3"], "did you mean train.num_epochs=3?"),
        (["--xyzzy"], "unknown option --xyzzy: the options are -h, --help, -c, --config, --data, --name"),
        (["-c"], "expected one argument"),
        (["optim.lrr=1"], "optim.lrr=1: unknown setting optim.lrr: did you mean 'lr'?"),
        (["-c", "y.yaml"], "y.yaml: cannot read the config (No such file or directory): did you mean x.yaml?"),
    ],
)
def test_mistakes(words: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("x.yaml").write_text("", encoding="utf-8")
    Path("images").mkdir()
    assert expected in fails(capsys, "train", *words)


# distcls config schema -----------------------------------------------------------------------------


def test_schema_is_printed_or_written(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "schema"]) == 0
    printed = capsys.readouterr().out
    assert json.loads(printed) == json_schema()
    assert main(["config", "schema", "-o", "schema.json"]) == 0
    assert Path("schema.json").read_text(encoding="utf-8") == printed


def test_schema_mistakes(capsys: pytest.CaptureFixture[str]) -> None:
    assert "required: schema" in fails(capsys, "config")
    assert "invalid choice: 'schem'" in fails(capsys, "config", "schem")
    assert main(["config", "schema", "-o", "no/such/folder"]) == 74
    assert "no/such/folder: cannot write the schema" in capsys.readouterr().err


@pytest.mark.parametrize(("error", "code"), [(OSError(errno.ENOSPC, "No space left on device"), 74)])
def test_a_full_disk_is_no_bug_wherever_it_is_met(error, code, capsys):
    def fail(argv):
        raise error

    assert run_command(fail, []) == code
    assert "No space left on device" in capsys.readouterr().err
