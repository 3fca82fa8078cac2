"""`distcls summary` tells the truth about a model that is not trained yet, and about a run's."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from distcls.cli import main

OLD_RUN = Path(__file__).parents[1] / "golden" / "run_0.1.0"

MY_MODELS = """
from torch import nn

def make(num_classes, width=4):
    return nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(width, num_classes))

def loading(num_classes, pretrained=True):
    assert not pretrained, "it would download weights"
    return make(num_classes)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with models of the user's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "summary_models.py").write_text(MY_MODELS)
    return tmp_path


def summarize(*words: str) -> dict:
    """What is found, as JSON."""
    assert main(["summary", *words, "--no-latency", "--json", "found.json"]) == 0
    return json.loads(Path("found.json").read_text())


def fails(capsys: pytest.CaptureFixture[str], *words: str, expect: int = 2) -> str:
    """The message of a command that fails."""
    assert main(["summary", *words, "--no-latency"]) == expect
    captured = capsys.readouterr()
    assert captured.out == "" and "Traceback" not in captured.err
    return captured.err


def totals(out: str) -> dict[str, str]:
    """The lines below the table, by name."""
    return {line[:12].strip(): line[12:] for line in out.split("\n\n")[-1].splitlines()}


# A model that is not trained yet -------------------------------------------------------------------


def test_a_model_of_a_library_has_the_numbers_it_is_known_for(capsys):
    found = summarize("model.name=torchvision/resnet18", "--classes", "1000")
    assert (found["parameters"], found["flops"], found["image_size"]) == (11_689_512, 3_628_146_688, 224)
    assert found["size_bytes"] == 4 * (11_689_512 + 2 * 4800) + 8 * 20, "parameters, and the statistics of BatchNorm"
    assert found["latency_seconds"] == {} and len(found["layers"]) == 68
    out = capsys.readouterr().out
    assert totals(out) == {
        "model": "torchvision/resnet18",
        "classes": "1,000",
        "images": "224 × 224 pixels (the size the model was made for; set it with --image-size N)",
        "parameters": "11,689,512, all trainable",
        "size": "46.8 MB",
        "compute": "3.63 GFLOPs per image (1 multiply-add = 2 FLOPs)",
        "memory": f"about {found['training_step_bytes'] / 2**20:,.0f} MiB for a training step of 64 images",
    }
    lines = out.split("\n\n")[0].splitlines()
    assert "layer1   Sequential         64 × 56 × 56       147,968   924.8" in lines
    assert "  0      BasicBlock         64 × 56 × 56        73,984   462.4" in lines
    assert lines[-1] == "49 more modules with --depth 4" and max(map(len, lines)) <= 80


def test_depth_decides_how_much_is_shown(capsys):
    rows = {}
    for depth in ("1", "2", "9"):
        summarize("model.name=cnn2", "--depth", depth)
        rows[depth] = capsys.readouterr().out.split("\n\n")[0].splitlines()[1:]
    assert [line.split()[0] for line in rows["1"][:-1]] == ["blocks", "flatten", "hidden", "relu", "dropout", "head"]
    assert rows["1"][-1] == "10 more modules with --depth 3" and rows["2"][-1] == "8 more modules with --depth 3"
    assert len(rows["9"]) == 16


def test_without_data_the_model_decides(capsys):
    found = summarize("model.name=resnet9")
    assert (found["num_classes"], found["image_size"]) == (10, 32)
    assert (
        totals(capsys.readouterr().out)["classes"] == "10 (assumed because no data was named; set it with --classes N)"
    )
    assert summarize("data.image_size=48")["image_size"] == 48


