"""Ends a run: evaluates its best weights, and saves everything that people and later commands will want.

Plots are drawn afterwards, from the run folder alone (report/run_report.py).
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import shlex

import numpy as np
import torch

from distcls.config.wording import count
from distcls.data.augmentation.batchwise import Augmentation
from distcls.data.loading.loader import train_batches
from distcls.data.split import Data, Split
from distcls.errors import DivergedError, Preempted
from distcls.inference.classifier import Classifier, write_model
from distcls.inference.evaluator import Evaluator
from distcls.inference.intervals import summarize
from distcls.inference.metrics import SplitMetrics, worst_confusions
from distcls.inference.probabilities import Probabilities
from distcls.models.weights import load_weights
from distcls.plan.batches import BatchPlan
from distcls.runs.folder import RunFolder
from distcls.runs.results import Pictures, Predictions, save_pictures, save_predictions
from distcls.runs.tracking.sender import problems
from distcls.training.checkpoint import Checkpoints
from distcls.training.state import TrainState
from distcls.training.watch import WENT_BAD

NUM_PICTURES = 36


def finish(
    state: TrainState,
    data: Data,
    plan: BatchPlan,
    augment: Augmentation,
    evaluate: Evaluator,
    checkpoints: Checkpoints,
    run: RunFolder,
) -> None:
    """Evaluate the best weights on val and, for the first time, on test; write the run's results.

    This loads the best weights into the state. All processes evaluate; the main one writes.
    """
    run.at(state.step, "finish")
    run.processes.wait_for_everyone()  # the best weights may still have been on their way to the disk
    module = state.eval_module
    if state.position.best_step is not None:
        load_weights(module, checkpoints.read_best(state.position.best_step))
    classifier = Classifier(module, run.config, data.class_names, data.decoding, tta=run.config.train.tta)
    measured, kept = {}, {}
    for split in (data.val, data.test):
        if split is not None:
            probabilities = Probabilities(len(split), len(data.class_names), evaluate.batch_size, run.processes)
            metrics = evaluate(classifier, split, probabilities)
            if metrics is None:
                raise Preempted("stopped during the final evaluation: run the same command to resume.")
            if not math.isfinite(metrics.values["loss"]):
                raise DivergedError(
                    f"the best weights give a loss of {metrics.values['loss']} on {split.name}: the last steps were "
                    "too large. Start another run with a lower optim.lr, or with train.max_grad_norm=1."
                )
            measured[split.name], kept[split.name] = metrics, probabilities
    went_bad = any(run.processes.from_all((run.dir / WENT_BAD).exists()))  # perhaps on another machine
    run.processes.expect_progress(None)  # the others wait while the main process writes
    if not run.processes.is_main:
        return
    for name, metrics in measured.items():
        if name == "test":
            run.track(step=state.step, epoch=plan.epoch(state.step), split=name, **metrics.scores)
    write_model(run.dir / "model", classifier, run.config)
    summaries = {name: summarize(metrics, data.class_names) for name, metrics in measured.items()}
    run.write_json("metrics.json", summaries)
    for split in data.splits():
        if split.name in measured:
            save_predictions(run.dir, split.name, _predictions(split, measured[split.name], kept[split.name]))
            rounded = kept[split.name].describe()
            if rounded is not None:
                run.progress.note(f"predictions/{split.name}.npz has probabilities {rounded}, to save space")
    save_pictures(run.dir, _choose_pictures(data, measured, first_images(data, plan, augment, run)))
    run.write_json("kept.json", {"step": state.position.best_step})
    skipped = state.position.skipped_steps
    if skipped:
        run.progress.note(
            f"{count(skipped, 'step')} of {state.step:,} changed no weights: a gradient overflowed in fp16"
        )
    if went_bad:
        run.progress.warning(
            f"some images became unreadable during training ({run.dir / WENT_BAD}): a new run would give "
            "different weights."
        )
    folder = shlex.quote(str(run.dir))
    for problem in problems(run.dir, run.config.run.trackers):
        run.progress.warning(f"{problem}: distcls track {folder} sends the rest later")
    last = measured.get("test") or measured.get("val")
    measured_on = "" if data.test else " --split val" if data.val else " --split train"
    run.progress.finish(
        summaries,
        worst_confusions(last.confusion, data.class_names) if last is not None else [],
        f"distcls eval {folder}{measured_on}\ndistcls predict {folder} IMAGE…"
        + (f"\ntensorboard --logdir {folder}/tb" if "tensorboard" in run.config.run.trackers else ""),
    )


def _predictions(split: Split, metrics: SplitMetrics, kept: Probabilities) -> Predictions:
    return Predictions(
        names=np.array([split.image_name(i) for i in range(len(split))]),
        labels=split.labels,
        preds=metrics.preds,
        confidence=metrics.confidence,
        probs=kept.probs,
        classes=kept.classes,
    )


def _choose_pictures(
    data: Data, measured: dict[str, SplitMetrics], batch: tuple[np.ndarray, list[str]]
) -> dict[str, Pictures]:
    """Return training images as the model saw them, and from test (or val) a sample and the most confident mistakes."""
    pictures = {"train_batch": Pictures(list(batch[0]), batch[1])}
    split = data.test or data.val
    if split is None:
        return pictures
    metrics = measured[split.name]
    some = np.linspace(0, len(split) - 1, min(NUM_PICTURES, len(split))).astype(int)
    wrong = np.flatnonzero(metrics.preds != split.labels)
    worst = wrong[np.argsort(-metrics.confidence[wrong], kind="stable")][:NUM_PICTURES]
    for name, chosen in (("predictions", some), ("worst_mistakes", worst)):
        if len(chosen):
            pictures[name] = Pictures([split.image(int(i)) for i in chosen], places=chosen.tolist())
    return pictures


def first_images(data: Data, plan: BatchPlan, augment: Augmentation, run: RunFolder) -> tuple[np.ndarray, list[str]]:
    """Return images of the first micro-batches as the model saw them, uint8 (n, H, W, 3), and their classes.

    A batch is a function of the plan, so it can be rebuilt after the run.
    """
    take_turns = run.config.augment.mixup and run.config.augment.cutmix
    most = NUM_PICTURES // 3 if take_turns else NUM_PICTURES  # of one micro-batch
    few_steps = dataclasses.replace(plan, total_steps=NUM_PICTURES)
    batches = train_batches(data.train, few_steps, run.config.augment, run.processes.device, workers=0, start=0)
    pixels: list[np.ndarray] = []
    titles: list[str] = []
    for batch in itertools.chain.from_iterable(batches):
        images, targets = augment(batch)
        shown = slice(min(most, NUM_PICTURES - len(pixels)))
        pixels.extend(augment.normalize.undo(images[shown].float()).cpu().numpy())
        shares, classes = targets[shown].topk(2, 1) if targets.ndim == 2 else (None, batch.labels[shown, None])
        titles += [_title(data.class_names, classes[i].tolist(), shares, i) for i in range(len(classes))]
        if len(pixels) == NUM_PICTURES:
            break
    return np.stack(pixels), titles


def _title(class_names: list[str], classes: list[int], shares: torch.Tensor | None, i: int) -> str:
    if shares is None or shares[i, 1] < 0.005:
        return class_names[classes[0]]
    return "\n".join(f"{share:.0%} {class_names[c]}" for c, share in zip(classes, shares[i].tolist(), strict=True))
