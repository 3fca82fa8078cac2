"""The demo page of `distcls serve --demo`: images in, classes out, and where the model looked."""

from __future__ import annotations

import asyncio
import copy
import hmac
import io
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from fastapi import FastAPI
from markupsafe import Markup
from PIL import Image

from distcls.config.wording import count
from distcls.data.decoding.decode import decode
from distcls.errors import UsageError
from distcls.files.atomic import printable
from distcls.inference.answers.prediction import SHOWN
from distcls.inference.classifier import Classifier
from distcls.inference.gradcam import grad_cam, gradcam_layer, overlay
from distcls.report.html.page import data_uri
from distcls.serving.app import Service
from distcls.serving.bodies import Upload
from distcls.serving.demo_pictures import DemoPictures, Mistake
from distcls.serving.gate import DEMO
from distcls.serving.problems import Problem

MOST_IMAGES = 10

SHOWN_FIRST = 12
"""Mistakes, until somebody moves the slider."""

CSS = """
.dc-cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 300px), 1fr)); gap: 12px }
.dc-card { border: 1px solid var(--border-color-primary); border-radius: 8px; padding: 12px; min-width: 0;
  background: var(--block-background-fill) }
.dc-pair { display: flex; gap: 8px; margin-bottom: 8px }
.dc-pair img { width: 128px; max-width: calc(50% - 4px); aspect-ratio: 1; object-fit: contain; border-radius: 4px }
.dc-pair img.small { image-rendering: pixelated }
.dc-row { display: grid; grid-template-columns: minmax(0, 2fr) 3fr 4em; gap: 8px; align-items: center;
  font-size: 14px; line-height: 1.7 }
.dc-row span { overflow: hidden; text-overflow: ellipsis; white-space: nowrap }
.dc-row b { text-align: right; font-weight: 400; font-variant-numeric: tabular-nums }
.dc-bar { background: var(--border-color-primary); border-radius: 3px; height: 10px }
.dc-bar i { display: block; background: var(--color-accent); border-radius: 3px; height: 10px; min-width: 1px }
.dc-name { color: var(--body-text-color-subdued); font-size: 13px; overflow-wrap: anywhere }
.dc-card p { margin: 2px 0 }
"""

CARDS = Markup('<div class="dc-cards">{}</div>')
CARD = Markup('<div class="dc-card"><div class="dc-pair">{}</div>{}<p class="dc-name">{}</p></div>')
PICTURE = Markup('<img class="{}" src="{}" alt="{}">')
ROW = Markup(
    '<div class="dc-row"><span title="{0}">{0}</span><div class="dc-bar"><i style="width:{1:.1f}%"></i></div>'
    "<b>{2:.1%}</b></div>"
)
LINE = Markup("<p>{}</p>")


class HeatMaker:
    """Computes Grad-CAM beside the network that answers requests: the same weights, in modules of its own.

    Grad-CAM hangs hooks on modules, which another thread's images would run into.
    """

    def __init__(self, classifier: Classifier) -> None:
        """Raise UsageError if the network has no layer that is laid out like the image."""
        shared = {id(tensor): tensor for tensor in [*classifier.parameters(), *classifier.buffers()]}
        self.classifier = copy.deepcopy(classifier, shared)
        self.layer = gradcam_layer(self.classifier)
        self._lock = threading.Lock()

    def __call__(self, pixels: np.ndarray, name: str) -> np.ndarray:
        """Return an image, uint8 (S, S, 3), with the heat map of a class over it."""
        classes = np.array([self.classifier.class_names.index(name)])
        with self._lock:
            return overlay(pixels, grad_cam(self.classifier, pixels[None], classes, self.layer)[0])


def mount_demo(app: FastAPI, service: Service, pictures: DemoPictures) -> FastAPI:
    """Return the application with the page at /demo. With a token, the page asks for it as a password."""
    token = service.options.token

    def is_right(_: str, password: str) -> bool:
        return hmac.compare_digest(password.encode(), (token or "").encode())

    return gr.mount_gradio_app(
        app,
        build_page(service, pictures),
        DEMO.rstrip("/"),
        auth=None if token is None else is_right,
        auth_message="Any user name, and the service's token as the password.",
        footer_links=[],
        max_file_size=service.options.limits.max_bytes,
        show_error=True,
        ssr_mode=False,
        theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        css=CSS,
    )


