"""A service answers like `distcls eval` and `distcls predict`, whatever is sent, and keeps to its own description.

python tests/fuzzed_uploads.py RUN --count 1000     # more of the broken uploads
"""

from __future__ import annotations

import base64
import csv
import io
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from fuzzed_uploads import TIMEOUT, fuzz, is_of_libtiff
from PIL import Image
from served import Served, png

from distcls.cli import main
from distcls.config.loading import load_config, read_config
from distcls.data.build import OneProcess, build_data

pytestmark = [pytest.mark.extras, pytest.mark.timeout(400)]

SETTINGS = ["model.args={hidden: 16}", "train.num_steps=60", "train.num_threads=1", "train.precision=float32"]
NUM_IMAGES = 500


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run on digits, which takes seconds."""
    from distcls.cluster.processes import group_closed
    from distcls.training.loop import train

    folder = tmp_path_factory.mktemp("served") / "digits"
    with group_closed():
        train(load_config(None, [*SETTINGS, "run.trackers=[]", f"run.dir={folder}"], []), "digits")
    return folder


@pytest.fixture(scope="module")
def service(run: Path) -> Iterator[Served]:
    with Served(run, "--timeout", str(TIMEOUT)) as started:
        yield started


def evaluated(run: Path, file: Path) -> np.ndarray:
    """The probabilities (n, C) that `distcls eval` writes for the train split."""
    assert main(["eval", str(run), "--split", "train", "--csv", str(file), "run.device=cpu"]) == 0
    with file.open(newline="") as lines:
        rows = list(csv.reader(lines))
    first = rows[0].index("p_0")
    return np.array([row[first:] for row in rows[1 : NUM_IMAGES + 1]], float)


def asked(service: Served, images: list[np.ndarray], way: int) -> np.ndarray:
    """The probabilities of images, sent in one of four ways."""
    files = []
    for image in images:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG")
        files.append(file.getvalue())
    texts = [base64.b64encode(file).decode() for file in files]
    if way == 0:
        answers = [service.request("POST", "/predict?topk=10", file, content_type="image/png")[1] for file in files]
        rows = [json.loads(answer)["predictions"][0] for answer in answers]
    elif way == 1:
        body = json.dumps({"images": texts}).encode()
        answer = service.request("POST", "/predict?topk=10", body, content_type="application/json")[1]
        rows = json.loads(answer)["predictions"]
    else:
        tensor = {"datatype": "BYTES", "shape": [len(images)], "data": texts}
        if way == 3:
            tensor = {"datatype": "UINT8", "shape": [len(images), 8, 8, 3], "data": np.stack(images).tolist()}
        body = json.dumps({"inputs": [{"name": "images", **tensor}]}).encode()
        (output,) = json.loads(service.request("POST", "/v2/models/digits/infer", body)[1])["outputs"]
        return np.reshape(output["data"], output["shape"])
    shares = [{int(one["class"]): one["probability"] for one in row["topk"]} for row in rows]
    return np.array([[row[label] for label in range(10)] for row in shares])


def test_500_images_get_the_probabilities_of_distcls_eval_however_they_are_batched(
    run: Path, service: Served, tmp_path: Path
) -> None:
    expected = evaluated(run, tmp_path / "eval.csv")
    assert expected.shape == (NUM_IMAGES, 10)
    split = build_data(read_config(run / "config.yaml").data, OneProcess()).train
    images = [split.image(place) for place in range(NUM_IMAGES)]
    sizes = np.random.default_rng(0).integers(1, 12, NUM_IMAGES)
    ends = np.concatenate([[0], np.cumsum(sizes)]).clip(max=NUM_IMAGES)
    parts = [images[start:end] for start, end in itertools.pairwise(ends) if start < end]
    before = batch_sizes(service)
    with ThreadPoolExecutor(8) as pool:
        found = np.concatenate(list(pool.map(lambda part: asked(service, part[1], part[0] % 4), enumerate(parts))))
    assert np.abs(found - expected).max() < 1e-6
    used = [after - earlier for earlier, after in zip(before, batch_sizes(service), strict=True)]
    assert used[0] < used[1] < used[-1], used  # batches of 1, of up to 2, and of more


def batch_sizes(service: Served) -> list[float]:
    """How many batches there were of at most 1, 2, 4 … images."""
    lines = service.request("GET", "/metrics")[1].decode().splitlines()
    return [float(line.split()[-1]) for line in lines if line.startswith("distcls_batch_size_bucket")]


def test_broken_uploads_get_the_answer_of_distcls_predict_or_a_reason(run: Path, tmp_path: Path) -> None:
    with Served(run, "--timeout", str(TIMEOUT)) as service:
        outcomes, wrong = fuzz(service, run, count=250, seed=1, folder=tmp_path)
        assert wrong == []
        assert outcomes["image: 200"] > 20 and outcomes["image: 422"] > 20, outcomes
        assert service.request("POST", "/predict", png(), content_type="image/png")[0] == 200
        code, errors = service.stop()
    assert code == 0 and [line for line in errors.splitlines() if not is_of_libtiff(line)] == []


CONFIG = """
[[operations]]
include-name = "POST /v2/models/{model}/infer"
# A JSON schema cannot say that there are as many values as the shape has.
checks.positive_data_acceptance.enabled = false
"""


def test_schemathesis_finds_that_the_service_keeps_to_its_openapi_page(run: Path, tmp_path: Path) -> None:
    (tmp_path / "schemathesis.toml").write_text(CONFIG)
    (tmp_path / "token").write_text("s3cret")
    with Served(run, "--token-file", str(tmp_path / "token")) as service:
        words = ["--max-examples", "25", "--header", "Authorization: Bearer s3cret", "--no-color", "--seed", "1"]
        command = [Path(sys.executable).with_name("schemathesis"), "--config-file", "schemathesis.toml", "run"]
        environment = {
            **os.environ,
            "SCHEMATHESIS_HOOKS": "schemathesis_hooks",
            "PYTHONPATH": str(Path(__file__).parents[1]),
        }
        done = subprocess.run(
            [*command, f"{service.url}/openapi.json", *words],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Tested: 9" in done.stdout, done.stdout
