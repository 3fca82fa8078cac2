"""report.html is made from what there is, holds no more than it shows, and trusts no name."""

from __future__ import annotations

import html
import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from browser import opened

from distcls.errors import DiskError
from distcls.report.run_page.facts import read_run
from distcls.report.run_page.page import write_run_page
from distcls.runs.results import Pictures, Predictions, save_pictures, save_predictions

OLD_RUN = Path(__file__).parents[2] / "golden" / "run_0.1.0"
EVIL = "</script><script>alert(1)</script>"


def make_run(folder: Path, class_names: list[str], num_images: int, mistakes: float = 0.3) -> Path:
    """Write a run folder with what the page reads, and pictures of noise."""
    draw, num_classes = np.random.default_rng(0), len(class_names)
    shutil.copytree(OLD_RUN, folder, ignore=lambda *_: ["checkpoints", "tb"])
    labels = draw.integers(0, num_classes, num_images)
    labels[:num_classes] = np.arange(num_classes)
    wrong = draw.random(num_images) < mistakes
    preds = np.where(wrong, draw.integers(0, num_classes, num_images), labels)
    probs = draw.dirichlet(np.ones(num_classes), num_images).astype(np.float32)
    probs[np.arange(num_images), preds] += 1
    probs /= probs.sum(1, keepdims=True)
    names = np.array([f"{class_names[label]}/{i}.png" for i, label in enumerate(labels)])
    confidence = probs.max(1).astype(float)
    save_predictions(folder, "test", Predictions(names, labels, preds, confidence, probs))
    worst = np.flatnonzero(preds != labels)[:12]
    kept = {"predictions": range(12), "worst_mistakes": worst, "gradcam": worst, "confusions": worst}
    pixels = list(draw.integers(0, 256, (12, 32, 32, 3)).astype(np.uint8))
    pictures = {name: Pictures(pixels[: len(places)], places=list(map(int, places))) for name, places in kept.items()}
    save_pictures(folder, {"train_batch": Pictures(pixels, [class_names[0]] * 12), **pictures})
    (folder / "classes.json").write_text(json.dumps(class_names))
    (folder / "status.json").write_text('{"state": "finished", "step": 10}')
    return folder


def page_of(run_dir: Path) -> str:
    write_run_page(run_dir)
    return (run_dir / "report.html").read_text(encoding="utf-8")


def titles(page: str) -> list[str]:
    return re.findall("<h2>(.*?)</h2>", page)


def data_of(page: str) -> dict:
    found = re.search(r'<div class="confusion">.*?<script type="application/json">(.*?)</script>', page, re.DOTALL)
    assert found
    return json.loads(found[1])


def test_each_confusion_has_its_count_and_its_images(tmp_path: Path) -> None:
    page = page_of(make_run(tmp_path / "r", list("abc"), 60, mistakes=0.6))
    found = data_of(page)
    shown = re.findall(r'data-cell="(\d,\d)"', page)
    assert set(shown) <= set(found["counts"]) and sum(found["counts"].values()) == 60
    assert sum(map(len, found["images"].values())) == 12 and set(found["images"]) <= set(found["counts"])
    assert "Grad-CAM" in page and "12 images" not in titles(page)


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    harmless, hostile = (page_of(make_run(tmp_path / name[0], [name, "b"], 40)) for name in ("rose", EVIL))
    assert hostile.count("<script") == harmless.count("<script") and EVIL not in hostile
    assert hostile.count("&lt;/script&gt;") > 20


@pytest.mark.parametrize("num_classes", [120, 1000])
def test_many_classes_are_a_picture(tmp_path: Path, num_classes: int) -> None:
    run_dir = make_run(tmp_path / "r", [f"class {i}" for i in range(num_classes)], 5 * num_classes)
    page, confusion = page_of(run_dir), read_run(run_dir).confusion
    assert '<img src="data:image/png;base64,' in page and f'data-classes="{num_classes}"' in page
    counts = data_of(page)["counts"]
    assert 'class="matrix' not in page and len(counts) > num_classes and len(page) < 5e6
    assert confusion is not None
    assert [counts.get(f"{i},{i}", 0) for i in range(num_classes)] == confusion.diagonal().tolist()


def test_a_sheet_of_thumbnails_is_drawn_behind_nothing_else(tmp_path: Path) -> None:
    page = page_of(make_run(tmp_path / "r", [f"class {i}" for i in range(60)], 300))
    sheets = re.findall(r"<style>\.([\w-]+)\{background-image", page)
    others = [names for names in re.findall(r'class="([^"]*)"', page) if not names.startswith("thumb ")]
    assert len(sheets) == 5 and not set(sheets) & set(" ".join(others).split())
    assert all(f'class="thumb {sheet}' in page or f'"thumb {sheet} crisp"' in page for sheet in sheets)


