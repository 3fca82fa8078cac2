"""A config can name any model of timm and torchvision, at any image size, and mistakes are answered with a hint."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil

import pytest
import torch
from safetensors.torch import save_file

from distcls.config.loading import read_config
from distcls.config.settings import ModelConfig
from distcls.errors import UsageError
from distcls.models.build import build_model, check_model_name
from distcls.models.init_from import find_source, init_from, library_weights
from distcls.models.libraries import LIBRARIES, library_of
from distcls.models.library_weights import Preprocessing

TIMM, TORCHVISION = LIBRARIES["timm"], LIBRARIES["torchvision"]


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def shape_of(library, name: str, tensor: str, image_size: int, **args) -> tuple[int, ...]:
    with torch.device("meta"):
        return tuple(library.build(name, 5, image_size, args).state_dict()[tensor].shape)


# Names ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("timm/resnet81", r"timm \d.* has no such model. Did you mean 'resnet18'\?.*distcls models 'timm/res\*'"),
        ("torchvision/resnet81", r"torchvision \d.* no such model. Did you mean 'resnet18'.*'torchvision/res\*'"),
        ("timm/resnet18.no_such_tag", ".* has no such model. There is a timm/resnet18, but without that tag."),
        ("torchvision/resnet18.a1_in1k", ".* There is a torchvision/resnet18, but without that tag"),
        ("timm/", ".* has no such model"),
    ],
)
def test_an_unknown_model_is_an_error_with_a_hint(name, hint):
    for check in (lambda: check_model_name(name), lambda: build_model(ModelConfig(name=name), 5, 64)):
        with pytest.raises(UsageError, match=f"model.name={name}: {hint}"):
            check()


def test_a_tag_names_weights_and_not_another_architecture():
    tagged = TIMM.weights("convnext_tiny.in12k_ft_in1k_384", None)
    default = TIMM.weights("convnext_tiny", None)
    assert tagged is not None and tagged.name == "timm/convnext_tiny.in12k_ft_in1k_384"
    assert default is not None and default.name.startswith("timm/convnext_tiny.") and default.name != tagged.name
    assert tagged.preprocessing.image_size == 384 != default.preprocessing.image_size
    assert shape_of(TIMM, "convnext_tiny.in12k_ft_in1k_384", "head.fc.weight", 64) == (5, 768)


def test_a_model_of_another_kind_belongs_to_no_library():
    assert library_of("cnn2") is None and library_of("timm.models:resnet18") is None and library_of("my/model") is None
    assert library_of("timm/resnet18") == (TIMM, "resnet18")


# Models --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("args", [{"no_such_argument": 1}, {"depth": 0.5}, {"patch_size": 0}])
def test_arguments_that_do_not_fit_are_an_error(args):
    with pytest.raises(UsageError, match=r"model.args=.* do not fit model.name=timm/test_vit"):
        build_model(ModelConfig(name="timm/test_vit", args=args), 5, 160)


@pytest.mark.parametrize("args", [{"pretrained": True}, {"weights": "DEFAULT"}])
@pytest.mark.parametrize("name", ["timm/test_resnet", "torchvision/squeezenet1_1"])
def test_trained_weights_are_asked_for_by_a_setting(name, args):
    with pytest.raises(UsageError, match=r"loads weights itself.*model.pretrained=true.*model.weights=FILE"):
        build_model(ModelConfig(name=name, args=args), 5, 64)


def test_arguments_reach_the_model():
    model = build_model(ModelConfig(name="timm/test_vit", args={"depth": 1, "drop_rate": 0.25}), 5, 160)
    assert len(model.get_submodule("blocks")) == 1 and model.get_submodule("head_drop").p == 0.25


def test_transformers_are_built_for_the_image_size_and_other_models_take_any():
    assert shape_of(TIMM, "test_vit", "pos_embed", 96) == (1, 1 + 6 * 6, 64)
    assert shape_of(TIMM, "test_vit", "pos_embed", 96, img_size=64) == (1, 1 + 4 * 4, 64)
    assert shape_of(TORCHVISION, "vit_b_16", "encoder.pos_embedding", 96) == (1, 1 + 6 * 6, 768)
    model = build_model(ModelConfig(name="timm/test_resnet"), 5, 96).eval()
    assert model(torch.zeros(1, 3, 96, 96)).shape == model(torch.zeros(1, 3, 64, 64)).shape == (1, 5)


# Weights -------------------------------------------------------------------------------------------


def test_position_embeddings_of_timm_are_resampled_to_the_image_size(tmp_path):
    torch.manual_seed(1)
    source = TIMM.build("test_vit", 1000, 160, {})
    with torch.no_grad():
        position = torch.linspace(-1, 1, 10).expand(10, 10)
        source.pos_embed[0, 1:] = position.reshape(100, 1)  # type: ignore[index]
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    config = ModelConfig(name="timm/test_vit", weights=str(tmp_path / "w.safetensors"), channels_last=False)
    model = build_model(config, 5, 96)
    found = find_source(config)
    assert found is not None
    done = init_from(model, found, config, list("abcde"), 96)
    assert not done.warnings
    new = model.state_dict()["pos_embed"]
    assert new.shape == (1, 37, 64)
    assert torch.equal(new[:, 0], source.state_dict()["pos_embed"][:, 0]), "that of the class token stays"
    rows = new[0, 1:, 0].reshape(6, 6)
    assert (rows.diff(dim=1) > 0.1).all() and rows.diff(dim=0).abs().max() < 1e-4, "left to right, as before"
    assert torch.equal(model.state_dict()["blocks.0.attn.qkv.weight"], source.state_dict()["blocks.0.attn.qkv.weight"])


def test_position_embeddings_of_torchvision_are_resampled_to_the_image_size():
    position = torch.linspace(-1, 1, 14).expand(14, 14).reshape(1, 196, 1).expand(1, 196, 8)
    tensors = {
        "encoder.pos_embedding": torch.cat([torch.full((1, 1, 8), 7.0), position], dim=1),
        "conv_proj.weight": torch.zeros(8, 3, 16, 16),
    }
    new = TORCHVISION.convert("vit_b_16", tensors, 96, {})["encoder.pos_embedding"]
    assert new.shape == (1, 37, 8) and (new[:, 0] == 7).all()
    rows = new[0, 1:, 0].reshape(6, 6)
    assert (rows.diff(dim=1) > 0.1).all() and rows.diff(dim=0).abs().max() < 1e-4


def test_weights_come_with_their_preprocessing_and_classes():
    lite = TIMM.weights("tf_efficientnet_lite0", None)
    assert lite is not None
    half = (0.5, 0.5, 0.5)
    assert lite.preprocessing == Preprocessing(224, half, half, "bicubic", 0.875)
    assert len(lite.class_names) == 1000 and "tench, Tinca tinca" in lite.class_names
    resnet = TORCHVISION.weights("resnet50", None)
    assert resnet is not None and resnet.name == "torchvision/resnet50 IMAGENET1K_V2"
    assert resnet.preprocessing.crop_fraction == pytest.approx(224 / 232)
    assert resnet.preprocessing.interpolation == "bilinear" and resnet.class_names[0] == "tench"
    older = TORCHVISION.weights("resnet50", "IMAGENET1K_V1")
    assert older is not None and older.preprocessing.crop_fraction == pytest.approx(224 / 256)
    squashed = TIMM.weights("convnext_base.fb_in22k_ft_in1k_384", None)
    assert squashed is not None and squashed.preprocessing.resize == "squish"
    assert lite.preprocessing.resize == resnet.preprocessing.resize == "crop"


def test_files_of_densenets_have_older_names_for_their_layers():
    with torch.device("meta"):
        own = TORCHVISION.build("densenet121", 1000, 224, {}).state_dict()
    old = {re.sub(r"(denselayer\d+\.(norm|conv))([12])", r"\1.\3", name): tensor for name, tensor in own.items()}
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    for tensors in (old, own):
        assert TORCHVISION.convert("densenet121", tensors, 224, {}) == own


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_networks_that_torchvision_normalizes_again_get_the_same_pixels(name):
    args = {"transform_input": True, "init_weights": False}
    with torch.device("meta"):
        inside = TORCHVISION.build(name, 5, 224, args)
    plain, told = TORCHVISION.weights(name, None), TORCHVISION.weights(name, None, args)
    assert plain is not None and told is not None
    pixels = torch.rand(2, 3, 4, 4)
    ours, theirs = (
        (pixels - torch.tensor(seen.mean).view(3, 1, 1)) / torch.tensor(seen.std).view(3, 1, 1)
        for seen in (plain.preprocessing, told.preprocessing)
    )
    assert torch.allclose(ours, inside._transform_input(theirs), atol=1e-5) and not torch.allclose(ours, theirs)


def test_weights_with_auxiliary_outputs_name_the_argument_that_turns_them_off(tmp_path):
    class Auxiliary(torch.nn.Module):
        def __init__(self, num_classes: int) -> None:
            super().__init__()
            self.AuxLogits, self.fc = torch.nn.Linear(3, num_classes), torch.nn.Linear(3, num_classes)

    save_file(Auxiliary(1000).state_dict(), tmp_path / "w.safetensors")
    config = ModelConfig(init_from=str(tmp_path / "w.safetensors"))
    source = find_source(config)
    assert source is not None
    message = r"AuxLogits.weight is \(1000, 3\).* Turn off its auxiliary outputs: model.args={aux_logits: false}"
    with pytest.raises(UsageError, match=message):
        init_from(Auxiliary(5), source, config, list("abcde"), 32)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "torchvision/resnet18", "weights": "IMAGENET1K_V9"}, "no such weights.*It has IMAGENET1K_V1"),
        ({"name": "timm/resnet18", "weights": "a9_in1k"}, "timm/resnet18 has no such weights. It has .*a1_in1k"),
        ({"name": "cnn2", "pretrained": True}, "model.pretrained=true: cnn2 is not a library's model.*init_from=FILE"),
        ({"name": "cnn2", "weights": "DEFAULT"}, "model.weights=DEFAULT: cnn2 is not a library's model"),
        ({"name": "timm/resnet81", "pretrained": True}, "has no such model. Did you mean 'resnet18'"),
        ({"name": "timm/botnet50ts_256", "pretrained": True}, "has no weights for timm/botnet50ts_256.*FILE"),
    ],
)
def test_weights_that_do_not_exist_are_an_error_with_a_hint(settings, message):
    with pytest.raises(UsageError, match=message):
        library_weights(ModelConfig(**settings))


def test_default_is_torchvisions_best_weights():
    found = library_weights(ModelConfig(name="torchvision/resnet50", weights="DEFAULT"))
    assert found is not None and found.name.endswith("IMAGENET1K_V2")


def test_a_tag_can_be_given_as_weights():
    weights = library_weights(ModelConfig(name="timm/resnet18", weights="a2_in1k"))
    assert weights is not None and weights.name == "timm/resnet18.a2_in1k"


def test_timms_advice_about_its_own_flags_is_not_shown(tmp_path, caplog):
    """It logs what it resamples and drops, in words that are not those of our settings."""
    caplog.set_level(logging.WARNING)
    tensors = TIMM.build("test_vit", 1000, 160, {}).state_dict()
    TIMM.convert("test_vit", tensors, 96, {})
    assert not caplog.records


def test_a_run_notes_which_weights_it_started_from(tmp_path):
    (tmp_path / "w.safetensors").write_bytes(b"abc")
    source = find_source(ModelConfig(name="timm/test_resnet", weights=str(tmp_path / "w.safetensors")))
    assert source is not None
    assert source.describe() == {
        "setting": f"model.weights={tmp_path / 'w.safetensors'}",
        "weights": str(tmp_path / "w.safetensors"),
        "file": "w.safetensors",
        "sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
    }
    assert json.dumps(source.describe())


def test_the_run_folder_holds_the_weights_hash_and_their_preprocessing(ranks, tmp_path):
    save_file(TIMM.build("test_resnet", 1000, 160, {}).state_dict(), tmp_path / "w.safetensors")
    command = [
        *["train", "--name", "a", "data.name=digits", "data.image_size=32", "train.num_steps=1", "run.trackers=[]"],
        *["model.name=timm/test_resnet", "model.weights=w.safetensors", "train.num_threads=1"],
    ]
    said = ranks.run(*command)
    assert "weights from w.safetensors" in said and "new head for 10 classes" in said
    noted = json.loads((tmp_path / "runs/a/weights.json").read_text())
    assert noted["sha256"] == hashlib.sha256((tmp_path / "w.safetensors").read_bytes()).hexdigest()
    assert noted["setting"] == "model.weights=w.safetensors"
    config, weights = read_config(tmp_path / "runs/a/config.yaml"), TIMM.weights("test_resnet", None)
    assert weights is not None
    assert config.data.crop_fraction == weights.preprocessing.crop_fraction == 0.95
    assert config.augment.normalize.mean == list(weights.preprocessing.mean) == [0.5, 0.5, 0.5]
    assert config.data.image_size == 32, "what is given comes first"
    for kept in (tmp_path / "runs/a").iterdir():  # as if it had been killed before the first checkpoint
        if kept.is_dir():
            shutil.rmtree(kept)
        elif kept.name not in ("config.yaml", "given.json", "weights.json"):
            kept.unlink()
    save_file(TIMM.build("test_resnet", 1000, 160, {}).state_dict(), tmp_path / "w.safetensors")
    said = ranks.run(*command, expect=2)
    assert "model.weights=w.safetensors: w.safetensors has changed since this run first started" in said
    assert json.loads((tmp_path / "runs/a/weights.json").read_text()) == noted
