"""A kill, a full disk or a flipped bit costs at most the steps since the checkpoint before."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import shutil
import threading
from concurrent.futures import wait
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from distcls.config.settings import TrainConfig
from distcls.errors import DiskError
from distcls.files.verified import CorruptError, SummedFile, read_tensors, tensor_writer, verify_folder, write_folder
from distcls.optim.averages import build_copy
from distcls.training.checkpoint import Checkpoints
from distcls.training.state import TrainState
from distcls.training.statistics import BatchNormStatistics

FILES = ["model.safetensors", "ema.safetensors", "optimizer.pt", "state.json", "length.json", "manifest.json"]

pytestmark = pytest.mark.usefixtures("one_thread")


class FakeRun:
    """What Checkpoints asks of a run of one process; what it says is kept in `said`."""

    def __init__(self, folder: Path, is_main: bool = True) -> None:
        self.dir, self.is_shared = folder, True
        self.said: list[str] = []
        self.truncated: list[int] = []
        self.processes = SimpleNamespace(is_main=is_main, from_main=lambda function: function(), moved=lambda: None)
        self.progress = SimpleNamespace(note=self.said.append, warning=self.said.append)
        self.tracker = SimpleNamespace(
            truncate=lambda step, evaluated_step: self.truncated.append(step), sync=lambda: None
        )
        self.saved_in = lambda seconds: None


def make_state(seed: int = 0) -> TrainState:
    """A network in channels_last with BatchNorm, an average and momentum, moved one step."""
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    module = module.to(memory_format=torch.channels_last)
    ema = build_copy(module)
    state = TrainState(
        module=module,
        model=module,
        optimizer=torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9, fused=True),
        statistics=BatchNormStatistics(module),
        ema=ema,
    )
    images = torch.randn(4, 3, 3, 3).contiguous(memory_format=torch.channels_last)
    module(images).square().sum().backward()
    state.optimizer.step()
    state.statistics.update(torch.cat(state.statistics.read()), 1)
    return state


def at(state: TrainState, step: int, best_step: int | None = None) -> TrainState:
    state.position.step, state.position.best_step = step, best_step
    return state


def bits(state: TrainState) -> dict[str, torch.Tensor]:
    tensors = {f"{file}.{name}": t for file, of_file in state.tensors().items() for name, t in of_file.items()}
    momenta = state.optimizer.state_dict()["state"]
    return tensors | {f"momentum.{i}": values["momentum_buffer"] for i, values in momenta.items()}


def assert_same_bits(a: TrainState, b: TrainState) -> None:
    ours, theirs = bits(a), bits(b)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert all(ours[name].stride() == theirs[name].stride() for name in ours)


def flip_bit(path: Path, place: float = 0.5) -> None:
    content = bytearray(path.read_bytes())
    content[min(int(len(content) * place), len(content) - 1)] ^= 4
    path.write_bytes(content)


@pytest.fixture(autouse=True)
def writers_that_end(monkeypatch: pytest.MonkeyPatch):
    """Each Checkpoints has a thread, and hundreds of them would outlive these tests."""
    begun: list[Checkpoints] = []
    begin = Checkpoints.__init__

    def noted(self: Checkpoints, *args: Any, **named: Any) -> None:
        begin(self, *args, **named)
        begun.append(self)

    monkeypatch.setattr(Checkpoints, "__init__", noted)
    yield
    for checkpoints in begun:
        checkpoints.writer.shutdown()


def checkpoints_of(run: FakeRun, keep: int) -> Checkpoints:
    return Checkpoints(run, TrainConfig(keep_checkpoints=keep))


def write_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    with path.open("wb") as file:
        tensor_writer(tensors)(file)


def save(checkpoints: Checkpoints, state: TrainState) -> None:
    """And wait until it is written."""
    checkpoints.save(state)
    checkpoints.raise_errors(wait=True)


def save_best(checkpoints: Checkpoints, state: TrainState) -> None:
    checkpoints.save_best(state)
    checkpoints.raise_errors(wait=True)


def names(checkpoints: Checkpoints) -> list[str]:
    return sorted(path.name for path in checkpoints.folder.iterdir())


# There and back ------------------------------------------------------------------------------------


def test_what_is_restored_is_what_was_saved(tmp_path):
    run = FakeRun(tmp_path)
    checkpoints, state, restored = checkpoints_of(run, keep=2), at(make_state(), 12), make_state(seed=1)
    state.position.evaluations_since_best, state.position.skipped_steps = 3, 1
    save(checkpoints, state)
    checkpoints.restore(checkpoints.newest(), restored)
    assert_same_bits(state, restored)
    assert restored.position == state.position
    assert run.said == ["resuming from step 12"]
    assert run.truncated == [12]
    assert sorted(p.name for p in (tmp_path / "checkpoints" / "step-00000012").iterdir()) == sorted(FILES)


def test_a_restored_state_takes_the_same_next_step(tmp_path):
    checkpoints, state, restored = checkpoints_of(FakeRun(tmp_path), keep=2), at(make_state(), 1), make_state(seed=1)
    save(checkpoints, state)
    checkpoints.restore(checkpoints.newest(), restored)
    for one in (state, restored):
        one.statistics.training_mode()
        one.optimizer.zero_grad()
        torch.manual_seed(5)
        images = torch.randn(4, 3, 3, 3).contiguous(memory_format=torch.channels_last)
        one.module(images).square().sum().backward()
        one.optimizer.step()
        one.statistics.update(torch.cat(one.statistics.read()), 1)
    assert_same_bits(state, restored)


def test_without_a_checkpoint_a_run_begins_at_0_and_forgets_the_metrics_of_before(tmp_path):
    run, state = FakeRun(tmp_path), at(make_state(), 0)
    checkpoints = checkpoints_of(run, keep=2)
    checkpoints.restore(checkpoints.newest(), state)
    assert (state.step, run.truncated, run.said) == (0, [0], [])


def test_before_the_first_step_there_is_nothing_to_save(tmp_path):
    save(checkpoints_of(FakeRun(tmp_path), keep=2), at(make_state(), 0))
    assert not (tmp_path / "checkpoints").exists()


def test_only_the_main_process_writes(tmp_path):
    checkpoints = checkpoints_of(FakeRun(tmp_path, is_main=False), keep=2)
    save(checkpoints, at(make_state(), 3))
    save_best(checkpoints, at(make_state(), 3))
    assert not (tmp_path / "checkpoints").exists()


def test_the_best_weights_are_those_that_were_evaluated(tmp_path):
    checkpoints, state = checkpoints_of(FakeRun(tmp_path), keep=2), at(make_state(), 3)
    state.ema.get_submodule("3").bias.fill_(0.25)
    save_best(checkpoints, state)
    best = checkpoints.read_best(3)
    assert torch.equal(best["3.bias"], torch.full((2,), 0.25))
    assert torch.equal(best["1.running_var"], state.statistics.running[4:])


def test_weights_in_channels_last_and_tied_weights_are_read_back(tmp_path):
    tied = torch.randn(3, 2)
    tensors = {
        "convolution": torch.randn(4, 3, 2, 2).contiguous(memory_format=torch.channels_last),
        "embedding": tied,
        "head": tied,
        "transposed": tied.T,
        "count": torch.tensor(7),
        "empty": torch.empty(0),
        "also_empty": torch.empty(0, 3),
        "half": torch.randn(3).bfloat16(),
    }
    write_tensors(tmp_path / "w.safetensors", tensors)
    back = read_tensors(tmp_path / "w.safetensors")
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[name], tensors[name]) for name in tensors)
    assert back["head"] is back["embedding"]


def test_a_model_with_tied_weights_is_restored_tied(tmp_path):
    def tied():
        module = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
        module[1].weight = module[0].weight
        return module

    one, other = tied(), tied()
    write_tensors(tmp_path / "w.safetensors", dict(one.state_dict()))
    other.load_state_dict(read_tensors(tmp_path / "w.safetensors"))
    assert torch.equal(other[1].weight, one[0].weight)
    assert other[1].weight is other[0].weight


# What is torn or altered ---------------------------------------------------------------------------


@pytest.mark.parametrize("place", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("file", FILES)
def test_a_flipped_bit_leads_to_the_checkpoint_before(tmp_path, file, place):
    run = FakeRun(tmp_path)
    checkpoints, state = checkpoints_of(run, keep=2), make_state()
    save(checkpoints, at(state, 5))
    save(checkpoints, at(state, 7))
    flip_bit(checkpoints.path(7) / file, place)
    restored = make_state(seed=1)
    checkpoints.restore(checkpoints.newest(), restored)
    assert restored.step == 5
    assert_same_bits(restored, state)
    warning, note = run.said
    assert warning.startswith("the checkpoint of step 7 is unusable (")
    assert (tmp_path / "checkpoints" / "bad-step-00000007").is_dir() and "bad-step-00000007" in warning
    assert note == "resuming from step 5"
    assert run.truncated == [5]


@pytest.mark.parametrize("damage", ["missing file", "shorter file", "no manifest", "empty folder"])
def test_a_torn_checkpoint_leads_to_the_one_before(tmp_path, damage):
    checkpoints, state = checkpoints_of(FakeRun(tmp_path), keep=2), make_state()
    save(checkpoints, at(state, 5))
    save(checkpoints, at(state, 7))
    path = checkpoints.path(7)
    if damage == "missing file":
        (path / "optimizer.pt").unlink()
    elif damage == "shorter file":
        content = (path / "optimizer.pt").read_bytes()
        (path / "optimizer.pt").write_bytes(content[:-1])
    elif damage == "no manifest":
        (path / "manifest.json").unlink()
    else:
        shutil.rmtree(path)
        path.mkdir()
    restored = make_state(seed=1)
    checkpoints.restore(checkpoints.newest(), restored)
    assert restored.step == 5


@pytest.mark.parametrize("reason", [errno.EACCES, errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE, errno.EIO])
def test_what_cannot_be_read_now_is_not_damaged(tmp_path, monkeypatch, reason):
    """Rights, or a network that stumbles: no checkpoint is set aside, and the run does not begin anew."""
    monkeypatch.setattr("distcls.files.verified.SECONDS_BEFORE_RETRY", 0)
    checkpoints = checkpoints_of(FakeRun(tmp_path), keep=2)
    save(checkpoints, at(make_state(), 5))

    def refuse(path: Path, *arguments: Any, **named: Any) -> None:
        raise OSError(reason, os.strerror(reason), str(path))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", refuse)
        with pytest.raises(DiskError, match=r"(cannot|can) be read.*Nothing was changed"):
            checkpoints.newest()
    assert names(checkpoints) == ["step-00000005"] and checkpoints.newest() == 5


def test_a_block_that_is_lost_leads_to_the_checkpoint_before(tmp_path, monkeypatch):
    """The system says the same of a network that is gone; but then nothing else could be read."""
    monkeypatch.setattr("distcls.files.verified.SECONDS_BEFORE_RETRY", 0)
    checkpoints = checkpoints_of(FakeRun(tmp_path), keep=2)
    for step in (5, 7):
        save(checkpoints, at(make_state(), step))
    whole = Path.open

    def lost(path: Path, *arguments: Any, **named: Any) -> Any:
        if path.parent.name == "step-00000007" and path.name == "optimizer.pt":
            raise OSError(errno.EIO, "Input/output error", str(path))
        return whole(path, *arguments, **named)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", lost)
        assert checkpoints.newest() == 5
    assert names(checkpoints) == ["bad-step-00000007", "step-00000005"]


def test_a_folder_of_which_files_are_in_use_elsewhere_is_replaced(tmp_path, monkeypatch):
    """As on a network file system, where a folder with an open file cannot be emptied."""
    write_folder(tmp_path / "model", {"a": lambda file: file.write(b"0")})
    monkeypatch.setattr("shutil.rmtree", lambda path, ignore_errors=False: None)
    for content in (b"1", b"2"):
        write_folder(tmp_path / "model", {"a": lambda file, content=content: file.write(content)})
        assert (tmp_path / "model" / "a").read_bytes() == content


def test_a_folder_that_cannot_be_replaced_stays(tmp_path, monkeypatch):
    write_folder(tmp_path / "model", {"a": lambda file: file.write(b"1")})
    Faults(monkeypatch, "rename", OSError(errno.EACCES, "Permission denied"), at=2)
    with pytest.raises(DiskError, match="model could not be written"):
        write_folder(tmp_path / "model", {"a": lambda file: file.write(b"2")})
    assert (tmp_path / "model" / "a").read_bytes() == b"1" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("ended", [False, True])
def test_a_checkpoint_tells_how_long_the_run_was_to_be_and_whether_it_ended(tmp_path, ended):
    run = FakeRun(tmp_path)
    synced: list[bool] = []
    run.tracker.sync = lambda: synced.append((tmp_path / "checkpoints" / "step-00000005").exists())
    checkpoints = Checkpoints(run, TrainConfig(num_epochs=3.0))
    checkpoints.save(at(make_state(), 5), ended)
    checkpoints.raise_errors(wait=True)
    told = json.loads((checkpoints.path(5) / "length.json").read_text())
    assert told == {"num_epochs": 3.0, "num_steps": None, "ended": ended}
    assert synced == [False], "rows of metrics.csv are on the disk before the checkpoint after them is"


def test_a_checkpoint_that_was_set_aside_is_written_again(tmp_path):
    checkpoints, state = checkpoints_of(FakeRun(tmp_path), keep=2), make_state()
    for _ in range(2):
        save(checkpoints, at(state, 5))
        save(checkpoints, at(state, 7))
        flip_bit(checkpoints.path(7) / "model.safetensors")
        checkpoints.restore(checkpoints.newest(), make_state(seed=1))
        assert names(checkpoints) == ["bad-step-00000007", "step-00000005"]


def test_when_none_is_whole_the_run_begins_again_and_says_so(tmp_path):
    run = FakeRun(tmp_path)
    checkpoints = checkpoints_of(run, keep=2)
    save(checkpoints, at(make_state(), 5))
    flip_bit(checkpoints.path(5) / "optimizer.pt")
    restored = at(make_state(seed=1), 0)
    checkpoints.restore(checkpoints.newest(), restored)
    assert restored.step == 0
    assert "step 5 is unusable" in run.said[0]
    assert run.truncated == [0]


def test_what_a_killed_write_left_is_ignored_and_cleared(tmp_path):
    checkpoints, state = checkpoints_of(FakeRun(tmp_path), keep=2), make_state()
    save(checkpoints, at(state, 5))
    torn = checkpoints.folder / ".writing-step-00000009"
    shutil.copytree(checkpoints.path(5), torn)
    (torn / "manifest.json").unlink()
    restored = make_state(seed=1)
    checkpoints.restore(checkpoints.newest(), restored)
    assert restored.step == 5
    assert names(checkpoints) == ["step-00000005"]


def test_damaged_best_weights_do_not_cost_the_checkpoints(tmp_path):
    """The weights and the optimizer are whole: only what was best is lost, and that can be said."""
    run = FakeRun(tmp_path)
    checkpoints, state = checkpoints_of(run, keep=2), make_state()
    save_best(checkpoints, at(state, 4, best_step=4))
    save(checkpoints, at(state, 5, best_step=4))
    save(checkpoints, at(state, 7, best_step=4))
    flip_bit(checkpoints.path(4, "best") / "model.safetensors")
    restored = at(make_state(seed=1), 0)
    checkpoints.restore(checkpoints.newest(), restored)
    assert restored.step == 7
    assert any("best" in line for line in run.said)


def test_verification_names_the_file_and_what_is_wrong(tmp_path):
    write_folder(tmp_path / "x", {"a.bin": lambda file: file.write(b"12345")})
    verify_folder(tmp_path / "x")
    (tmp_path / "x" / "a.bin").write_bytes(b"1234")
    with pytest.raises(CorruptError, match=r"a\.bin has 4 bytes instead of 5"):
        verify_folder(tmp_path / "x")
    (tmp_path / "x" / "a.bin").write_bytes(b"12346")
    with pytest.raises(CorruptError, match=r"a\.bin does not have the contents that were written"):
        verify_folder(tmp_path / "x")


# What is pruned ------------------------------------------------------------------------------------


def test_the_last_ones_are_kept_and_the_best_weights_that_they_refer_to(tmp_path):
    checkpoints, state = checkpoints_of(FakeRun(tmp_path), keep=2), make_state()
    for step, best in ((2, 2), (4, 2), (6, 6), (8, 6), (10, 10)):
        at(state, step, best)
        if step == best:
            save_best(checkpoints, state)
        save(checkpoints, state)
        if step == 6:
            assert names(checkpoints) == ["best-00000002", "best-00000006", "step-00000004", "step-00000006"]
    assert names(checkpoints) == ["best-00000006", "best-00000010", "step-00000008", "step-00000010"]


def test_best_weights_between_two_checkpoints_do_not_pile_up(tmp_path):
    checkpoints, state = checkpoints_of(FakeRun(tmp_path), keep=2), make_state()
    save_best(checkpoints, at(state, 2, 2))
    save(checkpoints, state)
    for step in (4, 6, 8):
        save_best(checkpoints, at(state, step, step))
    assert names(checkpoints) == ["best-00000002", "best-00000008", "step-00000002"]


def test_new_best_weights_do_not_remove_those_of_the_last_checkpoint(tmp_path):
    """A kill between the two writes goes on from the old checkpoint, which needs its own best weights."""
    checkpoints, state = checkpoints_of(FakeRun(tmp_path), keep=1), make_state()
    save_best(checkpoints, at(state, 2, 2))
    save(checkpoints, state)
    save_best(checkpoints, at(state, 4, 4))
    restored = make_state(seed=1)
    checkpoints.restore(checkpoints.newest(), restored)
    assert restored.position.best_step == 2
    checkpoints.read_best(2)


def test_saving_a_step_twice_leaves_the_first(tmp_path):
    checkpoints, state = checkpoints_of(FakeRun(tmp_path), keep=2), at(make_state(), 5)
    save(checkpoints, state)
    before = (checkpoints.path(5) / "manifest.json").stat().st_mtime_ns
    save(checkpoints, state)
    assert (checkpoints.path(5) / "manifest.json").stat().st_mtime_ns == before


def saved_before_its_evaluation(folder: Path) -> tuple[Checkpoints, TrainState]:
    """A run of which a signal stopped the last evaluation, and that was resumed and evaluated."""
    checkpoints, state = checkpoints_of(FakeRun(folder), keep=1), at(make_state(), 5)
    state.position.evaluated_step = 3
    checkpoints.save(state, ended=True)
    checkpoints.raise_errors(wait=True)
    state.position.evaluated_step = 5
    return checkpoints, state


def evaluated_step(checkpoints: Checkpoints, step: int) -> int:
    return json.loads((checkpoints.path(step) / "state.json").read_text())["evaluated_step"]


def test_a_last_checkpoint_from_before_the_last_evaluation_is_written_again(tmp_path):
    checkpoints, state = saved_before_its_evaluation(tmp_path)
    save(checkpoints, state)
    assert evaluated_step(checkpoints, 5) == 3, "a later checkpoint will cover it"
    checkpoints.save(state, ended=True)
    checkpoints.raise_errors(wait=True)
    assert evaluated_step(checkpoints, 5) == 5
    verify_folder(checkpoints.path(5))
    restored = make_state(seed=1)
    checkpoints.restore(checkpoints.newest(), restored)
    assert_same_bits(state, restored)
    before = (checkpoints.path(5) / "manifest.json").stat().st_mtime_ns
    checkpoints.save(state, ended=True)
    checkpoints.raise_errors(wait=True)
    assert (checkpoints.path(5) / "manifest.json").stat().st_mtime_ns == before


@pytest.mark.parametrize("kind", ["open", "write", "fsync", "rename"])
def test_a_kill_while_the_only_checkpoint_is_replaced_loses_nothing(tmp_path, monkeypatch, kind):
    with monkeypatch.context() as patched:
        checkpoints, state = saved_before_its_evaluation(tmp_path / "healthy")
        healthy = Faults(patched, kind)
        checkpoints.save(state, ended=True)
        checkpoints.raise_errors(wait=True)
    for number in range(1, healthy.calls + 1):
        checkpoints, state = saved_before_its_evaluation(tmp_path / str(number))
        with monkeypatch.context() as patched:
            Faults(patched, kind, Killed(), at=number)
            with contextlib.suppress(Killed, DiskError):
                checkpoints.save(state, ended=True)
                checkpoints.raise_errors(wait=True)
        again, restored = checkpoints_of(FakeRun(tmp_path / str(number)), keep=1), make_state(seed=1)
        again.restore(again.newest(), restored)
        assert_same_bits(state, restored)
        assert names(again) == ["step-00000005"]


def test_steps_are_sorted_by_number(tmp_path):
    checkpoints = checkpoints_of(FakeRun(tmp_path), keep=9)
    for step in (99999999, 100000000, 7):
        save(checkpoints, at(make_state(), step))
    assert checkpoints.steps() == [100000000, 99999999, 7]


# What cannot be written ----------------------------------------------------------------------------


@contextmanager
def full_disk(size: int = 600):
    """No file may grow beyond so many bytes, as on a full disk. Not for longer: pytest writes to a file too, in CI."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def check_disk_error_leaves_the_old_ones(checkpoints, state):
    save(checkpoints, at(state, 5))
    with (
        pytest.raises(DiskError, match=r"step-00000007 could not be written: .*Older checkpoints are unchanged"),
        full_disk(),
    ):
        save(checkpoints, at(state, 7))
    assert names(checkpoints) == ["step-00000005"]
    verify_folder(checkpoints.path(5))


