"""The page that compares runs: names are escaped, what differs is marked, and curves are there."""

from __future__ import annotations

import re

from made_runs import copy_run, make_run

from distcls.report.comparison.page import write_comparison
from distcls.report.comparison.table import build_table

HOSTILE = "<script>alert(1)</script>"


def test_what_runs_say_is_text(tmp_path) -> None:
    make_run(tmp_path / "a", "data.name=folder", f"data.root='{HOSTILE}'")
    make_run(tmp_path / "<img src=x>", state="failed", reason=HOSTILE)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "config.yaml").write_text(f"'{HOSTILE}': 1")
    write_comparison(build_table([tmp_path]), [HOSTILE], tmp_path / "x.html")
    page = (tmp_path / "x.html").read_text()
    assert HOSTILE not in page and "<img src" not in page
    assert page.count("&lt;script&gt;alert(1)") >= 3, "the setting, the reason, and what cannot be read"


def test_settings_that_differ_are_marked_and_reports_are_linked(tmp_path) -> None:
    for name, lr in (("a", 1), ("b b", 2), ("c", 1)):
        make_run(tmp_path / "runs" / name, f"optim.lr={lr}")
    (tmp_path / "runs" / "b b" / "report.html").touch()
    write_comparison(build_table([tmp_path / "runs"], group=False), [], tmp_path / "x.html")
    page = (tmp_path / "x.html").read_text()
    assert re.findall(r'class="[^"]*differs[^"]*"[^>]*>([^<]+)<', page) == ["2.0"]
    assert '<a href="runs/b%20b/report.html">b b</a>' in page and page.count("report.html") == 1


def test_curves_of_repetitions_are_a_mean_over_pale_lines(tmp_path) -> None:
    for seed in range(3):
        make_run(tmp_path / f"x-seed{seed}", f"train.seed={seed}", accuracy=0.9)
    make_run(tmp_path / "y", "optim.lr=1", accuracy=0.5)
    make_run(tmp_path / "z", "optim.lr=2", accuracy=None)
    write_comparison(build_table([tmp_path]), [], tmp_path / "x.html")
    page = (tmp_path / "x.html").read_text()
    charts = re.findall(r"<figure.*?</figure>", page, re.DOTALL)
    assert [re.search("<h3>(.*?)</h3>", chart)[1] for chart in charts] == ["Val loss", "Val accuracy", "Train loss"]  # type: ignore[index]
    for chart in charts:
        assert len(re.findall('class="curve"', chart)) == 2 and len(re.findall('class="curve faint"', chart)) == 3
        assert "x (3 seeds)" in chart and ">y<" in chart and ">z<" not in chart


def test_five_hundred_runs_would_be_a_page_of_less_than_five_megabytes(tmp_path) -> None:
    first = make_run(tmp_path / "r0", "optim.lr=777")
    for number in range(1, 50):
        copy_run(first, tmp_path / f"r{number}", "777", str(number))
    write_comparison(build_table([tmp_path]), [], tmp_path / "x.html")
    assert (tmp_path / "x.html").stat().st_size < 5_000_000 / 10
