"""What `distcls serve` refuses before it imports anything slow."""

from __future__ import annotations

import importlib.util
import shutil
import socket
from pathlib import Path

import pytest

from distcls.cli import main

OLD_RUN = Path(__file__).parents[1] / "golden" / "run_0.1.0"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(OLD_RUN, tmp_path / "run")
    return tmp_path / "run"


def refused(capsys: pytest.CaptureFixture[str], code: int, *words: str) -> str:
    assert main(["serve", *words]) == code
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--max-batch", "0"], "--max-batch 0: give 1 or more."),
        (["--workers", "0"], "--workers 0: give 1 or more."),
        (["--threads", "0"], "--threads 0: give 1 or more."),
        (["--max-wait-ms", "-1"], "--max-wait-ms -1.0: give 0 or more."),
        (["--max-bytes", "lots"], "--max-bytes: 'lots' is not a size: write it as"),
        (["--max-bytes", "0"], "--max-bytes: give 1 or more."),
        (["--timeout", "nan"], "--timeout nan: give seconds, from 0.1 to 86400."),
        (["--port", "70000"], "--port 70000: give a number from 0 to 65535."),
        (["--max-queue", "8"], "--max-queue 8 is less than --max-images 64, so a full request could never be answered"),
        (["--name", "a/b"], "--name 'a/b': it is a part of addresses, so give a word without /, such as flowers."),
        (["--name", ""], "--name '': it is a part of addresses"),
        (["--backend", "tensorrt"], "invalid choice: 'tensorrt'"),
    ],
)
def test_options_that_cannot_be_meant(run: Path, capsys: pytest.CaptureFixture[str], words, message) -> None:
    assert message in refused(capsys, 2, "run", *words)


def test_a_token_file_holds_one_word(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--token-file token: No such file" in refused(capsys, 66, "run", "--token-file", "token")
    for text in ("", "two words", "é"):
        Path("token").write_text(text, encoding="utf-8")
        message = refused(capsys, 2, "run", "--token-file", "token")
        assert "--token-file token: it must hold one word" in message and "openssl rand -hex 32" in message


def test_what_is_missing(run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert "nowhere: no such run folder" in refused(capsys, 66, "nowhere")
    message = refused(capsys, 66, "run", "--backend", "onnx")
    assert "--backend onnx: there is no run/export/run.onnx. Write it first: distcls export run" in message
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    message = refused(capsys, 66, "run", "--backend", "onnx")
    assert "distcls serve needs fastapi, uvicorn," in message and "pip install 'distcls[serve,export]'" in message


def test_a_port_that_is_taken(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        message = refused(capsys, 2, "run", "--port", port, "--device", "cpu")
    assert f"--host 127.0.0.1 --port {port}: Address already in use. Give another port, or 0" in message


def test_the_port_of_vertex_ai(run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIP_HTTP_PORT", "99999")
    assert "--port 99999: give a number" in refused(capsys, 2, "run")
