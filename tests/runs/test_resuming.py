"""Which folder a run gets, who may write to it, and which changes of the config it accepts."""

from __future__ import annotations

import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from variants import variant

from distcls.config.differences import differences
from distcls.config.loading import load_config
from distcls.config.settings import Config
from distcls.config.yaml_text import to_yaml
from distcls.errors import DiskError, UsageError
from distcls.runs.resuming import (
    LENGTH,
    AlreadyFinished,
    choose_folder,
    fill_from,
    length_of,
    lock_folder,
)
from distcls.runs.status import StatusFile, read_status, state_of


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def begin(path: Path, config: Config, state: str = "preempted", step: int = 0) -> Path:
    """A run folder as a run leaves it, with a checkpoint of this step."""
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(to_yaml(config))
    (path / "status.json").write_text(json.dumps({"state": state, "step": step}))
    if step:
        save(path, config, step, ended=state == "finished")
    return path


def save(path: Path, config: Config, step: int, ended: bool) -> None:
    """What choose_folder reads of a checkpoint."""
    folder = path / "checkpoints" / f"step-{step:08d}"
    folder.mkdir(parents=True)
    (folder / LENGTH).write_text(json.dumps(length_of(config.train, ended)))


# Without a name ------------------------------------------------------------------------------------


def test_the_first_run_has_the_name_of_its_config():
    assert choose_folder(variant(), "digits") == Path("runs/digits")


def test_an_unfinished_run_of_the_same_config_goes_on():
    begin(Path("runs/digits"), variant(), step=5)
    assert choose_folder(variant(), "digits") == Path("runs/digits")


def test_a_finished_run_or_another_config_gets_the_next_number():
    begin(Path("runs/digits"), variant(), state="finished", step=5)
    begin(Path("runs/digits-2"), variant(optim__lr=0.5), step=5)
    assert choose_folder(variant(), "digits") == Path("runs/digits-3")
    assert choose_folder(variant(optim__lr=0.5), "digits") == Path("runs/digits-2")


def test_a_diverged_run_without_a_name_goes_on_with_the_step_skipped():
    """The error says: the same command with 'train.skip_steps=[7]'."""
    begin(Path("runs/digits"), variant(), state="failed", step=5)
    assert choose_folder(variant(train__skip_steps=[7]), "digits") == Path("runs/digits")


# With a name ---------------------------------------------------------------------------------------


def test_a_name_and_a_folder_are_taken_as_they_are():
    assert choose_folder(variant(run__name="a"), "digits") == Path("runs/a")
    assert choose_folder(variant(run__dir="~/b", run__name="a"), "digits") == Path("~/b").expanduser()


def test_the_same_config_goes_on():
    begin(Path("runs/a"), variant(), step=5)
    assert choose_folder(variant(run__name="a"), "digits") == Path("runs/a")


def test_a_finished_run_says_so_and_how_to_go_on():
    begin(Path("runs/a"), variant(), state="finished", step=9)
    with pytest.raises(AlreadyFinished, match=r"runs/a is finished.*larger train.num_epochs") as caught:
        choose_folder(variant(run__name="a"), "digits")
    assert caught.value.exit_code == 0
    sent = pickle.loads(pickle.dumps(caught.value))  # to the other processes of the run
    assert (str(sent), sent.run_dir, sent.exit_code) == (str(caught.value), Path("runs/a"), 0)


def test_a_changed_config_is_an_error_that_lists_every_change():
    begin(Path("runs/a"), variant(), step=5)
    changed = variant(run__name="a", optim__lr=0.5, augment__flip=True, train__num_epochs=60.0)
    with pytest.raises(UsageError) as caught:
        choose_folder(changed, "digits")
    message = str(caught.value)
    assert "runs/a holds a run with a different config" in message and "--name NAME" in message
    assert "optim.lr: 0.002 -> 0.5" in message and "augment.flip: false -> true" in message
    assert "train.num_epochs: 30.0 -> 60.0" in message and "once it has finished" in message


