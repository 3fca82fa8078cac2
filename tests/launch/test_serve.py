"""launch/serve: Kubernetes takes the files, and a container's entry point speaks what each cloud expects of it.

The clouds are played here: their environment variables, ports and routes, with a real service behind them.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from machines import ROOT
from PIL import Image
from ranks import free_port

SERVE = ROOT / "launch" / "serve"
KUBERNETES = list(yaml.safe_load_all((SERVE / "kubernetes.yaml").read_text()))
DEPLOYMENT, SERVICE, AUTOSCALER, BUDGET = KUBERNETES
CONTAINER = DEPLOYMENT["spec"]["template"]["spec"]["containers"][0]
AZURE = yaml.safe_load((SERVE / "azureml-deployment.yaml").read_text())
SECONDS_TO_START = 90

# The entry point -----------------------------------------------------------------------------------


def run_folder(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.yaml").touch()
    return folder


def entered(tmp_path: Path, *words: str, expect: int = 0, **environment: str) -> str:
    """What the entry point starts in place of distcls, or says."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "distcls").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "bin" / "distcls").chmod(0o755)
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [SERVE / "serve.sh", *words], env={"PATH": path, **environment}, capture_output=True, text=True, timeout=20
    )
    assert done.returncode == expect, done.stderr
    return (done.stdout or done.stderr).strip()


def test_the_named_run_is_served(tmp_path):
    run = run_folder(tmp_path / "my runs" / "flowers")
    found = entered(tmp_path, "--name", "flowers", DISTCLS_RUN=str(run))
    assert found == f"serve {run} --host 0.0.0.0 --name flowers"


@pytest.mark.parametrize("below", ["", "flowers"])
def test_azures_model_is_found(tmp_path, below):
    """It is the registered folder, or lies in it under the folder's name."""
    run = run_folder(tmp_path / "azureml-models" / "flowers" / "1" / below)
    folder = str(tmp_path / "azureml-models" / "flowers" / "1")
    assert entered(tmp_path, AZUREML_MODEL_DIR=folder).split()[1].rstrip("/") == str(run)


def test_sagemaker_types_serve_and_expects_its_port(tmp_path):
    run = run_folder(tmp_path / "flowers")
    assert entered(tmp_path, "serve", DISTCLS_RUN=str(run)) == f"serve {run} --host 0.0.0.0 --port 8080"


def test_without_a_run_it_says_where_to_put_one(tmp_path):
    assert "there is no run folder here: mount one at /model" in entered(tmp_path, expect=66)


# Kubernetes ----------------------------------------------------------------------------------------


@pytest.mark.extras  # kubernetes-validate is not among the packages that distcls needs
@pytest.mark.parametrize("document", KUBERNETES, ids=lambda document: document["kind"])
def test_kubernetes_takes_the_files(document):
    kubernetes_validate = pytest.importorskip(
        "kubernetes_validate", reason="kubernetes-validate is not installed: kubernetes.yaml was not checked"
    )
    for version in ("1.29", kubernetes_validate.latest_version()):
        kubernetes_validate.validate(document, version, strict=True)
    with pytest.raises(Exception, match="metadata"):
        kubernetes_validate.validate({**document, "metadata": 5}, "1.29", strict=True)


def test_the_parts_of_kubernetes_belong_together():
    pod = DEPLOYMENT["spec"]["template"]
    labels = pod["metadata"]["labels"].items()
    assert SERVICE["spec"]["selector"].items() <= labels
    assert BUDGET["spec"]["selector"]["matchLabels"].items() <= labels
    assert DEPLOYMENT["spec"]["selector"]["matchLabels"].items() <= labels
    target = AUTOSCALER["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", DEPLOYMENT["metadata"]["name"])
    assert "replicas" not in DEPLOYMENT["spec"], "each apply would undo what the autoscaler did"
    assert SERVICE["spec"]["ports"][0]["targetPort"] == CONTAINER["ports"][0]["name"]
    assert pod["metadata"]["annotations"]["prometheus.io/port"] == str(CONTAINER["ports"][0]["containerPort"])


def test_the_image_may_write_nothing_but_tmp():
    assert CONTAINER["securityContext"]["readOnlyRootFilesystem"] is True
    assert [mount["mountPath"] for mount in CONTAINER["volumeMounts"]] == ["/tmp"]
    pod = DEPLOYMENT["spec"]["template"]["spec"]
    stage = (ROOT / "Dockerfile").read_text().split(" AS serve\n")[1].split("\nFROM ")[0]
    (user,) = re.findall(r"^USER (\d+):(\d+)$", stage, re.MULTILINE)
    assert (str(pod["securityContext"]["runAsUser"]), str(pod["securityContext"]["runAsGroup"])) == user
    assert "HEALTHCHECK" in stage and "HOME=/tmp" in stage and "STOPSIGNAL SIGTERM" in stage


