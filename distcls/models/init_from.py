"""Starts a model from trained weights, of another run or of a library, with a new head if the classes differ."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from distcls.config.settings import ModelConfig
from distcls.errors import MissingInputError, UsageError, some_of
from distcls.files.atomic import read_json
from distcls.files.verified import Tensors, read_tensors, sha256_of
from distcls.models.formats.fitting import models_that_fit
from distcls.models.formats.hugging_face_names import class_names_of
from distcls.models.head import head_parameters
from distcls.models.libraries import check_library_name, library_of
from distcls.models.library_weights import LibraryWeights
from distcls.models.weights import load_weights
from distcls.runs.status import read_status

LEAST_SHARE = 0.5
"""The share of a model's tensors, not counting its head, that must be found unless model.init_partly is set."""

WRAPPERS = ("state_dict_ema", "state_dict", "model_ema", "model", "model_state_dict")
"""The names that training scripts store weights under. Averaged ones come first: they are what timm evaluates."""


@dataclass(frozen=True)
class Source:
    """A file of weights to start from."""

    path: Path
    setting: str
    """What the config says, as messages quote it: "model.init_from=runs/a"."""
    title: str
    """For people: the path, or the library's name for its weights."""
    class_names: list[str] | None
    """The classes that it was trained on; None if unknown."""

    def describe(self) -> dict[str, str]:
        """Return the content of weights.json: what the run started from."""
        found = {"setting": self.setting, "weights": self.title, "file": self.path.name}
        return {**found, "sha256": sha256_of(self.path)}


class InitFrom(NamedTuple):
    """A report of what was loaded, as sentences."""

    notes: list[str]
    warnings: list[str]
    """Results that were probably not intended."""


def find_source(config: ModelConfig, may_download: bool = True) -> Source | None:
    """Return the weights that a model starts from; None for new weights, and for a file that may not be downloaded.

    Raises MissingInputError if they are not here and cannot be downloaded, UsageError if a library has none.
    """
    published = library_weights(config)
    if published is not None:
        setting = f"model.weights={config.weights}" if config.weights else "model.pretrained=true"
        path = published.here() if may_download else published.find()
        return Source(path, setting, published.name, published.class_names) if path is not None else None
    name = "weights" if config.weights is not None else "init_from"
    given = getattr(config, name)
    if given is None:
        return None
    path = find_weights(Path(given).expanduser())
    return Source(path, f"model.{name}={given}", str(path), _class_names_beside(path))


def library_weights(config: ModelConfig) -> LibraryWeights | None:
    """Return the weights of the model's library that the config asks for; None if it asks for a file or for none.

    Raises UsageError if there are no such weights.
    """
    if config.init_from is not None or not (config.pretrained or config.weights) or is_file(config.weights):
        return None
    found = library_of(config.name)
    if found is None:
        asked = "model.pretrained=true" if config.pretrained else f"model.weights={config.weights}"
        raise UsageError(
            f"{asked}: {config.name} is not a library's model, so there are no weights for it. Choose a timm/ or "
            "torchvision/ model (distcls models), or give a file: model.init_from=FILE"
        )
    check_library_name(config.name)
    weights = found[0].weights(found[1], config.weights, config.args)
    if weights is None:
        raise UsageError(
            f"model.pretrained=true: {found[0].version} has no weights for {config.name}. Give a file, "
            "model.weights=FILE, or start from random weights: model.pretrained=false"
        )
    return weights


def is_file(weights: str | None) -> bool:
    """True if a value of model.weights is a file's path rather than a library's name for its weights."""
    return weights is not None and ("/" in weights or "." in weights or Path(weights).exists())


