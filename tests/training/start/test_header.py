"""What is said before a run, which must be what the run then does."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from variants import variant

from distcls.config.settings import Config, OptimConfig, ParamGroupConfig
from distcls.data.decoding.decode import Decoding
from distcls.data.decoding.random_crop import RandomCrop
from distcls.data.sources.image_set import ArraySet
from distcls.data.split import Data, Split
from distcls.errors import UsageError
from distcls.models.build import build_model
from distcls.plan.batches import plan_batches
from distcls.runs.resuming import LENGTH, length_of
from distcls.training.start.header import _describe_images, check_plan, describe, describe_longer, describe_plan


def make_data(num_classes=3, in_memory=True, val=40, ignored=0) -> Data:
    names = [f"class{i}" for i in range(num_classes)]
    images = np.zeros((100, 8, 8, 3), np.uint8)
    image_set = ArraySet("made", names, np.arange(100) % num_classes, images)

    def split(name, first, last):
        rows = np.arange(first, last)
        return Split(name, image_set, rows, image_set.labels[rows], images if in_memory else None, Decoding(8))

    report = {"bad_files": [], "num_excluded": 0, "num_ignored_files": ignored}
    report["warnings"] = [] if val >= 30 else [f"val has {val} images"]
    return Data(split("train", 0, 50), split("val", 50, 50 + val), None, names, Decoding(8), "f", report)


def described(config: Config, world_size=1, describe=describe, **data) -> dict[str, str]:
    made = make_data(**data)
    plan = plan_batches(config.train, len(made.train), 0, world_size, made.train.labels)
    module = build_model(config.model, len(made.class_names), 8)
    processes = SimpleNamespace(world_size=world_size, local_world_size=world_size, device=torch.device("cpu"))
    return dict(describe(config, made, plan, module, processes))


def make_config(**train) -> Config:
    return variant(**{f"train__{name}": value for name, value in {"precision": "float32", **train}.items()})


def test_the_batch_is_world_times_micro_times_accumulation():
    header = described(make_config(global_batch_size=24, micro_batch_size=3), world_size=4)
    assert header["batch"] == "24 = 4 processes × 3 images × 2 accumulation steps"
    assert described(make_config(global_batch_size=1))["batch"] == "1 = 1 process × 1 image × 1 accumulation step"


def test_too_little_data_is_told():
    assert described(make_config(global_batch_size=50), val=12)["warning"] == "val has 12 images"
    assert "warning" not in described(make_config(global_batch_size=50))
    told = described(make_config(global_batch_size=100))["warning"]
    assert told == "a batch of 100 exceeds the 50 training images: each step uses every image 2 times; " + (
        "a smaller train.global_batch_size gives more steps"
    )


def test_the_preset_is_told_and_why():
    balanced, scratch = (
        described(dataclasses.replace(Config(), preset=name))["preset"] for name in ("balanced", "scratch")
    )
    assert balanced.startswith("balanced, the default for photographs (turn it off with --preset none), from ")
    assert scratch.startswith("scratch, the default for photographs and a network without initial weights (turn it off")
    asked_for = dataclasses.replace(Config(), preset="scratch").noting({"preset"})
    assert described(asked_for)["preset"].startswith("scratch, from ")


def test_groups_are_told():
    made = make_data()
    made.report["groups"] = {"by": r"(patient\d+)_", "num_groups": 812, "num_in_split": {"train": 700, "val": 112}}
    config = make_config()
    plan = plan_batches(config.train, len(made.train), 0, 1, made.train.labels)
    processes = SimpleNamespace(world_size=1, local_world_size=1, device=torch.device("cpu"))
    header = dict(describe(config, made, plan, build_model(config.model, 3, 8), processes))
    assert header["split"] == r"train 50, val 40 images, grouped by (patient\d+)_: 812 groups (train 700, val 112)"


def test_steps_and_epochs_are_told():
    header = described(make_config(global_batch_size=20, num_epochs=3.0))
    assert header["steps"] == "8 = 3 epochs of about 2.5 steps"
    assert described(make_config(global_batch_size=25, num_epochs=1.0))["steps"] == "2 = 1 epoch of 2 steps"
    in_steps = make_config(global_batch_size=25, num_epochs=None, num_steps=7)
    assert described(in_steps)["steps"] == "7 = 3.5 epochs of 2 steps"


def test_the_learning_rate_is_told():
    """A preset chooses it by the number of images."""
    assert described(make_config())["rate"] == "0.002, adamw, cosine"
    config = make_config(global_batch_size=20, num_epochs=3.0, ema_decay=0.98)
    groups = [ParamGroupConfig(match="head", lr=1.0)]
    optim = OptimConfig(name="sgd", lr=0.00141421, schedule="linear", warmup="25%", groups=groups)
    told = described(dataclasses.replace(config, optim=optim))["rate"]
    assert told == "0.00141, sgd, linear, warmup of 2 steps, 1 group with settings of its own, EMA of the weights 0.98"


def test_what_is_done_about_rare_classes_is_told():
    config = make_config(sampling="none")
    assert "balance" not in described(config)
    config = variant(config, loss__class_weights={"class1": 4.0})
    assert described(config)["balance"] == "weights from 0.495 (class0) to 1.98 (class1)"
    config = variant(config, train__sampling="balanced")
    assert described(config)["balance"].startswith("drawn with replacement, classes equally often; weights from")


def test_the_data_is_told():
    header = described(make_config())
    assert header["split"] == "train 50, val 40 images"
    assert header["classes"] == "3: class0, class1, class2"
    assert header["images"] == "8 × 8 pixels, in memory"
    assert described(make_config(), in_memory=False)["images"] == "8 × 8 pixels, from disk"


def test_what_crops_are_cut_from_is_told():
    data = make_data()
    data.train.random_crop = RandomCrop(8)
    data.train.decoding = Decoding(10)
    assert _describe_images(data) == "8 × 8 pixels, cropped at random from 10 × 10 pixels for training, in memory"
    data.train.in_memory = False
    assert _describe_images(data).endswith("from 10 × 10 pixels for training, decoded, from disk")
    data.train.decoding, data.train.pixels = data.train.random_crop, None
    assert _describe_images(data) == "8 × 8 pixels, cropped at random from whole images for training, from disk"


def test_many_classes_are_cut_short():
    told = described(make_config(), num_classes=30)["classes"]
    assert told.startswith("30: class0, class1") and told.endswith(" …") and len(told) < 80


def test_device_and_precision_are_told():
    assert described(make_config(deterministic=True))["device"] == "1 cpu, float32, deterministic"


def test_trained_and_frozen_parameters_are_told_apart():
    config = make_config()
    total = sum(p.numel() for p in build_model(config.model, 3, 8).parameters())
    assert described(config)["model"] == f"cnn2, {total:,} parameters"
    config = variant(config, model__freeze=["blocks"])
    frozen = 3 * 32 * 9 + 64 + 32 * 64 * 9 + 128
    assert described(config)["model"] == f"cnn2, {total - frozen:,} parameters, {frozen:,} frozen"


def test_the_dry_run_tells_of_evaluation_checkpoints_and_memory():
    told = described(make_config(eval_batch_size=16), describe=describe_plan)
    assert told["evaluation"] == "every epoch: 40 images in 3 batches"
    assert described(make_config(), describe=describe_plan)["evaluation"] == "every epoch: 40 images in 1 batch"
    assert told["checkpoint"] == "every epoch, keeping the last 2"
    assert told["memory"].startswith("about ")


@pytest.mark.parametrize(
    ("train", "world_size", "expected"),
    [
        ({"global_batch_size": 24, "micro_batch_size": 3}, 4, "1, 2, 4 or 8 processes can share this run"),
        ({"global_batch_size": 96, "deterministic": True}, 1, "1, 2 or 4 processes can share this run"),
        ({"global_batch_size": 96, "micro_batch_size": 8}, 1, "1, 2, 3, 4, 6 or 12 processes can share this run"),
        ({"global_batch_size": 96, "micro_batch_size": 1}, 1, "1, 2, 3 … 96 processes can share this run"),
        (
            {"global_batch_size": 24},
            1,
            "1 process only; for more, start the run with a smaller micro-batch, such as train.micro_batch_size=12",
        ),
        (
            {"global_batch_size": 24},
            2,
            "1 or 2 processes can share this run; for more, start it with a smaller micro-batch, such as "
            "train.micro_batch_size=6",
        ),
        ({"global_batch_size": 2}, 2, "1 or 2 processes can share this run"),
        ({"global_batch_size": 1}, 1, "1 process only"),
    ],
)
def test_which_numbers_of_processes_can_share_a_run_is_told(train, world_size, expected):
    assert described(make_config(**train), world_size)["sharing"] == expected


def extended(folder, schedule: str, epochs: float = 4.0, ended: bool = True) -> str:
    """What is told of a run of 2 epochs of 10 steps that is made longer."""
    config = variant(make_config(global_batch_size=5, num_epochs=2.0), optim__schedule=schedule, optim__lr=0.01)
    checkpoint = folder / "checkpoints" / "step-00000020"
    checkpoint.mkdir(parents=True, exist_ok=True)
    (checkpoint / LENGTH).write_text(json.dumps(length_of(config.train, ended)))
    longer = variant(config, train__num_epochs=epochs)
    told = describe_longer(longer, plan_batches(longer.train, 50), folder)
    return told[0][1] if told else ""


def test_a_longer_run_says_that_its_learning_rate_rises_again(tmp_path):
    assert extended(tmp_path, "cosine") == (
        "this run ended after 20 steps: its schedule now spans 40, so the learning rate rises again "
        "from 6.16e-05 to 0.005"
    )
    assert extended(tmp_path, "constant").endswith("20 steps: the learning rate stays at 0.01")
    assert extended(tmp_path, "cosine", epochs=2.0) == extended(tmp_path, "cosine", ended=False) == ""
    assert describe_longer(make_config(), plan_batches(Config().train, 50), tmp_path / "new") == []


def test_a_step_that_does_not_fit_into_memory_is_warned_of(monkeypatch):
    assert "warning" not in described(make_config(global_batch_size=50, micro_batch_size=50))
    monkeypatch.setattr("distcls.training.start.memory.memory_size", lambda: (0, 100_000_000))
    told = described(make_config(global_batch_size=50_000, micro_batch_size=50_000))
    assert "OUT OF MEMORY? A step needs about" in told["warning"] and "there is 0.1 GB" in told["warning"]
    fits = int(told["warning"].rpartition("train.micro_batch_size=")[2])
    assert 50_000 % fits == 0
    assert "OUT OF" not in described(make_config(global_batch_size=50_000, micro_batch_size=fits))["warning"]


def test_files_that_are_no_images_by_their_names_are_told():
    assert "ignored" not in described(make_config())["split"]
    assert described(make_config(), ignored=1)["split"].endswith("; 1 other file ignored")
    assert described(make_config(), ignored=1200)["split"].endswith("; 1,200 other files ignored")


def test_a_warmup_that_is_longer_than_the_run_is_refused():
    data, config = make_data(), make_config(num_epochs=None, num_steps=10)
    plan = plan_batches(config.train, len(data.train))
    for warmup in ("0", "10 steps", "100%"):
        check_plan(variant(config, optim__warmup=warmup), data, plan)
    config = variant(config, optim__warmup="11 steps")
    with pytest.raises(UsageError, match=r"warmup=11 steps is 11 steps, but the run has only 10: .* optim.warmup=5%"):
        check_plan(config, data, plan)


def test_a_small_model_for_large_images_is_warned_of(monkeypatch):
    assert "warning" not in described(make_config(global_batch_size=50))
    monkeypatch.setattr(Data, "image_size", 224)
    told = described(make_config(global_batch_size=50))["warning"]
    assert told.startswith("cnn2 is meant for small images; at ") and "try --preset balanced" in told


def test_the_rates_of_the_layers_are_told():
    config = variant(make_config(), optim__layer_decay=0.5)
    assert described(config)["layer decay"] == "0.5: from 0.12 (stem) to 1 (head)"
    assert "layer decay" not in described(make_config())


def test_what_is_frozen_at_first_is_told():
    config = make_config(global_batch_size=10)
    assert described(variant(config, model__freeze_until="1 epoch"))["frozen"] == "all but the head until step 5"
    parts = {"blocks": "2 epochs", "hidden": "3 steps"}
    told = described(variant(config, model__freeze_until=parts))["frozen"]
    assert told == "blocks until step 10, hidden until step 3"
    assert "frozen" not in described(config)


@pytest.mark.parametrize(
    ("given", "named"),
    [("100%", "model.freeze_until=100% is 15 steps"), ({"blocks": "20"}, "model.freeze_until.blocks=20 is 20 steps")],
)
def test_freezing_to_the_end_is_refused(given, named):
    config = make_config(global_batch_size=10, num_epochs=3.0)
    data = make_data()
    with pytest.raises(UsageError, match=named + ", but the run has only 15"):
        check_plan(variant(config, model__freeze_until=given), data, plan_batches(config.train, len(data.train)))


def test_a_preset_may_be_tried_for_a_step_that_trains_only_the_head():
    chosen = {"preset": "balanced", "model.freeze_until": "40%", "train.num_epochs": None, "train.num_steps": 1}
    config = make_config().replaced(chosen)
    data = make_data()
    check_plan(config, data, plan_batches(config.train, len(data.train)))
    with pytest.raises(UsageError, match="model.freeze_until=40% is 1 steps"):
        check_plan(config.noting(["model.freeze_until"]), data, plan_batches(config.train, len(data.train)))
