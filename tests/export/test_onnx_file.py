"""The programs of docs/deployment.md give the answers of `distcls predict`, in Python and in a browser."""

from __future__ import annotations

import functools
import http.server
import queue
import re
import shutil
import subprocess
import sys
import threading
import urllib.parse
from pathlib import Path

import numpy as np
import pytest
from evaluated import predict
from PIL import Image

from distcls.cli import main
from distcls.config.loading import read_config
from distcls.data.decoding.decode import decode
from distcls.inference.classifier import load_classifier

PAGE = (Path(__file__).parents[2] / "docs" / "deployment.md").read_text(encoding="utf-8")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

CHOOSES_A_FILE = """
<script type="module">
  const input = document.querySelector("input"), answer = document.querySelector("p");
  const wait = async (ready) => { while (!ready()) await new Promise((done) => setTimeout(done, 50)); };
  for (const name of NAMES) {
    const chosen = new DataTransfer();
    chosen.items.add(new File([await (await fetch(name)).blob()], name));
    await wait(() => input.onchange);
    answer.textContent = "";
    input.files = chosen.files;
    input.dispatchEvent(new Event("change"));
    await wait(() => answer.textContent);
    await fetch("/answer?" + encodeURIComponent(answer.textContent));
  }
</script>
"""
"""What a person does on the page, and reads there."""


def block(name: str) -> str:
    """A program of the page, by the name of its file."""
    found = re.search(rf"^```\w+ {re.escape(name)}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


def photograph(height: int, width: int) -> Image.Image:
    draw = np.random.default_rng(height).integers(0, 256, (6, 6, 3)).astype(np.uint8)
    return Image.fromarray(draw).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def photographs(tmp_path) -> list[Path]:
    """Small and large ones, upright and turned, gray and in color."""
    turned = Image.Exif()
    turned[0x0112] = 6
    photograph(24, 31).save(tmp_path / "small.jpg")
    photograph(301, 403).save(tmp_path / "large.jpg", quality=95)
    photograph(400, 304).save(tmp_path / "turned.jpg", exif=turned)
    photograph(27, 20).convert("L").save(tmp_path / "gray.png")
    photograph(8, 8).save(tmp_path / "final.png")
    return sorted(tmp_path.glob("*.*"))


def predicted(run: Path, paths: list[Path]) -> tuple[list[str], np.ndarray]:
    """The class and probability that distcls finds for each image."""
    classifier = load_classifier(run, read_config(run / "config.yaml"))
    probs = predict(classifier, [decode(path, classifier.decoding) for path in paths]).numpy()
    return [classifier.class_names[c] for c in probs.argmax(1)], probs.max(1)


def test_the_python_program_is_right(run, photographs, tmp_path):
    file = tmp_path / "classify.onnx"
    assert main(["export", str(run), "--output", str(file)]) == 0
    (tmp_path / "classify.py").write_text(block("classify.py"))
    words = [sys.executable, "classify.py", str(file), *map(str, photographs)]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=True)
    names, probabilities = predicted(run, photographs)
    lines = [re.fullmatch(r"(\S+)  (\S+) ([\d.]+)", line) for line in done.stdout.splitlines()]
    assert [line and (line[1], line[2]) for line in lines] == [
        (str(p), n) for p, n in zip(photographs, names, strict=True)
    ]
    assert np.abs([float(line[3]) for line in lines if line] - probabilities).max() < 1e-4


# In a browser --------------------------------------------------------------------------------------


class Page(http.server.SimpleHTTPRequestHandler):
    """Serves the folder, and collects what the page answers."""

    answers: queue.Queue[str]

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        if path != "/answer":
            return super().do_GET()
        self.answers.put(urllib.parse.unquote(query))
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.mark.extras
@pytest.mark.timeout(600)
@pytest.mark.skipif(CHROMIUM is None or shutil.which("npm") is None, reason="needs chromium and npm")
def test_the_page_is_right_in_a_browser(run, photographs, tmp_path):
    web = tmp_path / "web"
    web.mkdir()
    install = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "onnxruntime-web"]
    subprocess.run(install, cwd=web, check=True, timeout=400, capture_output=True)
    assert main(["export", str(run), "--with-resize", "--output", str(web / "flowers.onnx")]) == 0
    shutil.copy(run / "classes.json", web)
    for path in photographs:
        shutil.copy(path, web)
    drive = CHOOSES_A_FILE.replace("NAMES", str([path.name for path in photographs]))
    (web / "classify.html").write_text("<!doctype html>" + block("classify.html") + drive)
    answers = answers_of(web, tmp_path / "profile", len(photographs))
    names, probabilities = predicted(run, photographs)
    assert [answer.split()[0] for answer in answers] == names
    assert np.abs([float(answer.split()[1]) for answer in answers] - probabilities).max() < 0.02


def answers_of(web: Path, profile: Path, count: int) -> list[str]:
    """What the page answers, in Chromium."""
    handler = type("OfThisTest", (Page,), {"answers": queue.Queue()})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=str(web))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}/classify.html"
        words = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}", address]
        words.insert(1, "--remote-debugging-port=0")  # or it would end when the page has loaded
        browser = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            return [handler.answers.get(timeout=120) for _ in range(count)]  # type: ignore[attr-defined]
        finally:
            browser.kill()
            browser.wait()
            server.shutdown()
