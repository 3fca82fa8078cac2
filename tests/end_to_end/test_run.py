"""What a run does when nothing goes wrong, and what it says when something does."""

from __future__ import annotations

import csv
import json
import os
import signal
from pathlib import Path

import ledger
import pytest
import stopped_terminal
from PIL import Image
from ranks import await_step, read_json

FAST = ["train.num_steps=8", "train.num_threads=1", "run.trackers=[]"]
RUN_FOLDER = [
    "config.yaml",
    "env.json",
    "status.json",
    "log.txt",
    "classes.json",
    "splits.json",
    "data_report.json",
    "metrics.csv",
    "metrics.json",
    "model/model.safetensors",
    "model/config.yaml",
    "model/classes.json",
    "model/preprocessing.json",
    "report.html",
    "explained.json",
    "plots/gradcam.png",
    "plots/curves.png",
    "plots/confusion_matrix.png",
    "plots/calibration.png",
    "plots/train_batch.png",
    "plots/predictions.png",
    "plots/worst_mistakes.png",
]


def test_a_terminal_that_is_stopped_stops_no_run(ranks):
    ranks.run("train", *FAST, setup=stopped_terminal.stop)
    run_dir = ranks.folder / "runs" / "digits"
    assert read_json(run_dir / "status.json")["state"] == "finished"
    assert "distcls eval runs/digits" in (run_dir / "log.txt").read_text()


def write_colors(folder: Path, count: int) -> None:
    """So many images of each of two classes, all of them different."""
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            Image.new("RGB", (8, 8), (6 * i, 0, 255 * (name == "cat"))).save(folder / name / f"{i}.png")


def test_a_run_folder_explains_itself(ranks):
    output = ranks.run("train", "train.num_steps=24", "train.eval_every=8 steps", "train.log_every=4")
    run_dir = ranks.folder / "runs" / "digits"
    missing = [name for name in RUN_FOLDER if not (run_dir / name).exists()]
    assert not missing
    assert list((run_dir / "tb").iterdir())
    metrics = read_json(run_dir / "metrics.json")
    assert metrics["val"]["count"] == 144 and metrics["test"]["count"] == 359
    assert 0 <= metrics["test"]["accuracy"] <= 1
    rows = list(csv.DictReader((run_dir / "metrics.csv").open()))
    assert [row["step"] for row in rows if row["split"] == "train"] == ["4", "8", "12", "16", "20", "24"]
    assert [row["step"] for row in rows if row["split"] == "val"] == ["8", "16", "24"]
    assert read_json(run_dir / "status.json")["state"] == "finished"
    for word in ("split", "model", "steps", "val accuracy", "distcls predict runs/digits"):
        assert word in output
    assert "test" not in {row["split"] for row in rows[:-1]}, "test is looked at once, at the end"


def test_eval_and_predict_use_what_a_run_learned(ranks):
    from PIL import Image

    ranks.run("train", *FAST)
    expected = read_json(ranks.folder / "runs" / "digits" / "metrics.json")["test"]
    ranks.run("eval", "runs/digits", "--json", "test.json")
    assert read_json(ranks.folder / "test.json")["accuracy"] == expected["accuracy"]
    Image.new("L", (8, 8), 40).save(ranks.folder / "gray.png")
    (ranks.folder / "broken.png").write_bytes(b"not an image")
    output = ranks.run("predict", "runs/digits", "gray.png")
    assert "gray.png" in output and "%" in output
    output = ranks.run("predict", "runs/digits", "gray.png", "broken.png")
    assert "gray.png  " in output and "warning: broken.png: not an image" in output


def test_the_same_name_says_that_it_is_finished_and_goes_on_when_extended(ranks):
    ranks.run("train", "--name", "a", *FAST)
    assert "is finished" in ranks.run("train", "--name", "a", *FAST)
    changed = ranks.run("train", "--name", "a", *FAST, "optim.lr=0.5", expect=2)
    assert "optim.lr: 0.002 -> 0.5" in changed
    output = ranks.run("train", "--name", "a", *FAST[1:], "train.num_steps=12")
    assert "resuming from step 8" in output
    assert read_json(ranks.folder / "runs" / "a" / "status.json")["step"] == 12


