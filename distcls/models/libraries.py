"""The libraries of models that a config can name: timm/NAME and torchvision/NAME.

A library's weights belong with the preprocessing they were trained with, so both are asked for here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import nn

from distcls.config.wording import nearest
from distcls.errors import UsageError
from distcls.files.verified import Tensors
from distcls.models.library_weights import LibraryWeights
from distcls.models.timm_library import TimmLibrary
from distcls.models.torchvision_library import TorchvisionLibrary


class Library(Protocol):
    """A library of image classifiers, whose names here lack the prefix: "resnet18"."""

    @property
    def version(self) -> str:
        """Return its name and version."""
        ...

    def names(self) -> Sequence[str]:
        """Return the names of all models."""
        ...

    def has(self, name: str) -> bool:
        """True if there is such a model; timm's may have a tag, as in "resnet18.a1_in1k"."""
        ...

    def build(self, name: str, num_classes: int, image_size: int, args: Mapping[str, Any]) -> nn.Module:
        """Return the model with new weights. Raises TypeError, ValueError, RuntimeError … for unsuitable arguments."""
        ...

    def weights(self, name: str, choice: str | None, args: Mapping[str, Any] | None = None) -> LibraryWeights | None:
        """Return a model's weights: those called `choice`, or the library's default; None if there are none.

        args: the model's, which may change the images that it expects. Raises UsageError for an unknown choice.
        """
        ...

    def convert(self, name: str, tensors: Tensors, image_size: int, args: Mapping[str, Any]) -> Tensors:
        """Return tensors with the names and shapes that the model has at this image size, where they can be adapted."""
        ...


LIBRARIES: dict[str, Library] = {"torchvision": TorchvisionLibrary(), "timm": TimmLibrary()}


def library_of(model_name: str) -> tuple[Library, str] | None:
    """Return the library and the name in it of a model.name such as timm/resnet18; None for models of other kinds."""
    prefix, slash, name = model_name.partition("/")
    return (LIBRARIES[prefix], name) if slash and ":" not in model_name and prefix in LIBRARIES else None


def check_library_name(model_name: str) -> None:
    """Raise UsageError if a library has no model of this name."""
    found = library_of(model_name)
    if found is None or found[0].has(found[1]):
        return
    library, name = found
    prefix, untagged = model_name.partition("/")[0], name.partition(".")[0]
    tagless = f" There is a {prefix}/{untagged}, but without that tag." if library.has(untagged) else ""
    raise UsageError(
        f"model.name={model_name}: {library.version} has no such model.{tagless or nearest(name, library.names())} "
        f"List them: distcls models '{prefix}/{name[:3]}*'"
    )