def test_a_run_whose_folder_is_given_is_not_told_to_take_another_name():
    begin(Path("exp/a"), variant(), step=5)
    with pytest.raises(UsageError, match=r"Undo the change, or give another run\.dir=DIR\.") as caught:
        choose_folder(variant(run__dir="exp/a", run__name="again", optim__lr=0.5), "digits")
    assert "--name" not in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"train__skip_steps": [5]},
        {"train__skip_steps": [7, 9]},
        {"data__workers": 7},
        {"data__root": "/elsewhere"},
        {"data__cache": "0"},
        {"train__log_every": "1 step"},
        {"train__checkpoint_every": "7 steps"},
        {"train__keep_checkpoints": 9},
        {"run__trackers": []},
        {"run__device": "cpu"},
    ],
)
@pytest.mark.parametrize("state", ["preempted", "running", "failed"])
def test_what_does_not_change_past_steps_may_differ(settings, state):
    begin(Path("runs/a"), variant(), state, step=5)
    assert choose_folder(variant(run__name="a", **settings), "digits") == Path("runs/a")


@pytest.mark.parametrize(
    "settings",
    [
        {"train__num_epochs": 10.0},
        {"train__num_epochs": 60.0},
        {"train__skip_steps": [4]},
        {"train__skip_steps": [4, 7]},
        {"train__seed": 1},
        {"train__global_batch_size": 32},
        {"train__eval_every": "2 epochs"},
        {"train__ema_decay": 0.9},
        {"train__deterministic": True},
        {"model__args": {"dropout": 0.1}},
        {"data__split_seed": 3},
    ],
)
def test_what_changes_the_run_is_refused(settings):
    begin(Path("runs/a"), variant(), step=5)
    with pytest.raises(UsageError, match="a different config"):
        choose_folder(variant(run__name="a", **settings), "digits")


def test_a_finished_run_goes_on_with_more_epochs():
    begin(Path("runs/a"), variant(), "finished", step=5)
    assert choose_folder(variant(run__name="a", train__num_epochs=60.0), "digits") == Path("runs/a")


def test_a_longer_run_of_which_no_step_was_trained_can_be_taken_back():
    path = begin(Path("runs/a"), variant(), "finished", step=5)
    (path / "config.yaml").write_text(to_yaml(variant(train__num_epochs=400.0)))
    (path / "status.json").write_text('{"state": "preempted"}')
    for epochs in (400.0, 40.0, 30.0):
        assert choose_folder(variant(run__name="a", train__num_epochs=epochs), "digits") == path
    with pytest.raises(UsageError, match=r"400.0 -> 20.0"):
        choose_folder(variant(run__name="a", train__num_epochs=20.0), "digits")
    save(path, variant(train__num_epochs=400.0), step=6, ended=False)
    with pytest.raises(UsageError, match=r"400.0 -> 40.0"):
        choose_folder(variant(run__name="a", train__num_epochs=40.0), "digits")


def test_a_longer_run_that_was_killed_as_it_began_is_not_called_finished():
    path = begin(Path("runs/a"), variant(), "finished", step=5)
    (path / "config.yaml").write_text(to_yaml(variant(train__num_epochs=60.0)))
    assert choose_folder(variant(run__name="a", train__num_epochs=60.0), "digits") == path


def test_a_run_that_early_stopping_ended_is_not_made_longer():
    stops = {"run__name": "a", "train__early_stopping": 3}
    path = begin(Path("runs/a"), variant(**stops), "finished", step=5)
    (path / "checkpoints/step-00000005/state.json").write_text('{"evaluations_since_best": 3}')
    with pytest.raises(AlreadyFinished, match="Early stopping ended it"):
        choose_folder(variant(**stops), "digits")
    with pytest.raises(UsageError, match=r"was ended by train.early_stopping=3, .* model.init_from=runs/a"):
        choose_folder(variant(**stops, train__num_epochs=60.0), "digits")
    (path / "checkpoints/step-00000005/state.json").write_text('{"evaluations_since_best": 2}')
    assert choose_folder(variant(**stops, train__num_epochs=60.0), "digits") == path


def test_without_a_name_another_length_is_another_run():
    begin(Path("runs/digits"), variant(), step=5)
    assert choose_folder(variant(train__num_epochs=60.0), "digits") == Path("runs/digits-2")


