"""The folder of a Space starts with `python app.py`, without distcls and PyTorch, and gives the run's answers."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import RepoCard
from PIL import Image
from ranks import free_port

from distcls.cli import main
from distcls.config.loading import read_config
from distcls.data.decoding.decode import decode
from distcls.inference.classifier import load_classifier

CLASSES = ["a | b", "plain", "été"]
SECONDS_TO_START = 90


@pytest.fixture(scope="module")
def space(timm_run, tmp_path_factory) -> Path:
    """The folder, moved away from its run."""
    assert main(["push", str(timm_run), "--repo", "me/holiday", "--dry-run", "--space"]) == 0
    return Path(shutil.copytree(timm_run / "hub" / "space", tmp_path_factory.mktemp("space") / "app"))


@pytest.fixture(scope="module")
def address(space, tmp_path_factory) -> Iterator[str]:
    """Where the started page answers. Neither distcls nor PyTorch can be imported there."""
    hidden, port = tmp_path_factory.mktemp("hidden"), free_port()
    for name in ("distcls", "torch"):
        (hidden / f"{name}.py").write_text(f"raise ImportError('a Space has no {name}')\n")
    environment = {**os.environ, "PYTHONPATH": str(hidden), "GRADIO_SERVER_PORT": str(port)}
    environment |= {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1", "GRADIO_TEMP_DIR": str(hidden / "tmp")}
    address = f"http://127.0.0.1:{port}"
    with subprocess.Popen([sys.executable, "app.py"], cwd=space, env=environment) as process:
        try:
            end = time.monotonic() + SECONDS_TO_START
            while not _answers(address):
                assert process.poll() is None and time.monotonic() < end, "the page did not start"
                time.sleep(0.2)
            yield address
        finally:
            process.kill()


def _answers(address: str) -> bool:
    try:
        return urllib.request.urlopen(address, timeout=10).status == 200
    except OSError:
        return False


@pytest.mark.extras  # gradio is not among the packages that distcls needs
class TestStarted:
    def test_it_gives_the_runs_answers(self, address, timm_run, photographs, tmp_path):
        """For a picture of a camera held sideways, too, and a transparent one."""
        client = pytest.importorskip("gradio_client", reason="gradio is not installed: no page was started")
        upright = Image.open(photographs / "plain" / "0.png")
        exif = Image.Exif()
        exif[0x0112] = 6
        upright.save(tmp_path / "sideways.jpg", exif=exif)
        upright.convert("RGBA").transform(upright.size, Image.Transform.AFFINE, (1, 0, 30, 0, 1, 0)).save(
            tmp_path / "clear.png"
        )
        classifier = load_classifier(timm_run, read_config(timm_run / "config.yaml"))
        gradio = client.Client(address, verbose=False)
        for file in (photographs / "été" / "2.png", tmp_path / "sideways.jpg", tmp_path / "clear.png"):
            answer = gradio.predict(client.handle_file(str(file)), api_name="/classify")
            with torch.inference_mode():
                pixels = torch.from_numpy(np.stack([decode(file, classifier.decoding)]))
                expected = dict(zip(CLASSES, classifier(pixels)[0].tolist(), strict=True))
            assert {one["label"]: one["confidence"] for one in answer["confidences"]} == pytest.approx(
                expected, abs=1e-4
            )
            assert answer["label"] == max(expected, key=expected.__getitem__)

    def test_in_a_browser(self, address, photographs, tmp_path):
        playwright = pytest.importorskip("playwright.sync_api")
        chromium = shutil.which("chromium") or shutil.which("google-chrome")
        if chromium is None:
            pytest.skip("there is no chromium here: nobody looked at the page")
        with playwright.sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-dev-shm-usage"])
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            page.goto(address)
            page.set_input_files("input[type=file]", str(photographs / "a | b" / "1.png"))
            page.get_by_role("button", name="Submit").click()
            page.get_by_text(re.compile(r"^\d+%$")).first.wait_for()
            page.screenshot(path=tmp_path / "page.png")
            text = page.inner_text("body")
        assert all(name in text for name in CLASSES) and "Tells 3 classes apart" in text


@pytest.mark.extras
def test_the_hub_understands_the_header(space):
    card = RepoCard.load(space / "README.md", repo_type="space")
    found = card.data.to_dict()
    assert (found["title"], found["sdk"], found["app_file"]) == ("holiday", "gradio", "app.py")
    assert found["models"] == ["me/holiday"] and re.fullmatch(r"\d+\.\d+\.\d+", found["sdk_version"])
    assert f"gradio>={found['sdk_version']}" in (space / "requirements.txt").read_text()
    names = {path.name for path in space.iterdir()} - {"__pycache__"}
    assert names == {"README.md", "app.py", "decode.py", "model.onnx", "requirements.txt"}
