"""Tries a model out before the first step, on a copy, and refuses what could not be trained, saved or resumed.

A forward and a backward pass of two images also find the buffers that a pass changes, which must stay the same in all
processes.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import is_lazy

from distcls.errors import UsageError, is_out_of_memory
from distcls.files.verified import tensor_writer, tensors_from
from distcls.models.weights import load_weights
from distcls.plan.randomness import global_state_kept


def initialize_lazy(model: nn.Module, name: str, image_size: int) -> None:
    """Pass two images through lazy layers to give them shapes, and weights from torch's global generator.

    name: model.name, for the UsageError that it raises if the model does not take them.
    """
    if any(is_lazy(tensor) for tensor in (*model.parameters(), *model.buffers())):
        with torch.no_grad(), refusing_images(name, image_size):
            model.eval()(torch.zeros(2, 3, image_size, image_size))
        model.train()


@contextmanager
def refusing(name: str, problem: str, *kinds: type[Exception]) -> Iterator[None]:
    """Raise UsageError if the block raises one of these errors, unless it ran out of memory.

    name: model.name, for the message. problem: with {} for the error's message.
    """
    try:
        yield
    except kinds as error:
        if is_out_of_memory(error):
            raise
        raise UsageError(f"model.name={name} {problem.format(error)}") from error


def refusing_images(name: str, image_size: int) -> AbstractContextManager[None]:
    """Raise UsageError if the block, in which two images pass through the model, raises what layers raise."""
    problem = f"fails on two images of {image_size} pixels: {{}}. If they are too small for it, set data.image_size=N."
    return refusing(name, problem, RuntimeError, ValueError)


class Tried(NamedTuple):
    """The findings from a training pass."""

    moving: list[str]
    """Buffers, other than BatchNorm's, that the pass changes."""
    unused: list[str]
    """Trainable parameters that get no gradient."""


def try_model(model: nn.Module, name: str, num_classes: int, image_size: int, as_classifier: bool = True) -> Tried:
    """Return the findings from a training pass of two images through a copy. The model stays as it is.

    as_classifier: require one number per class. Raises UsageError, naming the parameter or buffer, for a model that
    cannot be trained or whose state cannot be restored from a file.
    """
    trial = _Trial(model, name)
    trial.refuse_odd_parameters()
    with global_state_kept():
        trial.run(num_classes, image_size, as_classifier)
        moving = trial.moving_buffers()
        trial.refuse_what_files_lose()
    return Tried(moving, trial.unused)