def test_a_start_that_is_refused_leaves_a_finished_run_as_it_was(ranks):
    write_colors(ranks.folder / "images", 40)
    words = ["train", "--data", "images", "--name", "a", *FAST[1:], "train.global_batch_size=8"]
    ranks.run(*words, "train.num_steps=8")
    run_dir = ranks.folder / "runs" / "a"
    (ranks.folder / "images" / "cat" / "more.png").write_bytes((ranks.folder / "images/cat/1.png").read_bytes())
    before = {name: (run_dir / name).read_text() for name in ("config.yaml", "env.json", "metrics.json")}
    assert "1 image is new: cat/more.png" in ranks.run(*words, "train.num_steps=12", expect=2)
    status = read_json(run_dir / "status.json")
    assert (status["state"], status["step"], status["reason"]) == ("finished", 8, None)
    assert {name: (run_dir / name).read_text() for name in before} == before
    (ranks.folder / "images" / "cat" / "more.png").unlink()
    assert "is finished" in ranks.run(*words, "train.num_steps=8")


def test_a_dry_run_tells_where_a_run_would_go_on_and_is_as_strict(ranks):
    words = ["train", "--name", "a", *FAST[1:]]
    ranks.run(*words, "train.num_steps=8", world_size=2)
    told = ranks.run(*words, "train.num_steps=12", "--dry-run")
    assert "runs/a, resuming from step 8" in told and "1 process × 32 images × 2 accumulation steps" in told
    assert "this run ended after 8 steps: its schedule now spans 12, so the learning rate rises again" in told
    told = ranks.run(*words, "train.num_steps=12", "optim.lr=1", "--dry-run", world_size=2, expect=2)
    assert "optim.lr: 0.002 -> 1.0" in told and "gone without an error" not in told
    assert "is finished" in ranks.run(*words, "train.num_steps=8", "--dry-run")
    told = ranks.run(*words[:1], "--data", "nowhere", "--dry-run", world_size=2, expect=66)
    assert told.count("nowhere does not exist") == 1 and "gone without an error" not in told


def test_a_run_that_was_stopped_is_not_made_longer_before_its_end(ranks):
    """Its weights would depend on when it was stopped."""
    words = ["train", "--name", "a", *FAST[1:], "train.checkpoint_every=4 steps"]
    group = ranks.start(*words, "train.num_steps=4000")
    await_step(ranks.folder / "runs" / "a", 4)
    os.kill(group.processes[0].pid, signal.SIGTERM)
    group.finish(expect=75)
    told = ranks.run(*words, "train.num_steps=5000", expect=2)
    assert "train.num_steps: 4000 -> 5000" in told and "can be made longer once it has finished" in told
    told = ranks.run(*words, "train.num_steps=4000", world_size=2, expect=2)
    assert "was started with train.micro_batch_size=" in told and "2 processes cannot share batches of 1 × " in told


def test_without_a_name_a_finished_run_is_left_alone(ranks):
    ranks.run("train", *FAST)
    ranks.run("train", *FAST)
    assert sorted(path.name for path in (ranks.folder / "runs").iterdir()) == ["digits", "digits-2"]


def test_a_run_folder_in_use_is_refused(ranks):
    first = ranks.start("train", "--name", "a", "train.num_threads=1", "train.num_epochs=500")
    await_step(ranks.folder / "runs" / "a", 1)
    refused = ranks.run("train", "--name", "a", "train.num_threads=1", "train.num_epochs=500", expect=2)
    assert f"process {first.processes[0].pid} on " in refused
    first.kill()


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2"])
def test_a_signal_to_one_rank_saves_and_ends_all_with_75(ranks, world_size, name):
    settings = [
        "--name",
        "a",
        "model.name=ledger:make",
        "train.num_threads=1",
        "train.num_epochs=500",
        "run.trackers=[]",
    ]
    group = ranks.start("train", *settings, world_size=world_size)
    run_dir = ranks.folder / "runs" / "a"
    await_step(run_dir, 3)
    os.kill(group.processes[-1].pid, getattr(signal, name))
    assert group.wait(30) == [75] * world_size, group.output()
    status = read_json(run_dir / "status.json")
    assert status["state"] == "preempted"
    assert (run_dir / "checkpoints" / f"step-{status['step']:08d}").exists()
    assert f"  preempted at step {status['step']:,}: " in (run_dir / "log.txt").read_text().splitlines()[-1]


def compile_without_a_compiler() -> None:
    import functools

    import torch

    torch.compile = functools.partial(torch.compile, backend="eager")


