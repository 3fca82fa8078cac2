"""Describes an exported file inside the file: classes, preprocessing, temperature, and what goes in and out."""

from __future__ import annotations

import json
from pathlib import Path

from distcls import __version__
from distcls.config.settings import Config
from distcls.data.augmentation.preprocessing import describe_preprocessing
from distcls.export.portable import Portable
from distcls.files.verified import sha256_of

DECIDING = ("class_names", "temperature", "test_time_augmentation", "weights_sha256")
"""The entries that determine a file's answers and can change during a run."""


def describe(portable: Portable, config: Config, weights: Path) -> dict[str, str]:
    """Return the metadata of a file: text by name, for every format alike; lists and objects are JSON.

    config: the run's. weights: the file that the portable's weights come from. JSON is
    ASCII, because class names may be any bytes and ONNX takes only UTF-8.
    """
    classifier, size = portable.classifier, portable.image_size
    temperature = float(classifier.temperature)
    preprocessing = describe_preprocessing(classifier.decoding, config.augment.normalize)
    return {
        "class_names": json.dumps(classifier.class_names),
        "num_classes": str(len(classifier.class_names)),
        "image_size": str(size),
        "input": f"uint8 (batch, {size}, {size}, 3), from 0 to 255; normalization is inside",
        "color_order": "RGB",
        "output": f"{portable.output_name}, float32 (batch, {len(classifier.class_names)})",
        "temperature": repr(temperature),
        "test_time_augmentation": classifier.tta,
        "preprocessing": json.dumps({**preprocessing, "temperature": temperature}),
        "model": config.model.name,
        "weights_sha256": sha256_of(weights),
        "distcls_version": __version__,
    }


def describe_int8(calibrated_with: str) -> dict[str, str]:
    """Return what is added for a quantized file. calibrated_with: such as "200 val images"."""
    return {"quantization": f"int8, calibrated with {calibrated_with}"}


def describe_resizing() -> dict[str, str]:
    """Return what is different for a file that resizes its image itself."""
    return {"input": "uint8 (height, width, 3), one upright image of any size; resizing and normalization are inside"}
