"""What a step asks of an objective, what it does with the answer, and where its draws come from."""

from __future__ import annotations

import contextlib
import copy
import random
from types import SimpleNamespace
from typing import Any

import numpy as np
import own_objectives
import pytest
import torch
from torch import nn

from distcls.config.loading import load_config
from distcls.config.settings import Config
from distcls.data.augmentation.batchwise import Augmentation
from distcls.data.augmentation.preprocessing import Normalize
from distcls.data.loading.micro_batch import MicroBatch
from distcls.errors import UsageError
from distcls.plan.batches import BatchPlan
from distcls.training.objectives.objective import Objective, Task, Terms
from distcls.training.state import TrainState, build_state
from distcls.training.step import TrainStep

CPU = torch.device("cpu")
PLAN = BatchPlan(num_images=64, global_batch_size=8, micro_batch_size=4, total_steps=20, seed=0)

pytestmark = pytest.mark.usefixtures("one_thread")


def start(make: Any, *settings: str) -> tuple[TrainState, TrainStep]:
    """A small network that is trained with an objective, without Accelerate."""
    config: Config = load_config(None, ["model.name=own_objectives:Features", "optim.lr=0.05", *settings])
    acceleration: Any = SimpleNamespace(
        device=CPU,
        dtype=torch.float32,
        scaler=None,
        backward=torch.Tensor.backward,
        no_sync=lambda _: contextlib.nullcontext(),
        autocast=contextlib.nullcontext,
        gradients_are_reused=False,
        prepare=lambda module, **_: AnyMethod(module),
        prepare_for_evaluation=lambda module: module,
    )
    data: Any = SimpleNamespace(class_names=["a", "b", "c"], image_size=8)
    run: Any = SimpleNamespace(processes=SimpleNamespace(world_size=1), progress=SimpleNamespace(note=lambda _: None))
    normalize = Normalize.build(config.augment.normalize, CPU, torch.float32, config.model.channels_last)
    images: Any = SimpleNamespace(random_crop=None)
    objective = make(Task(config, PLAN, images, 3, Augmentation(normalize, 3), CPU))
    state = build_state(config, data, objective, acceleration, run)
    return state, TrainStep(config, objective, state, PLAN, acceleration)