def test_a_compiled_run_leaves_weights_that_any_other_can_use(ranks):
    settings = ["--name", "a", *FAST[1:], "train.ema_decay=0.9"]
    ranks.run("train", *settings, "train.num_steps=8", "train.compile=true", setup=compile_without_a_compiler)
    assert "accuracy" in ranks.run("eval", "runs/a", "train.eval_batch_size=7")
    refused = ranks.run("eval", "runs/a", "optim.lr=1", expect=2)
    assert "optim.lr=1: a run is evaluated with the settings it was trained with. You can change data., tr" in refused
    assert "resuming from step 8" in ranks.run("train", *settings, "train.num_steps=10")


def started_by_torchrun() -> None:
    os.environ["TORCHELASTIC_RUN_ID"] = "none"


def test_a_save_that_takes_longer_than_torchrun_waits_is_warned_of_at_the_next_start(ranks):
    output = ranks.run("train", "--name", "a", *FAST, setup=started_by_torchrun)
    assert "TORCH_ELASTIC_SHUTDOWN_TIMEOUT" not in output
    file = ranks.folder / "runs" / "a" / "status.json"
    status = read_json(file)
    assert 0 < status["save_seconds"] < 30
    file.write_text(json.dumps({**status, "save_seconds": 50.2}))
    output = ranks.run("train", "--name", "a", *FAST[1:], "train.num_steps=9", setup=started_by_torchrun)
    assert "50 s to write, but torchrun kills its processes 30 s after SIGTERM" in output
    assert "TORCH_ELASTIC_SHUTDOWN_TIMEOUT=131" in output


def test_a_diverged_run_names_the_step_to_skip_and_goes_on_when_it_is(ranks):
    settings = ["--name", "a", "data.name=poisoned_images:make", *FAST, "train.global_batch_size=16"]
    settings += ["train.checkpoint_every=1 step", "loss.name=poisoned_images:loss", "train.num_steps=12"]
    skipped: list[str] = []
    for _ in range(5):
        group = ranks.start("train", *settings, f"train.skip_steps=[{','.join(skipped)}]")
        if group.wait() == [0]:
            break
        status = read_json(ranks.folder / "runs" / "a" / "status.json")
        assert group.wait() == [70] and status["state"] == "failed" and "is not finite" in status["reason"]
        listed = ranks.folder / "runs" / "a" / status["reason"].split("listed in runs/a/")[1].split()[0].strip(".")
        assert len(listed.read_text().split()) == 16 and "train/" in listed.read_text()
        named = group.output().split("'train.skip_steps=[")[1].split("]")[0].split(",")
        assert named[:-1] == skipped
        skipped = named
    assert skipped, "no step diverged: the test tests nothing"
    assert read_json(ranks.folder / "runs" / "a" / "status.json")["state"] == "finished"


def test_early_stopping_ends_the_run_and_keeps_the_best(ranks):
    settings = ["train.early_stopping=2", "train.eval_every=2 steps", "optim.lr=1e-9", "train.num_steps=50"]
    ranks.run("train", "--name", "a", *settings, "train.num_threads=1", "run.trackers=[]")
    run_dir = ranks.folder / "runs" / "a"
    step = read_json(run_dir / "status.json")["step"]
    assert step < 50
    assert (run_dir / "checkpoints" / f"best-{step - 4:08d}").exists()


def test_changed_data_is_refused_and_named(ranks):
    write_colors(ranks.folder / "images", 20)
    ranks.run("train", "--name", "a", "--data", "images", *FAST, "train.global_batch_size=8")
    (ranks.folder / "images" / "cat" / "3.png").unlink()
    longer = [*FAST[1:], "train.num_steps=9", "train.global_batch_size=8"]
    output = ranks.run("train", "--name", "a", "--data", "images", *longer, expect=2)
    assert "the data is not what runs/a began with:\n  1 image is gone: cat/3.png\n" in output


