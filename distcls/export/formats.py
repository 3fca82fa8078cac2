"""Names the formats that a run can be exported to, and refuses options and packages that a format does not have.

Imports nothing slow: `distcls export` answers mistakes before it imports torch.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from distcls.config.wording import either
from distcls.errors import MissingInputError, UsageError
from distcls.files.atomic import is_device

TOLERANCE = 1e-4
"""How far a probability may be from PyTorch's, by default."""


@dataclass(frozen=True)
class Format:
    """A kind of file. `module` writes and opens it, and is imported when it is needed."""

    module: str
    suffix: str
    title: str
    packages: tuple[str, ...] = ()
    """What it needs beyond distcls itself: the extra `export`."""
    options: tuple[str, ...] = ()
    """Options of `distcls export` that only some formats have."""


FORMATS = {
    "onnx": Format(
        "distcls.export.onnx_file",
        ".onnx",
        "ONNX, for onnxruntime: Python, browsers, phones, C++, C#",
        ("onnx", "onnxscript", "onnxruntime"),
        ("--logits", "--int8", "--with-resize", "--opset"),
    ),
    "pt2": Format("distcls.export.pt2_file", ".pt2", "torch.export, for PyTorch without distcls", (), ("--logits",)),
    "torchscript": Format(
        "distcls.export.torchscript_file", ".pt", "TorchScript, for older PyTorch and C++", (), ("--logits",)
    ),
    "safetensors": Format("distcls.export.safetensors_file", ".safetensors", "weights alone, for distcls and timm"),
}


@dataclass(frozen=True)
class ExportOptions:
    """The options of `distcls export`."""

    format: str = "onnx"
    output: Path | None = None
    """None: RUN/export/NAME with a suffix."""
    logits: bool = False
    """Return logits instead of probabilities."""
    int8: bool = False
    with_resize: bool = False
    opset: int | None = None
    """Version of ONNX's operators; None: onnx_file.OPSET."""
    tolerance: float = TOLERANCE


def check_options(options: ExportOptions) -> None:
    """Raise UsageError for an option that the format does not have, MissingInputError for a missing package."""
    given = {
        "--logits": options.logits,
        "--int8": options.int8,
        "--with-resize": options.with_resize,
        "--opset": options.opset is not None,
    }
    for option in (name for name, is_given in given.items() if is_given):
        if option not in FORMATS[options.format].options:
            having = [name for name, kind in FORMATS.items() if option in kind.options]
            raise UsageError(f"{option} is for --format {either(having)}, not {options.format}: leave it out")
    if not 0 < options.tolerance < 1:
        raise UsageError(
            f"--tolerance {options.tolerance:g}: give how far probabilities may be from PyTorch's, such as {TOLERANCE}"
        )
    if options.output is not None:
        _check_output(options.output, options.format)
    missing = [name for name in FORMATS[options.format].packages if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingInputError(
            f"--format {options.format} needs {', '.join(missing)}. Install it: pip install 'distcls[export]'"
        )


def _check_output(output: Path, format: str) -> None:
    if output.is_dir():
        raise UsageError(
            f"--output {output} is a folder: give a file, such as {output / 'flowers'}{FORMATS[format].suffix}"
        )
    if is_device(output):
        raise UsageError(
            f"--output {output} is a device, and the file is read again to prove it: give a file, such as "
            f"flowers{FORMATS[format].suffix}"
        )
    others = [name for name, kind in FORMATS.items() if name != format and kind.suffix == output.suffix]
    if others:
        raise UsageError(f"--output {output} is not the name of a {format} file: did you mean --format {others[0]}?")


def output_file(run_dir: Path, options: ExportOptions) -> Path:
    """Return the file to write: the given one, or RUN/export/NAME with what is special about it."""
    if options.output is not None:
        return options.output
    special = [("-logits", options.logits), ("-int8", options.int8), ("-with-resize", options.with_resize)]
    name = run_dir.resolve().name + "".join(word for word, is_given in special if is_given)
    return run_dir / "export" / f"{name}{FORMATS[options.format].suffix}"
