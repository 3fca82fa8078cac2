"""The Python API: as many runs as one likes in one process, each as if it had a process of its own."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import ledger
import numpy as np
import pytest
import torch
from PIL import Image
from ranks import await_step, free_port, rank_environment, read_json

import distcls
from distcls.errors import BadDataError, MissingInputError, UsageError

OLD_RUN = Path(__file__).parent / "golden" / "run_0.1.0"

SETTINGS = {
    "model.name": "cnn2",
    "model.args": {"dropout": 0.3},
    "train.num_steps": 6,
    "train.global_batch_size": 32,
    "train.num_threads": 1,
    "augment.pad_crop": 1,
    "run.trackers": [],
}
SECOND = {"train.seed": 3, "train.precision": "float64", "train.deterministic": True}

LIGHT = """
import sys, time
start = time.perf_counter()
import distcls
seconds = time.perf_counter() - start
heavy = {"torch", "numpy", "yaml", "accelerate"} & set(sys.modules)
assert not heavy, heavy
assert "train" in dir(distcls) and not hasattr(distcls, "trian")
print(seconds)
"""

MANY = """
import json, random, signal, sys, threading
import numpy as np, torch
import distcls
from distcls.errors import DistclsError, UsageError

settings, second = map(json.loads, sys.argv[1:])
torch.set_num_threads(2)

def state():
    return {"threads": torch.get_num_threads(), "deterministic": torch.are_deterministic_algorithms_enabled(),
        "cudnn": torch.backends.cudnn.deterministic, "torch": torch.default_generator.get_state().tolist(),
        "random": random.getstate(), "numpy": np.random.get_state()[1].tolist(),
        "signals": [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)]}

def check():
    changed = [name for name, value in state().items() if value != before[name]]
    assert not changed, changed

before = state()
first = distcls.train(overrides=settings, name="first")
check()
try:
    distcls.train(overrides={**settings, "train.seed": 9}, name="first")
except UsageError as refused:
    assert "a different config" in str(refused)
else:
    raise AssertionError
try:
    distcls.train(overrides={**settings, "model.name": "nonsense"}, name="fails")
except DistclsError:
    pass
else:
    raise AssertionError
check()
distcls.train(overrides=[f"{k}={json.dumps(v)}" for k, v in {**settings, **second}.items()], name="second")
check()
assert distcls.train(overrides=settings, name="first") == first  # finished before
found = []
thread = threading.Thread(target=lambda: found.append(distcls.train(overrides=settings, name="thread")))
thread.start()
thread.join()
assert found[0].metrics == first.metrics
assert callable(distcls.train) and distcls.train.__module__ == "distcls.api"
assert first.model.predict(np.zeros((20, 30, 3), np.uint8)).label in distcls.load(first.dir).class_names
assert first.model.evaluate()["accuracy"] == first.metrics["test"]["accuracy"]
check()
print("test accuracy", first.metrics["test"]["accuracy"], sorted(path.name for path in first.dir.glob("plots/*")))
"""

INTERRUPTED = """
import json, signal, sys
import distcls
from distcls.errors import DistclsError, Preempted

settings = json.loads(sys.argv[1])
try:
    distcls.train(overrides=settings, name="a")
except Preempted as stopped:
    assert isinstance(stopped, DistclsError)
    print("stopped:", stopped)
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
run = distcls.train(overrides=settings, name="a")
print("finished", run.dir)
"""

FAILING = """
from torch import nn

fails = True

class Failing(nn.Sequential):
    passes = 0

    def forward(self, images):
        self.passes += self.training
        if fails and self.passes == 5:
            raise ValueError("the fifth forward pass")
        return super().forward(images)

def make(num_classes):
    return Failing(nn.Flatten(), nn.Linear(192, num_classes))
"""

FAILS = """
import json, sys, threading
import failing
import distcls
from distcls.errors import PeerFailed, UsageError

settings = json.loads(sys.argv[1])
before = set(threading.enumerate())

def check():
    left = set(threading.enumerate()) - before
    assert not left, left
    distributed = sys.modules["torch.distributed"]
    assert not distributed.is_initialized()

for error, wrong in (((ValueError, PeerFailed), {}), (UsageError, {"model.name": "nonsense"})):
    try:
        distcls.train(overrides={**settings, **wrong}, name="a")
    except error as caught:
        print("failed:", caught)
    else:
        raise AssertionError
    check()
