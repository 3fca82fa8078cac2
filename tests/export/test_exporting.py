"""Each format gives the run's own answers in whatever loads it, and a file that would not is never written."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from evaluated import predict
from safetensors import safe_open

from distcls.cli import main
from distcls.config.loading import read_config
from distcls.config.settings import Config, ModelConfig, TrainConfig
from distcls.data.decoding.decode import Decoding
from distcls.export import exporting
from distcls.files.verified import read_tensors
from distcls.inference.classifier import Classifier, load_classifier, write_model
from distcls.models.build import build_model

IMAGES = np.random.default_rng(0).integers(0, 256, (7, 8, 8, 3)).astype(np.uint8)

BRANCHING = """
import torch
from torch import nn

class Branching(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.head = nn.Linear(3, num_classes)
        nn.init.normal_(self.head.weight)

    def forward(self, images):
        means = images.mean((2, 3))
        return self.head(means * 3) if len(images) > 2 else self.head(means)
"""


def expected(run: Path) -> np.ndarray:
    classifier = load_classifier(run, read_config(run / "config.yaml"))
    return predict(classifier, list(IMAGES)).numpy()


def export(capsys: pytest.CaptureFixture[str], *words: object, expect: int = 0) -> tuple[str, str]:
    """What `distcls export` prints."""
    assert main(["export", *map(str, words)]) == expect
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return captured.out, captured.err


def session_of(file: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])


# Formats -------------------------------------------------------------------------------------------


def test_onnx_is_one_file_that_describes_itself(run, capsys):
    out, err = export(capsys, run)
    file = run / "export" / "digits.onnx"
    assert re.match(
        r"onnx +proven on 100 val images in batches of 1, 2 and 5: .*\n +PyTorch for 100, .* at most \d", out
    )
    assert err == "" and out.splitlines()[-1].startswith(f"{file}  ") and max(map(len, out.splitlines()[:-1])) <= 80
    assert [path.name for path in file.parent.iterdir()] == ["digits.onnx"]
    session = session_of(file)
    (images,), (outputs,) = session.get_inputs(), session.get_outputs()
    assert (images.name, images.type, images.shape[1:]) == ("images", "tensor(uint8)", [8, 8, 3])
    assert (outputs.name, outputs.type, outputs.shape[1]) == ("probabilities", "tensor(float)", 10)
    for count in (1, 7):
        (given,) = session.run(None, {"images": IMAGES[:count]})
        assert np.abs(given - expected(run)[:count]).max() < 1e-6
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["class_names"]) == json.loads((run / "classes.json").read_text())
    assert json.loads(about["preprocessing"]) == json.loads((run / "model" / "preprocessing.json").read_text())
    assert (about["image_size"], about["color_order"], float(about["temperature"])) == ("8", "RGB", 1)
    assert str(Path(__file__).parents[2]).encode() not in file.read_bytes(), "it tells of this machine's folders"


def test_pt2_needs_only_torch(run, capsys, tmp_path):
    export(capsys, run, "--format", "pt2", "--output", tmp_path / "x.pt2", "--logits")
    about = dict.fromkeys(["class_names", "output"], "")
    module = torch.export.load(tmp_path / "x.pt2", extra_files=about).module()
    assert torch.allclose(module(torch.from_numpy(IMAGES)).softmax(1), torch.from_numpy(expected(run)), atol=1e-6)
    assert len(json.loads(about["class_names"])) == 10 and about["output"] == "logits, float32 (batch, 10)"


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_torchscript_needs_only_torch(run, capsys, tmp_path):
    export(capsys, run, "--format", "torchscript", "--output", tmp_path / "x.pt")
    about = {"class_names": ""}
    module = torch.jit.load(tmp_path / "x.pt", _extra_files=about)
    assert torch.allclose(module(torch.from_numpy(IMAGES)), torch.from_numpy(expected(run)), atol=1e-6)
    assert len(json.loads(about["class_names"])) == 10


def test_safetensors_are_the_runs_weights(run, capsys, tmp_path):
    export(capsys, run, "--format", "safetensors", "--output", tmp_path / "x.safetensors")
    with safe_open(tmp_path / "x.safetensors", framework="pt") as file:
        assert len(json.loads(file.metadata()["class_names"])) == 10
    weights, kept = (read_tensors(path) for path in (tmp_path / "x.safetensors", run / "model" / "model.safetensors"))
    assert list(weights) == list(kept) and all(torch.equal(weights[name], kept[name]) for name in kept)


# Proof ---------------------------------------------------------------------------------------------


def test_a_file_with_other_answers_is_not_written(capsys, tmp_path, monkeypatch):
    """Tracing takes one branch of this network, whatever the size of the batch."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "branching.py").write_text(BRANCHING)
    config = Config(model=ModelConfig("branching:Branching"), train=TrainConfig(precision="float32"))
    classes = [str(digit) for digit in range(10)]
    write_model(tmp_path / "b", Classifier(build_model(config.model, 10, 8), config, classes, Decoding(8)), config)
    words = [tmp_path / "b", "--trust", "--format"]
    out, err = export(capsys, *words, "torchscript", expect=70)
    assert out == "" and "nothing was written: probabilities differ from PyTorch's by up to 0." in err
    assert list((tmp_path / "b" / "export").iterdir()) == []
    assert "--trust" in export(capsys, tmp_path / "b", "--format", "safetensors", expect=2)[1]
    export(capsys, *words, "safetensors", "--tolerance", "0.99")
    _, err = export(capsys, *words, "pt2", expect=2)
    assert "torch cannot export this network" in err and "--format safetensors" in err


def test_without_its_images_a_run_is_proven_on_its_pictures(run, capsys, tmp_path):
    shutil.copytree(run, tmp_path / "gone")
    config = (run / "config.yaml").read_text().replace("name: digits", "name: folder", 1)
    (tmp_path / "gone" / "config.yaml").write_text(config.replace("root: null", "root: /nowhere", 1))
    out, err = export(capsys, tmp_path / "gone", "--format", "safetensors")
    assert "/nowhere" in err and re.search(r"proven on \d\d+ stored pictures", out)
    shutil.rmtree(tmp_path / "gone" / "pictures")
    assert "proven on 20 random images" in export(capsys, tmp_path / "gone", "--format", "safetensors")[0]
    _, err = export(capsys, tmp_path / "gone", "--int8", expect=66)
    assert "--int8 needs the run's images" in err and "--data DIR" in err


def test_a_run_in_bf16_says_what_float32_changes(run, capsys, tmp_path):
    shutil.copytree(run, tmp_path / "half")
    config = (run / "config.yaml").read_text().replace("precision: float32", "precision: bf16", 1)
    (tmp_path / "half" / "config.yaml").write_text(config)
    out, _ = export(capsys, tmp_path / "half", "--format", "safetensors")
    found = re.search(r"trained in bf16, the file computes in float32: .* differ by\n +at most (\S+);", out)
    assert found is not None and 1e-6 < float(found[1]) < 0.1


# Options of ONNX -----------------------------------------------------------------------------------


def test_int8_and_resizing_say_what_they_cost(run, capsys, monkeypatch):
    monkeypatch.setattr(exporting, "NUM_CALIBRATION", 100)
    out, _ = export(capsys, run, "--int8", "--with-resize")
    file = run / "export" / "digits-int8-with-resize.onnx"
    accuracy = re.search(r"int8 +accuracy (\S+) on 44 val images, (\S+) in float32", out)
    assert accuracy is not None and abs(float(accuracy[1]) - float(accuracy[2])) < 0.03
    assert re.search(
        r"resizing +pixels differ from Pillow's by 0 of 255, 0 in the worst image;\n.* 50 of 50 val images", out
    )
    session = session_of(file)
    about = session.get_modelmeta().custom_metadata_map
    assert about["quantization"] == "int8, calibrated with 100 val images" and "any size" in about["input"]
    images = session.get_inputs()[0]
    assert (images.name, images.type, images.shape[2]) == ("image", "tensor(uint8)", 3)
    for image in (IMAGES[0], IMAGES[0].repeat(3, 0), IMAGES[0].repeat(40, 1)):
        (given,) = session.run(None, {"image": image})
        assert given.shape == (1, 10) and abs(given.sum() - 1) < 1e-5


def test_options_and_packages_are_checked_first(run, capsys, monkeypatch):
    assert "--int8 is for --format onnx, not pt2" in export(capsys, run, "--format", "pt2", "--int8", expect=2)[1]
    assert "choose from onnx, pt2" in export(capsys, run, "--format", "tflite", expect=2)[1].replace("'", "")
    assert "--opset 99" in export(capsys, run, "--opset", "99", expect=2)[1]
    assert "--tolerance 0" in export(capsys, run, "--tolerance", "0", expect=2)[1]
    assert "did you mean --format pt2?" in export(capsys, run, "--output", run / "x.pt2", expect=2)[1]
    assert "is a folder: give a file" in export(capsys, run, "--output", run, expect=2)[1]
    assert "is a device" in export(capsys, run, "--output", "/dev/null", expect=2)[1]
    assert "no folder" in export(capsys, run, "--output", "/nowhere/x.onnx", expect=66)[1]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install 'distcls[export]'" in export(capsys, run, expect=66)[1]
