"""Every setting of a run, with its unit and its range: the schema behind YAML files and the command line.

This file imports nothing heavy, so that a mistake in a config is reported
before torch is imported. loading.py fills these classes, resolution.py settles what a config leaves open, and
from then on it is only read: nothing can be assigned. `distcls config schema` prints them as a JSON schema.
"""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

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
    """A dataclass field that carries its documentation and range.

    minimum and maximum are inclusive, above and below exclusive. `duration` marks a string such as
    "3 epochs" (durations.py). `changes_run=False` marks what may differ when a run is resumed.
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
"""Values of data.name for what --data names: their data.root is a folder or a file of the user's."""


@dataclass(frozen=True)
class DataConfig:
    """Which images, how they are split, and how they reach the model."""

    name: str = setting(
        "digits",
        "digits, folder, csv, npz, imagenet, tiny_imagenet, cifar10, mnist, fashion_mnist, stl10, synthetic, or "
        "my_pkg.module:factory.",
    )
    args: dict[str, Any] = setting(
        {}, "Arguments of synthetic, such as {num_images: 50000, num_classes: 100, size: 64}, or of your factory."
    )
    root: str | None = setting(
        # The fingerprint of what is in it decides whether the data is the same, not where it lies.
        None,
        "Folder that holds the images, or the .csv or .npz file. --data DIR sets it.",
        changes_run=False,
    )
    download: bool = setting(False, "Download a named data set that is not in data.root.", changes_run=False)
    image_size: int | None = setting(
        None,
        "Height and width in pixels that the model sees; the default is the images' own.",
        minimum=1,
        maximum=100_000,
    )
    resize: Literal["crop", "pad", "squish"] = setting(
        "crop", "How an image of another shape becomes square: cut the long side, add borders, or distort."
    )
    background: str = setting(
        "white", 'What lies behind transparent pixels and around padded images: a CSS colour, or "#rrggbb".'
    )
    float_range: list[float] | None = setting(
        None, "Black and white, such as [0, 1], of images whose pixels are float or 32-bit numbers."
    )
    decode_size: int | None = setting(
        None,
        "Side in pixels of the squares that augment.random_resized_crop cuts from; the default is the whole image, "
        "as it is. It needs that augmentation.",
        minimum=1,
        maximum=100_000,
    )
    val_fraction: float = setting(
        0.1, "Share of the training images held out, stratified, where there is no val split.", minimum=0, below=1
    )
    test_fraction: float = setting(
        0.2, "Share of all images held out, stratified, where there is no test split.", minimum=0, below=1
    )
    folds: int | None = setting(
        None,
        "Cut the images that are not for test into so many stratified folds; val is one of them.",
        minimum=2,
        maximum=1000,
    )
    fold: int | None = setting(None, "The fold that is val, from 0; distcls crossval runs them all.", minimum=0)
    split_seed: int = setting(0, "Seed of the held-out splits, apart from train.seed.", minimum=0)
    cache: str = setting(
        "4 GB",
        "Decoded images that take no more than this are kept in memory, once per machine, and on each GPU where they "
        "leave it three quarters of what is free; 0 reads files instead.",
        changes_run=False,
    )
    disk_cache: str = setting(
        "0",
        "Decoded images too large for data.cache, up to this size, such as 200 GB, are kept and read on disk.",
        changes_run=False,
    )
    cache_dir: str | None = setting(
        None, "Folder of the decoded images; the default is ~/.cache/distcls.", changes_run=False
    )
    workers: int = setting(
        2,
        "Processes per rank that read files and do augment.transforms, or threads that read data.disk_cache.",
        minimum=0,
        maximum=1024,
        changes_run=False,
    )
    max_bad_fraction: float = setting(
        0.01, "More unreadable images than this share are an error.", minimum=0, maximum=1
    )


@dataclass(frozen=True)
class NormalizeConfig:
    """Channel statistics, of pixel values from 0 to 1."""

    mean: list[float] = setting([0.485, 0.456, 0.406], "Mean of the red, green and blue channel.")
    std: list[float] = setting([0.229, 0.224, 0.225], "Standard deviation of the three channels.")


@dataclass(frozen=True)
class TransformConfig:
    """One of torchvision's transforms for single images."""

    name: str = setting("", "A class of torchvision.transforms.v2, such as RandAugment, or my_pkg.module:make.")
    args: dict[str, Any] = setting({}, "Its arguments, such as {num_ops: 2}.")


