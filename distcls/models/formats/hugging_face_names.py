"""Renames the tensors of Hugging Face transformers' image classifiers to timm's names, so that their files fit."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import torch

from distcls.files.verified import Tensors

# In a name of transformers, # stands for a number. On the right, {i[0]} is the first of them, {after[0]} that plus one.

VIT = {
    "embeddings.cls_token": "cls_token",
    "embeddings.distillation_token": "dist_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.patch_embeddings.projection": "patch_embed.proj",
    "encoder.layer.#.layernorm_before": "blocks.{i[0]}.norm1",
    "encoder.layer.#.attention.attention.query": "blocks.{i[0]}.attn.q",
    "encoder.layer.#.attention.attention.key": "blocks.{i[0]}.attn.k",
    "encoder.layer.#.attention.attention.value": "blocks.{i[0]}.attn.v",
    "encoder.layer.#.attention.output.dense": "blocks.{i[0]}.attn.proj",
    "encoder.layer.#.layernorm_after": "blocks.{i[0]}.norm2",
    "encoder.layer.#.intermediate.dense": "blocks.{i[0]}.mlp.fc1",
    "encoder.layer.#.output.dense": "blocks.{i[0]}.mlp.fc2",
    "layernorm": "norm",
    "classifier": "head",
    "cls_classifier": "head",
    "distillation_classifier": "head_dist",
    # Names in memory since transformers 5, as torch.save writes them; its save_pretrained still writes those above.
    "layers.#.layernorm_before": "blocks.{i[0]}.norm1",
    "layers.#.attention.q_proj": "blocks.{i[0]}.attn.q",
    "layers.#.attention.k_proj": "blocks.{i[0]}.attn.k",
    "layers.#.attention.v_proj": "blocks.{i[0]}.attn.v",
    "layers.#.attention.o_proj": "blocks.{i[0]}.attn.proj",
    "layers.#.layernorm_after": "blocks.{i[0]}.norm2",
    "layers.#.mlp.fc1": "blocks.{i[0]}.mlp.fc1",
    "layers.#.mlp.fc2": "blocks.{i[0]}.mlp.fc2",
}

RESNET = {
    "embedder.embedder.convolution": "conv1",
    "embedder.embedder.normalization": "bn1",
    "encoder.stages.#.layers.#.layer.#.convolution": "layer{after[0]}.{i[1]}.conv{after[2]}",
    "encoder.stages.#.layers.#.layer.#.normalization": "layer{after[0]}.{i[1]}.bn{after[2]}",
    "encoder.stages.#.layers.#.shortcut.convolution": "layer{after[0]}.{i[1]}.downsample.0",
    "encoder.stages.#.layers.#.shortcut.normalization": "layer{after[0]}.{i[1]}.downsample.1",
    "classifier.#": "fc",
}

CONVNEXT = {
    "embeddings.patch_embeddings": "stem.0",
    "embeddings.layernorm": "stem.1",
    "encoder.stages.#.downsampling_layer.#": "stages.{i[0]}.downsample.{i[1]}",
    "encoder.stages.#.layers.#.dwconv": "stages.{i[0]}.blocks.{i[1]}.conv_dw",
    "encoder.stages.#.layers.#.layernorm": "stages.{i[0]}.blocks.{i[1]}.norm",
    "encoder.stages.#.layers.#.pwconv1": "stages.{i[0]}.blocks.{i[1]}.mlp.fc1",
    "encoder.stages.#.layers.#.pwconv2": "stages.{i[0]}.blocks.{i[1]}.mlp.fc2",
    "encoder.stages.#.layers.#.layer_scale_parameter": "stages.{i[0]}.blocks.{i[1]}.gamma",
    "layernorm": "head.norm",
    "classifier": "head.fc",
}

FAMILIES = {"vit": VIT, "deit": VIT, "resnet": RESNET, "convnext": CONVNEXT}
"""By the prefix of a classifier's tensors, which files of its backbone alone lack."""

UNUSED = r"pooler\..*|embeddings\.mask_token"
"""What a backbone's file has, and no classifier uses."""

ENDINGS = r"(.*?)((?:\.(?:weight|bias|running_mean|running_var|num_batches_tracked))?)"


def timm_names(tensors: Tensors) -> Tensors:
    """Return the tensors of a ViT, DeiT, ResNet or ConvNeXt of transformers by timm's names, and any others as given.

    torchvision's names for ResNets are timm's.
    """
    for family, names in FAMILIES.items():
        used = {name.removeprefix(f"{family}."): tensor for name, tensor in tensors.items()}
        used = {name: tensor for name, tensor in used.items() if not re.fullmatch(UNUSED, name)}
        renamed = {name: _renamed(name, names) for name in used}
        if renamed and all(renamed.values()):
            return dict(_joined({new: used[old] for old, new in renamed.items() if new is not None}))
    return tensors


def class_names_of(config: Path) -> list[str] | None:
    """Return the classes in a config.json of transformers, in order; None if there is no such file or no classes."""
    try:
        labels = json.loads(config.read_text("utf-8"))["id2label"]
        return [labels[str(number)] for number in range(len(labels))]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _renamed(name: str, names: dict[str, str]) -> str | None:
    found = re.fullmatch(ENDINGS, name)
    assert found is not None
    stem, ending = found.groups()
    numbers = [int(part) for part in stem.split(".") if part.isdigit()]
    pattern = names.get(".".join("#" if part.isdigit() else part for part in stem.split(".")))
    return pattern and pattern.format(i=numbers, after=[number + 1 for number in numbers]) + ending


def _joined(tensors: Tensors) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the tensors with queries, keys and values as one."""
    for name, tensor in tensors.items():
        found = re.fullmatch(r"(.*\.attn\.)([qkv])\.(.*)", name)
        if found is None:
            yield name, tensor
        elif found[2] == "q":
            parts = [tensors.get(f"{found[1]}{part}.{found[3]}") for part in "qkv"]
            yield f"{found[1]}qkv.{found[3]}", torch.cat([part for part in parts if part is not None])