failing.fails = False
run = distcls.train(overrides=settings, name="a")
check()
print("finished", run.dir)
"""


def python(tmp_path: Path, code: str, *arguments: str, **variables: str) -> subprocess.Popen:
    """A program that is not ours, as a user would start it."""
    tests = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": f"{tests.parent}:{tests}", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    environment |= variables
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(process: subprocess.Popen, seconds: float = 150) -> str:
    try:
        output, _ = process.communicate(timeout=seconds)
    finally:
        process.kill()
    assert process.returncode == 0, output
    return output


def test_importing_it_costs_next_to_nothing(tmp_path):
    assert min(float(finish(python(tmp_path, LIGHT), 60)) for _ in range(3)) < 0.1


def test_runs_in_one_process_are_those_of_processes_of_their_own(ranks):
    for name, settings in (("first-alone", SETTINGS), ("second-alone", {**SETTINGS, **SECOND})):
        ranks.run("train", "--name", name, *[f"{key}={json.dumps(value)}" for key, value in settings.items()])
    output = finish(python(ranks.folder, MANY, json.dumps(SETTINGS), json.dumps(SECOND)))
    assert "curves.png" in output
    runs = ranks.folder / "runs"
    for name in ("first", "second"):
        assert ledger.digest(runs / name, 6) == ledger.digest(runs / f"{name}-alone", 6)
    assert ledger.digest(runs / "thread", 6) == ledger.digest(runs / "first", 6)
    assert read_json(runs / "second" / "metrics.json") != read_json(runs / "first" / "metrics.json")


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_run_that_fails_leaves_nothing_behind_and_the_process_can_train_again(tmp_path, world_size):
    (tmp_path / "failing.py").write_text(FAILING)
    settings = {**SETTINGS, "model.name": "failing:make", "model.args": {}, "train.checkpoint_every": "1 steps"}
    port = free_port()
    programs = [
        python(tmp_path, FAILS, json.dumps(settings), **rank_environment(rank, world_size, port))
        for rank in range(world_size)
    ]
    try:
        outputs = [finish(program) for program in programs]
    finally:
        for program in programs:
            program.kill()
    for output in outputs:
        assert "the fifth forward pass" in output and output.count("failed:") == 2 and "finished runs/a" in output
    assert "resuming from step 4" in outputs[0]


def test_ctrl_c_saves_and_the_same_call_resumes(tmp_path):
    settings = {**SETTINGS, "train.num_steps": 500, "model.name": "ledger:make", "model.args": {"width": 8}}
    process = python(tmp_path, INTERRUPTED, json.dumps(settings))
    try:
        await_step(tmp_path / "runs" / "a", 3)
        process.send_signal(signal.SIGINT)
        output = finish(process)
    finally:
        process.kill()
    assert "stopped: stopped at step" in output and "finished runs/a" in output
    assert "resuming from step" in output
    assert read_json(tmp_path / "runs" / "a" / "status.json")["state"] == "finished"


def test_what_is_given_wrong_is_an_error_that_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"give \['optim.lr=1'\]"):
        distcls.train(overrides="optim.lr=1")
    with pytest.raises(UsageError, match="optim.lr"):
        distcls.train(overrides={"optim.lr": "fast"})
    with pytest.raises(UsageError, match="nothing.yaml"):
        distcls.train("nothing.yaml")
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        distcls.trian  # noqa: B018
    assert not (tmp_path / "runs").exists()


# A run and its model -------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path: Path) -> distcls.Run:
    """An unfinished run of images of four classes and 8 pixels."""
    return distcls.Run(Path(shutil.copytree(OLD_RUN, tmp_path / "run")))


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    """Three images in a folder of their own."""
    (tmp_path / "photos").mkdir()
    draw = np.random.default_rng(0)
    for name in ("a.png", "b.png", "c.png"):
        Image.fromarray(draw.integers(0, 256, (20, 30, 3)).astype(np.uint8)).save(tmp_path / "photos" / name)
    return sorted((tmp_path / "photos").iterdir())


def test_one_image_gives_one_prediction_and_several_give_a_list(run: distcls.Run, images: list[Path]) -> None:
    model = distcls.load(run, "cpu")
    pixels = np.stack([np.asarray(Image.open(path)) for path in images])
    expected = [model.predict(path) for path in images]
    assert {one.image for one in expected} == set(map(str, images))
    for many in (
        *(
            images,
            list(map(str, images)),
            tuple(images),
            (path for path in images),
            images[0].parent,
            str(images[0].parent),
        ),
        *(pixels, list(pixels), torch.from_numpy(pixels).permute(0, 3, 1, 2), pixels / 255),
        *([Image.open(path) for path in images], [images[0], pixels[1], Image.open(images[2])]),
    ):
        found = model.predict(many)
        assert isinstance(found, list) and len(found) == 3
        assert [one.label for one in found] == [one.label for one in expected]
        assert np.abs(np.stack([a.probs - b.probs for a, b in zip(found, expected, strict=True)])).max() < 1e-6
    first = model.predict(images[0], topk=2)
    assert isinstance(first, distcls.Prediction) and first.label == first.topk[0][0] == expected[0].label
    assert [share for _, share in first.topk] == sorted(first.probabilities.values(), reverse=True)[:2]
    assert list(first.probabilities) == model.class_names and sum(first.probabilities.values()) == pytest.approx(1)
    assert model.predict(pixels[0]).image is None and model.predict([]) == []
    assert len(model.predict(images[0], topk=99).topk) == 4


def test_embeddings_are_what_the_last_layer_gets(run: distcls.Run, images: list[Path]) -> None:
    model = distcls.load(run, "cpu")
    one, many = model.embed(images[1]), model.embed(images, batch_size=2)
    assert many.dtype == np.float32 and many.shape == (3, *one.shape) and one.ndim == 1
    assert np.abs(many[1] - one).max() < 1e-5
    head = list(model._model.network.modules())[-1]
    probs = torch.from_numpy(many).matmul(head.weight.T).add(head.bias).softmax(1).detach().numpy()
    assert np.abs(probs - np.stack([found.probs for found in model.predict(images)])).max() < 1e-5


def test_evaluate_measures_a_split_or_other_images(run: distcls.Run, images: list[Path], tmp_path: Path) -> None:
    model = distcls.load(run, "cpu")
    metrics = model.evaluate(split="val")
    assert metrics["count"] == 6 and metrics["loss"] == pytest.approx(1.1982, abs=1e-3)
    with pytest.raises(UsageError, match="split='tset': give one of train, val, test, all"):
        model.evaluate(split="tset")
    with pytest.raises(UsageError, match="--split all is for images that the run was not trained on"):
        model.evaluate(split="all")


def test_what_is_wrong_with_an_image_is_an_error_that_names_it(run: distcls.Run, images: list[Path]) -> None:
    model = distcls.load(run, "cpu")
    images[1].write_bytes(b"")
    for call in (model.predict, model.embed):
        with pytest.raises(BadDataError, match=r"b\.png: an empty file"):
            call(images)
        with pytest.raises(BadDataError, match=r"image 1: an image of int64: give uint8"):
            call([np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.int64)])
        with pytest.raises(MissingInputError, match="nothing.png: no such image"):
            call([images[0], "nothing.png"])
        with pytest.raises(BadDataError, match="photos"):  # a folder must be alone
            call([images[0], images[0].parent])
        with pytest.raises(UsageError, match="int is not an image: give a path"):
            call(3)
    with pytest.raises(UsageError, match="topk=0"):
        model.predict(images[0], topk=0)
    with pytest.raises(UsageError, match="there is no device 'gpu'"):
        distcls.load(run, "gpu")
    with pytest.raises(MissingInputError, match="no such run folder"):
        distcls.load("runs/none")


def test_a_run_says_what_it_is_and_what_it_has(run: distcls.Run) -> None:
    assert repr(run) == f"<Run {run.dir}: preempted>"
    with pytest.raises(MissingInputError, match=r"has no final metrics: the run is preempted. See curves\(\)"):
        _ = run.metrics
    metrics = {"val": {"accuracy": 0.9, "loss": 1}, "test": {"accuracy": 0.875, "loss": 1}}
    (run.dir / "metrics.json").write_text(json.dumps(metrics))
    with pytest.raises(MissingInputError, match="has no final metrics"):  # they are of before it was made longer
        _ = run.metrics
    assert repr(run) == f"<Run {run.dir}: preempted>"
    (run.dir / "status.json").write_text('{"state": "finished"}')
    assert repr(run) == f"<Run {run.dir}: finished, val accuracy 90.0%, test accuracy 87.5%>"
    assert run.metrics == metrics
    assert run.model is run.model and run == distcls.Run(run.dir)
    shown = repr(run.model)
    assert shown.startswith(f"<Classifier {run.dir}: 4 classes ('class0', 'class1', 'class2', …), 8 pixels, ")


def test_curves_are_a_table_with_pandas_and_a_dict_of_lists_without(
    run: distcls.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    find_spec = importlib.util.find_spec
    with monkeypatch.context() as patch:
        patch.setattr(importlib.util, "find_spec", lambda name: None if name == "pandas" else find_spec(name))
        columns = run.curves()
    assert columns["split"].count("val") >= 1 and {len(column) for column in columns.values()} == {len(columns["step"])}
    pandas = pytest.importorskip("pandas")
    curves = run.curves()
    assert isinstance(curves, pandas.DataFrame) and curves["step"].tolist() == columns["step"]
    val = curves[curves["split"] == "val"]
    assert val["accuracy"].dtype == float and val["accuracy"].between(0, 1).all()