@dataclass(frozen=True)
class RandomResizedCropConfig:
    """How much of an image a random crop keeps (Szegedy et al., arXiv 1409.4842), as in torchvision."""

    scale: list[float] = setting([0.08, 1.0], "Smallest and largest share of the image's area.", above=0, maximum=1)
    ratio: list[float] = setting([3 / 4, 4 / 3], "Smallest and largest width over height.", above=0)


@dataclass(frozen=True)
class AugmentConfig:
    """What happens to a training batch on its way to the model. `augment: none` turns all of it off."""

    transforms: list[TransformConfig] = setting(
        [], "Transforms of single images, in loader processes and in this order, such as [{name: RandAugment}]."
    )
    pad_crop: int = setting(
        0, "Pixels of reflected border from which a random crop is cut; 0 is off.", minimum=0, maximum=10_000
    )
    random_resized_crop: RandomResizedCropConfig | None = setting(
        None, "A random part of random shape becomes the image: {} for torchvision's ranges, null for none of it."
    )
    flip: bool | Literal["alternating"] = setting(
        False, "Mirror half of the images, left to right; alternating: every second epoch exactly the others."
    )
    brightness: float = setting(0.0, "Colour jitter: brightness changes by up to this share; 0 is off.", minimum=0)
    contrast: float = setting(0.0, "Colour jitter: contrast changes by up to this share; 0 is off.", minimum=0)
    saturation: float = setting(0.0, "Colour jitter: saturation changes by up to this share; 0 is off.", minimum=0)
    hue: float = setting(
        0.0, "Colour jitter: hue turns by up to this share of the circle; 0 is off.", minimum=0, maximum=0.5
    )
    erase: float = setting(
        0.0, "Share of images of which a random rectangle is erased (arXiv 1708.04896).", minimum=0, maximum=1
    )
    cutout: float = setting(
        0.0, "Side of a square that is blanked out (arXiv 1708.04552), as a share of the image's.", minimum=0, maximum=1
    )
    mixup: float = setting(0.0, "Alpha of mixup's Beta distribution (arXiv 1710.09412); 0 is off.", minimum=0)
    cutmix: float = setting(
        0.0,
        "Alpha of CutMix's Beta distribution (arXiv 1905.04899); 0 is off. With mixup, half of the micro-batches each.",
        minimum=0,
    )
    normalize: NormalizeConfig = setting(NormalizeConfig(), "Channel mean and standard deviation, in evaluation too.")


@dataclass(frozen=True)
class ModelConfig:
    """The network, and where its weights start."""

    name: str = setting(
        "cnn2",
        "cnn2, cnn3, resnet9, torchvision/NAME, or my_pkg.module:make, called as make(num_classes=C, **args).",
    )
    args: dict[str, Any] = setting({}, "Arguments of the model, such as {dropout: 0.2}.")
    init_from: str | None = setting(None, "A run folder or a weights file to start from.")
    init_partly: bool = setting(False, "Accept weights of model.init_from for less than half of the model's tensors.")
    freeze: list[str] = setting([], "Names (prefixes) of modules that are not trained; their BatchNorm stays as it is.")
    channels_last: bool = setting(True, "Keep weights and images in the channels_last memory format.")


@dataclass(frozen=True)
class LossConfig:
    """What is minimised."""

    name: str = setting(
        "cross_entropy", "cross_entropy, focal, or my_pkg.module:loss, called as loss(logits, targets, **args)."
    )
    label_smoothing: float = setting(0.0, "Share of the target spread over all classes.", minimum=0, below=1)
    gamma: float = setting(
        2.0, "Exponent of focal (arXiv 1708.02002): the higher, the less easy images count.", minimum=0
    )
    class_weights: Literal["none", "balanced", "effective"] | dict[str, float] = setting(
        "none",
        "Weights in training, scaled to a mean of 1 over its images: balanced is 1 / images of the class, effective "
        "1 / its effective number of images (arXiv 1901.05555); or {cat: 2}, where the other classes weigh 1.",
    )
    beta: float = setting(0.999, "Beta of class_weights=effective; 1 would be balanced.", minimum=0, below=1)
    args: dict[str, Any] = setting({}, "Arguments of a loss of your own.")


@dataclass(frozen=True)
class ObjectiveConfig:
    """What a step makes of the model and the images."""

    name: str = setting(
        "supervised", "supervised, the loss of logits and labels; or my_pkg.module:make, called as make(task, **args)."
    )
    args: dict[str, Any] = setting({}, "Arguments of an objective of your own.")


