"""Every file in configs/ trains: two steps from new weights, on small images. Its header shows how to start it."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from ranks import read_json
from sweeps_of_tests import read

from distcls.config.loading import read_config
from distcls.models.build import build_model
from distcls.models.init_from import library_weights
from distcls.sweeps.search.checking import check_values
from distcls.sweeps.search.plan import Limits, Plan
from distcls.sweeps.search.space import read_space

CONFIGS = {path.stem: path for path in sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))}

IN_MAKE_TEST = {"cifar10_simple_cnn", "cifar10_tiny"}
"""The others are extras: other tests train their networks, or they are large."""


@pytest.fixture(scope="session")
def photographs(tmp_path_factory) -> Path:
    """Two folders of 20 images of noise, in the form that cameras give: wider than they are high."""
    folder = tmp_path_factory.mktemp("photographs")
    generator = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (folder / name).mkdir()
        for number in range(20):
            pixels = generator.integers(0, 256, (72, 96, 3), np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.jpg")
    return folder


def small(name: str, photographs: Path) -> list[str]:
    """Arguments that make a config small: two steps of eight images.

    With 64 pixels, the last feature maps are 2 × 2: over fewer values, BatchNorm of new weights diverges.
    """
    config = read_config(CONFIGS[name])
    arguments = ["train.num_steps=2", "train.global_batch_size=8", "train.eval_batch_size=16", "train.num_threads=1"]
    arguments += ["train.micro_batch_size=4", "data.val_fraction=0.2"]
    if config.data.name == "folder":
        arguments += ["--data", str(photographs), f"data.image_size={64 if config.model.pretrained else 32}"]
    if config.optim.lookahead is not None:
        arguments += ["optim.lookahead.every=1"]
    if config.model.pretrained:
        arguments += ["model.pretrained=false", "model.freeze_statistics=false"]
    return arguments


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "name", [name if name in IN_MAKE_TEST else pytest.param(name, marks=pytest.mark.extras) for name in CONFIGS]
)
def test_a_config_trains(name: str, photographs: Path, ranks) -> None:
    started = ranks.start("train", "-c", str(CONFIGS[name]), *small(name, photographs), "run.dir=run")
    assert started.wait(limit=500) == [0], started.output()
    status = read_json(ranks.folder / "run" / "status.json")
    assert (status["state"], status["step"]) == ("finished", 2)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_header_shows_the_command_and_what_to_expect(name: str) -> None:
    text = CONFIGS[name].read_text(encoding="utf-8")
    header = [line for line in text.splitlines() if line.startswith("#")]
    assert any(f"distcls train -c configs/{name}.yaml" in line for line in header)
    assert any("%" in line or "Not measured" in line for line in header), "no accuracy, measured or published"


@pytest.mark.parametrize("name", ["cifar10_small_airbench", "cifar10_tiny", "cifar10_searched"])
def test_small_networks_have_fewer_than_200_thousand_parameters(name: str) -> None:
    network = build_model(read_config(CONFIGS[name]).model, 10, 32)
    assert sum(parameter.numel() for parameter in network.parameters()) < 200_000


TRANSFER = [name for name in CONFIGS if name.startswith("transfer_")]


@pytest.mark.parametrize("name", TRANSFER)
def test_weights_are_those_that_the_header_names(name: str) -> None:
    """The image size in the first paragraph of the header is that of the weights; so the library has them."""
    config = read_config(CONFIGS[name])
    weights = library_weights(config.model)
    assert weights is not None
    about = CONFIGS[name].read_text(encoding="utf-8").split("distcls train")[0]
    assert f" {weights.preprocessing.image_size} pixels" in " ".join(about.replace("#", " ").split())


SPACES = sorted((Path(__file__).parents[1] / "configs" / "sweeps").glob("*.yaml"))


@pytest.mark.parametrize("file", SPACES, ids=lambda file: file.stem)
def test_a_space_fits_the_config_of_its_header(file: Path, tmp_path: Path) -> None:
    found = re.search(r"distcls sweep -c (configs/\S+) --space (\S+) ", file.read_text(encoding="utf-8"))
    assert found is not None and found[2] == f"configs/sweeps/{file.name}"
    space, fixed = read_space(file, [])
    config = Path(__file__).parents[1] / found[1]
    plan = Plan(tmp_path, space, config, tuple(fixed), "tpe", 1, 1, 0, "accuracy", (), Limits(), None, 0)
    check_values(plan, read)
