"""Every setting of a run, with its unit and its range: the schema behind YAML files and the command line.

This file imports nothing heavy, so that config mistakes are reported before torch is imported. loading.py fills these
classes, and resolution.py settles what a config leaves open. After that a config is read-only. `distcls config schema`
prints the classes as a JSON schema.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any, ClassVar, Literal

from distcls.config.metrics import BEST_METRICS


def setting(
    default: Any,
    doc: str,
    *,
    minimum: float | None = None,
    above: float | None = None,
    maximum: float | None = None,
    below: float | None = None,
    duration: bool = False,
    changes_run: bool = True,
) -> Any:
    """Return a dataclass field that carries its documentation and range.

    minimum and maximum are inclusive, above and below exclusive. `duration` marks a string such as
    "3 epochs" (durations.py). `changes_run=False` marks settings that may differ when a run is resumed.
    """
    limits = {"minimum": minimum, "above": above, "maximum": maximum, "below": below}
    metadata = {
        "doc": doc,
        "duration": duration,
        "changes_run": changes_run,
        **{name: limit for name, limit in limits.items() if limit is not None},
    }
    if isinstance(default, list | dict) or dataclasses.is_dataclass(default):
        return dataclasses.field(default_factory=lambda: copy.deepcopy(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


KINDS_OF_PATHS = ("folder", "csv", "npz")
"""Values of data.name that --data works with: their data.root is one of the user's folders or files."""

WITHOUT_PATHS = ("digits", "npz", "cifar10", "mnist", "fashion_mnist", "stl10", "synthetic")
"""Values of data.name whose images have no paths of their own that could tell which belong together."""


@dataclass(frozen=True)
class DataConfig:
    """The images, how they are split, and how they reach the model."""

    name: str = setting(
        "digits",
        "The data set: digits, folder, csv, npz, imagenet, tiny_imagenet, cifar10, mnist, fashion_mnist, stl10, "
        "synthetic, or my_pkg.module:factory.",
    )
    args: dict[str, Any] = setting(
        {}, "Arguments for synthetic, such as {num_images: 50000, num_classes: 100, size: 64}, or for your factory."
    )
    root: str | None = setting(
        # Its contents (their fingerprint) decide whether the data is the same, not its location.
        None,
        "Folder of images, or the .csv or .npz file; --data DIR sets it.",
        changes_run=False,
    )
    download: bool = setting(False, "Download the data set if it is not in data.root.", changes_run=False)
    image_size: int | None = setting(
        None,
        "Height and width in pixels of the images that the model sees; the default is the size that pretrained weights "
        "were trained at, or else the images' own size, or 224 if that varies, is not square or is above 256.",
        minimum=1,
        maximum=100_000,
    )
    resize: Literal["crop", "pad", "squish"] = setting(
        "crop",
        "How to make an image square: crop cuts the long side, pad adds borders, squish distorts; pretrained weights "
        "set their own.",
    )
    interpolation: Literal["bilinear", "bicubic"] = setting(
        "bilinear", "Filter for resizing images; pretrained weights set their own."
    )
    crop_fraction: float = setting(
        1.0,
        "Share of the short side that resize=crop keeps, outside random crops; pretrained weights set their own.",
        above=0,
        maximum=1,
    )
    background: str = setting(
        "white", 'Color behind transparent pixels and around padded images: a CSS color name or "#rrggbb".'
    )
    float_range: list[float] | None = setting(
        None, "Pixel values of black and white, such as [0, 1], for gray images with float, 16-bit or 32-bit pixels."
    )
    decode_size: int | None = setting(
        None,
        "Resize images to squares of this many pixels before augment.random_resized_crop cuts from them; "
        "the default is to cut from the original image.",
        minimum=1,
        maximum=100_000,
    )
    val_fraction: float = setting(
        0.1,
        "Share of the training images held out for validation, stratified, if the data has no val split.",
        minimum=0,
        below=1,
    )
    test_fraction: float = setting(
        0.2,
        "Share of all images held out for testing, stratified, if the data has no test split.",
        minimum=0,
        below=1,
    )
    folds: int | None = setting(
        None,
        "Split the images not held out for testing into this many stratified folds; one of them is val.",
        minimum=2,
        maximum=1000,
    )
    fold: int | None = setting(None, "Which fold is val, counted from 0; distcls crossval runs all of them.", minimum=0)
    split_seed: int = setting(0, "Random seed for the splits, independent of train.seed.", minimum=0)
    groups: str | None = setting(
        None,
        "Keep images that belong together, such as those of one patient, in the same split: a regular expression whose "
        r"parentheses match the group's name in an image's path under data.root, such as (patient\d+)_, or a column of "
        "the .csv file.",
    )
    cache: str = setting(
        "4 GB",
        "Keep decoded images in memory if they take no more than this (one copy per machine), and on each GPU if "
        "they fit in a quarter of its free memory; 0 reads the files instead.",
        changes_run=False,
    )
    disk_cache: str = setting(
        "0",
        "Keep decoded images on disk if they are too large for data.cache but take no more than this, such as 200 GB.",
        changes_run=False,
    )
    cache_dir: str | None = setting(
        None, "Folder for decoded images; the default is ~/.cache/distcls.", changes_run=False
    )
    workers: int = setting(
        2,
        "Workers per process of the run: processes that read files and apply augment.transforms, or threads that read "
        "data.disk_cache.",
        minimum=0,
        maximum=1024,
        changes_run=False,
    )
    exclude: str | None = setting(
        None,
        "File that names images to leave out, such as the audit.csv of distcls audit: a .csv file with a column image, "
        "or one name per line, as in splits.json.",
    )
    max_bad_fraction: float = setting(
        0.01,
        "Skip and report unreadable images up to this share; more is an error.",
        minimum=0,
        maximum=1,
    )

    @property
    def has_group_column(self) -> bool:
        """True if `groups` is a column of a CSV file, not a regular expression."""
        return self.name == "csv" and self.groups is not None and "(" not in self.groups


