"""Networks that are too large or too slow are refused before they are trained."""

from __future__ import annotations

import pytest
from PIL import Image
from sweeps_of_tests import read

from distcls.sweeps.search import limits
from distcls.sweeps.search.limits import Networks
from distcls.sweeps.search.plan import Limits
from distcls.training.start import settling

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL, LARGE = (read([f"model.args.hidden={hidden}"]) for hidden in (8, 512))


def test_parameters_are_counted() -> None:
    networks = Networks(Limits(parameters=50_000))
    assert networks.refusal(SMALL) is None
    assert networks.refusal(LARGE) == "its network has 156,202 parameters, more than 50,000"
    assert Networks(Limits()).refusal(LARGE) is None


def test_flops_are_counted() -> None:
    networks = Networks(Limits(flops=900_000))
    reason = networks.refusal(LARGE)
    assert networks.refusal(SMALL) is None
    assert reason == "its network takes 972,800 FLOPs for an image, more than 900,000"


@pytest.mark.parametrize(("seconds", "reason"), [(0.001, None), (0.004, "4.00 ms"), (None, "too long")])
def test_latency_is_measured(monkeypatch, seconds, reason) -> None:
    monkeypatch.setattr(limits, "measure_latency", lambda classifier, sizes, time: {1: seconds})
    refused = Networks(Limits(latency=0.002)).refusal(SMALL)
    expected = reason and f"its network takes {reason} for an image, more than 2 ms"
    assert refused == expected


def test_a_real_latency() -> None:
    assert Networks(Limits(latency=2.0)).refusal(SMALL) is None
    assert "more than 0.001 ms" in (Networks(Limits(latency=1e-6)).refusal(SMALL) or "")


def test_a_network_that_cannot_be_built_is_refused_and_says_why() -> None:
    reason = Networks(Limits(parameters=10**9)).refusal(read(["model.args.hiden=3"]))
    assert reason is not None and "do not fit model.name=cnn2" in reason


def test_the_images_are_as_large_as_the_weights_want_them() -> None:
    words = ["model.name=timm/tf_efficientnet_lite0", "model.pretrained=true"]
    networks = Networks(Limits(flops=100_000_000))
    assert networks.refusal(read([*words, "data.image_size=32"])) is None
    assert "FLOPs for an image" in (networks.refusal(read(words)) or ""), "224 pixels, though digits have 8"


def test_a_preset_is_asked_once_for_all_arguments_of_a_network(tmp_path, monkeypatch) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(3):
            Image.new("RGB", (70, 64), (i, 0, 0)).save(tmp_path / name / f"{i}.png")
    opened: list[object] = []
    open_image_sets = settling.open_image_sets
    monkeypatch.setattr(settling, "open_image_sets", lambda data: opened.append(data) or open_image_sets(data))
    words = [f"data.root={tmp_path}", "data.name=folder", "model.name=cnn2"]
    networks = Networks(Limits(flops=1))
    reasons = [networks.refusal(read([*words, f"model.args.hidden={hidden}"])) for hidden in (8, 16)]
    at_128 = networks.refusal(read([*words, "model.args.hidden=8", "data.image_size=128", "preset=none"]))
    assert reasons[0] == at_128 != reasons[1], "as for photographs that are trained from scratch"
    assert len(opened) == 1
