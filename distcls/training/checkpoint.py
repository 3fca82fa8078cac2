"""Writes checkpoints while training continues, so that a kill at any moment leaves a complete one behind.

run_dir/checkpoints/
    step-00001200/  model.safetensors ema.safetensors slow.safetensors optimizer.pt state.json length.json
                    manifest.json, and NAME.safetensors for each of the objective's modules
    best-00000900/  model.safetensors manifest.json     the best weights so far, as they are evaluated

The loop only waits for a copy of the state in memory; a thread writes it (files/verified.py), then prunes older ones.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from pathlib import Path
from typing import Any, TypeVar

import torch

from distcls.config.settings import TrainConfig
from distcls.errors import DiskError
from distcls.files.atomic import UNFINISHED, read_json
from distcls.files.verified import (
    CorruptError,
    Tensors,
    json_writer,
    place,
    read_tensors,
    tensor_writer,
    verify_folder,
    write_folder,
)
from distcls.runs.folder import RunFolder
from distcls.runs.resuming import LENGTH, checkpoint_folder, checkpoint_steps, length_of
from distcls.runs.status import read_object
from distcls.training.state import TrainState

T = TypeVar("T")


class Checkpoints:
    """The checkpoints of one run. Only the main process writes; all processes read, or receive what it read.

    A context manager that waits for the thread that writes, also after an error: nothing writes to the folder later.
    """

    def __init__(self, run: RunFolder, config: TrainConfig) -> None:
        self.run, self.config = run, config
        self.folder = run.dir / "checkpoints"
        self.writer = ThreadPoolExecutor(1, "checkpoint-writer")
        self.writes: list[tuple[str, int, Future[None]]] = []
        self.copies: dict[str, _Copy] = {}

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_: object) -> None:
        self.writer.shutdown()

    def steps(self, kind: str = "step") -> list[int]:
        """Return the steps of the folders of this kind ("step" or "best"), newest first."""
        return checkpoint_steps(self.run.dir, kind)

    def path(self, step: int, kind: str = "step") -> Path:
        """Return the folder of a step's checkpoint."""
        return checkpoint_folder(self.run.dir, step, kind)

    # Writing ---------------------------------------------------------------------------------------

    def save(self, state: TrainState, ended: bool = False) -> None:
        """Start writing the state, then prune; does nothing at step 0, or if this step has a checkpoint.

        ended: True if the run has reached its full length. Its last checkpoint is written again if a signal stopped the
        evaluation that should have preceded it: no later checkpoint would cover that evaluation. Raises the DiskError
        of an earlier write.
        """
        step, best_step = state.step, state.position.best_step
        if step == 0 or (self.path(step).exists() and not (ended and self._precedes_evaluation(state))):
            return

        def write(copied: dict[str, Any]) -> None:
            optimizer = copied.pop("optimizer")
            files = {f"{name}.safetensors": tensor_writer(tensors) for name, tensors in copied.items()}
            files["optimizer.pt"] = lambda file: torch.save(optimizer, file)
            files["state.json"] = json_writer(position)
            files[LENGTH] = json_writer(length)
            if self.run.tracker is not None:
                self.run.tracker.sync()
            write_folder(self.path(step), files, self.run.processes.moved)
            self._prune(best_step)

        position = state.position_dict()
        length = length_of(self.config, ended)
        self._begin("step", step, lambda: {**state.tensors(), "optimizer": state.optimizer_state()}, write)

    def _precedes_evaluation(self, state: TrainState) -> bool:
        position = read_object(self.path(state.step) / "state.json")
        return position.get("evaluated_step", state.step) < state.position.evaluated_step

    def save_best(self, state: TrainState) -> None:
        """Start writing the weights that were just evaluated. Raises the DiskError of an earlier write."""
        step = state.step

        def write(copied: Tensors) -> None:
            write_folder(
                self.path(step, "best"), {"model.safetensors": tensor_writer(copied)}, self.run.processes.moved
            )
            self._prune(step)

        self._begin("best", state.step, lambda: dict(state.eval_module.state_dict()), write)

    def _begin(self, kind: str, step: int, content: Callable[[], Any], write: Callable[[Any], None]) -> None:
        """Copy the content, and write the copy in a thread. Writes of earlier steps finish first."""
        if not self.run.processes.is_main or any(begun[:2] == (kind, step) for begun in self.writes):
            return
        self.raise_errors(wait=any(begun < step for _, begun, _ in self.writes))
        copied = self.copies.setdefault(kind, _Copy()).of(content())
        before = [begun[2] for begun in self.writes]

        def timed() -> None:
            for earlier in before:
                earlier.result()  # never write a checkpoint that refers to best weights that could not be written
            start = time.monotonic()
            write(copied)
            if kind == "step":
                self.run.saved_in(time.monotonic() - start)

        self.writes.append((kind, step, self.writer.submit(timed)))

    def raise_errors(self, wait: bool) -> None:
        """Raise the DiskError of a write that has failed; with `wait`, first wait until all have finished."""
        ended = [write for _, _, write in self.writes if wait or write.done()]
        wait_for(ended)
        self.writes = [begun for begun in self.writes if begun[2] not in ended]
        for write in ended:
            write.result()

    def check_space(self, state: TrainState, momenta: int) -> None:
        """Raise DiskError if the disk has no room for the run's checkpoints. momenta: per weight."""
        if not self.run.processes.is_main:
            return
        weights = sum(t.nbytes for t in state.module.state_dict().values())
        trained = sum(p.nbytes for group in state.groups for _, p in group.named)
        one = sum(t.nbytes for tensors in state.tensors().values() for t in tensors.values()) + trained * momenta
        self.folder.mkdir(parents=True, exist_ok=True)
        # Old ones are deleted only when a new one is complete; the best are twice in checkpoints/, and in model/.
        needed = one * (self.config.keep_checkpoints + 1) + weights * 3
        there = sum(file.stat().st_size for file in self.folder.glob("step-*/*"))
        free = shutil.disk_usage(self.folder).free
        if free + there < needed:
            raise DiskError(
                f"the checkpoints of this run will take {needed / 1e6:,.0f} MB, but {self.folder} has only "
                f"{(free + there) / 1e6:,.0f} MB left. Make room, keep fewer (train.keep_checkpoints=1), or choose "
                "another disk with run.dir=DIR."
            )

    def _prune(self, best_step: int | None) -> None:
        """Delete checkpoints beyond train.keep_checkpoints, and best weights that no kept checkpoint refers to."""
        kept, old = self.steps()[: self.config.keep_checkpoints], self.steps()[self.config.keep_checkpoints :]
        try:
            for step in old:
                shutil.rmtree(self.path(step))
            needed = {best_step} | {self._best_step(step) for step in kept}
            for step in set(self.steps("best")) - needed:
                shutil.rmtree(self.path(step, "best"))
        except (OSError, ValueError) as error:  # what was just written is complete, and the next prune tries again
            self.run.progress.warning(f"could not prune old checkpoints in {self.folder}: {error}")

    def _best_step(self, step: int) -> int | None:
        return read_json(self.path(step) / "state.json")["best_step"]

    # Reading ---------------------------------------------------------------------------------------

    def newest(self) -> int | None:
        """Return the step of the newest complete checkpoint, or None: the same on all processes."""
        return self.run.processes.from_main(self._newest)

    def restore(self, step: int | None, state: TrainState) -> None:
        """Restore the checkpoint of a step; None starts from scratch. All processes call it."""
        if step is not None:
            state.restore(*self._read(lambda: self._parts(self.path(step), list(state.tensors()))))
            self.run.progress.note(f"resuming from step {step:,}")
            best_step = state.position.best_step
            if best_step is not None and not self.run.processes.from_main(lambda: self._is_best_whole(best_step)):
                state.position.forget_best()
        if self.run.tracker is not None:
            self.run.tracker.truncate(step or 0, state.position.evaluated_step)

    def read_best(self, step: int) -> Tensors:
        """Return the best weights. All processes call it."""
        return self._read(lambda: read_tensors(self.path(step, "best") / "model.safetensors"))

    def _read(self, function: Callable[[], T]) -> T:
        """Return what each process reads, or, if only the main process sees the folder, what it reads for all."""
        return function() if self.run.is_shared else self.run.processes.from_main(function)

    def _parts(self, path: Path, names: list[str]) -> tuple[dict[str, Tensors], dict[str, Any], dict[str, Any]]:
        """Return what TrainState.restore takes, on the CPU: an optimizer moves its momenta to the device, but not its
        count of steps, for which it would wait in every step.
        """
        tensors = {name: read_tensors(path / f"{name}.safetensors") for name in names}
        optimizer = torch.load(path / "optimizer.pt", map_location="cpu", weights_only=True)
        return tensors, optimizer, read_json(path / "state.json")

    def _newest(self) -> int | None:
        """Return the newest complete step, or None. Damaged checkpoints are set aside, with a warning.

        Raises DiskError if none is complete and some cannot be read, for those may be undamaged.
        """
        for replaced in self.folder.glob(f"{UNFINISHED}old-*"):
            final = self.folder / replaced.name.removeprefix(f"{UNFINISHED}old-").rpartition("-")[0]
            if not final.exists():  # a kill came between the two renames of put_in_place
                replaced.rename(final)
        for leftover in self.folder.glob(f"{UNFINISHED}*"):
            shutil.rmtree(leftover, ignore_errors=True)
        torn: dict[int, CorruptError] = {}
        whole = None
        for step in self.steps():
            try:
                verify_folder(self.path(step))
                whole = step
                break
            except CorruptError as reason:
                torn[step] = reason
        if whole is None and any(reason.is_unreadable for reason in torn.values()):
            raise DiskError(
                f"no checkpoint in {self.folder} can be read ({next(iter(torn.values()))}). Nothing was changed: check "
                "that the disk is mounted and healthy, then run again; or remove the folder to start over."
            )
        for step, reason in torn.items():
            aside = self.folder / f"bad-{self.path(step).name}"
            shutil.rmtree(aside, ignore_errors=True)
            self.path(step).rename(aside)
            self.run.progress.warning(f"the checkpoint of step {step} is unusable ({reason}); it was moved to {aside}")
        return whole

    def _is_best_whole(self, step: int) -> bool:
        """Return True if the best weights can be read; otherwise warn: the run then loses only its best so far."""
        try:
            verify_folder(self.path(step, "best"))
        except CorruptError as reason:
            self.run.progress.warning(
                f"the best weights, of step {step}, are unusable ({reason}): the best is chosen again from here on, "
                "so the run may keep different weights from one whose files were never damaged"
            )
            return False
        return True


class _Copy:
    """Copies nested dicts and lists of tensors to the CPU, reusing the memory of the last copy: new pages cost time."""

    def __init__(self) -> None:
        self.memory: dict[tuple, torch.Tensor] = {}

    def of(self, content: Any) -> Any:
        """Return the copy. Strides are kept, and tied tensors stay tied."""
        self.seen: dict[tuple, torch.Tensor] = {}
        return self._of(content, ())

    def _of(self, value: Any, path: tuple) -> Any:
        if isinstance(value, torch.Tensor):
            key = place(value) if value.numel() else path
            if key not in self.seen:
                self.seen[key] = self._tensor(value.detach(), path)
            return self.seen[key]
        if isinstance(value, dict):
            return {name: self._of(item, (*path, name)) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self._of(item, (*path, index)) for index, item in enumerate(value))
        return value

    def _tensor(self, tensor: torch.Tensor, path: tuple) -> torch.Tensor:
        old = self.memory.get(path)
        if old is None or (old.shape, old.stride(), old.dtype) != (tensor.shape, tensor.stride(), tensor.dtype):
            old = self.memory[path] = torch.empty_like(tensor, device="cpu")
        return old.copy_(tensor)
