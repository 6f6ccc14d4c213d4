"""The parts of a score: the weights of each (`server.catalogue.blend.Weights`), and the files of their tables."""

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
    """The files of a sparse table (`server.catalogue.sparse.SparseRows`)."""
    return [f"{table}-{part}.npy" for part in ("starts", "positions", "weights")]


def word_file(array: str) -> str:
    """The file of one of `WORD_ARRAYS`."""
    return f"words-{array}.npy"


TABLES = (
    *(file for table in (TRANSITIONS, NEIGHBOURS, POSTINGS, SPELLED) for file in row_files(table)),
    *map(word_file, WORD_ARRAYS),
)


def check_parts(names: str) -> str:
    """Check names of parts, separated by commas; returns them.

    Raises:
        ValueError: a name is not that of a part.
    """
    for name in names.split(","):
        if name not in PARTS:
            raise ValueError(
                f"{name!r} is not a part of the score: give some of {', '.join(PARTS)}, separated by commas"
            )
    return names


def parts_off(names: str) -> frozenset[str]:
    """The parts that are not among these, which are separated by commas."""
    return frozenset(PARTS) - set(names.split(","))
