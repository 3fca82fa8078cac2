"""Settles what a config leaves to distcls, once, at a run's first start: the preset, its network, and its length.

The result is stored in config.yaml with the settings that the user gave, so a resumed run never chooses again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from distcls.config.differences import differences
from distcls.config.loading import LENGTHS, read_config, with_preset
from distcls.config.settings import PRESETS, Config, DataConfig, ModelConfig
from distcls.data.decoding.decode import BadImageError
from distcls.data.decoding.native_size import are_large, decoding_of, spread_over
from distcls.data.sources.datasets import open_image_sets
from distcls.data.sources.image_set import ImageSet
from distcls.data.splitting.cut import cut_splits
from distcls.data.splitting.groups import find_groups
from distcls.errors import UsageError
from distcls.files.atomic import read_json
from distcls.models import timm_library
from distcls.models.init_from import file_of_run, find_source, find_weights, is_file, library_weights
from distcls.models.libraries import library_of
from distcls.models.library_weights import LibraryWeights, cannot_reach
from distcls.runs.resolution import computes_bf16
from distcls.training.start.precision import faster_precision

ImageSets = dict[str, ImageSet]

SECONDS_TO_DOWNLOAD = 8

BUNDLED = f"timm/{timm_library.BUNDLED}.in1k"
"""ImageNet weights that are installed with distcls: 19 MB, 4.7 million parameters."""

NETWORKS = {
    ("best", "cpu"): "timm/efficientnetv2_rw_t.ra2_in1k",
    ("fast", "gpu"): "timm/convnext_tiny.in12k_ft_in1k",
    ("balanced", "gpu"): "timm/convnext_tiny.in12k_ft_in1k",
    ("best", "gpu"): "timm/convnext_base.fb_in22k_ft_in1k",
}
"""Better networks than BUNDLED, by preset and device, if they are on this machine or can be downloaded quickly."""

SCRATCH = "torchvision/resnet18"

SMALLEST_BATCH = {"fast": 64, "balanced": 16, "best": 16, "scratch": 32}
"""Global batch size for small data sets, which a preset's learning rate is chosen for."""


class Scale(NamedTuple):
    """Settings for data sets from a certain size on.

    Few images move the lower layers and the statistics in directions of their own, and lose what ImageNet taught: so
    the head learns fast and long by itself, and then little more than the last block follows.
    """

    least_images: int
    """For training."""
    batch: int
    """How many times larger the batch is than for small data sets."""
    lr: float
    """How many times larger the learning rate of the head is than in the preset, for the smallest batch."""
    layer_decay: float
    freeze_until: str
    freeze_statistics: bool


SCALES = (
    Scale(20_000, 8, 1, 0.9, "25%", False),
    Scale(2_000, 4, 1, 0.75, "25%", False),
    Scale(0, 1, 3, 0.1, "40%", True),
)

MANY_IMAGES = 2_000
BUNDLED_WITH_MANY_IMAGES = {
    "optim.layer_decay": 1.0,
    "model.freeze_until": "10%",
    "augment.random_resized_crop.scale": [0.7, 1.0],
    "data.crop_fraction": 0.94,
}
"""What `balanced` sets for the bundled network and many images, each of which it sees only a few times: all layers
learn at the full rate, almost from the start, and crops are mild. Evaluation then sees about as much of an image as
those crops, instead of as little as the weights' own training wanted. Measured with 4,500 and 45,000 images
(benchmarks/RESULTS.md). Not for other networks: those with LayerNorm would forget what they know at such rates."""

EPOCHS = {"fast": (20, 100, 24_000), "balanced": (3, 10, 12_000), "best": (6, 20, 24_000), "scratch": (30, 200, 60_000)}
"""For each preset the fewest and most epochs, and how many images training should see if that lies between them."""


NEED_WEIGHTS = {
    "freeze_statistics": "whose statistics it keeps",
    "keep_head_rows": "some of whose outputs it keeps",
    "init_partly": "of which it may take a part",
}
"""Settings of the model that do nothing without initial weights, and why."""

IMAGE_SCALE = {"best": 1.25}
"""How much larger a preset's images are than those its weights were trained on; rounded to a multiple of 32."""


