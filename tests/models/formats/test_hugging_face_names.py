"""Files of Hugging Face transformers load into timm's models, which then give the same scores."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from safetensors.torch import load_file

from distcls.config.settings import ModelConfig
from distcls.models.build import build_model
from distcls.models.formats.hugging_face_names import timm_names
from distcls.models.init_from import find_source, init_from

CLASSES = list("abcdefg")


def test_queries_keys_and_values_are_joined_in_this_order():
    block = "vit.encoder.layer.3.attention"
    tensors = {
        f"{block}.{name}.bias": torch.full((2,), float(value))
        for name, value in {"attention.key": 2, "attention.value": 3, "attention.query": 1, "output.dense": 4}.items()
    }
    renamed = timm_names(tensors)
    assert set(renamed) == {"blocks.3.attn.qkv.bias", "blocks.3.attn.proj.bias"}
    assert renamed["blocks.3.attn.qkv.bias"].tolist() == [1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize(
    ("theirs", "timms"),
    [
        ("vit.embeddings.position_embeddings", "pos_embed"),
        ("embeddings.patch_embeddings.projection.weight", "patch_embed.proj.weight"),
        ("deit.embeddings.distillation_token", "dist_token"),
        ("resnet.encoder.stages.2.layers.5.layer.1.normalization.running_var", "layer3.5.bn2.running_var"),
        ("resnet.encoder.stages.1.layers.0.shortcut.convolution.weight", "layer2.0.downsample.0.weight"),
        ("convnext.encoder.stages.3.downsampling_layer.1.weight", "stages.3.downsample.1.weight"),
        ("convnext.encoder.stages.0.layers.2.layer_scale_parameter", "stages.0.blocks.2.gamma"),
    ],
)
def test_names(theirs, timms):
    assert list(timm_names({theirs: torch.zeros(1)})) == [timms]


def test_a_backbones_pooler_is_left_out():
    tensors = {"embeddings.cls_token": torch.zeros(1), "pooler.dense.weight": torch.zeros(1)}
    assert list(timm_names(tensors)) == ["cls_token"]


@pytest.mark.parametrize("other", ["swin.encoder.layers.0.blocks.0.layernorm_before.weight", "layer1.0.conv1.weight"])
def test_files_of_other_models_stay_as_they_are(other):
    tensors = {"vit.embeddings.cls_token": torch.zeros(1), other: torch.zeros(1)}
    assert timm_names(tensors) == tensors


VIT = {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768}
ATTO = {"hidden_sizes": [40, 80, 160, 320], "depths": [2, 2, 6, 2]}
RESNET18 = {"hidden_sizes": [64, 128, 256, 512], "depths": [2, 2, 2, 2], "layer_type": "basic"}
MODELS = [
    ("timm/vit_tiny_patch16_224", "ViTForImageClassification", VIT),
    ("timm/deit_tiny_patch16_224", "ViTForImageClassification", VIT),
    ("timm/deit_tiny_distilled_patch16_224", "DeiTForImageClassificationWithTeacher", VIT),
    ("timm/resnet18", "ResNetForImageClassification", RESNET18),
    ("timm/resnet50", "ResNetForImageClassification", {}),
    ("torchvision/resnet50", "ResNetForImageClassification", {}),
    ("timm/convnext_atto", "ConvNextForImageClassification", ATTO),
    ("timm/convnext_tiny", "ConvNextForImageClassification", {}),
]


@pytest.mark.extras  # transformers is not among the packages that distcls needs
@pytest.mark.parametrize("setting", ["init_from", "weights"])
@pytest.mark.parametrize(("name", "kind", "settings"), MODELS)
def test_the_same_scores_as_in_transformers(tmp_path, monkeypatch, name, kind, settings, setting):
    if importlib.util.find_spec("transformers") is None:
        pytest.skip("transformers is not installed: whether its files load into timm's models was not checked")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import transformers

    configuration = getattr(transformers, f"{kind.partition('For')[0]}Config")
    torch.manual_seed(0)
    theirs = getattr(transformers, kind)(
        configuration(**settings, id2label=dict(enumerate(CLASSES)), label2id={c: i for i, c in enumerate(CLASSES)})
    ).eval()
    with torch.no_grad():
        for tensor_name, tensor in theirs.named_parameters():  # position embeddings and biases start at 0
            tensor.add_(torch.randn_like(tensor), alpha=0.5 if "embeddings" in tensor_name else 0.02)
        for tensor_name, tensor in theirs.named_buffers():
            if "running" in tensor_name:
                tensor.add_(torch.rand_like(tensor))
    theirs.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    if setting == "weights":  # as torch.save writes them, with the names in memory
        file = tmp_path / "w.pth"
        torch.save(theirs.state_dict(), file)
    else:
        assert not set(load_file(file)) & set(build_model(ModelConfig(name=name), 7, 224).state_dict())

    config = ModelConfig(name=name, channels_last=False, **{setting: str(file)})
    model = build_model(config, 7, 224).eval()
    source = find_source(config)
    assert source is not None and source.class_names == CLASSES
    done = init_from(model, source, config, CLASSES, 224)
    assert len(done.notes) == 1 and not done.warnings, "all tensors, the head's too"
    images = torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        expected, scores = theirs(images).logits, model(images)
    assert expected.std() > 1e-2
    assert (scores - expected).abs().max() < 1e-4 * max(1, float(expected.abs().max()))
