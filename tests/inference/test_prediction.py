"""What is asked about, what is answered, and what a run folder from elsewhere may do meanwhile: nothing."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import distcls
from distcls.cli import main
from distcls.cluster.processes import Processes
from distcls.inference.evaluation import evaluate, open_run
from distcls.runs.opening import opened_run

OLD_RUN = Path(__file__).parents[1] / "golden" / "run_0.1.0"


def write_image(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3)).astype(np.uint8)).save(path)


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


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """A run, and a.png, b.png and an empty bad.png in photos/, in the current folder."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(OLD_RUN, tmp_path / "run")
    for name in ("a.png", "b.png"):
        write_image(tmp_path / "photos" / name)
    (tmp_path / "photos" / "bad.png").touch()
    return tmp_path / "photos"


def predicted(capfd, *words: str, code: int = 0) -> tuple[list[str], str]:
    """Call `distcls predict`: the lines that it writes, and its warnings and errors."""
    assert main(["predict", "run", *words, "--device", "cpu"]) == code
    written = capfd.readouterr()
    assert "Traceback" not in written.err
    return written.out.splitlines(), written.err


def test_images_that_cannot_be_read_are_named_and_skipped(photos, capfd):
    lines, errors = predicted(capfd, "photos")
    assert [line.split()[0] for line in lines] == ["photos/a.png", "photos/b.png"]
    assert all(line.count("%") == 4 and "class" in line for line in lines), "all four classes"
    assert errors == "warning: photos/bad.png: an empty file\nwarning: 1 of 3 images could not be read\n"


def test_it_is_an_error_only_if_none_could_be_read(photos, capfd):
    lines, errors = predicted(capfd, "photos/bad.png", code=65)
    assert lines == [] and "error: the image could not be read" in errors
    shutil.copy(photos / "bad.png", photos / "worse.png")
    _, errors = predicted(capfd, "photos/*bad.png", "photos/worse.png", code=65)
    assert "error: none of the 2 images could be read" in errors
    lines, _ = predicted(capfd, "photos/bad.png", "--format", "jsonl", code=65)
    assert json.loads(lines[0]) == {"image": "photos/bad.png", "error": "an empty file"}


def test_nothing_to_predict_is_a_warning(photos, capfd, monkeypatch):
    (photos.parent / "empty").mkdir()
    lines, errors = predicted(capfd, "empty", "--format", "csv")
    assert len(lines) == 1 and lines[0].startswith("image,prediction,confidence,p_")
    assert errors == "warning: there are no images in empty\n"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\n")))
    assert predicted(capfd, "-") == ([], "warning: there are no images in -\n")


def test_all_sources_formats_and_batch_sizes_agree(photos, capfd, monkeypatch):
    for i in range(7):
        write_image(photos / f"more{i}.png", seed=i)
    names = [f"photos/{path.name}" for path in sorted(photos.iterdir())]
    (photos.parent / "list.csv").write_text("path,label\n" + "".join(f"{name},x\n" for name in names))
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("\n".join(names).encode())))
    expected, _ = predicted(capfd, "photos", "--format", "csv", "--workers", "0")
    assert len(expected) == 1 + 9 and [line.split(",")[0] for line in expected[1:]] == [
        n for n in names if "bad" not in n
    ]
    for source, *options in (
        ("photos/*.png", "--batch-size", "1"),
        ("list.csv", "--batch-size", "4", "--workers", "2"),
        ("-", "--batch-size", "3", "--workers", "0"),
    ):
        lines, _ = predicted(capfd, source, "--format", "csv", *options)
        assert numbers(lines) == pytest.approx(numbers(expected), abs=1e-6)
        assert [line.split(",")[:2] for line in lines] == [line.split(",")[:2] for line in expected]
    lines, _ = predicted(capfd, "photos", "--format", "jsonl", "--topk", "2")
    rows = [json.loads(line) for line in lines if "error" not in line]
    assert [row["confidence"] for row in rows] == pytest.approx([float(line.split(",")[2]) for line in expected[1:]])
    assert all(len(row["topk"]) == 2 for row in rows)


def numbers(lines: list[str]) -> list[float]:
    return [float(cell) for line in lines[1:] for cell in line.split(",")[2:]]


