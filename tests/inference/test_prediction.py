"""What is asked about, what is answered, and what a run folder from elsewhere may do meanwhile: nothing."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distcls.errors import MissingInputError
from distcls.inference.prediction import find_images

OLD_RUN = Path(__file__).parents[1] / "golden" / "run_0.1.0"


def write_image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8)).save(path)


def test_files_and_the_images_in_folders_are_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a/2.png", "a/1.png", "b.png"):
        write_image(Path(name))
    (tmp_path / "a" / "notes.txt").touch()
    assert find_images(["b.png", "a"]) == [Path("b.png"), Path("a/1.png"), Path("a/2.png")]
    with pytest.raises(MissingInputError, match="c: no such image or folder"):
        find_images(["b.png", "c"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingInputError, match="there are no images in empty"):
        find_images(["empty"])


def test_a_run_that_is_not_there_is_answered_without_the_engine(tmp_path):
    code = """
import sys
from distcls.cli import main
for argv in (["predict", "nope", "x.png"], ["eval", "nope"], ["report", "nope"], ["eval", "nope", "--data", "."]):
    assert main(argv) == 66, argv
slow = ("torch", "torchvision", "accelerate", "torchmetrics", "matplotlib", "sklearn", "tensorboard")
assert not [name for name in slow if name in sys.modules]
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("nope: no such run folder") == 4


def test_images_that_cannot_be_read_are_named_with_reasons_and_the_others_are_answered(ranks):
    shutil.copytree(OLD_RUN, ranks.folder / "run")
    write_image(ranks.folder / "good.png")
    (ranks.folder / "empty.png").touch()
    told = ranks.run("predict", "run", "empty.png", "good.png", expect=65)
    assert "good.png  " in told and "1 of 2 images could not be read:\n  empty.png: an empty file" in told


EVIL = """
from pathlib import Path
Path("executed").touch()

def make(num_classes, **args):
    from distcls.models.networks.cnn import cnn2
    return cnn2(num_classes, 8, **args)
"""


def test_a_foreign_run_folder_runs_no_code_unless_it_is_trusted(ranks):
    """Whatever uses it: predict, eval, report, and another run that starts from its weights."""
    foreign, executed = ranks.folder / "foreign", ranks.folder / "executed"
    shutil.copytree(OLD_RUN, foreign)
    config = foreign / "config.yaml"
    text = config.read_text().replace("name: cnn2", "name: evil:make").replace("cross_entropy", "evil:make")
    config.write_text(text.replace("transforms: []", "transforms: [{name: evil:make}]"))
    (ranks.folder / "evil.py").write_text(EVIL)
    write_image(ranks.folder / "x.png")
    for argv in (["predict", "foreign", "x.png"], ["eval", "foreign", "--split", "val"]):
        told = ranks.run(*argv, expect=2)
        assert "model.name=evil:make" in told and "--trust" in told and not executed.exists()
    assert "curves.png" in ranks.run("report", "foreign")
    start_from = ["data.name=synthetic", "data.args={num_images: 80, num_classes: 4, size: 8}", "model.args.hidden=2"]
    ranks.run("train", *start_from, "model.init_from=foreign", "train.num_steps=1", "run.trackers=[]")
    assert not executed.exists()
    assert "x.png  " in ranks.run("predict", "foreign", "x.png", "--trust") and executed.exists()


def test_a_run_of_ones_own_with_code_of_ones_own_needs_no_trust(ranks):
    (ranks.folder / "mine.py").write_text(EVIL)
    write_image(ranks.folder / "x.png")
    own = ["model.name=mine:make", "train.num_steps=1", "train.num_threads=1", "run.trackers=[]"]
    ranks.run("train", "--name", "r", *own)
    ranks.run("eval", "runs/r")
    for folder in ("runs/r", "runs/r/model"):
        assert "x.png  " in ranks.run("predict", folder, "x.png")
    shutil.rmtree(ranks.folder / "config")  # as on another machine
    assert "--trust" in ranks.run("predict", "runs/r", "x.png", expect=2)


def test_a_dry_run_does_not_call_what_is_no_transform(ranks):
    for name, args in (("os:system", "{command: touch executed}"), ("shutil:copy", "{src: a.txt, dst: executed}")):
        (ranks.folder / "a.txt").touch()
        told = ranks.run("train", "--dry-run", f"augment.transforms=[{{name: '{name}', args: {args}}}]", expect=2)
        assert f"augment.transforms={name}" in told and "belongs to Python itself" in told
    assert not (ranks.folder / "executed").exists()