def test_the_data_decides_if_it_is_here(folder, capsys):
    for name in ("a", "b", "c"):
        (folder / "photos" / name).mkdir(parents=True)
        for i in range(3):
            Image.fromarray(np.full((24, 24, 3), i, np.uint8)).save(folder / "photos" / name / f"{i}.png")
    Path("mine.yaml").write_text("data: {name: folder, root: photos}\n")
    for words in (["-c", "mine.yaml"], ["--data", "photos"], ["data.name=folder", "data.root=photos"]):
        found = summarize(*words)
        assert (found["num_classes"], found["image_size"]) == (3, 24)
        lines = totals(capsys.readouterr().out)
        assert (lines["classes"], lines["images"]) == ("3 (from photos)", "24 × 24 pixels (from photos)")
    found = summarize("-c", "mine.yaml", "--classes", "7")
    assert (found["num_classes"], found["image_size"]) == (7, 24)
    shutil.rmtree("photos")
    assert summarize("-c", "mine.yaml")["num_classes"] == 10
    lines = totals(capsys.readouterr().out)
    assert lines["classes"] == "10 (assumed because the data is not here; set it with --classes N)"
    Path("mine.yaml").write_text("data: {name: folder}\n")
    assert summarize("-c", "mine.yaml")["num_classes"] == 10


def test_a_preset_decides_for_photographs_as_it_does_for_a_run(folder, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("a", "b", "c"):
        (folder / "photos" / name).mkdir(parents=True)
        for i in range(3):
            Image.fromarray(np.full((80, 90, 3), i, np.uint8)).save(folder / "photos" / name / f"{i}.png")
    for words in (["--data", "photos"], ["--data", "photos", "preset=fast"]):
        found = summarize(*words)
        assert found["model"]["name"] == "timm/tf_efficientnet_lite0.in1k"
        assert (found["num_classes"], found["image_size"]) == (3, 224)
    assert summarize("--data", "photos", "--image-size", "96")["image_size"] == 96
    assert summarize("--data", "photos", "preset=none")["model"]["name"] == "cnn2"
    assert summarize("--data", "photos", "model.name=resnet9")["model"]["name"] == "resnet9"
    capsys.readouterr()
    assert "nowhere" in fails(capsys, "--data", "nowhere", "preset=balanced", expect=66)


def test_data_is_never_downloaded(monkeypatch):
    downloads: list[str] = []
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "download", lambda self: downloads.append(self.root))
    assert summarize("data.name=cifar10", "data.root=nowhere", "data.download=true")["num_classes"] == 10
    assert downloads == []


def test_a_model_of_the_user_s_own(capsys):
    found = summarize("model.name=summary_models:make", "model.args.width=8", "--image-size", "16")
    assert found["parameters"] == 8 * 27 + 8 + 10 * 8 + 10
    assert found["flops"] == 2 * 27 * 8 * 16**2 + 2 * 8 * 10
    assert [layer["type"] for layer in found["layers"]] == [
        *["Sequential", "Conv2d", "AdaptiveAvgPool2d", "Flatten", "Linear"]
    ]


def test_no_weights_are_loaded(monkeypatch, capsys):
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *_, **__: pytest.fail("a download"))
    arguments = ["model.args.weights=DEFAULT", "--classes", "1000", "--image-size", "64"]
    assert "model.pretrained=true" in fails(capsys, "model.name=torchvision/squeezenet1_1", *arguments)
    pretrained = ["model.pretrained=true", *arguments[1:]]
    assert summarize("model.name=torchvision/squeezenet1_1", *pretrained)["parameters"] == 1_235_496
    assert summarize("model.name=summary_models:loading", "model.args.pretrained=true")["num_classes"] == 10


def test_memory_is_that_of_one_micro_batch():
    one, eight = (summarize(f"train.micro_batch_size={n}", "train.global_batch_size=64") for n in (1, 8))
    assert (one["micro_batch_size"], eight["micro_batch_size"]) == (1, 8)
    per_image = (eight["training_step_bytes"] - one["training_step_bytes"]) / 7
    assert one["training_step_bytes"] - per_image == 4 * 4 * one["parameters"], "weights, gradients and AdamW's two"


def test_latency_is_measured(capsys):
    assert main(["summary", "train.num_threads=1", "--json", "found.json"]) == 0
    found = json.loads(Path("found.json").read_text())
    assert 0 < found["latency_seconds"]["1"] <= found["latency_seconds"]["32"] < 3
    latency = [line for line in capsys.readouterr().out.splitlines() if " a second, on this " in line]
    assert "ms for 1 image, " in latency[0] and "ms for 32 images, " in latency[1]