@dataclass(frozen=True)
class ParamGroupConfig:
    """Parameters whose name matches get settings of their own; what is left out is as in `optim`."""

    match: str = setting("", "Regular expression, searched in the parameter's name.")
    lr_scale: float = setting(1.0, "Factor on the learning rate.", minimum=0)
    weight_decay: float | None = setting(
        None, "Weight decay instead of optim.weight_decay, for norms and biases too.", minimum=0
    )
    name: str | None = setting(None, "Optimizer instead of optim.name.")
    args: dict[str, Any] | None = setting(None, "Arguments of an optimizer of your own.")
    lr: float | None = setting(None, "Peak learning rate instead of optim.lr.", above=0)
    momentum: float | None = setting(None, "Momentum of sgd.", minimum=0, below=1)
    nesterov: bool | None = setting(None, "Nesterov momentum for sgd.")
    betas: list[float] | None = setting(None, "Averaging factors of adam and adamw.")
    eps: float | None = setting(None, "Added to the denominator of adam and adamw.", above=0)
    schedule: Literal["constant", "cosine", "one_cycle", "step"] | None = setting(
        None, "Shape of the learning rate instead of optim.schedule."
    )
    warmup: str | None = setting(None, "Linear warmup: a duration.", duration=True)
    min_lr: float | None = setting(None, "Learning rate at the end of cosine and one_cycle.", minimum=0)
    milestones: list[str] | None = setting(None, "Durations of schedule step.", duration=True)
    gamma: float | None = setting(None, "Factor of schedule step.", above=0)

    def own(self) -> dict[str, Any]:
        """Return what stands for a setting of `optim`, by its name; None where the group has none of its own."""
        return {name: value for name, value in vars(self).items() if name not in ("match", "lr_scale")}


@dataclass(frozen=True)
class OptimConfig:
    """How weights follow gradients. The learning rate belongs to train.global_batch_size."""

    name: str = setting("adamw", "sgd, adam, adamw, or my_pkg.module:make, called as make(groups, lr=lr, **args).")
    lr: float = setting(2e-3, "Peak learning rate.", above=0)
    momentum: float = setting(0.9, "Momentum of sgd.", minimum=0, below=1)
    nesterov: bool = setting(False, "Nesterov momentum for sgd.")
    betas: list[float] = setting([0.9, 0.999], "Averaging factors of adam and adamw.")
    eps: float = setting(1e-8, "Added to the denominator of adam and adamw.", above=0)
    weight_decay: float = setting(0.01, "Weight decay.", minimum=0)
    decay_norms_and_biases: bool = setting(False, "Apply weight decay to normalisation layers and biases too.")
    schedule: Literal["constant", "cosine", "one_cycle", "step"] = setting(
        "cosine", "Shape of the learning rate after warmup."
    )
    warmup: str = setting("0 steps", "Linear warmup: a duration, such as 500 steps, 1 epoch or 5%.", duration=True)
    min_lr: float = setting(0.0, "Learning rate at the end of cosine and one_cycle.", minimum=0)
    milestones: list[str] = setting(
        [], "Durations after which schedule step multiplies the rate by gamma.", duration=True
    )
    gamma: float = setting(0.1, "Factor of schedule step.", above=0)
    fused: bool = setting(True, "Use the optimizer's fused kernel where the device has one.")
    args: dict[str, Any] = setting({}, "Arguments of an optimizer of your own.")
    groups: list[ParamGroupConfig] = setting(
        [], "Parameter groups with their own optimizer, rate, momentum, decay or schedule; the first match wins."
    )

    def for_group(self, group: ParamGroupConfig) -> OptimConfig:
        """Return these settings, changed by what a group has of its own.

        What only another optimizer or schedule uses is not inherited from here.
        """
        own = {name: value for name, value in group.own().items() if value is not None}
        unused: dict[str, Any] = {"groups": []}
        if own.get("name", self.name) != self.name:
            unused |= {"args": {}, "nesterov": False}
        schedule = own.get("schedule", self.schedule)
        if schedule != "step":
            unused["milestones"] = []
        if schedule not in ("cosine", "one_cycle"):
            unused["min_lr"] = 0.0
        return dataclasses.replace(self, **(unused | own))


