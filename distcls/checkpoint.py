"""Checkpoints: written so that a kill at any moment leaves the older ones whole, read only when verified.

run_dir/checkpoints/
    step-00001200/  model.safetensors ema.safetensors optimizer.pt state.json manifest.json
    best-00000900/  model.safetensors manifest.json     the best weights so far, as they are evaluated

A folder is written under a temporary name, every file is fsynced, a manifest of sizes and SHA-256 sums is
added, then it gets its name and the parent is fsynced. Older ones are pruned only after that.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from distcls.errors import DiskError
from distcls.run import Run
from distcls.state import TrainState

Tensors = dict[str, torch.Tensor]
Writer = Callable[[Path], None]


class CorruptError(Exception):
    """A folder that is torn or altered; the message is the reason."""


class Checkpoints:
    """The checkpoints of one run. Only the main process writes; all of them read."""

    def __init__(self, run: Run, keep: int) -> None:
        self.run = run
        self.folder = run.dir / "checkpoints"
        self.keep = keep

    def steps(self, kind: str = "step") -> list[int]:
        """Steps of the folders of this kind ("step" or "best"), newest first."""
        names = [path.name for path in self.folder.glob(f"{kind}-*")]
        return sorted((int(n.split("-")[1]) for n in names if re.fullmatch(rf"{kind}-\d+", n)), reverse=True)

    def path(self, step: int, kind: str = "step") -> Path:
        """Where the checkpoint of a step lies."""
        return self.folder / f"{kind}-{step:08d}"

    def save(self, state: TrainState) -> None:
        """Write the state at its step, unless step 0 or a checkpoint of it is there, then prune. Raises DiskError."""
        if not self.run.processes.is_main or state.step == 0 or self.path(state.step).exists():
            return
        writers: dict[str, Writer] = {
            f"{name}.safetensors": _tensor_writer(tensors) for name, tensors in state.tensors().items()
        }
        optimizer, position = state.optimizer_state(), state.position_dict()
        writers["optimizer.pt"] = lambda path: torch.save(optimizer, path)
        writers["state.json"] = lambda path: _write_json(path, position)
        write_folder(self.path(state.step), writers)
        self._prune(state.position.best_step)

    def save_best(self, state: TrainState) -> None:
        """Keep the weights that have just been evaluated. Raises DiskError."""
        if self.run.processes.is_main:
            path = self.path(state.step, "best")
            write_folder(path, {"model.safetensors": _tensor_writer(dict(state.eval_module.state_dict()))})

    def newest(self) -> int | None:
        """The step of the newest checkpoint that is whole, the same on all processes."""
        return self.run.processes.from_main(self._newest)

    def restore(self, step: int | None, state: TrainState) -> None:
        """Go on from the checkpoint of a step, or begin. All processes call it."""
        if step is not None:
            path = self.path(step)
            device = next(state.module.parameters()).device
            tensors = {name: read_tensors(path / f"{name}.safetensors") for name in state.tensors()}
            optimizer = torch.load(path / "optimizer.pt", map_location=device, weights_only=True)
            state.restore(tensors, optimizer, _read_json(path / "state.json"))
            self.run.progress.note(f"going on from step {step:,}")
            best_step = state.position.best_step
            if best_step is not None and not self.run.processes.from_main(lambda: self._is_best_whole(best_step)):
                state.position.forget_best()
        if self.run.tracker is not None:
            self.run.tracker.truncate(step or 0)

    def _newest(self) -> int | None:
        """Torn checkpoints are set aside, and named in a warning."""
        for leftover in self.folder.glob(".writing-*"):
            shutil.rmtree(leftover)
        for step in self.steps():
            try:
                verify_folder(self.path(step))
            except CorruptError as reason:
                aside = self.folder / f"bad-{self.path(step).name}"
                shutil.rmtree(aside, ignore_errors=True)
                self.path(step).rename(aside)
                self.run.progress.warning(f"the checkpoint of step {step} cannot be used ({reason}); it is now {aside}")
            else:
                return step
        return None

    def _is_best_whole(self, step: int) -> bool:
        """Torn best weights cost the run its best so far, not its checkpoints: the weights in those are whole."""
        try:
            verify_folder(self.path(step, "best"))
        except CorruptError as reason:
            self.run.progress.warning(
                f"the best weights, of step {step}, cannot be used ({reason}): the best is chosen anew from here on, "
                "so the run may keep other weights than one whose files were never damaged"
            )
            return False
        return True

    def _best_step(self, step: int) -> int | None:
        return _read_json(self.path(step) / "state.json")["best_step"]

    def read_best(self, step: int) -> Tensors:
        """The best weights."""
        return read_tensors(self.path(step, "best") / "model.safetensors")

    def _prune(self, best_step: int | None) -> None:
        """Drop checkpoints beyond `keep`, and best weights that none of the kept ones refers to."""
        kept, old = self.steps()[: self.keep], self.steps()[self.keep :]
        for step in old:
            shutil.rmtree(self.path(step))
        needed = {best_step} | {self._best_step(step) for step in kept}
        for step in set(self.steps("best")) - needed:
            shutil.rmtree(self.path(step, "best"))


def write_folder(path: Path, writers: dict[str, Writer]) -> None:
    """Make a folder of files appear whole, or not at all. Raises DiskError, naming the file."""
    temporary = path.parent / f".writing-{path.name}"
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        manifest = {}
        for name, write in writers.items():
            write(temporary / name)
            manifest[name] = {"size": (temporary / name).stat().st_size, "sha256": _sha256(temporary / name)}
            _fsync(temporary / name)
        _write_json(temporary / "manifest.json", manifest)
        _fsync(temporary / "manifest.json")
        _fsync(temporary)
        if path.exists():
            shutil.rmtree(path)
        temporary.rename(path)
        _fsync(path.parent)
    except (OSError, SafetensorError, RuntimeError) as error:  # safetensors and torch.save have their own
        shutil.rmtree(temporary, ignore_errors=True)
        raise DiskError(f"{path} could not be written: {error}. Older checkpoints are as they were.") from error


def verify_folder(path: Path) -> None:
    """Raise CorruptError unless every file has the size and SHA-256 sum of the manifest."""
    try:
        manifest = _read_json(path / "manifest.json")
        for name, expected in manifest.items():
            size = (path / name).stat().st_size
            if size != expected["size"]:
                raise CorruptError(f"{name} has {size} bytes instead of {expected['size']}")
            if _sha256(path / name) != expected["sha256"]:
                raise CorruptError(f"{name} does not have the content that was written")
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise CorruptError(f"{type(error).__name__}: {error}") from error


def write_tensors(path: Path, tensors: Tensors) -> None:
    """Safetensors wants contiguous tensors, and each memory once: a tied tensor is written once and named twice."""
    names: dict[tuple, str] = {}
    tied = {}
    for name, tensor in tensors.items():
        place = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        first = names.setdefault(place, name) if tensor.numel() else name
        if first != name:
            tied[name] = first
    unique = {name: t.detach().cpu().contiguous() for name, t in tensors.items() if name not in tied}
    save_file(unique, path, metadata={"tied": json.dumps(tied)})


def read_tensors(path: Path) -> Tensors:
    """The tensors of a safetensors file, on the CPU, tied names included."""
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        tied = json.loads((file.metadata() or {}).get("tied", "{}"))
    return tensors | {name: tensors[first] for name, first in tied.items()}


def _tensor_writer(tensors: Tensors) -> Writer:
    return lambda path: write_tensors(path, tensors)


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
