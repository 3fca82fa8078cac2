"""Writes folders of files whole or not at all, and verifies that nothing in them was torn or altered.

Every file is fsynced, a manifest of sizes and SHA-256 sums is added, then the folder gets its name and its
parent is fsynced. All bytes go through Python's files, so that a failing disk raises OSError.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import safe_open
from safetensors import torch as safetensors_torch

from distcls.errors import DiskError
from distcls.files.atomic import UNFINISHED, fsync, json_text, put_in_place, read_json

Tensors = dict[str, torch.Tensor]
Writer = Callable[[Any], Any]
"""Writes the contents of one file to a binary stream."""

CHUNK = 64 * 2**20
"""Bytes to write before waiting for the disk."""
GONE = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR}
"""The system's errors for missing files."""
DAMAGE = {errno.EIO, getattr(errno, "EUCLEAN", errno.EIO), errno.EBADMSG}
"""The system's errors for blocks that the disk has lost."""
SECONDS_BEFORE_RETRY = 1.0


class CorruptError(Exception):
    """A folder is torn or altered; the message is the reason."""

    is_unreadable = False
    """True if the system reported it, which may only be a lost network: that looks the same as a broken disk."""


def write_folder(path: Path, writers: dict[str, Writer], on_progress: Callable[[], None] = lambda: None) -> None:
    """Make a folder of files appear whole or not at all. Raises DiskError, which names it.

    on_progress is called each time another CHUNK bytes are on disk.
    """
    temporary = path.parent / f"{UNFINISHED}{path.name}"
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        manifest = {name: _write_file(temporary / name, write, on_progress) for name, write in writers.items()}
        _write_file(temporary / "manifest.json", json_writer(manifest), on_progress)
        fsync(temporary)
        put_in_place(temporary, path)
    except (OSError, RuntimeError) as error:  # torch.save raises RuntimeError if a write fails
        shutil.rmtree(temporary, ignore_errors=True)
        raise DiskError(f"{path} could not be written: {error}. Older checkpoints are unchanged.") from error


def verify_folder(path: Path) -> None:
    """Raise CorruptError unless every file has the size and SHA-256 sum in the manifest.

    Raises DiskError for a file that exists but cannot be read: permissions and network trouble do no damage.
    """
    try:
        _verify(path)
    except CorruptError as error:
        if not error.is_unreadable:
            raise
        time.sleep(SECONDS_BEFORE_RETRY)
        _verify(path)


def _verify(path: Path) -> None:
    try:
        for name, expected in read_json(path / "manifest.json").items():
            size = (path / name).stat().st_size
            if size != expected["size"]:
                raise CorruptError(f"{name} has {size} bytes instead of {expected['size']}")
            if sha256_of(path / name) != expected["sha256"]:
                raise CorruptError(f"{name} does not have the contents that were written")
    except OSError as error:
        if error.errno not in GONE | DAMAGE:
            raise DiskError(
                f"{error.filename or path} cannot be read: {error.strerror}. Nothing was changed: check its "
                "permissions and that the disk is available, then run again."
            ) from error
        corrupt = CorruptError(f"{type(error).__name__}: {error}")
        corrupt.is_unreadable = error.errno in DAMAGE
        raise corrupt from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CorruptError(f"{type(error).__name__}: {error}") from error


def sha256_of(path: Path) -> str:
    """Return the SHA-256 sum of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tensor_writer(tensors: Tensors, metadata: Mapping[str, str] | None = None) -> Writer:
    """Return a writer of safetensors. These hold contiguous tensors, each memory once: a tied tensor gets two names.

    metadata: what else the file says about itself.
    """

    def write(file: BinaryIO) -> None:
        names: dict[tuple, str] = {}
        tied = {}
        for name, tensor in tensors.items():
            first = names.setdefault(place(tensor), name) if tensor.numel() else name
            if first != name:
                tied[name] = first
        unique = {name: t.detach().cpu().contiguous() for name, t in tensors.items() if name not in tied}
        file.write(safetensors_torch.save(unique, metadata={**(metadata or {}), "tied": json.dumps(tied)}))

    return write


def json_writer(value: Any) -> Writer:
    """Return a writer of JSON that people can read."""
    return lambda file: file.write(json_text(value).encode())


def text_writer(text: str) -> Writer:
    """Return a writer of plain text."""
    return lambda file: file.write(text.encode())


def bytes_writer(content: bytes) -> Writer:
    """Return a writer of content that is there already, such as a copy of another file."""
    return lambda file: file.write(content)


def read_tensors(path: Path) -> Tensors:
    """Return the tensors in a safetensors file, on the CPU, including tied names."""
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        tied = json.loads((file.metadata() or {}).get("tied", "{}"))
    return tensors | {name: tensors[first] for name, first in tied.items()}


def tensors_from(content: bytes) -> Tensors:
    """Return the tensors in the contents of a safetensors file, including tied names."""
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    tied = json.loads(header.get("__metadata__", {}).get("tied", "{}"))
    tensors = safetensors_torch.load(content)
    return tensors | {name: tensors[first] for name, first in tied.items()}


def place(tensor: torch.Tensor) -> tuple:
    """Return where a tensor is in memory and how it is laid out: equal for tied tensors."""
    return tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype


class SummedFile:
    """A binary stream to a file that computes size and SHA-256 sum on the way."""

    def __init__(self, file: BinaryIO, on_progress: Callable[[], None]) -> None:
        self.file, self.size, self.sha256 = file, 0, hashlib.sha256()
        self.on_progress, self.on_disk = on_progress, 0

    def write(self, data: Any) -> int:
        """Write all data in parts and report progress, so that a slow disk is not mistaken for one that hangs."""
        data = memoryview(data).cast("B")
        for start in range(0, len(data), CHUNK):
            part = data[start : start + CHUNK]
            self.size += len(part)
            self.sha256.update(part)
            self.file.write(part)
            if self.size - self.on_disk >= CHUNK:
                self.file.flush()
                os.fsync(self.file.fileno())
                self.on_disk = self.size
                self.on_progress()
        return len(data)

    def flush(self) -> None:
        self.file.flush()


def _write_file(path: Path, write: Writer, on_progress: Callable[[], None]) -> dict[str, Any]:
    """Write a file durably, and return its entry in the manifest."""
    with path.open("wb") as file:
        summed = SummedFile(file, on_progress)
        write(summed)
        file.flush()
        os.fsync(file.fileno())
    return {"size": summed.size, "sha256": summed.sha256.hexdigest()}
