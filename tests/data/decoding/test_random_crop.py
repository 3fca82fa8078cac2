"""Random crops are torchvision's, for the numbers that were drawn, and cut the right pixels wherever they are cut."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from distcls.config.settings import DataConfig, NormalizeConfig, RandomResizedCropConfig, TransformConfig
from distcls.data.augmentation.batchwise import draw_crops
from distcls.data.augmentation.resampling import _resample, crop_and_resize
from distcls.data.build import OneProcess, build_data
from distcls.data.decoding.decode import INTERPOLATION, Decoding, decode
from distcls.data.decoding.random_crop import NUM_DRAWS, TRIES, RandomCrop, random_boxes
from distcls.data.split import Data
from distcls.errors import UsageError
from distcls.plan.batches import BatchPlan

SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)


def loop_over_tries(draws: np.ndarray, height: int, width: int) -> list[int]:
    """torchvision's RandomResizedCrop.get_params, with these numbers instead of its own."""
    for area, shape in zip(draws[:TRIES], draws[TRIES : 2 * TRIES], strict=True):
        target = height * width * (SCALE[0] + area * (SCALE[1] - SCALE[0]))
        low, high = map(math.log, RATIO)
        aspect = math.exp(low + shape * (high - low))
        w, h = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
        if 0 < w <= width and 0 < h <= height:
            return [int(draws[-2] * (height - h + 1)), int(draws[-1] * (width - w + 1)), h, w]
    w, h = width, height
    if width / height < min(RATIO):
        h = round(width / min(RATIO))
    elif width / height > max(RATIO):
        w = round(height * max(RATIO))
    return [(height - h) // 2, (width - w) // 2, h, w]


@pytest.mark.parametrize(("height", "width"), [(375, 500), (256, 256), (500, 100), (8, 8), (1, 1), (1, 90), (90, 1)])
def test_boxes_are_those_of_a_loop_over_tries(height: int, width: int) -> None:
    draws = np.random.default_rng(0).random((500, NUM_DRAWS))
    boxes = random_boxes(draws, height, width, SCALE, RATIO)
    assert boxes.tolist() == [loop_over_tries(row, height, width) for row in draws]
    assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] >= 1).all()
    assert (boxes[:, 0] + boxes[:, 2] <= height).all() and (boxes[:, 1] + boxes[:, 3] <= width).all()


def test_boxes_reach_every_edge_and_share_of_the_area() -> None:
    boxes = random_boxes(np.random.default_rng(0).random((4000, NUM_DRAWS)), 256, 256, SCALE, RATIO)
    shares = boxes[:, 2] * boxes[:, 3] / 256**2
    assert shares.min() < 0.09 and shares.max() > 0.98 and 0.45 < shares.mean() < 0.54
    assert (boxes[:, 0] == 0).any() and (boxes[:, 0] + boxes[:, 2] == 256).any()
    assert (boxes[:, 1] == 0).any() and (boxes[:, 1] + boxes[:, 3] == 256).any()


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [7, 24, 60])
def test_crops_are_those_of_pillow_on_a_cpu_and_as_matrices(size: int, interpolation: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 40, 40, 3)).astype(np.uint8)
    boxes = random_boxes(np.random.default_rng(1).random((12, NUM_DRAWS)), 40, 40, SCALE, RATIO)
    expected = [
        np.array(Image.fromarray(image[t : t + h, x : x + w]).resize((size, size), INTERPOLATION[interpolation]))
        for image, (t, x, h, w) in zip(pixels, boxes.tolist(), strict=True)
    ]
    on_cpu = crop_and_resize(torch.from_numpy(pixels), torch.from_numpy(boxes), size, interpolation)
    as_on_gpu = _resample(torch.from_numpy(pixels), torch.from_numpy(boxes), size, interpolation)
    for found in (on_cpu, as_on_gpu):
        assert found.shape == (12, size, size, 3) and found.dtype == torch.uint8
        most = 1 if found is on_cpu and interpolation == "bilinear" else 2  # each rounds twice, in its own way
        assert np.abs(found.numpy().astype(int) - np.stack(expected)).max() <= most


