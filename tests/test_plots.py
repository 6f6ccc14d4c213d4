"""swiftrec/plots.py: charts are whole SVG documents without a script, legible when narrow, and empty without data."""

import math
import re
from xml.etree import ElementTree

import pytest

from swiftrec.plots import Bar, Line, ScatterPoint, bars, lines, points

SVG = "{http://www.w3.org/2000/svg}"
CURVE = Line("teacher", [(0.0, 4.0), (1.0, 3.0), (2.0, 2.5)])
EACH = {
    "lines": lines([CURVE, Line("a < b & c", [(0.0, 1.0), (2.0, 2.0)])], "epoch", "loss"),
    "log lines": lines([Line("ours", [(1.0, 5.0), (1000.0, 80.0)])], "requests/s", "p99, ms", log_x=True, log_y=True),
    "points": points(
        [ScatterPoint("a", 100, 0.9, 0.8, 1.0), ScatterPoint("b", 10_000, 0.5, 0.4, 0.6)],
        "texts/s",
        "quality",
        log_x=True,
    ),
    "bars": bars([Bar("ours", 900.0, 850.0, 950.0), Bar("peer", 300.0, colour=5)], "requests/s"),
}


@pytest.mark.parametrize("svg", EACH.values(), ids=EACH.keys())
def test_chart_is_a_complete_svg_without_script_and_external_parts(svg: str) -> None:
    root = ElementTree.fromstring(svg)  # noqa: S314 (our own text)
    assert root.tag == f"{SVG}svg"
    assert "<script" not in svg
    assert "href" not in svg
    assert not re.search(r"url\(|@import", svg)
    assert root.get("aria-label")


@pytest.mark.parametrize("svg", EACH.values(), ids=EACH.keys())
def test_chart_is_legible_at_420_px_and_in_both_themes(svg: str) -> None:
    root = ElementTree.fromstring(svg)  # noqa: S314 (our own text)
    width = float(root.get("viewBox", "").split()[2])
    size = float(re.search(r"font:(\d+)px", svg)[1])  # type: ignore[index] # not found: fails here
    assert size * min(420 - 32, width) / width >= 10
    assert "prefers-color-scheme:dark" in svg
    assert not re.search(r'(fill|stroke)="#', svg), "a fixed colour would not follow the theme"


@pytest.mark.parametrize("svg", EACH.values(), ids=EACH.keys())
def test_all_marks_are_within_the_chart(svg: str) -> None:
    root = ElementTree.fromstring(svg)  # noqa: S314 (our own text)
    left, top, width, height = map(float, root.get("viewBox", "").split())
    for mark in root.iter():
        for name in ("x", "x1", "x2", "cx"):
            assert left <= float(mark.get(name, left)) <= left + width, ElementTree.tostring(mark)
        for name in ("y", "y1", "y2", "cy"):
            assert top <= float(mark.get(name, top)) <= top + height, ElementTree.tostring(mark)


def test_names_are_escaped_and_a_legend_is_drawn_for_several_lines() -> None:
    assert "a &lt; b &amp; c" in EACH["lines"]
    assert ">teacher</text>" in EACH["lines"]
    assert ">teacher</text>" not in lines([CURVE], "epoch", "loss")


def test_no_chart_is_drawn_without_data() -> None:
    assert lines([], "x", "y") == ""
    assert lines([Line("nothing", [])], "x", "y") == ""
    assert lines([Line("not finite", [(1.0, math.nan)])], "x", "y") == ""
    assert lines([Line("not above 0", [(0.0, 1.0)])], "x", "y", log_x=True) == ""
    assert points([], "x", "y") == ""
    assert points([ScatterPoint("a", 0.0, 1.0)], "x", "y", log_x=True) == ""
    assert bars([], "x") == ""


@pytest.mark.parametrize("values", [[0.0], [5.0], [3.0, 3.0], [1e-9, 2e-9], [-2.0, 4.0], [1.0, 2.0e8]])
def test_every_range_of_values_is_drawn(values: list[float]) -> None:
    drawn = list(enumerate(values, 1))
    for svg in (
        lines([Line("a", [(float(x), y) for x, y in drawn])], "x", "y"),
        points([ScatterPoint("a", x, y) for x, y in drawn], "x", "y", log_x=True),
    ):
        assert "nan" not in svg
        ElementTree.fromstring(svg)  # noqa: S314 (our own text)
        assert svg.count('class="grid"') <= 8


def test_labels_of_close_points_do_not_cover_each_other() -> None:
    svg = points([ScatterPoint("static-int8", 60, 0.93), ScatterPoint("static-fp32", 55, 0.931)], "x", "y", log_x=True)
    places = re.findall(r'<text x="([\d.]+)" y="([\d.]+)">static', svg)
    assert len(set(places)) == 2
    (x1, y1), (x2, y2) = [(float(x), float(y)) for x, y in places]
    assert abs(y1 - y2) >= 11 or abs(x1 - x2) > 66
