"""Prose that reads as spoken: docstrings say what a function does or returns, and some phrases are not used.

Everything is read from the syntax tree and from the pages; nothing is imported.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "distcls"

PHRASES = {
    r"\b(go|goes|going|went|gone) on\b": "resume, continue",
    r"\b(is|are|be) told\b": "is reported, is warned of",
    r"\b(come|comes) along\b": "is bundled",
    r"\bstands? there\b": "is",
}
"""Patterns that sound translated, and what to say instead."""


def docstrings(source: str) -> Iterator[tuple[str, str]]:
    """The name and docstring of a module and of all its classes and functions."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield getattr(node, "name", "its first line"), ast.get_docstring(node) or ""


def questions(source: str) -> list[str]:
    """Docstrings that begin with What or Whether."""
    return [f"{name}: {text.splitlines()[0]}" for name, text in docstrings(source) if re.match("What|Whether", text)]


def prose(source: str) -> str:
    """The comments and strings of a file: what people read."""
    kinds = (tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING))
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return "\n".join(token.string for token in tokens if token.type in kinds)


def phrases(text: str) -> list[str]:
    """Phrases that sound translated, each with what to say instead."""
    return [f"{match[0]!r}: {better}" for old, better in PHRASES.items() for match in re.finditer(old, text)]


SOURCES = {str(path.relative_to(PACKAGE).with_suffix("")): path.read_text() for path in PACKAGE.rglob("*.py")}
PAGES = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", *[str(p.relative_to(ROOT)) for p in ROOT.glob("docs/*.md")]]
PAGES += [str(page.relative_to(ROOT)) for page in ROOT.glob("launch/**/*.md")]


@pytest.mark.parametrize("file", sorted(SOURCES))
def test_docstrings_say_what_a_function_does(file: str) -> None:
    assert questions(SOURCES[file]) == []
    assert phrases(prose(SOURCES[file])) == []


@pytest.mark.parametrize("page", sorted(PAGES))
def test_pages_read_as_spoken(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert phrases(re.sub(r"`tests/\S+`", "", text)) == []


def test_what_sounds_translated_is_found() -> None:
    source = '''"""Whether a module can be imported."""
class A:
    """A thing, which goes on."""
def f():  # is told
    """What it returns."""
    return "comes along"
'''
    assert questions(source) == ["its first line: Whether a module can be imported.", "f: What it returns."]
    assert phrases(prose(source)) == [
        "'goes on': resume, continue",
        "'is told': is reported, is warned of",
        "'comes along': is bundled",
    ]
