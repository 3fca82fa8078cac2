"""A page is one file that opens from disk, and nothing in a name becomes a part of it."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from markupsafe import Markup

from distcls.errors import DiskError
from distcls.report.html.charts import Line, line_chart
from distcls.report.html.page import Section, page_text, write_page
from distcls.report.html.tables import Cell, number, pairs, table

EVIL = """</script><script>alert(1)</script><img src=x onerror=alert(2)> "quoted" 'too' & {{ 7 * 7 }}"""


class Tags(HTMLParser):
    """Counts tags, and collects the text between them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def page_with(name: str) -> str:
    body = table([name], [[name], [Cell(name, 1.0, bar=0.5)]]) + pairs([(name, name)])
    body += line_chart(name, [Line(name, [0, 1], [1, 2])], "{:g}".format, name)
    return page_text(name, [Section(name, body, name)] * 3, name, name)


def test_hostile_names_stay_text() -> None:
    harmless, hostile = Tags(page_with("rose")), Tags(page_with(EVIL))
    assert [tag for tag, _ in harmless.tags] == [tag for tag, _ in hostile.tags]
    assert not any(name.startswith("on") for _, attributes in hostile.tags for name in attributes)
    assert "".join(hostile.words).count(EVIL) >= 20


def test_a_page_loads_nothing_and_runs_only_its_own_script() -> None:
    text = page_with("rose")
    assert not re.findall(r"""(?:src|href)=["'](?!#|data:)""", text) and "@import" not in text
    assert not re.findall(r"url\((?!data:)", text)
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text)
    assert policy and "default-src 'none'" in policy[1]
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    assert len(scripts) == 1 and f"'sha256-{hashes[0]}'" in policy[1]


def test_sections_have_a_navigation() -> None:
    text = page_text("Title", [Section(f"Part {i} & more", Markup("<p>text</p>")) for i in range(3)])
    assert '<a href="#part-1-more">Part 1 &amp; more</a>' in text and '<section id="part-1-more">' in text
    assert "<nav" not in page_text("Title", [Section("Only one", Markup("<p>text</p>"))])


def test_pages_are_valid_utf8_whatever_files_are_called(tmp_path: Path) -> None:
    write_page(tmp_path / "page.html", "odd\udc80 猫", [])
    assert "<h1>odd? 猫</h1>" in (tmp_path / "page.html").read_text(encoding="utf-8")
    with pytest.raises(DiskError, match=r"cannot write .*/nowhere/page\.html"):
        write_page(tmp_path / "nowhere" / "page.html", "title", [])


def test_numbers_are_aligned_and_sorted_by_their_value() -> None:
    made = table(["name", "share"], [["a", Cell("9.5 %", 0.095)], ["b", number(None, "")]])
    assert made.count('class="number') == 3 and 'data-sort="0.095"' in made and 'data-sort="-1e+300"' in made
    assert "sortable" in made and "sortable" not in table(["a"], [["b"]], sortable=False)