def test_a_file_is_written_whole_and_its_name_says_how(photos, capfd, monkeypatch):
    for name, first in (("x.csv", "image,prediction"), ("x.jsonl", '{"image"'), ("x.txt", "photos/a.png  ")):
        assert predicted(capfd, "photos/a.png", "--output", name)[0] == []
        assert Path(name).read_text().startswith(first)
    before = Path("x.csv").read_text()

    def interrupted(self: object, images: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("distcls.inference.classifier.Classifier.forward", interrupted)
    predicted(capfd, "photos", "--output", "x.csv", code=130)
    assert Path("x.csv").read_text() == before
    assert not list(photos.parent.glob(".*.tmp"))


def test_an_unsure_answer_is_unknown(photos, capfd):
    lines, _ = predicted(capfd, "photos/a.png", "--format", "csv", "--threshold", "1")
    assert lines[1].split(",")[1] == "unknown"
    lines, _ = predicted(capfd, "photos/a.png", "--threshold", "1")
    assert lines[0].split()[1] == "unknown"


def test_heat_maps_are_drawn_where_the_images_lie(photos, capfd):
    predicted(capfd, "photos", str(photos / "a.png"), "--gradcam", "heat")
    names = ["photos/a.png", "photos/b.png", f"{str(photos).lstrip('/')}/a.png"]
    for name in names:
        picture = np.asarray(Image.open(f"heat/{name}.png"))
        original, seen = picture[:, :224], picture[:, 224:]
        assert picture.shape == (224, 448, 3)
        assert np.array_equal(original[::28, ::28], np.asarray(Image.open(name if name in names[:2] else f"/{name}")))
        assert np.abs(original.astype(int) - seen).mean() > 5
    assert len(list(Path("heat").rglob("*.png"))) == 3


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["photos", "--topk", "0"], 2, "--topk 0: give the number of classes to show, 1 or more"),
        (["photos", "--threshold", "50"], 2, "--threshold 50.0: give a probability from 0 to 1, such as 0.5"),
        (["photos", "--batch-size", "0"], 2, "--batch-size 0: give 1 or more"),
        (["photos", "--workers", "-1"], 2, "--workers -1: give 0 or more"),
        (["photos", "--format", "xml"], 2, "invalid choice: 'xml'"),
        (["photos", "--gradcam", "run/classes.json"], 74, "cannot write run/classes.json"),
        (["photos", "--output", "no/such.csv"], 66, "there is no folder no"),
        (["fotos"], 66, "fotos: no such image or folder"),
        (["photos/*.jpg"], 66, "photos/*.jpg: this pattern matches no image or folder"),
        (["--top", "1"], 2, "the following arguments are required: SRC"),
    ],
)
def test_wrong_words_are_explained(photos, capfd, words, code, message):
    assert main(["predict", "run", *words]) == code
    assert message in capfd.readouterr().err


def test_there_may_be_no_such_device(photos, capfd):
    for name in ("cuda:99", "gpu"):
        assert main(["predict", "run", "photos", "--device", name]) == 2
        assert f"there is no device '{name}'" in capfd.readouterr().err


def test_eval_predict_and_python_agree_on_images_of_every_mode_and_size(tmp_path, monkeypatch, one_thread):
    """500 of them: each probability to 1e-6, at any batch size."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    write_odd_images(tmp_path / "odd" / "test", 500)
    write_odd_images(tmp_path / "odd" / "train", 60)
    settings = {"preset": "none", "model.name": "cnn2", "data.image_size": 24, "data.float_range": [0, 1]}
    settings |= {
        "train.precision": "float32",
        "train.num_threads": 1,
        "train.num_steps": 30,
        "train.eval_every": "30 steps",
        "run.trackers": [],
    }
    run = distcls.train(overrides=settings, data="odd", name="r")
    with opened_run(run.dir, ["model"]) as config, Processes("cpu") as processes:
        measured = evaluate([open_run(run.dir, config, "test")], "test", processes).predictions
    expected = dict(zip(measured.names.tolist(), measured.probs, strict=True))
    assert len(expected) == 500 and measured.probs.max() > 0.6, "else the rest would say little"
    for batch_size in ("1", "7", "64", "500"):
        words = ["--output", "found.csv", "--batch-size", batch_size, "--device", "cpu"]
        assert main(["predict", "runs/r", "odd/test", *words]) == 0
        assert_agree(table(tmp_path / "found.csv", "odd/"), expected)
    paths, model = [tmp_path / "odd" / name for name in expected], distcls.load(run, "cpu")
    for batch_size in (7, 64):
        found = model.predict(paths, batch_size=batch_size)
        assert_agree(dict(zip(expected, [one.probs for one in found], strict=True)), expected)
    exact = {name: probs for name, probs in expected.items() if not name.endswith("jpg")}  # those are decoded smaller
    found = model.predict([Image.open(tmp_path / "odd" / name) for name in exact])
    assert_agree(dict(zip(exact, [one.probs for one in found], strict=True)), exact)


def assert_agree(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """Fail unless these are the same images with the same probabilities."""
    assert list(found) == list(expected)
    assert max(np.abs(probs - expected[name]).max() for name, probs in found.items()) < 1e-6


def table(path: Path, root: str = "") -> dict[str, np.ndarray]:
    """The probabilities in a CSV file, by image."""
    rows = list(csv.DictReader(path.open()))
    columns = [name for name in rows[0] if name.startswith("p_")]
    return {row["image"].removeprefix(root): np.array([float(row[name]) for name in columns]) for row in rows}


def write_odd_images(folder: Path, count: int) -> None:
    """Images of two classes, in every mode, format and orientation, from 1 pixel to 400."""
    draw = np.random.default_rng(count)
    kinds = [
        *(("1", "png"), ("L", "png"), ("LA", "png"), ("P", "gif"), ("RGB", "bmp"), ("RGB", "webp"), ("RGBA", "png")),
        *(("CMYK", "jpg"), ("RGB", "jpg"), ("L", "jpg"), ("I;16", "tif"), ("F", "tif"), ("RGBA", "webp"), ("P", "png")),
    ]
    for i in range(count):
        mode, suffix = kinds[i % len(kinds)]
        width, height = (1 if i % 50 == side else int(draw.integers(2, 400)) for side in (0, 1))
        cell = np.kron(draw.integers(0, 180, (4, 4, 3)), np.ones((100, 100, 1)))[:height, :width]
        pixels = (cell + 75 * (i % 2)).clip(0, 255).astype(np.uint8)
        if mode == "I;16":
            image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
        else:
            image = Image.fromarray(pixels[..., 0] / np.float32(255)) if mode == "F" else Image.fromarray(pixels)
            image = image if mode == "F" else image.convert(mode)
        exif = Image.Exif()
        exif[0x0112] = 1 + i % 8
        path = folder / ("light" if i % 2 else "dark") / f"{i:03}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, **({"exif": exif} if suffix in ("jpg", "webp", "png") else {}))


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