@dataclass(frozen=True)
class NormalizeConfig:
    """Channel statistics, of pixel values from 0 to 1."""

    mean: list[float] = setting([0.485, 0.456, 0.406], "Mean of the red, green and blue channels.")
    std: list[float] = setting([0.229, 0.224, 0.225], "Standard deviation of the red, green and blue channels.")


@dataclass(frozen=True)
class TransformConfig:
    """One of torchvision's transforms for single images."""

    name: str = setting("", "A class in torchvision.transforms.v2, such as RandAugment, or my_pkg.module:make.")
    args: dict[str, Any] = setting({}, "Arguments for the transform, such as {num_ops: 2}.")


@dataclass(frozen=True)
class RandomResizedCropConfig:
    """How much of an image a random crop keeps (Szegedy et al., arXiv 1409.4842), as in torchvision."""

    scale: list[float] = setting(
        [0.08, 1.0], "Smallest and largest crop, as a share of the image's area.", above=0, maximum=1
    )
    ratio: list[float] = setting([3 / 4, 4 / 3], "Smallest and largest aspect ratio (width / height).", above=0)


@dataclass(frozen=True)
class AugmentConfig:
    """Augmentation of training batches. `augment: none` turns all of it off."""

    transforms: list[TransformConfig] = setting(
        [],
        "Transforms applied to single images, in this order, by the worker processes, such as [{name: RandAugment}].",
    )
    pad_crop: int = setting(
        0,
        "Pad images by this many reflected pixels, then crop at random to the original size; 0 is off.",
        minimum=0,
        maximum=10_000,
    )
    random_resized_crop: RandomResizedCropConfig | None = setting(
        None, "Crop a random area of random shape and resize it: {} uses torchvision's ranges, null is off."
    )
    flip: bool | Literal["alternating"] = setting(
        False,
        "Mirror a random half of the images left to right; alternating mirrors the other half every second epoch.",
    )
    brightness: float = setting(
        0.0, "Color jitter: change brightness at random by up to this share; 0 is off.", minimum=0
    )
    contrast: float = setting(0.0, "Color jitter: change contrast at random by up to this share; 0 is off.", minimum=0)
    saturation: float = setting(
        0.0, "Color jitter: change saturation at random by up to this share; 0 is off.", minimum=0
    )
    hue: float = setting(
        0.0,
        "Color jitter: shift hue at random by up to this share of the color wheel; 0 is off.",
        minimum=0,
        maximum=0.5,
    )
    erase: float = setting(
        0.0,
        "Share of images in which a random rectangle is erased (arXiv 1708.04896); 0 is off.",
        minimum=0,
        maximum=1,
    )
    cutout: float = setting(
        0.0,
        "Blank out a random square whose side is this share of the image's (arXiv 1708.04552); 0 is off.",
        minimum=0,
        maximum=1,
    )
    mixup: float = setting(0.0, "Alpha of mixup's Beta distribution (arXiv 1710.09412); 0 is off.", minimum=0)
    cutmix: float = setting(
        0.0,
        "Alpha of CutMix's Beta distribution (arXiv 1905.04899); 0 is off. With both, each micro-batch gets mixup or "
        "CutMix with equal chance.",
        minimum=0,
    )
    normalize: NormalizeConfig = setting(
        NormalizeConfig(),
        "Channel means and standard deviations that images are normalized with, in evaluation too; pretrained weights "
        "set their own.",
    )


