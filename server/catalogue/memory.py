"""The co-occurrence memory: what users interact with after and beside each item."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from swiftrec.server.arrays import Positions
from swiftrec.server.catalogue.sparse import Entries, SparseRows
from swiftrec.server.errors import BundleError
from swiftrec.server.parts import NEIGHBOURS, TRANSITIONS

EVENTS = 10  # last events that transitions use
DECAY = 0.6  # of the weight of an event, with each later one
FLOOR = 0.003  # added to a probability before taking the logarithm
_AGES = DECAY ** np.arange(EVENTS)[::-1]


@dataclass(frozen=True, slots=True)
class Memory:
    """The co-occurrence memory: two tables with a row for each item.

    `transitions` have the probability that an item follows another within a few events; they are used for the last
    events of a history, with weights that decay with age. `neighbours` have the strongest weights of a linear
    item-to-item model (EASE: Steck, "Embarrassingly Shallow Autoencoders for Sparse Data", WWW 2019); they weight all
    events equally.
    """

    transitions: SparseRows
    neighbours: SparseRows

    @classmethod
    def load(cls, folder: Path, items: int) -> Self:
        """Map what `save` wrote.

        Raises:
            BundleError: a file is missing or does not match.
        """
        tables = {name: SparseRows.load(folder, name, items) for name in (TRANSITIONS, NEIGHBOURS)}
        for name, table in tables.items():
            if len(table) != items:
                raise BundleError(f"{folder}/{name}-starts.npy: {len(table)} rows for {items} items: export it again")
        return cls(*tables.values())

    @classmethod
    def empty(cls, items: int) -> Self:
        """The memory of a catalogue without interactions."""
        rows = SparseRows.empty(items)
        return cls(rows, rows)

    def save(self, folder: Path) -> None:
        """Write both tables."""
        self.transitions.save(folder, TRANSITIONS)
        self.neighbours.save(folder, NEIGHBOURS)

    def next_chances(self, histories: Sequence[Positions]) -> Entries:
        """The items that follow the last events of each history (oldest first), with their weighted probabilities."""
        last = [events[-EVENTS:] for events in histories]
        ages = np.concatenate([_AGES[EVENTS - len(events) :] for events in last])
        entries, sizes = _entries(self.transitions, last)
        return entries._replace(values=entries.values * ages.repeat(sizes))

    def near_weights(self, histories: Sequence[Positions]) -> Entries:
        """The neighbours of the events of each history, with their weights."""
        return _entries(self.neighbours, histories)[0]


def _entries(table: SparseRows, histories: Sequence[Positions]) -> tuple[Entries, NDArray[np.int64]]:
    """The entries of a table for the events of histories, and the number of entries of each event."""
    positions, values, sizes = table.gather(np.concatenate(histories))
    owners = np.arange(len(histories)).repeat([len(events) for events in histories])
    return Entries(owners.repeat(sizes), positions, values), sizes
