"""What a failure is told as."""

from __future__ import annotations

import errno
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from distcls.config.settings import Config, TrainConfig
from distcls.data.loading import reading
from distcls.errors import BadDataError
from distcls.runs.folder import RunFolder
from distcls.runs.status import StatusFile, read_status
from distcls.terminal.progress import Progress
from distcls.training.failures import _understand, ending_told

META = torch.device("meta")


def test_out_of_memory_names_what_makes_room(monkeypatch):
    train = TrainConfig(global_batch_size=64, micro_batch_size=32, eval_batch_size=100)
    config = Config(train=train)
    error = torch.OutOfMemoryError("CUDA out of memory")
    told = str(_understand(error, config, META, 1))
    assert "train.micro_batch_size=16" in told and "train.eval_batch_size=50" in told
    assert "run the same command with train.checkpoint_activations=true" in told
    assert "start another run with --name NAME and train.micro" in told
    in_folder = config.replaced({"run.dir": "exp/a"})
    assert "give another run.dir=DIR and train.micro" in str(_understand(error, in_folder, META, 1))
    recomputing = config.replaced({"train.checkpoint_activations": True})
    assert "checkpoint_activations" not in str(_understand(error, recomputing, META, 1))
    assert "data.cache" not in told  # no decoded images are there
    pixels = np.empty(0)
    monkeypatch.setitem(reading._copies, (id(pixels), META), torch.empty(3_000_000_000, dtype=torch.uint8, device=META))
    told = str(_understand(error, config, META, 1))
    assert "the 3 GB that decoded images take" in told and "data.cache=0" in told


@pytest.mark.parametrize(
    ("batch", "world_size", "advice"),
    [(8, 1, "train.micro_batch_size=2"), (12, 4, "train.micro_batch_size=3"),
     (4, 4, "train.global_batch_size=8 train.micro_batch_size=2")],
)  # fmt: skip
def test_one_image_is_too_few_for_batchnorm_over_one_pixel(batch, world_size, advice):
    with pytest.raises(ValueError, match="more than 1 value") as caught:
        F.batch_norm(torch.zeros(1, 8), None, None, training=True)
    config = Config(train=TrainConfig(global_batch_size=batch, micro_batch_size=1))
    told = str(_understand(caught.value, config, META, world_size))
    assert "a single value per channel" in told and f": set {advice} or larger" in told
    larger = config.replaced({"train.micro_batch_size": 2})
    assert _understand(caught.value, larger, META, world_size) is caught.value  # not by the size of micro-batches


@pytest.mark.parametrize("error", [ValueError("x"), KeyError("x")])
def test_a_bug_stays_what_it_is(error):
    assert _understand(error, Config(), META, 1) is error


@pytest.mark.parametrize(
    ("error", "code"), [(BadDataError("x"), 65), (OSError(errno.ENOSPC, "full"), 74), (KeyError(), 1)]
)
def test_the_exit_code_is_noted_for_those_who_did_not_see_it(tmp_path, error, code):
    run: Any = RunFolder.__new__(RunFolder)
    run.processes = SimpleNamespace(rank=0, world_size=1, device=META, why_failed=lambda *_: None)
    run.config, run.progress, run.status = SimpleNamespace(train=TrainConfig()), Progress.silent(), StatusFile(tmp_path)
    run.step, run._has_begun = 3, True
    with pytest.raises(type(error)), ending_told(run):
        raise error
    assert read_status(tmp_path)["exit_code"] == code