@dataclass(frozen=True)
class ModelConfig:
    """The model and its initial weights."""

    name: str = setting(
        "cnn2",
        "The model: cnn2, cnn3, simple_cnn, resnet9, airbench, small_resnet, tiny_resnet, searchable_cnn, timm/NAME, "
        "torchvision/NAME, or my_pkg.module:make, called as make(num_classes=C, **args).",
    )
    args: dict[str, Any] = setting({}, "Arguments for the model, such as {dropout: 0.2}.")
    pretrained: bool = setting(
        False, "Start a timm/ or torchvision/ model from its library's weights, which are downloaded once."
    )
    weights: str | None = setting(
        None,
        "Weights to start a timm/ or torchvision/ model from: a file, for offline machines, or torchvision's "
        "name for its weights, such as DEFAULT or IMAGENET1K_V2.",
    )
    init_from: str | None = setting(None, "Run folder or weights file to start from.")
    init_partly: bool = setting(
        False, "Allow weights to provide only some of the model's tensors, or to have more blocks than it."
    )
    keep_head_rows: bool = setting(
        False, "In a new head, keep the pretrained outputs of classes that have the same names as yours."
    )
    freeze: list[str] = setting(
        [], "Modules not to train, by name or prefix; their BatchNorm statistics stay as they are."
    )
    freeze_statistics: bool = setting(
        False,
        "Keep the BatchNorm statistics of the initial weights, which small batches would only make noisy.",
    )
    head_only: bool = setting(
        False,
        "Train only the last layer, on features that the rest of the model computes once for each image, without "
        "augmentation.",
    )
    freeze_until: str | dict[str, str] = setting(
        "0 steps",
        "Train only the head for this long, such as 1 epoch, then the whole model; or freeze each of these modules for "
        "its own time, as in {layer1: 3 epochs, layer2: 2 epochs}.",
        duration=True,
    )
    channels_last: bool = setting(True, "Store weights and images in the channels_last memory format.")

    @property
    def frozen_parts(self) -> dict[str, str]:
        """Return the durations of freeze_until by part; the part "" is everything but the head."""
        return self.freeze_until if isinstance(self.freeze_until, dict) else {"": self.freeze_until}

    @property
    def starts_trained(self) -> bool:
        """True if there are initial weights to load."""
        return bool(self.pretrained or self.weights or self.init_from)