@pytest.mark.parametrize(("num_classes", "shown"), [(5, 0), (6, 2)])
def test_top_5_of_five_classes_says_nothing(tmp_path: Path, num_classes: int, shown: int) -> None:
    run_dir = make_run(tmp_path / "r", list("abcdef")[:num_classes], 60)
    (run_dir / "metrics.json").write_text('{"test": {"accuracy": 0.5, "top5": 0.9}}')
    assert page_of(run_dir).count("top-5") == shown  # the tile, and the table's row
    assert "test accuracy" in page_of(run_dir)


def test_a_run_that_has_not_finished_shows_what_there_is(tmp_path: Path) -> None:
    shutil.copytree(OLD_RUN, tmp_path / "r")
    page = page_of(tmp_path / "r")
    assert titles(page)[0] == "Curves" and titles(page)[-1] == "Next" and "Confusions" not in titles(page)
    assert "this page shows only what there is so far" in page and "resumes the run" in page


def test_results_of_before_a_run_was_made_longer_are_not_shown(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "r", list("abc"), 60)
    (run_dir / "metrics.json").write_text('{"test": {"accuracy": 0.9}}')
    ended = titles(page_of(run_dir))
    (run_dir / "status.json").write_text('{"state": "preempted", "step": 12}')
    page = page_of(run_dir)
    gone = {"Results", "Confusions", "Worst mistakes", "Sample", "Classes", "Calibration"}
    assert set(ended) - set(titles(page)) == gone and "Training images" in titles(page)
    assert "This run was stopped at step 12, so this page shows only what there is so far" in page
    assert "90.00%" not in page and "Grad-CAM" not in page


def test_a_run_that_set_nothing_aside_has_finished(tmp_path: Path) -> None:
    run_dir = Path(shutil.copytree(OLD_RUN, tmp_path / "r"))
    (run_dir / "status.json").write_text('{"state": "finished", "step": 1200}')
    (run_dir / "metrics.json").write_text("{}")
    page = page_of(run_dir)
    told = "This run finished at step 1,200. No val or test images were set aside, so it was not measured."
    assert told in page and "so far" not in page


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["/venv/bin/distcls", "train", "--name", "my run"], "distcls train --name 'my run'"),
        (["/site-packages/distcls/__main__.py", "train", "--name", "a"], "distcls train --name a"),
        (["/site-packages/distcls/train.py", "--name", "a"], "distcls train --name a"),
        (["distcls train", "--config", "a.yaml"], "distcls train --config a.yaml"),
        (["/site-packages/ipykernel_launcher.py", "-f", "kernel.json"], None),
        (["mine/train.py", "--fast"], None),
        (["-c"], None),
        ([], None),
    ],
)
def test_the_command_that_resumes_a_run_can_be_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, argv: list[str], expected: str | None
) -> None:
    """torchrun, Slurm and notebooks leave something else in sys.argv."""
    monkeypatch.chdir(tmp_path)
    run_dir = old_run(Path("runs/part"), argv)  # as its config says
    assert resuming(run_dir) == (expected or f"distcls train -c {run_dir}/config.yaml run.dir={run_dir}")


def old_run(folder: Path, argv: list[str]) -> Path:
    shutil.copytree(OLD_RUN, folder)
    (folder / "env.json").write_text(json.dumps({"command": argv, "world_size": 4}))
    return folder


def resuming(run_dir: Path) -> str:
    page = page_of(run_dir)
    found = re.search(r'<pre>([^<]*)</pre></dt><dd class="dim">resumes the run, on one process instead of 4<', page)
    assert found
    return html.unescape(found[1])


def test_a_moved_run_is_resumed_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    moved, typed = old_run(Path("runs/part #2"), ["distcls", "train", "run.dir=runs/part"]), "distcls train run.dir="
    command = "distcls train -c 'runs/part #2/config.yaml' 'run.dir=\"runs/part #2\"'"
    assert resuming(moved) == command
    assert resuming(old_run(Path("runs/part"), ["distcls", "train", "run.dir=runs/part"])) == f"{typed}runs/part"
    assert resuming(moved) == command
    monkeypatch.chdir(tmp_path / "runs")
    assert resuming(Path("part")) == "distcls train -c part/config.yaml run.dir=part"


