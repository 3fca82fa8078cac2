"""Orders a model's parameters by depth, for learning rates that decay from the head down to the first layer.

As in BEiT (arXiv 2106.08254) and timm: the head has factor 1, and each layer below it has one more factor of
optim.layer_decay.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from distcls.errors import UsageError

LISTS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
"""Modules that are no layer of their own, but a list of layers."""


def lr_scales(layer_decay: float, model: nn.Module) -> dict[str, float]:
    """Return each parameter's factor for the learning rate, by name: 1 for the head, layer_decay for the one below.

    Raises UsageError for a model of one layer, whose factors would all be 1.
    """
    depths = layer_ids(model)
    deepest = max(depths.values())
    if not deepest:
        raise UsageError(
            f"optim.layer_decay={layer_decay:g} has no effect: the model has only one layer, since none of its parts "
            "is a list of layers. Leave it out, or give its parts factors of their own: optim.groups=[{match: ^stem, "
            "lr_scale: 0.1}]"
        )
    return {name: layer_decay ** (deepest - depth) for name, depth in depths.items()}


def layer_ids(model: nn.Module) -> dict[str, int]:
    """Return the depth of each parameter's layer, by name: 0 for the first layer, and the largest for the head.

    Models of timm know their own layers. In any other, layers are the model's parts in order of definition. Lists of
    layers are taken apart, and so is a part that holds most of the parameters, such as an encoder.
    """
    if hasattr(model, "group_matcher"):
        from timm.models import group_parameters

        return group_parameters(model, model.group_matcher(coarse=False), reverse=True)  # type: ignore[operator]
    depths: dict[str, int] = {}
    depth, has_begun = 0, False
    half = _size(model) / 2
    for names, joins in _parts(model, half):
        depth += has_begun and not joins
        has_begun = has_begun or not joins
        depths |= dict.fromkeys(names, depth)
    return {name: depths[name] for name, _ in model.named_parameters()}


def _parts(module: nn.Module, half: float, prefix: str = "") -> Iterator[tuple[list[str], bool]]:
    """Yield the names of each part's parameters, and whether they join the layer before.

    Norms do, and parameters beside the parts, such as a class token; before the first layer, they join that.
    """
    own = [prefix + name for name, _ in module.named_parameters(recurse=False)]
    if own:
        yield own, True
    for name, child in module.named_children():
        path, named = f"{prefix}{name}.", list(child.named_parameters())
        if isinstance(child, LISTS) or (_size(child) > half and list(child.children())):
            yield from _parts(child, half, path)
        elif named:
            yield [path + inner for inner, _ in named], all(parameter.ndim < 2 for _, parameter in named)


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
