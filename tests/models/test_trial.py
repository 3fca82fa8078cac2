"""What cannot be trained, saved or resumed is refused before the first step, by a sentence that names it."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

from distcls.config.settings import ModelConfig
from distcls.errors import UsageError
from distcls.models.build import build_model
from distcls.models.trial import try_model


class Base(nn.Module):
    """A linear network to make mistakes in."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3, 2)

    def forward(self, images):
        return self.head(images.mean((2, 3)))


def attempt(model, **settings):
    return try_model(model, "my:make", 2, 8, **settings)


class MakesParameter(Base):
    def forward(self, images):
        self.scale = nn.Parameter(torch.ones(3))
        return self.head(images.mean((2, 3)) * self.scale)


class ChangesParameter(Base):
    def forward(self, images):
        with torch.no_grad():
            self.head.bias += 1
        return super().forward(images)


class Sparse(Base):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(4, 2, sparse=True)

    def forward(self, images):
        return super().forward(images) + self.table(torch.zeros(len(images), dtype=torch.long))


class Overlapping(Base):
    def __init__(self):
        super().__init__()
        self.same = nn.Parameter(self.head.weight.data[1:])

    def forward(self, images):
        return super().forward(images) + self.same.sum()


class Complex(Base):
    def __init__(self):
        super().__init__()
        self.phase = nn.Parameter(torch.ones(2, dtype=torch.complex64))


class TwoOutputs(Base):
    def forward(self, images):
        logits = super().forward(images)
        return (logits, logits) if self.training else logits


class Remembering(Base):
    """A running mean of its own, which is saved or not."""

    def __init__(self, persistent=True, dtype=torch.float32):
        super().__init__()
        self.register_buffer("seen", torch.zeros(3, dtype=dtype), persistent=persistent)

    def forward(self, images):
        if self.training:
            self.seen.copy_((self.seen * 0.9 + images.mean((0, 2, 3)) > 0.01) if self.seen.dtype is torch.bool else
                            self.seen * 0.9 + images.mean((0, 2, 3)))  # fmt: skip
        return super().forward(images)


class MakesBuffer(Base):
    def __init__(self, persistent=True):
        super().__init__()
        self.register_buffer("grid", None, persistent=persistent)

    def forward(self, images):
        self.grid = torch.arange(3)
        return super().forward(images)


class ExtraState(Base):
    def get_extra_state(self):
        return {"when": "now"}

    def set_extra_state(self, state):
        pass


class Forgetful(Base):
    """Its state does not come back."""

    def get_extra_state(self):
        return torch.tensor(id(self))

    def set_extra_state(self, state):
        pass


class TooSmall(Base):
    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, 3, 11)

    def forward(self, images):
        return super().forward(self.convolution(images))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (MakesParameter, "creates the parameter 'scale' in its first pass.*__init__"),
        (ChangesParameter, "changes the parameter 'head.bias' in a forward pass"),
        (Sparse, "sparse gradient for 'table.weight'.*sparse=False"),
        (Overlapping, "two parameters that share memory, 'head.weight' and 'same'|'same' and 'head.weight'"),
        (Complex, "complex parameter 'phase'"),
        (TwoOutputs, r"returns tuple for two images in training, expected \(2, 2\)"),
        (lambda: Remembering(persistent=False), "buffer 'seen' in each pass but does not save it"),
        (lambda: Remembering(dtype=torch.bool), "bool buffer 'seen'"),
        (MakesBuffer, "creates or resizes the buffer 'grid'"),
        (ExtraState, "state '_extra_state' of type dict"),
        (Forgetful, "does not restore '_extra_state' from a file"),
        (TooSmall, r"fails on two images of 8 pixels.*data.image_size"),
    ],
)
def test_models_that_would_go_wrong_are_refused(make, message):
    with pytest.raises(UsageError, match=f"model.name=my:make (.|\n)*({message})"):
        attempt(make())


def test_outputs_are_the_objectives_business_where_it_has_its_own():
    assert attempt(TwoOutputs(), as_classifier=False).moving == []


