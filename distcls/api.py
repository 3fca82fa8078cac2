"""The Python API: train a classifier from a notebook or a script, as often as you like, and use it.

    import distcls

    run = distcls.train("configs/mine.yaml", {"optim.lr": 3e-4}, name="flowers")
    print(run.metrics["test"]["accuracy"])
    print(run.model.predict("rose.jpg"))

It does what the commands do, with the same settings and run folders. Mistakes and failures raise the errors of
distcls.errors.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import random
import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any, overload

import numpy as np

from distcls.cluster import signals, slurm
from distcls.commands.arguments import settings_of_options
from distcls.commands.evaluate import PARTS, SPLITS, settings_of_images
from distcls.config.loading import load_config
from distcls.errors import MissingInputError, UsageError
from distcls.files.atomic import read_json
from distcls.inference.answers.prediction import BATCH_SIZE, SHOWN, Prediction
from distcls.runs.opening import opened_run
from distcls.runs.resuming import AlreadyFinished, default_name
from distcls.runs.status import SETTLED, state_of
from distcls.runs.tracking.metrics_file import read_metrics

OneImage = Any
"""A path, a PIL image, a NumPy array (height, width[, channels]) or a torch tensor ([channels, ]height, width)."""

# In a notebook, tqdm asks for Jupyter's widgets when a library of weights imports it; nothing here needs them.
warnings.filterwarnings("ignore", message="IProgress not found")

_training = threading.Lock()
"""Held during a run: torch's settings and random generators, and accelerate's state, belong to the whole process."""


@dataclass(frozen=True, repr=False)
class Run:
    """A run and its folder."""

    dir: Path

    @property
    def metrics(self) -> dict[str, dict[str, Any]]:
        """Return the final metrics: {"val": {…}, "test": {"accuracy": 0.983, …}}, fractions from 0 to 1.

        Raises MissingInputError if the run has not finished.
        """
        if not self._has_metrics():
            raise MissingInputError(f"{self.dir} has no final metrics: the run is {state_of(self.dir)}. See curves().")
        return read_json(self.dir / "metrics.json")

    def _has_metrics(self) -> bool:
        """True if there are metrics of the run's weights. In an unfinished run, they are of before it was extended."""
        return state_of(self.dir) in SETTLED and (self.dir / "metrics.json").exists()

    def curves(self) -> Any:
        """Return all rows of metrics.csv: a pandas DataFrame, or if pandas is not installed a dict of lists.

        A row of the split "train" comes every few steps, one of "val" after each evaluation, one of "test" at the end.
        """
        rows = read_metrics(self.dir / "metrics.csv")
        columns = {
            name: [row.get(name) for row in rows] for name in dict.fromkeys(name for row in rows for name in row)
        }
        if importlib.util.find_spec("pandas") is None:
            return columns
        import pandas  # takes a second

        return pandas.DataFrame(columns)

    @cached_property
    def model(self) -> Classifier:
        """Return the classifier with the best weights of the run, loaded once; `load` has more options."""
        return load(self)

    def __repr__(self) -> str:
        state = state_of(self.dir) or "unknown"
        shown = [f"<Run {self.dir}: {state}"]
        if self._has_metrics():
            shown += [f"{split} accuracy {found['accuracy']:.1%}" for split, found in self.metrics.items()]
        return ", ".join(shown) + ">"