@dataclass(frozen=True)
class LossConfig:
    """The loss to minimise."""

    name: str = setting(
        "cross_entropy",
        "The loss: cross_entropy, focal, or my_pkg.module:loss, called as loss(logits, targets, **args).",
    )
    label_smoothing: float = setting(0.0, "Share of the target spread evenly over all classes.", minimum=0, below=1)
    gamma: float = setting(
        2.0, "Exponent of focal loss (arXiv 1708.02002): the higher it is, the less weight easy images get.", minimum=0
    )
    class_weights: Literal["none", "balanced", "effective"] | dict[str, float] = setting(
        "none",
        "How much each class counts in training: balanced is 1 / images of the class, effective is 1 / its effective "
        "number of images (arXiv 1901.05555), and {cat: 2} leaves other classes at 1. Weights are scaled to a mean of "
        "1 over the training images.",
    )
    beta: float = setting(
        0.999, "Beta of class_weights=effective: the closer to 1, the closer to balanced.", minimum=0, below=1
    )
    args: dict[str, Any] = setting({}, "Arguments for your own loss.")


@dataclass(frozen=True)
class ObjectiveConfig:
    """How a step computes its loss from the model and the images."""

    name: str = setting(
        "supervised",
        "What to train for: supervised, the loss between logits and labels; proxy_selection, the same for the images "
        "that a small network finds hardest; or my_pkg.module:make, called as make(task, **args).",
    )
    args: dict[str, Any] = setting(
        {},
        "Arguments for proxy_selection, such as {model: cnn2, share: 0.5, train_every: 4}, or for your own objective.",
    )


@dataclass(frozen=True)
class ParamGroupConfig:
    """Settings for the parameters whose names match; anything left out is taken from `optim`."""

    match: str = setting("", "Regular expression to find in a parameter's name.")
    lr_scale: float = setting(1.0, "Factor for the learning rate.", minimum=0)
    weight_decay: float | None = setting(None, "Weight decay of this group, including its norms and biases.", minimum=0)
    name: str | None = setting(None, "Optimizer of this group.")
    args: dict[str, Any] | None = setting(None, "Arguments for your own optimizer.")
    lr: float | None = setting(None, "Peak learning rate of this group.", above=0)
    momentum: float | None = setting(None, "Momentum for sgd and muon.", minimum=0, below=1)
    nesterov: bool | None = setting(None, "Use Nesterov momentum with sgd and muon.")
    normalize_weights: bool | None = setting(None, "Keep the norm of each weight at √outputs, with muon.")
    betas: list[float] | None = setting(None, "Decay rates of the running averages in adam and adamw.")
    eps: float | None = setting(None, "Small number added to the denominator in adam and adamw.", above=0)
    schedule: Literal["constant", "cosine", "linear", "one_cycle", "step", "range_test"] | None = setting(
        None, "How this group's learning rate changes after warmup."
    )
    warmup: str | None = setting(None, "How long this group's learning rate takes to rise to its peak.", duration=True)
    min_lr: float | None = setting(None, "Learning rate at the end of cosine, linear and one_cycle.", minimum=0)
    milestones: list[str] | None = setting(
        None, "When schedule=step multiplies the learning rate by gamma.", duration=True
    )
    gamma: float | None = setting(None, "Factor for schedule=step.", above=0)

    def own(self) -> dict[str, Any]:
        """Return this group's values for the settings of `optim`, by name; None where it has no value of its own."""
        return {name: value for name, value in vars(self).items() if name not in ("match", "lr_scale")}


@dataclass(frozen=True)
class LookaheadConfig:
    """Slow weights, which follow the trained ones and replace them every few steps (arXiv 1907.08610)."""

    every: int = setting(5, "Steps between two moves of the slow weights.", minimum=1)
    decay: float = setting(
        0.5, "Share of the slow weights that each move keeps, at the end of the run.", minimum=0, maximum=1
    )
    power: float = setting(
        0.0, "The decay is multiplied by (share of the run done)^power, so with 0 it is constant.", minimum=0
    )


WITH_MOMENTUM = ("sgd", "muon")
"""Optimizers that take optim.momentum and optim.nesterov."""