def init_from(
    model: nn.Module, source: Source, config: ModelConfig, class_names: list[str], image_size: int
) -> InitFrom:
    """Load weights into a model, and return a report.

    The head (the last layer with as many outputs as there are classes) starts at zero if the number or names of the
    classes differ; with model.keep_head_rows, classes whose names agree keep theirs. Weights of a library's
    model are adapted to the image size. Raises UsageError for any other difference in shapes and, unless
    model.init_partly, for weights of fewer than half of the model's tensors, and for those of a shallower or deeper
    model of a library's family, whose blocks have the same names and shapes. Weights cannot execute code:
    .safetensors holds none, and from other files torch reads only tensors.
    """
    own = model.state_dict()
    tensors = without_prefixes(read_weights(source.path), own)
    head = head_parameters(model, len(class_names))
    found = library_of(config.name)
    fits = all(n in tensors and tensors[n].shape == own[n].shape for n in own if n not in head)
    if found is not None and not (fits and tensors.keys() <= own.keys()):  # its own loader knows what files lack or add
        tensors = found[0].convert(found[1], tensors, image_size, config.args)
    old_names = source.class_names
    unfit = [name for name in own if name in tensors and own[name].shape != tensors[name].shape]
    if set(unfit) - set(head) or not set(own) & set(tensors):
        raise UsageError(
            _does_not_fit(source.setting, own, tensors, unfit)
            + models_that_fit(config.name, source.path, tensors, image_size)
        )
    has_head = not set(head).isdisjoint(tensors)
    other_classes = bool(unfit) or not has_head or (old_names is not None and old_names != class_names)
    fresh = set(head) if other_classes else set()
    loaded = {name: tensor for name, tensor in tensors.items() if name in own and name not in fresh}
    # Old files lack BatchNorm's counters, which then start at 0.
    counters = [name for name in own if name not in tensors and name.endswith("num_batches_tracked")]
    own |= {name: torch.zeros_like(own[name]) for name in counters}
    missing = [name for name in own if name not in tensors and name not in fresh and name not in counters]
    wanted = len(own) - len(fresh) - len(counters)
    if len(loaded) < LEAST_SHARE * wanted and not config.init_partly:
        raise UsageError(
            f"{source.setting} has only {len(loaded)} of the model's {wanted} tensors"
            f"{', not counting its head' if fresh else ''}: it lacks {some_of(missing, 5)}. Set model.name and "
            "model.args to match, or accept random weights for the rest: model.init_partly=true."
            + models_that_fit(config.name, source.path, tensors, image_size)
        )
    if found is not None and not config.init_partly and (differ := _other_depth(own, tensors, head)):
        raise UsageError(
            f"{source.setting} is of a {differ}. Set model.name and model.args to match, or use only the blocks that "
            "both have: model.init_partly=true." + models_that_fit(config.name, source.path, tensors, image_size)
        )
    notes = [f"weights from {source.title}: {len(loaded)} of {len(own) - len(counters)} tensors"]
    if unused := [name for name in tensors if name not in own]:
        notes.append(f"not used, because the model has no place for them: {some_of(unused, 3)}")
    if fresh:
        reason = f"because {source.title} has {'different ones' if has_head else 'no head'}: {', '.join(head)}"
        kept = _same_classes(class_names, old_names or []) if config.keep_head_rows else {}
        if config.keep_head_rows and not kept:
            raise UsageError(_no_rows_to_keep(source, class_names))
        own |= {name: _new_head(model, name, tensors.get(name), len(old_names or []), kept) for name in head}
        rows = f"; the rows of {some_of([class_names[i] for i in kept], 5)} are kept" if kept else ""
        notes.append(f"new head for {len(class_names)} classes, {reason}{rows}")
    load_weights(model, own | loaded)
    warnings = []
    if missing:
        warnings.append(
            f"{source.title} has weights for {len(loaded)} of {wanted} tensors. The other {len(missing)} get random "
            f"weights: {some_of(missing, 5)}"
        )
    return InitFrom(notes, warnings)


def _other_depth(own: Tensors, tensors: Tensors, head: list[str]) -> str | None:
    """Return "deeper model: it has layer3.6, which …" if a file has other blocks than the model; None if it has not."""
    if more := _blocks_only_in(tensors, own, head):
        return f"deeper model: it has {some_of(more, 5)}, which this one lacks"
    if fewer := _blocks_only_in(own, tensors, head):
        return f"shallower model: it lacks {some_of(fewer, 5)}, which this one has"
    return None


def _blocks_only_in(these: Tensors, those: Tensors, head: list[str]) -> list[str]:
    """Return the numbered blocks, such as "layer3.6", that only `these` have, though `those` have others of the series.

    Layers beside the head, such as those of VGG's classifier, do not count: files may lack them.
    """
    places = {place for name in those for place in _places(name)}
    series = {_series(place) for place in places if _series(place) != place}
    beside_head = {name.rpartition(".")[0].rpartition(".")[0] + "." for name in head} - {"."}
    found = {
        next(place for place in _places(name) if place not in places): None  # in the order of the names
        for name in these
        if name not in those and not name.startswith(tuple(beside_head))
    }
    return [block for block in found if _series(block) != block and _series(block) in series]


def _places(name: str) -> list[str]:
    """Return "a", "a.b" and "a.b.c" for "a.b.c"."""
    parts = name.split(".")
    return [".".join(parts[: i + 1]) for i in range(len(parts))]


def _series(place: str) -> str:
    """Return what blocks have in common that are numbered: "layer3." for layer3.6, "layer" for layer3."""
    return place.rstrip("0123456789")


