"""The folder of a model gives the run's answers in timm, transformers and distcls, without its run."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config, resolve_model_data_config

from distcls.cli import main
from distcls.config.loading import load_config, read_config
from distcls.config.settings import AugmentConfig, Config, ModelConfig, NormalizeConfig
from distcls.data.decoding.decode import Decoding, decode
from distcls.errors import InexactExportError
from distcls.hub import model_folder
from distcls.hub.model_folder import public_config, write_model_folder
from distcls.hub.timm_layout import crop_share
from distcls.inference.classifier import Classifier, load_classifier, write_model
from distcls.models.build import build_model

OLD_RUN = Path(__file__).parents[1] / "golden" / "run_0.1.0"
SIZE, TEMPERATURE, CLASSES = 32, 1.75, ["a | b", "plain", "été"]


def logits_of(run: Path, pixels: np.ndarray) -> torch.Tensor:
    classifier = load_classifier(run, read_config(run / "config.yaml"))
    with torch.inference_mode():
        return classifier.logits(torch.from_numpy(pixels))


def some_pixels(size: int = SIZE) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (4, size, size, 3)).astype(np.uint8)


def make_run(folder: Path, config: Config, decoding: Decoding, temperature: float = 1.0) -> Path:
    """The folder of a model that nobody trained: all that a push reads of it."""
    assert decoding.image_size is not None
    torch.manual_seed(0)
    network = build_model(config.model, len(CLASSES), decoding.image_size)
    with torch.no_grad():
        for name, buffer in network.named_buffers():
            if "running" in name:
                buffer.add_(torch.rand_like(buffer))
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    write_model(folder, Classifier(network, config, CLASSES, decoding, temperature).eval(), config)
    return folder


# timm and transformers -----------------------------------------------------------------------------


def test_timm_computes_the_runs_logits(timm_run, pushed):
    """With the temperature inside, from the folder alone, on pixels that timm itself normalizes."""
    model = timm.create_model(f"local-dir:{pushed}", pretrained=True).eval()
    seen = resolve_model_data_config(model)
    assert seen["input_size"][1:] == (SIZE, SIZE) and seen["interpolation"] == "bicubic"
    assert seen["crop_pct"] == pytest.approx(0.875, abs=0.02) and seen["crop_mode"] == "center"
    assert seen["mean"] == [0.4, 0.5, 0.6] and seen["std"] == [0.2, 0.3, 0.25]
    assert model.pretrained_cfg["label_names"] == CLASSES
    pixels = some_pixels()
    transform, images = create_transform(**{**seen, "crop_pct": 1.0}), map(Image.fromarray, pixels)
    with torch.inference_mode():
        logits = model(torch.stack([transform(image) for image in images]))
    expected = logits_of(timm_run, pixels)
    assert (logits - expected).abs().max() < 1e-4 * expected.abs().max()
    assert json.loads((timm_run / "model" / "preprocessing.json").read_text())["temperature"] == TEMPERATURE
    assert json.loads((pushed / "preprocessing.json").read_text())["temperature"] == 1


def test_distcls_gives_the_runs_answers_from_the_folder(timm_run, pushed, photographs, capsys, tmp_path):
    image = str(photographs / CLASSES[0] / "3.png")
    printed = []
    for folder in (timm_run, pushed):
        assert main(["predict", str(folder), image]) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1] and CLASSES[0] in printed[0]


@pytest.mark.extras  # transformers is not among the packages that distcls needs
def test_transformers_pipeline_gives_the_runs_classes(timm_run, pushed, photographs):
    if importlib.util.find_spec("transformers") is None:
        pytest.skip("transformers is not installed: whether its pipeline loads the folder was not checked")
    from transformers import pipeline

    files = [photographs / name / f"{i}.png" for name in CLASSES for i in (0, 7)]
    answers = pipeline("image-classification", model=str(pushed))([str(file) for file in files], top_k=3)
    classifier = load_classifier(timm_run, read_config(timm_run / "config.yaml"))
    pixels = np.stack([decode(file, classifier.decoding) for file in files])
    with torch.inference_mode():
        expected = classifier(torch.from_numpy(pixels))
    for answer, probabilities in zip(answers, expected, strict=True):
        assert {one["label"] for one in answer} == set(CLASSES)
        assert answer[0]["label"] == CLASSES[int(probabilities.argmax())]
        for one in answer:  # it resizes a little differently
            assert one["score"] == pytest.approx(float(probabilities[CLASSES.index(one["label"])]), abs=0.02)


@pytest.mark.parametrize("name", ["timm/test_resnet", pytest.param("torchvision/resnet18", marks=pytest.mark.extras)])
def test_networks_that_timm_can_build(tmp_path, name):
    """torchvision's ResNets have the layers of timm's, by the same names."""
    config = Config(
        model=ModelConfig(name=name), augment=AugmentConfig(normalize=NormalizeConfig([0.1] * 3, [0.3] * 3))
    )
    run = make_run(tmp_path / "run", config, Decoding(SIZE, resize="squish"), 2.0)
    (tmp_path / "folder").mkdir()
    written = write_model_folder(tmp_path / "folder", run, config)
    assert (written.loads_with, written.temperature, written.separate_temperature) == ("timm", 2.0, 1.0)
    model = timm.create_model(f"local-dir:{tmp_path / 'folder'}", pretrained=True).eval()
    seen = resolve_model_data_config(model)
    assert (seen["crop_mode"], seen["crop_pct"]) == ("squash", 1.0)
    pixels = some_pixels()
    with torch.inference_mode():
        logits = model(torch.stack([create_transform(**seen)(Image.fromarray(one)) for one in pixels]))
    assert (logits - logits_of(run, pixels)).abs().max() < 1e-4 * logits.abs().max()


@pytest.mark.parametrize(
    ("name", "loads_with"),
    [
        ("cnn2", "distcls"),
        pytest.param("torchvision/squeezenet1_1", "torchvision", marks=pytest.mark.extras),
    ],
)
def test_other_networks_are_loaded_by_distcls(tmp_path, name, loads_with):
    config = Config(model=ModelConfig(name=name))
    run = make_run(tmp_path / "run", config, Decoding(SIZE))
    (tmp_path / "folder").mkdir()
    written = write_model_folder(tmp_path / "folder", run, config)
    assert written.loads_with == loads_with and written.largest_difference < 1e-6
    assert sorted(path.name for path in (tmp_path / "folder").iterdir()) == [
        *("classes.json", "config.yaml", "model.safetensors", "preprocessing.json")
    ]
    assert torch.equal(logits_of(tmp_path / "folder", some_pixels()), logits_of(run, some_pixels()))


def test_a_run_that_has_not_finished_is_pushed_with_a_warning(tmp_path, capsys):
    run = Path(shutil.copytree(OLD_RUN, tmp_path / "run"))
    assert main(["push", str(run), "--dry-run"]) == 0
    out, err = capsys.readouterr()
    assert "not finished" in err and "distcls loads it" in out
    pixels = some_pixels(8)
    assert torch.equal(logits_of(run / "hub" / "model", pixels), logits_of(run, pixels))
    assert "The run has not finished, so there are no final metrics." in (run / "hub/model/README.md").read_text()


# Preprocessing -------------------------------------------------------------------------------------


DECODINGS = [
    Decoding(128, crop_fraction=0.875, interpolation="bicubic"),
    Decoding(128, crop_fraction=224 / 232),
    Decoding(128),
    Decoding(128, resize="squish", interpolation="bicubic"),
    Decoding(128, resize="pad"),
]


@pytest.mark.parametrize("decoding", DECODINGS, ids=str)
@pytest.mark.parametrize("shape", [(500, 375), (333, 501)])
def test_timms_transform_is_the_runs_preprocessing(tmp_path, decoding, shape):
    """But for rounding: timm resizes to whole pixels and then crops whole pixels, half a pixel away at most."""
    coarse = np.random.default_rng(1).integers(0, 256, (6, 8, 3)).astype(np.uint8)
    image = Image.fromarray(coarse).resize(shape, Image.Resampling.BICUBIC)
    image.save(tmp_path / "a.png")
    config = Config(model=ModelConfig(name="timm/test_resnet"))
    described = model_folder.describe_for_timm(torch.nn.Identity(), config, decoding, CLASSES)
    seen = resolve_data_config(pretrained_cfg=described["pretrained_cfg"])
    given = create_transform(**{**seen, "mean": (0.0,) * 3, "std": (1.0,) * 3})(image) * 255
    expected = decode(tmp_path / "a.png", decoding).transpose(2, 0, 1)
    assert seen["interpolation"] == decoding.interpolation
    inside = ~(expected == 255).all((0, 2))[:, None] & ~(expected == 255).all((0, 1))  # not the white borders
    assert inside.mean() > (0.6 if decoding.resize == "pad" else 0.99)
    given, expected = given.numpy()[:, inside], expected[:, inside]
    difference = np.abs(given - expected).mean()
    assert difference < (0.01 if decoding.resize == "squish" else 4)
    assert difference < np.abs(expected - expected.mean()).mean() / 10, "another part of the image"


def test_timms_crop_is_whole_pixels():
    """timm divides the size by crop_pct and takes the floor, which must not be a pixel less."""
    for resized in range(100, 400):
        share = crop_share(Decoding(96, crop_fraction=96 / resized))
        assert int(96 / share) == resized and share == pytest.approx(96 / resized)


# Temperature ---------------------------------------------------------------------------------------


class Cosine(torch.nn.Linear):
    """A head that normalizes its weights: dividing them changes nothing."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        weight = torch.nn.functional.normalize(self.weight)
        return 20 * torch.nn.functional.normalize(images.flatten(1)) @ weight.T