def test_a_full_disk_is_a_disk_error_and_leaves_the_old_ones(tmp_path):
    check_disk_error_leaves_the_old_ones(checkpoints_of(FakeRun(tmp_path), keep=1), make_state())


class Killed(BaseException):
    """Nothing tidies up after it, as after SIGKILL."""


class Faults:
    """Counts the calls of one kind that a save makes; call number `at` raises `error`."""

    def __init__(self, monkeypatch, kind: str, error: BaseException | None = None, at: int = -1) -> None:
        self.calls = 0
        places = {
            "open": (Path, "open"),
            "write": (SummedFile, "write"),
            "fsync": (os, "fsync"),
            "rename": (os, "rename"),
        }
        owner, name = places[kind]
        real = getattr(owner, name)

        def call(*arguments, **options):
            self.calls += 1
            if self.calls == at and error is not None:
                raise error
            return real(*arguments, **options)

        monkeypatch.setattr(owner, name, call)

    @staticmethod
    def hold(monkeypatch, event: threading.Event) -> None:
        """Nothing is written before the event."""
        real = Path.mkdir
        monkeypatch.setattr(Path, "mkdir", lambda *a, **k: event.wait(10) and real(*a, **k))


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), Killed()], ids=["fails", "is killed"])
@pytest.mark.parametrize("kind", ["open", "write", "fsync", "rename"])
def test_whichever_call_fails_the_run_goes_on_from_a_whole_checkpoint(tmp_path, monkeypatch, kind, error):
    checkpoints, state = checkpoints_of(FakeRun(tmp_path), keep=1), make_state()
    save(checkpoints, at(state, 5))
    with monkeypatch.context() as patched:
        healthy = Faults(patched, kind)
        save(checkpoints, at(state, 6))
    assert healthy.calls >= {"open": len(FILES), "write": len(FILES), "fsync": len(FILES) + 2, "rename": 1}[kind]
    for number in range(1, healthy.calls + 1):
        before, step = checkpoints.newest(), 6 + number
        with monkeypatch.context() as patched:
            Faults(patched, kind, error, at=number)
            failed = True
            try:
                save(checkpoints, at(state, step))
                failed = False  # what fails in pruning is told, and tried again
            except (DiskError, Killed):
                pass
        checkpoints = checkpoints_of(FakeRun(tmp_path), keep=1)  # as after a restart
        newest = checkpoints.newest()
        # The last calls come when the checkpoint has its name already.
        assert newest in ((before, step) if failed else (step,))
        verify_folder(checkpoints.path(newest))
        restored = make_state(seed=1)
        checkpoints.restore(newest, restored)
        assert_same_bits(restored, state)
        assert not list(checkpoints.folder.glob(".writing-*"))


