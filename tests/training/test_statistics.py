"""Running statistics move once a step, by the passes that computed them, and stay where none did."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from distcls.errors import UsageError
from distcls.optim.averages import build_copy, copy_buffers
from distcls.training.statistics import BatchNormStatistics, with_sync_batchnorm

pytestmark = pytest.mark.usefixtures("one_thread")


def make_batches(count, dtype=torch.float32):
    draw = torch.Generator().manual_seed(1)
    return [torch.randn(5, 3, 6, 6, generator=draw, dtype=dtype) for _ in range(count)]


def train_norm(norm, batches, statistics=None):
    """One step on these micro-batches."""
    statistics = statistics or BatchNormStatistics(norm)
    statistics.training_mode()
    total = torch.zeros(0)
    for images in batches:
        norm(images)
        flat = torch.cat(statistics.read())
        total = flat if not len(total) else total + flat
    statistics.update(total, len(batches))
    return statistics


def test_a_step_of_many_micro_batches_is_one_update_with_their_mean():
    norm = nn.BatchNorm2d(3, momentum=0.2)
    nn.init.constant_(norm.running_mean, 0.5)
    batches = make_batches(4)
    train_norm(norm, batches)
    means = torch.stack([b.mean((0, 2, 3)) for b in batches]).mean(0)
    variances = torch.stack([b.var((0, 2, 3), unbiased=True) for b in batches]).mean(0)
    torch.testing.assert_close(norm.running_mean, 0.8 * 0.5 + 0.2 * means)
    torch.testing.assert_close(norm.running_var, 0.8 * 1.0 + 0.2 * variances)
    assert norm.num_batches_tracked == 1


def test_one_micro_batch_a_step_is_plain_batchnorm():
    ours, plain = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
    statistics = BatchNormStatistics(ours)
    for images in make_batches(5):
        train_norm(ours, [images], statistics)
        plain(images)
    torch.testing.assert_close(ours.running_mean, plain.running_mean)
    torch.testing.assert_close(ours.running_var, plain.running_var)
    assert ours.num_batches_tracked == plain.num_batches_tracked == 5


def test_no_momentum_is_a_plain_average():
    ours, plain = nn.BatchNorm2d(3, momentum=None), nn.BatchNorm2d(3, momentum=None)
    mixed = nn.Sequential(ours, nn.BatchNorm2d(3, momentum=0.5))
    statistics = BatchNormStatistics(mixed)
    for images in make_batches(5):
        train_norm(mixed, [images], statistics)
        plain(images)
    torch.testing.assert_close(ours.running_mean, plain.running_mean)
    torch.testing.assert_close(ours.running_var, plain.running_var)


def test_statistics_reach_the_average_too():
    norm, average = nn.Sequential(nn.BatchNorm2d(3)), nn.Sequential(nn.BatchNorm2d(3))
    train_norm(norm, make_batches(2))
    copy_buffers(average, norm)
    assert torch.equal(average[0].running_var, norm[0].running_var)
    assert average[0].num_batches_tracked == 1
    assert not torch.equal(average[0].running_var, torch.ones(3))


def test_statistics_from_a_checkpoint_are_taken_over():
    norm = nn.BatchNorm2d(3)
    statistics = BatchNormStatistics(norm)
    norm.load_state_dict(
        {**norm.state_dict(), "running_mean": torch.full((3,), 7.0), "num_batches_tracked": torch.tensor(9)}
    )
    statistics.adopt()
    train_norm(norm, make_batches(1), statistics)
    assert norm.num_batches_tracked == 10
    assert (norm.running_mean > 6).all()


def test_a_frozen_batchnorm_stays_as_it_is():
    norms = nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm2d(3))
    norms[0].requires_grad_(False)
    before = {k: v.clone() for k, v in norms[0].state_dict().items()}
    statistics = BatchNormStatistics(norms)
    for images in make_batches(3):
        train_norm(norms, [images], statistics)
    assert all(torch.equal(v, before[k]) for k, v in norms[0].state_dict().items())
    assert not norms[0].training and norms[1].training
    assert not torch.equal(norms[1].running_var, torch.ones(3))


def test_a_frozen_batchnorm_without_weights_stays_as_it_is():
    """Inside a frozen part of the model, such as a normalization of the input."""
    module = nn.Sequential(nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3, affine=False)), nn.Conv2d(3, 2, 1))
    module[0].requires_grad_(False)
    statistics = BatchNormStatistics(module)
    statistics.training_mode()
    module(make_batches(1)[0])
    assert torch.equal(module[0][1].running_var, torch.ones(3))
    assert statistics.read() == []


def test_an_overflow_is_not_carried_into_the_next_step():
    norm = nn.BatchNorm2d(3)
    statistics = BatchNormStatistics(norm)
    statistics.training_mode()
    norm(torch.full((2, 3, 4, 4), torch.inf))
    assert not torch.cat(statistics.read()).isfinite().all()  # fp16 overflowed: the step is skipped, no update
    train_norm(norm, make_batches(1), statistics)
    assert norm.running_mean.isfinite().all() and norm.running_var.isfinite().all()


def test_a_model_without_batchnorm_has_nothing_to_read():
    module = nn.Linear(3, 2)
    statistics = BatchNormStatistics(module)
    assert statistics.read() == []
    statistics.update(torch.empty(0), 1)


# Layers that do not run, or run as in evaluation ---------------------------------------------------


class KeptInEvaluation(nn.Module):
    """The usual idiom of fine-tuning: train() leaves BatchNorm as it is."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        nn.init.constant_(self.norm.running_var, 0.8)
        self.norm.running_mean.fill_(0.3)
        self.head = nn.Conv2d(3, 2, 1)

    def train(self, mode=True):
        super().train(mode)
        self.norm.eval()
        return self

    def forward(self, images):
        return self.head(self.norm(images))


