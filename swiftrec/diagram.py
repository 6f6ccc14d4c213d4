"""`python -m swiftrec.diagram`: draw docs/img/overview.svg, the way from a checkpoint to a ranked list."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

PICTURE = Path("docs/img/overview.svg")

_WIDTH_PX, _HEIGHT_PX = 680, 330
_BOX_HEIGHT_PX = 76
_ARROW_GAP_PX = 4

# A background of the picture itself: a code host may show a light picture on a dark page.
_STYLE = """
    text { font: 17px system-ui, -apple-system, "Segoe UI", sans-serif; text-anchor: middle; fill: #1f2328 }
    .name { font-weight: 600; font-size: 19px }
    .page { fill: #ffffff }
    .data { fill: #f6f8fa; stroke: #8c959f }
    .step { fill: #ddf4ff; stroke: #0969da }
    .arrow { stroke: #57606a; stroke-width: 2; fill: none; marker-end: url(#head) }
    .head { fill: #57606a }
    @media (prefers-color-scheme: dark) {
      text { fill: #e6edf3 }
      .page { fill: #0d1117 }
      .data { fill: #161b22; stroke: #6e7681 }
      .step { fill: #0c2d6b; stroke: #58a6ff }
      .arrow { stroke: #8b949e }
      .head { fill: #8b949e }
    }
"""


class Box(NamedTuple):
    """A file (`data`) or a program (`step`) with a name and a line below it; its left upper corner and width in px."""

    kind: str
    name: str
    line: str
    x: int
    y: int
    width: int


_CHECKPOINT = Box("data", "checkpoint", "BERT, safetensors", 16, 16, 180)
_INTERACTIONS = Box("data", "interactions", "and item texts", 16, 112, 180)
_EXPORT = Box("step", "export", "train, shrink, verify", 240, 64, 200)
_BUNDLE = Box("data", "bundle", "models and items", 484, 64, 180)
_REQUEST = Box("data", "request", "history and query", 16, 236, 180)
_SERVER = Box("step", "server", "encode, rank, search", 240, 236, 200)
_RESPONSE = Box("data", "response", "ranked items", 484, 236, 180)
_BOXES = (_CHECKPOINT, _INTERACTIONS, _EXPORT, _BUNDLE, _REQUEST, _SERVER, _RESPONSE)
_ACROSS = (
    (_CHECKPOINT, _EXPORT),
    (_INTERACTIONS, _EXPORT),
    (_EXPORT, _BUNDLE),
    (_REQUEST, _SERVER),
    (_SERVER, _RESPONSE),
)


def draw() -> str:
    """The whole SVG, which follows the reader's light or dark theme."""
    down = (
        f"M{_BUNDLE.x + _BUNDLE.width // 2} {_BUNDLE.y + _BOX_HEIGHT_PX} V188 "
        f"H{_SERVER.x + _SERVER.width // 2} V{_SERVER.y - _ARROW_GAP_PX}"
    )
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH_PX} {_HEIGHT_PX}" width="{_WIDTH_PX}" '
        f'height="{_HEIGHT_PX}" role="img">',
        "  <title>A checkpoint and interactions are exported to a bundle; the server answers requests from it</title>",
        f"  <style>{_STYLE}  </style>",
        '  <marker id="head" viewBox="0 0 10 10" refX="10" refY="5" markerWidth="6" markerHeight="6" orient="auto">'
        '<path class="head" d="M0 0 L10 5 L0 10 z"/></marker>',
        f'  <rect class="page" width="{_WIDTH_PX}" height="{_HEIGHT_PX}" rx="8"/>',
        *(_box(box) for box in _BOXES),
        *(f'  <path class="arrow" d="{_across(start, end)}"/>' for start, end in _ACROSS),
        f'  <path class="arrow" d="{down}"/>',
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _box(box: Box) -> str:
    middle = box.x + box.width // 2
    return (
        f'  <rect class="{box.kind}" x="{box.x}" y="{box.y}" width="{box.width}" height="{_BOX_HEIGHT_PX}" rx="8"/>\n'
        f'  <text class="name" x="{middle}" y="{box.y + 33}">{escape(box.name)}</text>\n'
        f'  <text x="{middle}" y="{box.y + 57}">{escape(box.line)}</text>'
    )


def _across(start: Box, end: Box) -> str:
    """From the right side of one box to the left side of the other, level at both ends."""
    left, right = start.x + start.width, end.x - _ARROW_GAP_PX
    top, bottom = (box.y + _BOX_HEIGHT_PX // 2 for box in (start, end))
    bend = (left + right) // 2
    return f"M{left} {top} C{bend} {top} {bend} {bottom} {right} {bottom}"


def main() -> int:
    """Write the picture below the current folder, the root of a checkout."""
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    PICTURE.write_text(draw(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
