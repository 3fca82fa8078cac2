"""The demo page in a real browser: images from the disk and the camera, bars, Grad-CAM, mistakes, examples."""

from __future__ import annotations

import asyncio
import dataclasses
import re
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import visited
from served import Served, png

pytestmark = [pytest.mark.extras, pytest.mark.timeout(300)]


def upload(tab: Any, folder: Path, *contents: bytes) -> None:
    """Put files into the gallery."""
    files = []
    for place, content in enumerate(contents):
        files.append(folder / f"picture-{place}.png")
        files[-1].write_bytes(content)
    tab.wait_for_selector("#given input[type=file]", state="attached")
    tab.set_input_files("#given input[type=file]", [str(file) for file in files])
    await_images(tab, len(contents))


def await_images(tab: Any, number: int) -> None:
    """Wait until the gallery has so many images, all of them from the server."""
    tab.wait_for_function(
        "number => { const all = [...document.querySelectorAll('#given .grid-wrap img')];"
        " return all.length == number && all.every(image => image.src.startsWith('http')) }",
        arg=number,
    )
    time.sleep(1)  # Gradio shows an image before it sends it along


def classify(tab: Any) -> None:
    tab.get_by_role("button", name="Classify", exact=True).click()


def cards(tab: Any, number: int, where: str = "#answers") -> Any:
    """The answers, once there are so many."""
    tab.wait_for_function(f"document.querySelectorAll('{where} .dc-card').length == {number}")
    return tab.locator(f"{where} .dc-card")


@pytest.mark.parametrize("width", [1280, 390])
def test_what_a_visitor_does(run: Path, tmp_path: Path, width: int) -> None:
    with Served(run, "--demo") as service, visited(f"{service.url}/", width) as tab:
        assert service.line.rstrip().endswith(f"demo at {service.url}/demo/")
        upload(tab, tmp_path, png(1), png(2, 200))
        classify(tab)
        first = cards(tab, 2).first
        lines = first.inner_text().split("\n")
        assert [line.endswith("%") for line in lines[:10]] == [False, True] * 5  # five classes, with their bars
        widths = [bar.bounding_box()["width"] for bar in first.locator(".dc-bar i").all()]
        assert widths == sorted(widths, reverse=True) and widths[0] > widths[-1]
        assert first.locator("img").count() == 1
        assert "picture-0.png" in first.inner_text()

        tab.get_by_label("Show where the model looked (Grad-CAM)").first.check()
        classify(tab)
        tab.wait_for_function("document.querySelectorAll('#answers img').length == 4")
        pictures = [image.get_attribute("src") for image in tab.locator("#answers img").all()]
        assert len(set(pictures)) == 4  # each image and its heat
        assert tab.evaluate("document.documentElement.scrollWidth") <= width

        tab.locator("#examples img").nth(3).click()
        tab.wait_for_function("document.querySelector('#answers').innerText.includes('example-4.png')")
        assert "val image of the run" in tab.inner_text("body")

        tab.get_by_role("tab", name="Worst mistakes").click()
        shown = cards(tab, 12, "#mistakes")
        assert re.search(r"taken for \d, \d+\.\d%\s+in truth \d\s+digits/\d+", shown.first.inner_text())
        assert shown.first.locator("img").count() == 2
        slider = tab.get_by_label("number input for How many")
        slider.fill("50")
        slider.press("Enter")
        cards(tab, 50, "#mistakes")
        tab.get_by_label("Show where the model looked (Grad-CAM)").last.uncheck()
        tab.wait_for_function("document.querySelectorAll('#mistakes img').length == 50")
        assert tab.evaluate("document.documentElement.scrollWidth") <= width

        service.process.send_signal(signal.SIGTERM)  # although the page keeps a stream open
        began = time.monotonic()
        assert service.process.wait(60) == 0
        assert time.monotonic() - began < 20


