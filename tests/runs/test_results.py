"""What is kept of a run for its report reads back as it was, is small, and holds no code."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from distcls.errors import DiskError
from distcls.runs.results import (
    Pictures,
    Predictions,
    load_pictures,
    load_predictions,
    load_sheets,
    save_pictures,
    save_predictions,
)


def make_predictions(classes: np.ndarray | None = None) -> Predictions:
    draw = np.random.default_rng(0)
    probs = draw.dirichlet(np.ones(4), 6).astype(np.float32)
    names = np.array(["a/1.png", "猫/2.png", "b/odd\udc80.png", "", "b/4.png", "c"])
    return Predictions(names, draw.integers(0, 4, 6), probs.argmax(1), probs.max(1).astype(float), probs, classes)


@pytest.mark.parametrize("classes", [None, np.arange(24, dtype=np.int32).reshape(6, 4)])
def test_predictions_read_back(tmp_path: Path, classes: np.ndarray | None) -> None:
    predictions = make_predictions(classes)
    save_predictions(tmp_path, "val", predictions)
    found = load_predictions(tmp_path, "val")
    assert found is not None and vars(found).keys() == vars(predictions).keys()
    for name, array in vars(predictions).items():
        assert np.array_equal(getattr(found, name), array), name
    assert load_predictions(tmp_path, "test") is None
    assert [path.name for path in (tmp_path / "predictions").iterdir()] == ["val.npz"]


def test_a_pickle_in_the_place_of_predictions_is_not_loaded(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self):
            return Path.touch, (tmp_path / "executed",)

    (tmp_path / "predictions").mkdir()
    (tmp_path / "predictions" / "val.npz").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ValueError, match="pickle"):
        load_predictions(tmp_path, "val")
    np.savez(tmp_path / "predictions" / "val.npz", names=np.array([Evil()], dtype=object))
    with pytest.raises(ValueError, match="allow_pickle"):
        load_predictions(tmp_path, "val")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("shape", [(8, 8), (32, 20), (64, 64)])
def test_small_pictures_keep_every_bit(tmp_path: Path, shape: tuple[int, int]) -> None:
    images = list(np.random.default_rng(0).integers(0, 256, (7, *shape, 3)).astype(np.uint8))
    save_pictures(tmp_path, {"some": Pictures(images, ["a\nb"] * 7), "one": Pictures(images[:1], places=[5])})
    found = load_pictures(tmp_path)
    assert [*found] == ["some", "one"] and found["some"].captions == ["a\nb"] * 7 and found["one"].places == [5]
    assert all(np.array_equal(*pair) for pair in zip(found["some"].pixels, images, strict=True))
    assert (tmp_path / "pictures" / "some.png").exists()


def test_large_pictures_become_thumbnails(tmp_path: Path) -> None:
    y, x = np.indices((300, 450)) / 450
    image = (255 * np.stack([x, y, 1 - x], 2)).astype(np.uint8)
    save_pictures(tmp_path, {"photographs": Pictures([image, image.transpose(1, 0, 2)])})
    wide, high = load_pictures(tmp_path)["photographs"].pixels
    assert wide.shape == (107, 160, 3) and high.shape == (160, 107, 3)
    assert np.abs(wide[10:-10, 10:-10].astype(int) - high[10:-10, 10:-10].transpose(1, 0, 2)).max() < 8
    assert (tmp_path / "pictures" / "photographs.jpg").exists()


def test_all_pictures_of_a_run_take_less_than_3_mb(tmp_path: Path) -> None:
    """Noise, which no photograph comes near."""
    noise = list(np.random.default_rng(0).integers(0, 256, (36, 160, 160, 3)).astype(np.uint8))
    names = ("train_batch", "predictions", "worst_mistakes", "gradcam", "feature_maps")
    save_pictures(tmp_path, {**{name: Pictures(noise) for name in names}, "confusions": Pictures(noise * 5)})
    assert sum(path.stat().st_size for path in (tmp_path / "pictures").iterdir()) < 3e6


def test_sheets_of_many_pictures_have_smaller_ones(tmp_path: Path) -> None:
    save_pictures(tmp_path, {"many": Pictures([np.full((200, 100, 3), 90, np.uint8)] * 65)})
    sheet = load_sheets(tmp_path)["many"]
    assert sheet.sizes == [(96, 48)] * 65 and sheet.cell == (96, 48) and sheet.corners()[10] == (96, 48)
    assert sheet.content == (tmp_path / "pictures" / "many.jpg").read_bytes()


def test_an_index_does_not_lead_out_of_its_folder(tmp_path: Path) -> None:
    save_pictures(tmp_path, {"some": Pictures([np.zeros((8, 8, 3), np.uint8)])})
    index = tmp_path / "pictures" / "index.json"
    index.write_text(json.dumps({"some": {**json.loads(index.read_text())["some"], "file": "../../secret.png"}}))
    with pytest.raises(FileNotFoundError, match=str(tmp_path / "pictures" / "secret.png")):
        load_pictures(tmp_path)


def test_a_folder_that_cannot_be_written_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "predictions").write_text("")
    (tmp_path / "pictures").write_text("")
    with pytest.raises(DiskError, match=r"cannot write .*predictions/val\.npz"):
        save_predictions(tmp_path, "val", make_predictions())
    with pytest.raises(DiskError, match="cannot write .*pictures"):
        save_pictures(tmp_path, {})