WITH_MIN_LR = ("cosine", "linear", "one_cycle", "range_test")
"""Schedules that take optim.min_lr."""


@dataclass(frozen=True)
class OptimConfig:
    """How gradients update the weights. Choose the learning rate for train.global_batch_size."""

    name: str = setting(
        "adamw",
        "The optimizer: sgd, adam, adamw, muon (for filters and matrices only, see groups), or my_pkg.module:make, "
        "called as make(groups, lr=lr, **args).",
    )
    lr: float = setting(2e-3, "Peak learning rate.", above=0)
    momentum: float = setting(0.9, "Momentum for sgd and muon.", minimum=0, below=1)
    nesterov: bool = setting(False, "Use Nesterov momentum with sgd and muon.")
    normalize_weights: bool = setting(
        False, "With muon, scale each weight to a norm of √outputs before every step, instead of weight decay."
    )
    betas: list[float] = setting([0.9, 0.999], "Decay rates of the running averages in adam and adamw.")
    eps: float = setting(1e-8, "Small number added to the denominator in adam and adamw.", above=0)
    weight_decay: float = setting(
        0.01, "Weight decay, except for normalization layers and biases; 0 is off.", minimum=0
    )
    decay_norms_and_biases: bool = setting(False, "Apply weight decay to normalization layers and biases too.")
    layer_decay: float = setting(
        1.0,
        "Ratio of each layer's learning rate to that of the layer above it, such as 0.75; the head has the full rate.",
        above=0,
        maximum=1,
    )
    schedule: Literal["constant", "cosine", "linear", "one_cycle", "step", "range_test"] = setting(
        "cosine",
        "How the learning rate changes after warmup; range_test lets it grow exponentially from min_lr to lr over the "
        "whole run, to see where training diverges.",
    )
    warmup: str = setting(
        "0 steps",
        "How long the learning rate takes to rise to its peak, such as 500 steps, 1 epoch or 5%.",
        duration=True,
    )
    min_lr: float = setting(
        0.0, "Learning rate at the end of cosine, linear and one_cycle, and at the start of range_test.", minimum=0
    )
    milestones: list[str] = setting(
        [], "When schedule=step multiplies the learning rate by gamma, such as ['50%', '75%'].", duration=True
    )
    gamma: float = setting(0.1, "Factor for schedule=step.", above=0)
    lookahead: LookaheadConfig | None = setting(
        None,
        "Average the weights with a slow-moving copy of them every few steps, such as {every: 5}; null is off.",
    )
    fused: bool = setting(True, "Use the optimizer's fused kernel if the device has one.")
    args: dict[str, Any] = setting({}, "Arguments for your own optimizer.")
    groups: list[ParamGroupConfig] = setting(
        [],
        "Groups of parameters with their own optimizer, learning rate, momentum, decay or schedule; a parameter joins "
        "the first group that matches it.",
    )

    def for_group(self, group: ParamGroupConfig) -> OptimConfig:
        """Return these settings, overridden by the group's own.

        Settings that the group's optimizer or schedule does not use are not inherited.
        """
        own = {name: value for name, value in group.own().items() if value is not None}
        unused: dict[str, Any] = {"groups": []}
        name = own.get("name", self.name)
        if name != self.name:
            unused["args"] = {}
        if name not in WITH_MOMENTUM:
            unused["nesterov"] = False
        if name != "muon":
            unused["normalize_weights"] = False
        schedule = own.get("schedule", self.schedule)
        if schedule != "step":
            unused["milestones"] = []
        if schedule not in WITH_MIN_LR:
            unused["min_lr"] = 0.0
        return dataclasses.replace(self, **(unused | own))


TTA_LEVELS = ("none", "flip", "shift", "scale")
"""Levels of test-time augmentation, each with the views of the one before (inference/tta.py)."""


