"""Attribute values of a catalogue, counted, and the probes that ask for the frequent ones."""

from __future__ import annotations

from swiftrec.export.data.dataset import Probe

_MAX_COUNTED = 10_000  # values of one attribute; beyond them it names items rather than kinds of items
_MIN_PROBE_ITEMS = 10
_MAX_PROBES = 32


class Attributes:
    """Attribute -> value -> number of items; an attribute with too many values is only known to have them."""

    def __init__(self) -> None:
        self._counts: dict[str, dict[str, int] | None] = {}

    def add(self, attributes: dict[str, list[str]]) -> None:
        """Count the attributes of one item."""
        for name, values in attributes.items():
            counts = self._counts.setdefault(name, {})
            if counts is None:
                continue
            for value in values:
                counts[value] = counts.get(value, 0) + 1
            if len(counts) > _MAX_COUNTED:
                self._counts[name] = None

    @property
    def sizes(self) -> dict[str, int]:
        """Attribute -> how many values it has; -1 for too many to count."""
        return {name: -1 if counts is None else len(counts) for name, counts in self._counts.items()}

    def probes(self) -> list[Probe]:
        """One probe for each value that enough items carry, the most frequent ones first."""
        counts = {(name, value): n for name, of in self._counts.items() for value, n in (of or {}).items()}
        frequent = sorted((key for key, n in counts.items() if n >= _MIN_PROBE_ITEMS), key=lambda k: (-counts[k], k))
        return [Probe(f"a good {value.lower()}", name, value) for name, value in frequent[:_MAX_PROBES]]
