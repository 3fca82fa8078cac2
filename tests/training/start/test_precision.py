"""What train.precision=auto means on a CPU with bf16 in hardware: whichever precision a step is faster in."""

from __future__ import annotations

import time

import pytest
import torch
from torch import nn

from distcls.config.loading import load_config
from distcls.data.sources.datasets import open_image_sets
from distcls.training.start import precision, settling
from distcls.training.start.precision import faster_precision
from distcls.training.start.settling import settle

CPU = torch.device("cpu")
SECONDS = {"slow_in_bf16": (0.01, 0.03), "slow_in_float32": (0.03, 0.01), "alike": (0.02, 0.019)}


class Busy(nn.Sequential):
    """Takes so many seconds of processor time for a forward pass in float32, and in bf16."""

    def __init__(self, num_classes: int, seconds: tuple[float, float]) -> None:
        super().__init__(nn.Flatten(), nn.Linear(192, num_classes))
        self.seconds = seconds

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        end = time.thread_time() + self.seconds[torch.is_autocast_enabled("cpu")]
        while time.thread_time() < end:
            pass
        return super().forward(images)


def slow_in_bf16(num_classes: int) -> nn.Module:
    return Busy(num_classes, SECONDS["slow_in_bf16"])


def slow_in_float32(num_classes: int) -> nn.Module:
    return Busy(num_classes, SECONDS["slow_in_float32"])


def alike(num_classes: int) -> nn.Module:
    return Busy(num_classes, SECONDS["alike"])


def broken(num_classes: int) -> nn.Module:
    raise ValueError("no network")


@pytest.fixture
def has_bf16(monkeypatch):
    monkeypatch.setattr(settling, "computes_bf16", lambda device: True)


@pytest.fixture(autouse=True)
def empty_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def config_of(model: str, *settings: str):
    return load_config(None, [f"model.name={model}", *settings])


@pytest.mark.parametrize(
    ("model", "expected"),
    [("slow_in_float32", "bf16"), ("slow_in_bf16", "float32"), ("alike", "float32"), ("broken", "float32")],
)
def test_it_is_the_precision_in_which_a_step_is_clearly_faster(has_bf16, model, expected):
    drawn = torch.default_generator.get_state()
    assert settle(config_of(f"{__name__}:{model}"), CPU)["train.precision"] == expected
    assert torch.equal(torch.default_generator.get_state(), drawn)


def test_a_precision_that_is_given_deterministic_mode_or_a_cpu_without_bf16_time_nothing(has_bf16, monkeypatch):
    monkeypatch.setattr(precision, "_gain_of_bf16", lambda *_: pytest.fail("timed"))
    assert "train.precision" not in settle(config_of("cnn2", "train.precision=float32"), CPU)
    assert "train.precision" not in settle(config_of("cnn2", "train.deterministic=true"), CPU)
    monkeypatch.setattr(settling, "computes_bf16", lambda device: False)
    assert "train.precision" not in settle(config_of("cnn2"), CPU)


def test_slow_networks_are_timed_once(monkeypatch):
    steps = []
    monkeypatch.setattr(precision, "SECONDS", 0.0)
    monkeypatch.setattr(precision, "_step_seconds", lambda network, images, in_bf16: steps.append(images.shape) or 1.0)
    config = config_of("cnn2", "data.image_size=512", "train.micro_batch_size=64", "train.global_batch_size=64")
    assert faster_precision(config, open_image_sets(config.data)["train"]) == "float32"
    assert steps == [(4, 3, 512, 512)] * 4  # few large images; a first step of each, and one round


def test_the_choice_is_kept_for_this_network_and_batch(monkeypatch, tmp_path):
    gains = iter([2.0, 1.0, 1.0])
    monkeypatch.setattr(precision, "_gain_of_bf16", lambda *_: next(gains))
    choices = []
    for settings in ([], ["train.seed=1", "optim.lr=0.1"], ["train.global_batch_size=32"], ["model.args={dropout: 0}"]):
        config = config_of("cnn2", *settings)
        choices.append(faster_precision(config, open_image_sets(config.data)["train"]))
    assert choices == ["bf16", "bf16", "float32", "float32"]
    for kept in (tmp_path / "distcls" / "precision").iterdir():
        kept.write_text("")  # such as by a full disk
    monkeypatch.setattr(precision, "_gain_of_bf16", lambda *_: 2.0)
    assert faster_precision(config, open_image_sets(config.data)["train"]) == "bf16"


def test_one_thread_is_timed_and_all_are_there_again_afterwards(monkeypatch):
    threads = []
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    settings = config_of("cnn2")
    faster_precision(settings, open_image_sets(settings.data)["train"])
    assert threads == [1, 8]


def test_a_damaged_choice_and_ones_own_network_are_timed_again(monkeypatch, tmp_path):
    monkeypatch.setattr(precision, "_gain_of_bf16", lambda *_: 2.0)
    config = config_of("cnn2")
    images = open_image_sets(config.data)["train"]
    faster_precision(config, images)
    (kept,) = (tmp_path / "distcls" / "precision").iterdir()
    kept.write_bytes(b"\xff\xfe")
    assert faster_precision(config, images) == "bf16" and kept.read_text() == "bf16"
    kept.unlink()
    faster_precision(config_of(f"{__name__}:alike"), images)
    assert not kept.exists() and not list(kept.parent.iterdir()), "its code may change"
