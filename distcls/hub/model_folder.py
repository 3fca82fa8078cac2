"""Writes a run's model as a folder that others can load, and proves that they get the run's own answers.

    config.json                                        for timm and transformers, where timm can build the network
    model.safetensors                                  the weights; the temperature is in those of the last layer
    config.yaml  classes.json  preprocessing.json      for distcls, which reads the folder as it reads a run

A network that timm cannot build has no config.json: distcls loads it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distcls.config.differences import settings_by_path
from distcls.config.loading import read_config
from distcls.config.settings import Config
from distcls.config.yaml_text import to_yaml
from distcls.data.augmentation.preprocessing import describe_preprocessing
from distcls.errors import InexactExportError
from distcls.export.formats import ExportOptions
from distcls.export.own_images import stand_ins
from distcls.export.portable import Portable, quietly
from distcls.export.proof import REFERENCE_BATCH, compare, in_batches
from distcls.export.safetensors_file import write_file as write_weights
from distcls.files.atomic import json_text
from distcls.hub.timm_layout import architecture, describe_for_timm
from distcls.inference.classifier import Classifier, load_classifier
from distcls.models.head import head_parameters
from distcls.models.init_from import is_file
from distcls.models.libraries import library_of

TOLERANCE = 1e-4
"""How far a probability may be from the run's."""

ALONE = {"train.precision": "float32", "train.tta": "none"}
"""Settings for what other programs compute: one view of each image, in float32."""

PATHS = {"data.root", "data.exclude", "data.cache_dir", "model.init_from", "model.weights", "run.dir"}
"""Settings that are paths; model.weights may be a library's name for its weights instead."""


@dataclass(frozen=True)
class Written:
    """Facts about a folder that its card reports."""

    loads_with: str
    """ "timm" (and transformers), "torchvision", "distcls", or "code" for a network of the user's own."""
    temperature: float
    """The one that is in the weights; 1 if there is none."""
    separate_temperature: float
    """One that could not be put into the weights, so that only distcls applies it; usually 1."""
    num_proven: int
    largest_difference: float
    """Of any probability, between the run and the folder loaded again."""


def write_model_folder(folder: Path, run_dir: Path, config: Config) -> Written:
    """Write the files, load them again as others will, and return what was found.

    Raises InexactExportError if the answers are not the run's. config: the run's.
    """
    classifier = load_classifier(run_dir, config.replaced(ALONE))
    images = stand_ins(run_dir, classifier.decoding).pixels
    expected = _predict(classifier, images)
    temperature = float(classifier.temperature)
    if temperature != 1:
        _fold_temperature(classifier, images, expected)
    separate = float(classifier.temperature)
    _write_files(folder, classifier, public_config(config))
    name = architecture(config.model)
    loads_with = "distcls" if library_of(config.model.name) is None else config.model.name.partition("/")[0]
    if ":" in config.model.name:
        loads_with = "code"
    if name is not None and _described_for_timm(folder, classifier, config, name):
        loads_with, probabilities = "timm", _timm_predicts(folder, images, separate)
    else:
        again = load_classifier(folder, read_config(folder / "config.yaml", [f"{k}={v}" for k, v in ALONE.items()]))
        probabilities = _predict(again, images)
    difference = compare(probabilities, expected, are_logits=False).largest_difference
    if not difference <= TOLERANCE:
        raise InexactExportError(
            f"nothing was pushed: loaded from {folder.name}, probabilities differ from the run's by up to "
            f"{difference:.2g}, more than {TOLERANCE:g}. Use distcls export instead"
        )
    return Written(loads_with, temperature / separate, separate, len(images), difference)


def _write_files(folder: Path, classifier: Classifier, config: Config) -> None:
    normalize = config.augment.normalize
    preprocessing = {
        **describe_preprocessing(classifier.decoding, normalize),
        "temperature": float(classifier.temperature),
    }
    # transformers refuses a file that does not say whose tensors it holds.
    write_weights(folder / "model.safetensors", Portable(classifier), {"format": "pt"}, ExportOptions("safetensors"))
    (folder / "config.yaml").write_text(to_yaml(config), encoding="utf-8")
    (folder / "classes.json").write_text(json_text(classifier.class_names), encoding="utf-8")
    (folder / "preprocessing.json").write_text(json_text(preprocessing), encoding="utf-8")