def _new_head(
    model: nn.Module, name: str, old: torch.Tensor | None, num_old: int, kept: dict[int, int]
) -> torch.Tensor:
    """Return a parameter of a new head: zero, but for the rows that are kept, by their place among the old ones."""
    new = model.get_parameter(name).detach().clone()
    # Random weights would add noise to good features: timm draws some so large that the loss starts at 2.4.
    if isinstance(model.get_submodule(name.rpartition(".")[0]), nn.Linear | nn.Conv2d):
        new.zero_()
    if kept and old is not None and old.shape == (num_old, *new.shape[1:]):
        new[list(kept)] = old[list(kept.values())].to(new.dtype)
    return new


def _same_classes(class_names: list[str], old_names: list[str]) -> dict[int, int]:
    """Return the place among the old classes of each class that has one of their names or synonyms."""
    places = {_plain(synonym): place for place, name in enumerate(old_names) for synonym in (name, *name.split(","))}
    return {i: places[_plain(name)] for i, name in enumerate(class_names) if _plain(name) in places}


def _plain(name: str) -> str:
    return name.strip().casefold().replace("_", " ").replace("-", " ")


def _no_rows_to_keep(source: Source, class_names: list[str]) -> str:
    there = (
        f"its classes are {some_of(source.class_names, 5)}" if source.class_names else "it does not say which it has"
    )
    return (
        f"model.keep_head_rows=true: no class of {source.title} is called {some_of(class_names, 5)}: {there}. Leave it "
        "out for a new head."
    )


def find_weights(path: Path) -> Path:
    """Return the weights file of a run folder, or the path itself if it is a file.

    A finished run's weights are in model/; until then, the best checkpoint's are used. Raises MissingInputError.
    """
    if path.is_dir():
        kept = [path / "model" / "model.safetensors", path / "model.safetensors"]
        best = sorted(path.glob("checkpoints/best-*/model.safetensors"), reverse=True)
        newest = sorted(path.glob("checkpoints/step-*/model.safetensors"), reverse=True)
        # If a finished run was extended, its model/ is older than its best weights so far.
        goes_on = read_status(path).get("state", "finished") != "finished"
        for candidate in [*best, *kept, *newest] if goes_on else [*kept, *best, *newest]:
            if candidate.exists():
                return candidate
    elif path.exists():
        return path
    raise MissingInputError(
        f"{path}: no weights found. Give a run folder with a checkpoint, or a .safetensors or .pt file."
    )


def read_weights(path: Path) -> Tensors:
    """Return tensors by name. Raises UsageError if the file does not hold weights."""
    try:
        tensors: dict[str, Any] = read_tensors(path) if path.suffix == ".safetensors" else _torch_load(path)
    except Exception as error:
        raise UsageError(
            f"{path} cannot be read as weights: {error}. Expected .safetensors or a state_dict."
        ) from error
    for key in WRAPPERS:
        if isinstance(tensors, dict) and isinstance(tensors.get(key), dict):
            tensors = tensors[key]
    if not isinstance(tensors, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in tensors.values()):
        raise UsageError(f"{path} does not hold weights: expected .safetensors, or a state_dict of tensors by name.")
    return tensors


def _torch_load(path: Path) -> Any:
    # timm's training script stores its arguments beside the weights, as a Namespace, which runs no code.
    with torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load(path, map_location="cpu", weights_only=True)


def without_prefixes(tensors: Tensors, own: Tensors) -> Tensors:
    """Strip the prefixes that DDP and torch.compile add to names, unless the names already fit the model."""
    while tensors and not set(tensors) & set(own):
        prefix = next((p for p in ("module.", "_orig_mod.") if all(name.startswith(p) for name in tensors)), None)
        if prefix is None:
            break
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def _class_names_beside(path: Path) -> list[str] | None:
    """Return the classes that the weights were trained on, or None if unknown."""
    classes = file_of_run(path, "classes.json")
    return class_names_of(path.parent / "config.json") if classes is None else read_json(classes)


def file_of_run(weights: Path, name: str) -> Path | None:
    """Return the file of this name that describes weights: beside them, or in the two folders above, as in a run's."""
    places = [folder / name for folder in list(weights.parents)[:3]]
    return next((place for place in places if place.exists()), None)


def _does_not_fit(setting: str, own: Tensors, tensors: Tensors, unfit: list[str]) -> str:
    if not unfit:
        return (
            f"{setting} has no tensors in common with this model. It has "
            f"{', '.join(list(tensors)[:4])} …, the model has {', '.join(list(own)[:4])} …: set model.name to match."
        )
    shapes = [f"{name} is {tuple(tensors[name].shape)}, expected {tuple(own[name].shape)}" for name in unfit[:5]]
    has_auxiliary = any("aux" in name.lower() for name in unfit)
    advice = (
        "Turn off its auxiliary outputs: model.args={aux_logits: false}."
        if has_auxiliary
        else "Set model.name and model.args to match."
    )
    return f"{setting} has a different architecture: {'; '.join(shapes)}. {advice}"
