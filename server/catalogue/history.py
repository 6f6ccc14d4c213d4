"""The events of a history: which of them are items, which the ranker reads, and which items are left out of an answer.

The server and the evaluation both use this, so that the tasks mask what the server leaves out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]


class Resolver(Protocol):
    """Which item a text is: `server.catalogue.names.Names`."""

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
    """

    __slots__ = ("_events", "_max_events", "_names", "_recognised")

    def __init__(self, names: Resolver, max_events: int) -> None:
        self._names, self._max_events = names, max_events
        self._events: list[Event] = []
        self._recognised: list[Event] = []

    def restart(self) -> None:
        """Forget which texts `recognise` found to be items."""
        for event in self._recognised:
            event.position = None
        self._recognised = []

    def add_item(self, place: int, position: int) -> None:
        """Add an item."""
        self._events.append(Event(place, "", position))

    def add_text(self, place: int, text: str) -> None:
        """Add a text; it is an item if it has the name of one."""
        self._events.append(Event(place, text, self._names.by_name(text)))

    @property
    def read(self) -> list[Event]:
        """The events that the ranker reads."""
        return self._events[-self._max_events :]

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
        return [event.position for event in self._events if event.position is not None]

    @property
    def resolved(self) -> list[tuple[int, int]]:
        """The texts that are items: their place in the history, and the item's position."""
        return [(event.place, event.position) for event in self._events if event.text and event.position is not None]
