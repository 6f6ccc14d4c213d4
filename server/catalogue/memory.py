"""The memory: what people took next after an item, and what they took beside it, as sparse tables.

`transitions` hold the chance that an item follows another within a few events; the last events of a history count, each
with a weight that falls with its age. `neighbours` hold the weights of a linear item-to-item model (EASE:
Steck, "Embarrassingly Shallow Autoencoders for Sparse Data", WWW 2019), of which the strongest are kept; there every
event counts alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from server.catalogue.filters import Positions
from server.catalogue.sparse import Entries, SparseRows
from server.errors import BundleError
from server.parts import NEIGHBOURS, TRANSITIONS

EVENTS = 10  # last ones that transitions look at
DECAY = 0.6  # of an event's weight with each event after it
FLOOR = 0.003  # of a chance: what is added before the logarithm is taken
_AGES = DECAY ** np.arange(EVENTS)[::-1]


@dataclass(frozen=True, slots=True)
class Memory:
    """Two tables with a row for each item."""

    transitions: SparseRows
    neighbours: SparseRows

    @classmethod
    def load(cls, folder: Path, items: int) -> Self:
        """Map what `save` wrote.

        Raises:
            BundleError: a file is missing or does not fit.
        """
        found = cls(SparseRows.load(folder, TRANSITIONS, items), SparseRows.load(folder, NEIGHBOURS, items))
        for name, table in ((TRANSITIONS, found.transitions), (NEIGHBOURS, found.neighbours)):
            if len(table) != items:
                raise BundleError(f"{folder}/{name}-starts.npy: {len(table)} rows for {items} items: export it again")
        return found

    @classmethod
    def empty(cls, items: int) -> Self:
        """Of a catalogue that nobody took anything of."""
        nothing = np.empty(0, np.int64)
        rows = SparseRows.of(nothing, nothing, nothing.astype(np.float64), items)
        return cls(rows, rows)

    def save(self, folder: Path) -> None:
        """Write both tables."""
        self.transitions.save(folder, TRANSITIONS)
        self.neighbours.save(folder, NEIGHBOURS)

    def next_chances(self, histories: Sequence[Positions]) -> Entries:
        """Items that came after the last events of each history (oldest first), with the weighted chance by each."""
        last = [events[-EVENTS:] for events in histories]
        ages = np.concatenate([_AGES[EVENTS - len(events) :] for events in last])
        found, sizes = _entries(self.transitions, last)
        return found._replace(values=found.values * ages.repeat(sizes))

    def near_weights(self, histories: Sequence[Positions]) -> Entries:
        """Items near the events of each history, with the weight by each of them."""
        return _entries(self.neighbours, histories)[0]


def _entries(table: SparseRows, histories: Sequence[Positions]) -> tuple[Entries, NDArray[np.int64]]:
    """What a table has of the events of histories, one or more, and how many entries each event has."""
    positions, values, sizes = table.gather(np.concatenate(histories))
    owners = np.arange(len(histories)).repeat([len(events) for events in histories])
    return Entries(owners.repeat(sizes), positions, values), sizes