def settle(config: Config, device: torch.device, may_download: bool = True) -> dict[str, Any]:
    """Return the settings to replace, by path, for what was not given. Call it on the main process.

    may_download: download weights that are not on this machine. Raises what opening the data raises, and
    MissingInputError for weights that are neither here nor can be downloaded.
    """
    settled = config
    opened = functools.cache(lambda: open_image_sets(config.data))  # listing a million files takes seconds
    if config.preset == "auto":
        settled = _with_automatic_preset(config, opened)
    if settled.preset in PRESETS:
        settled = _with_network(settled, "cpu" if device.type == "cpu" else "gpu", may_download)
    settled = _with_preprocessing(settled)
    if settled.preset in PRESETS:
        settled = _with_scale(settled, opened())
    find_source(settled.model, may_download)  # if they are missing, say so before images are decoded
    for name, keeps in NEED_WEIGHTS.items():
        if getattr(settled.model, name) and not settled.model.starts_trained:
            raise UsageError(
                f"model.{name}=true needs initial weights, {keeps}: add model.pretrained=true or model.init_from=FILE, "
                "or leave it out"
            )
    train = settled.train
    # In deterministic mode, a config means the same numbers wherever it starts, so no stopwatch chooses them.
    if train.precision == "auto" and not train.deterministic and device.type == "cpu" and computes_bf16(device):
        settled = settled.replaced({"train.precision": faster_precision(settled, opened()["train"])})
    return {one.path: settled.at(one.path) for one in differences(config, settled, everything=True)}


def _with_automatic_preset(config: Config, opened: Callable[[], ImageSets]) -> Config:
    if not config.may_have_preset or not are_photographs(opened()["train"], config.data):
        return with_preset(config, "none")
    is_from_scratch = not config.model.starts_trained and (
        config.is_given("model.name") or config.is_given("model.pretrained")
    )
    return with_preset(config, "scratch" if is_from_scratch else "balanced")


def are_photographs(image_set: ImageSet, config: DataConfig) -> bool:
    """True if most of a few images, taken from the whole set, have at least 64 pixels on their shorter side."""
    sides, at_own_size = [], dataclasses.replace(decoding_of(config), image_size=None)
    for i in spread_over(len(image_set)):
        try:
            sides.append(min(image_set.image(int(i), at_own_size).shape[:2]))
        except (BadImageError, OSError):
            continue
    return are_large(sides)


def _with_network(config: Config, device: str, may_download: bool) -> Config:
    """Choose the preset's network, unless the config names one; its weights too, unless the config says which."""
    says_which = any(config.is_given(f"model.{name}") for name in ("pretrained", "weights", "init_from"))
    if config.is_given("model.name"):
        is_trained = config.preset != "scratch" and library_of(config.model.name) is not None
        return config.replaced({"model.pretrained": True}) if is_trained and not says_which else config
    if config.preset == "scratch":
        return config.replaced({"model.name": SCRATCH})
    # Beside the description of its images, which tells a run's config.yaml from any other.
    of_run = _preprocessing_of_run(config.model)
    their_config = None if of_run is None else of_run.with_name("config.yaml")
    if their_config is not None and their_config.exists():
        theirs = read_config(their_config).model
        if ":" in theirs.name:  # somebody else's run may name any code
            raise UsageError(
                f"{config.model.init_from or config.model.weights} is of a run with model.name={theirs.name}, which is "
                f"code: if you trust it, add model.name={theirs.name}"
            )
        args = {} if config.is_given("model.args") else {"model.args": theirs.args}
        return config.replaced({"model.name": theirs.name, **args})
    if says_which:
        return config.replaced({"model.name": BUNDLED})
    name = NETWORKS.get((config.preset, device))
    if name is None or not _is_soon_here(ModelConfig(name=name, pretrained=True), may_download):
        name = BUNDLED
    return config.replaced({"model.name": name, "model.pretrained": True})


def _is_soon_here(model: ModelConfig, may_download: bool) -> bool:
    """True if the weights are on this machine or can be downloaded in a few seconds."""
    weights = library_weights(model)
    assert weights is not None  # they are asked for
    if weights.find() is not None:
        return True
    if not may_download or cannot_reach(weights.url()) is not None:
        return False
    download = threading.Thread(target=_fetch, args=(weights,), daemon=True)  # what is missing then comes another time
    download.start()
    download.join(SECONDS_TO_DOWNLOAD)
    return weights.find() is not None


def _fetch(weights: LibraryWeights) -> None:
    with contextlib.suppress(OSError):
        weights.fetch()