def build_page(service: Service, pictures: DemoPictures) -> gr.Blocks:
    """Return the page of a run."""
    backend = service.backend
    try:
        heat_maker = HeatMaker(backend.classifier)
        no_heat = None
    except UsageError as error:
        heat_maker, no_heat = None, str(error)

    async def classify(given: list[tuple[str, Any]] | None, topk: float, with_heat: bool) -> str:
        return await _classify(service, heat_maker if with_heat else None, given or [], int(topk))

    def show_mistakes(number: float, with_heat: bool) -> str:
        return _mistake_cards(pictures.mistakes[: int(number)], with_heat)

    title, num_classes = printable(service.options.name), len(backend.class_names)
    with gr.Blocks(analytics_enabled=False, title=title) as page:
        gr.Markdown(f"# {_plain(title)}\n{count(num_classes, 'class')}")
        with gr.Tab("Classify"):
            given = gr.Gallery(
                label=f"Up to {MOST_IMAGES} images",
                sources=["upload", "webcam", "clipboard"],
                interactive=True,
                columns=5,
                fit_columns=False,
                height=260,
                file_types=["image"],
                elem_id="given",
            )
            with gr.Row():
                first = min(SHOWN, num_classes)  # Gradio refuses values above the maximum
                topk = gr.Slider(1, min(10, num_classes), first, step=1, label="Classes to show", min_width=260)
                with_heat = gr.Checkbox(
                    label="Show where the model looked (Grad-CAM)",
                    interactive=no_heat is None,
                    info=no_heat,
                    min_width=260,
                )
            button = gr.Button("Classify", variant="primary")
            answers = gr.HTML(elem_id="answers")
            asked = [given, topk, with_heat]
            button.click(classify, asked, answers, api_visibility="private")
            if pictures.examples:
                files = _write_examples(pictures.examples)
                examples = gr.Dataset(
                    label=pictures.examples_title,
                    components=[gr.Image(render=False)],
                    samples=[[str(file)] for file in files],
                    type="index",
                    elem_id="examples",
                )
                examples.click(lambda place: [str(files[place])], examples, given, api_visibility="private").then(
                    classify, asked, answers, api_visibility="private"
                )
        with gr.Tab("Worst mistakes"):
            most = len(pictures.mistakes)
            if most == 0:
                gr.Markdown("The run has kept no mistakes: it made none, or it has not finished.")
            else:
                gr.Markdown("The mistakes that the model was surest of, on images that it was not trained on.")
                first = min(SHOWN_FIRST, most)
                with gr.Row():
                    if most > 1:
                        number = gr.Slider(1, most, first, step=1, label="How many", min_width=260)
                    else:  # a slider needs two values
                        number = gr.State(most)
                    heat = gr.Checkbox(True, label="Show where the model looked (Grad-CAM)", min_width=260)
                shown = gr.HTML(show_mistakes(first, True), elem_id="mistakes")
                for control in (number, heat):
                    control.change(
                        show_mistakes, [number, heat], shown, api_visibility="private", show_progress="hidden"
                    )
    return page


async def _classify(service: Service, heat_maker: HeatMaker | None, given: Sequence[tuple[str, Any]], topk: int) -> str:
    """Return a card for each image, as HTML."""
    if not given:
        raise gr.Error("Give an image first: upload one, or take one with the camera.")
    if len(given) > MOST_IMAGES:
        raise gr.Error(f"{len(given)} images: {MOST_IMAGES} at a time, please.")
    files = [Path(file) for file, _ in given]
    uploads = [Upload(file.name, await asyncio.to_thread(file.read_bytes)) for file in files]
    try:
        rows = await service.predict(uploads, topk)
    except Problem as problem:
        raise gr.Error(problem.reason[:1].upper() + problem.reason[1:]) from problem
    return _html(await asyncio.to_thread(_answer_cards, service, heat_maker, uploads, rows))


def _answer_cards(
    service: Service, heat_maker: HeatMaker | None, uploads: Sequence[Upload], rows: Sequence[dict[str, Any]]
) -> list[Markup]:
    cards = []
    for upload, row in zip(uploads, rows, strict=True):
        if "error" in row:
            cards.append(CARD.format("", LINE.format(f"This image cannot be read: {row['error']}"), upload.name))
            continue
        pixels = decode(io.BytesIO(upload.content), service.backend.decoding, service.options.limits.max_pixels)
        bars = [ROW.format(one["class"], 100 * one["probability"], one["probability"]) for one in row["topk"]]
        shown = [_picture(pixels, "what the model sees")]
        if heat_maker is not None:
            shown.append(_picture(heat_maker(pixels, row["topk"][0]["class"]), "where the model looked"))
        cards.append(CARD.format(Markup("").join(shown), Markup("").join(bars), upload.name))
    return cards


def _mistake_cards(mistakes: Sequence[Mistake], with_heat: bool) -> str:
    cards = []
    for one in mistakes:
        shown = [_picture(one.pixels, f"a {one.true}")]
        if with_heat and one.heat is not None:
            shown.append(_picture(one.heat, "where the model looked"))
        lines = LINE.format(f"taken for {one.predicted}, {one.confidence:.1%}") + LINE.format(f"in truth {one.true}")
        cards.append(CARD.format(Markup("").join(shown), lines, one.name))
    return _html(cards)


def _html(cards: Sequence[Markup]) -> str:
    """Return cards as HTML that Gradio can send: names of files and classes may contain bytes that are not UTF-8."""
    return printable(CARDS.format(Markup("").join(cards)))


def _picture(pixels: np.ndarray, alt: str) -> Markup:
    kind = "small" if max(pixels.shape[:2]) < 64 else ""
    return PICTURE.format(kind, data_uri(_png(pixels), "image/png"), alt)


def _png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def _write_examples(examples: Sequence[np.ndarray]) -> list[Path]:
    """Return files with the examples, in the folder for temporary files, from which Gradio may serve."""
    folder = Path(tempfile.mkdtemp(prefix="distcls-demo-"))
    files = [folder / f"example-{place}.png" for place in range(1, len(examples) + 1)]
    for file, pixels in zip(files, examples, strict=True):
        file.write_bytes(_png(pixels))
    return files


def _plain(text: str) -> str:
    """Return text without what Markdown would make of it."""
    return "".join(f"\\{character}" if character in "\\`*_{}[]<>()#+-.!|$" else character for character in text)