def test_auxiliary_outputs_of_torchvision_name_the_argument():
    model = torchvision.models.googlenet(num_classes=2, init_weights=False)
    with pytest.raises(UsageError, match="GoogLeNetOutputs.*aux_logits: false"):
        try_model(model, "torchvision/googlenet", 2, 64)


def test_buffers_that_passes_move_are_found():
    assert attempt(Remembering()) == (["seen"], [])
    assert attempt(MakesBuffer(persistent=False)).moving == []
    norms = nn.Sequential(
        nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 4, 3)),
        nn.InstanceNorm2d(4, track_running_stats=True),
        nn.BatchNorm2d(4),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 2),
    )
    found = attempt(norms).moving
    assert {"1.running_mean", "1.running_var"} <= set(found)
    assert any(name.startswith("0.parametrizations") for name in found)
    assert not any(name.startswith("2.") for name in found)


def test_a_trial_changes_nothing():
    model = Remembering()
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    attempt(model)
    assert torch.equal(torch.rand(1), expected)
    assert not model.seen.any() and model.head.weight.grad is None


def test_tied_weights_and_views_come_back():
    class Tied(Base):
        def __init__(self):
            super().__init__()
            self.other = nn.Linear(3, 2)
            self.other.weight = self.head.weight

    assert attempt(Tied()).moving == []


def test_lazy_layers_get_their_shapes(monkeypatch):
    import ledger

    def lazy(num_classes):
        return nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(num_classes))

    monkeypatch.setattr(ledger, "lazy", lazy, raising=False)
    model = build_model(ModelConfig(name="ledger:lazy"), 5, 8)
    assert model[3].weight.shape == (5, 144) and model.training
    assert not model[1].running_mean.any()
    assert try_model(model, "ledger:lazy", 5, 8) == ([], [])
    with pytest.raises(UsageError, match="model.name=ledger:lazy fails on two images of 2 pixels.*data.image_size"):
        build_model(ModelConfig(name="ledger:lazy"), 5, 2)


def test_a_model_that_keeps_versions_of_its_layers_comes_back():
    """Without its version, mnasnet takes weights for those of an old one, and rearranges itself."""
    assert try_model(torchvision.models.mnasnet0_5(num_classes=2), "torchvision/mnasnet0_5", 2, 64) == ([], [])


def test_parameters_without_a_gradient_are_found():
    model = Base()
    model.spare, model.frozen = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2), requires_grad=False)
    assert attempt(model).unused == ["spare"]


def test_a_buffer_that_is_replaced_is_refused():
    class Replacing(Base):
        def __init__(self):
            super().__init__()
            self.register_buffer("center", torch.zeros(3))

        def forward(self, images):
            if self.training:
                self.center = self.center * 0.9 + images.detach().mean((0, 2, 3)) * 0.1
            return self.head(images.mean((2, 3)) - self.center)

    with pytest.raises(
        UsageError, match=r"puts a new tensor in the place of the buffer 'center' .* change it in place"
    ):
        attempt(Replacing())


class RunsOut(torch.autograd.Function):
    """A pass that runs out of memory backward."""

    @staticmethod
    def forward(ctx, error, x):
        ctx.error = error
        return x.clone()

    @staticmethod
    def backward(ctx, *_):
        raise ctx.error


class Greedy(Base):
    """Runs out of memory, as `error` says, when it is copied, in its forward or in its backward pass."""

    def __init__(self, place, error):
        super().__init__()
        self.place, self.error = place, error

    def __deepcopy__(self, memo):
        if self.place == "copy":
            raise self.error
        return Greedy(self.place, self.error)

    def forward(self, images):
        if self.place == "forward":
            raise self.error
        return RunsOut.apply(self.error, super().forward(images))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
)
@pytest.mark.parametrize("place", ["copy", "forward", "backward"])
def test_a_machine_without_memory_is_not_called_a_model_that_is_too_large(place, error):
    with pytest.raises(type(error)) as caught:
        attempt(Greedy(place, error))
    assert caught.value is error or str(caught.value) == str(error)


def test_a_failing_backward_pass_is_refused():
    with pytest.raises(UsageError, match=r"my:make fails in the backward pass: shapes \{3\}"):
        attempt(Greedy("backward", RuntimeError("shapes {3}")))
