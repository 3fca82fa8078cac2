"""Names are found by a part or a pattern, and what is said of a model is true of the network that is built."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub.constants
import pytest
import timm
import torchvision

from distcls.errors import UsageError
from distcls.models.build import MODELS
from distcls.models.catalogue import RECOMMENDED, describe_model, find_models, image_size_of


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


@pytest.mark.parametrize("name", ["vit_b_16", "efficientnet_b1"])
def test_facts_agree_with_the_tables_of_torchvision(name):
    facts = describe_model(f"torchvision/{name}")
    about = torchvision.models.get_model_weights(name).DEFAULT.meta
    assert facts.num_parameters == about["num_params"]
    assert facts.flops == pytest.approx(2e9 * about["_ops"], rel=0.01)
    assert image_size_of(f"torchvision/{name}") == facts.image_size


def test_a_model_with_parameters_as_inputs_of_layers_is_counted():
    assert describe_model("timm/pit_ti_distilled_224").flops == pytest.approx(1.4e9, rel=0.05)


def test_recommended_models_exist_and_have_weights():
    names = list(RECOMMENDED)
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
    assert find_models("CNN") == ["cnn2", "cnn3", "searchable_cnn", "simple_cnn"]
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
