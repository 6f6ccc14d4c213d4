"""Items whose rows are left out, and the events that go with them: said once for each item, not once for each event."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Collection

from swiftrec.export.data.ids import known_spelling
from swiftrec.export.data.issues import LABELS, LOST, Mistakes


class Lost:
    """The items that are left out: their ids and 16 bytes each."""

    def __init__(self) -> None:
        self._places: dict[str, int] = {}
        self._numbers, self._events = array("q"), array("q")

    def add(self, item: str, number: int) -> None:
        """The row `number` of `item` is left out."""
        if item not in self._places:
            self._places[item] = len(self._numbers)
            self._numbers.append(number)
            self._events.append(0)

    def __contains__(self, item: object) -> bool:
        return item in self._places

    def take(self, item: str) -> None:
        """One more event goes with `item`, which was added."""
        self._events[self._places[item]] += 1

    def note(self, mistakes: Mistakes, where: Callable[[int], str]) -> None:
        """Note how many events go with each item, the most first; `where` names the place of a row."""
        for item, place in sorted(self._places.items(), key=lambda pair: -self._events[pair[1]]):
            if count := self._events[place]:
                reason = f"item_id {item!r} is left out, and {count:,} event{'s' if count > 1 else ''} with it"
                mistakes.add(LOST, where(self._numbers[place]), reason, rows=count)


def has_label(item: str, labels: Collection[str] | None, where: str, mistakes: Mistakes) -> bool:
    """Whether a classifier has a row for `item`, or there is no classifier; notes where it has none."""
    if labels is None or item in labels:
        return True
    near = known_spelling(item, labels)
    mistakes.add(LABELS, where, f"item_id {item!r} is none of the labels in id2label of the checkpoint{near}")
    return False
