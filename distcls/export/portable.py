"""The module that all formats are made from: a run's one classifier, in float32."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn
from torch.export import Dim, ExportedProgram, export

from distcls.errors import UsageError
from distcls.inference.classifier import Classifier

TRACED_BATCH = 2
"""Images to trace with. With 1, torch would take the batch size for a constant."""


class Portable(nn.Module):
    """Turns uint8 images (n, S, S, 3) into probabilities (n, C), or logits, in float32; see Classifier."""

    def __init__(self, classifier: Classifier, gives_logits: bool = False) -> None:
        super().__init__()
        self.classifier = classifier
        self.gives_logits = gives_logits

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classifier.logits(images) if self.gives_logits else self.classifier(images)

    @property
    def image_size(self) -> int:
        """Return the side of its images, in pixels."""
        return self.classifier.decoding.shape[0]

    @property
    def output_name(self) -> str:
        """Return what it computes, which is also the name of the file's output."""
        return "logits" if self.gives_logits else "probabilities"

    def num_bytes(self) -> int:
        """Return the size of the weights."""
        tensors = [*self.parameters(), *self.buffers()]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def example(self) -> torch.Tensor:
        """Return images to trace with."""
        return torch.zeros(TRACED_BATCH, self.image_size, self.image_size, 3, dtype=torch.uint8)

    def program(self) -> ExportedProgram:
        """Return the traced computation, for any number of images. Raises UsageError if it cannot be traced."""
        try:
            with torch.no_grad(), quietly():
                return export(self, (self.example(),), dynamic_shapes={"images": {0: Dim("batch", min=1)}})
        except Exception as error:  # dozens of kinds, all about the network's own code
            raise not_exportable(error) from error

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Return outputs (n, C) for uint8 images (n, S, S, 3), computed by PyTorch."""
        with torch.inference_mode():
            return self(torch.from_numpy(images).to(self.classifier.device)).cpu().numpy()


def not_exportable(error: Exception) -> UsageError:
    """Return the error for a network that torch cannot turn into a file."""
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return UsageError(
        f"torch cannot export this network: {reason}\nIts forward may not depend on the values of its images, nor on "
        "how many there are. The weights alone can always be exported: --format safetensors"
    )


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Silence warnings and logs of torch, and of the libraries around it, about how they do their work."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
