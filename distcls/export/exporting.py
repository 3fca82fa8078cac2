"""`distcls export`: writes a run's classifier as one file, and proves the file before it gets its name."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from distcls.config.settings import Config
from distcls.errors import InexactExportError, MissingInputError
from distcls.export import int8, onnx_file
from distcls.export.formats import FORMATS, ExportOptions
from distcls.export.metadata import describe, describe_int8, describe_resizing
from distcls.export.own_images import OwnImages, find_images, stand_ins
from distcls.export.portable import Portable
from distcls.export.proof import (
    BATCH_SIZES,
    REFERENCE_BATCH,
    compare,
    in_batches,
    prove,
    refuse_above,
)
from distcls.export.resizing import Resizing
from distcls.files.atomic import folder_beside, naming_disk_errors, put_file_in_place
from distcls.inference.classifier import load_classifier
from distcls.models.init_from import find_weights
from distcls.runs.status import warn_if_unfinished

NUM_PROVEN = 100
"""Images with which a file is proven."""
NUM_SCORED, NUM_CALIBRATION = 1000, 200
"""Images for int8, and those of them with which it is calibrated; its accuracy is measured on the others."""
NUM_RESIZED = 50
"""Files whose resizing is compared with Pillow's."""

LARGEST_PIXEL_DIFFERENCE = 2.0
"""Of 255 levels, on average over an image's pixels: where resizing inside a file differs more, there is no file."""
LARGEST_INT8_LOSS = 0.005
"""A larger loss of accuracy is worth a warning."""


def export_run(run_dir: Path, config: Config, options: ExportOptions, output: Path) -> None:
    """Export a run's best weights, and print how well the file agrees with PyTorch, its path and its size."""
    write_exported(run_dir, config, options, output)
    print(f"{output}  {_megabytes(output)}")


def write_exported(run_dir: Path, config: Config, options: ExportOptions, output: Path) -> None:
    """Export a run's best weights, and print how well the file agrees with PyTorch.

    config: the run's, with where its images are now. Raises InexactExportError, and writes nothing, if the file does
    not agree; UsageError if the network cannot be exported.
    """
    in_float32 = config.replaced({"train.precision": "float32"})
    portable = Portable(load_classifier(run_dir, in_float32), options.logits).eval()
    warn_if_unfinished(run_dir)
    images = _find_images(run_dir, config, options, portable)
    proven_on = images.spread(NUM_PROVEN)
    _say_precision(run_dir, config, portable, proven_on)
    metadata = describe(portable, in_float32, find_weights(run_dir))
    with naming_disk_errors(output):
        output.parent.mkdir(parents=options.output is None, exist_ok=True)
        with folder_beside(output) as folder:
            file = _write_proven(folder / output.name, portable, metadata, options, proven_on)
            if options.int8:
                metadata |= describe_int8(images.spread(NUM_CALIBRATION).title)
                file = _quantized(file, metadata, portable, images)
            if options.with_resize:
                metadata |= describe_resizing()
                file = _with_resizing(file, metadata, portable, images.spread(NUM_RESIZED))
            put_file_in_place(file, output)


def _find_images(run_dir: Path, config: Config, options: ExportOptions, portable: Portable) -> OwnImages:
    """Return the run's own images; where the options can do without, pictures from its folder."""
    classifier, most = portable.classifier, NUM_SCORED if options.int8 else NUM_PROVEN
    try:
        return find_images(run_dir, config, classifier.class_names, classifier.decoding, most)
    except MissingInputError as error:
        needs = "--int8" if options.int8 else "--with-resize" if options.with_resize else None
        if needs is not None:
            raise MissingInputError(f"{needs} needs the run's images. {error}") from error
        print(f"note: proven without the run's images. {error}", file=sys.stderr)
        return stand_ins(run_dir, classifier.decoding)


def _say_precision(run_dir: Path, config: Config, portable: Portable, images: OwnImages) -> None:
    """Print how much float32 changes, for a run that was trained in another precision."""
    precision = config.train.precision
    if precision == "float32":
        return
    as_trained = Portable(load_classifier(run_dir, config), portable.gives_logits).eval()
    before, after = (in_batches(one.predict, images.pixels, REFERENCE_BATCH) for one in (as_trained, portable))
    difference = compare(before, after, portable.gives_logits)
    _say(
        "precision",
        f"trained in {precision}, the file computes in float32: probabilities differ by",
        f"at most {difference.largest_difference:.2g}; the same class for "
        f"{difference.num_same_class} of {images.title}",
    )


