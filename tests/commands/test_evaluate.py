"""The settings of an evaluation: where its images are, and what the user may change."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_runs import make_run

from distcls.cli import main
from distcls.commands import evaluate
from distcls.commands.evaluate import PARTS, settings_of_images
from distcls.config.imports import import_by_name
from distcls.config.settings import Config, DataConfig
from distcls.config.yaml_text import to_yaml
from distcls.errors import UsageError
from distcls.runs.opening import opened_run, sign_config


def data_of(run_dir: Path, split: str, *overrides: str) -> DataConfig:
    with opened_run(run_dir, PARTS, settings_of_images(run_dir, "new", split, overrides), trust=False) as config:
        return config.data


@pytest.fixture
def run_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("new").mkdir()
    Path("run").mkdir()
    for name in ("classes.json", "preprocessing.json"):
        Path("run", name).write_text("{}")
    return Path("run")


def write_run(**data: object) -> None:
    Path("run", "config.yaml").write_text(to_yaml(Config().replaced({f"data.{name}": data[name] for name in data})))


def test_what_the_user_leaves_out_of_other_images_is_left_out(run_dir: Path) -> None:
    write_run(name="folder", root="old", exclude="old.csv", val_fraction=0.2)
    found = data_of(run_dir, "all", "data.exclude=bad.csv")
    assert (found.root, found.exclude, found.val_fraction, found.test_fraction) == ("new", "bad.csv", 0, 0)
    assert data_of(run_dir, "all").exclude is None and data_of(run_dir, "test").exclude == "old.csv"
    write_run(name="folder", root="old", groups="(a)")
    assert data_of(run_dir, "all").groups is None and data_of(run_dir, "test").groups == "(a)"
    write_run(name="csv", root="old.csv", groups="(a)")
    assert data_of(run_dir, "test").groups == "(a)"
    write_run(name="csv", root="old.csv", groups="patient")
    assert data_of(run_dir, "test").groups is None, "new is a folder, which has no columns"


def test_other_images_are_no_data_set_even_if_the_runs_were(run_dir: Path) -> None:
    """CIFAR-10 would be downloaded into the folder."""
    write_run(name="cifar10", root="cifar", download=True)
    found = data_of(run_dir, "all")
    assert (found.name, found.root, found.download) == ("folder", "new", False)
    assert data_of(run_dir, "test").name == "cifar10", "the data set itself has moved"
    write_run(name="synthetic", args={"num_images": 50})
    assert (data_of(run_dir, "all").name, data_of(run_dir, "all").args) == ("folder", {})


@pytest.mark.parametrize("setting", ["data.interpolation=bicubic", "data.crop_fraction=0.5", "data.image_size=64"])
def test_a_model_sees_images_as_it_did_in_training(
    run_dir: Path, capsys: pytest.CaptureFixture[str], setting: str
) -> None:
    write_run(name="folder", root="old")
    assert main(["eval", "run", setting]) == 2
    assert f"{setting}: a run is evaluated with the settings it was trained with" in capsys.readouterr().err


@pytest.mark.parametrize("order", [["plain", "mine"], ["mine", "plain"]])
def test_each_run_is_checked_alone_and_what_passed_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: list[str]
) -> None:
    """A run that names no code has no signature; it is no reason to refuse the code of one's own run beside it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("evaluated_code.py").write_text("def make(*args): ...\ndef read(*args): ...\ndef other(*args): ...\n")
    make_run(Path("plain"))
    sign_config(make_run(Path("mine"), "model.name=evaluated_code:make", "data.name=evaluated_code:read"))
    for run_dir in ("plain", "mine"):
        Path(run_dir, "preprocessing.json").write_text("{}")
    imported = []

    def open_run(run_dir: Path, config: Config, split: str) -> None:
        if ":" in config.model.name:
            imported.append(import_by_name("model.name", config.model.name).__name__)

    def evaluated(*_: object) -> None:
        imported.append(import_by_name("data.name", "evaluated_code:read").__name__)
        with pytest.raises(UsageError, match="imports the data, models and losses of its runs, and nothing else"):
            import_by_name("data.name", "evaluated_code:other")

    monkeypatch.setattr("distcls.inference.evaluation.open_run", open_run)
    monkeypatch.setattr(evaluate, "_evaluate", evaluated)
    assert main(["eval", *order]) == 0 and imported == ["make", "read"]
    Path("mine", "config.signature").unlink()
    assert main(["eval", *order]) == 2 and imported == ["make", "read"]
