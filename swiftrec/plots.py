"""Charts as SVG text: lines, points with intervals, and bars; for HTML reports (inline) and for README (as a file).

Written here and not with Matplotlib, because Matplotlib fixes each colour when it draws, while these charts follow the
reader's light or dark theme through CSS, keep their text as text, and add no dependency.

Each chart is 400 units wide with 11-unit text, so it can be read at 420 px, and its style is inside it. Names are
escaped. Numbers that are not finite are left out, and so are numbers up to 0 on a logarithmic axis. If nothing is left
to draw, the result is "", so that a template can leave the section out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import NamedTuple

_WIDTH, _LEFT, _RIGHT, _PLOT_HEIGHT = 400, 46, 12, 200
_LINE_HEIGHT, _BAR_HEIGHT, _CHARACTER_WIDTH = 16, 12, 6.1
_LIGHT = ("#2f6db5", "#c8553d", "#3d8f5f", "#8a6fb0", "#a67c1d", "#6b7680")
_DARK = ("#74aaea", "#f08c72", "#74c794", "#b99cdd", "#dcb455", "#97a3ad")
_DASHES = ("none", "7 3", "2 3", "7 3 2 3", "12 4", "4 4")


class Line(NamedTuple):
    """A named line through points (x, y), in order of x."""

    name: str
    points: Sequence[tuple[float, float]]


class ScatterPoint(NamedTuple):
    """A labelled point with its vertical interval; `colour` is a number of the palette, 0 to 5."""

    label: str
    x: float
    y: float
    low: float | None = None
    high: float | None = None
    colour: int = 0


class Bar(NamedTuple):
    """A labelled value from 0, with its interval; `colour` is a number of the palette, 0 to 5."""

    label: str
    value: float
    low: float | None = None
    high: float | None = None
    colour: int = 0


def lines(series: Sequence[Line], x: str, y: str, *, log_x: bool = False, log_y: bool = False) -> str:
    """A line chart, with a legend if there is more than one line.

    Args:
        series: the lines; at most six look different.
        x: name and unit of the horizontal axis.
        y: name and unit of the vertical axis.
        log_x: whether the horizontal axis is logarithmic.
        log_y: whether the vertical axis is logarithmic.
    """
    drawn = [Line(line.name, _drawable(line.points, log_x=log_x, log_y=log_y)) for line in series]
    drawn = [line for line in drawn if line.points]
    if not drawn:
        return ""
    legend, top = _legend([line.name for line in drawn]) if len(drawn) > 1 else ([], 0)
    values = [point for line in drawn for point in line.points]
    across = _Axis.over([a for a, _ in values], _LEFT, _WIDTH - _RIGHT, is_log=log_x)
    top += _LINE_HEIGHT + 8
    up = _Axis.over([b for _, b in values], top + _PLOT_HEIGHT, top, is_log=log_y, from_zero=True)
    marks = [*legend, *_frame(across, up, x, y)]
    for n, line in enumerate(drawn):
        path = " ".join(f"{across.at(a):.1f},{up.at(b):.1f}" for a, b in line.points)
        if len(line.points) == 1:
            marks.append(_dot(across.at(line.points[0][0]), up.at(line.points[0][1]), n, line.name))
        else:
            marks.append(
                f'<polyline class="line s{n % 6}" points="{path}"><title>{escape(line.name)}</title></polyline>'
            )
    return _svg(marks, up.start + 2 * _LINE_HEIGHT + 10, f"{y} by {x}: {', '.join(line.name for line in drawn)}")


def points(series: Sequence[ScatterPoint], x: str, y: str, *, log_x: bool = False) -> str:
    """Labelled points, with vertical intervals where given.

    Args:
        series: the points.
        x: name and unit of the horizontal axis.
        y: name and unit of the vertical axis.
        log_x: whether the horizontal axis is logarithmic.
    """
    drawn = [p for p in series if _drawable([(p.x, p.y)], log_x=log_x)]
    if not drawn:
        return ""
    top = _LINE_HEIGHT + 8
    across = _Axis.over([p.x for p in drawn], _LEFT, _WIDTH - _RIGHT, is_log=log_x, margin=0.12)
    heights = [value for p in drawn for value in (p.y, p.low, p.high) if value is not None and math.isfinite(value)]
    up = _Axis.over(heights, top + _PLOT_HEIGHT, top, margin=0.08)
    marks = _frame(across, up, x, y)
    for p in drawn:
        a = across.at(p.x)
        if p.low is not None and p.high is not None:
            marks.append(_segment(a, up.at(p.low), a, up.at(p.high), f"interval s{p.colour % 6}"))
        marks.append(_dot(a, up.at(p.y), p.colour, f"{p.label}: {_number(p.x)}, {_number(p.y)}"))
    marks += _labels([(p.label, across.at(p.x), up.at(p.y)) for p in drawn], top)
    return _svg(marks, up.start + 2 * _LINE_HEIGHT + 10, f"{y} by {x}: {', '.join(p.label for p in drawn)}")


def bars(rows: Sequence[Bar], unit: str) -> str:
    """One bar a row, from 0, its label above it and its value at the right; values are not below 0.

    Args:
        rows: the bars, from top to bottom.
        unit: what the values are, in what unit; written above the bars.
    """
    drawn = [row for row in rows if math.isfinite(row.value)]
    if not drawn:
        return ""
    longest = max(max(row.value, row.high or 0.0) for row in drawn)
    across = _Axis(0.0, longest or 1.0, 1.0, _WIDTH - 1.0)
    marks = [_text(0, 11, unit, "name")]
    y = _LINE_HEIGHT + 8.0
    for row in drawn:
        width = max(across.at(row.value) - 1.0, 1.0)
        marks += [
            _text(0, y + 11, row.label),
            _text(_WIDTH, y + 11, _value(row.value), "end"),
            f'<rect class="bar s{row.colour % 6}" x="1" y="{y + _LINE_HEIGHT}" width="{width:.1f}" '
            f'height="{_BAR_HEIGHT}" rx="2"/>',
        ]
        if row.low is not None and row.high is not None:
            middle = y + _LINE_HEIGHT + _BAR_HEIGHT / 2
            marks.append(_segment(across.at(row.low), middle, across.at(row.high), middle, "whisker"))
        y += _LINE_HEIGHT + _BAR_HEIGHT + 8
    return _svg(marks, y, f"{unit}: " + ", ".join(f"{row.label} {_number(row.value)}" for row in drawn))


class _Axis(NamedTuple):
    """Maps the values from low to high onto the units from start to end."""

    low: float
    high: float
    start: float
    end: float
    is_log: bool = False

    @classmethod
    def over(
        cls,
        values: Sequence[float],
        start: float,
        end: float,
        *,
        is_log: bool = False,
        margin: float = 0.0,
        from_zero: bool = False,
    ) -> _Axis:
        """The axis that shows all values; `from_zero` starts it at 0 unless that would flatten the values."""
        low, high = min(values), max(values)
        if is_log:
            edge = (high / low) ** margin if high > low else 2.0
            return cls(low / edge, high * edge, start, end, is_log)
        edge = margin * (high - low) if high > low else abs(high) / 10 or 0.5
        if from_zero and 0 <= low < high / 2:
            return cls(0.0, high * 1.04, start, end)
        return cls(low - edge, high + (edge or 0.04 * (high - low) * from_zero), start, end)

    def at(self, value: float) -> float:
        """Where a value is drawn."""
        low, high, value = (math.log10(v) for v in (self.low, self.high, value)) if self.is_log else (*self[:2], value)
        return self.start + (value - low) / ((high - low) or 1.0) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Round numbers within the axis: about five, or 1, 2 and 5 of each power of ten."""
        if self.is_log:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            steps = (1, 2, 5) if len(powers) <= 4 else (1,)
            every = [k * 10.0**power for power in powers for k in steps]
            return [tick for tick in every if self.low * 0.999 <= tick <= self.high * 1.001]
        raw = (self.high - self.low) / 5
        unit = 10.0 ** math.floor(math.log10(raw))
        step = next(unit * k for k in (1, 2, 5, 10) if unit * k >= raw * 0.999)
        return [n * step for n in range(math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9) + 1)]


