"""`distcls export RUN`: writes a run's classifier as one file for other programs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from distcls.commands.arguments import TRUST, Parser, check_can_write, settings_of_moved
from distcls.export.formats import FORMATS, TOLERANCE, ExportOptions, check_options, output_file
from distcls.runs.opening import opened_run


def main(argv: Sequence[str]) -> int:
    """Export a run. Exit code 70 if the file does not give the run's answers."""
    parser = Parser(
        prog="distcls export",
        description="Write a run's classifier as one file for other programs: uint8 images in, probabilities out, "
        "normalization inside. The file is compared with PyTorch on the run's own images before it gets its name.",
    )
    parser.add_argument("run", metavar="RUN", help="a run folder, such as runs/digits")
    formats = "; ".join(f"{name}: {kind.title}" for name, kind in FORMATS.items())
    parser.add_argument("--format", choices=FORMATS, default="onnx", help=f"{formats} (default: onnx)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="default: RUN/export/NAME with the format's suffix")
    parser.add_argument("--logits", action="store_true", help="return logits instead of probabilities")
    parser.add_argument(
        "--int8", action="store_true", help="compute with 8-bit integers; prints the accuracy that this costs"
    )
    parser.add_argument(
        "--with-resize",
        action="store_true",
        help="take one image of any size and resize it inside; prints how much it differs from distcls's own resizing",
    )
    parser.add_argument("--opset", type=int, metavar="N", help="version of ONNX's operators")
    parser.add_argument(
        "--tolerance",
        type=float,
        default=TOLERANCE,
        metavar="T",
        help=f"how far a probability may be from PyTorch's (default: {TOLERANCE}); above this, no file is written",
    )
    parser.add_argument("--data", metavar="DIR", help="where the run's images are now")
    parser.add_argument("--trust", action="store_true", help=TRUST)
    words = vars(parser.parse_intermixed_args(argv))
    run_dir, data, trust = Path(words.pop("run")), words.pop("data"), words.pop("trust")
    options = ExportOptions(**words)
    check_options(options)
    check_can_write(options.output)
    with opened_run(run_dir, ["model", "data"], settings_of_moved(data, run_dir), trust) as config:
        from distcls.export.exporting import export_run

        export_run(run_dir, config, options, output_file(run_dir, options))
    return 0
