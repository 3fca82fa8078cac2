"""Shows where in an image a classifier saw a class: Grad-CAM (Selvaraju et al., arXiv 1610.02391).

The gradient of a class's logit tells how much each feature map of the last layer that still is a map speaks for that
class; their weighted sum, where it is positive, is the heat.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from distcls.errors import UsageError
from distcls.inference.classifier import Classifier
from distcls.inference.feature_maps import Layer, Output, first_tensor, hooked, plain_view, spatial_outputs
from distcls.models.head import head_name

CHUNK = 8
"""Images that pass through the network at a time."""

HEAT_COLORS = np.array([[40, 11, 84], [120, 28, 109], [205, 57, 62], [249, 142, 9], [252, 255, 164]], np.float32)
"""From cold to hot: matplotlib's "inferno" without its darkest fifth."""

STRONGEST = 0.75
"""Opacity of the heat where it is 1."""


def grad_cam(
    classifier: Classifier,
    images: torch.Tensor | np.ndarray,
    classes: torch.Tensor | np.ndarray,
    layer: Layer | None = None,
) -> np.ndarray:
    """Return the heat of each image for a class, float32 (n, S, S) from 0 to 1; all 0 if nothing speaks for the class.

    images: uint8 (n, S, S, 3), as the decoder returns them. classes: ids (n,). layer: from
    `gradcam_layer`, for many calls; None: find it. The classifier stays as it is. Raises UsageError for a network
    without a layer that can be used.
    """
    pixels = torch.as_tensor(images)
    if not len(pixels):
        return np.zeros(pixels.shape[:3], np.float32)
    layer = layer or gradcam_layer(classifier, pixels)
    with plain_view(classifier) as plain:
        wanted = torch.as_tensor(classes)
        chunks = [slice(start, start + CHUNK) for start in range(0, len(pixels), CHUNK)]
        heats = [_heat(plain, pixels[chunk], wanted[chunk], layer) for chunk in chunks]
    return np.concatenate(heats)


def overlay(pixels: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Return images with their heat drawn over them: uint8 (…, H, W, 3), for heat (…, H, W)."""
    steps = np.linspace(0, 1, len(HEAT_COLORS))
    colors = np.stack([np.interp(heat, steps, channel) for channel in HEAT_COLORS.T], -1)
    opacity = STRONGEST * heat[..., None]
    return ((1 - opacity) * pixels + opacity * colors).round().astype(np.uint8)


def gradcam_layer(classifier: Classifier, images: torch.Tensor | np.ndarray | None = None) -> Layer:
    """Return the last layer before pooling whose output is a grid that matters for the logits.

    In a ViT that classifies by its class token, the last block's patches no longer matter, but what its attention gets
    does. images: uint8 (n, S, S, 3), of which the first is tried; without any, a gray one. Raises UsageError if there
    is no such layer.
    """
    if images is None:
        images = np.full((1, *classifier.decoding.shape), 128, np.uint8)
    with plain_view(classifier) as plain:
        pair = torch.as_tensor(images)[:1].to(plain.device).float().repeat(2, 1, 1, 1).requires_grad_()
        features: list[torch.Tensor] = []  # what the head gets, too: its weights may still be zero
        head = head_name(plain.network, len(plain.class_names))
        with hooked(plain.network.get_submodule(head or ""), lambda _, inputs, __: features.append(inputs[0])):
            outputs, logits = spatial_outputs(plain, pair)
        known = [] if head is None else features[-1:]
        score = sum(map(_mixed, known), _mixed(logits))
        for output in reversed(outputs):
            if not output.is_pooled and _matters(output, score):
                return output.layer
    raise UsageError(
        "Grad-CAM needs a layer whose output is laid out like the image (feature maps, or the tokens of a ViT), and "
        f"through which gradients flow: this network ({type(classifier.network).__name__}) has none."
    )


def _mixed(values: torch.Tensor) -> torch.Tensor:
    """Return a sum with different weights, so that normalization does not cancel it."""
    return (values.flatten(1).float() * torch.linspace(1, 2, values[0].numel(), device=values.device)).sum()


def _matters(output: Output, score: torch.Tensor) -> bool:
    """True if the score depends on the values of a layer's grid."""
    try:
        (gradient,) = torch.autograd.grad(score, output.values, retain_graph=True, allow_unused=True)
    except RuntimeError:  # computed without gradients
        return False
    return gradient is not None and bool(output.layer.maps(gradient).any())


def _heat(classifier: Classifier, pixels: torch.Tensor, classes: torch.Tensor, layer: Layer) -> np.ndarray:
    """Return the heat of a few images, float32 (n, S, S). Gradients are recorded from the layer on only."""
    seen: list[torch.Tensor] = []
    calls = 0

    def record(_: nn.Module, __: object, output: object) -> object:
        nonlocal calls
        calls += 1
        values = first_tensor(output)
        if calls != layer.call + 1 or values is None:
            return None
        torch.set_grad_enabled(True)  # until the end of no_grad, below
        # A copy, because the next module may write to its input.
        seen.append(values.detach().requires_grad_().clone())
        return (seen[0], *output[1:]) if isinstance(output, tuple) else seen[0]

    with torch.no_grad(), hooked(classifier.network.get_submodule(layer.name), record):
        logits = classifier.logits(pixels.to(classifier.device))
        chosen = classes.to(logits.device).long()
        (gradient,) = torch.autograd.grad(logits.gather(1, chosen[:, None]).sum(), seen[0])
        maps, slopes = layer.maps(seen[0].detach()).float(), layer.maps(gradient).float()
        heat = (slopes.mean((2, 3), keepdim=True) * maps).sum(1, keepdim=True).relu()
        heat = F.interpolate(heat, tuple(pixels.shape[1:3]), mode="bilinear")[:, 0]
        most = heat.amax((1, 2), keepdim=True)
        return (heat / torch.where(most > 0, most, 1)).cpu().numpy()