# The contracts -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Path:
    """The model of a run on digits; skips where distcls serve cannot run."""
    pytest.importorskip("distcls.serving.app", reason="distcls serve is not here: no cloud's contract was checked")
    from distcls.cluster.processes import group_closed
    from distcls.config.loading import load_config
    from distcls.training.loop import train

    folder = tmp_path_factory.mktemp("served") / "flowers"
    settings = ["model.args={hidden: 16}", "train.num_steps=40", "train.num_threads=1", "run.trackers=[]"]
    with group_closed():
        train(load_config(None, [*settings, f"run.dir={folder}"], []), "flowers")
    return folder / "model"


@contextlib.contextmanager
def container(tmp_path: Path, port: int, ready: str, *words: str, **environment: str) -> Iterator[subprocess.Popen]:
    """The entry point with the environment of a cloud, until its health route answers."""
    (tmp_path / "distcls").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m distcls "$@"\n')
    (tmp_path / "distcls").chmod(0o755)
    variables = {
        **os.environ,
        "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        **environment,
    }
    with subprocess.Popen([SERVE / "serve.sh", *words], env=variables) as process:
        try:
            end = time.monotonic() + SECONDS_TO_START
            while answer(port, ready)[0] != 200:
                assert process.poll() is None and time.monotonic() < end, f"{ready} does not answer"
                time.sleep(0.2)
            yield process
        finally:
            process.kill()


def answer(port: int, path: str, body: bytes | None = None, kind: str = "application/json") -> tuple[int, bytes]:
    """The status and body of an answer; 0 if nobody listens yet."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", body, {"Content-Type": kind})
    try:
        with urllib.request.urlopen(request, timeout=20) as found:
            return found.status, found.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
    except OSError:
        return 0, b""


def picture() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


def digits_in(content: bytes, count: int = 1) -> list[dict[str, Any]]:
    found = json.loads(content)
    assert set(found) == {"predictions"} and len(found["predictions"]) == count
    assert all(one["prediction"] in "0123456789" and 0 < one["confidence"] <= 1 for one in found["predictions"])
    return found["predictions"]


@pytest.mark.extras
class TestContracts:
    def test_sagemaker(self, served, tmp_path):
        port = free_port()
        with container(tmp_path, port, "/ping", "serve", DISTCLS_RUN=str(served), SAGEMAKER_BIND_TO_PORT=str(port)):
            status, content = answer(port, "/invocations", picture(), "image/png")
            assert status == 200 and digits_in(content)

    def test_vertex(self, served, tmp_path):
        """Health and predictions at the routes of the variables; as many predictions as instances."""
        port, endpoint = free_port(), "/v1/endpoints/123/deployedModels/456"
        variables = {
            "AIP_HTTP_PORT": str(port),
            "AIP_HEALTH_ROUTE": endpoint,
            "AIP_PREDICT_ROUTE": f"{endpoint}:predict",
        }
        with container(tmp_path, port, endpoint, DISTCLS_RUN=str(served), **variables):
            one = {"b64": base64.b64encode(picture()).decode()}
            body = json.dumps({"instances": [one, one], "parameters": {"topk": 2}}).encode()
            status, content = answer(port, f"{endpoint}:predict", body)
            assert status == 200 and len(digits_in(content, 2)) == 2

    def test_azure_and_kubernetes(self, served, tmp_path):
        """Azure's variable and routes; Kubernetes' words, probes, metric and end."""
        port, models = free_port(), tmp_path / "azureml-models"
        models.mkdir()
        (models / "model").symlink_to(served)
        words = [*CONTAINER["args"], "--port", str(port)]
        with container(tmp_path, port, "/healthz", *words, AZUREML_MODEL_DIR=str(models)) as process:
            routes = AZURE["environment"]["inference_config"]
            paths = [routes[name]["path"] for name in ("liveness_route", "readiness_route")]
            paths += [CONTAINER[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "readiness", "liveness")]
            paths.append(DEPLOYMENT["spec"]["template"]["metadata"]["annotations"]["prometheus.io/path"])
            paths.append(f"/v2/models/{SERVICE['metadata']['name']}/ready")
            assert {path: answer(port, path)[0] for path in paths} == dict.fromkeys(paths, 200)
            body = json.dumps({"images": [base64.b64encode(picture()).decode()]}).encode()
            status, content = answer(port, routes["scoring_route"]["path"], body)
            assert status == 200 and digits_in(content)
            (metric,) = [one["pods"]["metric"]["name"] for one in AUTOSCALER["spec"]["metrics"]]
            assert re.search(rf"^{metric} \d", answer(port, "/metrics")[1].decode(), re.MULTILINE)
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