def cosine(num_classes: int) -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(4), torch.nn.Flatten(), Cosine(48, num_classes, bias=False))


def test_a_temperature_that_does_not_fit_into_the_weights_stays_outside(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    config = load_config(None, [f"model.name={__name__.rpartition('.')[2]}:cosine", "preset=none"], [])
    run = make_run(tmp_path / "run", config, Decoding(SIZE), 3.0)
    (tmp_path / "folder").mkdir()
    written = write_model_folder(tmp_path / "folder", run, config)
    assert (written.loads_with, written.temperature, written.separate_temperature) == ("code", 1.0, 3.0)
    assert torch.allclose(logits_of(tmp_path / "folder", some_pixels()), logits_of(run, some_pixels()))


# What is refused, and what stays private -----------------------------------------------------------


def test_a_folder_with_other_answers_is_refused(tmp_path, monkeypatch):
    config = Config(model=ModelConfig(name="timm/test_resnet"))
    run = make_run(tmp_path / "run", config, Decoding(SIZE))
    (tmp_path / "folder").mkdir()
    described = model_folder.describe_for_timm

    def wrong(*args):
        found = described(*args)
        found["pretrained_cfg"]["mean"] = [0.9, 0.1, 0.2]
        return found

    monkeypatch.setattr(model_folder, "describe_for_timm", wrong)
    with pytest.raises(InexactExportError, match="nothing was pushed: loaded from folder, probabilities differ"):
        write_model_folder(tmp_path / "folder", run, config)


def test_folders_of_this_machine_are_left_out(timm_run, pushed, photographs):
    assert str(photographs) in (timm_run / "config.yaml").read_text()
    for file in pushed.iterdir():
        assert str(photographs.parent).encode() not in file.read_bytes(), file.name
    config = load_config(None, ["data.cache_dir=/secret/cache", "model.args={file: /secret/x}", "run.dir=runs/a"], [])
    public = public_config(config)
    assert (public.data.cache_dir, public.model.args, public.run.dir) == ("cache", {"file": "x"}, "a")
    config = load_config(None, ["data.name=folder", "data.root=../me/photos", "model.init_from=runs/b"], [])
    public = public_config(config)
    assert (public.data.root, public.data.cache_dir, public.model.init_from) == ("photos", None, "b")
    config = load_config(None, ["data.name=folder", "data.root=a", r"data.groups=/(patient\d+)/"])
    assert public_config(config).data.groups == r"/(patient\d+)/", "is no path"
    for weights, shown in (("work/mine.pt", "mine.pt"), ("IMAGENET1K_V2", "IMAGENET1K_V2")):
        assert public_config(config.replaced({"model.weights": weights})).model.weights == shown


def test_a_mistake_is_answered_before_torch_is_imported(tmp_path):
    code = (
        "import sys; from distcls.cli import main; n = main(sys.argv[1:]); sys.exit(9 if 'torch' in sys.modules else n)"
    )
    for words, expected in ((["push", str(tmp_path / "none")], 66), (["push", "x", "--spaces"], 2)):
        done = subprocess.run([sys.executable, "-c", code, *words], env=os.environ, capture_output=True, timeout=60)
        assert done.returncode == expected, done.stderr
