"""What the README tells people to type works, and its links lead somewhere."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from ranks import Ranks, read_json

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [page for page in ROOT.rglob("*.md") if not re.search(r"^(\.|runs/)", str(page.relative_to(ROOT)))]


# Commands ------------------------------------------------------------------------------------------


def blocks(text: str, language: str) -> dict[str, str]:
    """The fenced blocks with a word after their language, such as ```bash run, one text for each such word."""
    found: dict[str, str] = {}
    for word, block in re.findall(rf"^```{language} (\S+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        found[word] = found.get(word, "") + block
    return found


COMMANDS = [shlex.split(line, comments=True) for line in blocks(README, "bash")["run"].splitlines()]


QUICK = ["train.num_epochs=1", "train.num_threads=1"]


def write_images(folder: Path, count: int, size: int, level: int) -> None:
    """Noise around a gray level, which a model can learn to tell from another."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(level)
    for number in range(1, count + 1):
        pixels = generator.integers(level, level + 80, (size, size, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.jpg")


@pytest.fixture
def visitor(ranks) -> Iterator[Path]:
    """The folder of somebody who follows the README: what it speaks of is there, but small."""
    shutil.copytree(ROOT / "configs", ranks.folder / "configs")
    for name, text in blocks(README, "python").items():
        (ranks.folder / name).write_text(text, encoding="utf-8")
    for level, name in ((0, "rose"), (150, "tulip")):
        write_images(ranks.folder / "photos" / name, 20, 24, level)
        write_images(ranks.folder / "new-photos" / name, 5, 24, level)
        for split in ("train", "test"):
            write_images(ranks.folder / "cifar10" / split / name, 20, 32, level)
    yield ranks.folder


@pytest.mark.timeout(400)
def test_the_commands_work(ranks, visitor: Path) -> None:
    outputs = {shlex.join(words): follow(words, ranks, visitor) for words in COMMANDS}
    assert "runs/flowers is finished" in outputs["distcls train --data photos --name flowers"]
    assert re.search(r"photos/rose/1\.jpg  \w+ \d", outputs["distcls predict runs/flowers photos/rose/1.jpg"])
    for name in ("two", "two-more"):
        assert read_json(visitor / "runs" / name / "env.json")["world_size"] == 2
    runs = {"flowers", "cifar10_cnn", "two", "two-more", "mine", "stripes"}
    assert {path.name for path in (visitor / "runs").iterdir()} == runs


def follow(words: list[str], ranks: Ranks, folder: Path) -> str:
    """Type a command, training for one epoch unless it says otherwise; what is printed.

    Processes of distcls, and those of torchrun, are forked from one that has done the imports: that saves a minute.
    """
    if words[0] == "distcls":
        quick = QUICK if words[1] == "train" else []
        return ranks.run(words[1], *quick, *words[2:])
    if words[:2] == ["torchrun", "--nproc_per_node"]:
        assert words[3:5] == ["-m", "distcls.train"]
        return ranks.run("train", *QUICK, *words[5:], world_size=int(words[2]))
    module = words.index("distcls.train") + 1
    return started([*words[:module], *QUICK, *words[module:]], folder)


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


# Links ---------------------------------------------------------------------------------------------


def links(text: str) -> list[str]:
    """The targets of a page's links, [words](target) and [word]: target, without what leads to the web."""
    inline = re.findall(r"\]\(([^)\s]+)\)", text)
    named = re.findall(r"^\[[^\]]+\]: +(\S+)", text, re.MULTILINE)
    return [target for target in [*inline, *named] if not re.match(r"[a-z]+:", target)]


def test_links_are_found() -> None:
    assert links("[a](b.md#c) ![](d.png) [w](https://x.org)\n[e]: f/g\n[h]: http://i\n") == ["b.md#c", "d.png", "f/g"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    targets = [target.partition("#")[0] for target in links(page.read_text(encoding="utf-8"))]
    assert [target for target in targets if not (page.parent / target).exists()] == []