# A run ---------------------------------------------------------------------------------------------


def test_a_run_is_summarized(capsys):
    found = summarize(str(OLD_RUN))
    assert (found["num_classes"], found["image_size"]) == (4, 8)
    assert (found["parameters"], found["trainable_parameters"]) == (20_014, 1_454)
    lines = totals(capsys.readouterr().out)
    assert lines["parameters"] == "20,014: 1,454 trainable, 18,560 frozen"
    assert (lines["classes"], lines["images"]) == ("4", "8 × 8 pixels")


def test_a_run_of_a_device_that_is_not_here_is_summarized(folder, monkeypatch):
    """Its name looks like a setting, too."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    shutil.copytree(OLD_RUN, "lr=0.1")
    config = Path("lr=0.1/config.yaml")
    assert "device: cpu" in config.read_text()
    config.write_text(config.read_text().replace("device: cpu", "device: cuda"))
    assert summarize("lr=0.1")["parameters"] == 20_014


def test_a_run_without_weights_is_summarized(folder):
    shutil.copytree(OLD_RUN, "run", ignore=shutil.ignore_patterns("checkpoints"))
    assert summarize("run")["parameters"] == 20_014


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("classes.json", "{", "Expecting property name"),
        ("classes.json", "null", "it is not a list of names"),
        ("preprocessing.json", "{}", "it has no image_size"),
        ("preprocessing.json", "[]", "it has no image_size"),
    ],
)
def test_a_damaged_run_is_an_error_that_names_the_file(capsys, file, content, reason):
    shutil.copytree(OLD_RUN, "run")
    Path("run", file).write_text(content)
    message = fails(capsys, "run", expect=74)
    assert f"run/{file} is damaged ({reason}" in message and "when it is resumed" in message


def test_a_foreign_run_runs_no_code_unless_it_is_trusted(capsys):
    shutil.copytree(OLD_RUN, "run")
    config = Path("run/config.yaml")
    config.write_text(config.read_text().replace("name: cnn2", "name: summary_models:make").replace("hidden: 2", ""))
    sys.modules.pop("summary_models", None)
    assert "--trust" in fails(capsys, "run") and "summary_models" not in sys.modules


# Mistakes ------------------------------------------------------------------------------------------


def test_an_unknown_model_names_the_nearest(capsys):
    assert "Did you mean 'resnet9'?" in fails(capsys, "model.name=resnet8")
    assert "Did you mean torchvision/resnet18 or timm/resnet18? Known" in fails(capsys, "model.name=resnet18")
    assert "Did you mean 'resnet18'?" in fails(capsys, "model.name=torchvision/resnte18")


def test_images_too_small_for_a_model_are_an_error(capsys):
    assert "set data.image_size=8 or more" in fails(capsys, "model.name=resnet9", "--image-size", "4")
    message = fails(capsys, "model.name=torchvision/alexnet", "--image-size", "16")
    assert "the model fails on an image of 16 pixels" in message


def test_mistakes_are_answered_before_the_engine_is_imported():
    code = f"""
import sys
from distcls.cli import main
run = {str(OLD_RUN)!r}
cases = [
    (["resnet18"], 66, "resnet18: no such run folder"),
    (["resnet18"], 66, "model.name=NAME: see distcls models"),
    (["mine.yaml"], 2, "did you mean -c mine.yaml?"),
    ([run, "--classes", "3"], 2, "--classes: the model of a run stays as it was trained"),
    ([run, "optim.lr=1"], 2, f"optim.lr=1: the model of a run stays as it was trained"),
    ([run, "-c", "mine.yaml"], 2, f"distcls summary -c {{run}}/config.yaml"),
    ([run, "again"], 2, "again: the model of a run"),
    (["--depth", "0"], 2, "--depth 0: give a whole number"),
    (["--json", "no/where.json"], 66, "no/where.json cannot be written"),
    (["modle.name=x"], 2, "did you mean"),
]
import contextlib, io
for words, code, text in cases:
    told = io.StringIO()
    with contextlib.redirect_stderr(told):
        assert main(["summary", *words]) == code, words
    assert text in told.getvalue(), (words, told.getvalue())
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