def test_a_finished_run_without_checkpoints_is_not_overwritten():
    begin(Path("runs/a"), variant(), "finished")
    with pytest.raises(AlreadyFinished):
        choose_folder(variant(run__name="a"), "digits")
    with pytest.raises(UsageError, match="no checkpoints left"):
        choose_folder(variant(run__name="a", train__num_epochs=60.0), "digits")
    with pytest.raises(UsageError, match=r"optim\.lr"):
        choose_folder(variant(run__name="a", optim__lr=1.0), "digits")


def test_num_steps_may_grow_but_not_replace_epochs():
    begin(Path("runs/a"), variant(train__num_epochs=None, train__num_steps=10), "finished", step=10)
    longer = variant(run__name="a", train__num_epochs=None, train__num_steps=11)
    assert choose_folder(longer, "digits") == Path("runs/a")
    with pytest.raises(UsageError, match=r"train\.num_steps"):
        choose_folder(variant(run__name="a"), "digits")


def test_a_folder_that_cannot_be_made_is_a_disk_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskError, match=r"cannot write to the run folder .*file/run .*run\.dir=DIR"):
        lock_folder(tmp_path / "file" / "run")


@pytest.mark.parametrize("order", [[9, 7], [7, 9, 9]])
def test_the_same_steps_in_another_order_are_the_same(order):
    begin(Path("runs/a"), variant(train__skip_steps=[7, 9]), step=5)
    assert choose_folder(variant(run__name="a", train__skip_steps=order), "digits") == Path("runs/a")


def test_a_run_that_has_no_checkpoint_may_change_its_config():
    """A first start that failed at a misspelled model.name is corrected, and the same name used again."""
    begin(Path("runs/a"), variant(model__name="cnn22"), "failed", step=0)
    assert choose_folder(variant(run__name="a"), "digits") == Path("runs/a")


def test_what_the_first_start_settled_stands():
    stored = variant(train__micro_batch_size=16, train__precision="bf16")
    begin(Path("runs/a"), stored, step=5)
    open_choices = variant(run__name="a")
    assert choose_folder(open_choices, "digits") == Path("runs/a")
    filled = fill_from(open_choices, stored)
    assert (filled.train.micro_batch_size, filled.train.precision) == (16, "bf16")
    assert open_choices.train.micro_batch_size is None
    with pytest.raises(UsageError, match=r"train\.micro_batch_size: 16 -> 8"):
        choose_folder(variant(run__name="a", train__micro_batch_size=8), "digits")


@pytest.mark.parametrize("setting", ["optim.lookahead={every: 3}", "augment.random_resized_crop={scale: [0.5, 1]}"])
def test_a_section_that_is_off_by_default_cannot_be_added_or_left_out_on_resume(setting):
    plain, changed = load_config(None, ["run.name=a"]), load_config(None, ["run.name=a", setting])
    for stored, config in ((plain, changed), (changed, plain)):
        assert differences(stored, fill_from(config, stored)), f"{setting}: the stored value would win silently"
    assert not differences(changed, fill_from(changed, changed))


def test_checkpoints_without_their_config_are_not_resumed_with_another_one():
    path = begin(Path("runs/a"), variant(optim__lr=0.5), step=5)
    (path / "config.yaml").unlink()
    with pytest.raises(UsageError, match=r"runs/a has checkpoints but no config.yaml"):
        choose_folder(variant(run__name="a"), "digits")
    assert choose_folder(variant(), "a") == Path("runs/a-2"), "a run without a name takes the next number"


@pytest.mark.parametrize("text", ["[]", "null", "{}", '{"ended'])
def test_a_damaged_length_of_a_checkpoint_is_none(text):
    path = begin(Path("runs/a"), variant(), "finished", step=5)
    (path / "checkpoints/step-00000005" / LENGTH).write_text(text)
    with pytest.raises(AlreadyFinished):
        choose_folder(variant(run__name="a"), "digits")
    assert choose_folder(variant(run__name="a", train__num_epochs=60.0), "digits") == path


# The lock ------------------------------------------------------------------------------------------

HOLDER = """
import os, sys, time
from pathlib import Path
from distcls.runs.resuming import lock_folder
lock = lock_folder(Path(sys.argv[1]))
if os.fork() == 0:  # a loader worker, which outlives its parent for a moment
    time.sleep(60)
print(os.getpid(), flush=True)
time.sleep(60)
"""


