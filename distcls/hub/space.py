"""Writes the folder of a Space: a page on the Hub where anybody can try the model, which also starts anywhere else.

It holds the run as an ONNX file and the one decoder of images, so it needs neither distcls nor PyTorch, and gives the
answers of `distcls predict`.
"""

from __future__ import annotations

from pathlib import Path

import huggingface_hub

from distcls.config.settings import Config
from distcls.data.decoding import decode
from distcls.export.exporting import write_exported
from distcls.export.formats import ExportOptions
from distcls.files.atomic import printable
from distcls.hub.options import PushOptions

GRADIO = "6.31.0"
"""The version with which the page was tested; Spaces want one."""

REQUIREMENTS = f"gradio>={GRADIO}\nnumpy\nonnxruntime\npillow\n"

README = """
{name}: images in, classes out. The model is [{repo}](https://huggingface.co/{repo}).

It starts anywhere: `pip install -r requirements.txt`, then `python app.py`.
"""


def write_space_folder(folder: Path, run_dir: Path, config: Config, options: PushOptions) -> None:
    """Write app.py, requirements.txt, README.md, decode.py and model.onnx.

    Raises InexactExportError if the ONNX file does not give the run's answers, UsageError if there can be none.
    """
    write_exported(run_dir, config, ExportOptions(output=folder / "model.onnx"), folder / "model.onnx")
    app = Path(__file__).with_name("app.py").read_text(encoding="utf-8")
    ours = f"from {decode.__name__} import"
    assert ours in app
    (folder / "app.py").write_text(app.replace(ours, "from decode import"), encoding="utf-8")
    (folder / "decode.py").write_text(Path(decode.__file__).read_text(encoding="utf-8"), encoding="utf-8")
    (folder / "requirements.txt").write_text(REQUIREMENTS, encoding="utf-8")
    header = huggingface_hub.SpaceCardData(
        title=printable(options.name), sdk="gradio", sdk_version=GRADIO, app_file="app.py", models=[options.repo]
    ).to_yaml()
    text = README.format(name=options.name, repo=options.repo)
    (folder / "README.md").write_text(printable(f"---\n{header}\n---\n{text}"), encoding="utf-8")