def test_a_crop_of_a_large_jpeg_is_the_same_part_though_decoded_small(tmp_path: Path) -> None:
    """Upright, too: the box lies in the image as people see it."""
    y, x = np.mgrid[0:1200, 0:1600]
    smooth = np.stack([x / 1600 * 255, y / 1200 * 255, (x + y) % 400 / 2], 2).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(smooth).save(tmp_path / "turned.jpg", quality=95, exif=exif)
    whole = decode(tmp_path / "turned.jpg", Decoding(None))
    assert whole.shape == (1600, 1200, 3)
    for draws in np.random.default_rng(0).random((8, NUM_DRAWS)):
        found = decode(tmp_path / "turned.jpg", RandomCrop(64, draws=tuple(draws)))
        top, left, height, width = random_boxes(draws[None], 1600, 1200, SCALE, RATIO)[0].tolist()
        assert found.shape[0] <= height / 2 and min(found.shape[:2]) >= 2 * 64
        part = Image.fromarray(whole[top : top + height, left : left + width]).resize(found.shape[1::-1], 2)
        assert np.abs(np.array(part).astype(int) - found)[8:-8, 8:-8, :2].mean() < 2


# From a folder -------------------------------------------------------------------------------------


@pytest.fixture
def build(tmp_path: Path) -> Callable[..., Data]:
    """16 photographs of noise, of all shapes, decoded as training wants them."""
    draw = np.random.default_rng(0)
    for i in range(16):
        file = tmp_path / "images" / f"class{i % 2}" / f"{i}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(draw.integers(0, 256, (6, 8, 3)).astype(np.uint8))
        coarse.resize((40 + 7 * i, 90 - 2 * i), Image.Resampling.BICUBIC).save(file)

    def build_with(**settings: object) -> Data:
        config = DataConfig(
            **{"name": "folder", "root": str(tmp_path / "images"), "cache_dir": str(tmp_path / "cache")},
            **{"image_size": 24, "test_fraction": 0, "val_fraction": 0.25, **settings},
        )  # type: ignore[arg-type]
        return build_data(config, OneProcess(), crop=RandomResizedCropConfig())

    return build_with


PLAN = BatchPlan(num_images=12, global_batch_size=8, micro_batch_size=2, total_steps=3, seed=0)


def seen(data: Data, workers: int = 0, plan: BatchPlan = PLAN, start: int = 0, **augment: Any) -> list[list[list]]:
    """What enters the model: step, micro-batch, pixels."""
    from distcls.config.settings import AugmentConfig
    from distcls.data.augmentation.batchwise import Augmentation
    from distcls.data.augmentation.preprocessing import Normalize
    from distcls.data.loading.loader import train_batches

    cpu = torch.device("cpu")
    apply = Augmentation(
        Normalize.build(NormalizeConfig(), cpu, torch.float64, True), 2, data.image_size, data.decoding.interpolation
    )
    config = AugmentConfig(**{"flip": True, **augment})
    return [
        [apply(m)[0].tolist() for m in micro_batches]
        for micro_batches in train_batches(data.train, plan, config, cpu, workers, start)
    ]


@pytest.mark.parametrize("decode_size", [None, 30])
def test_crops_are_the_same_for_any_number_of_workers_and_ranks(build: Callable[..., Data], decode_size) -> None:
    import dataclasses

    data = build(decode_size=decode_size, cache="0")
    assert data.train.pixels is None
    expected = seen(data)
    assert np.array(expected).shape == (3, 4, 2, 3, 24, 24)
    assert seen(data, workers=2) == expected
    assert seen(data, workers=1, start=1) == expected[1:]
    by_rank = [seen(data, plan=dataclasses.replace(PLAN, rank=rank, world_size=2)) for rank in range(2)]
    assert [[m for part in parts for m in part] for parts in zip(*by_rank, strict=True)] == expected


def test_crops_are_the_same_from_files_from_disk_and_from_memory(build: Callable[..., Data]) -> None:
    files, disk = build(decode_size=30, cache="0"), build(decode_size=30, cache="0", disk_cache="1 MB")
    memory = build(decode_size=30)
    assert files.train.pixels is None and disk.train.pixels is not None and not disk.train.in_memory
    assert memory.train.in_memory and memory.train.pixels is not None and memory.train.pixels.shape[1:] == (30, 30, 3)
    assert files.fingerprint == disk.fingerprint == memory.fingerprint
    assert seen(files) == seen(disk) == seen(disk, workers=1) == seen(memory)