class Classifier:
    """A trained model that classifies images. `load` returns one.

    Images are given as paths of files, PIL images, NumPy arrays or torch tensors of any size; they are prepared as in
    training. Arrays are uint8, or floats from 0 to 1: (height, width), (height, width, 3) in RGB, or (height, width, 4)
    with transparency. Tensors are the same, with the channels first. A batch has one dimension more.
    """

    def __init__(self, model: Any, run_dir: Path, trust: bool) -> None:
        """Use `load` instead."""
        self._model, self._run_dir, self._trust = model, run_dir, trust

    @property
    def class_names(self) -> list[str]:
        """Return the class names, in the order of their ids."""
        return self._model.class_names

    @property
    def image_size(self) -> int:
        """Return the side of the square that images are resized to, in pixels."""
        return self._model.decoding.image_size

    @property
    def device(self) -> str:
        """Return the device that the model computes on, such as "cpu" or "cuda"."""
        return str(self._model.device)

    def __repr__(self) -> str:
        names = self.class_names
        shown = ", ".join(map(repr, names[:3])) + (", …" if len(names) > 3 else "")
        return f"<Classifier {self._run_dir}: {len(names)} classes ({shown}), {self.image_size} pixels, {self.device}>"

    @overload
    def predict(self, images: list[Any], topk: int = SHOWN, batch_size: int = BATCH_SIZE) -> list[Prediction]: ...
    @overload
    def predict(self, images: Any, topk: int = SHOWN, batch_size: int = BATCH_SIZE) -> Any: ...

    def predict(self, images: OneImage | Iterable[OneImage], topk: int = SHOWN, batch_size: int = BATCH_SIZE) -> Any:
        """Return a Prediction for one image; a list of them for several, or for the path of a folder of images.

        topk: how many classes Prediction.topk lists. Raises MissingInputError or BadDataError, naming the images that
        do not exist or cannot be read, and UsageError for things that are not images.
        """
        from distcls.inference.prediction import images_given, predictions, refusing_bad

        if topk < 1 or batch_size < 1:
            raise UsageError(f"topk={topk}, batch_size={batch_size}: both must be 1 or more.")
        given = images_given(images)
        batches = predictions(self._model, given.images, topk, batch_size, given.workers)
        found = [prediction for batch in refusing_bad(batches) for prediction in batch]
        return found[0] if given.is_one else found

    def embed(self, images: OneImage | Iterable[OneImage], batch_size: int = BATCH_SIZE) -> np.ndarray:
        """Return the features of one image, float32 (F,), or of several, (n, F): what the network's last layer gets.

        images and errors: see `predict`.
        """
        from distcls.inference.prediction import images_given, outputs, refusing_bad

        given = images_given(images)
        batches = outputs(self._model, self._model.features, given.images, batch_size, given.workers)
        found = [features.float().flatten(1).numpy() for features in refusing_bad(batches)]
        if not found:
            raise UsageError("embed needs at least one image.")
        return found[0][0] if given.is_one else np.concatenate(found)

    def evaluate(self, data: str | PathLike[str] | None = None, split: str | None = None) -> dict[str, Any]:
        """Return the metrics of the run's weights: {"accuracy": 0.983, …, "by_class": {…}}, as in metrics.json.

        data: other images, in folders with the run's class names, or where the run's images are now. split: "test",
        "val", "train", or "all", which is every image of `data`. The default is all images of `data`, or without it
        the run's test split. Raises UsageError if the split is not the one that the run set aside, or while another
        thread trains.
        """
        split = split or ("test" if data is None else "all")
        if split not in SPLITS:
            raise UsageError(f"split={split!r}: give one of {', '.join(SPLITS)}.")
        device = f"run.device={self._model.device.type}"
        settings = settings_of_images(self._run_dir, None if data is None else str(data), split, [device])
        with opened_run(self._run_dir, PARTS, settings, self._trust) as config:
            from distcls.cluster.processes import Processes
            from distcls.inference.evaluation import evaluate, open_run

            with _alone(), Processes(config.run.device) as processes:
                return evaluate([open_run(self._run_dir, config, split)], split, processes).summary()


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Keep other threads from training or evaluating meanwhile: Accelerate's state is the whole process's."""
    if not _training.acquire(blocking=False):
        raise UsageError("another thread of this process is training: wait for it, or use a process for each run.")
    try:
        yield
    finally:
        _training.release()


def train(
    config: str | PathLike[str] | None = None,
    overrides: Mapping[str, Any] | Sequence[str] = (),
    *,
    data: str | PathLike[str] | None = None,
    name: str | None = None,
) -> Run:
    """Train a classifier, or resume the run if it was stopped, and return the finished run.

    config: a YAML file; without one, the defaults. overrides: settings that replace those of the file, as a dict
    such as {"optim.lr": 3e-4, "train.num_epochs": 10}, or as a list of "key=value". data and name: like --data and
    --name of `distcls train`. With a name (or run.dir), a run that has already finished is returned as it is; without
    one, the same call trains another, in runs/photos-2.

    Raises the errors of distcls.errors: UsageError for a mistake in the settings, BadDataError, OutOfMemoryError …;
    and Preempted if SIGINT (Ctrl-C), SIGTERM, SIGHUP, SIGUSR1 or SIGUSR2 stopped the run: everything is saved, and the
    same call resumes it. Signals are handled in the main thread only, and their handlers are restored afterwards. A
    process trains one run at a time.
    """
    given, unless_set = settings_of_options(None if data is None else str(data), name)
    slurm.join_step()
    config_path = None if config is None else Path(config)
    settings = load_config(config_path, [*given, *_as_text(overrides)], unless_set)
    drawn = random.getstate()
    try:
        with _alone(), signals.borrowed():
            from distcls.cluster.processes import group_closed
            from distcls.report.run_report import write_report
            from distcls.training.loop import train as run_loop

            with group_closed():
                finished = run_loop(settings, default_name(settings, config_path))
            if finished.is_main:
                write_report(finished.dir)
            if finished.tracker is not None:
                finished.tracker.wait()  # a script's container ends with it
    except AlreadyFinished as already:
        return Run(already.run_dir)
    finally:
        random.setstate(drawn)  # libraries draw while they are imported
    return Run(finished.dir)


def load(run: Run | str | PathLike[str], device: str | None = None, *, trust: bool = False) -> Classifier:
    """Return a classifier with the best weights of a run, finished or not. run: the run, or its folder.

    device: "cpu", "cuda" or "mps"; None: the GPU if there is one. trust: import the code that the run's config names,
    even if you did not train the run on this machine. Raises MissingInputError if there is no such run, UsageError if
    it needs code and is not trusted, or if there is no such device.
    """
    run_dir = run.dir if isinstance(run, Run) else Path(run)
    with opened_run(run_dir, ["model"], trust=trust) as config:
        from distcls.inference.classifier import load_classifier
        from distcls.inference.prediction import choose_device

        return Classifier(load_classifier(run_dir, config).to(choose_device(device)), run_dir, trust)


def _as_text(overrides: Mapping[str, Any] | Sequence[str]) -> list[str]:
    """Return settings as key=value text. Values are JSON, which YAML reads."""
    if isinstance(overrides, str):
        raise UsageError(f"overrides must be a dict or a list of settings, not a string: give [{overrides!r}].")
    if not isinstance(overrides, Mapping):
        return list(overrides)
    return [f"{key}={json.dumps(value, ensure_ascii=False, default=_plain)}" for key, value in overrides.items()]


def _plain(value: Any) -> Any:
    """Return NumPy numbers as Python numbers, and paths as text."""
    return value.item() if isinstance(value, np.generic) else str(value)
