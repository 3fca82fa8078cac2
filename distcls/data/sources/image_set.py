"""The interface of all sources of labeled images, and the source for images in an array."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from PIL import Image

from distcls.data.cache.mapped_file import received, to_send
from distcls.data.decoding.decode import Decoding, fit
from distcls.errors import BadDataError


class ImageSet(Protocol):
    """Labeled images of one split. Image sets are sent to other processes, so their pickles should be small."""

    class_names: list[str]
    labels: np.ndarray
    """int64 (N,), positions in class_names."""

    def __len__(self) -> int: ...

    def image(self, i: int, decoding: Decoding) -> np.ndarray:
        """Return uint8 (H, W, 3), RGB, as from decode.fit, which may be a random part. Raises BadImageError."""
        ...

    def name(self, i: int) -> str:
        """Return a name to find the image by: its path under the root, or something like digits/17."""
        ...

    def fingerprint(self) -> str:
        """Return a hex digest that changes when classes, labels or images do."""
        ...


@dataclass
class ArraySet:
    """Images of one size in an array, in memory or mapped from a file.

    Raises BadDataError if there are not as many labels as images.
    """

    title: str
    class_names: list[str]
    labels: np.ndarray
    images: np.ndarray
    """uint8 (N, H, W, 3)."""
    stored_fingerprint: str | None = None
    """The fingerprint if it was computed before: hashing reads all images."""

    def __post_init__(self) -> None:
        if len(self.labels) != len(self.images):
            raise BadDataError(f"{self.title} has {len(self.images)} images, but {len(self.labels)} labels")

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, i: int, decoding: Decoding) -> np.ndarray:
        """Return uint8 (H, W, 3), see ImageSet."""
        return np.array(fit(Image.fromarray(self.images[i]), decoding))

    def name(self, i: int) -> str:
        """Return a name such as digits/17."""
        return f"{self.title}/{i}"

    def fingerprint(self) -> str:
        """Return a digest of all class names, labels and pixels."""
        if self.stored_fingerprint is None:
            self.stored_fingerprint = digest(self.class_names, self.labels, self.images)
        return self.stored_fingerprint

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "images": to_send(self.images)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, images=received(state["images"]))


@dataclass(frozen=True)
class Groups:
    """Which images of a set belong together, such as photographs of one patient, and must be in the same split."""

    names: list[str]
    """Sorted, so that their numbers do not depend on the order of the images."""
    of: np.ndarray
    """int64 (N,), the position in names of each image's group; -1 for an image without one."""

    @classmethod
    def numbered(cls, numbering: Mapping[str, int], ids: np.ndarray) -> Groups:
        """Return the groups that images have, of all that are numbered from 0; the name "" stands for none.

        ids: int64 (N,), a number per image.
        """
        name_of = [name.strip() for name in numbering]
        names = sorted({name_of[i] for i in np.unique(ids).tolist()} - {""})
        position = {name: i for i, name in enumerate(names)}
        return cls(names, np.array([position.get(name, -1) for name in name_of], np.int64)[ids])


CONTENT_BYTES = 16


def content_digest(content: bytes) -> bytes:
    """Return the first 16 bytes of the SHA-256 of a file or of an image's pixels, to tell images apart."""
    return hashlib.sha256(content).digest()[:CONTENT_BYTES]


def digest(class_names: list[str], *contents: np.ndarray | bytes) -> str:
    """Return the SHA-256, in hex, of class names and of whatever identifies the images."""
    sha256 = hashlib.sha256(json.dumps(class_names).encode())
    for content in contents:
        data = np.ascontiguousarray(content).data if isinstance(content, np.ndarray) else content
        sha256.update(f"|{len(data)}|".encode())
        sha256.update(data)
    return sha256.hexdigest()
