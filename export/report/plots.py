"""Three plots as inline SVG: points with intervals on two axes, rows of points, and lines. No script, no dependency."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _LEFT, _RIGHT, _TOP, _BOTTOM = 760, 70, 20, 16, 48
_ROW = 26
COLOURS = ("#3b6fb6", "#c8553d", "#4f9d69", "#8a6fb0", "#b08a2e", "#5b6770")


@dataclass(frozen=True, slots=True)
class Point:
    """A labelled point; `low` and `high` are its interval upwards, `size` its radius; the front is joined."""

    label: str
    x: float
    y: float
    low: float
    high: float
    size: float = 6.0
    colour: str = COLOURS[0]
    is_front: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """A labelled value with its interval."""

    label: str
    value: float
    low: float
    high: float
    colour: str = COLOURS[0]


@dataclass(frozen=True, slots=True)
class Line:
    """A named line through (x, y), in order of x."""

    name: str
    points: Sequence[tuple[float, float]]


def scatter(points: Sequence[Point], x_name: str, y_name: str) -> str:
    """Points with vertical intervals, those on the front joined; x is logarithmic and above 0."""
    height = 380
    low, high = _span([p.low for p in points] + [p.high for p in points])
    xs = [math.log10(p.x) for p in points]
    across = _scale(min(xs) - 0.15, max(xs) + 0.35, _LEFT, _WIDTH - _RIGHT)
    up = _scale(low, high, height - _BOTTOM, _TOP)
    marks = [*_y_axis(low, high, up, y_name, height), *_log_axis(points, across, x_name, height)]
    front = sorted((p for p in points if p.is_front), key=lambda p: p.x)
    path = " ".join(f"{across(math.log10(p.x)):.1f},{up(p.y):.1f}" for p in front)
    marks.append(f'<polyline points="{path}" fill="none" stroke="{COLOURS[5]}" stroke-dasharray="5 4"/>')
    for p in points:
        x, y = across(math.log10(p.x)), up(p.y)
        marks += [
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{up(p.low):.1f}" y2="{up(p.high):.1f}" stroke="{p.colour}"/>',
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{p.size:.1f}" fill="{p.colour}" fill-opacity="0.7">'
            f"<title>{escape(p.label)}: {p.x:,.0f}, {p.y:.3f} [{p.low:.3f}, {p.high:.3f}]</title></circle>",
            _text(x + p.size + 4, y - 6, p.label),
        ]
    return _svg(marks, height)


def rows(values: Sequence[Row], name: str) -> str:
    """One value a row, from 0, with its interval."""
    height = _TOP + _ROW * len(values) + _BOTTOM
    left, high = 210, max((v.high for v in values), default=1.0) or 1.0
    across = _scale(0, high * 1.05, left, _WIDTH - _RIGHT - 50)
    marks = []
    for tick in _ticks(0, high):
        x = across(tick)
        marks += [
            f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{height - _BOTTOM}"/>',
            _text(x, height - _BOTTOM + 18, f"{tick:g}", "middle"),
        ]
    marks.append(_text((left + _WIDTH) / 2, height - 8, name, "middle"))
    for n, v in enumerate(values):
        y = _TOP + _ROW * (n + 0.5)
        marks += [
            _text(left - 12, y + 4, v.label, "end"),
            f'<line x1="{across(v.low):.1f}" x2="{across(v.high):.1f}" y1="{y}" y2="{y}" stroke="{v.colour}"/>',
            f'<circle cx="{across(v.value):.1f}" cy="{y}" r="5" fill="{v.colour}"/>',
            _text(across(v.high) + 8, y + 4, f"{v.value:.3f}"),
        ]
    return _svg(marks, height)


def lines(drawn: Sequence[Line], x_name: str, y_name: str) -> str:
    """Lines from 0 upwards, with a legend."""
    height = 300
    points = [p for line in drawn for p in line.points]
    high = max(y for _, y in points) or 1.0
    across = _scale(min(x for x, _ in points), max(x for x, _ in points), _LEFT, _WIDTH - _RIGHT - 170)
    up = _scale(0, high * 1.05, height - _BOTTOM, _TOP)
    marks = _y_axis(0, high, up, y_name, height, _WIDTH - _RIGHT - 170)
    for tick in _ticks(min(x for x, _ in points), max(x for x, _ in points)):
        marks.append(_text(across(tick), height - _BOTTOM + 18, f"{tick:g}", "middle"))
    marks.append(_text((_LEFT + _WIDTH - 170) / 2, height - 8, x_name, "middle"))
    for n, line in enumerate(drawn):
        colour = COLOURS[n % len(COLOURS)]
        path = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in line.points)
        marks += [
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>',
            f'<circle cx="{_WIDTH - 168}" cy="{_TOP + 10 + 20 * n}" r="5" fill="{colour}"/>',
            _text(_WIDTH - 156, _TOP + 14 + 20 * n, line.name),
        ]
    return _svg(marks, height)


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    width = (high - low) or 1.0
    return lambda value: start + (value - low) / width * (end - start)


def _span(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    edge = 0.06 * (high - low) or 0.05
    return low - edge, high + edge


def _ticks(low: float, high: float) -> list[float]:
    """About five round numbers between."""
    raw = (high - low) / 5 or 1.0
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * k for k in (1, 2, 5, 10) if unit * k >= raw)
    return [n * step for n in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _y_axis(
    low: float, high: float, up: Callable[[float], float], name: str, height: int, right: float = _WIDTH - _RIGHT
) -> list[str]:
    middle = height / 2
    marks = [
        f'<text x="16" y="{middle}" transform="rotate(-90 16 {middle})" text-anchor="middle">{escape(name)}</text>'
    ]
    for tick in _ticks(low, high):
        y = up(tick)
        marks += [
            f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>',
            _text(_LEFT - 8, y + 4, f"{round(tick, 6):g}", "end"),
        ]
    return marks


def _log_axis(points: Sequence[Point], across: Callable[[float], float], name: str, height: int) -> list[str]:
    low, high = min(p.x for p in points), max(p.x for p in points)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [k * 10.0**n for n in powers for k in (1, 2, 5) if low * 0.7 <= k * 10.0**n <= high * 2.2]
    marks = [_text(across(math.log10(tick)), height - _BOTTOM + 18, f"{tick:,.0f}", "middle") for tick in ticks]
    return [*marks, _text((_LEFT + _WIDTH) / 2, height - 8, name, "middle")]


def _text(x: float, y: float, words: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def _svg(marks: Sequence[str], height: int) -> str:
    return f'<svg viewBox="0 0 {_WIDTH} {height}" role="img">{"".join(marks)}</svg>'