@dataclass(frozen=True)
class TrainConfig:
    """The length of training, its batches and arithmetic, and how often to log, evaluate and save."""

    seed: int = setting(0, "Random seed for everything but the splits.", minimum=0, below=2**63)
    num_epochs: float | None = setting(30.0, "Number of passes over the training set.", above=0, maximum=10**9)
    num_steps: int | None = setting(
        None, "Number of optimizer steps, instead of num_epochs.", minimum=1, maximum=10**15
    )
    global_batch_size: int = setting(64, "Images per optimizer step, across all processes.", minimum=1, maximum=10**9)
    micro_batch_size: int | None = setting(
        None,
        "Images per forward pass on one device. The default, fixed when a run first starts, is global_batch_size / "
        "processes; with deterministic it is global_batch_size / 8, but at least 16, on any number of processes.",
        minimum=1,
        maximum=10**9,
    )
    sampling: Literal["none", "balanced", "square_root"] = setting(
        "none",
        "Sample images with replacement so that every class is equally likely (balanced), or likely in proportion to "
        "the square root of its size (square_root); none visits every image once per epoch.",
    )
    precision: Literal["auto", "float32", "float64", "bf16", "fp16"] = setting(
        "auto",
        "Number format for computing: auto, fixed when a run first starts, is bf16 on GPUs with hardware support for "
        "it, and on such CPUs if a timed step of the network is faster in it (never in deterministic mode); float32 "
        "elsewhere.",
    )
    deterministic: bool = setting(
        False,
        "Give bit-identical results on 1, 2, 4 or 8 processes, as many as can share a batch, and every time on a GPU, "
        "where cuDNN otherwise times its kernels and picks the fastest.",
    )
    num_threads: int | None = setting(
        None,
        "CPU threads per process; the default divides the machine's cores among its processes, and is 1 with "
        "deterministic.",
        minimum=1,
        maximum=1024,
    )
    compile: bool | Literal["reduce-overhead", "max-autotune"] = setting(
        False,
        "Compile the model with torch.compile; reduce-overhead also records its kernels as CUDA graphs, which helps "
        "small models, and max-autotune also times kernels first. Compiled code may round differently; the run can "
        "still be resumed with or without it.",
        changes_run=False,
    )
    checkpoint_activations: bool = setting(
        False,
        "Keep only the inputs of the model's blocks in memory, and recompute the rest in the backward pass: a step "
        "takes about a third longer and gives the same gradients.",
        changes_run=False,
    )
    max_grad_norm: float | None = setting(None, "Clip gradients to this norm.", above=0)
    ema_decay: float | None = setting(
        None,
        "Evaluate and save an exponential moving average of the weights with this decay, such as 0.999.",
        minimum=0,
        below=1,
    )
    sync_batchnorm: bool = setting(False, "Compute BatchNorm statistics over the micro-batches of all processes.")
    skip_steps: list[int] = setting(
        [], "Steps at which not to update the weights, such as one whose batch makes training diverge.", minimum=0
    )
    log_every: str = setting(
        "10 steps",
        "How often to write metrics; they are written at least once per epoch.",
        duration=True,
        changes_run=False,
    )
    eval_every: str = setting("1 epoch", "How often to evaluate on the val split.", duration=True)
    eval_batch_size: int = setting(256, "Images per forward pass in evaluation.", minimum=1, maximum=10**9)
    tta: Literal[TTA_LEVELS] = setting(  # type: ignore[valid-type]
        "none",
        "Test-time augmentation of the final evaluation, of eval and of predict: average the logits of the image and "
        "its mirror image (flip), of shifted ones too (shift), of enlarged and reduced ones too (scale). It takes 2, 6 "
        "or 10 times as long.",
    )
    checkpoint_every: str = setting("1 epoch", "How often to save a checkpoint.", duration=True, changes_run=False)
    keep_checkpoints: int = setting(2, "How many checkpoints to keep.", minimum=1, changes_run=False)
    best_metric: Literal[BEST_METRICS] = setting(  # type: ignore[valid-type]
        "accuracy", "Metric on the val split that picks the best weights; the lower loss breaks ties."
    )
    early_stopping: int | None = setting(
        None, "Stop after this many evaluations in a row without improvement.", minimum=1
    )


