"""One module holds all that lies between pixels and probabilities, whoever uses it, and in whatever batches."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from evaluated import predict
from torch import nn

from distcls.config.loading import read_config
from distcls.config.settings import AugmentConfig, Config, ModelConfig, NormalizeConfig, TrainConfig
from distcls.data.decoding.decode import Decoding
from distcls.data.sources.image_set import ArraySet
from distcls.data.split import Split
from distcls.inference.classifier import Classifier, load_classifier, write_model
from distcls.inference.evaluator import Evaluator
from distcls.inference.probabilities import Probabilities
from distcls.models.build import build_model
from distcls.training.acceleration import Acceleration

OLD_RUN = Path(__file__).parents[1] / "golden" / "run_0.1.0"
CLASSES = ["cat", "dog", "emu"]


def make_config(precision: str = "float32") -> Config:
    return Config(
        augment=AugmentConfig(normalize=NormalizeConfig([0.1, 0.5, 0.6], [0.2, 0.3, 0.4])),
        model=ModelConfig(args={"hidden": 8}),
        train=TrainConfig(precision=precision, eval_batch_size=7),
    )


def make_classifier(config: Config, temperature: float = 1.0) -> Classifier:
    torch.manual_seed(0)
    network = build_model(config.model, 3, 8)
    with torch.no_grad():
        for parameter in network.parameters():  # far from equal probabilities, or rounding would not show
            parameter.mul_(2)
    if config.train.precision == "float64":
        network.double()
    return Classifier(network, config, CLASSES, Decoding(8), temperature).eval()


def make_images(count: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, 8, 8, 3)).astype(np.uint8)


def test_pixels_are_normalized_inside():
    config = make_config("float64")
    classifier, images = make_classifier(config), make_images(5)
    shares = torch.from_numpy(images).double().permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(n).double().view(3, 1, 1) for n in vars(config.augment.normalize).values())
    expected = classifier.network((shares - mean) / std)
    with torch.inference_mode():
        logits, probs = classifier.logits(torch.from_numpy(images)), classifier(torch.from_numpy(images))
    assert torch.allclose(logits, expected, atol=1e-12) and torch.allclose(probs, expected.softmax(1), atol=1e-12)
    assert probs.shape == (5, 3) and probs.dtype == torch.float64


@pytest.fixture
def new_accelerate():
    """Accelerate takes one precision in the life of a process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.usefixtures("new_accelerate")
def test_probabilities_are_those_of_evaluation_at_any_batch_size(precision):
    """bf16 as the run's own evaluation computes, where accelerate has put the network under autocast."""
    config = make_config(precision)
    classifier, images = make_classifier(config), make_images(23)
    rows, labels, processes = np.arange(23), np.arange(23) % 3, OneProcess()
    split = Split("val", ArraySet("x", CLASSES, labels, images), rows, labels, images, Decoding(8))
    in_training = Acceleration(config.train, torch.device("cpu"))
    network = in_training.prepare(make_classifier(config).network, distributed=False)
    keep = Probabilities(23, 3, 7, processes)  # type: ignore[arg-type]
    evaluator = Evaluator(config, processes)  # type: ignore[arg-type]
    measured = evaluator(Classifier(network, config, CLASSES, Decoding(8)), split, keep)
    assert measured is not None and keep.probs.dtype == np.float32
    for batch in (1, 4, 23):
        probs = np.concatenate([predict(classifier, images[i : i + batch]).numpy() for i in range(0, 23, batch)])
        assert np.abs(probs - keep.probs).max() < (1e-6 if precision == "float32" else 0.02)
    assert np.abs(keep.probs.max(1) - measured.confidence).max() < 1e-6
    if precision == "bf16":
        full = predict(make_classifier(make_config()), images).numpy()
        assert np.abs(full - keep.probs).max() > 1e-6, "bf16 was not used"
        assert np.abs(predict(classifier, images).numpy() - keep.probs).max() < 0.5 * np.abs(full - keep.probs).max()


