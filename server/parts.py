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


def check_parts(names: str) -> str:
    """The same names of parts, separated by commas.

    Raises:
        ValueError: one of them is no part.
    """
    for name in names.split(","):
        if name not in PARTS:
            raise ValueError(f"{name!r} is no part of the score: name some of {', '.join(PARTS)}, separated by commas")
    return names


def parts_off(names: str) -> frozenset[str]:
    """The parts that do not count where these, separated by commas, do."""
    return frozenset(PARTS) - set(names.split(","))