class _Trial:
    """A model being tried out. `name` is model.name, for messages."""

    def __init__(self, model: nn.Module, name: str) -> None:
        self.model, self.name = model, name
        self.buffers: dict[str, torch.Tensor] = {}
        self.snapshots: list[dict[str, torch.Tensor]] = []
        self.unused: list[str] = []

    def refuse(self, problem: str) -> UsageError:
        return UsageError(f"model.name={self.name} {problem}")

    def refusing(self, problem: str, *kinds: type[Exception]) -> AbstractContextManager[None]:
        return refusing(self.name, problem, *kinds)

    def refuse_odd_parameters(self) -> None:
        ends: dict[int, list[tuple[int, int, str]]] = {}
        for name, parameter in self.model.named_parameters():
            if parameter.is_complex():
                raise self.refuse(f"has the complex parameter {name!r}, which is not supported: store its real and "
                                  "imaginary parts in a real parameter (torch.view_as_real).")  # fmt: skip
            if not parameter.numel():
                continue
            start = int(parameter.storage_offset()) * parameter.element_size()
            extent = sum((n - 1) * s for n, s in zip(parameter.shape, parameter.stride(), strict=True)) + 1
            stop = start + int(extent) * parameter.element_size()
            others = ends.setdefault(parameter.untyped_storage().data_ptr(), [])
            for other_start, other_stop, other in others:
                if start < other_stop and other_start < stop:
                    raise self.refuse(f"has two parameters that share memory, {other!r} and {name!r}, and both would "
                                      "be updated. Tie them by using one nn.Parameter in both places.")  # fmt: skip
            others.append((start, stop, name))

    def run(self, num_classes: int, image_size: int, as_classifier: bool) -> None:
        """Run two training passes on a copy, the first with backward; save buffers before, between and after."""
        with self.refusing(
            "cannot be copied: {}. Do not store computed tensors as attributes.", RuntimeError, TypeError
        ):
            self.copy = copy.deepcopy(self.model).train()
        parameter = next(self.copy.parameters())
        draw = torch.Generator().manual_seed(0)
        self.remember()
        for number in (1, 2):
            images = torch.randn(2, 3, image_size, image_size, generator=draw).to(parameter.device, parameter.dtype)
            names = [name for name, _ in self.copy.named_parameters()]
            weights = [p.detach().clone() for p in self.copy.parameters()] if number == 1 else []
            outputs = self.forward(images, image_size)
            if number == 1:
                self.refuse_new_parameters(names, weights)
                if as_classifier:
                    self.check_outputs(outputs, num_classes)
                self.backward(outputs)
            self.remember()

    def remember(self) -> None:
        buffers = dict(self.copy.named_buffers())
        for name, buffer in buffers.items():
            if name in self.buffers and self.buffers[name] is not buffer and name in self.model.state_dict():
                raise self.refuse(f"puts a new tensor in the place of the buffer {name!r} in each pass, so that it "
                                  "cannot be tracked: change it in place, with copy_ or lerp_.")  # fmt: skip
        self.buffers = buffers
        self.snapshots.append({name: buffer.detach().clone() for name, buffer in buffers.items()})

    def forward(self, images: torch.Tensor, image_size: int) -> object:
        with refusing_images(self.name, image_size):
            return self.copy(images)

    def refuse_new_parameters(self, names: list[str], weights: list[torch.Tensor]) -> None:
        now = dict(self.copy.named_parameters())
        for name in now.keys() - set(names):
            raise self.refuse(f"creates the parameter {name!r} in its first pass, after the optimizer was built: "
                              "create it in __init__, or use one of torch's lazy layers.")  # fmt: skip
        for name, before in zip(names, weights, strict=True):
            if not torch.equal(now[name].detach(), before):
                raise self.refuse(f"changes the parameter {name!r} in a forward pass, which would differ between "
                                  "processes: make it a buffer, or change it in __init__.")  # fmt: skip

    def check_outputs(self, outputs: object, num_classes: int) -> None:
        if isinstance(outputs, torch.Tensor) and outputs.shape == (2, num_classes):
            return
        given = f"shape {tuple(outputs.shape)}" if isinstance(outputs, torch.Tensor) else type(outputs).__name__
        has_auxiliary = any("aux" in field for field in getattr(outputs, "_fields", ()))
        auxiliary = " Turn off its auxiliary outputs: model.args={aux_logits: false}." if has_auxiliary else ""
        raise self.refuse(
            f"returns {given} for two images in training, expected (2, {num_classes}): one number per class.{auxiliary}"
        )

    def backward(self, outputs: object) -> None:
        floats = outputs_with_gradient(outputs)
        if not floats:
            raise self.refuse("returns outputs that depend on no trainable parameter: check model.freeze, and "
                              "torch.no_grad() in its forward.")  # fmt: skip
        with self.refusing("fails in the backward pass: {}", RuntimeError):
            torch.stack([t.float().sum() for t in floats]).sum().backward()
        for name, parameter in self.copy.named_parameters():
            if parameter.requires_grad and parameter.grad is None:
                self.unused.append(name)
            if parameter.grad is not None and parameter.grad.is_sparse:
                raise self.refuse(f"has a sparse gradient for {name!r}, which is not supported: use sparse=False.")

    def moving_buffers(self) -> list[str]:
        """Return the saved buffers that changed. Raises UsageError for those that processes cannot share."""
        first, between, last = self.snapshots
        saved = self.copy.state_dict().keys()
        of_batchnorm = {
            f"{name}.{buffer}".lstrip(".")
            for name, layer in self.copy.named_modules()
            if isinstance(layer, _BatchNorm)
            for buffer in ("running_mean", "running_var", "num_batches_tracked")
        }
        moving = []
        for name, after in last.items():
            if name in of_batchnorm:
                continue
            made = name not in first or first[name].shape != after.shape
            if made and name in saved:
                raise self.refuse(f"creates or resizes the buffer {name!r} in its first pass, so a run could not be "
                                  "resumed: create it in __init__ at its final size, or with "
                                  "persistent=False.")  # fmt: skip
            if made:
                continue
            if name not in saved:
                if not _same(between[name], after):
                    raise self.refuse(f"changes the buffer {name!r} in each pass but does not save it: remove "
                                      "persistent=False.")  # fmt: skip
            elif not _same(first[name], after):
                if after.dtype is torch.bool or after.is_complex():
                    kind = str(after.dtype).removeprefix("torch.")
                    raise self.refuse(f"changes the {kind} buffer {name!r} in a pass, but only real numbers can be "
                                      "averaged across processes.")  # fmt: skip
                moving.append(name)
        return moving

    def refuse_what_files_lose(self) -> None:
        """Write the state in the format of checkpoints and read it back, which must change nothing."""
        state = dict(self.copy.state_dict())
        for name, value in state.items():
            if not isinstance(value, torch.Tensor):
                raise self.refuse(f"has the state {name!r} of type {type(value).__name__}, but files hold only "
                                  "tensors: return a tensor from get_extra_state, or remove it.")  # fmt: skip
        file = io.BytesIO()
        restored = copy.deepcopy(self.model)
        with self.refusing("has a state that cannot be restored from a file: {}", RuntimeError, ValueError, KeyError):
            tensor_writer(state)(file)
            load_weights(restored, tensors_from(file.getvalue()))
        for name, value in restored.state_dict().items():
            if not _same(value, state[name]):
                raise self.refuse(f"does not restore {name!r} from a file: check its _load_from_state_dict and "
                                  "set_extra_state.")  # fmt: skip


def outputs_with_gradient(outputs: object) -> list[torch.Tensor]:
    """Return the tensors among a model's outputs that a backward pass can start from."""
    tensors = outputs if isinstance(outputs, tuple | list) else [outputs]
    return [tensor for tensor in tensors if isinstance(tensor, torch.Tensor) and tensor.requires_grad]


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    if one.dtype.is_floating_point:
        return torch.equal(one.nan_to_num(), other.nan_to_num())
    return torch.equal(one, other)
