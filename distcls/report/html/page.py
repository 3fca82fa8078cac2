"""Writes the web pages of distcls: one file each, in one style, that opens from disk and asks the network for nothing.

Class and file names may be hostile: templates escape everything that is not Markup, and a page forbids all scripts
but its own, by hash.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from distcls import __version__
from distcls.files.atomic import naming_disk_errors, printable, write_text

FOLDER = Path(__file__).parent / "parts"
"""Templates, and what is the same on every page: its style and its script."""


@dataclass(frozen=True)
class Section:
    """One part of a page, with an entry in the navigation."""

    title: str
    body: Markup
    """HTML, from `render` or a function that uses it."""
    note: str = ""
    """A sentence or two below the title, as plain text."""

    @property
    def anchor(self) -> str:
        """Return the part of the page's address that leads here."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")


def write_page(path: Path, title: str, sections: Sequence[Section], summary: str = "", kind: str = "") -> None:
    """Write a page atomically. Raises DiskError.

    summary: a sentence or two below the title, as plain text. kind: a word or two above it, such as "Training run".
    """
    text = page_text(title, sections, summary, kind)
    with naming_disk_errors(path):
        write_text(path, text, durable=False)


def page_text(title: str, sections: Sequence[Section], summary: str = "", kind: str = "") -> str:
    """Return the whole page, see `write_page`. Bytes of file names that are not UTF-8 become "?"."""
    page = render(
        "page.html",
        title=title,
        kind=kind,
        summary=summary,
        sections=sections,
        style=Markup(_part("page.css")),
        script=Markup(_part("page.js")),
        script_hash=base64.b64encode(hashlib.sha256(_part("page.js").encode()).digest()).decode(),
        version=__version__,
    )
    return printable(page)


def render(template: str, **values: Any) -> Markup:
    """Return a template from parts/ with these values. Whatever is not Markup is escaped."""
    return Markup(_environment().get_template(template).render(values))


def joined(pieces: Iterable[Markup]) -> Markup:
    """Return pieces of HTML one after the other."""
    return Markup("\n").join(pieces)


def grid(charts: Iterable[Markup]) -> Markup:
    """Return charts side by side, as many in a row as fit."""
    return Markup('<div class="grid">{}</div>').format(joined(charts))


def data_uri(content: bytes, kind: str) -> str:
    """Return an image as the address of itself. kind: such as "image/png"."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@cache
def _part(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8").strip()