def test_an_evaluation_takes_no_images_that_may_have_been_trained_on(ranks):
    for folder, count in (("images", 40), ("new", 5), ("split/train", 5), ("split/test", 5)):
        write_colors(ranks.folder / folder, count)
    ranks.run("train", "--name", "a", "--data", "images", *FAST, "train.global_batch_size=8")
    ranks.run("eval", "runs/a")
    (ranks.folder / "images").rename(ranks.folder / "moved")
    ranks.run("eval", "runs/a", "--data", "moved")
    Image.new("RGB", (8, 8)).save(ranks.folder / "moved" / "cat" / "more.png")
    output = ranks.run("eval", "runs/a", "--data", "moved", expect=2)
    assert "the data is not what runs/a was trained on:\n  1 image is new: cat/more.png\n" in output
    assert "give images that the run has never seen with --data DIR --split all" in output
    output = ranks.run("eval", "runs/a", "--data", "new", "--split", "all", "--json", "all.json")
    assert read_json(ranks.folder / "all.json")["count"] == 10
    output = ranks.run("eval", "runs/a", "--data", "moved/../moved", "data.root=images", "--split", "all", expect=2)
    assert "give other images with --data DIR" in output
    assert "give the folder of the whole run" in ranks.run("eval", "runs/a/model", expect=66)
    (ranks.folder / "new.csv").write_text("path,label\n" + "".join(f"new/cat/{i}.png,cat\n" for i in range(5)))
    ranks.run("eval", "runs/a", "--data", "new.csv", "--split", "all", "--json", "csv.json")
    assert read_json(ranks.folder / "csv.json")["count"] == 5
    output = ranks.run("eval", "runs/a", "--data", "split", "--split", "all", expect=2)
    assert "the images have their own splits, train, test: give the folder of one, such as --data DIR/test" in output
    ranks.run("eval", "runs/a", "--data", "split/test", "--split", "all")


def test_a_run_without_a_name_is_called_after_its_data_and_an_unfinished_one_is_told(ranks):
    from PIL import Image

    for name in ("cat", "dog", "__MACOSX"):
        for i in range(20):
            path = ranks.folder / "photos" / name / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (12 * i, 0, 255 * (name == "cat"))).save(path)
    words = ["--data", "photos", "data.test_fraction=0", *FAST]
    planned = ranks.run("train", *words, "--dry-run")
    assert "folder      runs/photos\n" in planned and not (ranks.folder / "runs").exists()
    assert "a batch of 64 exceeds the 36 training images: each step uses every image 1.78 times" in planned
    output = ranks.run("train", *words)
    assert "distcls eval runs/photos --split val\n" in output and "classes  2: cat, dog" in output
    assert "warning" not in ranks.run("eval", "runs/photos", "--split", "val")
    status = ranks.folder / "runs/photos/status.json"
    status.write_text(status.read_text().replace("finished", "preempted"))
    output = ranks.run("eval", "runs/photos", "--split", "val")
    assert "warning: runs/photos is preempted, not finished: these are its best weights so far" in output
    output = ranks.run("train", *words, "data.val_fraction=0", "train.early_stopping=3", "--dry-run", expect=2)
    assert "train.early_stopping=3 watches the val split, but there is none" in output


def test_fp16_without_a_gpu_is_a_usage_error(ranks):
    assert "needs a CUDA GPU" in ranks.run("train", *FAST, "train.precision=fp16", expect=2)


def test_dry_run_tells_the_plan_and_writes_no_run(ranks):
    output = ranks.run("train", "--dry-run")
    for word in ("train 1,294, val 144, test 359", "53,674 parameters", "607", "MiB"):
        assert word in output
    assert not (ranks.folder / "runs").exists()


def test_starting_from_a_run_with_other_classes_makes_a_new_head(ranks):
    ranks.run("train", "--name", "a", *FAST)
    settings = ["--name", "b", *FAST, "data.name=noise_images:make_images", "model.init_from=runs/a"]
    output = ranks.run("train", *settings, "model.freeze=[blocks]", "optim.groups=[{match: head, lr_scale: 10}]")
    assert "new head for 7 classes" in output
    before, after = (ledger.load(ranks.folder / "runs" / name, 8) for name in "ab")
    frozen = [name for name in before if name.startswith("model.blocks")]
    assert frozen and all((before[name] == after[name]).all() for name in frozen), "statistics included"
    assert (before["model.hidden.weight"] != after["model.hidden.weight"]).any(), "loaded and trained"


@pytest.mark.parametrize(
    "settings",
    [
        ["optim.name=sgd", "optim.schedule=step", "optim.milestones=['50%']", "optim.nesterov=true"],
        ["optim.name=adam", "optim.schedule=one_cycle", "loss.label_smoothing=0.1", "train.max_grad_norm=1"],
        ["model.name=resnet9", "train.precision=bf16", "optim.warmup=2 steps", "optim.schedule=constant"],
        ["model.name=torchvision/resnet18", "data.image_size=16", "model.channels_last=false", "train.num_steps=2"],
    ],
)
def test_settings_train(ranks, settings):
    ranks.run("train", "--name", "a", *FAST, "train.global_batch_size=32", *settings)
