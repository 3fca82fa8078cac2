"""Starting from weights that another run learned, with a new head where the classes differ."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import nn

from distcls.errors import MissingInputError, UsageError, some_of
from distcls.models.weights import load_weights
from distcls.runs.status import read_status

Tensors = dict[str, torch.Tensor]


LEAST_SHARE = 0.5
"""Of a model's tensors, its head left out, that must be found, unless model.init_partly allows less."""


class InitFrom(NamedTuple):
    """What was loaded, in words."""

    notes: list[str]
    warnings: list[str]
    """What probably was not meant."""


def init_from(model: nn.Module, source: str, class_names: list[str], partly: bool = False) -> InitFrom:
    """Load the weights of a run folder or a weights file into a model, and return what was done.

    The head (the last layer with as many outputs as there are classes) keeps its fresh weights where the number of
    classes differs, or their names do. Other shapes that differ are a UsageError, and so are weights for less than
    half of the model, unless `partly`: they are mostly those of another architecture with a few names in common.
    No code can come with weights: .safetensors holds none, and of other files torch reads tensors only.
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
            f"{', its head left out' if fresh else ''}: it lacks {some_of(missing, 5)}. Set model.name and model.args "
            "to fit; or, if the others shall start fresh: model.init_partly=true"
        )
    load_weights(model, own | loaded)
    notes = [f"weights from {path}: {len(loaded)} of {len(own)} tensors"]
    if fresh:
        notes.append(
            f"new head for {len(class_names)} classes, since they differ from those of {source}: {', '.join(head)}"
        )
    warnings = []
    if missing:
        warnings.append(
            f"{source} has weights for {len(loaded)} of {wanted} tensors: the other {len(missing)} start fresh, "
            f"{some_of(missing, 5)}"
        )
    return InitFrom(notes, warnings)


def find_weights(path: Path) -> Path:
    """The weights of a run folder, in model/, or the newest best ones while the run goes on; a file is itself."""
    if path.is_dir():
        kept = [path / "model" / "model.safetensors", path / "model.safetensors"]
        best = sorted(path.glob("checkpoints/best-*/model.safetensors"), reverse=True)
        newest = sorted(path.glob("checkpoints/step-*/model.safetensors"), reverse=True)
        # model/ of a finished run that was made longer is older than its best weights so far.
        goes_on = read_status(path).get("state", "finished") != "finished"
        for candidate in [*best, *kept, *newest] if goes_on else [*kept, *best, *newest]:
            if candidate.exists():
                return candidate
    elif path.exists():
        return path
    raise MissingInputError(
        f"{path}: there are no weights. Give a run folder that has a checkpoint, or a file .safetensors or .pt."
    )


def read_weights(path: Path) -> Tensors:
    """Tensors by name. Raises UsageError for another file."""
    try:
        tensors: dict[str, Any] = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except Exception as error:
        raise UsageError(
            f"{path} could not be read as weights: {error}. Expected .safetensors or a state_dict."
        ) from error
    for key in ("state_dict", "model", "model_state_dict"):
        if isinstance(tensors, dict) and isinstance(tensors.get(key), dict):
            tensors = tensors[key]
    if not isinstance(tensors, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in tensors.values()):
        raise UsageError(f"{path} holds no weights: expected .safetensors or a state_dict, tensors by name.")
    return tensors


def without_prefixes(tensors: Tensors, own: Tensors) -> Tensors:
    """Names without what DDP and torch.compile put before them, unless they fit the model as they are."""
    while tensors and not set(tensors) & set(own):
        prefix = next((p for p in ("module.", "_orig_mod.") if all(name.startswith(p) for name in tensors)), None)
        if prefix is None:
            break
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def _class_names_beside(path: Path) -> list[str] | None:
    """The classes that the weights were trained on, where they are known."""
    for folder in (path.parent, path.parent.parent, path.parent.parent.parent):
        if (folder / "classes.json").exists():
            return json.loads((folder / "classes.json").read_text())
    return None


def _head_names(model: nn.Module, num_classes: int) -> list[str]:
    """The parameters of the last layer that has an output per class."""
    layers = [
        (name, m)
        for name, m in model.named_modules()
        if num_classes in (getattr(m, "out_features", None), getattr(m, "out_channels", None))
    ]
    return [f"{layers[-1][0]}.{name}" for name, _ in layers[-1][1].named_parameters()] if layers else []


def _does_not_fit(source: str, own: Tensors, tensors: Tensors, unfit: list[str]) -> str:
    if not unfit:
        return (
            f"model.init_from={source}: none of its tensors is one of this model's. It has "
            f"{', '.join(list(tensors)[:4])} …, the model has {', '.join(list(own)[:4])} …: set model.name to fit."
        )
    shapes = [f"{name} is {tuple(tensors[name].shape)}, expected {tuple(own[name].shape)}" for name in unfit[:5]]
    differs = "; ".join(shapes)
    return f"model.init_from={source} is of another architecture: {differs}. Set model.name and model.args to fit."
