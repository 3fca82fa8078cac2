"""cifar10-airbench's recipes keep the promises: the first layer comes from the images, two optimizers move the network
of one, and in the other a proxy chooses the images and slow weights follow."""

from __future__ import annotations

import ledger
import pytest
import torch
from ranks import await_step, read_json

from distcls.config.settings import Config, RandomResizedCropConfig
from distcls.data.build import OneProcess, build_data
from distcls.files.verified import read_tensors
from distcls.models.networks.airbench import airbench
from distcls.training.start import first_weights
from distcls.training.start.first_weights import some_images

SETTINGS = [
    "model.name=airbench",
    "data.image_size=16",
    "train.num_steps=12",
    "train.global_batch_size=64",
    "train.micro_batch_size=16",
    "train.checkpoint_every=1 steps",
    "train.deterministic=true",
    "optim.name=sgd",
    "optim.lr=2",
    "optim.momentum=0.85",
    "optim.schedule=linear",
    "run.trackers=[]",
]
RECIPES = {
    "airbench94": [
        "model.args={widths: [8, 16, 16]}",
        "optim.groups=[{match: 'groups.*[04].weight', name: muon, lr: 0.1, momentum: 0.6, normalize_weights: true}]",
    ],
    "airbench96": [
        "model.args={widths: [8, 16, 16], depth: 3}",
        "objective.name=proxy_selection",
        "objective.args={model: airbench, args: {widths: [8, 8, 8]}, share: 0.5, train_every: 4}",
        "optim.lookahead={every: 5, decay: 0.774, power: 3}",
        "optim.groups=[{match: 'proxy.groups.*bias', lr: 5}, {match: 'proxy.whiten.bias', lr_scale: 0}]",
    ],
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_same_bits_on_1_2_and_4_processes_and_after_a_kill(ranks, recipe):
    runs, settings = ranks.folder / "runs", [*SETTINGS, *RECIPES[recipe]]
    for world_size in (1, 2, 4):
        ranks.run("train", "--name", f"on{world_size}", *settings, world_size=world_size)
    killed = ranks.start("train", "--name", "killed", *settings, world_size=2)
    await_step(runs / "killed", 4)
    killed.kill()
    ranks.run("train", "--name", "killed", *settings, world_size=4)
    one = ledger.digest(runs / "on1", 12)
    files = {name.split(".")[0] for name in one}
    assert files == {"model", "optimizer"} | ({"proxy", "slow"} if recipe == "airbench96" else set())
    assert all(ledger.digest(runs / name, 12) == one for name in ("on2", "on4", "killed"))
    assert read_json(runs / "on4" / "env.json")["world_size"] == 4
    trained = read_tensors(runs / "on1" / "model" / "model.safetensors")
    assert torch.equal(trained["whiten.weight"], expected_filters()), "whitening is frozen"


def expected_filters() -> torch.Tensor:
    config = Config().replaced({"data.image_size": 16})
    data = build_data(config.data, OneProcess())
    network = airbench(10, 16, widths=[8, 16, 16])
    network.start_from_images(some_images(data, config))
    return network.whiten.weight.detach()


def test_images_to_start_from_come_from_all_over_the_split(monkeypatch):
    config = Config()
    data = build_data(config.data, OneProcess())
    images = some_images(data, config)
    assert images.shape == (len(data.train), 3, 8, 8) and len(data.train) < 5000
    monkeypatch.setattr(first_weights, "NUM_PIXELS", 2 * 8 * 8)
    few = some_images(data, config)
    assert len(few) == 2 and torch.equal(few[0], images[0]) and torch.equal(few[1], images[-1])


def test_images_to_start_from_are_whole_where_training_takes_random_parts():
    config = Config().replaced({"data.name": "synthetic", "data.args": {"num_images": 50, "size": 12}})
    whole = build_data(config.data, OneProcess())
    parts = build_data(config.data, OneProcess(), crop=RandomResizedCropConfig())
    assert parts.train.decoding.keeps_pixels
    assert torch.equal(some_images(parts, config), some_images(whole, config))


def test_a_group_that_cannot_be_moved_as_a_matrix_is_refused(ranks):
    told = ranks.run("train", "optim.name=muon", "--dry-run", expect=2)
    assert "optim.name=muon moves matrices and filters, but blocks.0.1.weight" in told and "name: muon" in told
