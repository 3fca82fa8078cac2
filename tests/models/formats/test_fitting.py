"""Weights that do not fit a model are refused with the names of models that they would fit."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

from distcls.config.settings import ModelConfig
from distcls.errors import UsageError
from distcls.models.build import build_model
from distcls.models.formats import fitting
from distcls.models.formats.fitting import models_that_fit
from distcls.models.init_from import Source, init_from
from distcls.models.libraries import LIBRARIES

SOMEWHERE = Path("w.pth")


@pytest.fixture(autouse=True)
def time_enough(monkeypatch):
    """However busy the machine is."""
    monkeypatch.setattr(fitting, "SECONDS", 60)
    monkeypatch.setattr(fitting, "MOST_BUILT", 16)


def tensors_of(name: str, image_size: int = 224) -> dict[str, torch.Tensor]:
    library, _, short = name.partition("/")
    with torch.device("meta"):
        return LIBRARIES[library].build(short, 7, image_size, {}).state_dict()


def test_a_model_that_fits_is_named_with_the_number_of_tensors():
    said = models_that_fit("torchvision/resnet18", SOMEWHERE, tensors_of("torchvision/resnet34"), 224)
    assert "model.name=torchvision/resnet34 would fit (218 of 218 tensors)" in said
    assert "model.name=timm/resnet34 would fit (218 of 218 tensors)" in said and "resnet18" not in said


def test_a_part_of_a_deeper_model_does_not_count_as_a_fit():
    """All tensors of ResNet-50 are in ResNet-101, and more."""
    said = models_that_fit("torchvision/resnet18", SOMEWHERE, tensors_of("torchvision/resnet101"), 224)
    assert "resnet101 would fit" in said and "resnet50 " not in said


def test_old_files_without_counters_fit_too():
    old = {name: t for name, t in tensors_of("torchvision/resnet18").items() if "num_batches" not in name}
    assert "torchvision/resnet18 would fit (102 of 102 tensors)" in models_that_fit("timm/resnet50", SOMEWHERE, old, 64)


def test_a_model_that_nearly_fits_is_named_with_its_share():
    tensors = tensors_of("timm/test_vit", 160)
    tensors["norm.weight"] = torch.empty(3)
    said = models_that_fit("timm/test_vit2", SOMEWHERE, tensors, 160)
    assert f"model.name=timm/test_vit would fit in part ({len(tensors) - 1} of {len(tensors)} tensors)" in said


@pytest.mark.parametrize("path", [Path("a/resnet34-b627a593.pth"), Path("resnet-34/model.safetensors")])
def test_the_files_name_says_where_to_look(path):
    assert "resnet34 would fit" in models_that_fit("cnn2", path, tensors_of("torchvision/resnet34"), 224)


def test_built_in_models_are_tried_too():
    torch.manual_seed(0)
    tensors = build_model(ModelConfig(name="resnet9"), 5, 32).state_dict()
    assert "model.name=resnet9 would fit" in models_that_fit("cnn2", SOMEWHERE, tensors, 32)


def test_nothing_is_said_if_nothing_fits():
    assert models_that_fit("timm/resnet18", SOMEWHERE, {"encoder.weight": torch.zeros(3)}, 224) == ""


def test_the_search_is_short(monkeypatch):
    built = []
    real = fitting._fit
    monkeypatch.setattr(fitting, "_fit", lambda name, *rest: built.append(name) or real(name, *rest))
    models_that_fit("timm/vit_tiny_patch16_224", SOMEWHERE, {"a": torch.zeros(1)}, 224)
    assert len(built) == fitting.MOST_BUILT == len(set(built))
    monkeypatch.setattr(fitting, "SECONDS", 0)
    built.clear()
    start = time.monotonic()
    models_that_fit("timm/vit_tiny_patch16_224", SOMEWHERE, {"a": torch.zeros(1)}, 224)
    assert len(built) == 1 and time.monotonic() - start < 10


def test_the_error_about_a_file_names_what_differs_and_what_would_fit(tmp_path):
    torch.save(build_model(ModelConfig(name="torchvision/resnet34"), 5, 64).state_dict(), tmp_path / "w.pth")
    source = Source(tmp_path / "w.pth", "model.weights=w.pth", "w", None)
    config = ModelConfig(name="torchvision/resnet50", weights="w.pth", channels_last=False)
    with pytest.raises(UsageError) as caught:
        init_from(build_model(config, 5, 64), source, config, list("abcde"), 64)
    said = str(caught.value)
    assert said.startswith(
        "model.weights=w.pth has a different architecture: layer1.0.conv1.weight is (64, 64, 3, 3), "
    )
    assert (
        "expected (64, 64, 1, 1)" in said and "model.name=torchvision/resnet34 would fit (218 of 218 tensors)" in said
    )


@pytest.mark.parametrize(
    ("of_file", "wanted", "said"),
    [("resnet34", "resnet18", "is of a deeper model: it has layer1.2, layer2.2, layer2.3, layer3.2, layer3.3 …, which"),
     ("resnet50", "resnet101", "is of a shallower model: it lacks layer3.6, layer3.7, layer3.8, layer3.9")],
)  # fmt: skip
def test_a_shallower_or_deeper_model_of_the_family_is_refused(tmp_path, of_file, wanted, said):
    """All their common tensors have the same shapes."""
    torch.save(build_model(ModelConfig(name=f"torchvision/{of_file}"), 5, 64).state_dict(), tmp_path / "w.pth")
    source = Source(tmp_path / "w.pth", "model.weights=w.pth", "w", None)
    config = ModelConfig(name=f"torchvision/{wanted}", weights="w.pth", channels_last=False)
    with pytest.raises(UsageError) as caught:
        init_from(build_model(config, 5, 64), source, config, list("abcde"), 64)
    assert said in str(caught.value) and f"model.name=torchvision/{of_file} would fit" in str(caught.value)
    partly = ModelConfig(name=config.name, weights="w.pth", channels_last=False, init_partly=True)
    done = init_from(build_model(partly, 5, 64), source, partly, list("abcde"), 64)
    assert bool(done.warnings) == (wanted == "resnet101")
    assert any("has no place for them: layer1.2.conv1.weight" in note for note in done.notes) == (wanted == "resnet18")


@pytest.mark.parametrize(
    ("name", "args", "lacking"),
    [("torchvision/vgg11", {}, "classifier."), ("timm/test_vit", {"init_values": 1e-5}, ".ls")],
)
def test_layers_that_are_no_blocks_may_be_lacking(tmp_path, name, args, lacking):
    """VGG without its classifier, and a ViT whose layer scale is new."""
    config = ModelConfig(name=name, args=args, weights="w.pth", channels_last=False)
    whole = build_model(config, 5, 64).state_dict()
    torch.save({key: tensor for key, tensor in whole.items() if lacking not in key}, tmp_path / "w.pth")
    source = Source(tmp_path / "w.pth", "model.weights=w.pth", "w", None)
    done = init_from(build_model(config, 5, 64), source, config, list("abcde"), 64)
    assert len(done.warnings) == 1 and "get random weights" in done.warnings[0]
