"""The parts of a score, and the weights (`server.catalogue.blend.Weights`) that are 0 where a part is switched off."""

from __future__ import annotations

from collections.abc import Mapping

PARTS: Mapping[str, tuple[str, ...]] = {
    "ranker": ("ranker",),
    "memory": ("transitions", "neighbours"),
    "text": ("query", "events"),
    "words": ("words",),
    "popularity": ("popularity", "newcomer"),
}