def public_config(config: Config) -> Config:
    """Return the config without the folders of this machine: of a path, only the last name stays.

    In settings that need not be paths, only an absolute path is recognized.
    """
    changed = {}
    paths = PATHS if is_file(config.model.weights) else PATHS - {"model.weights"}
    for path, value in settings_by_path(config).items():
        if path == "data.groups":  # a regular expression, which may start with a slash
            continue
        without = Path(value).name or "." if path in paths and value else _without_folders(value)
        if without != value:
            changed[path] = without
    return config.replaced(changed)


def _without_folders(value: Any) -> Any:
    if isinstance(value, str) and value.startswith(("/", "~")):
        return Path(value).name
    if isinstance(value, dict):
        return {key: _without_folders(one) for key, one in value.items()}
    return [_without_folders(one) for one in value] if isinstance(value, list) else value


# Temperature ---------------------------------------------------------------------------------------


def _fold_temperature(classifier: Classifier, images: np.ndarray, expected: np.ndarray) -> None:
    """Divide the last layer by the temperature, which is 1 from then on.

    Where that does not give the same answers (a head that normalizes its weights, say), undo it.
    """
    network, temperature = classifier.network, classifier.temperature.clone()
    head = {name: network.get_parameter(name) for name in head_parameters(network, len(classifier.class_names))}
    before = {name: parameter.detach().clone() for name, parameter in head.items()}
    with torch.no_grad():
        for parameter in head.values():
            parameter.div_(temperature)
        classifier.temperature.fill_(1)
        if compare(_predict(classifier, images), expected, are_logits=False).largest_difference <= TOLERANCE:
            return
        for name, parameter in head.items():
            parameter.copy_(before[name])
        classifier.temperature.copy_(temperature)


# Proof ---------------------------------------------------------------------------------------------


def _predict(classifier: Classifier, images: np.ndarray) -> np.ndarray:
    return in_batches(Portable(classifier).eval().predict, images, REFERENCE_BATCH)


def _described_for_timm(folder: Path, classifier: Classifier, config: Config, name: str) -> bool:
    """Write config.json if timm has the network under this name, with the same tensors and results; return if so."""
    import timm

    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, *classifier.decoding.shape), np.uint8))
    network = classifier.network
    if not hasattr(network, "pretrained_cfg"):  # torchvision's
        network = timm.create_model(name, num_classes=len(classifier.class_names)).eval()
        try:
            network.load_state_dict(classifier.network.state_dict())
        except RuntimeError:
            return False
        with torch.inference_mode():
            normalized = classifier.normalize(images)
            if not torch.allclose(network(normalized), classifier.network(normalized), atol=1e-3, rtol=1e-3):
                return False
    described = describe_for_timm(network, config, classifier.decoding, classifier.class_names)
    (folder / "config.json").write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
    return True


def _timm_predicts(folder: Path, images: np.ndarray, temperature: float) -> np.ndarray:
    """Return the probabilities of the folder's model as timm loads and normalizes it."""
    import timm
    from timm.data import resolve_model_data_config

    with quietly():
        model = timm.create_model(f"local-dir:{folder.resolve()}", pretrained=True).eval()
    seen = resolve_model_data_config(model)
    if tuple(seen["input_size"]) != (3, *images.shape[1:3]):
        raise InexactExportError(
            f"nothing was pushed: timm reads an image size of {seen['input_size']} from {folder.name}, and the run "
            f"has {images.shape[1]} pixels. Use distcls export instead"
        )
    mean, std = (torch.tensor(seen[name]).view(1, 3, 1, 1) for name in ("mean", "std"))

    def predict(some: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            shares = torch.from_numpy(some).permute(0, 3, 1, 2).float() / 255
            return (model((shares - mean) / std) / temperature).softmax(1).numpy()

    return in_batches(predict, images, REFERENCE_BATCH)
