"""The model card says what the run folder says, in Markdown that holds, and shows none of the run's images."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from made_runs import make_run
from PIL import Image

from distcls.cli import main
from distcls.config.loading import read_config
from distcls.hub.card import write_card
from distcls.hub.model_folder import Written
from distcls.hub.options import PushOptions
from distcls.report.run_page.facts import read_run

PROVEN = Written("timm", 1.0, 1.0, 20, 3e-7)


@pytest.fixture
def card(pushed) -> str:
    return (pushed / "README.md").read_text(encoding="utf-8")


def section(card: str, heading: str) -> str:
    return card.split(f"\n## {heading}\n")[1].split("\n## ")[0]


def card_of(folder: Path, *settings: str, written: Written = PROVEN, **facts) -> str:
    """The card of a run that looks as if it had been trained."""
    run = make_run(folder / "run", *settings, **facts)
    (folder / "card").mkdir()
    write_card(folder / "card", read_run(run), read_config(run / "config.yaml"), PushOptions("me/a"), written)
    return (folder / "card" / "README.md").read_text(encoding="utf-8")


def test_the_hub_understands_the_header(timm_run, pushed):
    card = ModelCard.load(pushed / "README.md")
    assert card.data.library_name == "timm" and card.data.pipeline_tag == "image-classification"
    assert card.data.license == "mit" and card.data.datasets is None
    assert {"image-classification", "timm", "transformers", "distcls"} <= set(card.data.tags)
    assert card.data.model_name == "holiday"
    metrics = json.loads((timm_run / "metrics.json").read_text())
    found = {(one.dataset_split, one.metric_type): one.metric_value for one in card.data.eval_results}
    assert found["test", "accuracy"] == pytest.approx(metrics["test"]["accuracy"], abs=1e-6)
    assert found["val", "f1"] == pytest.approx(metrics["val"]["macro_f1"], abs=1e-6)
    assert {one.dataset_name for one in card.data.eval_results} == {"holiday photographs"}


def test_named_data_sets_are_those_of_the_hub(tmp_path):
    header = ModelCard(card_of(tmp_path, "data.name=cifar10")).data
    assert header.datasets == ["uoft-cs/cifar10"]
    assert {one.dataset_type for one in header.eval_results} == {"uoft-cs/cifar10"}


def test_metrics_have_their_intervals(timm_run, card):
    test = json.loads((timm_run / "metrics.json").read_text())["test"]
    low, high = test["intervals"]["accuracy"]
    assert f"| {test['accuracy']:.2%} ({low:.2%} to {high:.2%}) |" in section(card, "Results")
    assert re.search(r"^\| a \\\| b \| \d\.\d{3} \|", section(card, "Results"), re.MULTILINE)
    assert "before the temperature was fitted" in section(card, "Results")


def test_it_says_what_the_model_is_made_from_and_for(card):
    assert "holiday photographs" in section(card, "Data") and "| train | 43 |" in section(card, "Data")
    assert "3 classes: a \\| b, plain, été." in section(card, "Data")
    assert "distcls eval holiday --data YOUR_IMAGES --split all" in section(card, "Intended use")
    limits = section(card, "Limits")
    assert "one of its 3 classes" in limits and "evaluated on 12 test images" in limits
    assert "Fewer than 50 training images: " in limits and "a \\| b (14)" in limits
    assert "timm/test_vit" in section(card, "Training") and "num_steps: 6" in section(card, "Training")
    assert "torch |" in section(card, "Environment")
    assert "divided by 1.75, a temperature" in section(card, "How to use").replace("\n", " ")


def test_there_is_a_picture_but_none_of_the_runs_images(pushed, card):
    shown = re.findall(r"!\[.*\]\((\S+)\)", card)
    assert shown == ["confusion_matrix.png", "curves.png"]
    for name in shown:
        with Image.open(pushed / name) as image:
            assert min(image.size) > 200
    assert {path.name for path in pushed.iterdir() if path.suffix in (".png", ".jpg")} == set(shown)


def test_neither_the_machine_nor_its_folders_are_named(timm_run, card):
    environment = json.loads((timm_run / "env.json").read_text())
    assert environment["host"] and environment["host"] not in card
    assert str(timm_run.parent) not in card


def test_of_a_path_only_its_name_is_shown(tmp_path):
    card = card_of(tmp_path, "model.init_from=/home/me/runs/older", "data.exclude=/home/me/bad.csv")
    assert "init_from: older" in card and "exclude: bad.csv" in card and "/home" not in card


@pytest.mark.parametrize(
    ("settings", "written", "says"),
    [
        (["data.resize=pad"], PROVEN, "timm pads with the mean color; distcls padded with white"),
        (["data.crop_fraction=0.9"], PROVEN, "timm also crops images that already have the final size"),
        (["train.tta=flip"], PROVEN, "measured with test-time augmentation (`flip`)"),
        ([], Written("timm", 1.0, 2.5, 20, 0.0), "(model(transform(image)[None]) / 2.5).softmax(1)"),
        (["model.name=my_models:make"], Written("code", 1.0, 1.0, 20, 0.0), "distcls predict a photo.jpg --trust"),
        (["model.name=cnn2"], Written("distcls", 1.0, 1.0, 20, 0.0), "timm and transformers cannot build it"),
        (["model.name=timm/resnet18", "model.pretrained=true"], PROVEN, "whose license and biases it inherits"),
    ],
)
def test_what_is_special_about_a_run_is_said(tmp_path, settings, written, says):
    assert says in " ".join(card_of(tmp_path, *settings, written=written).split())


@pytest.mark.parametrize(
    ("setting", "weights", "base"),
    [
        ("model.pretrained=true", "timm/resnet18.a1_in1k", "timm/resnet18.a1_in1k"),
        ("model.weights=timm/mine.pth", "mine.pth", None),
        ("model.init_from=runs/older", "older", None),
        ("model.pretrained=true", "torchvision/resnet18 IMAGENET1K_V1", None),
    ],
)
def test_the_weights_that_it_started_from_are_named(tmp_path, setting, weights, base):
    run = make_run(tmp_path / "run", "model.name=timm/resnet18", "model.pretrained=true")
    (run / "weights.json").write_text(json.dumps({"setting": setting, "weights": weights, "sha256": "0"}))
    (tmp_path / "card").mkdir()
    write_card(tmp_path / "card", read_run(run), read_config(run / "config.yaml"), PushOptions("me/a"), PROVEN)
    card = ModelCard.load(tmp_path / "card" / "README.md")
    assert card.data.base_model == base
    assert f"It started from {weights.replace('_', chr(92) + '_')}." in section(card.content, "Training")


def test_of_a_run_that_set_nothing_aside_it_says_so(tmp_path):
    run = make_run(tmp_path / "run", "data.val_fraction=0", "data.test_fraction=0")
    (run / "metrics.json").write_text("{}")
    (tmp_path / "card").mkdir()
    write_card(tmp_path / "card", read_run(run), read_config(run / "config.yaml"), PushOptions("me/a"), PROVEN)
    card = (tmp_path / "card" / "README.md").read_text(encoding="utf-8")
    assert "No val or test images were set aside" in section(card, "Results") and "not finished" not in card
    assert "This run finished at step 100. No val or test images" in card and "so far" not in card


def test_warnings_about_the_data_break_no_markdown_and_name_no_image(tmp_path):
    run = make_run(tmp_path / "run", "data.name=folder", "data.root=/home/me/my_photos")
    report = json.loads((run / "data_report.json").read_text())
    warnings = ["data.exclude has 1 name that no image has: cat/me.jpg", "a_b*<c> has 3 training images: hard"]
    (run / "data_report.json").write_text(json.dumps({**report, "warnings": warnings}))
    (tmp_path / "card").mkdir()
    write_card(tmp_path / "card", read_run(run), read_config(run / "config.yaml"), PushOptions("me/a"), PROVEN)
    card = (tmp_path / "card" / "README.md").read_text(encoding="utf-8")
    assert "\n\nmy\\_photos. a\\_b\\*\\<c\\> has 3 training images: hard.\n" in card and "me.jpg" not in card


def test_a_vision_transformer_of_torchvision_is_built_for_its_images(tmp_path):
    run = make_run(tmp_path / "run", "model.name=torchvision/vit_b_32", "model.args={dropout: 0.1}")
    (run / "data_report.json").write_text('{"image_size": 64}')
    (tmp_path / "card").mkdir()
    written = Written("torchvision", 1.0, 1.0, 20, 0.0)
    write_card(tmp_path / "card", read_run(run), read_config(run / "config.yaml"), PushOptions("me/a"), written)
    card = (tmp_path / "card" / "README.md").read_text(encoding="utf-8")
    assert 'get_model("vit_b_32", num_classes=3, image_size=64, dropout=0.1)' in card


def test_many_classes_and_odd_names(tmp_path):
    run = make_run(tmp_path / "run", right=[True] * 300)
    names = ["<b>", "\udcff", "*x*", *(f"c{i}" for i in range(3, 300))]
    (run / "classes.json").write_text(json.dumps(names))
    (tmp_path / "card").mkdir()
    write_card(tmp_path / "card", read_run(run), read_config(run / "config.yaml"), PushOptions("me/a"), PROVEN)
    card = (tmp_path / "card" / "README.md").read_text(encoding="utf-8")
    assert "\\<b\\>, ?, \\*x\\*, c3" in card and "and 100 more (`classes.json`)" in card
    assert "250 more classes have a higher F1." in card


def test_results_of_before_a_run_was_made_longer_are_not_those_of_its_weights(tmp_path):
    run = make_run(tmp_path / "run", right=[True] * 30)
    (run / "status.json").write_text(json.dumps({"state": "preempted", "step": 120}))
    (tmp_path / "card").mkdir()
    facts = read_run(run).of_current_weights()
    write_card(tmp_path / "card", facts, read_config(run / "config.yaml"), PushOptions("me/a"), PROVEN)
    card = ModelCard.load(tmp_path / "card" / "README.md")
    assert card.data.eval_results is None and "no final metrics" in section(card.content, "Results")
    assert "It has not been evaluated" in card.content and "This run was stopped at step 120" in card.content
    assert [path.name for path in (tmp_path / "card").iterdir()] == ["README.md"]


@pytest.mark.extras  # transformers is not among the packages that distcls needs
def test_the_commands_of_the_card_work(timm_run, pushed, photographs, tmp_path, monkeypatch, capsys):
    """Its Python and its commands, as they are but for the download: the folder is here."""
    pytest.importorskip("transformers", reason="transformers is not installed: its lines of the card were not run")
    monkeypatch.chdir(tmp_path)
    shutil.copytree(pushed, "holiday")
    Image.open(photographs / "a | b" / "1.png").save("photo.jpg", quality=100, subsampling=0)
    card = Path("holiday/README.md").read_text(encoding="utf-8")
    python = "\n".join(re.findall(r"^```python\n(.*?)^```$", card, re.MULTILINE | re.DOTALL))
    local = python.replace("hf-hub:me/holiday", "local-dir:holiday").replace('"me/holiday"', '"holiday"')
    assert local.count("holiday") == 2
    exec(compile(local, "card", "exec"), {})
    timms, theirs = capsys.readouterr().out.strip().splitlines()
    by_timm, by_transformers = eval(timms), {one["label"]: one["score"] for one in eval(theirs)}
    assert by_timm == pytest.approx(by_transformers, abs=1e-3)
    (shell,) = re.findall(r"^```bash\n(.*?)^```$", card, re.MULTILINE | re.DOTALL)
    download, *commands = shell.splitlines()
    assert download == "hf download me/holiday --local-dir holiday"
    commands += ["distcls export holiday", f"distcls eval holiday --data '{photographs}' --split all"]
    for command in commands:
        assert main(shlex.split(command)[1:]) == 0
    printed = capsys.readouterr().out
    assert max(by_timm, key=by_timm.__getitem__) in printed and re.search(
        r"^été +1.0000 +1.0000 +1.0000 +20$", printed, re.MULTILINE
    )
