"""Exported weights can be loaded by distcls and by timm itself."""

from __future__ import annotations

import timm
import torch

from distcls.config.settings import Config, ModelConfig, TrainConfig
from distcls.data.decoding.decode import Decoding
from distcls.export.formats import ExportOptions
from distcls.export.metadata import describe
from distcls.export.portable import Portable
from distcls.export.safetensors_file import open_file, write_file
from distcls.inference.classifier import Classifier
from distcls.models.build import build_model
from distcls.models.init_from import find_source, init_from

CLASSES = ["cat", "dog", "emu"]


def test_timm_and_distcls_load_the_file(tmp_path):
    config = Config(model=ModelConfig("timm/mobilenetv3_small_050"), train=TrainConfig(precision="float32"))
    portable = Portable(Classifier(build_model(config.model, 3, 32), config, CLASSES, Decoding(32))).eval()
    file, weights = tmp_path / "x.safetensors", tmp_path / "weights"
    weights.write_bytes(b"of the run")
    write_file(file, portable, describe(portable, config, weights), ExportOptions("safetensors"))
    network, images = portable.classifier.network, torch.rand(2, 3, 32, 32)
    of_timm = timm.create_model("mobilenetv3_small_050", num_classes=3, checkpoint_path=str(file)).eval()
    start = ModelConfig("timm/mobilenetv3_small_050", init_from=str(file))
    ours, source = build_model(start, 3, 32), find_source(start)
    assert source is not None
    init_from(ours, source, start, CLASSES, 32)
    with torch.inference_mode():
        expected = network(images)
        assert torch.allclose(of_timm(images), expected, atol=1e-6), "its memory format may round differently"
        assert torch.equal(ours.eval()(images), expected)
        pixels = torch.randint(0, 256, (3, 32, 32, 3), dtype=torch.uint8)
        assert (open_file(file, portable)(pixels.numpy()) == portable(pixels).numpy()).all()
