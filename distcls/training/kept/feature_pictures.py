"""Shows what a network has learned: the filters of its first layer, and what its layers see in an image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from distcls.inference.classifier import Classifier
from distcls.inference.feature_maps import Output, plain_view, spatial_outputs

MOST_FILTERS = 64
STAGES, MAPS = 4, 8
"""How many layers are shown, and how many maps of each."""

LARGEST = 64
"""Side in pixels to which larger maps are reduced."""


def first_filters(network: nn.Module) -> list[np.ndarray]:
    """Return the first convolution's filters as pictures, uint8 (h, w, 3); none without one that sees colors.

    Gray is 0; brighter colors are positive weights. All filters share one scale.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.in_channels == 3 and min(module.kernel_size) > 1:
            weights = module.weight.detach()[:MOST_FILTERS].float().permute(0, 2, 3, 1).cpu().numpy()
            largest = np.abs(weights).max() or 1.0
            return list((127.5 + 127.5 * weights / largest).round().astype(np.uint8))
    return []


def map_pictures(classifier: Classifier, image: np.ndarray) -> tuple[list[np.ndarray], list[str]]:
    """Return pictures of feature maps, uint8 (s, s, 3), and the layer and shape of each, from first to last layer.

    image: uint8 (S, S, 3). Of each of up to STAGES layers, the MAPS maps that vary most are shown, each from its
    darkest to its brightest value.
    """
    with plain_view(classifier) as plain, torch.no_grad():
        pair = torch.from_numpy(image)[None].to(plain.device).repeat(2, 1, 1, 1)
        outputs, _ = spatial_outputs(plain, pair)
        pictures, captions = [], []
        for output in _stages(outputs):
            maps = output.layer.maps(output.values)[0].float()
            side, channels = output.layer.side, len(maps)
            for place in maps.flatten(1).std(1).topk(min(MAPS, channels)).indices.tolist():
                pictures.append(_picture(maps[place]))
                captions.append(f"{output.layer.name}\n{channels} maps of {side} × {side}")
    return pictures, captions


def _stages(outputs: Sequence[Output]) -> list[Output]:
    """Return the last output of each size or, if there are few sizes, as in a ViT, outputs at equal distances."""
    detailed = [output for output in outputs if not output.is_pooled] or outputs
    of_each_size = {output.layer.side: output for output in detailed}
    chosen = list(of_each_size.values()) if len(of_each_size) > 2 else detailed
    places = np.linspace(0, len(chosen) - 1, min(STAGES, len(chosen))).round().astype(int)
    return [chosen[place] for place in places]


def _picture(values: torch.Tensor) -> np.ndarray:
    """Return one map, (s, s), as gray pixels (s, s, 3)."""
    if len(values) > LARGEST:
        values = nn.functional.adaptive_avg_pool2d(values[None], LARGEST)[0]
    low, high = values.min(), values.max()
    gray = (values - low) / (high - low).clamp(min=1e-12) * 255
    return gray.round().to(torch.uint8).cpu().numpy()[..., None].repeat(3, -1)