@dataclass(frozen=True)
class TrainConfig:
    """How long, how precisely, and how often what happens."""

    seed: int = setting(0, "Seed of everything random.", minimum=0, below=2**63)
    num_epochs: float | None = setting(30.0, "Passes over the training set.", above=0, maximum=10**9)
    num_steps: int | None = setting(None, "Optimizer steps, instead of num_epochs.", minimum=1, maximum=10**15)
    global_batch_size: int = setting(64, "Images per optimizer step, over all processes.", minimum=1, maximum=10**9)
    micro_batch_size: int | None = setting(
        None,
        "Images per forward pass on one device. The default is global_batch_size / processes, or where deterministic "
        "global_batch_size / 8, but at least 16, on any number of processes; it is settled at the first start.",
        minimum=1,
        maximum=10**9,
    )
    sampling: Literal["none", "balanced", "square_root"] = setting(
        "none",
        "Draw the images of an epoch with replacement, so that classes come equally often (balanced), "
        "or in proportion to the square root of their size.",
    )
    precision: Literal["auto", "float32", "float64", "bf16", "fp16"] = setting(
        "auto",
        "Arithmetic: auto is bf16 on a GPU that has it in hardware, else float32; settled at a run's first start.",
    )
    deterministic: bool = setting(
        False,
        "Give the same bits on 1, 2, 4 or 8 processes, and on a GPU at each start: otherwise cuDNN times its kernels "
        "and takes the fastest.",
    )
    num_threads: int | None = setting(
        None,
        "CPU threads per process; the default shares the machine's cores, and is 1 where deterministic.",
        minimum=1,
        maximum=1024,
    )
    compile: bool = setting(
        False, "Compile the model with torch.compile. It rounds otherwise; the run is the same.", changes_run=False
    )
    max_grad_norm: float | None = setting(None, "Clip the gradient to this norm.", above=0)
    ema_decay: float | None = setting(
        None, "Evaluate and keep an exponential moving average of the weights.", minimum=0, below=1
    )
    sync_batchnorm: bool = setting(False, "BatchNorm over the micro-batches of all processes.")
    skip_steps: list[int] = setting([], "Steps that update nothing, such as one whose batch diverges.", minimum=0)
    log_every: str = setting(
        "10 steps", "How often metrics are written, which is at least once an epoch.", duration=True, changes_run=False
    )
    eval_every: str = setting("1 epoch", "How often the val split is evaluated.", duration=True)
    eval_batch_size: int = setting(256, "Images per forward pass in evaluation.", minimum=1, maximum=10**9)
    checkpoint_every: str = setting("1 epoch", "How often a checkpoint is saved.", duration=True, changes_run=False)
    keep_checkpoints: int = setting(2, "How many checkpoints are kept.", minimum=1, changes_run=False)
    best_metric: Literal[BEST_METRICS] = setting(  # type: ignore[valid-type]
        "accuracy", "Metric of the val split that chooses the best weights; among equals, the lower loss does."
    )
    early_stopping: int | None = setting(
        None, "Stop after this many evaluations in a row without a new best one.", minimum=1
    )


@dataclass(frozen=True)
class RunConfig:
    """Where the run lives and who hears of it. None of it changes the run."""

    dir: str | None = setting(None, "Run folder; the default is runs/NAME.", changes_run=False)
    name: str | None = setting(None, "Name of the run; --name NAME sets it.", changes_run=False)
    trackers: list[str] = setting(["tensorboard"], "Who receives metrics beside metrics.csv.", changes_run=False)
    hang_timeout: float = setting(
        600.0,
        "Seconds without a step in any process, after which a run of several is ended.",
        above=0,
        maximum=31_536_000,
        changes_run=False,
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = setting("auto", "What to train on.", changes_run=False)


@dataclass(frozen=True)
class Config:
    """A whole run."""

    data: DataConfig = setting(DataConfig(), "Which images, how they are split, and how they reach the model.")
    augment: AugmentConfig = setting(AugmentConfig(), "What happens to a training batch.")
    model: ModelConfig = setting(ModelConfig(), "The network, and where its weights start.")
    objective: ObjectiveConfig = setting(ObjectiveConfig(), "What a step makes of the model and the images.")
    loss: LossConfig = setting(LossConfig(), "What is minimised.")
    optim: OptimConfig = setting(OptimConfig(), "How weights follow gradients.")
    train: TrainConfig = setting(TrainConfig(), "How long, how precisely, and how often what happens.")
    run: RunConfig = setting(RunConfig(), "Where the run lives and who hears of it.")
