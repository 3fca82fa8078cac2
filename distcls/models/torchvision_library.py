"""The image classifiers of torchvision, with its weights and their preprocessing."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from distcls.errors import UsageError
from distcls.files.verified import Tensors
from distcls.models.formats.hugging_face_names import timm_names
from distcls.models.library_weights import LibraryWeights, Preprocessing, download, find_cached, known_interpolation

NORMALIZED_BY_HALVES = ("googlenet", "inception_v3")
"""Models whose weights expect images with mean and std 0.5. With transform_input, which torchvision sets for them, the
network computes these from images with ImageNet's."""


class TorchvisionLibrary:
    """See `Library` in libraries.py."""

    @property
    def version(self) -> str:
        """Return "torchvision 0.29.2"."""
        import torchvision

        return f"torchvision {torchvision.__version__}"

    def names(self) -> Sequence[str]:
        """Return the names of all models."""
        import torchvision

        return torchvision.models.list_models(torchvision.models)

    def has(self, name: str) -> bool:
        """True if there is such a model."""
        return name in self.names()

    def build(self, name: str, num_classes: int, image_size: int, args: Mapping[str, Any]) -> nn.Module:
        """Return the model with new weights; vision transformers are built for this image size."""
        import torchvision

        size = {"image_size": image_size} if name.startswith("vit_") else {}
        return torchvision.models.get_model(name, num_classes=num_classes, **{**size, **args})

    def weights(self, name: str, choice: str | None, args: Mapping[str, Any] | None = None) -> LibraryWeights | None:
        """Return the weights of this name, such as IMAGENET1K_V2, or else torchvision's default."""
        import torchvision

        known = torchvision.models.get_model_weights(name)
        if choice is not None and choice not in known.__members__:
            raise UsageError(
                f"model.weights={choice}: torchvision/{name} has no such weights, and there is no such file. It has "
                f"{', '.join(known.__members__)}."
            )
        if not len(known):
            return None
        weights = known[choice or "DEFAULT"]
        seen, half = weights.transforms(), (0.5, 0.5, 0.5)
        by_halves = name in NORMALIZED_BY_HALVES and not (args or {}).get("transform_input")
        return TorchvisionWeights(
            name=f"torchvision/{name} {weights.name}",
            preprocessing=Preprocessing(
                image_size=seen.crop_size[0],
                mean=half if by_halves else tuple(seen.mean),
                std=half if by_halves else tuple(seen.std),
                interpolation=known_interpolation(seen.interpolation.value),
                crop_fraction=seen.crop_size[0] / max(seen.resize_size[0], seen.crop_size[0]),
            ),
            class_names=list(weights.meta.get("categories", [])),
            file_url=weights.url,
        )

    def convert(self, name: str, tensors: Tensors, image_size: int, args: Mapping[str, Any]) -> Tensors:
        """Return the tensors; position embeddings of vision transformers are resampled to the image size.

        Those of a DenseNet, whose files have names that modules may no longer have, are renamed as torchvision does.
        Those of a ResNet of transformers get torchvision's names, which are timm's too.
        """
        from torchvision.models.vision_transformer import interpolate_embeddings

        if name.startswith("densenet"):
            return {re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12])", r"\1\2", key): t for key, t in tensors.items()}
        if not name.startswith("vit_") or "encoder.pos_embedding" not in tensors:
            return timm_names(tensors)
        patch_size = tensors["conv_proj.weight"].shape[-1]
        return dict(interpolate_embeddings(image_size, patch_size, dict(tensors)))  # type: ignore[arg-type]


@dataclass(frozen=True)
class TorchvisionWeights(LibraryWeights):
    """Weights on PyTorch's download server."""

    file_url: str

    def find(self) -> Path | None:
        """Return the file in torch's cache."""
        return find_cached(self.file_url)

    def url(self) -> str:
        """Return the address of the file."""
        return self.file_url

    def fetch(self) -> Path:
        """Download the file into torch's cache. Raises OSError."""
        return download(self.file_url)
