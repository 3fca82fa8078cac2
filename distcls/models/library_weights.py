"""Weights that a library publishes: where they are, on this machine or elsewhere, and the images that they expect."""

from __future__ import annotations

import re
import socket
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import torch

from distcls.errors import MissingInputError

SECONDS_TO_CONNECT = 3
SECONDS_WITHOUT_DATA = 30


@dataclass(frozen=True)
class Preprocessing:
    """How images are prepared for a network."""

    image_size: int
    """Height and width in pixels."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    """Of pixel values from 0 to 1."""
    interpolation: str
    """"bilinear" or "bicubic"."""
    crop_fraction: float
    """Share of the short side that the central crop keeps."""


@dataclass(frozen=True)
class LibraryWeights(ABC):
    """The weights of one model."""

    name: str
    """For people, such as "timm/resnet18.a1_in1k"."""
    preprocessing: Preprocessing
    class_names: list[str]
    """The classes of its head, with synonyms separated by commas; empty if unknown."""

    @abstractmethod
    def find(self) -> Path | None:
        """Return the file on this machine; None if it must be downloaded."""

    @abstractmethod
    def url(self) -> str:
        """Return where it is downloaded from."""

    @abstractmethod
    def fetch(self) -> Path:
        """Download the file and return its path. Raises OSError."""

    def here(self) -> Path:
        """Return the file, downloading it if needed. Raises MissingInputError if there is no copy and no network."""
        found = self.find()
        if found is not None:
            return found
        problem = cannot_reach(self.url())
        if problem is None:
            try:
                return self.fetch()
            except OSError as error:
                problem = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise MissingInputError(
            f"the weights of {self.name} are not on this machine, and cannot be downloaded from {self.url()}: "
            f"{problem}. Either run the same command once where there is a network, which keeps them in the library's "
            "cache; or copy the file here and give it: model.weights=FILE. For new weights: model.pretrained=false"
        )


def cannot_reach(url: str) -> str | None:
    """Return why no connection to the server of this address can be made; None if one can."""
    parts = urlsplit(url)
    port = parts.port or (80 if parts.scheme == "http" else 443)
    try:
        socket.create_connection((parts.hostname or "", port), SECONDS_TO_CONNECT).close()
    except OSError as error:
        return error.strerror or str(error)
    return None


def cached(url: str) -> Path:
    """Return where torch keeps a file of weights from this address."""
    return Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]


def download(url: str) -> Path:
    """Download a file of weights into torch's cache, and check it against the hash in its name. Raises OSError."""
    path = cached(url)
    path.parent.mkdir(parents=True, exist_ok=True)
    hashed = re.search(r"-([a-f0-9]{8,})\.", path.name)
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SECONDS_WITHOUT_DATA)
    try:
        torch.hub.download_url_to_file(url, str(path), hashed.group(1) if hashed else None)
    finally:
        socket.setdefaulttimeout(before)
    return path