def test_crops_are_resized_as_evaluation_resizes(tmp_path: Path) -> None:
    """A crop of the whole image is what an evaluation sees, wherever it is cut: from files, disk or memory."""
    draw = np.random.default_rng(0)
    for i in range(16):
        file = tmp_path / "images" / f"class{i % 2}" / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (12, 12, 3)).astype(np.uint8)).save(file)
    whole = RandomResizedCropConfig(scale=[1.0, 1.0], ratio=[1.0, 1.0])
    for interpolation in ("bilinear", "bicubic"):
        for settings in ({"cache": "0"}, {"cache": "0", "decode_size": 24}, {"decode_size": 24}):
            config = DataConfig(
                name="folder", root=str(tmp_path / "images"), cache_dir=str(tmp_path / "cache"), image_size=24,
                test_fraction=0, val_fraction=0.25, interpolation=interpolation, **settings,
            )  # fmt: skip
            data = build_data(config, OneProcess(), crop=whole)
            evaluated = build_data(config, OneProcess()).train
            pixels = np.stack([evaluated.image(i) for i in range(len(evaluated))])
            shown = np.array([batch for step in seen(data, flip=False)[:1] for batch in step]).reshape(-1, 3, 24, 24)
            rows = PLAN.global_batch(0)
            means, stds = NormalizeConfig().mean, NormalizeConfig().std
            found = (shown.transpose(0, 2, 3, 1) * stds + means) * 255
            assert np.abs(found - pixels[rows]).max() < 1.5


def test_transforms_of_single_images_come_after_the_crop(build: Callable[..., Data]) -> None:
    """They are tried out on images of the model's size, and refuse others."""
    transforms = [TransformConfig("RandAugment")]
    files, disk = build(decode_size=30, cache="0"), build(decode_size=30, cache="0", disk_cache="1 MB")
    expected = seen(build(decode_size=30), transforms=transforms)
    assert expected != seen(files)
    assert expected == seen(files, transforms=transforms) == seen(disk, workers=1, transforms=transforms)
    assert np.array(seen(build(), transforms=transforms)).shape == np.array(expected).shape


def test_only_training_sees_crops(build: Callable[..., Data]) -> None:
    """A val split cut from the training images is decoded as evaluation wants it."""
    for settings in ({}, {"cache": "0"}, {"decode_size": 30}):
        data = build(**settings)
        assert data.val is not None and data.image_size == data.report["image_size"] == 24
        assert [data.val.image(i).shape for i in range(len(data.val))] == [(24, 24, 3)] * 4
    assert build().train.pixels is None  # the whole files are cropped


def test_crops_are_a_function_of_seed_and_step() -> None:
    import dataclasses

    first = draw_crops(PLAN, 1)
    assert first.shape == (8, NUM_DRAWS) and np.array_equal(first, draw_crops(PLAN, 1))
    assert not np.array_equal(first, draw_crops(PLAN, 2))
    assert not np.array_equal(first, draw_crops(dataclasses.replace(PLAN, seed=1), 1))


def test_crops_of_arrays_that_are_not_square_see_their_sides(tmp_path: Path) -> None:
    images = np.zeros((12, 8, 16, 3), np.uint8)
    images[:, :, :3] = 255
    np.savez(tmp_path / "wide.npz", images=images, labels=np.arange(12) % 2)
    root, cache = str(tmp_path / "wide.npz"), str(tmp_path / "cache")
    config = DataConfig(name="npz", root=root, cache_dir=cache, test_fraction=0, val_fraction=0)
    data = build_data(config, OneProcess(), crop=RandomResizedCropConfig(scale=[0.5, 1]))
    pixels = np.array([batch for step in seen(data) for batch in step])
    assert len(np.unique(pixels.round(6))) > 3, "the white of the left side is in some of the crops"


def test_squares_to_crop_from_are_no_smaller_than_what_the_model_sees(build: Callable[..., Data]) -> None:
    with pytest.raises(UsageError, match=r"data\.decode_size=20 is smaller than the 24 pixels that the model sees"):
        build(decode_size=20)