def _drawable(
    values: Iterable[tuple[float, float]], *, log_x: bool = False, log_y: bool = False
) -> list[tuple[float, float]]:
    return [
        (a, b)
        for a, b in values
        if math.isfinite(a) and math.isfinite(b) and (a > 0 or not log_x) and (b > 0 or not log_y)
    ]


def _frame(across: _Axis, up: _Axis, x: str, y: str) -> list[str]:
    """Grid, numbers and names of both axes; the vertical one is named above the plot, so that no text is turned."""
    bottom, top = up.start, up.end
    marks = [_text(0, top - 12, y, "name"), _text(_WIDTH - _RIGHT, bottom + 2 * _LINE_HEIGHT, x, "name end")]
    for tick in up.ticks():
        marks.append(_segment(across.start, up.at(tick), across.end, up.at(tick), "grid"))
        marks.append(_text(_LEFT - 6, up.at(tick) + 4, _number(tick), "end"))
    last = -math.inf
    for tick in across.ticks():
        half = len(_number(tick)) * _CHARACTER_WIDTH / 2
        if across.at(tick) - half > last + 4:
            marks.append(_text(across.at(tick), bottom + 15, _number(tick), "middle"))
            last = across.at(tick) + half
    return [*marks, _segment(across.start, bottom, across.end, bottom, "axis")]


