"""Runs torchvision's transforms for single images, such as RandAugment, in loader workers.

They draw from global generators. These are seeded with the image's position in the run before each image and restored
afterwards, so its pixels depend on its position, not on who loads it, and no other code is affected.
"""

from __future__ import annotations

import enum
import inspect
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from PIL import Image

from distcls.config.imports import call_by_name
from distcls.config.settings import TransformConfig
from distcls.config.wording import nearest
from distcls.errors import UsageError
from distcls.plan.randomness import global_state_kept, seed_libraries

SHORT_NAMES = {"TrivialAugment": "TrivialAugmentWide"}
NUM_TRIALS = 20


class ImageTransforms:
    """Transforms images, given their positions in the stream of training images."""

    def __init__(self, transforms: list[Callable[[Any], Any]], seed: int, image_size: int) -> None:
        self.transforms, self.seed, self.image_size = transforms, seed, image_size

    def __call__(self, images: Iterable[np.ndarray], positions: Iterable[int]) -> list[np.ndarray]:
        """Transform images, uint8 (S, S, 3). Raises UsageError if a result has another shape or type."""
        with global_state_kept():
            return [self._transform(*one) for one in zip(images, positions, strict=True)]

    def _transform(self, image: np.ndarray, position: int) -> np.ndarray:
        seed_libraries(self.seed, "sample", int(position))
        changed: Any = Image.fromarray(image)
        for transform in self.transforms:
            changed = transform(changed)
        pixels = changed.permute(1, 2, 0).numpy() if torch.is_tensor(changed) else np.asarray(changed)
        if pixels.shape != (self.image_size, self.image_size, 3) or pixels.dtype != np.uint8:
            raise UsageError(
                f"augment.transforms turn an image into {pixels.dtype} {pixels.shape}, but the model's images are "
                f"uint8 ({self.image_size}, {self.image_size}, 3): leave out what changes size, channels or type."
            )
        return pixels


def build_transforms(configs: list[TransformConfig], seed: int, image_size: int) -> ImageTransforms | None:
    """Return the transforms of a run, or None if it has none. Raises UsageError if they fail on noise."""
    if not configs:
        return None
    transforms = ImageTransforms([_build(config) for config in configs], seed, image_size)
    noise = np.random.default_rng(0).integers(0, 256, (image_size, image_size, 3)).astype(np.uint8)
    names = ", ".join(config.name for config in configs)
    try:
        transforms([noise] * NUM_TRIALS, range(NUM_TRIALS))
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(
            f"augment.transforms: {names} cannot be applied to images of {image_size} × {image_size} pixels: {error}. "
            "They get Pillow images; put {name: ToImage} before them to get uint8 tensors."
        ) from error
    return transforms


def _build(config: TransformConfig) -> Callable[[Any], Any]:
    if ":" in config.name:
        transform = call_by_name("augment.transforms", config.name, **config.args)
        if not callable(transform):
            raise UsageError(
                f"augment.transforms: {config.name} gave {type(transform).__name__}, expected a transform, "
                "which is called with an image and returns one. Name a class, or a function that makes such an object."
            )
        return transform
    import torchvision
    from torchvision.transforms import v2

    known = [name for name, kind in vars(v2).items() if inspect.isclass(kind) and issubclass(kind, torch.nn.Module)]
    name = SHORT_NAMES.get(config.name, config.name)
    if name not in known:
        raise UsageError(
            f"augment.transforms: torchvision {torchvision.__version__} has no {config.name!r} in transforms.v2."
            f"{nearest(config.name, known)} Write my_pkg.module:make for your own."
        )
    kind = getattr(v2, name)
    try:
        return kind(**_with_enums(kind, config.args))
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"augment.transforms: args {config.args} do not fit {name}: {error}. It takes "
            f"{', '.join(inspect.signature(kind).parameters) or 'none'}."
        ) from error


def _with_enums(kind: type, args: dict[str, Any]) -> dict[str, Any]:
    """Turn values into the enums that YAML cannot hold: `policy: cifar10` into AutoAugmentPolicy("cifar10")."""
    parameters = inspect.signature(kind).parameters
    defaults = {name: parameters[name].default for name in args if name in parameters}
    is_enum = {name for name, default in defaults.items() if isinstance(default, enum.Enum)}
    return {name: type(defaults[name])(value) if name in is_enum else value for name, value in args.items()}
