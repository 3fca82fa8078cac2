"""Fine-tuning keeps the promises: parts frozen at first, rates by depth, and stochastic depth in models of timm."""

from __future__ import annotations

import ledger
import pytest
import torch
from ranks import await_step, read_json

STEPS, THAWED = 16, 7
MODELS = {
    "norms of batches": "{model_name: resnet10t, channels: [8, 16, 24, 32], drop_path_rate: 0.3}",
    "norms of layers": "{model_name: vit_tiny_patch16_224, img_size: 8, patch_size: 2, depth: 3, embed_dim: 24, "
    "num_heads: 2, drop_path_rate: 0.3}",
}
SETTINGS = [
    "model.name=timm:create_model",
    f"model.freeze_until={THAWED} steps",
    "optim.layer_decay=0.75",
    "augment.flip=true",
    "train.global_batch_size=32",
    "train.micro_batch_size=4",
    "train.ema_decay=0.9",
    "train.eval_every=5 steps",
    "train.checkpoint_every=2 steps",
    "train.keep_checkpoints=20",
    "train.num_threads=1",
    "run.trackers=[]",
    f"train.num_steps={STEPS}",
]


@pytest.mark.parametrize("name", MODELS)
def test_the_same_bits_on_1_2_and_4_processes_and_after_kills(ranks, name):
    """One run is killed on 4 processes while its body is frozen, and again on 2 processes later; one computes its
    activations twice."""
    settings = [*SETTINGS, f"model.args={MODELS[name]}", "train.deterministic=true"]
    runs = ranks.folder / "runs"
    killed = ranks.start("train", "--name", "killed", *settings, world_size=4)
    await_step(runs / "killed", THAWED - 3)
    assert killed.alive()
    killed.kill()
    killed = ranks.start("train", "--name", "killed", *settings, world_size=2)
    await_step(runs / "killed", THAWED + 3)
    assert killed.alive()
    killed.kill()
    started = {f"w{w}": ranks.start("train", "--name", f"w{w}", *settings, world_size=w) for w in (1, 4)}
    again = ranks.start("train", "--name", "w2", *settings, "train.checkpoint_activations=true", world_size=2)
    started["w2"] = again
    started["killed"] = ranks.start("train", "--name", "killed", *settings)
    for group in started.values():
        group.finish()
    digests = {run: ledger.digest(runs / run, STEPS) for run in started}
    assert digests["w1"] == digests["w2"] == digests["w4"] == digests["killed"]
    assert read_json(runs / "w4" / "env.json")["world_size"] == 4
    fresh, before, after = (ledger.load(runs / "w1", step) for step in (2, THAWED - 1, STEPS))
    body = [tensor for tensor in fresh if not tensor.startswith(("model.fc", "model.head.", "ema.fc", "ema.head."))]
    assert all(torch.equal(fresh[tensor], before[tensor]) for tensor in body)
    assert sum(not torch.equal(fresh[tensor], after[tensor]) for tensor in body) > 0.9 * len(body)


@pytest.mark.parametrize("world_size", [2, 4])
def test_a_kill_costs_nothing_in_fast_mode(ranks, world_size):
    """Gradients are summed beside DDP until the whole network is trained; at last, activations are computed twice."""
    settings = [*SETTINGS, f"model.args={MODELS['norms of batches']}"]
    ranks.run("train", "--name", "whole", *settings, world_size=world_size)
    run = ranks.folder / "runs" / "killed"
    for step in (THAWED - 3, THAWED + 3):
        group = ranks.start("train", "--name", "killed", *settings, world_size=world_size)
        await_step(run, step)
        assert group.alive()
        group.kill()
    ranks.run("train", "--name", "killed", *settings, "train.checkpoint_activations=true", world_size=world_size)
    assert ledger.digest(run, STEPS) == ledger.digest(ranks.folder / "runs" / "whole", STEPS)


def test_fast_mode_sums_the_same_gradients_with_and_without_ddp(ranks):
    """With a plain gradient step, which would show a wrong factor, in float64."""
    settings = [*SETTINGS, "train.precision=float64", "optim.name=sgd", "optim.schedule=constant"]
    started = {w: ranks.start("train", "--name", f"w{w}", *settings[1:], world_size=w) for w in (1, 2)}
    for group in started.values():
        group.finish()
    for step in (THAWED - 1, STEPS):
        one, two = (ledger.load(ranks.folder / "runs" / f"w{w}", step) for w in started)
        for name in one:
            torch.testing.assert_close(two[name], one[name], rtol=1e-9, atol=1e-12)


@pytest.mark.extras
@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "convnext_atto", "mobilenetv3_small_050"])
def test_other_architectures_are_exported_with_their_test_time_augmentation(ranks, name):
    """Attention with position embeddings, LayerNorm over channels, hard activations."""
    small = ["data.image_size=32", "train.num_steps=2", "train.global_batch_size=8", "train.num_threads=1"]
    ranks.run("train", "--name", "a", f"model.name=timm/{name}", "train.tta=flip", "run.trackers=[]", *small)
    for file_format in ("onnx", "pt2"):
        told = ranks.run("export", "runs/a", "--format", file_format)
        assert "probabilities differ by at most" in told
