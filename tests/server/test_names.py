"""Which item a text is where titles differ by a number only."""

from __future__ import annotations

import numpy as np
import pytest

from swiftrec.export.blend.words import make_words
from swiftrec.server.catalogue.history import Names, numbered_alike

_TITLES = [
    "Die Hard (1988)",
    "Rocky III (1982)",
    "Forrest Gump (1994)",
    "Apollo 13 (1995)",
    "Taxi Driver (1976)",
    "The Shawshank Redemption (1994)",
]
_TEXTS = [f"{title}. Drama" for title in _TITLES]


def meant(text: str, titles: list[str] = _TITLES) -> str | None:
    """The title of the item that a text is; its sentence vector is that of the item whose first word it has."""
    texts = [f"{title}. Drama" for title in titles]
    sentences = np.eye(len(titles), dtype=np.float32)
    names = Names(make_words(titles, texts), sentences, 0.8, titles.__getitem__)
    first = text.split()[0].casefold()[:3]
    near = [n for n, title in enumerate(titles) if title.casefold().startswith(first)]
    found = names.by_meaning(text, sentences[near[0]] if near else np.zeros(len(titles), np.float32))
    return None if found is None else titles[found]


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("Die Hard", "Die Hard (1988)"),
        ("Die Hrad", "Die Hard (1988)"),
        ("Die Hard 3", None),
        ("Die Hard III", None),
        ("Rocky III", "Rocky III (1982)"),
        ("Rocky 3", None),  # the number is of this film, but half of the words are of none
        ("Rocky", None),  # its sequel alone is there
        ("Rocky II", None),
        ("Forest Gump 1994", "Forrest Gump (1994)"),
        ("The Shawshnk Redemption 94", "The Shawshank Redemption (1994)"),
        ("The Shawshnk Redemption 95", None),
        ("Apolo 13", "Apollo 13 (1995)"),
        ("Apolo", None),
        ("Taxi Drvier", "Taxi Driver (1976)"),
    ],
)
def test_a_text_is_no_item_of_another_number(text: str, title: str | None) -> None:
    assert meant(text) == title


def test_a_sequel_that_is_there_is_found_and_its_first_part_too() -> None:
    titles = [*_TITLES, "Rocky (1976)", "Die Hard 3 (1995)"]
    assert meant("Rocky", titles[:1] + titles[2:]) == "Rocky (1976)"
    assert meant("Die Hrad 3", titles[1:]) == "Die Hard 3 (1995)"


@pytest.mark.parametrize(
    ("text", "title", "is_alike"),
    [
        ("Rocky 2", "Rocky II", True),
        ("Rocky", "Rocky II", False),
        ("Rocky II", "Rocky", False),
        ("2 Fast 2 Furious", "2 Fast 2 Furious (2003)", True),
        ("Seven 95", "Seven (1995)", True),
        ("Seven 1996", "Seven (1995)", True),  # a mistyped year
        ("Malcolm X", "Malcolm X (1992)", True),
        ("Malcolm", "Malcolm X (1992)", False),
    ],
)
def test_numbers_are_compared_in_both_directions(text: str, title: str, *, is_alike: bool) -> None:
    assert numbered_alike(text, title) is is_alike
