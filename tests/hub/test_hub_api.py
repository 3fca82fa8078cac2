"""Uploads to a stub of the Hub's API, and what is said where there is no token, no network or no permission."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import load

from distcls.cli import main
from distcls.errors import MissingInputError
from distcls.hub import hub_api
from distcls.hub.hub_api import Hub

sys.path.insert(0, str(Path(__file__).parent))
from hub_stub import TOKEN, HubStub, hub_stub

OLD_RUN = Path(__file__).parents[1] / "golden" / "run_0.1.0"


@pytest.fixture(autouse=True)
def no_account(monkeypatch, tmp_path):
    """Nothing of the person who runs the tests."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", False)
    yield
    huggingface_hub.close_session()


@pytest.fixture
def hub(monkeypatch):
    with hub_stub() as server:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.url)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server


@pytest.fixture
def folder(tmp_path) -> Path:
    made = tmp_path / "made"
    made.mkdir()
    (made / "README.md").write_text("---\nlicense: mit\n---\n# A\n")
    (made / "model.safetensors").write_bytes(b"weights")
    return made


def push(capsys, *words: object, expect: int = 0) -> tuple[str, str]:
    assert main(["push", *map(str, words)]) == expect
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return captured.out, captured.err


def test_a_run_is_uploaded_in_one_commit(hub: HubStub, tmp_path, capsys):
    run = Path(shutil.copytree(OLD_RUN, tmp_path / "old-run"))
    out, _ = push(capsys, run, "--private")
    written = {path.name: path.read_bytes() for path in (run / "hub" / "model").iterdir()}
    assert hub.repos == {("model", "me/old-run"): written}
    assert b"hf download me/old-run" in written["README.md"] and len(load(written["model.safetensors"])) > 3
    assert (
        "private" in (hub.made[0].get("visibility"), hub.made[0].get("private") and "private")
        and f"{hub.url}/me/old-run" in out
    )
    assert sum("/commit/" in request for request in hub.requests) == 1
    push(capsys, run)  # the repository is there now
    assert sum("/commit/" in request for request in hub.requests) == 2


def test_a_space_is_one_of_gradio(hub: HubStub, folder):
    assert Hub().make("me/a", "space", private=False) == f"{hub.url}/spaces/me/a"
    Hub().upload(folder, "me/a", "space")
    assert hub.repos["space", "me/a"]["model.safetensors"] == b"weights"
    assert (hub.made[0]["type"], hub.made[0]["sdk"]) == ("space", "gradio")


def test_without_a_token_nothing_slow_begins(capsys, tmp_path):
    run = Path(shutil.copytree(OLD_RUN, tmp_path / "run"))
    _, err = push(capsys, run, expect=66)
    assert "no token" in err and "`hf auth login`" in err and "--dry-run" in err
    assert not (run / "hub").exists()


def test_a_token_that_is_not_accepted(hub: HubStub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(MissingInputError, match=r"does not accept the token .*`hf auth login`"):
        Hub()


def test_a_repository_of_somebody_else(hub: HubStub):
    with pytest.raises(MissingInputError, match=r"does not let this token write to you/a .*rights.*--repo OWNER/NAME"):
        Hub().make("you/a", "model", private=False)
    hub.may_write = False
    with pytest.raises(MissingInputError, match=r"write to me/a"):
        Hub().make("me/a", "model", private=False)


@pytest.mark.parametrize("words", [[], ["--space"]])
def test_without_a_permission_nothing_slow_begins(hub: HubStub, tmp_path, capsys, monkeypatch, words):
    run = Path(shutil.copytree(OLD_RUN, tmp_path / "run"))
    refused = "space" if words else "model"
    make = Hub.make

    def made(self, repo, kind, private):
        hub.may_write = kind != refused
        return make(self, repo, kind, private)

    monkeypatch.setattr(Hub, "make", made)
    monkeypatch.setattr("distcls.hub.options.SPACE_NEEDS", ())
    _, err = push(capsys, run, *words, expect=66)
    assert "does not let this token write to me/run" in err
    assert not (run / "hub").exists() and hub.made[-1].get("type", "model") == refused


def test_a_run_without_weights_leaves_no_empty_repository(hub: HubStub, tmp_path, capsys):
    run = Path(shutil.copytree(OLD_RUN, tmp_path / "run"))
    for weights in run.rglob("*.safetensors"):
        weights.unlink()
    _, err = push(capsys, run, expect=66)
    assert "no weights found" in err and hub.repos == {}


def test_without_a_network(monkeypatch, hub: HubStub):
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{one.getsockname()[1]}")
    with pytest.raises(MissingInputError, match=r"cannot reach http://127.0.0.1:\d+ .*--dry-run only writes"):
        Hub()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(MissingInputError, match="HF_HUB_OFFLINE is set"):
        Hub()


RETRIED = [pytest.param(part, marks=pytest.mark.extras) for part in ("/preupload/", "/lfs/")]
"""Requests that huggingface_hub makes up to six times, and waits in between."""


@pytest.mark.parametrize("part", ["whoami", "/repos/create", "/commit/", *RETRIED])
def test_a_server_that_says_nothing_is_left(hub: HubStub, folder, monkeypatch, part):
    monkeypatch.setattr(hub_api, "SECONDS_WITHOUT_DATA", 0.2)
    hub.silent_on = part
    begin = time.monotonic()
    with pytest.raises(MissingInputError, match=r"cannot reach .*Timeout"):
        Hub().make("me/a", "model", private=False)
        Hub().upload(folder, "me/a", "model")
    assert time.monotonic() - begin < 40


@pytest.mark.parametrize("name", ["a b", "a/b/c", "-a", "a--b", "é", ""])
def test_names_that_the_hub_does_not_take(capsys, tmp_path, name):
    run = Path(shutil.copytree(OLD_RUN, tmp_path / "run"))
    _, err = push(capsys, run, f"--repo={name}", "--dry-run", expect=2)
    assert f"--repo {name} is not a name for a repository: give NAME or OWNER/NAME" in err


@pytest.mark.extras  # it imports timm in two more processes
def test_what_was_pushed_is_loaded_by_its_name(timm_run, tmp_path):
    """By a process that has only the Hub's address, as typed: HF_ENDPOINT, HF_TOKEN, and a cache that is empty."""
    run = Path(shutil.copytree(timm_run, tmp_path / "vit"))
    load_it = (
        "import sys, timm, torch; model = timm.create_model('hf-hub:me/vit', pretrained=True).eval(); "
        "torch.save(model(torch.linspace(-1, 1, 3 * 32 * 32).view(1, 3, 32, 32)).detach(), sys.argv[1])"
    )
    with hub_stub() as server:
        environment = {**os.environ, "HF_ENDPOINT": server.url, "HF_TOKEN": TOKEN, "HF_HOME": str(tmp_path / "home")}
        environment["HF_HUB_DISABLE_XET"] = "1"
        for words in (["-m", "distcls", "push", str(run)], ["-c", load_it, str(tmp_path / "logits.pt")]):
            subprocess.run([sys.executable, *words], env=environment, check=True, timeout=120)
    from distcls.config.loading import read_config
    from distcls.inference.classifier import load_classifier

    classifier = load_classifier(run, read_config(run / "config.yaml"))
    with torch.inference_mode():
        images = torch.linspace(-1, 1, 3 * 32 * 32).view(1, 3, 32, 32)
        expected = classifier.network(images) / classifier.temperature
    assert (torch.load(tmp_path / "logits.pt") - expected).abs().max() < 1e-5
    assert json.loads((run / "hub/model/config.json").read_text())["architecture"] == "test_vit"