def test_the_camera_and_what_goes_wrong(run: Path, tmp_path: Path) -> None:
    with Served(run, "--demo-only") as service, visited(f"{service.url}/demo/") as tab:
        assert service.request("POST", "/predict", png(), content_type="image/png")[0] == 404
        assert service.request("GET", "/healthz")[0] == 200
        tab.get_by_label("Capture from camera").click()
        tab.get_by_text("Click to Access Webcam").click()
        tab.get_by_label("capture photo").wait_for()
        tab.wait_for_function("[...document.querySelectorAll('#given video')].some(video => video.videoWidth > 0)")
        time.sleep(1)
        tab.get_by_label("capture photo").click()
        await_images(tab, 1)
        classify(tab)
        assert "%" in cards(tab, 1).first.inner_text()

        tab.reload()
        classify(tab)
        tab.get_by_text("Give an image first: upload one, or take one with the camera.").wait_for()
        upload(tab, tmp_path, *[png(seed) for seed in range(11)])
        classify(tab)
        tab.get_by_text("11 images: 10 at a time, please.").wait_for()

        tab.reload()
        upload(tab, tmp_path, png(0), b"no image")
        classify(tab)
        texts = cards(tab, 2).all_inner_texts()
        assert "%" in texts[0] and "This image cannot be read: not an image, or in an unsupported format" in texts[1]


def test_a_run_of_two_classes_with_one_mistake_and_names_of_odd_bytes(run: Path, tmp_path: Path) -> None:
    from starlette.testclient import TestClient

    from distcls.config.loading import read_config
    from distcls.serving import demo
    from distcls.serving.app import build_app
    from distcls.serving.backends import open_backend
    from distcls.serving.demo_pictures import DemoPictures, Mistake
    from distcls.serving.options import ServeOptions

    names = ["caf\udce9", "tea"]
    backend = dataclasses.replace(
        open_backend(run, read_config(run / "config.yaml"), "torch", "cpu", 1),
        class_names=names,
        compute=lambda images: np.tile(np.float32([0.75, 0.25]), (len(images), 1)),
    )
    mistake = Mistake(np.zeros((8, 8, 3), np.uint8), None, "x\udce9.png", names[0], names[1], 0.9)
    app = build_app(backend, ServeOptions("r\udce9", has_demo=True))
    service = app.state.service
    demo.mount_demo(app, service, DemoPictures([mistake], [], ""))
    with TestClient(service.gate) as client:
        page = client.get("/demo/")
        assert page.status_code == 200 and "x?.png" in page.text and "in truth tea" in page.text
        config = client.get("/demo/config").json()
        assert config["title"] == "r?"
        sliders = [one["props"] for one in config["components"] if one["type"] == "slider"]
        assert [(one["label"], one["maximum"], one["value"]) for one in sliders] == [("Classes to show", 2, 2)]
    file = tmp_path / "y\udce9.png"
    file.write_bytes(png())

    async def classified() -> str:
        async with service.running(app):
            return await demo._classify(service, None, [(str(file), None)], 2)

    answers = asyncio.run(classified())
    assert "caf?" in answers and "75.0%" in answers and "y?.png" in answers
    answers.encode()


def test_with_a_token_the_page_asks_for_a_password(run: Path, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("s3cret\n")
    with Served(run, "--demo", "--token-file", str(tmp_path / "token")) as service:
        assert service.request("GET", "/demo/config")[0] == 401
        assert service.request("GET", "/")[0] == service.request("GET", "/demo")[0] == 307  # to the page
        assert service.request("POST", "/predict", png(), content_type="image/png")[0] == 401
        right = service.request("POST", "/predict", png(), content_type="image/png", authorization="Bearer s3cret")
        assert right[0] == 200
        with visited(f"{service.url}/demo/") as tab:
            for password in ("wrong", "s3cret"):
                tab.get_by_label("username").fill("me")
                tab.get_by_label("password").fill(password)
                tab.get_by_role("button", name="Login").click()
                if password == "wrong":
                    tab.get_by_text("Incorrect Credentials").wait_for()
            tab.get_by_label("Capture from camera").wait_for()
