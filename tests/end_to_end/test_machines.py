"""Several machines that share no disk: here, processes of one machine in different folders."""

from __future__ import annotations

import os
from pathlib import Path

import ledger
from PIL import Image
from ranks import read_json

SETTINGS = [
    *["train.global_batch_size=16", "train.num_threads=1", "train.checkpoint_every=5 steps", "run.trackers=[]"],
    *["train.eval_every=5 steps", "model.name=ledger:make", "train.ema_decay=0.9", "optim.schedule=constant"],
]


def on_a_machine_of_its_own() -> None:
    """Every rank is in a folder of its own."""
    home = Path(f"machine{os.environ.get('RANK', '0')}")
    home.mkdir(exist_ok=True)
    os.chdir(home)


def test_without_a_shared_disk_the_first_process_sends_what_the_others_go_on_from(ranks):
    words = ["train", "--name", "a", *SETTINGS]
    ranks.run(*words, "train.num_steps=10", world_size=2, setup=on_a_machine_of_its_own)
    output = ranks.run(*words, "train.num_steps=15", world_size=2, setup=on_a_machine_of_its_own)
    assert "resuming from step 10" in output
    assert not (ranks.folder / "machine1" / "runs").exists()
    ranks.run(*words, "train.num_steps=10", world_size=2)
    ranks.run(*words, "train.num_steps=15", world_size=2)
    assert ledger.digest(ranks.folder / "machine0/runs/a", 15) == ledger.digest(ranks.folder / "runs/a", 15)


def test_an_old_run_of_that_name_on_another_machine_is_not_gone_on_with(ranks):
    words = ["train", "--name", "a", *SETTINGS, "train.num_steps=10"]
    ranks.run(*words, setup=on_machine_1)
    before = (ranks.folder / "machine1/runs/a/status.json").read_text()
    ranks.run(*words, "train.seed=1", "train.num_steps=5", world_size=2, setup=on_a_machine_of_its_own)
    ranks.run(*words, "train.seed=1", world_size=2, setup=on_a_machine_of_its_own)
    assert read_json(ranks.folder / "machine0/runs/a/status.json")["step"] == 10
    assert (ranks.folder / "machine1/runs/a/status.json").read_text() == before


def on_machine_1() -> None:
    Path("machine1").mkdir()
    os.chdir("machine1")


def test_machines_with_other_images_are_found_out_before_training(ranks):
    for machine, count in ((0, 20), (1, 19)):
        for name in ("cat", "dog"):
            for i in range(count):
                path = ranks.folder / f"machine{machine}/images/{name}/{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (8, 8), (10 * i, 0, 255 * (name == "cat"))).save(path)
    words = ["train", "--name", "a", "--data", "images", "train.global_batch_size=8"]
    output = ranks.run(*words, world_size=2, expect=2, setup=on_a_machine_of_its_own)
    assert "the processes see different images: process 0 40 images on " in output
    assert ", process 1 38 images on " in output


def test_an_image_that_is_broken_on_one_machine_only_is_found_out(ranks):
    for machine in (0, 1):
        for name in ("cat", "dog"):
            for i in range(60):
                path = ranks.folder / f"machine{machine}/images/{name}/{i:02}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (8, 8), (4 * i, 0, 255 * (name == "cat"))).save(path)
    broken = ranks.folder / "machine1/images/dog/07.png"
    broken.write_bytes(bytes(broken.stat().st_size))
    words = ["train", "--name", "a", "--data", "images", "train.global_batch_size=8"]
    output = ranks.run(*words, world_size=2, expect=2, setup=on_a_machine_with_its_own_cache)
    assert "process 0 120 readable images on " in output
    assert ", process 1 119 readable images (unreadable: dog/07.png) on " in output


def on_a_machine_with_its_own_cache() -> None:
    os.environ["XDG_CACHE_HOME"] = f"cache{os.environ['RANK']}"
    os.environ["LOCAL_RANK"], os.environ["LOCAL_WORLD_SIZE"] = "0", "1"
    on_a_machine_of_its_own()


def as_the_other_machine() -> None:
    """What was the second machine is the first now."""
    os.chdir(f"machine{1 - int(os.environ['RANK'])}")


def test_another_head_does_not_begin_the_run_anew(ranks):
    words = ["train", "--name", "a", *SETTINGS, "train.num_steps=10"]
    ranks.run(*words, world_size=2, setup=on_a_machine_of_its_own)
    output = ranks.run(*words, "train.num_steps=15", world_size=2, expect=2, setup=as_the_other_machine)
    assert "process 1 has step 10 of this run in runs/a on its machine, but process 0" in (output)


def test_processes_that_were_started_otherwise_are_found_out(ranks):
    (ranks.folder / "c.yaml").write_text("optim: {lr: 0.01}\n")
    words = ["train", "-c", "c.yaml", *SETTINGS, "train.num_steps=10"]
    output = ranks.run(*words, world_size=2, expect=2, setup=with_another_rate_on_rank_1)
    assert "process 1 (" in output and "was started differently from process 0 (" in output
    assert "  optim.lr: 0.01 -> 0.02\nGive all machines the same command" in output


def with_another_rate_on_rank_1() -> None:
    if os.environ["RANK"] == "1":
        Path("other").mkdir()
        os.chdir("other")
        Path("c.yaml").write_text("optim: {lr: 0.02}\n")


def test_all_begin_with_the_weights_that_the_main_process_finds(ranks):
    """model.init_from is a run folder, which only the first machine has."""
    ranks.run("train", "--name", "old", *SETTINGS, "train.num_steps=2", setup=on_a_machine_of_its_own)
    words = ["train", "--name", "new", *SETTINGS, "train.num_steps=5", "model.init_from=runs/old"]
    words += ["train.micro_batch_size=8", "train.deterministic=true"]
    ranks.run(*words, world_size=2, setup=on_a_machine_of_its_own)
    shared = ranks.folder / "machine0/runs/new"
    before = ledger.digest(shared, 5)
    shared.rename(ranks.folder / "two")
    ranks.run(*words, setup=on_a_machine_of_its_own)
    assert ledger.digest(shared, 5) == before