def _write_proven(
    file: Path, portable: Portable, metadata: Mapping[str, str], options: ExportOptions, images: OwnImages
) -> Path:
    """Write the file, and return it if it agrees with PyTorch."""
    kind: Any = importlib.import_module(FORMATS[options.format].module)
    kind.write_file(file, portable, metadata, options)
    agreement = prove(kind.open_file(file, portable), portable, images.pixels)
    refuse_above(agreement, options.tolerance)
    sizes = f"{', '.join(map(str, BATCH_SIZES[:-1]))} and {BATCH_SIZES[-1]}"
    _say(
        options.format,
        f"proven on {images.title} in batches of {sizes}: the same class as",
        f"PyTorch for {agreement.num_same_class}, probabilities differ by at most {agreement.largest_difference:.2g}",
    )
    return file


def _quantized(file: Path, metadata: Mapping[str, str], portable: Portable, images: OwnImages) -> Path:
    """Return the int8 version of an ONNX file, and print what it costs."""
    small = file.with_suffix(".int8.onnx")
    int8.quantize(file, small, images.spread(NUM_CALIBRATION).pixels)
    onnx_file.save_with(small, metadata)
    others = images.without(NUM_CALIBRATION)
    if len(others.pixels):
        images = others
    in_float32, in_int8 = (
        in_batches(onnx_file.open_file(one), images.pixels, REFERENCE_BATCH) for one in (file, small)
    )
    before, after = (float((outputs.argmax(1) == images.labels).mean()) for outputs in (in_float32, in_int8))
    same = compare(in_int8, in_float32, portable.gives_logits).num_same_class
    _say(
        "int8",
        f"accuracy {after:.4f} on {images.title}, {before:.4f} in float32;",
        f"the same class for {same}; {_megabytes(small)} instead of {_megabytes(file)}",
    )
    if before - after > LARGEST_INT8_LOSS:
        print(
            f"warning: int8 costs {100 * (before - after):.1f} points of accuracy. Without --int8 nothing is lost",
            file=sys.stderr,
        )
    return small


def _with_resizing(file: Path, metadata: Mapping[str, str], portable: Portable, images: OwnImages) -> Path:
    """Return a version of an ONNX file that takes an image of any size, and print how it differs from Pillow's."""
    decoding = portable.classifier.decoding
    resizing, joined = file.with_suffix(".resizing.onnx"), file.with_suffix(".joined.onnx")
    onnx_file.write_resizing(resizing, Resizing(decoding), onnx_file.opset_of(file))
    onnx_file.join(joined, resizing, file, metadata)
    resize, whole, plain = (onnx_file.open_file(one) for one in (resizing, joined, file))
    levels, given = [], []
    for image, pixels in zip(images.originals(decoding), images.pixels.astype(np.int16), strict=True):
        levels.append(float(np.abs(resize(image)[0] - pixels).mean()))
        given.append(whole(image))
    mean, worst = float(np.mean(levels)), max(levels)
    if not worst <= LARGEST_PIXEL_DIFFERENCE:
        raise InexactExportError(
            f"resizing inside the file changes pixels by {worst:.2f} of 255 on average over an image, more than "
            f"{LARGEST_PIXEL_DIFFERENCE:g}: leave out --with-resize, and resize with Pillow"
        )
    expected = in_batches(plain, images.pixels, REFERENCE_BATCH)
    agreement = compare(np.concatenate(given), expected, portable.gives_logits)
    _say(
        "resizing",
        f"pixels differ from Pillow's by {mean:.2g} of 255, {worst:.2g} in the worst image;",
        f"probabilities by at most {agreement.largest_difference:.2g}, the same class for "
        f"{agreement.num_same_class} of {images.title}",
    )
    return joined


def _say(label: str, *lines: str) -> None:
    """Print lines with a label beside the first."""
    for line in lines:
        print(f"{label:<12}{line}")
        label = ""


def _megabytes(file: Path) -> str:
    return f"{file.stat().st_size / 1e6:,.2f} MB"