def _legend(names: Sequence[str]) -> tuple[list[str], float]:
    """A stroke and a name for each line, in as many rows as they need, and the height of these."""
    marks, x, y = [], 0.0, 10.0
    for n, name in enumerate(names):
        width = 26 + len(name) * _CHARACTER_WIDTH + 12
        if x and x + width > _WIDTH:
            x, y = 0.0, y + _LINE_HEIGHT
        marks += [_segment(x, y - 4, x + 20, y - 4, f"line s{n % 6}"), _text(x + 26, y, name)]
        x += width
    return marks, y + 8


def _labels(labels: Sequence[tuple[str, float, float]], top: float) -> list[str]:
    """A label for each point (text, x, y), beside it where that covers neither another label nor a point."""
    boxes = [(x - 5, y - 5, x + 5, y + 5) for _, x, y in labels]
    marks = []
    for text, x, y in labels:
        width = len(text) * _CHARACTER_WIDTH
        left_edges, baselines = (x + 8, x - 8 - width, x - width / 2), (y + 4, y - 8, y + 16, y - 20, y + 28)
        places = [(a, b) for b in baselines for a in left_edges if _LEFT <= a <= _WIDTH - width and b - 10 >= top - 8]
        free = [(a, b) for a, b in places if not any(_overlaps((a, b - 10, a + width, b + 2), box) for box in boxes)]
        a, b = (free or places or [(x + 8, y + 4)])[0]
        boxes.append((a, b - 10, a + width, b + 2))
        marks.append(_text(a, b, text))
    return marks


def _overlaps(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _number(value: float) -> str:
    for unit, name, least in ((1e6, "M", 1e6), (1e3, "k", 1e5)):
        if abs(value) >= least:
            return f"{value / unit:.4g}{name}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _value(value: float) -> str:
    """A number with as many decimals as its neighbours have, if these are shares."""
    return f"{value:.3f}" if 1e-3 <= abs(value) < 1 else _number(value)


def _text(x: float, y: float, text: str, kind: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}"{f" class={chr(34)}{kind}{chr(34)}" if kind else ""}>{escape(text)}</text>'


def _segment(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _dot(x: float, y: float, colour: int, title: str) -> str:
    return f'<circle class="dot s{colour % 6}" cx="{x:.1f}" cy="{y:.1f}" r="5"><title>{escape(title)}</title></circle>'


def _palette(colours: Sequence[str], ink: str, paper: str, grid: str) -> str:
    series = "".join(f"--s{n}:{colour};" for n, colour in enumerate(colours))
    return f".chart{{{series}--ink:{ink};--paper:{paper};--grid:{grid}}}"


_STYLE = (
    _palette(_LIGHT, "#1d232a", "#ffffff", "#d9dee3")
    + f"@media (prefers-color-scheme:dark){{{_palette(_DARK, '#e4e8ec', '#15191d', '#39424b')}}}"
    + ".chart{width:100%;max-width:520px;height:auto;font:11px system-ui,sans-serif}"
    ".chart .paper{fill:var(--paper)}"
    ".chart text{fill:var(--ink);stroke:var(--paper);stroke-width:3px;paint-order:stroke}"
    ".chart .name{font-weight:600}"
    ".chart .end{text-anchor:end}.chart .middle{text-anchor:middle}.chart .grid{stroke:var(--grid)}"
    ".chart .axis,.chart .whisker{stroke:var(--ink)}.chart .line{fill:none;stroke-width:2}"
    + "".join(
        f".chart .s{n}{{stroke:var(--s{n})}}.chart .line.s{n}{{stroke-dasharray:{dash}}}"
        f".chart .bar.s{n},.chart .dot.s{n}{{fill:var(--s{n});stroke:none}}"
        for n, dash in enumerate(_DASHES)
    )
)


def _svg(marks: Sequence[str], height: float, description: str) -> str:
    """A whole SVG document, with a background that keeps it legible on a page of the other theme."""
    edge = 8
    width, height = _WIDTH + 2 * edge, height + 2 * edge
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" viewBox="{-edge} {-edge} {width} {height:.0f}" '
        f'width="520" height="{520 * height / width:.0f}" role="img" aria-label="{escape(description)}">'
        f'<style>{_STYLE}</style><rect class="paper" x="{-edge}" y="{-edge}" width="{width}" height="{height:.0f}" '
        f'rx="4"/>{"".join(marks)}</svg>'
    )
