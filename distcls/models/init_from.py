"""Starts a model from the weights of another run, with a new head if the classes differ."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from distcls.errors import MissingInputError, UsageError, some_of
from distcls.files.atomic import read_json
from distcls.files.verified import Tensors, read_tensors
from distcls.models.weights import load_weights
from distcls.runs.status import read_status

LEAST_SHARE = 0.5
"""The share of a model's tensors, not counting its head, that must be found unless model.init_partly is set."""


class InitFrom(NamedTuple):
    """A report of what was loaded, as sentences."""

    notes: list[str]
    warnings: list[str]
    """Results that were probably not intended."""


def init_from(model: nn.Module, source: str, class_names: list[str], partly: bool = False) -> InitFrom:
    """Load the weights of a run folder or weights file into a model, and return a report.

    The head (the last layer with as many outputs as there are classes) keeps its new weights if the number or names
    of the classes differ. Raises UsageError for any other difference in shapes and, unless `partly`, for weights of
    fewer than half of the model's tensors, which usually come from another architecture with a few names in common.
    Weights cannot execute code: .safetensors holds none, and from other files torch reads only tensors.
    """
    path = find_weights(Path(source).expanduser())
    own = model.state_dict()
    tensors = without_prefixes(read_weights(path), own)
    old_names = _class_names_beside(path)
    unfit = [name for name in own if name in tensors and own[name].shape != tensors[name].shape]
    head = _head_names(model, len(class_names))
    if set(unfit) - set(head) or not set(own) & set(tensors):
        raise UsageError(_does_not_fit(source, own, tensors, unfit))
    other_classes = bool(unfit) or (old_names is not None and old_names != class_names)
    fresh = set(head) if other_classes else set()
    loaded = {name: tensor for name, tensor in tensors.items() if name in own and name not in fresh}
    missing = [name for name in own if name not in tensors and name not in fresh]
    wanted = len(own) - len(fresh)
    if len(loaded) < LEAST_SHARE * wanted and not partly:
        raise UsageError(
            f"model.init_from={source} has only {len(loaded)} of the model's {wanted} tensors"
            f"{', not counting its head' if fresh else ''}: it lacks {some_of(missing, 5)}. Set model.name and "
            "model.args to match, or accept new weights for the rest: model.init_partly=true"
        )
    load_weights(model, own | loaded)
    notes = [f"weights from {path}: {len(loaded)} of {len(own)} tensors"]
    if fresh:
        notes.append(f"new head for {len(class_names)} classes, because {source} has different ones: {', '.join(head)}")
    warnings = []
    if missing:
        warnings.append(
            f"{source} has weights for {len(loaded)} of {wanted} tensors. The other {len(missing)} get new weights: "
            f"{some_of(missing, 5)}"
        )
    return InitFrom(notes, warnings)


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
        tensors: dict[str, Any] = (
            read_tensors(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except Exception as error:
        raise UsageError(
            f"{path} cannot be read as weights: {error}. Expected .safetensors or a state_dict."
        ) from error
    for key in ("state_dict", "model", "model_state_dict"):
        if isinstance(tensors, dict) and isinstance(tensors.get(key), dict):
            tensors = tensors[key]
    if not isinstance(tensors, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in tensors.values()):
        raise UsageError(f"{path} does not hold weights: expected .safetensors, or a state_dict of tensors by name.")
    return tensors


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
    for folder in (path.parent, path.parent.parent, path.parent.parent.parent):
        if (folder / "classes.json").exists():
            return read_json(folder / "classes.json")
    return None


def _head_names(model: nn.Module, num_classes: int) -> list[str]:
    """Return the parameter names of the last layer with one output per class."""
    layers = [
        (name, m)
        for name, m in model.named_modules()
        if num_classes in (getattr(m, "out_features", None), getattr(m, "out_channels", None))
    ]
    return [f"{layers[-1][0]}.{name}" for name, _ in layers[-1][1].named_parameters()] if layers else []


def _does_not_fit(source: str, own: Tensors, tensors: Tensors, unfit: list[str]) -> str:
    if not unfit:
        return (
            f"model.init_from={source} has no tensors in common with this model. It has "
            f"{', '.join(list(tensors)[:4])} …, the model has {', '.join(list(own)[:4])} …: set model.name to match."
        )
    shapes = [f"{name} is {tuple(tensors[name].shape)}, expected {tuple(own[name].shape)}" for name in unfit[:5]]
    differs = "; ".join(shapes)
    return f"model.init_from={source} has a different architecture: {differs}. Set model.name and model.args to match."
