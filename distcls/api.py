"""The Python API: train a classifier from a notebook or a script, as often as you like, and use it.

    import distcls

    run = distcls.train("configs/mine.yaml", {"optim.lr": 3e-4}, name="flowers")
    print(run.metrics["test"]["accuracy"])
    print(distcls.load(run).predict(["rose.jpg"]))

It does what the commands do, with the same settings and run folders. Mistakes and failures raise the errors of
distcls.errors.
"""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from distcls.cluster import signals, slurm
from distcls.commands.arguments import settings_of_options
from distcls.config.loading import load_config
from distcls.errors import BadDataError, MissingInputError, UsageError
from distcls.files.atomic import read_json
from distcls.runs.opening import opened_run
from distcls.runs.resuming import AlreadyFinished, default_name

_training = threading.Lock()
"""Held during a run: torch's settings and random generators, and accelerate's state, belong to the whole process."""


@dataclass(frozen=True)
class Run:
    """A finished run and its folder."""

    dir: Path

    @property
    def metrics(self) -> dict[str, dict[str, Any]]:
        """Return the final metrics: {"val": {…}, "test": {"accuracy": 0.983, …}}, fractions from 0 to 1."""
        return read_json(self.dir / "metrics.json")


@dataclass(frozen=True)
class Prediction:
    """A classifier's prediction for one image."""

    label: str
    """The most probable class."""
    probability: float
    """Its probability, from 0 to 1."""
    probabilities: dict[str, float]
    """The probability of every class, in the order of the run's classes."""


class Classifier:
    """A trained model that classifies image files or pixels. `load` returns one."""

    def __init__(self, model: Any) -> None:
        self._model = model

    @property
    def class_names(self) -> list[str]:
        """Return the class names, in the order of their ids."""
        return self._model.class_names

    def predict(self, images: Sequence[str | PathLike[str] | np.ndarray]) -> list[Prediction]:
        """Return a prediction for each image: a file's path, or uint8 RGB pixels (height, width, 3) of any size.

        Raises MissingInputError or BadDataError, naming the image that does not exist or cannot be decoded.
        """
        from distcls.inference.prediction import BATCH_SIZE, predict

        if isinstance(images, str | PathLike):
            raise UsageError(f"predict takes a list of images: give [{str(images)!r}].")
        probabilities: list[list[float]] = []
        for start in range(0, len(images), BATCH_SIZE):
            pixels = [self._pixels(image, start + i) for i, image in enumerate(images[start : start + BATCH_SIZE])]
            probabilities += predict(self._model, pixels).tolist()
        return [self._prediction(line) for line in probabilities]

    def _prediction(self, probabilities: list[float]) -> Prediction:
        by_class = dict(zip(self.class_names, probabilities, strict=True))
        label = max(by_class, key=by_class.__getitem__)
        return Prediction(label, by_class[label], by_class)

    def _pixels(self, image: str | PathLike[str] | np.ndarray, place: int) -> np.ndarray:
        """Return uint8 pixels (S, S, 3), prepared as in training."""
        from PIL import Image

        from distcls.data.decoding.decode import BadImageError, decode, fit

        if isinstance(image, np.ndarray):
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
                raise BadDataError(
                    f"image {place} is {image.dtype} {image.shape}: give uint8 RGB pixels (height, width, 3) or a path."
                )
            return np.asarray(fit(Image.fromarray(image), self._model.decoding))
        if not Path(image).exists():
            raise MissingInputError(f"{image}: no such image.")
        try:
            return decode(image, self._model.decoding)
        except BadImageError as error:
            raise BadDataError(f"{image}: {error}") from error


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
    --name of `distcls train`. A run that has already finished is returned as it is.

    Raises the errors of distcls.errors: UsageError for a mistake in the settings, BadDataError, OutOfMemoryError …;
    and Preempted if SIGINT (Ctrl-C), SIGTERM, SIGUSR1 or SIGUSR2 stopped the run: everything is saved, and the same
    call resumes it. Signals are handled in the main thread only, and their handlers are restored afterwards. A process
    trains one run at a time.
    """
    given, unless_set = settings_of_options(None if data is None else str(data), name)
    slurm.join_step()
    config_path = None if config is None else Path(config)
    settings = load_config(config_path, [*given, *_as_text(overrides)], unless_set)
    if not _training.acquire(blocking=False):
        raise UsageError("another thread of this process is training: wait for it, or use a process for each run.")
    drawn = random.getstate()
    try:
        with signals.borrowed():
            from distcls.cluster.processes import group_closed
            from distcls.report.run_report import write_report
            from distcls.training.loop import train as run_loop

            with group_closed():
                finished = run_loop(settings, default_name(settings, config_path))
            if finished.is_main:
                write_report(finished.dir)
    except AlreadyFinished as already:
        return Run(already.run_dir)
    finally:
        random.setstate(drawn)  # libraries draw while they are imported
        _training.release()
    return Run(finished.dir)


def load(run: Run | str | PathLike[str], *, trust: bool = False) -> Classifier:
    """Return a classifier with the best weights of a run, finished or not, on the CPU. run: the run, or its folder.

    trust: import the code that the run's config names, even if you did not train the run on this machine. Raises
    MissingInputError if there is no such run, UsageError if it needs code and is not trusted.
    """
    run_dir = run.dir if isinstance(run, Run) else Path(run)
    with opened_run(run_dir, ["model"], trust=trust) as config:
        from distcls.inference.classifier import load_classifier

        return Classifier(load_classifier(run_dir, config))


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
