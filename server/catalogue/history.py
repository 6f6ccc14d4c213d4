"""The events of a history: which of them are items, which the ranker reads, and which items an answer leaves out.

A text may name an item: an event "Toy Story (1995)" is that item, known to the memory and left out like its id. First
by name: the same words as an item's title or text, if only one item has them. A text whose words stand in titles may
then be an item by words: one item has nearly all of them, and no other comes close, as with a mistyped title. Or by
meaning: of the items that share most of its words the one whose sentence vector is nearest, if it is nearer than items
of this catalogue are to the titles of others (the threshold is measured when the catalogue is made).

The server and the evaluation both use this, so that the evaluation leaves out what the server leaves out.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from swiftrec.server.catalogue.words import Matches, Words, split_words

Vector = NDArray[np.float32]
Vectors = NDArray[np.float32]

NEVER = 2.0  # a threshold that no cosine reaches
_CANDIDATES = 8  # items by words that are compared by meaning
_SHARED = 0.5  # of the text's words that an item must have to be meant
_WORDS, _COVERED = 2, 0.75  # words that an item must have, and the share of the text's words
_APART = 0.8  # of the first item's match that the second may have
_ROMAN = {roman: n for n, roman in enumerate(("ii", "iii", "iv", "v", "vi", "vii", "viii", "ix", "x"), 2)}
_YEAR = re.compile(r"(?:1[89]|20)\d\d")


class Resolver(Protocol):
    """Which item a text is: `Names`."""

    def by_name(self, text: str, /) -> int | None:
        """Position of the one item that has this name."""

    def by_meaning(self, text: str, sentence: Vector, /) -> int | None:
        """Position of the item that the text means, by its words or its sentence vector [s]."""


@dataclass(slots=True)
class Event:
    """One event.

    Args:
        place: in the history.
        text: empty if the event is an item's id.
        position: of the item that it is; None for a text that is none.
    """

    place: int
    text: str
    position: int | None


class History:
    """Events, oldest first.

    Args:
        names: tells which item a text is.
        max_events: the last ones that the ranker reads; texts before them are items by their name only.

    Attributes:
        read: the events that the ranker reads.
    """

    __slots__ = ("_items_before", "_max_events", "_names", "_recognised", "_resolved_before", "read")

    def __init__(self, names: Resolver, max_events: int) -> None:
        self._names, self._max_events = names, max_events
        self.read: list[Event] = []
        self._items_before = array("q")  # positions alone: a list of long histories may wait
        self._resolved_before: list[tuple[int, int]] = []
        self._recognised: list[Event] = []

    def restart(self) -> None:
        """Forget which texts `recognise` found to be items."""
        for event in self._recognised:
            event.position = None
        self._recognised = []

    def add_item(self, place: int, position: int) -> None:
        """Add an item."""
        self._add(Event(place, "", position))

    def add_text(self, place: int, text: str) -> None:
        """Add a text; it is an item if it has the name of one."""
        self._add(Event(place, text, self._names.by_name(text)))

    def recognise(self, event: Event, sentence: Vector) -> int | None:
        """The item that an event is which the ranker reads; of a text, by its sentence vector [s], the one it means."""
        if event.position is None:
            event.position = self._names.by_meaning(event.text, sentence)
            if event.position is not None:
                self._recognised.append(event)
        return event.position

    @property
    def items(self) -> list[int]:
        """Positions of all events that are items, read or not: those that may be left out of the answer."""
        return [*self._items_before, *(event.position for event in self.read if event.position is not None)]

    @property
    def resolved(self) -> list[tuple[int, int]]:
        """The texts that are items: their place in the history, and the item's position."""
        read = [(event.place, event.position) for event in self.read if event.text and event.position is not None]
        return self._resolved_before + read

    def _add(self, event: Event) -> None:
        self.read.append(event)
        if len(self.read) > self._max_events:
            first = self.read.pop(0)
            if first.position is not None:
                self._items_before.append(first.position)
                if first.text:
                    self._resolved_before.append((first.place, first.position))


class Names:
    """Which item a text is.

    Args:
        words: the catalogue's index of words.
        sentences: sentence vectors of the items' texts, float32 [items, s].
        threshold: cosine from which on a text is the item.
        title_of: the title of the item at a position.
    """

    def __init__(self, words: Words, sentences: Vectors, threshold: float, title_of: Callable[[int], str]) -> None:
        self._words, self._sentences, self._threshold, self._title_of = words, sentences, threshold, title_of

    def by_name(self, text: str) -> int | None:
        """Position of the one item that has these words as its title or text."""
        return self._words.named_by(text)

    def by_meaning(self, text: str, sentence: Vector) -> int | None:
        """Position of the item that a text means, by most of its words or its sentence vector [s]; None if none is."""
        match = Matches(self._words, [text], len(self._sentences))
        if not match.is_title[0]:
            return None
        order = np.argsort(-match.boosts.values, kind="stable")[:_CANDIDATES]
        best, values = match.boosts.positions[order], match.boosts.values[order]
        found = self._by_words(match, best, values.tolist())
        if found is None and self._threshold < NEVER:
            cosines = self._sentences[best] @ sentence
            nearest = int(np.argmax(cosines))
            is_near = cosines[nearest] >= self._threshold and match.cover(best[[nearest]])[0][0] >= _SHARED
            found = int(best[nearest]) if is_near else None
        return found if found is not None and numbered_alike(text, self._title_of(found)) else None

    def _by_words(self, match: Matches, best: NDArray[np.signedinteger[Any]], values: list[float]) -> int | None:
        """The first of the `best` items if it has nearly all words and no other comes close."""
        if len(best) > 1 and values[1] > _APART * values[0]:
            return None
        share, words = match.cover(best[:1])
        return int(best[0]) if words[0] >= _WORDS and share[0] >= _COVERED else None


def numbered_alike(text: str, title: str) -> bool:
    """Whether a text may mean a title by its numbers of one or two digits, Roman ones too.

    Both must have the same ones: "Rocky 3" is "Rocky III", neither "Rocky" nor "Rocky II". A number of the text may
    also be the end of the title's year: "Forrest Gump 94". Longer numbers are not compared: years are often mistyped.
    """
    words = split_words(title)
    of_title, years = _numbers(words), {int(word[2:]) for word in words if _YEAR.fullmatch(word)}
    of_text = _numbers(split_words(text))
    return of_title <= of_text <= of_title | years


def _numbers(words: list[str]) -> set[int]:
    """The numbers of one or two digits among words."""
    return {_ROMAN.get(word) or int(word) for word in words if word in _ROMAN or (word.isdecimal() and len(word) < 3)}
