"""model/: the weights that a run keeps, with all that is needed to use them; written here, and read here."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from distcls.config.loading import read_config
from distcls.config.settings import Config, DataConfig
from distcls.config.yaml_text import to_yaml
from distcls.data.augmentation.preprocessing import Normalize, describe_preprocessing, described_decoding
from distcls.data.decoding.decode import Decoding
from distcls.errors import MissingInputError
from distcls.files.verified import json_writer, read_tensors, tensor_writer, text_writer, write_folder
from distcls.models.build import build_model
from distcls.models.init_from import find_weights
from distcls.models.weights import load_weights


@dataclass
class KeptModel:
    """A trained network and how to use it."""

    module: nn.Module
    config: Config
    class_names: list[str]
    decoding: Decoding
    normalize: Normalize

    def data_config(self) -> DataConfig:
        """Where the images are, and decoded as in training: a size that training took from its images included."""
        seen = self.decoding
        return dataclasses.replace(self.config.data, image_size=seen.image_size, resize=seen.resize)

    def to(self, device: torch.device) -> None:
        """Move it, ready to predict with the precision that the run evaluated with, where the device has it."""
        self.module.to(device).eval()
        self.normalize = Normalize.build(
            self.config.augment.normalize, device, self.normalize.scale.dtype, self.config.model.channels_last
        )
        precision = self.config.train.precision
        if precision == "bf16" or (precision == "fp16" and device.type == "cuda"):
            dtype = torch.bfloat16 if precision == "bf16" else torch.float16
            autocast = torch.autocast(device.type, dtype)(self.module.forward)
            self.module.forward = lambda images: autocast(images).float()


def write_model(path: Path, module: nn.Module, config: Config, class_names: list[str], decoding: Decoding) -> None:
    """Write model/ whole: model.safetensors, config.yaml, classes.json, preprocessing.json."""
    preprocessing = describe_preprocessing(decoding, config.augment.normalize)
    write_folder(
        path,
        {
            "model.safetensors": tensor_writer(dict(module.state_dict())),
            "config.yaml": text_writer(to_yaml(config)),
            "classes.json": json_writer(class_names),
            "preprocessing.json": json_writer(preprocessing),
        },
    )


def load_kept_model(run_dir: Path, overrides: Sequence[str] = ()) -> KeptModel:
    """The best weights of a run, finished or not, on the CPU. Raises MissingInputError where there are none."""
    for name in ("config.yaml", "classes.json", "preprocessing.json"):
        if not (run_dir / name).exists():
            raise MissingInputError(
                f"{run_dir} is not a run folder: it has no {name}. Give a folder such as runs/digits."
            )
    config = read_config(run_dir / "config.yaml", overrides)
    class_names = json.loads((run_dir / "classes.json").read_text())
    preprocessing = json.loads((run_dir / "preprocessing.json").read_text())
    decoding = described_decoding(preprocessing)
    assert decoding.image_size is not None
    module = build_model(dataclasses.replace(config.model, freeze=[]), len(class_names), decoding.image_size)
    dtype = torch.float64 if config.train.precision == "float64" else torch.float32
    load_weights(module.to(dtype), read_tensors(find_weights(run_dir)))
    normalize = Normalize.build(config.augment.normalize, torch.device("cpu"), dtype, config.model.channels_last)
    module.eval()
    return KeptModel(module, config, class_names, decoding, normalize)
