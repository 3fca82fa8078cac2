"""Weights that a library publishes: where they are, on this machine or elsewhere, and the images that they expect."""

from __future__ import annotations

import http.client
import re
import socket
import threading
import urllib.request
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import torch

from distcls.errors import MissingInputError
from distcls.files.downloading import SECONDS_WITHOUT_DATA, ending_when_silent

SECONDS_TO_CONNECT = 3


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
    resize: str = "crop"
    """How images become square, as data.resize says it."""


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
            f"{problem}. Either run the same command once with internet access, which keeps them in the library's "
            "cache; or copy the file here and set model.weights=FILE. For random weights: model.pretrained=false"
        )


def cannot_reach(url: str) -> str | None:
    """Return why no connection to the server of this address, or to the proxy for it, can be made; None if one can."""
    answers: list[str | None] = []
    # Looking up a name can take much longer than a connection, and has no limit of its own.
    attempt = threading.Thread(target=lambda: answers.append(_connection_problem(url)), daemon=True)
    attempt.start()
    attempt.join(SECONDS_TO_CONNECT)
    return answers[0] if answers else f"no answer within {SECONDS_TO_CONNECT} seconds"


def _connection_problem(url: str) -> str | None:
    parts = urlsplit(url)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if proxy and not urllib.request.proxy_bypass(parts.netloc):
        parts = urlsplit(proxy if "//" in proxy else f"//{proxy}")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname or "", port), SECONDS_TO_CONNECT).close()
    except OSError as error:
        return error.strerror or str(error)
    return None


def is_silent(url: str) -> bool:
    """True if the server of this address takes a connection and then says nothing for SECONDS_WITHOUT_DATA."""
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=SECONDS_WITHOUT_DATA).close()
    except OSError as error:
        return isinstance(error, TimeoutError) or isinstance(getattr(error, "reason", None), TimeoutError)
    return False


def known_interpolation(name: str) -> str:
    """Return the nearest filter that data.interpolation knows: some weights of timm were trained with others."""
    return name if name == "bilinear" else "bicubic"


def find_cached(url: str) -> Path | None:
    """Return the file of weights from this address in torch's cache; None if it is not there."""
    path = _cached(url)
    return path if path.exists() else None


def _cached(url: str) -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]


def download(url: str) -> Path:
    """Download a file of weights into torch's cache, and check it against the hash in its name. Raises OSError."""
    path = _cached(url)
    path.parent.mkdir(parents=True, exist_ok=True)
    hashed = re.search(r"-([a-f0-9]{8,})\.", path.name)
    try:
        with ending_when_silent():
            torch.hub.download_url_to_file(url, str(path), hashed.group(1) if hashed else None)
    except (RuntimeError, http.client.HTTPException) as error:  # another hash, or a connection that broke
        raise OSError(str(error)) from error
    return path
