"""Keeps what a report shows of a model: where it looked, what its layers see, and how large and fast it is.

A model of a user's own may have no feature maps, or fail when it is taken apart: that must not fail the run. Its report
then says what it lacks, and why.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from distcls.data.split import Data
from distcls.inference.classifier import Classifier
from distcls.inference.metrics import SplitMetrics
from distcls.runs.folder import RunFolder
from distcls.runs.results import EXPLAINED, Pictures, save_pictures
from distcls.training.kept.model_description import describe_model
from distcls.training.kept.pictures import explain_pictures, picture_layers


def explain(
    run: RunFolder,
    classifier: Classifier,
    data: Data,
    measured: Mapping[str, SplitMetrics],
    pictures: Mapping[str, Pictures],
) -> None:
    """Write pictures/, with Grad-CAM and pictures of layers added, and explained.json. Raises DiskError."""
    left_out: dict[str, str] = {}

    def attempt(name: str, make: Callable[[], dict]) -> dict:
        try:
            return make()
        except Exception as error:
            left_out[name] = (str(error).strip() or type(error).__name__).splitlines()[0]
            return {}

    split = data.test or data.val
    explained = {}
    if split is not None:
        preds = measured[split.name].preds
        explained = attempt("gradcam", lambda: explain_pictures(classifier, split, preds, pictures))
    layers = attempt("layers", lambda: picture_layers(classifier, (split or data.train).whole_image(0, data.decoding)))
    save_pictures(run.dir, {**pictures, **explained, **layers})
    model = attempt("model", lambda: describe_model(classifier, run.config.model.name))
    run.write_json(EXPLAINED, {"model": model, "left_out": left_out})