@pytest.mark.parametrize(
    ("name", "argv", "is_typed"),
    [
        ("part", ["distcls", "train", "-c", "part.yaml"], True),
        ("part", ["distcls", "train", "-c", "other.yaml"], False),
        ("synthetic", ["distcls", "train", "data.name=synthetic"], True),
        ("part", ["distcls", "train", "data.name=synthetic"], False),
    ],
)
def test_a_run_without_a_name_has_that_of_its_config_or_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, argv: list[str], is_typed: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    run_dir = old_run(Path("runs", name), argv)
    config = (run_dir / "config.yaml").read_text()
    (run_dir / "config.yaml").write_text(config.replace("dir: runs/part", "dir: null"))
    own = f"distcls train -c {run_dir}/config.yaml run.dir={run_dir}"
    assert resuming(run_dir) == (shlex.join(argv) if is_typed else own)


def test_a_fitted_temperature_has_a_diagram_of_its_own(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "r", list("abc"), 60)
    assert page_of(run_dir).count("Reliability") == 2  # title and label of one
    (run_dir / "model").mkdir(exist_ok=True)
    (run_dir / "model" / "preprocessing.json").write_text('{"temperature": 1.7}')
    page = page_of(run_dir)
    assert "Reliability before temperature scaling" in page and "Reliability with temperature 1.7" in page


def test_what_could_not_be_explained_is_left_out_with_the_reason(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "r", list("abc"), 60)
    reasons = {"gradcam": "no maps", "layers": "no layers", "model": "it is odd"}
    (run_dir / "explained.json").write_text(json.dumps({"model": {}, "left_out": reasons}))
    save_pictures(run_dir, {"predictions": Pictures([np.zeros((8, 8, 3), np.uint8)], places=[0])})
    page = page_of(run_dir)
    assert "Without Grad-CAM: no maps" in page and "Left out: no layers" in page and "Left out: it is odd" in page


def test_results_that_do_not_fit_together_are_an_error(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "r", list("abc"), 60)
    (run_dir / "classes.json").write_text('["a"]')
    with pytest.raises(DiskError, match=r"predictions has classes that classes\.json does not name"):
        page_of(run_dir)
    run_dir = make_run(tmp_path / "s", list("abc"), 60)
    save_pictures(run_dir, {"predictions": Pictures([np.zeros((8, 8, 3), np.uint8)], places=[60])})
    with pytest.raises(DiskError, match="shows images that predictions/ does not have"):
        page_of(run_dir)
    run_dir = make_run(tmp_path / "t", list("abc"), 60)
    (run_dir / "metrics.json").write_text('{"test": {"accuracy": "high"}}')
    with pytest.raises(DiskError, match=r"a file in .* is damaged, .*\(ValueError: "):
        page_of(run_dir)


@pytest.mark.extras
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_in_a_browser_values_appear_and_cells_show_their_images(tmp_path: Path, width: int, dark: bool) -> None:
    run_dir = make_run(tmp_path / "r", ["ants", EVIL, "c" * 70], 60)
    write_run_page(run_dir)
    with opened(run_dir / "report.html", width, dark) as tab:
        chart = tab.locator(".chart svg").first
        chart.scroll_into_view_if_needed()
        chart.hover()
        assert re.search(r"epoch\s*[\d.]+.*\d\.\d{4}", tab.locator("#tip").inner_text(), re.DOTALL)
        cell = next(iter(data_of(page_of(run_dir))["images"]))
        tab.locator(f'.matrix [data-cell="{cell}"]').click()
        assert tab.locator(".confusion .shown .thumb").first.is_visible()
        assert tab.locator(".confusion .shown h3").inner_text().count("taken for") == 1
        button = tab.locator("#classes th button").first
        before = tab.locator("#classes tbody tr td:first-child").all_inner_texts()
        button.click()
        assert sorted(before) == sorted(tab.locator("#classes tbody tr td:first-child").all_inner_texts())
        assert tab.locator("#classes th").first.get_attribute("aria-sort") == "ascending"


@pytest.mark.extras
def test_in_a_browser_the_picture_of_many_classes_can_be_clicked_on(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "r", [f"class {i}" for i in range(120)], 600)
    write_run_page(run_dir)
    i, j = map(int, next(iter(data_of(page_of(run_dir))["images"])).split(","))
    with opened(run_dir / "report.html") as tab:
        picture = tab.locator(".heat img")
        picture.scroll_into_view_if_needed()
        box = picture.bounding_box()
        picture.click(position={"x": (j + 0.5) * box["width"] / 120, "y": (i + 0.5) * box["height"] / 120})
        assert tab.locator(".confusion .shown h3").inner_text() == f"class {i}, taken for class {j}"
