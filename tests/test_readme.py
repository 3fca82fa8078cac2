"""The commands that the README and the pages under docs/ tell people to type work, and their links lead somewhere."""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from ranks import Ranks, read_json

ROOT = Path(__file__).parents[1]
PAGES = [page for page in ROOT.rglob("*.md") if not re.search(r"^(\.|runs/)", str(page.relative_to(ROOT)))]


# Commands ------------------------------------------------------------------------------------------


def blocks(text: str, language: str) -> dict[str, str]:
    """The fenced blocks with a word after their language, such as ```bash run, one text for each such word."""
    found: dict[str, str] = {}
    for word, block in re.findall(rf"^```{language} (\S+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        found[word] = found.get(word, "") + block
    return found


def commands(text: str) -> list[list[str]]:
    """The commands of a page's ```bash run blocks, in their order, split into words."""
    return [shlex.split(line, comments=True) for line in blocks(text, "bash").get("run", "").splitlines()]


RUNNABLE = {
    page.relative_to(ROOT).as_posix(): page.read_text(encoding="utf-8")
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    if commands(page.read_text(encoding="utf-8"))
}
"""Pages with commands, and their text."""

RUNS = {
    "README.md": {"flowers"},
    "docs/data.md": {"flowers", "cifar10_cnn"},
    "docs/evaluation.md": {"flowers", "flowers-1"},
    "docs/photographs.md": {"flowers"},
    "docs/report.md": {"flowers"},
    "docs/predicting.md": {"flowers"},
    "docs/running.md": {"flowers", "two", "two-more"},
    "docs/your-own-code.md": {"mine", "clamped", "radam", "stripes"},
    "docs/python.md": {"flowers"},
    "docs/comparing.md": {"small", "large"},
    "docs/deployment.md": {"flowers"},
    "docs/hub.md": {"flowers"},
    "docs/serving.md": {"flowers"},
}
"""The runs that somebody has who typed all commands of a page."""

QUICK = ["train.num_epochs=1", "train.num_threads=1"]


def write_images(folder: Path, count: int, size: int, level: int) -> None:
    """Noise around a gray level, which a model can learn to tell from another."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(level)
    for number in range(1, count + 1):
        pixels = generator.integers(level, level + 80, (size, size, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.jpg")


def prepare(folder: Path, page: str) -> None:
    """Make the folder of somebody who follows a page: what it speaks of is there, but small."""
    shutil.copytree(ROOT / "configs", folder / "configs")
    for name, text in blocks(page, "python").items():
        (folder / name).write_text(text, encoding="utf-8")
    for level, name in ((0, "rose"), (150, "tulip")):
        write_images(folder / "photos" / name, 20, 24, level)
        write_images(folder / "new-photos" / name, 5, 24, level)
        for split in ("train", "test"):
            write_images(folder / "cifar10" / split / name, 20, 32, level)


@pytest.mark.timeout(400)
@pytest.mark.parametrize("page", RUNNABLE)
def test_the_commands_work(ranks, page: str) -> None:
    prepare(ranks.folder, RUNNABLE[page])
    outputs = {shlex.join(words): follow(words, ranks, ranks.folder) for words in commands(RUNNABLE[page])}
    runs = ranks.folder / "runs"
    assert {path.name for path in runs.iterdir() if path.is_dir()} == RUNS[page] if page in RUNS else not runs.exists()
    if page == "docs/running.md":
        assert "runs/flowers is finished" in outputs["distcls train --data photos --name flowers"]
        for name in ("two", "two-more"):
            assert read_json(runs / name / "env.json")["world_size"] == 2
    if page == "README.md":
        assert re.search(r"photos/rose/1\.jpg  \w+ +\d", outputs["distcls predict runs/flowers photos/rose/1.jpg"])


def follow(words: list[str], ranks: Ranks, folder: Path) -> str:
    """Type a command, training for one epoch unless it says otherwise; what is printed.

    Processes of distcls, and those of torchrun, are forked from one that has done the imports: that saves a minute.
    """
    if words[:2] == ["distcls", "sweep"]:  # several trainings, none of which is forked
        sweep = ranks.start(*words[1:])
        assert sweep.wait(limit=300) == [0], sweep.output()
        return sweep.output()
    if words[0] == "distcls":
        quick = QUICK if words[1] == "train" else []
        return ranks.run(words[1], *quick, *words[2:])
    if words[:2] == ["torchrun", "--nproc_per_node"]:
        assert words[3:5] == ["-m", "distcls.train"]
        return ranks.run("train", *QUICK, *words[5:], world_size=int(words[2]))
    if "distcls.train" in words:
        module = words.index("distcls.train") + 1
        words = [*words[:module], *QUICK, *words[module:]]
    return started(words, folder)


def started(words: list[str], folder: Path) -> str:
    """The output of a command with environment variables before it, such as ACCELERATE_USE_CPU=1."""
    count = next(index for index, word in enumerate(words) if "=" not in word)
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "CUDA_VISIBLE_DEVICES": "",
        **dict(word.split("=", 1) for word in words[:count]),
    }
    done = subprocess.run(
        words[count:], cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_blocks_are_found() -> None:
    text = "```bash run\na  # b\n```\n```bash\nmake demo\n```\n```bash run\nc\n```\n```python x.py\nd\n```\n"
    assert blocks(text, "bash") == {"run": "a  # b\nc\n"}
    assert blocks(text, "python") == {"x.py": "d\n"}
    assert commands(text) == [["a"], ["c"]]
    assert commands("no commands") == []


def test_the_pages_with_commands_are_known() -> None:
    assert set(RUNS) <= set(RUNNABLE)


# Links ---------------------------------------------------------------------------------------------


def links(text: str) -> list[str]:
    """The targets of a page's links, [words](target) and [word]: target, without what leads to the web."""
    inline = re.findall(r"\]\(([^)\s]+)\)", text)
    named = re.findall(r"^\[[^\]]+\]: +(\S+)", text, re.MULTILINE)
    return [target for target in [*inline, *named] if not re.match(r"[a-z]+:", target)]


def test_links_are_found() -> None:
    assert links("[a](b.md#c) ![](d.png) [w](https://x.org)\n[e]: f/g\n[h]: http://i\n") == ["b.md#c", "d.png", "f/g"]


def anchors(text: str) -> set[str]:
    """What GitHub calls the headings of a page."""
    headings = re.findall(r"^#+ +(.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def leads_nowhere(page: Path, target: str) -> bool:
    """True if a link of a page leads to a file, or a heading of a page, that is not there."""
    name, _, heading = target.partition("#")
    file = page.parent / name if name else page
    if not heading or not file.exists():
        return not file.exists()
    return heading not in anchors(file.read_text(encoding="utf-8"))


def test_anchors_are_found(tmp_path: Path) -> None:
    page = tmp_path / "a.md"
    page.write_text("# Whose code runs?\n## Batches\n")
    assert anchors(page.read_text()) == {"whose-code-runs", "batches"}
    targets = ["#batches", "a.md#whose-code-runs", "a.md", "#batch", "b.md", "b.md#batches"]
    assert [target for target in targets if leads_nowhere(page, target)] == ["#batch", "b.md", "b.md#batches"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    assert [target for target in links(page.read_text(encoding="utf-8")) if leads_nowhere(page, target)] == []


def named_tests(text: str) -> list[tuple[str, str]]:
    """The tests that a page names, as `tests/FILE.py::test_name`."""
    return re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text)


def test_the_promises_name_tests_that_exist() -> None:
    named = named_tests((ROOT / "docs" / "promises.md").read_text(encoding="utf-8"))
    assert len(named) > 5
    assert [f"{file}::{name}" for file, name in named if name not in functions(ROOT / file)] == []


def functions(file: Path) -> set[str]:
    """The names of a file's functions; none where there is no such file."""
    tree = ast.parse(file.read_text(encoding="utf-8") if file.exists() else "")
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
