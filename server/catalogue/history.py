"""The events of a history: which are items, which the ranker reads, and which items are excluded from the ranking.

A text may be recognised as an item: the event "Toy Story (1995)" is used by the memory and excluded like the item's id.
First by name: it has the same words as the title or text of exactly one item. If its words occur in titles, then by
words: one item has nearly all of them, and no other comes close, as for a mistyped title. Or by meaning: of the items
that share most of its words, the one with the nearest sentence vector, if it is nearer than a threshold that is
measured by the export: how near items are to the titles of others.

The evaluation uses this module too, so it excludes the same items as the server.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from swiftrec.server.arrays import AnyPositions, Vector, Vectors
from swiftrec.server.catalogue.splitting import split_words
from swiftrec.server.catalogue.words import Matches, Words

NEVER = 2.0  # a threshold that no cosine reaches
_MAX_CANDIDATES = 8  # found by words, to be compared by meaning
_MIN_SHARED_WORDS = 0.5  # share of the text's words, to be recognised by meaning
_MIN_WORDS, _MIN_COVERED = 2, 0.75  # number and share of the text's words, to be recognised by words
_MAX_SECOND_MATCH = 0.8  # score of the second item relative to the first, to be recognised by words
_ROMAN = {roman: n for n, roman in enumerate(("ii", "iii", "iv", "v", "vi", "vii", "viii", "ix", "x"), 2)}
_YEAR = re.compile(r"(?:1[89]|20)\d\d")


class Resolver(Protocol):
    """Recognises texts as items: `Names`."""

    def by_name(self, text: str, /) -> int | None:
        """Position of the only item with this name."""

    def by_meaning(self, text: str, sentence: Vector, /) -> int | None:
        """Position of the item that the text refers to, by its words or its sentence vector [s]."""


@dataclass(slots=True)
class Event:
    """One event.

    Args:
        index: in the history.
        text: empty if the event is an item's id.
        position: of the item; None for a text that is not an item.
    """

    index: int
    text: str
    position: int | None


class History:
    """Events, oldest first.

    Args:
        names: recognises texts as items.
        max_events: number of last events that the ranker reads; texts before them are only recognised by name.

    Attributes:
        read: the events that the ranker reads.
    """

    __slots__ = ("_items_before", "_max_events", "_names", "_recognised", "_resolved_before", "read")

    def __init__(self, names: Resolver, max_events: int) -> None:
        self._names, self._max_events = names, max_events
        self.read: list[Event] = []
        self._items_before = array("q")  # only positions: a batch of long histories may wait in the queue
        self._resolved_before: list[tuple[int, int]] = []
        self._recognised: list[Event] = []

    def restart(self) -> None:
        """Reset the texts that `recognise` has recognised."""
        for event in self._recognised:
            event.position = None
        self._recognised = []

    def add_item(self, index: int, position: int) -> None:
        """Add an item."""
        self._add(Event(index, "", position))

    def add_text(self, index: int, text: str) -> None:
        """Add a text, which may be recognised as an item by name."""
        self._add(Event(index, text, self._names.by_name(text)))

    def recognise(self, event: Event, sentence: Vector) -> int | None:
        """The position of the item of an event; texts are recognised by meaning, by their sentence vector [s]."""
        if event.position is None:
            event.position = self._names.by_meaning(event.text, sentence)
            if event.position is not None:
                self._recognised.append(event)
        return event.position

    @property
    def items(self) -> list[int]:
        """Positions of all events that are items, whether read by the ranker or not."""
        return [*self._items_before, *(event.position for event in self.read if event.position is not None)]

    @property
    def resolved(self) -> list[tuple[int, int]]:
        """The texts that were recognised: their index in the history, and the position of the item."""
        read = [(event.index, event.position) for event in self.read if event.text and event.position is not None]
        return self._resolved_before + read

    def _add(self, event: Event) -> None:
        self.read.append(event)
        if len(self.read) > self._max_events:
            first = self.read.pop(0)
            if first.position is not None:
                self._items_before.append(first.position)
                if first.text:
                    self._resolved_before.append((first.index, first.position))


class Names:
    """Recognises texts as items.

    Args:
        words: index of the words of the catalogue.
        sentences: sentence vectors of the items' texts, float32 [items, s].
        threshold: lowest cosine at which a text is recognised by meaning.
        title_of: returns the title of the item at a position.
    """

    def __init__(self, words: Words, sentences: Vectors, threshold: float, title_of: Callable[[int], str]) -> None:
        self._words, self._sentences, self._threshold, self._title_of = words, sentences, threshold, title_of

    def by_name(self, text: str) -> int | None:
        """Position of the only item with these words as its title or text."""
        return self._words.named_by(text)

    def by_meaning(self, text: str, sentence: Vector) -> int | None:
        """Position of the item that a text refers to, by its words or its sentence vector [s]; or None."""
        match = Matches(self._words, [text], len(self._sentences))
        if not match.is_title[0]:
            return None
        order = np.argsort(-match.boosts.values, kind="stable")[:_MAX_CANDIDATES]
        best, values = match.boosts.positions[order], match.boosts.values[order]
        position = self._by_words(match, best, values.tolist())
        if position is None and self._threshold < NEVER:
            cosines = self._sentences[best] @ sentence
            nearest = int(np.argmax(cosines))
            is_near = cosines[nearest] >= self._threshold and match.cover(best[[nearest]])[0][0] >= _MIN_SHARED_WORDS
            position = int(best[nearest]) if is_near else None
        return position if position is not None and numbered_alike(text, self._title_of(position)) else None

    def _by_words(self, match: Matches, best: AnyPositions, values: list[float]) -> int | None:
        """The first of the `best` items, if it has nearly all words and the second is clearly worse."""
        if len(best) > 1 and values[1] > _MAX_SECOND_MATCH * values[0]:
            return None
        share, words = match.cover(best[:1])
        return int(best[0]) if words[0] >= _MIN_WORDS and share[0] >= _MIN_COVERED else None


def numbered_alike(text: str, title: str) -> bool:
    """Whether the numbers of one or two digits in a text and a title match, including Roman numbers.

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
