"""The parts of a score: their weights (`server.catalogue.blend.Weights`), and the files of the tables they need."""

from __future__ import annotations

from collections.abc import Mapping

PARTS: Mapping[str, tuple[str, ...]] = {
    "ranker": ("ranker",),
    "memory": ("transitions", "neighbours"),
    "text": ("query", "events"),
    "words": ("words",),
    "popularity": ("popularity", "newcomer"),
}

TRANSITIONS, NEIGHBOURS = "transitions", "neighbours"
POSTINGS, SPELLED = "words-postings", "words-spelled"
WORD_ARRAYS = ("terms", "often", "titled", "sizes", "pairs", "names", "named")


def row_files(table: str) -> list[str]:
    """The files of one table of rows (`server.catalogue.sparse.SparseRows`)."""
    return [f"{table}-{part}.npy" for part in ("starts", "positions", "weights")]


def word_file(array: str) -> str:
    """The file of one of `WORD_ARRAYS`."""
    return f"words-{array}.npy"


TABLES = (
    *(file for table in (TRANSITIONS, NEIGHBOURS, POSTINGS, SPELLED) for file in row_files(table)),
    *map(word_file, WORD_ARRAYS),
)


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
