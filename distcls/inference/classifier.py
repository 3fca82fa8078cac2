"""One classifier for every use of a run's weights: evaluating, saving them in model/, predicting, exporting, serving.

It contains everything between an image's pixels and its probabilities, so that no two users of a run's weights can
disagree about preprocessing. Only decoding a file to S × S pixels is outside (data/decoding/decode.py).
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from torch import nn

from distcls.config.settings import Config
from distcls.config.yaml_text import to_yaml
from distcls.data.augmentation.preprocessing import Normalize, describe_preprocessing, described_decoding
from distcls.data.decoding.decode import Decoding
from distcls.errors import MissingInputError
from distcls.files.verified import bytes_writer, json_writer, read_tensors, tensor_writer, text_writer, write_folder
from distcls.inference.tta import views
from distcls.models.build import build_model
from distcls.models.head import features_of
from distcls.models.init_from import find_weights
from distcls.models.weights import convert, load_weights
from distcls.plan.randomness import global_state_kept
from distcls.runs.class_names import damaged, read_class_names, read_result
from distcls.runs.resolution import computes_bf16, weights_dtype
from distcls.runs.status import read_object

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Classifier(nn.Module):
    """Turns uint8 images (n, S, S, 3) into probabilities (n, C): normalization, network and temperature.

    Float images from 0 to 255 work too, and let gradients through. Apart from rounding, results do not depend on the
    batch size: in float32, probabilities agree to 1e-6.
    """

    temperature: torch.Tensor

    def __init__(
        self,
        network: nn.Module,
        config: Config,
        class_names: Sequence[str],
        decoding: Decoding,
        temperature: float = 1.0,
        tta: str = "none",
        trained_on: str | None = "cpu",
    ) -> None:
        """config: the run's, for normalization, memory format and precision. network: already on its device.

        tta: the level of test-time augmentation (tta.py). trained_on: the kind of device, as in env.json; None if
        unknown.
        """
        super().__init__()
        self.network = network
        self.class_names = list(class_names)
        self.decoding = decoding
        self.tta = tta
        self.precision = config.train.precision
        self.trained_on = trained_on
        dtype = weights_dtype(self.precision)
        device = next(network.parameters()).device
        self.normalize = Normalize.build(config.augment.normalize, device, dtype, config.model.channels_last)
        self.register_buffer("temperature", torch.tensor(temperature, dtype=dtype, device=device), persistent=False)

    @property
    def device(self) -> torch.device:
        """Return the device that images must be on."""
        return self.temperature.device

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits (n, C) divided by the temperature, in float32 (float64 for such a run); see `forward`."""
        logits = [weight * self._logits_of(view) for weight, view in views(images, self.tta)]
        return sum(logits[1:], logits[0]) / self.temperature

    def _logits_of(self, images: torch.Tensor) -> torch.Tensor:
        normalized = self.normalize(images)
        with self._autocast():
            outputs = self.network(normalized)
        return outputs.to(self.temperature.dtype)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Return what the network's last layer turns into logits, (n, F), in the run's precision."""
        normalized = self.normalize(images)
        with self._autocast():
            return features_of(self.network, normalized, len(self.class_names))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return probabilities (n, C), the softmax of the logits and of the same type."""
        return self.logits(images).softmax(1)

    @property
    def computes_in(self) -> str:
        """Return the run's precision; float32 where that would be slower, on a device unlike the one of training.

        fp16 needs a GPU. A CPU without instructions for bf16 emulates it.
        """
        if self.precision == "fp16":
            return "fp16" if self.device.type == "cuda" else "float32"
        if self.precision != "bf16" or self.device.type != "cpu" or self.trained_on == "cpu":
            return self.precision
        return "bf16" if computes_bf16(self.device) else "float32"

    def _autocast(self) -> AbstractContextManager:
        dtype = AUTOCAST.get(self.computes_in)
        return contextlib.nullcontext() if dtype is None else torch.autocast(self.device.type, dtype)


def write_model(path: Path, classifier: Classifier, config: Config) -> None:
    """Write model/ atomically: model.safetensors, config.yaml, classes.json, preprocessing.json."""
    preprocessing = describe_preprocessing(classifier.decoding, config.augment.normalize)
    write_folder(
        path,
        {
            "model.safetensors": tensor_writer(dict(classifier.network.state_dict())),
            "config.yaml": text_writer(to_yaml(config)),
            "classes.json": json_writer(classifier.class_names),
            "preprocessing.json": json_writer({**preprocessing, "temperature": classifier.temperature.item()}),
        },
    )


def store_temperature(run_dir: Path, temperature: float) -> None:
    """Put a temperature beside the weights of a finished run, in model/preprocessing.json, atomically.

    Raises MissingInputError if the run has not finished, and DiskError.
    """
    folder = run_dir / "model"
    if find_weights(run_dir).parent != folder:
        raise MissingInputError(
            f"{run_dir} has not finished, so its weights may still change: a temperature is fitted for final weights. "
            "Resume the run first."
        )
    preprocessing = {**read_result(folder / "preprocessing.json"), "temperature": temperature}
    copies = {name: (folder / name).read_bytes() for name in ("model.safetensors", "config.yaml", "classes.json")}
    write_folder(
        folder,
        {name: bytes_writer(content) for name, content in copies.items()}
        | {"preprocessing.json": json_writer(preprocessing)},
    )


def load_classifier(run_dir: Path, config: Config) -> Classifier:
    """Return a classifier with the best weights of a run, finished or not, on the CPU and ready to predict.

    config: the run's (runs/opening.py); its train.tta is applied. Raises MissingInputError if there are no weights.
    """
    class_names = read_class_names(run_dir)
    weights = find_weights(run_dir)
    # A temperature belongs to the weights that it was fitted for; weights in a checkpoint have none.
    beside = weights.with_name("preprocessing.json")
    preprocessing = read_result(beside if beside.exists() else run_dir / "preprocessing.json")
    decoding = described_decoding(preprocessing)
    assert decoding.image_size is not None
    with global_state_kept():  # a network draws its first weights from torch's generator, which is the caller's
        model = dataclasses.replace(config.model, freeze=[], head_only=False)
        network = build_model(model, len(class_names), decoding.image_size)
    convert(network, weights_dtype(config.train.precision))
    load_weights(network, read_tensors(weights))
    temperature = preprocessing.get("temperature", 1.0)
    trained_on = read_object(run_dir / "env.json").get("device")
    return Classifier(network, config, class_names, decoding, temperature, config.train.tta, trained_on).eval()


def read_task(run_dir: Path) -> tuple[list[str], Decoding]:
    """Return a run's class names, and how it decodes images. Raises DiskError, naming the file that is damaged."""
    names, preprocessing = read_class_names(run_dir), read_result(run_dir / "preprocessing.json")
    if not isinstance(preprocessing, dict) or not isinstance(preprocessing.get("image_size"), int):
        raise damaged(run_dir / "preprocessing.json", "it has no image_size")
    return names, described_decoding(preprocessing)
