"""Sums over micro-batches: one mean gradient for any cut, one order of additions for any number of processes."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch._dynamo.backends.common import aot_autograd

from distcls.training.gradients import OrderedSum, OverlappedSum
from distcls.training.statistics import BatchNormStatistics

pytestmark = pytest.mark.usefixtures("one_thread")


class Network(nn.Module):
    """Convolutions in channels_last, BatchNorm, and a parameter that no image reaches."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 3)
        self.unused = nn.Parameter(torch.ones(5))
        self.to(memory_format=torch.channels_last)

    def forward(self, images):
        return self.head(torch.relu(self.norm(self.convolution(images))).mean((2, 3)))


def make_network(dtype=torch.float32):
    torch.manual_seed(0)
    return Network().to(dtype)


def make_batches(count, dtype=torch.float32):
    draw = torch.Generator().manual_seed(1)
    return [torch.randn(5, 3, 6, 6, generator=draw, dtype=dtype) for _ in range(count)]


def forward_of(module):
    """The sum of a loss, and the two numbers that are summed beside the gradients."""

    def forward(images):
        loss = module(images).square().sum()
        return loss, torch.stack([loss.detach(), torch.tensor(float(len(images)), dtype=loss.dtype)])

    return forward


def ordered(module, world_size=1):
    return OrderedSum(module, BatchNormStatistics(module), torch.Tensor.backward, world_size)


def overlapped(module, with_reused=False):
    return OverlappedSum(
        module, BatchNormStatistics(module), torch.Tensor.backward, nullcontext, 1, with_reused=with_reused
    )


def into_the_same_memory(graph, _):
    """A compiler's backend whose results lie where the last ones did, as those of CUDA graphs do."""
    kept = {}

    def run(inputs):
        results = torch.fx.Interpreter(graph).boxed_run(inputs)
        for place, result in enumerate(results):
            if isinstance(result, torch.Tensor):
                kept.setdefault(place, torch.empty_like(result)).copy_(result)
        return [kept[place].detach() if place in kept else result for place, result in enumerate(results)]

    run._boxed_call = True
    return run


def leaves(batches):
    """Gradients, numbers and statistics of each micro-batch alone: what plain PyTorch gives."""
    result = []
    for images in batches:
        module = make_network(images.dtype).train()
        module.norm.momentum = 1.0
        loss, numbers = forward_of(module)(images)
        loss.backward()
        result.append([p.grad for p in (module.convolution.weight, module.norm.weight, module.head.weight)])
        result[-1] += [numbers, module.norm.running_mean, module.norm.running_var]
    return result


def fold(vectors):
    """fold(lo, hi) = leaf | fold(lo, mid) + fold(mid, hi), as DESIGN writes it."""
    if len(vectors) == 1:
        return vectors[0]
    middle = len(vectors) // 2
    return [a + b for a, b in zip(fold(vectors[:middle]), fold(vectors[middle:]), strict=True)]


def summed(module, rest):
    gradients = [p.grad for p in (module.convolution.weight, module.norm.weight, module.head.weight)]
    return [*gradients, rest[:2], rest[2:6], rest[6:10]]


# OrderedSum ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 12])
def test_the_ordered_sum_is_the_halving_recursion_to_the_bit(count):
    batches = make_batches(count)
    module = make_network().train()
    rest = ordered(module)(forward_of(module), batches)
    for got, expected in zip(summed(module, rest), fold(leaves(batches)), strict=True):
        assert torch.equal(got, expected)


@pytest.mark.parametrize("count", [8, 12])
@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_compute_subtrees_of_the_same_tree(count, world_size):
    """Folding each rank's share and then the shares gives the bits of one process; filling up changes nothing."""
    batches = make_batches(count)
    module = make_network().train()
    whole = ordered(module)._fold(forward_of(module), batches)
    share = count // world_size
    shares = [batches[i : i + share] for i in range(0, count, share)]
    parts = [ordered(make, world_size)._fold(forward_of(make), s) for s in shares for make in [make_network().train()]]
    while len(parts) > 1:
        parts = [a + b for a, b in zip(parts[::2], parts[1::2], strict=True)]
    assert len(parts[0]) % world_size == 0
    assert torch.equal(parts[0][: len(whole)], whole)
    assert not parts[0][len(whole) :].any()


