"""The precision of a run covers every method of a model, and DDP searches for unused parameters only where it must."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from accelerate import Accelerator, DistributedType
from torch import nn

from distcls.config.settings import TrainConfig
from distcls.errors import UsageError
from distcls.training.acceleration import Acceleration


class TwoMethods(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, images):
        return self.computed_in(images)

    def computed_in(self, images):
        return self.linear(images).dtype


def accelerate(precision: str) -> Acceleration:
    return Acceleration(dataclasses.replace(TrainConfig(), precision=precision), torch.device("cpu"))


@pytest.fixture(autouse=True)
def forget_accelerate():
    """Its precision is one for the whole process."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(True)
    yield
    AcceleratorState._reset_state(True)


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("float32", torch.float32)])
def test_every_method_computes_in_the_precision_of_the_run(precision, dtype):
    acceleration, module, images = accelerate(precision), TwoMethods(), torch.ones(2, 4)
    model = acceleration.prepare(module, distributed=False)
    assert model(images) == model(images, method="computed_in") == module(images) == dtype
    assert module.computed_in(images) == torch.float32  # called past the model
    with acceleration.autocast():
        assert module.computed_in(images) == dtype


@pytest.mark.parametrize(
    ("given", "mode", "reused"), [(True, None, False), ("reduce-overhead", "reduce-overhead", True)]
)
def test_a_mode_of_compilation_reaches_torch(given, mode, reused, monkeypatch):
    modes = []
    monkeypatch.setattr(torch, "compile", lambda model, mode: modes.append(mode) or model)
    acceleration = Acceleration(
        dataclasses.replace(TrainConfig(), precision="float32", compile=given), torch.device("cpu")
    )
    acceleration.prepare(TwoMethods(), distributed=False)
    assert modes == [mode] and acceleration.gradients_are_reused is reused


def test_what_accelerate_reads_from_the_environment_changes_nothing(monkeypatch):
    """`accelerate launch` sets it from the user's defaults, which a run's config says nothing about."""
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR")
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    acceleration, module = accelerate("float32"), TwoMethods()
    assert acceleration.prepare_for_evaluation(module) is module
    loss = torch.tensor(1.0, requires_grad=True)
    acceleration.backward(1 * loss)
    assert loss.grad == 1


def test_other_ways_to_distribute_are_refused(monkeypatch):
    monkeypatch.setattr(Accelerator, "distributed_type", DistributedType.FSDP)
    with pytest.raises(UsageError, match="Accelerate is set up for FSDP, but distcls trains with DDP"):
        accelerate("float32")


def test_names_of_weights_stay_those_of_the_plain_module():
    module = TwoMethods()
    accelerate("bf16").prepare(module, distributed=False)
    assert list(module.state_dict()) == ["linear.weight", "linear.bias"]


@pytest.mark.parametrize(
    ("all_used", "num_processes", "searches"), [(True, 2, False), (False, 2, True), (True, 4, True), (False, 4, True)]
)
def test_ddp_searches_for_unused_parameters_where_the_order_or_the_model_needs_it(
    all_used, num_processes, searches, monkeypatch
):
    acceleration = accelerate("float32")
    monkeypatch.setattr(type(acceleration.accelerator), "num_processes", num_processes)
    acceleration.prepare(TwoMethods(), distributed=False, all_used=all_used)
    assert acceleration.ddp.find_unused_parameters is searches