def test_batchnorm_that_train_keeps_in_evaluation_mode_uses_and_keeps_its_statistics():
    module = KeptInEvaluation()
    expected = module.head(nn.functional.batch_norm(make_batches(1)[0], torch.full((3,), 0.3), torch.full((3,), 0.8)))
    statistics = BatchNormStatistics(module)
    for _ in range(2):
        train_norm(module, make_batches(3), statistics)
        assert not module.norm.training and module.head.training
        assert torch.equal(module.norm.running_mean, torch.full((3,), 0.3))
        assert torch.equal(module.norm.running_var, torch.full((3,), 0.8))
        assert module.norm.num_batches_tracked == 0
        torch.testing.assert_close(module(make_batches(1)[0]), expected)


def test_train_is_called_at_the_start_and_after_an_evaluation():
    module = KeptInEvaluation()
    statistics = BatchNormStatistics(module)
    assert module.norm.training  # nobody has called train() yet
    statistics.training_mode()
    assert not module.norm.training
    module.eval()
    statistics.training_mode()
    assert module.head.training and not module.norm.training


def test_train_is_not_called_when_nothing_has_changed():
    module, calls = KeptInEvaluation(), []
    statistics = BatchNormStatistics(module)
    module.train = lambda mode=True: calls.append(mode) or KeptInEvaluation.train(module, mode)
    for _ in range(3):
        statistics.training_mode()
    assert calls == [True]


class Skipping(nn.Module):
    """Two BatchNorms, of which the second runs in only some passes."""

    def __init__(self, passes):
        super().__init__()
        self.first, self.second, self.passes = nn.BatchNorm2d(3), nn.BatchNorm2d(3), iter(passes)

    def forward(self, images):
        images = self.first(images)
        return self.second(images * 2) if next(self.passes) else images