@dataclass(frozen=True)
class RunConfig:
    """Where the run is stored, and where its metrics are sent. None of it changes the run."""

    dir: str | None = setting(None, "Run folder; the default is runs/NAME.", changes_run=False)
    name: str | None = setting(None, "Name of the run; --name NAME sets it.", changes_run=False)
    trackers: list[str] = setting(
        ["tensorboard"],
        "Trackers to send the run to, in addition to metrics.csv: tensorboard, wandb, mlflow, trackio.",
        changes_run=False,
    )
    hang_timeout: float = setting(
        600.0,
        "End a run of several processes when none of them has made progress for this many seconds.",
        above=0,
        maximum=31_536_000,
        changes_run=False,
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = setting("auto", "Device to train on.", changes_run=False)


PRESETS = ("fast", "balanced", "best", "scratch")
"""Recipes for photographs: YAML files in the folder presets/."""


@dataclass(frozen=True)
class Config:
    """A whole run."""

    given: ClassVar[frozenset[str]] = frozenset()
    """Paths of the settings that the user gave, in a file or as arguments. What distcls chose itself is not among
    them: it is settled at the first start and kept when the run is resumed."""

    preset: Literal[("none", "auto", *PRESETS)] = setting(  # type: ignore[valid-type]
        "none",
        "Recipe whose settings apply unless they are given: fast, balanced, best, or scratch for random weights. auto, "
        "the default without a config file, is none for named data sets and images below 64 pixels; for others "
        "balanced, or scratch if model.name is given without weights.",
    )
    data: DataConfig = setting(DataConfig(), "The images, how they are split, and how they reach the model.")
    augment: AugmentConfig = setting(AugmentConfig(), "Augmentation of training batches.")
    model: ModelConfig = setting(ModelConfig(), "The model and its initial weights.")
    objective: ObjectiveConfig = setting(
        ObjectiveConfig(), "How a step computes its loss from the model and the images."
    )
    loss: LossConfig = setting(LossConfig(), "The loss to minimise.")
    optim: OptimConfig = setting(OptimConfig(), "How gradients update the weights.")
    train: TrainConfig = setting(
        TrainConfig(), "The length of training, its batches and arithmetic, and how often to log, evaluate and save."
    )
    run: RunConfig = setting(RunConfig(), "Where the run is stored, and where its metrics are sent.")

    def is_given(self, path: str) -> bool:
        """True if the user gave this setting, or the section that it is in: "augment: none" gives all of it."""
        return any(f"{path}.".startswith(f"{one}.") for one in self.given)

    def gives(self, path: str) -> bool:
        """True if the user gave this setting, its section, or a setting inside it: `optim.lookahead.every` of one."""
        return self.is_given(path) or any(one.startswith(f"{path}.") for one in self.given)

    @property
    def may_have_preset(self) -> bool:
        """True if a preset applies, or may do so once it is known whether the images are photographs."""
        return self.preset in PRESETS or (self.preset == "auto" and self.data.name in KINDS_OF_PATHS)

    def at(self, path: str) -> Any:
        """Return the value of a setting by its dotted path."""
        return reduce(getattr, path.split("."), self)

    def replaced(self, values: Mapping[str, Any]) -> Config:
        """Return the config with other values, by their dotted paths; what was given stays noted."""
        config = self
        for path, value in values.items():
            config = _replaced(config, path.split("."), value)
        return config.noting(self.given)

    def noting(self, given: Collection[str]) -> Config:
        """Return a copy that says that these settings were given."""
        config = dataclasses.replace(self)
        object.__setattr__(config, "given", frozenset(given))  # the usual way to initialize a frozen dataclass
        return config


def _replaced(section: Any, keys: list[str], value: Any) -> Any:
    name, *rest = keys
    return dataclasses.replace(section, **{name: _replaced(getattr(section, name), rest, value) if rest else value})
