"""A data set in memory and on disk: items, and each user's items oldest first."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Item:
    """One item of the catalogue."""

    id: str
    title: str
    text: str
    attributes: dict[str, list[str]]


@dataclass(frozen=True, slots=True)
class Probe:
    """A request in plain words and the attribute value that a good answer carries."""

    phrase: str
    attribute: str
    value: str


@dataclass(frozen=True, slots=True)
class Dataset:
    """Items and histories.

    `histories[u]` holds item positions (int64, oldest first) of one user; `nouns` are words for "item" in this domain;
    `licence` and `source` are carried into the bundle. `times[u]` are the seconds of the same events, float64;
    `users[u]` names the groups that the user belongs to ("gender" -> "F"); both may be empty.
    """

    items: list[Item]
    histories: list[NDArray[np.int64]]
    nouns: list[str]
    probes: list[Probe]
    source: str
    licence: str
    times: list[NDArray[np.float64]] = field(default_factory=list)
    users: list[dict[str, str]] = field(default_factory=list)

    def save(self, folder: Path) -> None:
        """Write `items.jsonl`, `histories.npz` and `dataset.json`."""
        with (folder / "items.jsonl").open("w", encoding="utf-8") as file:
            for item in self.items:
                file.write(json.dumps(asdict(item), ensure_ascii=False) + "\n")
        lengths = np.array([len(h) for h in self.histories], dtype=np.int64)
        flat = np.concatenate([*self.histories, np.empty(0, np.int64)])
        times = np.concatenate([*self.times, np.empty(0)])
        np.savez(folder / "histories.npz", lengths=lengths, items=flat, times=times)
        facts = {
            "nouns": self.nouns,
            "probes": [asdict(p) for p in self.probes],
            "source": self.source,
            "licence": self.licence,
            "users": self.users,
        }
        (folder / "dataset.json").write_text(json.dumps(facts, indent=1, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Dataset:
        """Read what `save` wrote."""
        lines = (folder / "items.jsonl").read_text(encoding="utf-8").splitlines()
        with np.load(folder / "histories.npz", allow_pickle=False) as arrays:
            ends = np.cumsum(arrays["lengths"])[:-1]
            histories = np.split(arrays["items"], ends)
            times = np.split(arrays["times"], ends) if len(arrays["times"]) else []
        facts: dict[str, Any] = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
        probes = [Probe(**p) for p in facts.pop("probes")]
        return cls([Item(**json.loads(line)) for line in lines], histories, probes=probes, times=times, **facts)