@pytest.mark.parametrize("passes", [[1, 0, 0, 1], [0, 0, 1, 0], [1, 1, 1, 1]])
def test_statistics_are_averaged_over_the_passes_that_ran(passes):
    module, batches = Skipping(passes), make_batches(4)
    train_norm(module, batches)
    entered = [nn.BatchNorm2d(3)(images) * 2 for images, runs in zip(batches, passes, strict=True) if runs]
    means = torch.stack([images.mean((0, 2, 3)) for images in entered]).mean(0)
    variances = torch.stack([images.var((0, 2, 3), unbiased=True) for images in entered]).mean(0)
    torch.testing.assert_close(module.second.running_mean, 0.1 * means)
    torch.testing.assert_close(module.second.running_var, 0.9 + 0.1 * variances)
    assert (module.first.num_batches_tracked, module.second.num_batches_tracked) == (1, 1)


def test_a_layer_that_never_runs_keeps_its_statistics_to_the_bit():
    module = Skipping([0] * 12)
    module.second.running_mean.copy_(torch.tensor([0.1, 0.2, 0.3]))
    statistics = BatchNormStatistics(module)
    for _ in range(4):
        train_norm(module, make_batches(3), statistics)
    assert torch.equal(module.second.running_mean, torch.tensor([0.1, 0.2, 0.3]))
    assert (module.first.num_batches_tracked, module.second.num_batches_tracked) == (4, 0)


def test_evaluations_between_steps_and_micro_batches_change_nothing():
    results = []
    for looking in (False, True):
        norm = nn.Sequential(nn.BatchNorm2d(3))
        statistics = BatchNormStatistics(norm)
        for images in make_batches(6):
            train_norm(norm, [images, images + 1], statistics)
            if looking:
                norm.eval()(images)
                build_copy(norm)
        results.append(statistics.running)
    assert torch.equal(results[0], results[1])


# Other buffers -------------------------------------------------------------------------------------


class OwnMean(nn.Module):
    """Keeps a running mean of its inputs, and counts its passes, in buffers that are not BatchNorm's."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.full((3,), 0.5))
        self.register_buffer("passes", torch.tensor(4))

    def forward(self, images):
        if self.training:
            self.mean.lerp_(images.mean((0, 2, 3)), 0.2)
            self.passes += 1
        return images - self.mean[:, None, None]


def test_other_buffers_move_by_the_mean_change_of_the_micro_batches():
    module, batches = OwnMean(), make_batches(3)
    statistics = BatchNormStatistics(module, moving=[module.mean, module.passes])
    train_norm(module, batches, statistics)
    means = torch.stack([images.mean((0, 2, 3)) for images in batches]).mean(0)
    torch.testing.assert_close(module.mean, 0.8 * 0.5 + 0.2 * means)
    assert module.passes == 5
    module.mean.fill_(7)
    statistics.adopt()
    train_norm(module, batches, statistics)
    assert (module.mean > 5).all()


def test_all_statistics_can_be_kept_while_the_weights_are_trained():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    statistics = BatchNormStatistics(model, keep_all=True)
    before = {name: value.clone() for name, value in model.named_buffers()}
    for _ in range(2):
        statistics.training_mode()
        model(torch.randn(2, 3, 4, 4)).sum().backward()
        statistics.update(torch.zeros(0), 1)
        model.eval()
    assert statistics.read() == []
    assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())
    assert model[1].weight.grad is not None


def test_sync_batchnorm_keeps_the_activations_of_timms_layers():
    images = torch.randn(2, 3, 32, 32)
    network = timm.create_model("efficientnet_lite0", num_classes=3).eval()
    with torch.no_grad():
        expected = network(images)
        converted = with_sync_batchnorm(network)
        assert torch.equal(converted(images), expected)
    assert any(isinstance(layer, nn.SyncBatchNorm) for layer in converted.modules())


def test_a_layer_that_does_more_than_batchnorm_is_not_replaced():
    class Scaled(nn.BatchNorm2d):
        def forward(self, images):
            return 2 * super().forward(images)

    with pytest.raises(UsageError, match="train.sync_batchnorm=true cannot replace 1, a Scaled: it may do more"):
        with_sync_batchnorm(nn.Sequential(nn.Conv2d(3, 4, 1), Scaled(4)))