def test_a_folder_in_use_is_refused_until_its_process_is_killed(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "a")], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert holder.stdout is not None
        pid = int(holder.stdout.readline())
        with pytest.raises(UsageError) as caught:
            lock_folder(tmp_path / "a")
        assert f"is in use by process {pid} on {socket.gethostname()} since 20" in str(caught.value)
        os.kill(pid, signal.SIGKILL)
        holder.wait()
        lock_folder(tmp_path / "a").close()
    finally:
        os.killpg(holder.pid, signal.SIGKILL)  # the worker
        if holder.stdout is not None:
            holder.stdout.close()


# status.json ---------------------------------------------------------------------------------------


def test_the_status_is_whole_at_any_moment_and_says_who(tmp_path):
    status = StatusFile(tmp_path)
    status.write("running", 3, "train")
    status.write("failed", 4, "end", "no space")
    found = read_status(tmp_path)
    assert {k: found[k] for k in ("state", "step", "phase", "reason", "pid")} == {
        "state": "failed", "step": 4, "phase": "end", "reason": "no space", "pid": os.getpid(),
    }  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["status.json"]


def test_frequent_updates_are_not_all_written(tmp_path):
    status = StatusFile(tmp_path)
    before = time.monotonic()
    status.write("running", 0, "start")
    assert status.next_write >= before + 0.05
    status.next_write = time.monotonic() + 3600
    status.write_if_due("running", 99, "train")
    assert read_status(tmp_path)["step"] == 0
    status.next_write = 0.0
    status.write_if_due("running", 100, "train")
    assert read_status(tmp_path)["step"] == 100


@pytest.mark.parametrize("text", ["", '{"state": "fin', "[]", "null", "7"])
def test_no_status_or_a_damaged_one_is_empty(tmp_path, text):
    assert read_status(tmp_path) == {}
    (tmp_path / "status.json").write_text(text)
    assert read_status(tmp_path) == {}
    status = StatusFile(tmp_path)
    status.write("running", 1, "train")
    assert read_status(tmp_path)["step"] == 1


RUNNING = """
import sys, time
from pathlib import Path
from distcls.runs.resuming import lock_folder
from distcls.runs.status import StatusFile
file = lock_folder(Path(sys.argv[1]))
StatusFile(Path(sys.argv[1])).write("running", 3, "train")
print("ready", flush=True)
time.sleep(60)
"""


def test_a_run_is_running_while_its_lock_is_held_and_killed_afterwards(tmp_path):
    assert state_of(tmp_path / "none") is None
    holder = subprocess.Popen([sys.executable, "-c", RUNNING, str(tmp_path)], stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == b"ready\n"
        assert state_of(tmp_path) == "running"
        with pytest.raises(UsageError, match="in use by process"):  # looking did not give it free
            lock_folder(tmp_path)
    finally:
        holder.kill()
        holder.communicate()
    assert state_of(tmp_path) == "killed"
    lock = lock_folder(tmp_path)
    StatusFile(tmp_path).write("running", 3, "train")
    assert state_of(tmp_path) == "running"  # by this process, whose lock is not lost by looking
    assert lock is not None
    lock.close()
    StatusFile(tmp_path).write("finished", 3, "end")
    assert state_of(tmp_path) == "finished"


def test_what_is_no_run_is_refused_before_anything_slow_is_imported(tmp_path):
    for command in (["predict", "nope", "x.png"], ["eval", "nope"]):
        code = f"import sys; from distcls.cli import main; print(main({command})); print('torch' in sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert done.stdout == "66\nFalse\n" and "nope: no such run folder" in done.stderr


def test_a_start_that_trained_nothing_leaves_the_run_where_it_was(tmp_path):
    for state, ended, expected in (("failed", "finished", 9), ("preempted", "preempted", 9)):
        StatusFile(tmp_path).write("finished", 9, "end", "all done")
        StatusFile(tmp_path).write("running", 0, "start")  # which is killed, and the next one is refused, or stopped
        status = StatusFile(tmp_path)
        status.write("running", 0, "start")
        status.write_end_of_start(state, "no such data")
        found = read_status(tmp_path)
        assert (found["state"], found["step"]) == (ended, expected)
