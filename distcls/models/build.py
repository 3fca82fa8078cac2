"""Builds the model from the config: all built-in ones are listed here, any other is `my_pkg.module:make`."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable

import torch
from torch import nn

from distcls.config.imports import call_by_name, import_by_name
from distcls.config.settings import ModelConfig
from distcls.config.wording import either, nearest
from distcls.errors import UsageError
from distcls.models.freezing import freeze
from distcls.models.head import train_head_only
from distcls.models.libraries import LIBRARIES, Library, check_library_name, library_of
from distcls.models.networks.airbench import airbench
from distcls.models.networks.cnn import cnn2, cnn3, simple_cnn
from distcls.models.networks.resnet9 import resnet9
from distcls.models.networks.searchable_cnn import searchable_cnn
from distcls.models.networks.small_resnet import small_resnet, tiny_resnet
from distcls.models.trial import initialize_lazy
from distcls.models.weights import to_channels_last
from distcls.plan.randomness import global_state_kept

MODELS: dict[str, Callable[..., nn.Module]] = {
    "cnn2": cnn2,
    "cnn3": cnn3,
    "simple_cnn": simple_cnn,
    "resnet9": resnet9,
    "airbench": airbench,
    "small_resnet": small_resnet,
    "tiny_resnet": tiny_resnet,
    "searchable_cnn": searchable_cnn,
}

LOADING_ARGUMENTS = ("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "weights")
"""Arguments by which the libraries' functions load weights, from wherever they like."""


def build_model(config: ModelConfig, num_classes: int, image_size: int) -> nn.Module:
    """Return the model in the configured memory format, with new weights drawn from torch's global generator."""
    model = _make(config, num_classes, image_size)
    initialize_lazy(model, config.name, image_size)
    if config.channels_last:
        to_channels_last(model)
    freeze(model, config.freeze)
    if config.head_only:
        train_head_only(model, config.name, num_classes, image_size)
    return model


def _make(config: ModelConfig, num_classes: int, image_size: int) -> nn.Module:
    if ":" in config.name:
        model = _call(config, num_classes)
        _check_outputs(config.name, model, num_classes, image_size)
        return model
    check_model_name(config.name)
    found = library_of(config.name)
    if found is not None:
        return _library_model(*found, config, num_classes, image_size)
    try:
        return MODELS[config.name](num_classes, image_size, **config.args)
    except (TypeError, ValueError, RuntimeError) as error:
        known = list(inspect.signature(MODELS[config.name]).parameters)[2:]
        raise UsageError(
            f"model.args={config.args} do not fit model.name={config.name}: {error}. It takes {', '.join(known)}."
        ) from error


def check_model_name(name: str) -> None:
    """Raise UsageError for a name that is none of MODELS, a library's, or code that can be imported."""
    if ":" in name:
        import_by_name("model.name", name)
    elif library_of(name) is not None:
        check_library_name(name)
    elif name not in MODELS:
        theirs = [f"{prefix}/{name}" for prefix, library in LIBRARIES.items() if library.has(name)]
        meant = f" Did you mean {either(theirs)}?" if theirs else nearest(name, MODELS)
        raise UsageError(
            f"model.name={name}: there is no such model.{meant} Known: "
            f"{', '.join(MODELS)}, {', '.join(f'{prefix}/NAME' for prefix in LIBRARIES)}, and my_pkg.module:make for "
            "your own."
        )


def _call(config: ModelConfig, num_classes: int) -> nn.Module:
    """Call a factory with num_classes by keyword, as timm.create_model needs, or first if it has no such parameter."""
    parameters = inspect.signature(import_by_name("model.name", config.name)).parameters.values()
    if any(p.name == "num_classes" or p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters):
        return call_by_name("model.name", config.name, **{"num_classes": num_classes, **config.args})
    return call_by_name("model.name", config.name, num_classes, **config.args)


def _check_outputs(name: str, model: nn.Module, num_classes: int, image_size: int) -> None:
    """Raise UsageError if two images do not give one number per class each, which some losses would not notice.

    Other failures, such as of a model that only runs on a GPU, are reported once training starts.
    """
    if not isinstance(model, nn.Module):
        raise UsageError(f"model.name={name} returned a {type(model).__name__}, expected a torch.nn.Module.")
    try:
        with torch.no_grad(), global_state_kept():
            # A copy, because a first forward pass may change the model.
            outputs = copy.deepcopy(model).eval()(torch.zeros(2, 3, image_size, image_size))
    except Exception:
        return
    shape = tuple(outputs.shape) if isinstance(outputs, torch.Tensor) else type(outputs).__name__
    if shape != (2, num_classes):
        raise UsageError(
            f"model.name={name} returns {shape} for two images of {image_size} pixels, expected (2, {num_classes}): "
            "one number per class, before any softmax."
        )


def _library_model(library: Library, name: str, config: ModelConfig, num_classes: int, image_size: int) -> nn.Module:
    loading = [one for one in LOADING_ARGUMENTS if one in config.args]
    if loading:
        raise UsageError(
            f"model.args={config.args}: {', '.join(loading)} cannot be given here, because distcls loads weights "
            "itself. For a library's weights: model.pretrained=true; for a file: model.weights=FILE"
        )
    try:
        return library.build(name, num_classes, image_size, config.args)
    except Exception as error:  # any kind: the libraries check few of their arguments
        reason = str(error).rstrip(".")
        raise UsageError(f"model.args={config.args} do not fit model.name={config.name}: {reason}.") from error
