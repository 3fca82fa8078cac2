"""Ends a run: evaluates its best weights, and saves everything that people and later commands will want.

Plots are drawn afterwards, from the run folder alone (report/run_report.py).
"""

from __future__ import annotations

import math
import shlex

from distcls.config.wording import count
from distcls.data.augmentation.batchwise import Augmentation
from distcls.data.split import Data
from distcls.errors import DivergedError, Preempted
from distcls.inference.classifier import Classifier, write_model
from distcls.inference.evaluator import Evaluator
from distcls.inference.intervals import summarize
from distcls.inference.metrics import worst_confusions
from distcls.inference.probabilities import Probabilities
from distcls.models.weights import load_weights
from distcls.plan.batches import BatchPlan
from distcls.runs.folder import RunFolder
from distcls.runs.results import save_predictions
from distcls.runs.tracking.sender import problems
from distcls.training.checkpoint import Checkpoints
from distcls.training.kept.explanations import explain
from distcls.training.kept.pictures import choose_pictures, first_images
from distcls.training.state import TrainState
from distcls.training.watch import WENT_BAD


def finish(
    state: TrainState,
    data: Data,
    seen: Data,
    plan: BatchPlan,
    augment: Augmentation,
    evaluate: Evaluator,
    checkpoints: Checkpoints,
    run: RunFolder,
) -> None:
    """Evaluate the best weights on val and, for the first time, on test; write the run's results.

    This loads the best weights into the state. All processes evaluate; the main one writes. seen: what was trained and
    evaluated on, the data or their features (training/features.py).
    """
    run.at(state.step, "finish")
    run.processes.wait_for_everyone()  # the best weights may still have been on their way to the disk
    module = state.eval_module
    if state.position.best_step is not None:
        load_weights(module, checkpoints.read_best(state.position.best_step))
    classifier = Classifier(module, run.config, data.class_names, data.decoding, tta=run.config.train.tta)
    measured, kept = {}, {}
    has_views = run.config.train.tta != "none"  # of images, not of features
    for split in (data.val if has_views else seen.val, data.test):
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
    splits = [split for split in data.splits() if split.name in measured]
    summaries = {one.name: summarize(measured[one.name], data.class_names, one.groups) for one in splits}
    run.write_json("metrics.json", summaries)
    for split in splits:
        save_predictions(run.dir, split.name, kept[split.name].predictions(split, measured[split.name]))
        rounded = kept[split.name].describe()
        if rounded is not None:
            run.progress.note(f"predictions/{split.name}.npz has probabilities {rounded}, to save space")
    pictures = choose_pictures(data, measured, first_images(data, plan, augment, run))
    explain(run, classifier, data, measured, pictures)
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