class OneProcess:
    device, rank, world_size, is_main = torch.device("cpu"), 0, 1, True

    def asked_to_stop(self) -> bool:
        return False

    def to_main(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        return [tensor]


def test_complex_numbers_of_the_network_are_loaded_as_they_were_kept(tmp_path, monkeypatch):
    import ledger

    def with_waves(num_classes: int) -> nn.Module:
        network = nn.Sequential(nn.Flatten(), nn.Linear(192, num_classes))
        network.register_buffer("waves", torch.full((2,), 3 + 4j))
        return network

    monkeypatch.setattr(ledger, "with_waves", with_waves, raising=False)
    config = Config(model=ModelConfig(name="ledger:with_waves"))
    write_model(tmp_path / "model", Classifier(with_waves(3), config, CLASSES, Decoding(8)), config)
    network = load_classifier(tmp_path / "model", config).network
    assert torch.equal(network.get_buffer("waves"), with_waves(3).get_buffer("waves"))


@pytest.mark.parametrize(
    ("trained_on", "has_bf16", "expected"),
    [("cuda", False, "float32"), (None, False, "float32"), ("cuda", True, "bf16"), ("cpu", False, "bf16")],
)
def test_bf16_of_a_gpu_is_not_emulated_on_a_cpu(tmp_path, monkeypatch, trained_on, has_bf16, expected):
    monkeypatch.setattr("distcls.inference.classifier.computes_bf16", lambda device: has_bf16)
    config = make_config("bf16")
    write_model(tmp_path / "model", make_classifier(config), config)
    for name in ("classes.json", "preprocessing.json", "config.yaml"):
        (tmp_path / name).write_bytes((tmp_path / "model" / name).read_bytes())
    if trained_on is not None:
        (tmp_path / "env.json").write_text(json.dumps({"device": trained_on}))
    images, found = torch.from_numpy(make_images(4)), {}
    for precision in ("bf16", "float32"):
        classifier = load_classifier(tmp_path, config.replaced({"train.precision": precision}))
        found[precision] = classifier.logits(images)
    assert load_classifier(tmp_path, config).computes_in == expected
    assert torch.equal(found["bf16"], found["float32"]) == (expected == "float32")


def test_the_temperature_is_inside_and_is_kept(tmp_path):
    config = make_config()
    classifier, images = make_classifier(config, temperature=2.5), torch.from_numpy(make_images(4))
    plain = make_classifier(config)
    with torch.inference_mode():
        assert torch.allclose(classifier(images), (plain.logits(images) / 2.5).softmax(1), atol=1e-6)
        assert torch.equal(plain.logits(images), plain.network(plain.normalize(images))), "1 changes no bit"
        write_model(tmp_path / "model", classifier, config)
        loaded = load_classifier(tmp_path / "model", read_config(tmp_path / "model" / "config.yaml"))
        assert torch.equal(loaded(images), classifier(images))
    assert loaded.class_names == CLASSES and loaded.decoding == Decoding(8)


def test_gradients_reach_float_images():
    """For attacks and saliency maps, which ask how pixels matter."""
    classifier, images = make_classifier(make_config()), torch.from_numpy(make_images(2)).float().requires_grad_()
    classifier.logits(images).sum().backward()
    assert images.grad is not None and images.grad.abs().sum() > 0
    assert torch.allclose(classifier(images), classifier(images.detach().to(torch.uint8)), atol=1e-6)


def test_it_can_be_exported():
    classifier, images = make_classifier(make_config()), torch.from_numpy(make_images(4))
    program = torch.export.export(classifier, (images,))
    assert torch.allclose(program.module()(images), classifier(images), atol=1e-6)


def test_a_run_of_version_0_1_0_is_read(tmp_path):
    shutil.copytree(OLD_RUN, tmp_path / "run")
    classifier = load_classifier(tmp_path / "run", read_config(tmp_path / "run" / "config.yaml"))
    probs = predict(classifier, make_images(3))
    assert probs.shape == (3, 4) and torch.allclose(probs.sum(1), torch.ones(3))
    assert classifier.temperature == 1


@pytest.mark.parametrize("world_size", [1, 2])
def test_eval_predict_and_what_a_run_keeps_agree(ranks, world_size):
    """On the same images: `eval --csv`, `predict`, the Python functions, and predictions/test.npz."""
    from PIL import Image

    settings = ["train.num_steps=30", "train.num_threads=1", "train.precision=float32", "run.trackers=[]"]
    for label, name in enumerate(CLASSES):
        (ranks.folder / "images" / name).mkdir(parents=True)
        for i in range(30):
            pixels = np.random.default_rng(100 * label + i).integers(0, 150 + 50 * label, (8, 8, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(ranks.folder / "images" / name / f"{i}.png")
    ranks.run("train", "--data", "images", "--name", "r", *settings, "train.eval_batch_size=5", world_size=world_size)
    ranks.run("eval", "runs/r", "--csv", "test.csv", world_size=world_size)
    rows = list(csv.DictReader((ranks.folder / "test.csv").open()))
    with np.load(ranks.folder / "runs/r/predictions/test.npz") as kept:
        names, probs, preds, labels = (kept[name] for name in ("names", "probs", "preds", "labels"))
    assert len(names) == 18 and list(names) == [row["image"] for row in rows]
    class_names = json.loads((ranks.folder / "runs/r/classes.json").read_text())
    assert [class_names[c] for c in preds] == [row["prediction"] for row in rows]
    assert [class_names[c] for c in labels] == [row["label"] for row in rows]
    assert np.abs(probs.max(1) - [float(row["confidence"]) for row in rows]).max() < 2e-6
    told = ranks.run("predict", "runs/r", *[f"images/{name}" for name in names], "--top", "1")
    rows = [line.split() for line in told.splitlines() if line.startswith("images/")]
    for name, pred, share in zip(names, preds, probs.max(1), strict=True):
        assert [f"images/{name}", class_names[pred], f"{share:.1%}"] in rows
    run_dir = ranks.folder / "runs" / "r"
    classifier = load_classifier(run_dir, read_config(run_dir / "config.yaml"))
    images = [np.asarray(Image.open(ranks.folder / "images" / name)) for name in names]
    assert np.abs(predict(classifier, images).numpy() - probs).max() < 1e-6
    assert probs.max() > 0.6, "else the rest would say little"