def test_a_sum_from_left_to_right_would_have_other_bits():
    """Else the tests above would say nothing."""
    vectors = leaves(make_batches(8))
    left_to_right = vectors[0]
    for vector in vectors[1:]:
        left_to_right = [a + b for a, b in zip(left_to_right, vector, strict=True)]
    assert any(not torch.equal(a, b) for a, b in zip(left_to_right, fold(vectors), strict=True))


# Both ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make_sum", [ordered, overlapped])
def test_the_gradient_is_that_of_the_whole_batch(make_sum):
    batches = make_batches(6, torch.float64)
    module = make_network(torch.float64).train()
    rest = make_sum(module)(forward_of(module), batches)
    for got, *parts in zip(summed(module, rest), *leaves(batches), strict=True):
        torch.testing.assert_close(got, torch.stack(parts).sum(0), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("make_sum", [ordered, overlapped])
def test_gradients_lie_in_memory_as_their_parameters(make_sum):
    """Fused optimizers read both with one index."""
    module = make_network().train()
    make_sum(module)(forward_of(module), make_batches(2))
    assert not module.convolution.weight.is_contiguous()
    for parameter in module.parameters():
        assert parameter.grad.stride() == parameter.stride()


@pytest.mark.parametrize("make_sum", [ordered, overlapped])
def test_a_parameter_without_gradient_gets_zeros(make_sum):
    module = make_network().train()
    add = make_sum(module)
    for _ in range(2):
        add(forward_of(module), make_batches(2))
        assert torch.equal(module.unused.grad, torch.zeros(5))


@pytest.mark.parametrize("make_sum", [ordered, overlapped])
def test_nothing_is_left_of_the_step_before(make_sum):
    module = make_network().train()
    add, batches = make_sum(module), make_batches(3)
    first = [t.clone() for t in summed(module, add(forward_of(module), batches))]
    second = summed(module, add(forward_of(module), batches))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("make_sum", [ordered, overlapped])
def test_frozen_parameters_get_no_gradient(make_sum):
    module = make_network().train()
    module.convolution.requires_grad_(False)
    make_sum(module)(forward_of(module), make_batches(2))
    assert module.convolution.weight.grad is None
    assert module.head.weight.grad is not None


def test_only_the_last_micro_batch_is_reduced():
    """DDP communicates once a step, not once a micro-batch."""
    module, events = make_network().train(), []

    class NoSync(nullcontext):
        def __enter__(self):
            events.append("no_sync")

        def __exit__(self, *_):
            events.append("end")

    add = OverlappedSum(module, BatchNormStatistics(module), lambda _: events.append("backward"), NoSync, 1)
    add(forward_of(module), make_batches(3))
    assert events == ["no_sync", "backward", "end", "no_sync", "backward", "end", "backward"]


@pytest.mark.parametrize("count", [1, 2, 4])
def test_gradients_that_the_next_pass_overwrites_are_summed(count):
    """As train.compile=reduce-overhead computes them; there is no GPU that records graphs here."""
    expected, module = make_network(), make_network()
    overlapped(expected)(forward_of(expected), make_batches(count))
    backend = aot_autograd(fw_compiler=into_the_same_memory, bw_compiler=into_the_same_memory)
    overlapped(module, with_reused=True)(forward_of(torch.compile(module, backend=backend)), make_batches(count))
    for (name, ours), theirs in zip(module.named_parameters(), expected.parameters(), strict=True):
        assert torch.allclose(ours.grad, theirs.grad, atol=1e-5), name