@pytest.mark.parametrize("size", [0, 1, 300, 600, 2000])
def test_wherever_a_disk_is_full_the_old_checkpoint_stays(tmp_path, size):
    checkpoints, state = checkpoints_of(FakeRun(tmp_path), keep=1), make_state()
    save(checkpoints, at(state, 5))
    with pytest.raises(DiskError), full_disk(size):
        save(checkpoints, at(state, 7))
    assert names(checkpoints) == ["step-00000005"]
    save(checkpoints, at(state, 8))
    assert checkpoints.newest() == 8


def test_a_write_that_fails_is_told_at_the_next_step_and_the_next_save(tmp_path, monkeypatch):
    checkpoints, state = checkpoints_of(FakeRun(tmp_path), keep=1), make_state()
    Faults(monkeypatch, "rename", OSError(errno.EIO, "Input/output error"), at=1)
    checkpoints.save(at(state, 5))
    wait([write for _, _, write in checkpoints.writes], timeout=10)
    with pytest.raises(DiskError, match="step-00000005"):
        checkpoints.raise_errors(wait=False)


def test_no_checkpoint_refers_to_best_weights_that_could_not_be_written(tmp_path, monkeypatch):
    checkpoints, state = checkpoints_of(FakeRun(tmp_path), keep=1), at(make_state(), 5, best_step=5)
    save_best(checkpoints, state)
    save(checkpoints, state)
    at(state, 7, best_step=7)
    Faults(monkeypatch, "rename", OSError(errno.EIO, "Input/output error"), at=1)
    checkpoints.save_best(state)
    checkpoints.save(state)
    with pytest.raises(DiskError, match="best-00000007"):
        checkpoints.raise_errors(wait=True)
    assert names(checkpoints) == ["best-00000005", "step-00000005"]