def _with_scale(config: Config, image_sets: ImageSets) -> Config:
    """Choose batch size, learning rates and epochs by the number of training images, unless they are given."""
    labels = {name: image_set.labels for name, image_set in image_sets.items()}
    groups = find_groups(config.data, image_sets)
    num_images = len(cut_splits(labels, config.data, groups=groups)["train"][1])
    scale = next(scale for scale in SCALES if num_images >= scale.least_images)
    values: dict[str, Any] = {}
    if not config.is_given("train.global_batch_size"):
        values["train.global_batch_size"] = SMALLEST_BATCH[config.preset] * scale.batch
    is_fine_tuned = config.preset in ("balanced", "best")
    if not config.is_given("optim.lr"):
        batch = values.get("train.global_batch_size", config.train.global_batch_size)
        growth = math.sqrt(batch / SMALLEST_BATCH[config.preset])
        values["optim.lr"] = config.optim.lr * growth * (scale.lr if is_fine_tuned else 1)
    if not any(map(config.is_given, LENGTHS)):
        fewest, most, images = EPOCHS[config.preset]
        values["train.num_epochs"] = float(min(max(math.ceil(images / num_images), fewest), most))
    if is_fine_tuned and not config.model.head_only:
        chosen = {
            "optim.layer_decay": scale.layer_decay,
            "model.freeze_statistics": scale.freeze_statistics and config.model.starts_trained,
        }
        chosen["model.freeze_until"] = scale.freeze_until
        is_bundled = config.model.name in (BUNDLED, f"timm/{timm_library.BUNDLED}")
        if config.preset == "balanced" and is_bundled and num_images >= MANY_IMAGES:
            chosen |= BUNDLED_WITH_MANY_IMAGES
        if config.is_given("model.freeze"):  # which leaves the preset's freeze_until out
            del chosen["model.freeze_until"]
        if config.augment.random_resized_crop is None:
            for path in ("augment.random_resized_crop.scale", "data.crop_fraction"):
                chosen.pop(path, None)
        values |= {path: value for path, value in chosen.items() if not config.is_given(path)}
    return config.replaced(values)


def _with_preprocessing(config: Config) -> Config:
    """Prepare images as the initial weights expect them, as far as the config does not say how."""
    theirs = _preprocessing(config.model)
    if config.is_given("data.crop_fraction"):  # which is for resize=crop only
        theirs.pop("data.resize", None)
    # Not every network that a user may name takes other sizes.
    is_own_choice = not config.is_given("model.name") and library_of(config.model.name) is not None
    if config.preset in IMAGE_SCALE and "data.image_size" in theirs and is_own_choice:
        theirs["data.image_size"] = 32 * round(theirs["data.image_size"] * IMAGE_SCALE[config.preset] / 32)
    return config.replaced({path: value for path, value in theirs.items() if not config.is_given(path)})


def _preprocessing_of_run(model: ModelConfig) -> Path | None:
    """Return the description of the images that a run's weights were trained on; None if they are not a run's."""
    given = model.init_from or (model.weights if is_file(model.weights) else None)
    if given is None:
        return None
    return file_of_run(find_weights(Path(given).expanduser()), "preprocessing.json")


def _preprocessing(model: ModelConfig) -> dict[str, Any]:
    """Return the settings for preparing images as in the training of the initial weights, as far as that is known."""
    of_run = _preprocessing_of_run(model)
    if of_run is not None:
        theirs = read_json(of_run)
        return {
            "data.image_size": theirs["image_size"],
            "augment.normalize.mean": theirs["normalize"]["mean"],
            "augment.normalize.std": theirs["normalize"]["std"],
            "data.interpolation": theirs.get("interpolation", "bilinear"),
            "data.crop_fraction": theirs.get("crop_fraction", 1.0),
            "data.resize": theirs.get("resize", "crop"),
        }
    found = library_of(model.name)
    if found is None or not model.starts_trained:
        return {}
    published = library_weights(model) or found[0].weights(found[1], None, model.args)
    if published is None:
        return {}
    seen = published.preprocessing
    return {
        "data.image_size": seen.image_size,
        "data.interpolation": seen.interpolation,
        "data.crop_fraction": seen.crop_fraction,
        "data.resize": seen.resize,
        "augment.normalize.mean": list(seen.mean),
        "augment.normalize.std": list(seen.std),
    }