class AnyMethod(nn.Module):
    """As acceleration.AnyMethod, for tests that do not need Accelerate."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *inputs: torch.Tensor, method: str = "forward") -> Any:
        return self.module(*inputs) if method == "forward" else getattr(self.module, method)(*inputs)


def batch_of(step: int) -> list[MicroBatch]:
    draw = torch.Generator().manual_seed(step)
    pixels = [torch.randint(0, 256, (4, 8, 8, 3), generator=draw, dtype=torch.uint8) for _ in range(2)]
    return [MicroBatch(i, images, torch.tensor([0, 1, 2, 0]), {}) for i, images in enumerate(pixels)]


def weights(state: TrainState) -> dict[str, torch.Tensor]:
    return {f"{file}.{name}": tensor.clone() for file, of in state.tensors().items() for name, tensor in of.items()}


def same_bits(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class Plain(Objective):
    """Gives what it is told to give."""

    def terms(self, logits: torch.Tensor, micro_batch: MicroBatch, step: int) -> Terms:
        return Terms(logits.square().mean(1), {})

    def __call__(self, network, micro_batch, step):
        return self.terms(network(self.task.view(micro_batch, step)[0]), micro_batch, step)


def test_sums_are_reported_by_name_as_means_over_the_global_batch():
    _, step = start(own_objectives.Weighed)
    numbers = step(batch_of(0))
    assert numbers is not None and numbers.shape == (4,)
    assert step.names == ("loss", "accuracy", "grad_norm", "weight")
    assert 1 <= numbers[3] <= 1.2 and 0 <= numbers[1] <= 1


def test_without_accuracy_it_is_nan_and_vectors_are_not_reported():
    class Counting(Plain):
        def terms(self, logits, micro_batch, step):
            return Terms(logits.square().mean(1), {"count": torch.tensor(4.0), "vector": logits.sum(0)})

    _, step = start(Counting)
    numbers = step(batch_of(0))
    assert numbers is not None and step.names == ("loss", "accuracy", "grad_norm", "count")
    assert numbers[1].isnan() and numbers[3] == 1


def test_update_gets_the_means_of_the_global_batch_after_the_weights_have_moved():
    seen = []

    class Summing(Plain):
        def modules(self, network):
            self.network, self.before = network, network.head.weight.detach().clone()
            return {}

        def terms(self, logits, micro_batch, step):
            return Terms(logits.square().mean(1), {"classes": torch.stack([logits.detach().sum(0)] * 2)})

        def update(self, means, step):
            seen.append((means["classes"].shape, step, torch.equal(self.network.head.weight, self.before)))

    _, step = start(Summing, "train.skip_steps=[1]")
    for number in range(3):
        step(batch_of(number))
    assert seen == [((2, 3), 0, False), ((2, 3), 2, False)]


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        (
            lambda logits, step: Terms(logits.mean(), {}),
            r"returned losses of shape \(\), expected one number per image",
        ),
        (
            lambda logits, step: Terms(logits.mean(1), {f"s{step}": logits.sum()}),
            "returned the sums {'s1'.* in its first",
        ),
        (
            lambda logits, step: Terms(logits.mean(1), {"loss": logits.sum()}),
            "named a sum 'loss', but metrics.csv has a column of that name for another number",
        ),
        *[
            (lambda logits, step, name=name: Terms(logits.mean(1), {name: logits.sum()}), f"named a sum '{name}'")
            for name in ("moved", "skipped_steps", "lr", "split", "train_loss")
        ],
    ],
)
def test_what_an_objective_gives_wrong_is_refused(terms, message):
    class Wrong(Plain):
        def terms(self, logits, micro_batch, step):
            return terms(logits, step)

    _, step = start(Wrong)
    with pytest.raises(UsageError, match=message):
        for number in range(2):
            step(batch_of(number))


def test_the_pass_that_trains_is_one_a_micro_batch():
    class Twice(Plain):
        def __call__(self, network, micro_batch, step):
            images, _ = self.task.view(micro_batch, step)
            return Terms((network(images) + network(images)).mean(1), {})

    _, step = start(Twice)
    with pytest.raises(RuntimeError, match=r"called the network twice.*torch.cat.*as_evaluated"):
        step(batch_of(0))


def test_an_image_that_went_bad_weighs_nothing_with_any_objective():
    results = []
    for pixels in (0, 255):
        state, step = start(Plain, "model.name=cnn2", "model.args={hidden: 8, dropout: 0}", "model.freeze=[blocks]")
        batch = batch_of(0)
        batch[1].pixels[2], batch[1].went_bad[2] = pixels, "gone.png: not an image"
        step(batch)
        results.append(weights(state))
    assert same_bits(*results)


def test_other_passes_leave_statistics_and_modes_alone():
    class Looking(Plain):
        def __call__(self, network, micro_batch, step):
            images, _ = self.task.view(micro_batch, step)
            with torch.no_grad(), network.as_evaluated() as module:
                assert not any(part.training for part in module.modules())
                module(images * 100)
            assert all(part.training for part in network.module.modules())
            return super().__call__(network, micro_batch, step)

    results = []
    for make in (Plain, Looking):
        state, step = start(make)
        for number in range(3):
            step(batch_of(number))
        results.append(weights(state))
    assert same_bits(*results)


def test_draws_of_every_generator_are_keyed_by_the_step_and_the_micro_batch():
    def train(number: int) -> tuple[list[tuple], torch.Tensor]:
        """Two steps after draws of others, and what was drawn in them."""
        drawn = []

        class Drawing(Plain):
            def terms(self, logits, micro_batch, step):
                drawn.append((random.random(), float(np.random.random()), float(torch.rand(()))))
                return super().terms(logits, micro_batch, step)

        state, step = start(Drawing, "optim.name=own_models:Noisy")
        for batch in range(2):
            random.seed(number)
            np.random.seed(number)
            torch.manual_seed(number)
            step(batch_of(batch))
        return drawn, state.module.get_parameter("head.bias").detach().clone()

    (drawn, bias), (again, same_bias) = train(0), train(1)
    assert drawn == again and len(set(drawn)) == 4
    assert torch.equal(bias, same_bias)  # the optimizer draws too


def test_modules_of_an_objective_are_trained_follow_and_are_restored():
    whole, step = start(own_objectives.TwoViews)
    fresh = weights(whole)
    for number in range(2):
        step(batch_of(number))
    moved = weights(whole)
    for name in ("projector.0.weight", "projector.1.running_mean", "teacher.head.weight", "center.value"):
        assert not torch.equal(moved[name], fresh[name]), name
    saved = copy.deepcopy((whole.tensors(), whole.optimizer_state(), whole.position_dict()))
    resumed, resumed_step = start(own_objectives.TwoViews)
    resumed.restore(*saved)
    for one in (step, resumed_step):
        one(batch_of(2))
    assert same_bits(weights(whole), weights(resumed))


def test_names_that_a_checkpoint_needs_are_refused():
    class Named(Plain):
        def modules(self, network):
            return {"ema": nn.Linear(2, 2)}

    with pytest.raises(UsageError, match="calls a module 'ema'.*none of model, ema"):
        start(Named)
