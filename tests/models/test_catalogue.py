"""Names are found by a part or a pattern, and what is said of a model is true of the network that is built."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub.constants
import pytest
import timm
import torch
import torchvision

from distcls.errors import UsageError
from distcls.models.build import MODELS
from distcls.models.catalogue import LIBRARIES, describe_model, find_models, image_size_of, recommended_models
from distcls.models.layers import count_flops


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Caches of torch.hub and Hugging Face, empty."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    return tmp_path


def test_built_in_models_are_described_for_small_images():
    facts = describe_model("cnn2")
    assert (facts.num_parameters, facts.flops) == (545_194, 12_257_792)
    assert (facts.image_size, facts.num_classes, facts.weights) == (32, 10, "none")


def test_a_model_is_the_same_in_both_libraries():
    one, other = describe_model("torchvision/resnet18"), describe_model("timm/resnet18")
    assert one.num_parameters == other.num_parameters == 11_689_512
    assert one.flops == pytest.approx(3.628e9, rel=1e-3) and other.flops == 3_628_146_688
    assert one.image_size == other.image_size == 224


@pytest.mark.parametrize("name", ["vit_h_14", "efficientnet_b1"])
def test_tables_of_torchvision_are_true_of_the_networks_it_builds(name):
    """vit_h_14 has weights for 224 and for 518 pixels."""
    facts = describe_model(f"torchvision/{name}")
    with torch.device("meta"):
        network = torchvision.models.get_model(name)
    assert facts.num_parameters == sum(p.numel() for p in network.parameters())
    assert facts.flops == pytest.approx(count_flops(network, facts.image_size), rel=1e-3)
    assert image_size_of(f"torchvision/{name}") == facts.image_size


def test_every_model_of_torchvision_is_described():
    names = LIBRARIES["torchvision/"].names()
    assert len(names) > 70 and all(describe_model(f"torchvision/{name}").num_parameters > 1e5 for name in names)


def test_a_model_with_parameters_as_inputs_of_layers_is_counted():
    assert describe_model("timm/pit_ti_distilled_224").flops == pytest.approx(1.4e9, rel=0.05)


def test_recommended_models_exist_and_have_weights():
    names = recommended_models()
    assert set(MODELS) <= set(names) and all(name in find_models(name) for name in names)
    trained = [name for name in names if "/" in name and not name.startswith("torchvision")]
    assert trained and all(timm.models.is_model_pretrained(name.removeprefix("timm/")) for name in trained)


def test_weights_in_the_caches_are_found(caches: Path):
    names = ["torchvision/resnet18", "timm/resnet18"]
    assert [describe_model(name).weights for name in names] == ["download", "download"]
    file = caches / "torch" / "hub" / "checkpoints" / "resnet18-f37072fd.pth"
    file.parent.mkdir(parents=True)
    file.touch()
    repository = caches / "hf" / f"models--{timm.models.get_pretrained_cfg('resnet18').hf_hub_id.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    (repository / "snapshots" / "abc").mkdir(parents=True)
    assert describe_model("timm/resnet18").weights == "download"
    (repository / "snapshots" / "abc" / "model.safetensors").touch()
    assert [describe_model(name).weights for name in names] == ["here", "here"]
    assert describe_model("timm/resnet50t").weights == "none"


def test_names_are_found_by_a_part_or_a_pattern():
    assert find_models("CNN") == ["cnn2", "cnn3"]
    found = find_models("resnet*")
    assert found[:6] == ["resnet9", *[f"torchvision/resnet{depth}" for depth in (18, 34, 50, 101, 152)]]
    assert "timm/resnet18" in found and "timm/seresnet50" not in found
    assert all(name.startswith("timm/resnet") for name in find_models("timm/resnet*"))
    assert find_models("torchvision/resnet1?") == ["torchvision/resnet18"]
    vits = [name for name in find_models("vit") if name.startswith("torchvision/")]
    assert vits[0] == "torchvision/vit_b_16" and vits[-1] == "torchvision/maxvit_t"


@pytest.mark.parametrize(
    ("pattern", "hint"),
    [("resnte18", "'torchvision/resnet18'"), ("timm/resnte18", "'timm/resnet18'"), ("cnn4", "'cnn3'")],
)
def test_a_pattern_that_matches_nothing_names_the_nearest(pattern, hint):
    with pytest.raises(UsageError, match=f"no model's name matches '{pattern}'. Did you mean {hint}.* 'resnet\\*'"):
        find_models(pattern)


def test_a_user_s_own_model_is_taken_to_be_for_224_pixels():
    assert (image_size_of("my_models:make"), image_size_of("resnet9")) == (224, 32)
