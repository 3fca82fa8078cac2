"""Words of a command are taken as they were meant, in any order; for a mistake, the right word is named."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from distcls.cli import main
from distcls.commands.arguments import TrainOptions, check_can_write, parse_train_arguments, settings_of_moved
from distcls.config.loading import read_config
from distcls.errors import DiskError, MissingInputError, UsageError


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WORLD_SIZE", raising=False)


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
        (["lr", "1"], "'lr' is not a setting: write settings as key=value, such as optim.lr=3e-4"),
        (["--dryrun"], "unknown option --dryrun: did you mean --dry-run?"),
        (["--conf", "x.yaml"], "unknown option --conf: did you mean --config?"),
        (["--lr", "0.1"], "settings have no dashes: did you mean optim.lr=VALUE?"),
        (["--optim.lr=0.1"], "did you mean optim.lr=0.1?"),
        (["--num-epochs=3"], "did you mean train.num_epochs=3?"),
        (["--xyzzy"], "unknown option --xyzzy: the options are -h, --help, -c, --config, --data, --preset, --name"),
        (["-c"], "expected one argument"),
        (
            ["-c", "base.yaml", "optim.lr=1", "--config=x.yaml"],
            "-c base.yaml -c x.yaml: there can be only one config file. Put all settings into one, or give some as "
            "key=value, such as optim.lr=3e-4",
        ),
        (["--data", ""], "--data '' is empty: a shell variable may be unset. Give the folder of your images"),
        (["--data", " "], "--data ' ' is empty"),
        (["model.init_from="], "model.init_from= has no value"),
        (["optim.lrr=1"], "optim.lrr=1: unknown setting optim.lrr: did you mean 'optim.lr'?"),
        (["-c", "y.yaml"], "y.yaml: cannot read the config (No such file or directory): did you mean x.yaml?"),
    ],
)
def test_mistakes(words: list[str], expected: str) -> None:
    Path("x.yaml").write_text("", encoding="utf-8")
    Path("images").mkdir()
    with pytest.raises(UsageError) as caught:
        parse_train_arguments(words)
    assert expected in str(caught.value)


@pytest.mark.parametrize("command", ["train", "crossval", "submit", "sweep", "check", "benchmark", "summary"])
def test_every_command_takes_one_config_file(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "-c", "base.yaml", "-c", "mine.yaml"]) == 2
    assert "-c base.yaml -c mine.yaml: there can be only one config file" in capsys.readouterr().err


def test_where_the_images_are_now_is_not_empty() -> None:
    run_dir = Path(__file__).parents[1] / "golden" / "run_0.1.0"
    with pytest.raises(UsageError, match="data.root is empty"):
        read_config(run_dir / "config.yaml", settings_of_moved("", run_dir))


def test_what_cannot_be_written_is_refused_before_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("folder").mkdir()
    Path("file").touch()
    for path, is_folder in (("new", False), ("file", False), ("/dev/null", False), ("new", True), ("folder", True)):
        check_can_write(Path(path), is_folder)
    with pytest.raises(MissingInputError, match="no/new cannot be written: there is no folder no. Create it first"):
        check_can_write(Path("no/new"))
    with pytest.raises(UsageError, match="folder cannot be written: it is a folder. Give the name of a file"):
        check_can_write(Path("folder"))
    with pytest.raises(UsageError, match="file cannot be written: it is a file. Give the name of a folder"):
        check_can_write(Path("file"), is_folder=True)
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "folder")  # root may write anywhere
    check_can_write(Path("file"))
    for path, is_folder in (("folder/new", False), ("folder/new", True), ("folder", True)):
        with pytest.raises(DiskError, match="cannot be written: you may not write to folder. Give another place"):
            check_can_write(Path(path), is_folder)