def test_what_is_written_is_the_state_at_its_step_whatever_training_does_meanwhile(tmp_path, monkeypatch):
    checkpoints, state, restored = checkpoints_of(FakeRun(tmp_path), keep=2), make_state(), make_state(seed=1)
    expected = {name: tensor.clone() for name, tensor in bits(state).items()}
    may_write = threading.Event()
    Faults.hold(monkeypatch, may_write)
    checkpoints.save(at(state, 5))
    for tensor in bits(state).values():
        tensor.fill_(7)
    may_write.set()
    checkpoints.raise_errors(wait=True)
    checkpoints.restore(5, restored)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in bits(restored).items())


def test_a_disk_without_room_for_the_checkpoints_is_told_before_training(tmp_path, monkeypatch):
    checkpoints, state = checkpoints_of(FakeRun(tmp_path), keep=2), make_state()
    checkpoints.check_space(state, momenta=1)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(DiskError, match=r"will take .* MB, but .* has only .* left.*train.keep_checkpoints=1"):
        checkpoints.check_space(state, momenta=1)


def test_an_optimizer_that_does_not_fit_the_disk_is_a_disk_error(tmp_path):
    with pytest.raises(DiskError), full_disk():
        write_folder(tmp_path / "x", {"optimizer.pt": lambda file: torch.save(torch.ones(10_000), file)})


def test_a_write_that_fails_is_a_disk_error_and_leaves_no_trace(tmp_path):
    def fail(file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(DiskError, match="No space left on device") as caught:
        write_folder(tmp_path / "x", {"a": lambda file: file.write(b"a"), "b": fail})
    assert caught.value.exit_code == 74
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_a_disk_error(tmp_path):
    (tmp_path / "checkpoints").write_text("a file")
    with pytest.raises(DiskError, match="step-00000005"):
        save(checkpoints_of(FakeRun(tmp_path), keep=1), at(make_state(), 5))


def test_the_manifest_lists_every_file_with_size_and_sum(tmp_path):
    checkpoints = checkpoints_of(FakeRun(tmp_path), keep=1)
    save(checkpoints, at(make_state(), 5))
    manifest = json.loads((checkpoints.path(5) / "manifest.json").read_text())
    assert sorted(manifest) == sorted(set(FILES) - {"manifest.json"})
    assert all(m["size"] == (checkpoints.path(5) / name).stat().st_size for name, m in manifest.items())
